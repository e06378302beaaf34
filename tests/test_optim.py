"""Learning rate and optimizer step; the seeds that must never change."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from rl4nlu import optim
from rl4nlu.config import validate
from rl4nlu.seeding import derive, generator
from rl4nlu.settings import SftSettings


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


def test_the_default_rate_falls_with_the_root_of_the_width():
    def policy(width):
        return SimpleNamespace(model=SimpleNamespace(get_output_embeddings=lambda: torch.nn.Linear(width, 2)))

    rates = {width: optim.base_rate(settings(), policy(width), 1e-4) for width in (256, 1024, 4096)}
    assert rates == pytest.approx({256: 1e-4, 1024: 5e-5, 4096: 2.5e-5})
    assert optim.base_rate(settings(learning_rate=3e-4), policy(4096), 1e-4) == 3e-4


def test_weight_decay_reaches_the_optimizer():
    weight = torch.nn.Parameter(torch.ones(4))
    assert optim.make_optimizer(settings(weight_decay=0.1), [weight]).param_groups[0]["weight_decay"] == 0.1


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


def test_clipping_by_hand():
    """Gradient (3, 4), norm 5, clipped to 1: (0.6, 0.8); one plain step at rate 0.5. A norm below 1 stays."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    weight.grad = torch.tensor([3.0, 4.0])
    assert optim.apply(optimizer, [weight], 0.5, max_norm=1.0) == pytest.approx(5.0)
    assert weight.tolist() == pytest.approx([-0.3, -0.4], abs=1e-5)
    weight.grad = torch.tensor([0.3, 0.4])
    assert optim.apply(optimizer, [weight], 1.0, max_norm=1.0) == pytest.approx(0.5)
    assert weight.tolist() == pytest.approx([-0.6, -0.8], abs=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_leaves_weights_and_moments(bad):
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = optim.make_optimizer(settings(), weights)
    for weight in weights:
        weight.grad = torch.ones(2)
    optim.apply(optimizer, weights, 0.1, 1.0)
    before = [tensor.clone() for w in weights for tensor in (w.detach(), *optimizer.state[w].values())]
    weights[0].grad, weights[1].grad = torch.ones(2), torch.tensor([0.0, bad])
    with pytest.raises(FloatingPointError):
        optim.apply(optimizer, weights, 0.1, 1.0)
    after = [tensor for w in weights for tensor in (w.detach(), *optimizer.state[w].values())]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_warm_up_then_constant_by_hand():
    """A fifth of ten steps to climb: 1/2, 1, then the peak throughout."""
    flat = settings(schedule="constant", warmup=0.2)
    assert [optim.rate_at(flat, 3.0, step, 10) for step in range(10)] == [1.5] + [3.0] * 9
    assert optim.rate_at(settings(warmup=0.03), 3.0, 0, 1) == 3.0  # one step alone: neither zero nor an error
