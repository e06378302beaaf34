"""Labels as actions, and every estimator on the same rollouts: identities of the first step, invariances, learning."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from policies import assert_same_gradients
from rl4nlu import data, optim, ppo
from rl4nlu.actions import roll_out
from rl4nlu.ask import encode, label_logp
from rl4nlu.config import validate
from rl4nlu.errors import UserError
from rl4nlu.models import load_policy
from rl4nlu.rewards import paper_reward
from rl4nlu.settings import PpoSettings
from rl4nlu.tasks import find

TASK = "mini/question"
ESTIMATORS = ["gae", "rloo", "grpo", "reinforce++", "expected"]


def settings(**values) -> PpoSettings:
    return validate(PpoSettings, {"task": TASK, "model": "mini", "batch_size": 8, "answer_tokens": 4, **values})


def start(chosen: PpoSettings, rows: int = 8):
    """Policy and rows, as the command makes them."""
    policy = load_policy("mini", lora=chosen.lora, seed=chosen.seed)
    if chosen.estimator == "gae":
        policy.add_value_head()
    task = find(chosen.task)
    return policy, encode(policy, task, chosen, data.load(task, "train", limit=rows)).rows[:]


def test_labels_are_drawn_from_the_closed_set_that_is_scored():
    chosen = settings(actions="labels", answers=64)
    policy, rows = start(chosen)
    rollout = roll_out(policy, rows, chosen, step=0, longest=8)
    known = label_logp(policy, rows, chosen.max_tokens)
    task = find(TASK)
    for b, row in enumerate(rows):
        closed = rollout.closed[b]
        assert closed.logp_BL[0].tolist() == pytest.approx(known[b], abs=1e-5)
        assert closed.reward_BL[0].tolist() == [paper_reward(task, label, row.prompt.example) for label in task.labels]
        drawn = rollout.label_BK[b]
        assert torch.equal(rollout.logp_NA.view(8, 64)[b], closed.logp_BL[0][drawn])
        assert torch.equal(rollout.score_N.view(8, 64)[b], closed.reward_BL[0][drawn])
    drawn = np.array([[int((rollout.label_BK[b] == k).sum()) for k in range(len(task.labels))] for b in range(8)])
    expected = 64 * np.exp(np.array(known))
    spread = np.sqrt(expected * (1 - expected / 64)) + 0.5
    assert (np.abs(drawn - expected) <= 4 * spread).all()


@pytest.mark.parametrize("actions", ["free", "labels"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_first_step_starts_at_the_reference(estimator, actions):
    if estimator == "expected" and actions == "free":
        with pytest.raises(UserError, match="leave out --actions free"):
            settings(estimator=estimator, actions=actions)
        return
    chosen = settings(estimator=estimator, actions=actions, answers=3, max_tokens=256)
    policy, rows = start(chosen)
    rollout = roll_out(policy, rows, chosen, step=0, longest=8)
    assert rollout.stats["kl"] == 0.0
    assert torch.equal(rollout.logp_NA, rollout.ref_logp_NA)
    optimizer = optim.make_optimizer(chosen, policy.trainable())
    stats = ppo.update(policy, optimizer, rollout, chosen, kl_coef=0.05, rate=1e-3, step=0)
    assert abs(stats["first_ratio"] - 1) <= 1e-5
    assert ("explained_variance" in stats) == (estimator == "gae")
    after = roll_out(policy, rows, chosen, step=1, longest=8)
    assert after.stats["kl"] != 0.0


@pytest.mark.parametrize("estimator", ["grpo", "expected", "gae"])
def test_micro_batches_leave_the_gradient_alone(gradients, estimator):
    for max_tokens in (10_000, 40):
        chosen = settings(estimator=estimator, actions="labels", max_tokens=max_tokens, inner_epochs=1)
        policy, rows = start(chosen)
        rollout = roll_out(policy, rows, chosen, 0, longest=8)
        ppo.update(policy, optim.make_optimizer(chosen, policy.trainable()), rollout, chosen, 0.05, 1e-4, 0)
    assert_same_gradients(*gradients)


def test_sampled_gradients_average_to_the_expected_one(gradients):
    """On a real policy: 40 gradients of 16 sampled answers a prompt scatter around the exact one, which does not."""
    common = {"actions": "labels", "answers": 16, "inner_epochs": 1, "max_grad_norm": 1e9, "kl_coef": 0.0}
    exact = settings(estimator="expected", **common)
    policy, rows = start(exact, 4)
    optimizer = optim.make_optimizer(exact, policy.trainable())
    for step in range(2):
        ppo.update(policy, optimizer, roll_out(policy, rows, exact, step, 8), exact, 0.0, 0.0, step)
    first, second = (torch.cat([g.flatten() for g in one]) for one in gradients)
    # other samples, the same gradient: it has no variance over actions (rows come in another order, so not to the bit)
    assert float((first - second).abs().max()) <= 1e-5 * float(first.abs().max())
    gradients.clear()
    sampled = settings(estimator="rloo", **common)
    for step in range(40):
        ppo.update(policy, optimizer, roll_out(policy, rows, sampled, step, 8), sampled, 0.0, 0.0, step)
    along = torch.stack([torch.cat([g.flatten() for g in one]) @ first for one in gradients]) / first.square().sum()
    error = along.std() / len(along) ** 0.5
    assert abs(float(along.mean()) - 1) <= 4 * float(error)
    assert float(along.std()) > 0.05


@pytest.mark.parametrize("estimator", ["expected", "grpo", "gae"])
def test_from_the_base_model_labels_are_learnt(tmp_path, estimator):
    """No SFT before: every answer of the closed set earns something, so there is something to learn from the start."""
    values = {"estimator": estimator, "actions": "labels", "max_steps": 20, "batch_size": 32, "eval_limit": 20}
    run, (result,) = ppo.ppo(settings(**values, learning_rate=3e-4, select_rows=0, out=tmp_path / "run"))
    steps = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    first, last = (sum(step["accuracy"] for step in part) / 4 for part in (steps[:4], steps[-4:]))
    assert last > first + 0.3
    assert result["estimator"] == estimator
    assert all(step["unparsable"] == 0 for step in steps)


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_one_answer_has_nothing_to_be_compared_with(estimator):
    with pytest.raises(UserError, match="give --answers 2 or more"):
        settings(estimator=estimator, answers=1)


def test_numbers_have_their_ordinal_reward(real_data):
    chosen = settings(task="glue/stsb", data=real_data, estimator="expected")
    policy = load_policy("mini", lora=chosen.lora)
    task = find("glue/stsb")
    rows = encode(policy, task, chosen, data.load(task, "train", real_data, 4)).rows[:]
    rollout = roll_out(policy, rows, chosen, 0, longest=8)
    for row, closed in zip(rows, rollout.closed, strict=True):
        gold = float(row.prompt.example.label)
        assert closed.reward_BL[0].tolist() == pytest.approx(
            [2.5 - abs(float(x) - gold) for x in task.labels], abs=1e-6
        )
