"""Collapses are named when they come, once each, and a healthy run has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rl4nlu.collapse import KL_RUNAWAY, SAME_ANSWER, STUCK, UNPARSABLE, Watch
from rl4nlu.config import validate
from rl4nlu.settings import PpoSettings

STEPS = 200
HEALTHY = {
    "reward": 0.2,
    "accuracy": 0.6,
    "unparsable": 0.0,
    "most_common": 0.6,
    "gold_common": 0.55,
    "kl": 0.5,
    "entropy": 0.4,
}


def seen(rows, steps: int = STEPS) -> list[tuple[int, str]]:
    watch = Watch(steps)
    return [(step, one.name) for step, row in enumerate(rows, 1) for one in watch.see({**HEALTHY, **row})]


def test_a_healthy_run_has_none():
    rng = np.random.default_rng(0)
    assert seen([{"reward": 0.005 * i + 0.1 * rng.normal(), "kl": 0.02 * i} for i in range(STEPS)]) == []


@pytest.mark.parametrize(
    ("figures", "name"),
    [
        ({"unparsable": 1.0, "most_common": 1.0}, UNPARSABLE.name),
        ({"most_common": 1.0}, SAME_ANSWER.name),
        ({"entropy": 0.001}, STUCK.name),
    ],
)
def test_each_is_named_once_and_in_time(figures, name):
    found = seen([{}] * 50 + [figures] * 100)
    assert [one for _, one in found] == [name]
    assert 50 < found[0][0] <= 75


def test_a_policy_that_runs_from_its_reference_for_nothing():
    rows = [{}] * 40 + [{"kl": 0.5 * 1.15**i, "reward": 0.2 - 0.002 * i} for i in range(40)]
    assert [one for _, one in seen(rows)] == [KL_RUNAWAY.name]
    rising = [{}] * 40 + [{"kl": 0.5 * 1.15**i, "reward": 0.2 + 0.02 * i} for i in range(40)]
    assert seen(rising) == []  # far from the reference, but it pays: free text that has just found the format


def test_what_is_no_collapse():
    """Rows that are nearly all of one label; a policy that has solved its task."""
    assert seen([{"most_common": 1.0, "gold_common": 0.95}] * 100) == []
    assert seen([{"entropy": 0.0, "accuracy": 0.99}] * 100) == []


def test_steps_without_any_loss_count_as_certain():
    """All answers to every prompt earn the same: no entropy is measured, and nothing is learnt."""
    row = {name: value for name, value in HEALTHY.items() if name != "entropy"}
    watch = Watch(40)
    assert [one.name for _ in range(20) for one in watch.see(row)] == [STUCK.name]


def test_a_short_run_is_judged_by_fewer_steps():
    assert [step for step, _ in seen([{"unparsable": 1.0}] * 20, steps=20)] == [5]


# -- provoked on real runs ---------------------------------------------------------------------------------------------


def run_with(tmp_path, **values) -> tuple[set[str], list[dict], str]:
    """Names of the collapses of a run, its steps, and its model card's results."""
    from rl4nlu.methods import ppo

    values = {"model": "mini", "batch_size": 8, "select_rows": 0, "eval_limit": 4, "warmup": 0.0, **values}
    run, (result,) = ppo.ppo(validate(PpoSettings, {**values, "out": tmp_path / "run"}))
    steps = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return set(result.get("collapse", [])), steps, result


def test_free_text_from_a_base_model_that_does_not_know_the_form(tmp_path, capfd, tiny_model):
    values = {"task": "mini/entailment", "template": "verdict", "answer_tokens": 3, "answers": 2, "inner_epochs": 1}
    names, steps, _ = run_with(tmp_path, **values, model=str(tiny_model), max_steps=6, learning_rate=1e-9)
    assert names == {"unparsable"}
    assert [step["collapse"] for step in steps if "collapse" in step] == [["unparsable"]]
    said = capfd.readouterr().err
    assert "collapse (unparsable): no answer can be parsed" in said
    assert "--actions labels" in said


def test_too_high_a_rate_ends_in_one_answer_and_certainty(tmp_path):
    """As a first trial on SST-2 did: no KL, no entropy term, from the base model."""
    values = {"task": "mini/entailment", "estimator": "expected", "kl_coef": 0, "learning_rate": 2e-2}
    names, steps, _ = run_with(tmp_path, **values, inner_epochs=1, max_steps=24)
    assert names == {"one-answer", "stuck"}
    assert steps[-1]["entropy"] < 0.02
    assert steps[-1]["most_common"] == 1.0


@pytest.mark.slow
def test_running_from_the_reference_for_nothing(tmp_path):
    """An entropy bonus that outweighs the reward, no KL penalty: the text goes anywhere; the run ends when told to."""
    values = {"task": "mini/sentiment", "kl_coef": 0, "entropy_coef": 1, "answer_tokens": 6, "answers": 2}
    values |= {"learning_rate": 1e-3, "schedule": "constant", "inner_epochs": 1, "max_steps": 20}
    values["model"] = str(Path(__file__).parents[1] / "models" / "books-1")  # knows no form of a question
    names, steps, _ = run_with(tmp_path / "warned", **values)
    assert names == {"unparsable", "kl-runaway"}
    assert len(steps) == 20
    names, steps, result = run_with(tmp_path / "stopped", **values, on_collapse="stop")
    assert names == {"unparsable"}
    assert 5 <= result["steps"] == len(steps) < 20
