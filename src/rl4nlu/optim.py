"""Optimizer and learning rate, alike for every training loop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from .guards import Source, not_finite
from .models import Policy
from .settings import ClassifySettings, TrainSettings


def steps_of(settings: TrainSettings, rows: int) -> int:
    """How many steps a run has: its epochs over the rows, or `max_steps`."""
    return settings.max_steps or max(1, rounded_up(settings.epochs * rows / settings.batch_size))


def rounded_up(x: float) -> int:
    """Rounded up, but not for what is only rounding error: 1.1 * 50 / 11 is 5."""
    return math.ceil(round(x, 9))


def base_rate(settings: TrainSettings, policy: Policy, at_width_256: float) -> float:
    """The peak learning rate: as set, or `at_width_256` falling with the root of the model's width (1/4 at 4,096).

    The scale is a rule of thumb between the rates that worked on the bundled model and those usual for LoRA at 7B.
    """
    width = policy.model.get_output_embeddings().weight.shape[1]
    return settings.learning_rate or at_width_256 * math.sqrt(256 / width)


def rate_at(settings: TrainSettings | ClassifySettings, base: float, step: int, steps: int) -> float:
    """Learning rate of a step, a function of the step alone: linear warm-up, then linear decay or none."""
    warm = rounded_up(settings.warmup * steps)
    if step < warm:
        return base * (step + 1) / warm
    return base * (steps - step) / max(1, steps - warm) if settings.schedule == "linear" else base


def make_optimizer(settings: TrainSettings, weights: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, or Adafactor with a fixed rate (Shazeer & Stern 2018); the rate is set each step."""
    if settings.optimizer == "adafactor":
        from transformers import Adafactor

        return Adafactor(weights, lr=0.0, scale_parameter=False, relative_step=False, warmup_init=False)
    return torch.optim.AdamW(weights, lr=0.0, weight_decay=settings.weight_decay)


def clear(weights: Sequence[nn.Parameter]) -> None:
    """Forget the gradients: a step that is begun anew begins without."""
    for weight in weights:
        weight.grad = None


def apply(
    optimizer: torch.optim.Optimizer,
    weights: Sequence[nn.Parameter],
    rate: float,
    max_norm: float,
    rows: Sequence[Source] = (),
) -> float:
    """Clip the gradients, step, clear them. Returns the norm before clipping.

    Args:
        optimizer: of these weights.
        weights: those that have gradients.
        rate: learning rate of this step.
        max_norm: to which the gradients are clipped.
        rows: what the gradients come from, to be named if they are not finite.

    Raises:
        Diverged: the gradient is not finite; the weights are left as they were.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(weights, max_norm))
    if not math.isfinite(norm):
        raise not_finite("the gradient is", rows)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
