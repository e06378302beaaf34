"""Rewards: what test_maths.py leaves open. Every task's rewards agree with its judge; where the score goes; beta."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reference import ppo as reference
from rl4nlu.errors import UserError
from rl4nlu.rewards import (
    ENTRY_POINTS,
    REWARDS,
    KLController,
    Reward,
    check_reward,
    exact_match,
    paper_reward,
    token_rewards,
)
from rl4nlu.tasks import TASKS, Example, find

NUMERIC = [name for name, task in TASKS.items() if task.numeric]
GOLDS = [f"{i / 100:.2f}" for i in range(501)]


def example(label):
    return Example("0", {}, label)


@pytest.mark.parametrize("name", [name for name in TASKS if name not in NUMERIC])
def test_one_minus_one_minus_three(name):
    task = find(name)
    for gold in task.labels:
        for said in task.labels:
            assert paper_reward(task, said, example(gold)) == (1.0 if task.judge(said, example(gold)) else -1.0)
        assert paper_reward(task, None, example(gold)) == -3.0


@pytest.mark.parametrize("name", NUMERIC)
def test_numeric_rewards_agree_with_the_judge(name):
    """Of all labels the one that is judged right earns most; none earns less than no answer at all."""
    task = find(name)
    for gold in GOLDS:
        earned = {said: paper_reward(task, said, example(gold)) for said in task.labels}
        assert all(earned[said] == 2.5 - abs(float(said) - float(gold)) for said in earned)
        right = [said for said in task.labels if task.judge(said, example(gold))]
        assert len(right) == 1
        assert earned[right[0]] == pytest.approx(max(earned.values()), abs=1e-9)
        assert earned[right[0]] >= 2.4 - 1e-9  # labels are 0.2 apart
        assert paper_reward(task, None, example(gold)) == -2.5 <= min(earned.values())
        assert sum(exact_match(task, said, example(gold)) for said in (*task.labels, None)) == 1.0


def test_numbers_of_another_range_earn_on_the_same_scale():
    """From 0 to 100, 20 off is what 1 off is from 0 to 5: an answer is never worse than none."""
    wide = replace(find("glue/stsb"), name="wide", labels=tuple(map(str, range(0, 101, 5))))
    assert [paper_reward(wide, said, example("40")) for said in ("40", "60", "100", None)] == [2.5, 1.5, -0.5, -2.5]
    assert paper_reward(wide, "100", example("0")) == -2.5


@pytest.mark.parametrize("name", REWARDS)
def test_no_answer_never_pays(name):
    for task in TASKS.values():
        gold = example(task.labels[-1])
        right, none = (REWARDS[name](task, said, gold) for said in (task.labels[-1], None))
        worst = min(REWARDS[name](task, said, gold) for said in task.labels)
        assert none <= worst < right


def test_a_reward_needs_a_gold_label():
    for name in ("glue/rte", "glue/stsb"):
        with pytest.raises(AssertionError, match="gold label"):
            paper_reward(find(name), find(name).labels[0], example(None))
    assert exact_match(find("glue/rte"), "entailment", example(None)) == 0.0


def test_the_score_comes_with_the_last_token_that_counts_and_no_other():
    """Lengths 3, 1 and 2 of 3; no KL penalty, so nothing else is paid."""
    mask = torch.arange(3) < torch.tensor([[3], [1], [2]])
    logp, ref_logp = torch.full((3, 3), -1.0), torch.full((3, 3), -2.0)
    rewards = token_rewards(torch.tensor([1.0, -3.0, 2.5]), logp, ref_logp, mask, kl_coef=0.0)
    assert rewards.tolist() == [[0.0, 0.0, 1.0], [-3.0, 0.0, 0.0], [0.0, 2.5, 0.0]]


def test_an_answers_rewards_add_up_to_score_less_beta_kl():
    rng = np.random.default_rng(0)
    for _ in range(100):
        mask = torch.arange(6) < torch.from_numpy(rng.integers(1, 7, size=(5, 1)))
        score, logp, ref = (torch.from_numpy(rng.normal(size=s)) for s in (5, (5, 6), (5, 6)))
        kl = torch.where(mask, logp - ref, 0.0).sum(1)
        found = token_rewards(score, logp, ref, mask, 0.2)
        assert torch.allclose(found.sum(1), score - 0.2 * kl, rtol=0, atol=1e-12)
        assert (found[~mask] == 0).all()


@pytest.mark.parametrize(
    ("kl", "answers", "expected"),
    [
        (6.0, 1000, 0.2),  # on target
        (6.6, 1000, 0.202),  # a tenth above: 0.2 * (1 + 0.1 * 0.1)
        (5.4, 1000, 0.198),  # a tenth below
        (60.0, 1000, 0.204),  # the error is clipped at 0.2
        (-1.0, 1000, 0.196),  # and at -0.2; k1 estimates can be negative
        (60.0, 0, 0.2),
    ],
)
def test_kl_coefficient_by_hand(kl, answers, expected):
    adaptive, fixed = KLController(0.2, 6.0, 10_000), KLController(0.2, None, 10_000)
    for controller in (adaptive, fixed):
        controller.update(kl, answers)
    assert adaptive.coef == pytest.approx(expected, rel=1e-12)
    assert fixed.coef == 0.2


def test_kl_coefficient_over_any_history():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        coef, target, horizon = rng.uniform(0.01, 1), rng.uniform(0.1, 10), int(rng.integers(100, 10_000))
        history = [(rng.normal() * 2 * target, int(rng.integers(1, 65))) for _ in range(50)]
        controller = KLController(coef, target, horizon)
        for (kl, answers), expected in zip(history, reference.adaptive_kl(coef, target, horizon, history), strict=True):
            controller.update(kl, answers)
            assert controller.coef == pytest.approx(expected, rel=1e-12)
            assert controller.coef > 0


# -- what a run's reward is made of ------------------------------------------------------------------------------------


def test_form_is_paid_for_apart_from_correctness():
    """paper without its own form penalty is +1 or -1; what is given takes its place."""
    rte, stsb = find("glue/rte"), find("glue/stsb")
    row, pair = example("entailment"), example("3.0")
    for name, wrong in (("paper", -1.0), ("exact", 0.0)):
        for penalty in (0.0, 0.5):
            reward = Reward(name, penalty)
            assert reward(rte, None, row) == wrong - penalty
            assert reward(rte, "not_entailment", row) == wrong
            assert reward(rte, "entailment", row) == 1.0
    assert [Reward("paper")(rte, None, row), Reward("paper")(stsb, None, pair)] == [-3.0, -2.5]
    assert Reward("paper", 1.0)(stsb, None, pair) == -3.5


def offer(monkeypatch, **functions):
    """Entry points as an installed package has them."""
    points = [SimpleNamespace(name=name, value=f"pkg:{name}", load=load) for name, load in functions.items()]
    monkeypatch.setattr("rl4nlu.rewards.metadata.entry_points", lambda group: points if group == ENTRY_POINTS else [])


def test_a_function_of_another_package(monkeypatch):
    def generous(task, prediction, row):
        return 7.0 if prediction == row.label else float("nan") if prediction is None else 0.25

    def silent(task, prediction, row):
        return None if prediction is None else task.nothing

    offer(monkeypatch, generous=lambda: generous, silent=lambda: silent, broken=lambda: 1 / 0, number=lambda: 3)
    reward, rte = Reward("generous"), find("glue/rte")
    assert [reward(rte, said, example("entailment")) for said in rte.labels] == [7.0, 0.25]
    with pytest.raises(UserError, match="it gave nan for None on row 0"):
        reward(rte, None, example("entailment"))
    for said, what in ((None, "TypeError"), ("entailment", "AttributeError")):
        with pytest.raises(UserError, match=f"--reward silent: it failed for .* on row 0 .{what}"):
            Reward("silent")(rte, said, example("entailment"))
    with pytest.raises(UserError, match=r"did you mean 'generous'.*entry point of 'rl4nlu.rewards'"):
        Reward("generos")
    with pytest.raises(UserError, match="cannot be loaded"):
        Reward("broken")
    with pytest.raises(UserError, match="is no function"):
        Reward("number")
    check_reward("generous", [rte])


def test_the_metrics_derivative_is_kept_up_to_date():
    """Two labels, F1: at first all say the last label, then all say the gold one; window 2 keeps both steps."""
    mrpc = find("glue/mrpc")
    other, same = mrpc.labels
    asked = [(mrpc, example(label)) for label in (other, other, same, same)]
    reward = Reward("metric", window=2)
    reward.observe(asked, [{same: 1.0}] * 4)
    assert reward.value[mrpc.name] == pytest.approx(2 / 3, abs=0.05)
    assert reward(mrpc, same, example(same)) > reward(mrpc, other, example(same))
    assert reward(mrpc, same, example(other)) < reward(mrpc, other, example(other))
    reward.observe(asked, [{label: 0.75, None: 0.25} for label in (other, other, same, same)])
    table = reward.tables[mrpc.name]
    assert table.tolist() == [[0.1875, 0.25, 0.0625], [0.0, 0.4375, 0.0625]]
    assert reward(mrpc, None, example(same)) == pytest.approx(reward(mrpc, other, example(same)))


def test_any_metric_by_name():
    """Where one label takes nearly all answers, Matthews pays more for right ones than accuracy, for both alike."""
    sst2 = find("glue/sst2")
    a, b = sst2.labels
    asked = [(sst2, example(label)) for label in (a, b)]
    gain = {}
    for name in ("accuracy", "matthews"):
        reward = Reward(name)
        reward.observe(asked, [{a: 0.98, b: 0.02}] * 2)
        gain[name] = [
            reward(sst2, label, example(label)) - reward(sst2, other, example(label))
            for label, other in ((a, b), (b, a))
        ]
    assert gain["accuracy"][0] == pytest.approx(gain["accuracy"][1])
    assert gain["matthews"][1] == pytest.approx(gain["matthews"][0])  # a swap of labels changes no correlation
    assert gain["matthews"][1] > 2 * gain["accuracy"][1]
    check_reward("matthews", [sst2])
    check_reward("pearson", [find("glue/stsb")])
    for name, task in (("pearson", "glue/sst2"), ("matthews", "glue/stsb"), ("f1", "superglue/cb")):
        with pytest.raises(UserError, match=f"--reward {name}: .* fit"):
            check_reward(name, [find(task)])


def test_numbers_are_counted_at_the_nearest_label():
    stsb = find("glue/stsb")
    reward = Reward("metric")
    reward.observe(
        [(stsb, example(gold)) for gold in ("0.13", "2.5", "4.9")], [{"0.1": 1.0}, {"2.3": 1.0}, {None: 1.0}]
    )
    assert float(reward.tables[stsb.name].sum()) == pytest.approx(1)
    low, high = (reward(stsb, said, example("4.9")) for said in ("0.0", "5.0"))
    assert high > low
    with pytest.raises(UserError, match="counted by group"):
        check_reward("metric", [stsb, find("superglue/record")])
