"""What a user types: a mistake ends in one line and exit code 2 before anything is written; commands do their job."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rl4nlu.cli import COMMANDS, main

RTE_HEADER = "index\tsentence1\tsentence2\tlabel\n"
RTE_ROWS = "0\tA cat sat.\tA cat sat down.\tentailment\n1\tA dog ran.\tA dog slept.\tnot_entailment\n"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with some good and many bad files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def put(path: str, text: str | bytes = "") -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    for split in ("train", "dev"):
        put(f"good/glue/RTE/{split}.tsv", RTE_HEADER + RTE_ROWS)
    put("empty/glue/RTE/dev.tsv")
    put("header/glue/RTE/dev.tsv", RTE_HEADER)
    put("column/glue/RTE/dev.tsv", "index\tsentence1\tlabel\n0\tA cat.\tentailment\n")
    put("count/glue/RTE/dev.tsv", RTE_HEADER + "0\tA cat.\tA dog.\tentailment\textra\n")
    put("label/glue/RTE/dev.tsv", RTE_HEADER + RTE_ROWS + "2\tA cat.\tA dog.\tmaybe\n")
    put("nolabel/glue/RTE/dev.tsv", RTE_HEADER + "0\tA cat.\tA dog.\t\n")
    put("cell/glue/RTE/dev.tsv", RTE_HEADER + "0\t \tA dog.\tentailment\n")
    put("bytes/glue/RTE/dev.tsv", RTE_HEADER.encode() + b"0\t\xff\xfe\tA dog.\tentailment\n")
    put("json/superglue/CB/val.jsonl", '{"premise": "a", "hypothesis": \n')
    put("list/superglue/CB/val.jsonl", "[1, 2]\n")
    put("score/glue/STS-B/dev.tsv", "index\tsentence1\tsentence2\tscore\n0\tA.\tB.\t7.5\n")
    put("no-config/weights.safetensors")
    put("pickled/config.json", "{}")
    put("pickled/pytorch_model.bin", b"\x80\x04")
    put("unknown-key.yaml", "task: mini/sentiment\nlerning_rate: 1e-4\n")
    put("bad-value.yaml", "batch_size: -3\nlora:\n  r: none\n")
    put("bad-syntax.yaml", "task: [mini\n")
    put("list.yaml", "- a\n- b\n")
    put("full/notes.txt", "mine")
    put("file", "mine")
    put("trained/config.yaml", "task: glue/rte\nmodel: mini\n")
    put("trained/adapter/adapter_config.json", '{"base_model_name_or_path": "mini"}')
    put("torn/config.yaml", "task: glue/rte\nmodel: mini\n")
    put("torn/adapter/adapter_config.json", '{"base_model_name_or_path": "mini"}')
    put("trained/adapter/adapter_model.safetensors", b"")
    put("rows.jsonl", '{"id": 1, "premise": "A cat.", "hypothesis": "A dog."}\n')
    put("rows-lacking.jsonl", '{"id": 1, "premise": "A cat."}\n')
    put("bad-results/results.json", '{"schema": 99}')
    return tmp_path


RTE = "evaluate --task glue/rte --model mini"
MISTAKES = [
    ("evalute --task glue/rte", "did you mean 'evaluate'"),
    ("tasks glue", "takes no argument"),
    ("evaluate --task glue/rtee --model mini", "did you mean 'glue/rte'"),
    ("evaluate --task rte --model mini", "did you mean 'glue/rte'"),
    ("evaluate --task , --model mini", "--task is empty"),
    ("sft --task glue --model mini --data good/nothing", "none of these tasks has rows"),
    ("evaluate --task Glue/RTE --model mini", "did you mean 'glue/rte'"),
    ("evaluate --task SST-2 --model mini", "did you mean 'glue/sst2'"),
    ("classify --task glue/rte --model mini --data good --tune some", "'auto', 'full', 'lora'"),
    ("classify --task glue/rte --data good", "--model is missing"),
    ("classify --task glue --model mini --data good", "whole suite"),
    ("classify --task glue/rte,glue/cola --model mini --data good", "one head, for one task; sft and ppo take several"),
    ("classify --task glue/rte --model no-config --data good", "no config.json"),
    ("classify --task glue/rte --model mini --data good --lora.target q_prog", "lora.target"),
    (f"{RTE} --data good --decode greedy --calibrate batch", "--calibrate works on scored labels"),
    (f"{RTE} --data good --unparsable random", "add --decode sample or greedy"),
    (f"{RTE} --data label --max-bad-rows 0", "unknown label 'maybe'"),
    ("evaluate --task my.yaml --model mini", "my.yaml: no such task file; `rl4nlu new task my.yaml`"),
    ("evaluate --task list.yaml --model mini", "list.yaml:1: a task file holds lines"),
    ("new", "new needs a kind and a file"),
    ("new tsk my.yaml", "did you mean 'task'"),
    ("new task my.txt", "name it with .yaml"),
    ("new task list.yaml", "is there already"),
    ("new task nowhere/my.yaml", "cannot be written"),
    ("check", "check needs one file"),
    ("check good", "no task is called 'good'"),
    ("check file.zip", "file.zip"),
    ("submit --out a.zip", "needs run folders"),
    ("submit trained", "--out is missing"),
    ("submit trained --out a.zip", "trained"),
    ("sft --model mini", "--task is missing"),
    ("evaluate --task mini/sentiment", "--model is missing"),
    (f"{RTE[:-4]} ./nowhere --data good", "no such model folder"),
    (f"{RTE[:-4]} no-config --data good", "no config.json"),
    (f"{RTE[:-4]} pickled --data good", ".bin or .pt files are not loaded"),
    (f"{RTE[:-4]} nobody/no-such-model --data good", "neither a folder here nor a model"),
    (f"{RTE} --limt 5", "did you mean 'limit'"),
    (f"{RTE} --limit many", "many is not a INT"),
    (f"{RTE} --limit 0", "greater than 0"),
    (f"{RTE} --limit", "missing value"),
    (f"{RTE} --decode gredy", "'score', 'greedy', 'sample'"),
    (f"{RTE} --data good stray", "stray"),
    (f"{RTE} --template verdikt", "plain"),
    ("sft nowhere.yaml", "nowhere.yaml: no such settings file"),
    ("sft unknown-key.yaml --model mini", "lerning_rate: no such setting (did you mean 'learning_rate'?)"),
    ("sft bad-value.yaml --model mini", "lora.r"),
    ("sft bad-syntax.yaml", "bad-syntax.yaml:2: not valid YAML"),
    ("sft list.yaml", "`name: value`"),
    ("sft --task mini/sentiment --model mini --preset papper", "did you mean 'paper'"),
    ("sft --task mini/sentiment --model mini --lora.rank 4", "did you mean"),
    ("sft --task mini/sentiment --model mini --max-steps 1 --lora.target q_prog", "lora.target"),
    ("ppo --task mini/sentiment --model mini --clip -1", "greater than 0"),
    ("ppo --task mini/sentiment --model mini --init full", "holds no adapter"),
    ("ppo --task mini/sentiment --model mini --init nowhere", "no such run folder"),
    (f"{RTE} --data nowhere", "nowhere: no such folder"),
    ("evaluate --task glue/cola --model mini --data good", "good/glue/CoLA/dev.tsv: no such file"),
    ("evaluate --task superglue --model mini --data good", "none of these tasks has rows in good"),
    (f"{RTE} --data empty", "dev.tsv: the file is empty"),
    (f"{RTE} --data header", "no dev row"),
    (f"{RTE} --data column", "dev.tsv:2: no column 'sentence2'"),
    (f"{RTE} --data count", "dev.tsv:2: 5 columns, and 4 are needed"),
    (f"{RTE} --data label", "dev.tsv:4: unknown label 'maybe'; the labels are entailment, not_entailment"),
    (f"{RTE} --data nolabel", "dev.tsv:2: no label"),
    (f"{RTE} --data cell", "dev.tsv:2: column 'premise' is empty"),
    (f"{RTE} --data bytes", "is not UTF-8"),
    ("evaluate --task superglue/cb --model mini --data json", "val.jsonl:1: not a JSON object"),
    ("evaluate --task superglue/cb --model mini --data list", "val.jsonl:1: a JSON list stands here"),
    ("evaluate --task glue/stsb --model mini --data score", "dev.tsv:2: label '7.5' is not a number from 0 to 5"),
    (f"{RTE} --data good --out full", "full is not empty"),
    (f"{RTE} --data good --out file", "file is a file: name a folder"),
    (f"{RTE} --data good --shots 9", "has only 2 training rows"),
    (f"{RTE} --data good --chat", "no chat template"),
    (f"{RTE} --data good --split test", "no such file"),
    ("evaluate --task mini/sentiment --model mini --split test", "has the splits train and dev"),
    ("evaluate --task glue/ax --model mini --data good --split dev", "has no dev split"),
    (f"{RTE} --data good --device cuda:77", "no usable CUDA GPU"),
    (f"{RTE} --data good --device abacus", "no such device"),
    (f"{RTE} --data good --max-length 32 --template verdict", "longer than the model's context"),
    ("evaluate --adapter trained --model other", "was trained on mini"),
    ("evaluate --adapter torn --data good", "adapter_model.safetensors is missing"),
    ("ppo --task glue/rte --init trained --data good --lora.r 3", "leave the lora settings out"),
    ("ppo --task glue/rte --init trained --model other --data good", "was trained on mini"),
    ("predict", "needs the folder of a finished run"),
    ("predict trained --output a.jsonl", "--input is missing"),
    ("predict torn --input rows.jsonl --output a.jsonl", "adapter_model.safetensors is missing"),
    (
        "predict trained --input rows-lacking.jsonl --output a.jsonl",
        "rows-lacking.jsonl:1: glue/rte needs the field 'hypothesis'",
    ),
    ("predict trained --input rows.jsonl --output file", "file is there already"),
    ("evaluate --adapter trained --data good --limit 1", "cannot be loaded"),
    ("predict full --input rows.jsonl --output a.jsonl", "holds no adapter"),
    ("report", "at least one run folder"),
    ("report full", "no results.json"),
    ("report bad-results", "not a results file of schema 1"),
]


@pytest.mark.parametrize(("command", "says"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_one_clear_line(world, capsys, command, says):
    before = sorted(path for path in world.rglob("*"))
    code = main(command.split())
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert says in error
    assert error.startswith("error: ")
    assert "\n" not in error
    assert "Traceback" not in error
    assert sorted(path for path in world.rglob("*")) == before, "a mistake must leave no file behind"


def test_there_are_thirty_mistakes_at_least():
    assert len(MISTAKES) >= 30


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "rl4nlu", *args], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_as_a_process_mistake_and_debug(tmp_path):
    plain = run("evaluate", "--task", "nope", "--model", "mini", cwd=tmp_path)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.count("\n") == 1
    debug = run("evaluate", "--task", "nope", "--model", "mini", "--debug", cwd=tmp_path)
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, capsys):
    if command in ("tasks", "new"):
        assert main([command, "--help"]) == 0
    else:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
    assert f"rl4nlu {command}" in capsys.readouterr().out


def test_test_rows_lead_to_the_server(world, capsys):
    """Rows without labels give answers, no scores; what comes next is the server's file, which wants all rows."""
    rows = RTE_ROWS.replace("\tentailment", "").replace("\tnot_entailment", "")
    Path("good/glue/RTE/test.tsv").write_text("index\tsentence1\tsentence2\n" + rows)
    assert main(f"{RTE} --data good --split test --out t".split()) == 0
    out = capsys.readouterr().out
    assert "glue/rte: 2 answers; these rows have no gold labels" in out
    assert "next: rl4nlu submit t --out glue.zip" in out
    assert main(["submit", "t", "--out", "glue.zip"]) == 2
    assert "RTE.tsv: 2 rows, and the test split has 3000" in capsys.readouterr().err
    assert not Path("glue.zip").exists()
    assert not list(Path().glob("*.part"))


