"""Learning rate and optimizer step; the seeds that must never change."""

from __future__ import annotations

import pytest
import torch

from rl4nlu import optim
from rl4nlu.config import SftSettings, validate
from rl4nlu.seeding import derive, generator


def settings(**values) -> SftSettings:
    return validate(SftSettings, values)


def test_steps():
    assert optim.steps_of(settings(epochs=3, batch_size=32), 100) == 10  # 300 / 32 = 9.4
    assert optim.steps_of(settings(epochs=0.5, batch_size=32), 10) == 1
    assert optim.steps_of(settings(epochs=3, max_steps=7), 100) == 7


def test_learning_rate_by_hand():
    linear = settings(warmup=0.1)
    rates = [optim.rate_at(linear, 1.0, step, 20) for step in range(20)]
    assert rates[:3] == [0.5, 1.0, 1.0]  # two warm-up steps, then the peak
    assert rates[11] == pytest.approx(0.5)  # half of the 18 steps that decay
    assert rates[-1] == pytest.approx(1 / 18)
    flat = settings(schedule="constant", warmup=0.0)
    assert {optim.rate_at(flat, 1.0, step, 20) for step in range(20)} == {1.0}


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_a_step_clips_and_refuses_what_is_not_finite(name):
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = optim.make_optimizer(settings(optimizer=name), [weight])
    weight.grad = torch.full((4,), 3.0)
    assert optim.apply(optimizer, [weight], 0.1, max_norm=1.0) == pytest.approx(6.0)
    assert weight.grad is None
    moved = weight.detach().clone()
    assert not torch.equal(moved, torch.ones(4))
    weight.grad = torch.tensor([1.0, float("nan"), 0.0, 0.0])
    with pytest.raises(FloatingPointError, match="not finite"):
        optim.apply(optimizer, [weight], 0.1, max_norm=1.0)
    assert torch.equal(weight, moved)


def test_seeds_are_fixed_for_ever():
    """SHA-256 of "seed/purpose/step", first 63 bits; worked out with sha256sum."""
    assert derive(0, "order") == 0x6DCAE06B2FEBCA6E >> 1
    assert derive(7, "rollout", 12) == 0xA0538C79ECA6EACC >> 1
    assert (
        generator(0, "order", 1).integers(1000, size=3).tolist()
        != generator(0, "order", 2).integers(1000, size=3).tolist()
    )
    assert len({derive(seed, purpose, step) for seed in range(5) for purpose in "ab" for step in range(5)}) == 50
