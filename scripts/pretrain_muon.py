"""Muon, the optimizer of a Llama's matrices in scripts/pretrain.py."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Momentum of Nesterov's kind, made orthogonal, at the size of an AdamW step (Jordan et al. 2024; the scale of
    Liu et al. 2025, arXiv 2502.16982). torch's own computes in bfloat16, which most CPUs can only imitate.

    Args:
        weights: matrices.
        weight_decay: decoupled, times the learning rate.
    """

    def __init__(self, weights: list[torch.nn.Parameter], weight_decay: float) -> None:
        super().__init__(weights, {"lr": 0.0, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change the weights by their gradients; matrices of one shape go through the iterations together."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            for weight in group["params"]:
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(mean, group["momentum"])
                tall = ahead.shape[0] > ahead.shape[1]
                ahead = ahead.T if tall else ahead
                shapes.setdefault(tuple(ahead.shape), []).append((weight.T if tall else weight, ahead))
            for shape, pairs in shapes.items():
                X = torch.stack([ahead for _, ahead in pairs])
                X = X / X.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
                for _ in range(5):
                    A = X @ X.mT
                    X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
                for (weight, _), change in zip(pairs, X, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(change, alpha=group["lr"] * 0.2 * math.sqrt(max(shape)))