def test_help_and_tasks_come_without_torch(tmp_path):
    for args in (["--help"], ["tasks"], ["sft", "--help"]):
        code = f"import sys; from rl4nlu.cli import main\ntry: main({args!r})\nexcept SystemExit: pass\n"
        code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules, sorted(sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_tasks_lists_everything(capsys):
    assert main(["tasks"]) == 0
    out = capsys.readouterr().out
    glue = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "mnli-mm", "qnli", "rte", "wnli", "ax"]
    superglue = ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc", "axb", "axg"]
    names = [f"glue/{n}" for n in glue] + [f"superglue/{n}" for n in superglue]
    assert len(names) == 21
    for name in [*names, "mini/sentiment", "mini/acceptability", "mini/entailment", "mini/question"]:
        assert f" {name} " in out


def test_the_whole_way_through(world, capsys):
    """evaluate, sft, evaluate the adapter, ppo on top, predict, report: by the command line alone."""
    common = "--task mini/question --model mini"
    assert main(f"evaluate {common} --limit 24 --decode greedy --out zero".split()) == 0
    assert main(f"evaluate {common} --limit 24 --shots 4 --template verdict --out few".split()) == 0
    assert main(f"sft {common} --max-steps 3 --eval-limit 24 --batch-size 8 --out s".split()) == 0
    assert main(f"ppo {common} --max-steps 2 --eval-limit 24 --batch-size 8 --init s --out p".split()) == 0
    assert main(["evaluate", "--adapter", "p", "--limit", "8", "--out", "again"]) == 0
    rows = [{"id": f"x{i}", "question": f"Where is the {noun}?"} for i, noun in enumerate(("cat", "dog", "{brace}"))]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["predict", "p", "--input", "in.jsonl", "--output", "answers.jsonl"]) == 0
    assert main(["report", "zero", "few", "s", "p", "--out", "page.html"]) == 0
    out = capsys.readouterr().out
    assert "next: rl4nlu ppo --task mini/question --init s" in out

    answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == ["x0", "x1", "x2"]
    assert all(answer["prediction"] in ("person", "place", "time", "number") for answer in answers)

    for folder, method, n in (("zero", "zero-shot", 24), ("few", "few-shot", 24), ("s", "sft", 24), ("p", "ppo", 24)):
        content = json.loads(Path(folder, "results.json").read_text())
        assert content["schema"] == 1
        (result,) = content["results"]
        assert (result["task"], result["method"], result["model"], result["n"]) == ("mini/question", method, "mini", n)
        assert set(result) >= {"shots", "decode", "seed", "split", "metrics", "stderr", "unparsable", "seconds"}
        predictions = [json.loads(line) for line in Path(folder, "predictions.jsonl").read_text().splitlines()]
        assert [row["id"] for row in predictions] == [str(i) for i in range(24)]
        assert all({"id", "gold", "prediction", "scores", "text"} <= set(row) for row in predictions)
        right = sum(row["gold"] == row["prediction"] for row in predictions)
        assert result["metrics"]["accuracy"] == pytest.approx(right / 24)
    assert json.loads(Path("p/results.json").read_text())["results"][0]["estimator"] == "gae"
    assert json.loads(Path("few/results.json").read_text())["results"][0]["shots"] == 4
    steps = [json.loads(line) for line in Path("p/metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    wanted = {"step", "loss", "examples_per_second", "reward", "kl", "entropy", "clipfrac", "unparsable"}
    assert all(wanted <= set(step) for step in steps)
    files = "config.yaml results.json predictions.jsonl metrics.jsonl adapter README.md value_head.safetensors"
    assert {path.name for path in Path("p").iterdir()} >= set(files.split())

    page = Path("page.html").read_text()
    assert "mini/question" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org/", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_settings_file_with_flags_over_it(world):
    Path("run.yaml").write_text(
        "task: mini/sentiment\nmodel: mini\nmax_steps: 2\nbatch_size: 8\nlearning_rate: 1e-4\neval_limit: 8\n"
    )
    assert main(["sft", "run.yaml", "--batch-size", "4", "--out", "a"]) == 0
    import yaml

    saved = yaml.safe_load(Path("a/config.yaml").read_text())
    assert (saved["batch_size"], saved["learning_rate"], saved["max_steps"]) == (4, 1e-4, 2)
    # the saved settings and the saved command both give the same run again
    assert main(["sft", "a/config.yaml", "--out", "b"]) == 0
    command = Path("a/command.txt").read_text().split()
    assert main([*command[1:-2], "--out", "c"]) == 0

    def adapter(folder):
        return Path(folder, "adapter/adapter_model.safetensors").read_bytes()

    assert adapter("a") == adapter("b") == adapter("c")


def test_a_run_that_diverges_stops_with_a_line(world, capsys, monkeypatch):
    from rl4nlu import losses, sft

    def broken(logp, mask, count):
        found = losses.sft_loss(logp, mask, count)
        return losses.Loss(found.total * float("nan"), found.parts)

    monkeypatch.setattr(sft, "sft_loss", broken)
    assert (
        main(
            [
                "sft",
                "--task",
                "mini/sentiment",
                "--model",
                "mini",
                "--max-steps",
                "2",
                "--batch-size",
                "4",
                "--out",
                "run",
            ]
        )
        == 3
    )
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: the gradient is not finite")
    assert not Path("run/adapter").exists()


def test_the_demo_in_short(world, capsys, monkeypatch):
    """All of its stations, with hardly any steps; `make demo` is the real one."""
    from rl4nlu import demo
    from rl4nlu.models import encoder_at_hand

    monkeypatch.setattr(demo, "SFT_STEPS", 1)
    monkeypatch.setattr(demo, "PPO_STEPS", 1)
    monkeypatch.setattr(demo, "HEAD_STEPS", 1)
    assert main(["demo", "--out", "d"]) == 0
    out = capsys.readouterr().out
    for head in ("zero-shot", "few-shot", "sft", "ppo", "average", "report.html"):
        assert head in out
    assert Path("d/report.html").stat().st_size > 50_000
    results = [json.loads(path.read_text())["results"] for path in sorted(Path("d").glob("*/results.json"))]
    found = {(result["task"], result["method"]) for group in results for result in group}
    assert len(found) == 4 * (5 if encoder_at_hand() else 4)
