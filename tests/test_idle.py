"""A setting that would do nothing is refused where it is given, and only there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rl4nlu.config import parse, validate
from rl4nlu.errors import UserError
from rl4nlu.plan import make_plan
from rl4nlu.settings import COMMANDS, PRESETS, PpoSettings, SuiteSettings, idle
from rl4nlu.settings.idle import RULES

ALONE = "--task mini/question"
CASES = [
    # command, what does nothing, what the message says, beside what it counts
    ("sft", "--weight-decay 0.1 --optimizer adafactor", "--weight-decay is of AdamW", "--weight-decay 0.1"),
    ("ppo", "--lam 0.9 --estimator rloo", "--lam shares out", "--lam 0.9"),
    ("ppo", "--lam 0.9 --actions labels", "--lam shares out", "--lam 0.9 --actions free"),
    ("ppo", "--gamma 0.9 --estimator grpo", "--gamma discounts", "--gamma 0.9 --estimator reinforce++"),
    ("ppo", "--value-coef 0.5 --estimator rloo", "rloo has no critic: leave out --value-coef", "--value-coef 0.5"),
    ("ppo", "--value-clip 0.5 --estimator expected", "no critic: leave out --value-clip", "--value-clip 0.5"),
    ("ppo", "--value-clip 0.5 --value-coef 0", "whose weight --value-coef is 0", "--value-clip 0.5"),
    ("ppo", "--clip 0.1 --inner-epochs 1", "--clip bounds", "--clip 0.1 --inner-epochs 1 --minibatch 8"),
    ("ppo", "--value-clip 0.1 --inner-epochs 1", "--value-clip bounds", "--value-clip 0.1 --inner-epochs 2"),
    ("ppo", "--no-group-std", "--no-group-std is of --estimator grpo", "--no-group-std --estimator grpo"),
    ("ppo", "--no-skip-flat", "--no-skip-flat: --estimator gae compares", "--no-skip-flat --estimator rloo"),
    ("ppo", "--kl-horizon 9", "--kl-horizon is how fast --kl-target", "--kl-horizon 9 --kl-target 6"),
    ("ppo", "--metric-window 3", "--metric-window is of a reward", "--metric-window 3 --reward matthews"),
    ("ppo", "--minibatch 64", "--minibatch 64 is more than the 32 prompts", "--minibatch 32"),
    ("ppo", "--lora.dropout 0.1", "--lora.dropout: PPO trains without", "--lora.dropout 0.1 --init runs/a"),
    ("evaluate", "--answer-tokens 4", "--answer-tokens is of generated", "--answer-tokens 4 --decode greedy"),
    ("evaluate", "--shots-seed 4", "--shots-seed chooses examples", "--shots-seed 4 --adapter runs/a"),
    ("sft", "--shots-seed 4", "--shots-seed chooses examples", "--shots-seed 4 --shots 2"),
    *(
        ("classify", f"--tune full --lora.{one}", f"--lora.{one.split()[0]}: all weights", f"--lora.{one}")
        for one in ("r 4", "alpha 4", "dropout 0.1", "no-rslora", "target q_proj")
    ),
    ("classify", "--tune full --dtype bfloat16", "--dtype: all weights are trained", "--dtype bfloat16"),
    ("predict", "--seed 3", "--seed is of sampled answers", "--seed 3 --decode sample"),
    ("suite", "--search.batch 3 --search.sampler random", "search.batch: all trials", "--search.batch 3"),
]


@pytest.mark.parametrize(("command", "words", "said", "counts"), CASES)
def test_a_setting_without_effect_is_refused(command, words, said, counts):
    task = [] if command in ("predict", "suite") else ALONE.split()
    with pytest.raises(UserError) as caught:
        parse(COMMANDS[command], [*task, *words.split()], f"rl4nlu {command}")
    assert said in str(caught.value)
    assert "leave" in str(caught.value)
    parse(COMMANDS[command], [*task, *counts.split()], f"rl4nlu {command}")


def test_every_rule_has_a_case():
    refused = set()
    for command, words, _, _ in CASES:
        task = [] if command in ("predict", "suite") else ALONE.split()
        with pytest.raises(UserError) as caught:
            parse(COMMANDS[command], [*task, *words.split()], "rl4nlu")
        said = str(caught.value)
        for name, rule in ((name, one) for one in RULES for name in one.names.split()):
            parts = re.split(r"\{\w+\}", rule.why)
            flag = name.split(".")[-1].replace("_", "-")
            if all(part in said for part in parts) and re.search(rf"(^|[\s.-]){flag}\b", said):
                refused.add((name, rule.why))
    assert refused == {(name, rule.why) for rule in RULES for name in rule.names.split()}


def test_defaults_and_presets_are_nobodys_wish(tmp_path):
    """So that a file of all settings can be given back, and what a preset says need not count."""
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump(PpoSettings(task="mini/question", estimator="rloo").model_dump(mode="json")))
    assert parse(PpoSettings, [str(file)], "rl4nlu ppo").estimator == "rloo"
    for kind, presets in PRESETS.items():
        for preset in presets:
            parse(kind, [*ALONE.split(), "--preset", preset], "rl4nlu")
    assert idle(validate(PpoSettings, {"lam": 0.9, "estimator": "rloo"})).keys() == {"lam"}


def test_what_a_suite_says_of_all_runs_counts_where_it_can():
    """And what a run has is what it is made by: the file that it leaves can be given back."""
    suite = {
        "common": {"model": "mini", "value_coef": 0.5, "shots_seed": 3, "lora": {"dropout": 0.1, "r": 4}},
        "tasks": ["mini/question"],
        "methods": {
            "few": {"command": "evaluate", "shots": 2},
            "sft": {"command": "sft"},
            "gae": {"command": "ppo"},
            "rloo": {"command": "ppo", "estimator": "rloo"},
        },
    }
    plan = make_plan(validate(SuiteSettings, suite))
    found = {job.method: plan.settings(job, Path("out"), {}) for job in plan.jobs.values()}
    assert (found["gae"].value_coef, found["rloo"].value_coef) == (0.5, 0.1)
    assert (found["few"].shots_seed, found["sft"].shots_seed) == (3, None)
    assert (found["sft"].lora.dropout, found["gae"].lora.dropout) == (0.1, 0.0)
    assert found["gae"].lora.r == 4
    assert not any(map(idle, found.values()))
    own = {**suite, "methods": {"rloo": {"command": "ppo", "estimator": "rloo", "gamma": [0.8, 0.9]}}}
    with pytest.raises(UserError, match=r"methods\.rloo on mini/question: --gamma discounts later tokens"):
        make_plan(validate(SuiteSettings, own))
