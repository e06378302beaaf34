"""Losses: what test_maths.py leaves open. Any clip, value clipping by hand, the first update, every gradient."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from reference import ppo as reference
from rl4nlu.losses import ppo_loss, sft_loss

CASES = 1000
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
NAMES = ("logp", "old_logp", "advantage", "value", "old_value", "return", "entropy")
LEARNT = ("logp", "value", "entropy")


def ragged(i: int, dtype: torch.dtype = torch.float64) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The inputs by name, and the mask: 2 to 6 rows of 1 to 8 tokens; zeros behind the end."""
    rng = np.random.default_rng(30_000 + i)
    length = rng.integers(1, 9, size=int(rng.integers(2, 7)))
    mask = np.arange(length.max()) < length[:, None]
    case = {name: rng.normal(size=mask.shape) for name in NAMES}
    case["logp"] = case["old_logp"] + 0.3 * rng.normal(size=mask.shape)
    case["value"] = case["old_value"] + 0.3 * rng.normal(size=mask.shape)
    return {k: torch.from_numpy(np.where(mask, v, 0.0)).to(dtype) for k, v in case.items()}, torch.from_numpy(mask)


def total(case, mask, count, clip=0.2, value_clip=0.2, value_coef=0.5, entropy_coef=0.01):
    return ppo_loss(*(case[n] for n in NAMES), mask, count, clip, value_clip, value_coef, entropy_coef)


def with_leaves(case):
    leaves = {name: case[name].clone().requires_grad_() for name in LEARNT}
    return {**case, **leaves}, list(leaves.values())


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_any_clip_and_coefficient_against_numpy(dtype):
    rng = np.random.default_rng(0)
    for i in range(CASES):
        case, mask = ragged(i, dtype)
        clip, clip_v = rng.uniform(0.01, 0.5, size=2)
        value_clip = None if i % 3 == 0 else clip_v
        value_coef, entropy_coef = rng.uniform(0, 1, size=2)
        found = total(case, mask, int(mask.sum()), clip, value_clip, value_coef, entropy_coef)
        plain = [case[n].double().numpy() for n in NAMES]
        expected, parts = reference.losses(*plain, mask.numpy(), clip, value_clip, value_coef, entropy_coef)
        assert found.total.dtype == dtype
        assert found.total.item() == found.parts["loss"]
        assert set(found.parts) == {"loss", *parts}
        for name, value in {"loss": expected, **parts}.items():
            assert abs(found.parts[name] - value) <= TOLERANCE[dtype] * max(1.0, abs(value)), (i, name)


@pytest.mark.parametrize(
    ("value", "old", "target", "clip", "loss", "slope"),
    [
        # half the square of the larger error, times the coefficient 0.5; slope = 0.5 * (V - R) where V itself counts
        (1.0, 0.0, 2.0, 0.2, 0.81, 0.0),  # clipped to 0.2: error 1.8 > 1; it may not move further
        (1.0, 0.0, -1.0, 0.2, 1.0, 1.0),  # clipped to 0.2: error 1.2 < 2; the way back is free
        (-1.0, 0.0, -2.0, 0.2, 0.81, 0.0),  # the same, downwards
        (0.1, 0.0, 2.0, 0.2, 0.9025, -0.95),  # within the clip: the plain squared error
        (1.0, 0.0, 2.0, None, 0.25, -0.5),  # no clip
    ],
)
def test_value_clipping_by_hand(value, old, target, clip, loss, slope):
    one = torch.ones((1, 1), dtype=torch.float64)
    zero, v = 0 * one, (value * one).requires_grad_()
    found = ppo_loss(zero, zero, zero, v, old * one, target * one, zero, one.bool(), 1, 0.2, clip, 0.5, 0.0)
    found.total.backward()
    assert found.total.item() == pytest.approx(loss, abs=1e-12)
    assert found.parts["value_loss"] == pytest.approx(2 * loss, abs=1e-12)
    assert v.grad.item() == pytest.approx(slope, abs=1e-12)


@pytest.mark.parametrize("value_clip", [0.2, None])
def test_the_first_update_is_the_plain_policy_gradient(value_clip):
    """Ratio one and V = V_old tie both branches of min and max: the gradient must still be whole, not half of it."""
    case, mask = ragged(3)
    case, (logp, value, entropy) = with_leaves({**case, "logp": case["old_logp"], "value": case["old_value"]})
    n = int(mask.sum())
    found = total(case, mask, n, value_clip=value_clip)
    found.total.backward()
    assert torch.allclose(logp.grad, -case["advantage"] / n, rtol=0, atol=1e-15)
    assert torch.allclose(value.grad, 0.5 * (case["value"] - case["return"]).detach() / n, rtol=0, atol=1e-15)
    assert torch.allclose(entropy.grad, -0.01 / n * mask.double(), rtol=0, atol=1e-15)
    assert found.parts["ratio"] == pytest.approx(1, abs=1e-15)
    assert found.parts["approx_kl"] == found.parts["clipfrac"] == 0


def margin(case, mask, clip, value_clip) -> float:
    """How far the nearest token is from a kink: ratio or value at its clip, or two equal value errors."""
    ratio, moved = (case["logp"] - case["old_logp"]).exp(), (case["value"] - case["old_value"]).abs()
    near = case["old_value"] + (case["value"] - case["old_value"]).clamp(-value_clip, value_clip)
    errors = (case["value"] - case["return"]).abs() - (near - case["return"]).abs()
    errors = torch.where(moved < value_clip, 1.0, errors)  # equal throughout: no kink
    distances = [(ratio - 1 - clip).abs(), (ratio - 1 + clip).abs(), (moved - value_clip).abs(), errors.abs()]
    return min(float(d[mask].min()) for d in distances)


