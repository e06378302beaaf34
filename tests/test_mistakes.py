"""What a user gets wrong: one line that says what, where and how to mend it, exit code 2, and nothing is left behind.
What can be found without the model is found before torch is imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from rl4nlu.cli import main

RTE_HEADER = "index\tsentence1\tsentence2\tlabel\n"
RTE_ROWS = "0\tA cat sat.\tA cat sat down.\tentailment\n1\tA dog ran.\tA dog slept.\tnot_entailment\n"
WHOLE = (2).to_bytes(8, "little") + b"{}"
"""A safetensors file without a tensor."""


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
    put("torn/config.yaml", "task: glue/rte\nmodel: mini\n")
    put("torn/adapter/adapter_config.json", '{"base_model_name_or_path": "mini"}')
    put("rows.jsonl", '{"id": 1, "premise": "A cat.", "hypothesis": "A dog."}\n')
    put("rows-lacking.jsonl", '{"id": 1, "premise": "A cat."}\n')
    put("bad-results/results.json", '{"schema": 99}')
    for adapter in ("trained", "chatty", "cut", "biased", "settled"):
        put(f"{adapter}/config.yaml", "task: glue/rte\nmodel: mini\n")
        put(f"{adapter}/adapter/adapter_config.json", '{"base_model_name_or_path": "mini"}')
        put(f"{adapter}/adapter/adapter_model.safetensors", WHOLE)
    put("cut/adapter/adapter_model.safetensors", WHOLE[:5])
    put("biased/label_bias.json", "{")
    put("settled/adapter/adapter_config.json", "[]")
    put("bare/adapter/adapter_config.json", "{}")
    put("bare/adapter/adapter_model.safetensors", WHOLE)
    put("head/command.txt", "rl4nlu classify --task glue/rte\n")
    put("head/config.yaml", "task: glue/rte\nmodel: mini\n")
    put("head/model/config.json", "{}")
    put("head/model/model.safetensors", WHOLE)
    put("headless/command.txt", "rl4nlu classify --task glue/rte\n")
    put("headless/config.yaml", "task: glue/rte\nmodel: mini\n")
    put("long/glue/RTE/dev.tsv", RTE_HEADER + f"7\t{'A cat sat. ' * 50}\tA cat.\tentailment\n")
    put("odd-config/config.json", "{")
    put("odd-weights/config.json", "{}")
    put("odd-weights/model.safetensors", WHOLE[:9])
    put("odd-index/config.json", "{}")
    put("odd-index/model-1.safetensors", WHOLE)
    put(
        "odd-index/model.safetensors.index.json",
        '{"weight_map": {"a": "model-2.safetensors"}}',
    )
    put("empty-rows.csv", "premise,hypothesis\n")
    put("rows.txt", "A cat.")
    put("odd-steps/results.json", '{"schema": 1, "results": []}')
    put("odd-steps/metrics.jsonl", '{"step": 1}\n{"st')
    put("own.yaml", "train: own.csv\ntemplate: |\n  {body}\n  Topic?\nlabel: topic\nlabels: [cat, dog]\n")
    put("own.csv", "body,topic\nA cat.,cat\nA dog.,dgo\n")
    put("odd-own.yaml", "train: own.csv\ntemplte: x\n")
    put("suite.yaml", "tasks: [mini/sentiment]\nmethods: {a: {command: sfd}}\n")
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
    (f"{RTE} --limt 5", "did you mean '--limit'"),
    (f"{RTE} --limit many", "many is not a INT"),
    (f"{RTE} --limit 0", "greater than 0"),
    (f"{RTE} --limit", "missing value"),
    (f"{RTE} --decode gredy", "'score', 'greedy', 'sample'"),
    (f"{RTE} --data good stray", "stray"),
    (f"{RTE} --template verdikt", "plain"),
    ("sft nowhere.yaml", "nowhere.yaml: no such settings file"),
    (
        "sft unknown-key.yaml --model mini",
        "unknown-key.yaml: lerning_rate: no such setting (did you mean",
    ),
    ("sft bad-value.yaml --model mini", "lora.r"),
    ("sft bad-syntax.yaml", "bad-syntax.yaml:2: not valid YAML"),
    ("sft list.yaml", "`name: value`"),
    ("sft --task mini/sentiment --model mini --preset papper", "did you mean 'paper'"),
    ("sft --task mini/sentiment --model mini --lora.rank 4", "did you mean"),
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
    (f"{RTE} --data good --device abacus", "no such device"),
    (f"{RTE} --data good --device mps", "no such device"),
    ("evaluate --adapter trained --model other", "was trained on mini"),
    ("evaluate --adapter torn --data good", "adapter_model.safetensors is missing"),
    ("ppo --task glue/rte --init trained --data good --lora.r 3", "leave it out"),
    ("ppo --task glue/rte --init trained --model other --data good", "was trained on mini"),
    ("predict", "needs the folder of a finished run"),
    ("predict trained --output a.jsonl", "--input is missing"),
    ("predict torn --input rows.jsonl --output a.jsonl", "adapter_model.safetensors is missing"),
    (
        "predict trained --input rows-lacking.jsonl --output a.jsonl",
        "rows-lacking.jsonl:1: glue/rte needs the field 'hypothesis'",
    ),
    ("predict trained --input rows.jsonl --output file", "file is there already"),
    ("predict full --input rows.jsonl --output a.jsonl", "holds no adapter"),
    ("report", "at least one run folder"),
    ("report full", "no results.json"),
    ("report bad-results", "not a results file of schema 1"),
    (f"{RTE} --data good --device abacus:1", "no such device"),
    (f"{RTE} --data good --out file/run", "cannot make this folder"),
    (f"{RTE} --data label --max-bad-rows 1 --split dev --limit 0", "greater than 0"),
    (f"{RTE[:-4]} odd-config --data good", "odd-config/config.json: this JSON cannot be read"),
    (f"{RTE[:-4]} odd-weights --data good", "odd-weights/model.safetensors: not a whole safetensors file"),
    (f"{RTE[:-4]} odd-index --data good", "model-2.safetensors is missing"),
    ("evaluate --adapter cut --data good", "adapter_model.safetensors: not a whole safetensors file"),
    ("evaluate --adapter biased --data good", "label_bias.json: this JSON cannot be read"),
    ("evaluate --adapter settled --data good", "a JSON object is needed"),
    ("evaluate --adapter bare --data good", "bare: no config.yaml"),
    ("evaluate --adapter trained --data good --chat", "no chat template"),
    ("evaluate --adapter trained --data good --shots 3", "has only 2 training rows"),
    ("evaluate --adapter head --data good --decode greedy", "leave --decode out"),
    ("evaluate --adapter head --data good --shots 1", "leave --shots out"),
    ("evaluate --adapter head --task glue/cola --data good", "and glue/cola has others"),
    ("evaluate --adapter headless --data good", "holds no adapter"),
    ("sft --task glue/rte --init head --data good", "is a classifier, which takes no prompt"),
    ("sft --task glue/rte --init cut --data good", "not a whole safetensors file"),
    ("sft --task glue/rte --model mini --data good --shots 5", "has only 2 training rows"),
    ("sft --task glue/rte --model mini --data good --shots 2", "no row of glue/rte is left to learn from"),
    ("sft --task glue/rte --model pickled --data good", ".bin or .pt files are not loaded"),
    ("sft --task glue/rte --model mini --data label", "train.tsv: no such file"),
    ("sft --task glue/rte --model mini --data good --out full", "full is not empty"),
    ("sft --task own.yaml --model mini", "own.csv:3: unknown label 'dgo'"),
    ("sft --task odd-own.yaml --model mini", "odd-own.yaml:2: templte: no such entry (did you mean 'template'?)"),
    ("sft --task glue/rte --model mini --data good --reason 8", "it is for ppo and evaluate"),
    ("ppo --task glue/rte --model mini --data good --reward papper", "no such reward (did you mean 'paper'?)"),
    ("ppo --task superglue/record --model mini --data good --reward metric", "has no derivative"),
    ("ppo --task glue/rte --model mini --data good --reward spearman", "are no numbers"),
    ("ppo --task mini/sentiment --model mini --estimator expected --actions free", "leave out --actions free"),
    ("classify --task glue/rte --model mini --data nowhere", "nowhere: no such folder"),
    ("classify --task glue/rte --model mini --data good --out full", "full is not empty"),
    ("predict trained --input nowhere.csv --output a.jsonl", "nowhere.csv: no such file"),
    ("predict trained --input rows.txt --output a.jsonl", "rows.txt: files of this kind cannot be read"),
    ("predict trained --input empty-rows.csv --output a.jsonl", "has a header and no row"),
    ("predict trained --input rows.jsonl --output nowhere/a.jsonl", "its folder does not exist"),
    ("predict head --input rows.jsonl --output a.jsonl --decode greedy", "generates no text"),
    ("predict head --input rows-lacking.jsonl --output a.jsonl", "needs the field 'hypothesis'"),
    ("report odd-steps", "odd-steps/metrics.jsonl:2: not a JSON object"),
    ("report nowhere", "no results.json"),
    ("suite", "suite needs a file"),
    ("suite nowhere.yaml", "no such settings file"),
    ("suite suite.yaml", "did you mean 'sft'"),
    ("demo --out full", "full is not empty"),
]
"""Found without the model."""
WITH_MODEL = [
    ("classify --task glue/rte --model mini --data good --lora.target q_prog", "lora.target"),
    (f"{RTE[:-4]} nobody/no-such-model --data good", "neither a folder here nor a model"),
    ("sft --task mini/sentiment --model mini --max-steps 1 --lora.target q_prog", "lora.target"),
    (f"{RTE} --data good --device cuda:77", "no usable CUDA GPU"),
    (f"{RTE} --data good --max-length 32 --template verdict", "longer than the model's context"),
    ("evaluate --adapter trained --data good --limit 1", "cannot be loaded"),
    (f"{RTE} --data long --max-length 64 --no-truncate", "leave out --no-truncate to have it cut"),
]
ALL = [*MISTAKES, *WITH_MODEL]
NEXT = re.compile(
    r"did you mean|see: rl4nlu|rl4nlu (new|tasks|sft|ppo|classify|submit|report|suite|predict|check)|e\.g\. |"
    r"\b(leave|name|give|add|choose|use|take|say|put|mend|remove|rename|save|convert|make|copy|run it|train|move|"
    r"try|fill|install|should|check the path)\b"
)
"""How a message says what to do next."""


@pytest.mark.parametrize(("command", "says"), ALL, ids=[command for command, _ in ALL])
def test_a_mistake_is_one_clear_line(world, capsys, command, says):
    before = sorted(path for path in world.rglob("*"))
    code = main(command.split())
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert says in error
    assert error.startswith("error: ")
    assert "\n" not in error
    assert "Traceback" not in error
    assert NEXT.search(error), f"it does not say what to do: {error}"
    assert sorted(path for path in world.rglob("*")) == before, "a mistake must leave no file behind"


def test_most_mistakes_are_found_before_anything_heavy_is_imported(world):
    """All in one process: none of them may bring in what takes seconds to come."""
    code = (
        "import json, sys\n"
        "from rl4nlu.cli import main\n"
        "heavy = ('torch', 'transformers', 'peft', 'sklearn', 'scipy', 'datasets')\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    assert main(command.split()) == 2, command\n"
        "    assert not [name for name in heavy if name in sys.modules], command\n"
    )
    commands = json.dumps([command for command, _ in MISTAKES])
    done = subprocess.run([sys.executable, "-c", code, commands], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(MISTAKES)


def test_a_mistake_is_told_within_two_seconds(world):
    """As the user sees it, a process each, its time on the processor: every sixth one."""
    chosen = MISTAKES[::6]
    assert len(chosen) >= 20
    seconds = {}
    for command, says in chosen:
        with subprocess.Popen(
            [sys.executable, "-m", "rl4nlu", *command.split()], stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            error = process.stderr.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds[command] = used.ru_utime + used.ru_stime
        assert process.returncode == 2
        assert says in error
        assert NEXT.search(error)
    middle, most = sorted(seconds.values())[len(seconds) // 2], max(seconds.values())
    print(f"\n{len(seconds)} mistakes: {middle:.2f} s of processor time in the median, {most:.2f} s at most")
    slow = {command: round(used, 2) for command, used in seconds.items() if used >= 2}
    assert not slow
