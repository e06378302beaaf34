"""Attention over a tree of tokens, as a function that transformers' models call in place of their own.

`model(..., context=one)` hands a context down to every layer's attention; it is a `TreeAttention` where a whole tree is
read, `decode.Branches` where one more token of every answer is. Without a context the models attend as they always do.

Shapes: H heads, G key/value heads, N tokens, D a head's width; others as in tree.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
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
    slope_H: Tensor | None = None
    """ALiBi: how much each head lowers a score for one token of distance."""


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


@dataclass(frozen=True)
class _Part:
    """The queries of one group of blocks."""

    group: Group
    query_M: Tensor
    """Which query each of its slots holds, block by block; padding holds any."""
    slot_nQ: Tensor | None
    """Which of its block's slots each query stands in; None: all, in their order."""
    biases: dict[tuple[int | None, torch.dtype], Tensor | None] = field(default_factory=dict)
    """As `bias`: the layers of a model have one window, or two, and all the same slopes."""

    def bias(self, tree: Tree, how: How, dtype: torch.dtype) -> Tensor | None:
        """What is added to the attention scores, (n, 1 or H, Q, S)."""
        if (how.window, dtype) not in self.biases:
            bias = tree.bias(self.group, how.window, dtype, self.slot_nQ, causal=how.slope_H is None)
            if bias is not None and how.slope_H is not None:
                far_n1QS = tree.distance(self.group, self.slot_nQ)
                bias = bias - (how.slope_H[:, None, None] * far_n1QS.clamp(min=0)).to(dtype)
            self.biases[how.window, dtype] = bias
        return self.biases[how.window, dtype]


class TreeAttention:
    """Every token sees itself and those in front of it on its path.

    Args:
        tree: which tokens there are.
        want_W: the tokens whose states are asked for behind the last layer, in ascending order.
        keep: is given each layer's keys and values, (N, G, D).
    """

    def __init__(self, tree: Tree, want_W: Tensor, keep: Callable[[int, Tensor, Tensor], None] | None = None) -> None:
        self.tree, self.want_W, self.keep = tree, want_W, keep
        self.parts = [_Part(group, group.token_nT.flatten(), None) for group in tree.groups]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """See `Attends`."""
        return self._attend(layer, query, key, value, how, self.parts, self.tree.slot_N)

    def attend_wanted(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """The same for the wanted tokens only: queries (1, H, W, D) -> (1, W, H, D)."""
        parts, slot_W = self._wanted
        return self._attend(layer, query, key, value, how, parts, slot_W)

    @cached_property
    def _wanted(self) -> tuple[list[_Part], Tensor]:
        """The groups with wanted tokens, and where each of these stands among their slots."""
        tree, device = self.tree, self.want_W.device
        rank_N = torch.full_like(tree.end_N, -1)
        rank_N[self.want_W] = torch.arange(len(self.want_W), device=device)
        parts, slots, at = [], torch.empty_like(self.want_W), 0
        for group in tree.groups:
            wanted_nT = (rank_N[group.token_nT] >= 0) & group.real_nT
            count_n = wanted_nT.sum(1)
            some_n = count_n > 0
            if not bool(some_n.any()):
                continue
            group, wanted_nT, count_n = group.of_blocks(some_n), wanted_nT[some_n], count_n[some_n]
            Q = int(count_n.max())
            slot_nQ = wanted_nT.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :Q]
            query_nQ = rank_N[group.token_nT.gather(1, slot_nQ)]
            real_nQ = torch.arange(Q, device=device) < count_n[:, None]
            slots[query_nQ[real_nQ]] = real_nQ.flatten().nonzero()[:, 0] + at
            at += query_nQ.numel()
            parts.append(_Part(group, query_nQ.clamp(min=0).flatten(), slot_nQ))
        return parts, slots

    def _attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How, parts: list[_Part], slot_W: Tensor
    ) -> Tensor:
        query_WHD, key_NGD, value_NGD = (x[0].transpose(0, 1) for x in (query, key, value))
        if self.keep is not None:
            self.keep(layer, key_NGD, value_NGD)
        query_MHD = _Slots.apply(query_WHD, torch.cat([part.query_M for part in parts]), slot_W)
        groups = [part.group for part in parts]
        keys, values = _Keys.apply(key_NGD, groups), _Keys.apply(value_NGD, groups)
        found, at = [], 0
        for part, k, v in zip(parts, keys, values, strict=True):
            n, size = len(k), len(part.query_M)
            q = query_MHD[at : at + size].unflatten(0, (n, size // n)).transpose(1, 2)
            bias = part.bias(self.tree, how, query.dtype)
            out = _attend(q, k.transpose(1, 2), v.transpose(1, 2), bias, how)
            found.append(out.transpose(1, 2).flatten(0, 1))
            at += size
        return _Tokens.apply(torch.cat(found) if len(found) > 1 else found[0], slot_W)[None]


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, how: How) -> Tensor:
    """Queries (n, H, T, D), keys and values (n, G, S, D) -> (n, H, T, D); without a bias attention is causal."""
    times = query.shape[1] // key.shape[1]
    if times > 1:
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    if how.softcap is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=how.dropout, is_causal=bias is None, scale=how.scale
        )
    score = query @ key.transpose(2, 3) * how.scale
    score = torch.tanh(score / how.softcap) * how.softcap
    if bias is None:
        T = query.shape[2]
        bias = torch.full((T, T), torch.finfo(score.dtype).min, dtype=score.dtype, device=score.device).triu_(1)
    weight = torch.nn.functional.dropout((score + bias).softmax(-1, dtype=torch.float32), how.dropout)
    return weight.to(value.dtype) @ value