@pytest.mark.parametrize("value_clip", [0.2, None])
def test_gradients_by_finite_differences_away_from_the_kinks(value_clip):
    checked = 0
    for i in range(60):
        case, mask = ragged(i)
        if margin(case, mask, 0.2, 0.2) < 1e-3:
            continue
        checked += 1
        case, leaves = with_leaves(case)

        def loss(*given, case=case, mask=mask):
            return total({**case, **dict(zip(LEARNT, given, strict=True))}, mask, 7, value_clip=value_clip).total

        assert torch.autograd.gradcheck(loss, leaves)
        assert torch.autograd.gradcheck(lambda logp, mask=mask: sft_loss(logp, mask, 7).total, leaves[:1])
    assert checked >= 20


@pytest.mark.parametrize("garbage", [1e30, -1e30, float("inf"), float("-inf"), float("nan")])
def test_masked_positions_change_no_bit_of_any_part_or_gradient(garbage):
    for i in range(50):
        case, mask = ragged(i, torch.float32)
        seen = []
        for filler in (0.0, garbage):
            filled, leaves = with_leaves({name: torch.where(mask, x, filler) for name, x in case.items()})
            loss, sft = total(filled, mask, 7), sft_loss(filled["logp"], mask, 7)
            (loss.total + sft.total).backward()
            seen.append((loss.parts, sft.parts, [leaf.grad for leaf in leaves]))
        assert seen[0][:2] == seen[1][:2], i
        for a, b in zip(seen[0][2], seen[1][2], strict=True):
            assert torch.equal(a, b), i
            assert (b[~mask] == 0).all(), i


def test_any_cut_into_micro_batches_gives_the_same_loss_and_gradients():
    for i in range(100):
        case, mask = ragged(i)
        rows, count = len(mask), int(mask.sum())
        rng = np.random.default_rng(i)
        cuts = sorted({0, rows, *rng.integers(1, rows, size=2).tolist()})
        found = []
        for pieces in ([(0, rows)], list(pairwise(cuts)), [(b, b + 1) for b in range(rows)]):
            whole, leaves = with_leaves(case)
            sums = dict.fromkeys(total(case, mask, count).parts, 0.0) | {"sft": 0.0}
            for start, stop in pieces:
                longest = int(mask[start:stop].sum(1).max())  # as micro_batches does: no column that is all padding
                part = {name: x[start:stop, :longest] for name, x in whole.items()}
                loss = total(part, mask[start:stop, :longest], count)
                sft = sft_loss(part["logp"], mask[start:stop, :longest], count)
                (loss.total + sft.total).backward()
                for name, value in (loss.parts | {"sft": sft.parts["loss"]}).items():
                    sums[name] += value
            found.append((sums, [leaf.grad for leaf in leaves]))
        for sums, gradients in found[1:]:
            assert sums == pytest.approx(found[0][0], rel=1e-12, abs=1e-14), i
            for a, b in zip(gradients, found[0][1], strict=True):
                assert torch.allclose(a, b, rtol=1e-12, atol=1e-15), i


def test_sft_loss_by_hand():
    """-(-1 - 2 - 4) / 3; a count of the whole batch, here 6, halves this micro-batch's share."""
    logp = torch.tensor([[-1.0, -2.0], [-4.0, 9.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    assert sft_loss(logp, mask, 3).total.item() == pytest.approx(7 / 3)
    loss = sft_loss(logp, mask, 6)
    loss.total.backward()
    assert loss.parts == {"loss": pytest.approx(7 / 6)}
    assert torch.allclose(logp.grad, -mask.float() / 6)


def test_shapes_that_differ_are_refused():
    case, mask = ragged(0)
    with pytest.raises(AssertionError, match="shapes differ"):
        total({**case, "value": case["value"][:, :, None]}, mask, 1)
    with pytest.raises(AssertionError):
        sft_loss(case["logp"][:1], mask, 1)


def test_the_kl_term_of_grpo_by_hand():
    """pi_ref = 2 pi: k3 = 2 - 1 - log 2, and its slope by log pi is 1 - 2."""
    one = torch.zeros(1, 1, dtype=torch.float64)
    logp = one.clone().requires_grad_()
    ref, mask = torch.full_like(one, np.log(2)), torch.ones(1, 1, dtype=torch.bool)
    loss = ppo_loss(logp, one, one, one, one, one, one, mask, 1, 0.2, None, 0.0, 0.0, ref, 0.3)
    assert loss.total.item() == pytest.approx(0.3 * (1 - np.log(2)), abs=1e-12)
    loss.total.backward()
    assert logp.grad.item() == pytest.approx(-0.3, abs=1e-12)


def test_the_kl_term_of_grpo_against_numpy():
    """The mean of k3 over the tokens that count; what stands at the others, NaN too, counts nowhere."""
    for i in range(100):
        case, mask = ragged(i)
        ref = case["logp"] + 0.3 * torch.from_numpy(np.random.default_rng(i).normal(size=tuple(mask.shape)))
        ref = torch.where(mask, ref, torch.nan)
        count = int(mask.sum())
        plain = total(case, mask, count).total.item()
        whole = ppo_loss(*(case[n] for n in NAMES), mask, count, 0.2, 0.2, 0.5, 0.01, ref, 0.3).total.item()
        k3 = reference.kl_estimates(case["logp"].numpy(), ref.numpy())[2][mask.numpy()].mean()
        assert whole - plain == pytest.approx(0.3 * k3, abs=1e-12)
