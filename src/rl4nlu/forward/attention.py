"""Attention over a tree of tokens, as a function that transformers' models call in place of their own.

`model(..., context=one)` hands a context down to every layer's attention; it is a `TreeAttention` where a whole tree is
read, a `decode.Step` where one more token of every answer is. Without a context the models attend as they always do.

Shapes: H heads, G key/value heads, N tokens, D a head's width; others as in tree.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..tree import Group, Tree

NAME = "rl4nlu"


class Attends(Protocol):
    """Computes the attention of one layer."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """Queries (1, H, N, D), keys and values (1, G, N, D) -> (1, N, H, D)."""
        ...


@dataclass(frozen=True)
class How:
    """What a layer says about its attention."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    context: Attends | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a layer, in the form that transformers' models call it."""
    how = How(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap, dropout)
    if context is not None:
        return context.attend(module.layer_idx, query, key, value, how), None
    if softcap is None:
        sdpa: Callable[..., tuple[Tensor, None]] = ALL_ATTENTION_FUNCTIONS["sdpa"]
        given = {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window, **kwargs}
        return sdpa(module, query, key, value, attention_mask, **given)
    bias = attention_mask
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill_(~bias, torch.finfo(query.dtype).min)
    elif bias is None:
        least = torch.finfo(query.dtype).min
        bias = torch.full((query.shape[2], key.shape[2]), least, dtype=query.dtype, device=query.device)
        bias = bias.triu_(key.shape[2] - query.shape[2] + 1)
    return _attend(query, key, value, bias, how).transpose(1, 2), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def use(model: Any, name: str = NAME) -> None:
    """Let a model's layers call `attention`, or a function of transformers by its name."""
    if model.config._attn_implementation != name:
        for module in model.modules():
            if hasattr(module, "config") and hasattr(module.config, "_attn_implementation"):
                module.config._attn_implementation = name


class TreeAttention:
    """Every token sees itself and those in front of it on its path.

    Args:
        tree: which tokens there are.
        keep: is given each layer's keys and values, (N, G, D).
    """

    def __init__(self, tree: Tree, keep: Callable[[int, Tensor, Tensor], None] | None = None) -> None:
        self.tree = tree
        self.keep = keep
        self.token_M = torch.cat([group.token_nT.flatten() for group in tree.groups])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """See `Attends`."""
        tree = self.tree
        query_NHD, key_NGD, value_NGD = (x[0].transpose(0, 1) for x in (query, key, value))
        if self.keep is not None:
            self.keep(layer, key_NGD, value_NGD)
        query_MHD = _Slots.apply(query_NHD, self.token_M, tree.slot_N)
        keys, values = _Keys.apply(key_NGD, tree), _Keys.apply(value_NGD, tree)
        found, at = [], 0
        for group, bias, k, v in zip(tree.groups, tree.biases(how.window, query.dtype), keys, values, strict=True):
            n, T = group.token_nT.shape
            q = query_MHD[at : at + n * T].unflatten(0, (n, T)).transpose(1, 2)
            out = _attend(q, k.transpose(1, 2), v.transpose(1, 2), bias, how)
            found.append(out.transpose(1, 2).flatten(0, 1))
            at += n * T
        return _Tokens.apply(torch.cat(found) if len(found) > 1 else found[0], tree.slot_N)[None]


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, how: How) -> Tensor:
    """Queries (n, H, T, D), keys and values (n, G, S, D) -> (n, H, T, D); without a bias attention is causal."""
    times = query.shape[1] // key.shape[1]
    if how.softcap is None:
        if times > 1:
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        return scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=how.dropout, is_causal=bias is None, scale=how.scale
        )
    if times > 1:
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    score = query @ key.transpose(2, 3) * how.scale
    score = torch.tanh(score / how.softcap) * how.softcap
    if bias is None:
        T = query.shape[2]
        bias = torch.full((T, T), torch.finfo(score.dtype).min, dtype=score.dtype, device=score.device).triu_(1)
    weight = torch.nn.functional.dropout((score + bias).softmax(-1, dtype=torch.float32), how.dropout)
    return weight.to(value.dtype) @ value


class _Slots(torch.autograd.Function):
    """Tokens -> slots; the gradient of a token is that of its one slot, so that nothing needs to be added up."""

    @staticmethod
    def forward(ctx: Any, x_NHD: Tensor, token_M: Tensor, slot_N: Tensor) -> Tensor:
        ctx.save_for_backward(slot_N)
        return x_NHD.index_select(0, token_M)

    @staticmethod
    def backward(ctx: Any, grad_MHD: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (slot_N,) = ctx.saved_tensors
        return grad_MHD.index_select(0, slot_N), None, None


class _Tokens(torch.autograd.Function):
    """Slots -> tokens; the gradient of padding is zero."""

    @staticmethod
    def forward(ctx: Any, x_MHD: Tensor, slot_N: Tensor) -> Tensor:
        ctx.save_for_backward(slot_N)
        ctx.slots = len(x_MHD)
        return x_MHD.index_select(0, slot_N)

    @staticmethod
    def backward(ctx: Any, grad_NHD: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (slot_N,) = ctx.saved_tensors
        full = grad_NHD.new_zeros((ctx.slots, *grad_NHD.shape[1:]))
        return full.index_copy_(0, slot_N, grad_NHD), None


class _Keys(torch.autograd.Function):
    """Keys (or values) of all tokens -> those that each group sees, ancestors first: (n, S, G, D)."""

    @staticmethod
    def forward(ctx: Any, x_NGD: Tensor, tree: Tree) -> tuple[Tensor, ...]:
        ctx.tree = tree
        return tuple(_Keys._seen(x_NGD, group) for group in tree.groups)

    @staticmethod
    def _seen(x_NGD: Tensor, group: Group) -> Tensor:
        n, T = group.token_nT.shape
        own = x_NGD.index_select(0, group.token_nT.flatten()).unflatten(0, (n, T))
        above = [x_NGD[start:stop].expand(n, -1, -1, -1) for start, stop in group.path]
        return torch.cat([*above, own], 1) if above else own

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        tree: Tree = ctx.tree
        own = [grad[:, group.above :].flatten(0, 1) for grad, group in zip(grads, tree.groups, strict=True)]
        total_NGD = torch.cat(own).index_select(0, tree.slot_N)
        for grad, group in zip(grads, tree.groups, strict=True):
            at = 0
            for start, stop in group.path:
                total_NGD[start:stop] += grad[:, at : at + stop - start].sum(0)
                at += stop - start
        return total_NGD, None
