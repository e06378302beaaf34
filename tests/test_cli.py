"""What a user types: commands do their job. What they get wrong: test_mistakes.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rl4nlu import say
from rl4nlu.cli import COMMANDS, main
from runs_made import make_run

RTE_HEADER = "index\tsentence1\tsentence2\tlabel\n"
RTE_ROWS = "0\tA cat sat.\tA cat sat down.\tentailment\n1\tA dog ran.\tA dog slept.\tnot_entailment\n"


RTE = "evaluate --task glue/rte --model mini"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with two rows of RTE."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for split in ("train", "dev"):
        file = tmp_path / f"good/glue/RTE/{split}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(RTE_HEADER + RTE_ROWS)
    return tmp_path


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
        heavy = ("torch", "transformers", "peft", "sklearn", "scipy", "pandas", "matplotlib", "datasets", "pyarrow")
        code += f"found = set({heavy!r}) & set(sys.modules)\nassert not found, found"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_help_comes_at_once():
    """Its time on the processor, the least of a few: another process may be at work beside it."""
    seconds = []
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-m", "rl4nlu", "--help"], stdout=subprocess.DEVNULL) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        seconds.append(used.ru_utime + used.ru_stime)
    assert min(seconds) < 1  # where cores are shared; what it must not import has tests of its own


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
    from rl4nlu import losses
    from rl4nlu.methods import sft

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


@pytest.mark.slow
def test_the_demo_in_short(world, capsys, monkeypatch):
    """All of its stations, with hardly any steps; `make demo` is the real one."""
    from rl4nlu import demo
    from rl4nlu.sources import encoder_at_hand

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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("words", ["--help", "tasks", "explain clipfrac"])
def test_stdout_may_be_full_or_closed(words, tmp_path):
    command = [sys.executable, "-m", "rl4nlu", *words.split()]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 4
    assert done.stderr.startswith("error: the disk is full")
    assert done.stderr.count("\n") == 1
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_and_schemas_are_objects_for_machines(capsys):
    with pytest.raises(SystemExit):
        main(["report", "--help", "--json"])
    note, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert note["text"].startswith("rl4nlu report")
    assert (end["event"], end["exit_code"]) == ("end", 0)
    assert main(["schema", "sft", "--json"]) == 0
    schema, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert "learning_rate" in schema["schema"]["properties"]
    assert end["event"] == "end"


@pytest.mark.parametrize(
    "command",
    [
        "resume {}",
        "show {}",
        "sft --task mini/question --model mini --out {}",
        "evaluate --task glue/rte --model mini --data {}",
    ],
)
def test_a_place_that_cannot_be_reached_is_one_line(command, tmp_path, capsys, monkeypatch):
    """A name longer than names may be; and a folder that this user may not look into."""
    assert main(command.format(tmp_path / ("x" * 300)).split()) == 2
    said = capsys.readouterr().err
    assert "xxx: File name too long; name another place" in said
    assert said.count("\n") == 1
    real = os.stat

    def closed(path, **more):
        if str(path).startswith(str(tmp_path / "closed")):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **more)

    monkeypatch.setattr(os, "stat", closed)
    assert main(command.format(tmp_path / "closed" / "run").split()) == 2
    said = capsys.readouterr().err
    assert "closed/run: Permission denied; name another place, or ask for access" in said
    assert said.count("\n") == 1


def test_signs_that_a_terminal_lacks_do_not_end_a_command(tmp_path):
    """Plus-minus, bars of curves: a question mark stands there instead."""
    make_run(tmp_path / "run", "glue/rte", "sft", ["entailment"] * 4, ["entailment"] * 4)
    for command in (["report", "run"], ["tasks"]):
        done = subprocess.run(
            [sys.executable, "-m", "rl4nlu", *command],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            cwd=tmp_path,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.isascii()


def test_work_goes_on_when_nobody_reads_stdout(tmp_path, monkeypatch):
    """`rl4nlu suite ... | tee log`, and its shell is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    said = []

    def work(args):
        for number in range(3):
            say.line(f"line {number}")
            print("x" * 100_000)
            said.append(number)
        return 0

    work.__module__ = COMMANDS["suite"].__module__
    monkeypatch.setitem(COMMANDS, "suite", work)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["suite"]) == 0
    assert said == [0, 1, 2]
