"""Advantages, losses and rewards against independent NumPy, hand-worked numbers and their own invariants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reference import ppo as reference
from rl4nlu.advantages import gae, group_relative, leave_one_out, returns_to_go, whiten
from rl4nlu.losses import expected_loss, kl_estimates, ppo_loss, sft_loss
from rl4nlu.rewards import REWARDS, KLController, exact_match, paper_reward, token_rewards
from rl4nlu.tasks import TASKS, Example, find

CASES = 1000
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def random_case(i: int) -> dict[str, np.ndarray]:
    """Ragged answers of 1 to 6 tokens, padded on the right."""
    rng = np.random.default_rng(i)
    B, A = int(rng.integers(1, 5)), int(rng.integers(1, 7))
    length = rng.integers(1, A + 1, size=B)
    mask = np.arange(A) < length[:, None]
    if mask.sum() == 1:  # one token alone has no variance
        mask = np.ones((2, 2), dtype=bool)
    B, A = mask.shape
    case = {"mask": mask, "score": rng.normal(size=B) * 2}
    for name in ("logp", "ref_logp", "old_logp", "value", "old_value", "reward", "advantage", "ret", "entropy"):
        case[name] = rng.normal(size=(B, A))
    case["logp"] = case["old_logp"] + rng.normal(size=(B, A)) * 0.3
    return case


def tensors(case: dict[str, np.ndarray], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) if v.dtype == bool else torch.from_numpy(v).to(dtype) for k, v in case.items()}


def close(found: torch.Tensor, expected: np.ndarray, dtype: torch.dtype, case: int) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    assert np.abs(found.double().numpy() - expected).max() <= TOLERANCE[dtype] * scale, case


def as_dtype(case: dict[str, np.ndarray], dtype: torch.dtype) -> dict[str, np.ndarray]:
    """What the reference gets: the very numbers that the function gets, in float64."""
    return {
        k: v if v.dtype == bool else v.astype(np.float32 if dtype == torch.float32 else np.float64).astype(float)
        for k, v in case.items()
    }


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_against_numpy(dtype):
    for i in range(CASES):
        case = as_dtype(random_case(i), dtype)
        t = tensors(case, dtype)
        gamma, lam, beta = 0.9 + 0.1 * (i % 2), (0.0, 0.5, 0.95, 1.0)[i % 4], (0.0, 0.05, 0.2)[i % 3]
        found = token_rewards(t["score"], t["logp"], t["ref_logp"], t["mask"], beta)
        close(
            found,
            reference.penalised_rewards(case["score"], case["logp"], case["ref_logp"], case["mask"], beta),
            dtype,
            i,
        )
        advantage, returns = gae(t["reward"], t["value"], t["mask"], gamma, lam)
        expected = reference.gae(case["reward"], case["value"], case["mask"], gamma, lam)
        close(advantage, expected[0], dtype, i)
        close(returns, expected[1], dtype, i)
        spread = case["reward"][case["mask"]].std()
        if spread > 0.5:  # near-equal values lose digits in float32, and are floored on purpose
            close(whiten(t["reward"], t["mask"]), reference.whiten(case["reward"], case["mask"]), dtype, i)
        clip, value_clip, c_v, c_e = (0.1, 0.2)[i % 2], (None, 0.2, 0.5)[i % 3], (0.1, 0.5)[i % 2], (0.0, 0.01)[i % 2]
        names = ("logp", "old_logp", "advantage", "value", "old_value", "ret", "entropy", "mask")
        loss = ppo_loss(*(t[n] for n in names), int(case["mask"].sum()), clip, value_clip, c_v, c_e)
        total, parts = reference.losses(*(case[n] for n in names), clip, value_clip, c_v, c_e)
        close(loss.total, np.array(total), dtype, i)
        for name, part in parts.items():
            assert abs(loss.parts[name] - part) <= 10 * TOLERANCE[dtype] * max(1, abs(part)), (i, name)
        sft = sft_loss(t["logp"], t["mask"], int(case["mask"].sum()))
        close(sft.total, -case["logp"][case["mask"]].mean(), dtype, i)


def test_three_tokens_by_hand():
    """gamma 1, lambda 0.5; rewards 0, 0, 1; values 0.5, 0.2, 0.4, and 0 behind the end.

    deltas: 0 + 0.2 - 0.5 = -0.3;  0 + 0.4 - 0.2 = 0.2;  1 + 0 - 0.4 = 0.6
    A_3 = 0.6;  A_2 = 0.2 + 0.5 * 0.6 = 0.5;  A_1 = -0.3 + 0.5 * 0.5 = -0.05;  R = A + V = 0.45, 0.7, 1.0
    """
    mask = torch.tensor([[True, True, True, False]])
    reward = torch.tensor([[0.0, 0.0, 1.0, 9.0]])
    value = torch.tensor([[0.5, 0.2, 0.4, 9.0]])
    advantage, returns = gae(reward, value, mask, gamma=1.0, lam=0.5)
    assert advantage[0].tolist() == pytest.approx([-0.05, 0.5, 0.6, 0.0], abs=1e-7)
    assert returns[0].tolist() == pytest.approx([0.45, 0.7, 1.0, 0.0], abs=1e-7)
    # KL penalty 0.1: log-ratios 0.5, -1, 2 cost -0.05, +0.1, -0.2; the score of 3 comes with the third token
    logp, ref = torch.tensor([[-1.0, -2.0, -1.0, 0.0]]), torch.tensor([[-1.5, -1.0, -3.0, 5.0]])
    rewards = token_rewards(torch.tensor([3.0]), logp, ref, mask, kl_coef=0.1)
    assert rewards[0].tolist() == pytest.approx([-0.05, 0.1, 2.8, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [
        (1.5, 2.0, -2.4, 0.0, 1),  # raised enough already: no gradient
        (1.5, -2.0, 3.0, 3.0, 0),  # raised although bad: the full gradient back
        (0.5, 2.0, -1.0, -1.0, 0),
        (0.5, -2.0, 1.6, 0.0, 1),
        (1.1, 2.0, -2.2, -2.2, 0),
    ],
)
def test_clipping_by_hand(ratio, advantage, loss, slope, clipped):
    """clip 0.2. d/d logp of -ratio * A is -ratio * A where nothing is clipped."""
    logp = torch.tensor([[ratio]], dtype=torch.float64).log().requires_grad_()
    one = torch.ones((1, 1), dtype=torch.float64)
    zero, mask = 0 * one, torch.ones((1, 1), dtype=torch.bool)
    found = ppo_loss(logp, zero, advantage * one, zero, zero, zero, zero, mask, 1, 0.2, 0.2, 0.1, 0.0)
    found.total.backward()
    assert found.total.item() == pytest.approx(loss)
    assert float(logp.grad) == pytest.approx(slope)
    assert found.parts["clipfrac"] == clipped


def test_gradients_by_finite_differences():
    case = tensors(random_case(12), torch.float64)
    given = ("logp", "value", "entropy")
    leaves = [case[name].clone().requires_grad_() for name in given]
    fixed = (case["old_logp"], case["advantage"], case["old_value"], case["ret"], case["mask"])

    def total(logp, value, entropy):
        old_logp, advantage, old_value, ret, mask = fixed
        return ppo_loss(logp, old_logp, advantage, value, old_value, ret, entropy, mask, 5, 0.2, 0.2, 0.5, 0.01).total

    assert torch.autograd.gradcheck(total, leaves)
    assert torch.autograd.gradcheck(lambda logp: sft_loss(logp, case["mask"], 5).total, leaves[:1])


def test_masked_positions_change_no_bit():
    for i in range(100):
        case = tensors(random_case(i), torch.float32)
        names = ("logp", "old_logp", "advantage", "value", "old_value", "ret", "entropy")
        outcomes = []
        for garbage in (0.0, 1e30, float("nan")):
            t = {n: torch.where(case["mask"], case[n], garbage) for n in (*names, "reward", "ref_logp")}
            logp = t["logp"].clone().requires_grad_()
            value = t["value"].clone().requires_grad_()
            inputs = {**t, "logp": logp, "value": value}
            loss = ppo_loss(*(inputs[n] for n in names), case["mask"], 7, 0.2, 0.2, 0.1, 0.01)
            (loss.total + sft_loss(logp, case["mask"], 7).total).backward()
            advantage, returns = gae(t["reward"], t["value"], case["mask"], 1.0, 0.95)
            rewards = token_rewards(case["score"], t["logp"], t["ref_logp"], case["mask"], 0.1)
            white = whiten(t["reward"], case["mask"])
            outcomes.append([loss.total.detach(), logp.grad, value.grad, advantage, returns, rewards, white])
        for other in outcomes[1:]:
            for a, b in zip(outcomes[0], other, strict=True):
                assert torch.equal(a, b), i


def test_whitened_advantages_have_no_mean():
    for i in range(100):
        case = tensors(random_case(i), torch.float32)
        white = whiten(case["reward"] + 100, case["mask"])[case["mask"]]
        assert abs(float(white.mean())) <= 1e-6 * 100
        assert float(white.std(correction=0)) == pytest.approx(1, abs=1e-3)
    constant = whiten(torch.full((2, 3), 5.0), torch.ones((2, 3), dtype=torch.bool))
    assert torch.equal(constant, torch.zeros(2, 3))


def test_cutting_a_batch_changes_no_gradient():
    case = tensors(random_case(17), torch.float64)
    names = ("logp", "old_logp", "advantage", "value", "old_value", "ret", "entropy", "mask")
    count, B = int(case["mask"].sum()), case["mask"].shape[0]
    assert B > 1
    gradients = []
    for parts in ([slice(0, B)], [slice(b, b + 1) for b in range(B)]):
        logp = case["logp"].clone().requires_grad_()
        for part in parts:
            rows = {**case, "logp": logp}
            ppo_loss(*(rows[n][part] for n in names), count, 0.2, 0.2, 0.1, 0.0).total.backward()
        gradients.append(logp.grad)
    assert torch.allclose(*gradients, atol=1e-15)


def test_adaptive_and_fixed_kl_coefficient():
    rng = np.random.default_rng(0)
    history = [(float(rng.exponential(6)), int(rng.integers(1, 64))) for _ in range(1000)]
    controller = KLController(0.2, 6.0, 10_000)
    for (kl, answers), expected in zip(history, reference.adaptive_kl(0.2, 6.0, 10_000, history), strict=True):
        controller.update(kl, answers)
        assert controller.coef == pytest.approx(expected, rel=1e-12)
    by_hand = KLController(0.2, 6.0, 10_000)
    by_hand.update(60.0, 1000)  # the error is clipped to 0.2: 0.2 * (1 + 0.2 * 0.1)
    assert by_hand.coef == pytest.approx(0.204)
    fixed = KLController(0.05, None, 10_000)
    fixed.update(60.0, 1000)
    assert fixed.coef == 0.05


def test_the_papers_rewards():
    rte, stsb = find("glue/rte"), find("glue/stsb")
    example = Example("0", {}, "entailment")
    assert [paper_reward(rte, p, example) for p in ("entailment", "not_entailment", None)] == [1.0, -1.0, -3.0]
    assert [exact_match(rte, p, example) for p in ("entailment", "not_entailment", None)] == [1.0, 0.0, 0.0]
    pair = Example("0", {}, "3.75")
    assert [paper_reward(stsb, p, pair) for p in ("3.75", "0", "5.0", None)] == [2.5, -1.25, 1.25, -2.5]


@pytest.mark.parametrize("name", TASKS)
def test_reward_and_metric_share_one_judge(name):
    task = find(name)
    for gold in task.labels:
        example = Example("0", {}, gold)
        for said in (*task.labels, None):
            right = task.judge(said, example)
            assert REWARDS["exact"](task, said, example) == float(right)
            if not task.numeric:
                assert (REWARDS["paper"](task, said, example) == 1.0) == right


# -- estimators --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_estimators_against_numpy(dtype):
    for i in range(CASES):
        rng = np.random.default_rng(i)
        scores = rng.choice([-3.0, -1.0, 1.0], size=(int(rng.integers(1, 5)), int(rng.integers(2, 7))))
        if i % 2:
            scores = as_dtype({"x": rng.normal(size=scores.shape)}, dtype)["x"]
        given = torch.from_numpy(scores).to(dtype)
        close(leave_one_out(given), reference.leave_one_out(scores), dtype, i)
        for scale in (False, True):
            close(group_relative(given, scale), reference.group_relative(scores, scale), dtype, i)
        case = as_dtype(random_case(i), dtype)
        t, gamma = tensors(case, dtype), 0.9 + 0.1 * (i % 2)
        expected = reference.returns_to_go(case["reward"], case["mask"], gamma)
        close(returns_to_go(t["reward"], t["mask"], gamma), expected, dtype, i)
        near = as_dtype({"ref": case["logp"] + 0.2 * rng.normal(size=case["logp"].shape)}, dtype)["ref"]
        found = kl_estimates(t["logp"], torch.from_numpy(near).to(dtype))
        for estimate, known in zip(found, reference.kl_estimates(case["logp"], near), strict=True):
            close(estimate, known, dtype, i)


def closed_case(i: int, dtype: torch.dtype) -> list[np.ndarray]:
    """Three policies and the rewards of 2 to 6 labels for 1 to 4 prompts."""
    rng = np.random.default_rng(i)
    shape = int(rng.integers(1, 5)), int(rng.integers(2, 7))
    logits = rng.normal(size=shape)
    found = []
    for spread in (0.0, 0.4, 0.8):
        moved = logits + spread * rng.normal(size=shape)
        found.append(moved - np.log(np.exp(moved).sum(1, keepdims=True)))
    return list(as_dtype(dict(enumerate([*found, rng.choice([-1.0, 1.0, 2.5], size=shape)])), dtype).values())


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_expected_reward_against_numpy(dtype):
    for i in range(CASES):
        case = closed_case(i, dtype)
        given = [torch.from_numpy(x).to(dtype) for x in case]
        clip, beta, c_e = (0.1, 0.2)[i % 2], (0.0, 0.05, 0.2)[i % 3], (0.0, 0.01)[i % 2]
        loss = expected_loss(*given, len(case[0]), clip, beta, c_e)
        close(loss.total, np.array(reference.expected(*case, clip, beta, c_e)), dtype, i)


def test_gradients_of_expected_reward():
    case = [torch.from_numpy(x) for x in closed_case(7, torch.float64)]
    logits = case[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: expected_loss(x.log_softmax(1), *case[1:], len(case[0]), 0.2, 0.1, 0.01).total, (logits,)
    )


def test_by_hand_three_labels():
    """pi = pi_old = (1/2, 1/4, 1/4), r = (1, -1, -1): E r = 0, so A = r; d(-E r)/d logit_k = -pi_k (r_k - E r)."""
    logits = torch.log(torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64)).requires_grad_()
    logp = logits.log_softmax(1)
    reward = torch.tensor([[1.0, -1.0, -1.0]], dtype=torch.float64)
    loss = expected_loss(logp, logp.detach(), logp.detach(), reward, 1, 0.2, 0.5, 0.0)
    loss.total.backward()
    assert loss.total.item() == pytest.approx(0.0, abs=1e-15)
    assert logits.grad.tolist() == [pytest.approx([-0.5, 0.25, 0.25], abs=1e-15)]
    assert leave_one_out(torch.tensor([[1.0, -1.0, 1.0]])).tolist() == [[1.0, -2.0, 1.0]]
    assert group_relative(torch.tensor([[2.0, 2.0]]), True).tolist() == [[0.0, 0.0]]


def test_sampled_policy_gradients_average_to_the_expected_one():
    """The mean of 40,000 single-sample gradients lies within 4 standard errors of the exact one, and they scatter; the
    exact one does not: its variance over actions is zero by construction, so two calls are equal to the bit."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.3, -0.2, 0.9, 0.0], dtype=torch.float64)
    reward = torch.tensor([1.0, -1.0, -1.0, -3.0], dtype=torch.float64)
    p = logits.softmax(0)
    drawn = torch.multinomial(p, 40_000, replacement=True, generator=generator)
    score_function = torch.eye(4, dtype=torch.float64)[drawn] - p  # d log pi(a) / d logits
    samples = -(reward[drawn, None] - (p * reward).sum()) * score_function
    exact = []
    for _ in range(2):
        leaf = logits[None].clone().requires_grad_()
        logp = leaf.log_softmax(1)
        fixed = logp.detach()
        expected_loss(logp, fixed, fixed, reward[None], 1, 0.2, 0.0, 0.0).total.backward()
        exact.append(leaf.grad[0])
    error = samples.std(0) / 40_000**0.5
    assert ((samples.mean(0) - exact[0]).abs() <= 4 * error).all()
    assert (samples.std(0) > 0.1).all()
    assert torch.equal(exact[0], exact[1])
