"""Muon, the optimizer of a Llama's matrices in scripts/pretrain.py."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Momentum of Nesterov's kind, made orthogonal, at the size of an AdamW step (Jordan et al. 2024; the scale of
    Liu et al. 2025, arXiv 2502.16982). Unlike torch's own it takes matrices of one shape together.

    Args:
        weights: matrices.
        weight_decay: decoupled, times the learning rate.
        dtype: in which the iterations are computed.
    """

    def __init__(
        self, weights: list[torch.nn.Parameter], weight_decay: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(weights, {"lr": 0.0, "weight_decay": weight_decay, "momentum": 0.95})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change the weights by their gradients."""
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
                X = (X / X.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(self.dtype)
                for _ in range(5):
                    A = X @ X.mT
                    B = torch.baddbmm(A, A, A, beta=-4.7750, alpha=2.0315)
                    X = torch.baddbmm(X, B, X, beta=3.4445)
                for (weight, _), change in zip(pairs, X, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(change, alpha=group["lr"] * 0.2 * math.sqrt(max(shape)))
