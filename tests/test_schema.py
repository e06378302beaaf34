"""The JSON schemas and the program say the same of files: of all that are written here, and of mistakes in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from json_schemas import wrong
from rl4nlu import config
from rl4nlu.cli import main
from rl4nlu.errors import UserError
from rl4nlu.new import write_new
from rl4nlu.plan import make_plan
from rl4nlu.schema import KINDS, schema_of, text_of
from rl4nlu.settings import RUNS, SuiteSettings
from rl4nlu.tasks.own import TaskFile, read_task

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
SCHEMAS = {kind: json.loads(text_of(kind)) for kind in KINDS}


def problems(kind: str, text: str) -> list[str]:
    """What the schema has against a file; where jsonschema is installed, it must be of the same opinion."""
    values = yaml.safe_load(text)
    found = wrong(values, SCHEMAS[kind])
    try:
        import jsonschema
    except ImportError:
        return found
    jsonschema.Draft7Validator.check_schema(SCHEMAS[kind])
    assert jsonschema.Draft7Validator(SCHEMAS[kind]).is_valid(values) == (not found), found
    return found


def accepted(kind: str, path: Path) -> bool:
    """Whether the program takes a file."""
    try:
        if kind == "task":
            read_task(path)
        elif kind == "suite":
            make_plan(config.validate(SuiteSettings, config.read_yaml(path)))
        else:
            config.parse(RUNS[kind], [str(path)], "rl4nlu test")
    except UserError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_file_names_its_schema_and_fits_it(kind, tmp_path):
    path = tmp_path / "new.yaml"
    beside = write_new(kind, path)
    text = path.read_text()
    (named,) = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", "\n".join(text.splitlines()[:2]), re.M)
    assert (path.parent / named) == beside
    assert json.loads(beside.read_text()) == SCHEMAS[kind]
    assert not problems(kind, text)
    if kind in RUNS:  # with the # of every entry taken away, too
        entries = re.sub(r"^# ( *[a-z_]+:)", r"\1", text, flags=re.M)
        assert len(yaml.safe_load(entries)) == len(RUNS[kind].model_fields)
        assert not problems(kind, entries)
    assert accepted(kind, path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_complete_run_fits_its_schema(path):
    text = path.read_text()
    assert not problems(text.split()[2], text)


@pytest.mark.parametrize("command", RUNS)
def test_a_runs_own_settings_fit_the_schema(command, tmp_path):
    config.save(RUNS[command](task="mini/sentiment", model="mini"), tmp_path / "config.yaml")
    assert not problems(command, (tmp_path / "config.yaml").read_text())


RUN = "task: mini/sentiment\nmodel: mini\n"
OWN = "train: rows.csv\ntemplate: '{body}'\nlabels: [cat, dog]\n"
SUITE = "tasks: [mini/sentiment]\ncommon: {model: mini, max_steps: 4, select_rows: 8}\n"
MODELS = "tasks: [mini/sentiment]\ncommon: {max_steps: 4, select_rows: 8}\nmethods: {a: {command: sft}}\n"
GOOD = [
    *((command, RUN) for command in RUNS),
    ("sft", RUN + "lora: {r: 4, dropout: 0.1}\nlimit: null\nlearning_rate: 1.0e-4\n"),
    ("ppo", RUN + "estimator: grpo\nkl_target: 3\nvalue_clip: null\ntemplate: verdict\n"),
    ("task", OWN),
    ("task", OWN + "label: 7\nmetrics: [f1, accuracy]\nfree: [body]\n"),
    ("task", "test: x.csv\ntemplate: '{a}'\nlabels: {1: yes, 2: no}\n"),
    ("task", "dev: d.csv\ntemplate: '{a}'\nnumbers: {low: 0, high: 5, step: 0.5}\nmetrics: [pearson]\n"),
    ("task", "train: train\nhub: {dataset: a/b}\ntemplate: '{a}'\nlabels: [0, 1]\ndev_share: 0.2\n"),
    ("suite", SUITE + "methods: {a: {command: sft, learning_rate: [1.0e-3, 5.0e-4]}, b: {command: ppo, init: a}}\n"),
    ("suite", SUITE + "methods: {a: {command: sft}, b: {command: sft, lora: {r: 4}, steps: 0.5}}\nseeds: [0, 1]\n"),
    ("suite", SUITE + "methods: {a: {command: sft, learning_rate: {low: 0.001, high: 0.1, log: true}}}\nretries: 3\n"),
    ("suite", SUITE + "methods: {a: {command: sft, lora: {r: {low: 2, high: 8}}, resources: {cpus: 2, gpus: 0.5}}}\n"),
    ("suite", SUITE + "methods: {a: {command: sft}}\nray: auto\nsearch: {trials: 3, sampler: random}\n"),
    ("suite", MODELS + "models: [mini, some/model]\n"),
    ("suite", MODELS + "models: {mini: , big: {model: some/model, dtype: bfloat16, resources: {gpus: 1}}}\n"),
    (
        "suite",
        "tasks: {mini/question: {eval_limit: 3}, mini/sentiment: }\nmethods: {z: {command: evaluate, model: mini}}",
    ),
]


@pytest.mark.parametrize(("kind", "text"), GOOD)
def test_what_is_right_is_taken_by_both(kind, text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    assert accepted(kind, tmp_path / "x.yaml")
    assert not problems(kind, text)


BAD = [
    *((command, RUN + "sead: 1\n") for command in RUNS),
    *((command, RUN + "seed: -1\n") for command in RUNS),
    *((command, RUN + "limit: 0\n") for command in RUNS),
    *((command, RUN + "dtype: float8\n") for command in RUNS),
    ("sft", RUN + "lora: {rank: 4}\n"),
    ("sft", RUN + "lora: {dropout: 1.0}\n"),
    ("sft", RUN + "lora: 4\n"),
    ("sft", RUN + "epochs: null\n"),
    ("sft", RUN + "warmup: 1\n"),
    ("sft", RUN + "shots: 65\n"),
    ("sft", RUN + "batch_size: 1.5\n"),
    ("sft", RUN + "chat: maybe\n"),
    ("ppo", RUN + "estimator: geo\n"),
    ("ppo", RUN + "gamma: 1.1\n"),
    ("ppo", RUN + "calibrate: batch\n"),
    ("evaluate", RUN + "epochs: 3\n"),
    ("classify", RUN + "preset: paper\n"),
    ("task", OWN + "templte: x\n"),
    ("task", OWN + "dev_share: 1\n"),
    ("task", OWN + "metrics: [acuracy]\n"),
    ("task", OWN + "numbers: {low: 0, high: 5}\n"),
    ("task", "template: '{a}'\nlabels: [a, b]\n"),
    ("task", "train: x.csv\nlabels: [a, b]\n"),
    ("task", "train: x.csv\ntemplate: '{a}'\n"),
    ("task", "train: x.csv\ntemplate: '{a}'\nnumbers: {low: 0}\n"),
    ("task", OWN + "hub: {config: x}\n"),
    ("suite", SUITE + "methods: {a: {command: sfd}}\n"),
    ("suite", SUITE + "methods: {a: {learning_rate: 1.0e-3}}\n"),
    ("suite", SUITE + "methods: {a: {command: sft, lerning_rate: 1.0e-3}}\n"),
    ("suite", SUITE + "methods: {a: {command: sft, batch_size: -1}}\n"),
    ("suite", SUITE + "methods: {a: {command: sft, seed: 1}}\n"),
    ("suite", SUITE + "methods: {a: {command: evaluate, steps: 2}}\n"),
    ("suite", SUITE + "methods: {a: {command: sft, learning_rate: []}}\n"),
    ("suite", SUITE + "methods: {a: {command: sft}}\nseeds: [-1]\n"),
    ("suite", SUITE + "methods: {a: {command: sft}}\njobs: 0\n"),
    ("suite", SUITE + "methods: {a: {command: sft, learning_rate: {low: 0.001}}}\n"),
    ("suite", SUITE + "methods: {a: {command: sft, learning_rate: {low: 0.001, high: 0.1, step: 1}}}\n"),
    ("suite", SUITE + "methods: {a: {command: sft, reward: {low: 0.001, high: 0.1}}}\n"),
    ("suite", SUITE + "methods: {a: {command: sft, resources: {cpus: 0}}}\n"),
    ("suite", SUITE + "methods: {a: {command: sft}}\nsearch: {trials: 0}\n"),
    ("suite", SUITE + "methods: {a: {command: sft}}\nray: yes please\n"),
    ("suite", MODELS + "models: {mini: {sead: 1}}\n"),
    ("suite", MODELS + "models: [1]\n"),
    ("suite", SUITE + "methods: {}\n"),
    ("suite", "methods: {a: {command: evaluate, model: mini}}\n"),
    ("suite", "tasks: {mini/question: {sead: 3}}\nmethods: {a: {command: evaluate, model: mini}}\n"),
    ("suite", "tasks: [mini/question]\ncommon: {init: x}\nmethods: {a: {command: sft, model: mini}}\n"),
]


@pytest.mark.parametrize(("kind", "text"), BAD)
def test_what_is_wrong_is_refused_by_both(kind, text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    assert not accepted(kind, tmp_path / "x.yaml")
    assert problems(kind, text)


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_says_what_it_means(kind):
    properties = schema_of(kind)["properties"]
    assert set(properties) == set({"task": TaskFile, "suite": SuiteSettings, **RUNS}[kind].model_fields)
    grouped = [inner for one in properties.values() for inner in one.get("properties", {}).values()]
    for one in [*properties.values(), *grouped]:
        assert one["description"]
    assert schema_of(kind)["additionalProperties"] is False


def test_names_to_complete():
    known = schema_of("ppo")["properties"]
    assert {"glue/rte", "superglue", "mini/sentiment"} <= set(known["task"]["examples"])
    assert {"mini", "Qwen/Qwen2.5-7B"} <= set(known["model"]["examples"])
    assert known["estimator"]["enum"] == ["gae", "rloo", "grpo", "reinforce++", "expected"]
    assert {"glue/rte", "glue"} <= set(schema_of("suite")["properties"]["tasks"]["anyOf"][1]["properties"])


def test_the_command_prints_it(capsys):
    assert main(["schema", "ppo"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMAS["ppo"]
    assert main(["schema", "pppo"]) == 2
    assert "(did you mean 'ppo'?)" in capsys.readouterr().err


def test_a_schema_is_renewed_and_a_strangers_file_left_alone(tmp_path):
    beside = tmp_path / "sft.schema.json"
    beside.write_text(json.dumps({"$comment": "made by: rl4nlu schema sft", "type": "object"}))
    write_new("sft", tmp_path / "a.yaml")
    assert json.loads(beside.read_text()) == SCHEMAS["sft"]
    write_new("sft", tmp_path / "b.yaml")
    beside.write_text('{"mine": 1}')
    with pytest.raises(UserError, match=r"sft\.schema\.json is there already"):
        write_new("sft", tmp_path / "c.yaml")
    assert beside.read_text() == '{"mine": 1}'
    assert not (tmp_path / "c.yaml").exists()


@pytest.mark.slow
def test_a_new_suite_passes_check_and_shows_its_plan(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "suite", "s.yaml"]) == 0
    assert main(["check", "s.yaml"]) == 0
    assert "s.yaml: suite of 14 runs: 5 methods on 2 tasks, seeds 0" in capsys.readouterr().out
    assert main(["suite", "s.yaml", "--dry-run"]) == 0
    assert "14 runs in runs/s: 0 done already" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["evaluate", "classify"])
def test_new_settings_pass_check(command, tmp_path, capsys):
    assert main(["new", command, str(tmp_path / "r.yaml")]) == 0
    assert main(["check", str(tmp_path / "r.yaml")]) == 0
    assert f"settings of {command}" in capsys.readouterr().out