def permuted(x_NHD: Tensor, token_N: Tensor, place_N: Tensor) -> Tensor:
    """Tokens in another order, and where each of them has gone."""
    found: Tensor = _Slots.apply(x_NHD, token_N, place_N)
    return found


class _Slots(torch.autograd.Function):
    """Tokens -> slots; the gradient of a token is that of its one slot, so that nothing needs to be added up."""

    @staticmethod
    def forward(ctx: Any, x_NHD: Tensor, token_M: Tensor, slot_N: Tensor) -> Tensor:
        """Pick the slots."""
        ctx.save_for_backward(slot_N)
        return x_NHD.index_select(0, token_M)

    @staticmethod
    def backward(ctx: Any, grad_MHD: Tensor) -> tuple[Tensor, None, None]:
        """Pick each token's slot."""
        (slot_N,) = ctx.saved_tensors
        return grad_MHD.index_select(0, slot_N), None, None


class _Tokens(torch.autograd.Function):
    """Slots -> tokens; the gradient of padding is zero."""

    @staticmethod
    def forward(ctx: Any, x_MHD: Tensor, slot_N: Tensor) -> Tensor:
        """Pick each token's slot."""
        ctx.save_for_backward(slot_N)
        ctx.slots = len(x_MHD)
        return x_MHD.index_select(0, slot_N)

    @staticmethod
    def backward(ctx: Any, grad_NHD: Tensor) -> tuple[Tensor, None]:
        """Put the tokens into their slots."""
        (slot_N,) = ctx.saved_tensors
        full = grad_NHD.new_zeros((ctx.slots, *grad_NHD.shape[1:]))
        return full.index_copy_(0, slot_N, grad_NHD), None


class _Keys(torch.autograd.Function):
    """Keys (or values) of all tokens -> those that each group sees, ancestors first: (n, S, G, D)."""

    @staticmethod
    def forward(ctx: Any, x_NGD: Tensor, groups: list[Group]) -> tuple[Tensor, ...]:
        """The keys of each group."""
        ctx.groups, ctx.tokens = groups, len(x_NGD)
        return tuple(_Keys._seen(x_NGD, group) for group in groups)

    @staticmethod
    def _seen(x_NGD: Tensor, group: Group) -> Tensor:
        n, T = group.token_nT.shape
        own = x_NGD.index_select(0, group.token_nT.flatten()).unflatten(0, (n, T))
        above = [x_NGD[start:stop].expand(n, -1, -1, -1) for start, stop in group.path]
        return torch.cat([*above, own], 1) if above else own

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Each token's own gradient, and the sum over the blocks that see it from below."""
        total_NGD = grads[0].new_zeros((ctx.tokens, *grads[0].shape[2:]))
        for grad, group in zip(grads, ctx.groups, strict=True):  # no token is in two blocks
            token_R, slot_R = group.real
            total_NGD.index_copy_(0, token_R, grad[:, group.above :].flatten(0, 1).index_select(0, slot_R))
        for grad, group in zip(grads, ctx.groups, strict=True):
            at = 0
            for start, stop in group.path:
                total_NGD[start:stop] += grad[:, at : at + stop - start].sum(0)
                at += stop - start
        return total_NGD, None
