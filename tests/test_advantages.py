"""Advantages: what test_maths.py leaves open. Any gamma and lambda, the limits of lambda, whitening as PPO meets it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reference import ppo as reference
from rl4nlu.advantages import gae, whiten

CASES = 1000
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def ragged(i: int, dtype: torch.dtype):
    """Rewards, values, mask: 1 to 6 rows of 1 to 8 tokens, at least two tokens in all, garbage behind the end."""
    rng = np.random.default_rng(20_000 + i)
    length = np.append(rng.integers(1, 9, size=int(rng.integers(0, 6))), rng.integers(2, 9))
    mask = np.arange(length.max()) < length[:, None]
    reward, value = (torch.from_numpy(np.where(mask, rng.normal(size=mask.shape), 77.0)).to(dtype) for _ in range(2))
    return reward, value, torch.from_numpy(mask)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_any_gamma_and_lambda_against_numpy(dtype):
    rng = np.random.default_rng(0)
    for i in range(CASES):
        reward, value, mask = ragged(i, dtype)
        gamma, lam = rng.uniform(0, 1, size=2)
        found = gae(reward, value, mask, gamma, lam)
        expected = reference.gae(reward.double().numpy(), value.double().numpy(), mask.numpy(), gamma, lam)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == dtype
            assert np.abs(a.double().numpy() - b).max() <= TOLERANCE[dtype] * max(1.0, np.abs(b).max()), i


def test_the_limits_of_lambda():
    """lambda 0: the one-step errors. lambda 1: the discounted rewards to the end, less the value (equations 17, 18)."""
    reward = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    value = torch.tensor([[0.5, 1.0, 3.0]], dtype=torch.float64)
    mask = torch.ones((1, 3), dtype=torch.bool)
    one_step, targets = gae(reward, value, mask, gamma=0.5, lam=0.0)
    # 1 + 0.5 * 1 - 0.5 = 1;  2 + 0.5 * 3 - 1 = 2.5;  4 + 0 - 3 = 1
    assert one_step.tolist() == [[1.0, 2.5, 1.0]]
    assert targets.tolist() == [[1.5, 3.5, 4.0]]
    whole, returns = gae(reward, value, mask, gamma=0.5, lam=1.0)
    # to the end: 1 + 0.5 * 2 + 0.25 * 4 = 3;  2 + 0.5 * 4 = 4;  4
    assert returns.tolist() == [[3.0, 4.0, 4.0]]
    assert whole.tolist() == [[2.5, 3.0, 1.0]]


def test_a_row_alone_has_the_same_advantages():
    reward, value, mask = ragged(5, torch.float64)
    assert len(mask) > 1
    together = gae(reward, value, mask, 0.99, 0.95)
    for b, length in enumerate(mask.sum(1).tolist()):
        alone = gae(reward[b : b + 1, :length], value[b : b + 1, :length], mask[b : b + 1, :length], 0.99, 0.95)
        for a, c in zip(alone, together, strict=True):
            assert torch.equal(a[0], c[b, :length])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_whitened_advantages_have_no_mean_and_unit_variance(dtype):
    worst_mean = worst_variance = 0.0
    for i in range(CASES):
        reward, value, mask = ragged(i, dtype)
        advantage, _ = gae(reward, value, mask, 1.0, 0.95)
        if advantage[mask].double().std(correction=0) < 1e-3:  # near the floor of 1e-4
            continue
        white = whiten(advantage, mask)[mask].double()
        worst_mean = max(worst_mean, abs(float(white.mean())))
        worst_variance = max(worst_variance, abs(float(white.var(correction=0)) - 1))
    assert worst_variance <= 1e-6
    assert worst_mean <= 1e-6


def test_whitening_when_all_answers_earn_alike():
    """64 answers of three tokens that all earn +1, but for a KL penalty of about 0.01: the mean is 100 deviations."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(1 + 0.01 * rng.normal(size=(64, 3))).float()
    mask = torch.ones((64, 3), dtype=torch.bool)
    white = whiten(x, mask).double()
    assert abs(float(white.mean())) <= 1e-6
    assert float(white.var(correction=0)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_whitening_blows_no_noise_up(dtype):
    """Two values 2e-6 apart: the deviation of 1e-6 is floored at 1e-4, so they become -0.01 and 0.01."""
    x = torch.tensor([[-1e-6, 1e-6, 5.0]], dtype=dtype)
    white = whiten(x, torch.tensor([[True, True, False]]))
    assert white[0].tolist() == pytest.approx([-0.01, 0.01, 0.0], rel=1e-6)
