"""Every word that runs write can be looked up, and what is said of it is true."""

from __future__ import annotations

import json
import re

import pytest

from rl4nlu.cli import main
from rl4nlu.errors import Halted
from rl4nlu.explain import explain
from rl4nlu.glossary import EXIT_CODES, FILES, LOGGED, METRICS, RESULTS, STATES
from rl4nlu.metrics import METRICS as METRIC_FUNCTIONS
from rl4nlu.stop import SIGNALS
from rl4nlu.tasks import TASKS

SHORT = "--max-steps 2 --batch-size 4 --eval-limit 12 --save-every 1"
RUNS = {
    "sft": f"sft --task mini/question {SHORT} --select-rows 16",
    "multi": f"sft --task mini/question,mini/sentiment {SHORT}",
    "gae": f"ppo --task mini/question {SHORT} --kl-target 1",
    "rloo": f"ppo --task mini/question {SHORT} --estimator rloo --sft-coef 1 --stop-kl 5",
    "expected": f"ppo --task mini/question {SHORT} --estimator expected --debias --reward metric",
    "classify": f"classify --task mini/question {SHORT} --tune lora",
    "sample": "evaluate --task mini/question --limit 8 --decode sample --unparsable random --reason 2",
    "calibrated": "evaluate --task mini/question --limit 8 --calibrate batch --shots 2",
}


@pytest.mark.parametrize("name", RUNS)
def test_what_a_run_writes_is_in_the_glossary(name, tiny_model, tmp_path):
    assert main([*RUNS[name].split(), "--model", str(tiny_model), "--out", str(tmp_path / "run")]) == 0
    run = tmp_path / "run"
    for result in json.loads((run / "results.json").read_text())["results"]:
        assert result.keys() <= RESULTS.keys()
    if (run / "metrics.jsonl").exists():
        for line in (run / "metrics.jsonl").read_text().splitlines():
            assert json.loads(line).keys() <= LOGGED.keys()
    assert {path.name for path in run.iterdir()} <= FILES.keys()
    assert json.loads((run / "status.json").read_text())["state"] in STATES


def test_every_metric_and_exit_code_is_in_the_glossary():
    assert METRICS.keys() == METRIC_FUNCTIONS.keys()
    ends = {str(one.exit_code) for one in Halted.__subclasses__()}
    assert ends | {str(128 + number) for number in SIGNALS} | {"0", "1", "2"} == EXIT_CODES.keys()


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_task_is_told_with_its_reward_and_words(task):
    (entry,) = [one for one in explain(task.name) if one.word == task.name]
    text = " ".join(entry.lines)
    assert all(name in text for name in task.metrics)
    assert "|answer - gold|" in text if task.numeric else all(word in text for word in task.words.values())


@pytest.mark.parametrize(
    ("word", "kinds"),
    [
        ("clipfrac", {"column of metrics.jsonl"}),
        ("--kl-coef", {"setting", "column of metrics.jsonl"}),
        ("kl_coef", {"setting", "column of metrics.jsonl"}),
        ("lr", {"setting", "column of metrics.jsonl"}),
        ("RTE", {"task"}),
        ("f1", {"metric"}),
        ("paper", {"--reward"}),
        ("gae", {"--estimator"}),
        ("one-answer", {"collapse of a policy"}),
        ("143", {"exit code"}),
        ("killed", {"state of a run"}),
        ("prompts", {"file of a run"}),
        ("lora.r", {"setting"}),
        ("ex/s", {"column of metrics.jsonl"}),
        ("ECE", {"word of a report"}),
        ("unparsed", {"setting", "column of metrics.jsonl", "entry of results.json", "collapse of a policy"}),
    ],
)
def test_words_are_found_however_they_are_spelt(word, kinds):
    assert {entry.kind for entry in explain(word)} == kinds


def test_rewards_are_told_as_they_are_computed():
    from rl4nlu.rewards import REWARDS
    from rl4nlu.tasks import Example, find

    (entry,) = [one for one in explain("glue/rte") if one.kind == "task"]
    right, wrong, nothing = map(float, re.findall(r"[+-]\d", next(line for line in entry.lines if "reward" in line)))
    row = Example("0", {}, "entailment")
    said = [REWARDS["paper"](find("glue/rte"), label, row) for label in ("entailment", "not_entailment", None)]
    assert said == [right, wrong, nothing]


def test_an_unknown_word_gets_a_suggestion(capsys):
    assert main(["explain", "clipfrak"]) == 2
    assert "did you mean 'clipfrac'" in capsys.readouterr().err
    assert main(["explain"]) == 2
    assert main(["explain", "clipfrac", "--json"]) == 0
    meaning, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert (meaning["event"], meaning["word"], end["event"]) == ("meaning", "clipfrac", "end")
