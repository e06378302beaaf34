"""Policies for tests: tiny random models with a tokenizer that writes numbers."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from models_zoo import V, tiny
from rl4nlu.forward import shares_prefix
from rl4nlu.models import Policy


class Numbers(SimpleNamespace):
    """A tokenizer that writes numbers, and has one for every row of the tiny models' embeddings."""

    def __len__(self) -> int:
        return V


def tiny_policy(name: str, eos: int | None = None, seed: int = 0) -> Policy:
    """A tiny random model; token 7 is written as " 7"."""
    model = tiny(name, seed)
    model.generation_config.eos_token_id = eos
    tokenizer = Numbers(
        pad_token_id=eos,  # the case of Llama-2 and MPT: padding is the end token
        eos_token_id=eos,
        decode=lambda ids, skip_special_tokens: "".join(f" {i}" for i in ids if i != eos),
    )
    return Policy(name, model, tokenizer, shares_prefix(model))


def assert_same_gradients(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    """Equal but for rounding in float32, measured against the largest gradient of all: sums in another order were seen
    to differ by 1.3e-5 of it with one thread, 0.8e-5 with two."""
    largest = max(float(gradient.abs().max()) for gradient in a)
    assert largest > 0
    for one, other in zip(a, b, strict=True):
        assert float((one - other).abs().max()) <= 3e-5 * largest
