"""A model run without numbers: on the device "meta" tensors have sizes and nothing else. Every tensor that is made is
counted while it is alive; attention makes tensors of the sizes that the real one makes.

Shapes: as in forward/attention.py.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .forward import run
from .forward.attention import How
from .tree import Tree

META = torch.device("meta")
MAPPED = 32 << 20
"""glibc maps blocks of this size each on its own and hands them back; smaller ones lie in its heap, side by side with
what stays, and the holes between are not filled again by blocks of their own size."""
HOLES = 2.2
"""What the heap takes for each byte of tensors that is alive at the peak. Measured with `benchmarks/memory.py`, glibc
2.36 (MALLOC_MMAP_THRESHOLD_=1048576 in the environment makes it 1, and a step a third slower)."""


class Counting(TorchDispatchMode):
    """Within this block every tensor on "meta" that is made is counted until it is gone.

    Args:
        known: tensors that were there before, and are not counted.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.small = self.large = self.most_small = 0
        self.peak = 0
        """The most bytes that were alive at a time."""
        self.most = 0
        """The most bytes that a process with glibc's heap had for them."""
        self._kept = [tensor.untyped_storage() for tensor in known]
        self._known = {id(storage) for storage in self._kept}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor) and leaf.device == META:
                self._count(leaf.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        self._add(storage.nbytes(), 1)
        self.peak = max(self.peak, self.small + self.large)
        self.most_small = max(self.most_small, self.small)
        self.most = max(self.most, int(HOLES * self.most_small) + self.large)
        weakref.finalize(storage, self._forget, id(storage), storage.nbytes()).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.remove(key)
        self._add(size, -1)

    def _add(self, size: int, sign: int) -> None:
        if size < MAPPED:
            self.small += sign * size
        else:
            self.large += sign * size


def read(model: Any, tokens: int, context: Any) -> Tensor:
    """`forward.run` over made-up tokens."""
    ids_1N = torch.zeros((1, tokens), dtype=torch.long, device=META)
    return run(model, ids_1N, torch.zeros_like(ids_1N), context)


def whole(model: Any, rows: int, length: int) -> Tensor:
    """Logits of whole sequences, as models read them that share nothing."""
    ids = torch.zeros((rows, length), dtype=torch.long, device=META)
    # a mask that is given spares the models a look at its numbers, which there are none of
    mask = torch.zeros((rows, 1, length, length), dtype=model.dtype, device=META)
    found: Tensor = model(input_ids=ids, position_ids=ids, attention_mask=mask, use_cache=False).logits
    return found


@dataclass
class TreeShapes:
    """Makes tensors of the sizes of those that `attention.TreeAttention` makes."""

    tree: Tree
    wanted: int
    dtype: torch.dtype
    keep: tuple[int, int] | None = None
    """K answers to each row will follow, with room for so many tokens: keep keys and values."""
    kept: list[Tensor] = field(default_factory=list)

    @property
    def want_W(self) -> Tensor:
        """The tokens whose states are asked for."""
        return torch.zeros(self.wanted, dtype=torch.long, device=META)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """See `attention.Attends`."""
        return self._attend(query, key, value, how, [group.token_nT.numel() for group in self.tree.groups])

    def attend_wanted(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """As `TreeAttention.attend_wanted`; the queries are shared out among the groups by their blocks."""
        blocks = [len(group.token_nT) for group in self.tree.groups]
        most = -(-self.wanted // sum(blocks))
        return self._attend(query, key, value, how, [n * most for n in blocks])

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, how: How, slots: Sequence[int]) -> Tensor:
        query_WHD, key_NGD, value_NGD = (x[0].transpose(0, 1) for x in (query, key, value))
        if self.keep is not None:
            self._keep(key_NGD, value_NGD)
        query_MHD = _pick(query_WHD, sum(slots))
        keys = [self._seen(key_NGD, group) for group in self.tree.groups]
        values = [self._seen(value_NGD, group) for group in self.tree.groups]
        if not self.kept or self.keep is not None:
            self._bias(query.dtype, 1 if how.slope_H is None else query.shape[1])
        found, at = [], 0
        times = query.shape[1] // key.shape[1]
        for group, size, k, v in zip(self.tree.groups, slots, keys, values, strict=True):
            q = query_MHD[at : at + size]
            if times > 1:
                k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
            found.append(_Fused.apply(q, k, v) if how.softcap is None else _weighted(q, k, v, group))
            at += size
        out_MHD = torch.cat(found) if len(found) > 1 else found[0]
        return _pick(out_MHD, query.shape[2])[None]

    def _seen(self, x_NGD: Tensor, group: Any) -> Tensor:
        n, T = group.token_nT.shape
        own = _pick(x_NGD, n * T)
        return torch.cat([own, _pick(x_NGD, n * group.above)]) if group.above else own

    def _bias(self, dtype: torch.dtype, heads: int) -> None:
        """What is added to the scores, made once for all layers."""
        for group in self.tree.groups:
            n, T = group.token_nT.shape
            if not group.causal or heads > 1:
                self.kept.append(torch.empty((n, heads, T, group.above + T), dtype=dtype, device=META))

    def _keep(self, key_NGD: Tensor, value_NGD: Tensor) -> None:
        """As `decode.Branches.keep_prompt`."""
        assert self.keep is not None
        K, room = self.keep
        both_2NGD = torch.stack([key_NGD, value_NGD])
        _, _, G, D = both_2NGD.shape
        B, P = len(self.tree.paths), self.tree.shared
        R = max(int(self.tree.deepest) + 1 - P, 0)
        self.kept += [both_2NGD.new_empty((2, B, G, R, D)), both_2NGD.new_empty((2, G, P, D))]
        self.kept.append(both_2NGD.new_zeros((2, B, K, room, G, D)))


@dataclass(frozen=True)
class StepShapes:
    """Makes tensors of the sizes of those that `decode.Branches.attend` makes."""

    B: int
    K: int
    seen: int

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """See `attention.Attends`."""
        scores = [query.new_empty((self.B, self.K, query.shape[1], self.seen)) for _ in range(3)]
        weight = (scores[0] + scores[1]).softmax(-1, dtype=torch.float32)
        del weight
        return query.transpose(1, 2).contiguous()


def _pick(x: Tensor, count: int) -> Tensor:
    """So many of the rows."""
    picked: Tensor = _Picked.apply(x, count)
    return picked


class _Picked(torch.autograd.Function):
    """index_select that keeps nothing: the real ones keep the indices only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int) -> Tensor:
        ctx.shape = x.shape
        return x.new_empty((count, *x.shape[1:]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].new_empty(ctx.shape), None


class _Fused(torch.autograd.Function):
    """torch's fused attention: it keeps its inputs, its output and a number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:2], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What torch's fused attention gives: a tensor of the queries' size."""
    found: Tensor = _Fused.apply(query, key, value)
    return found


def _weighted(query: Tensor, key: Tensor, value: Tensor, group: Any) -> Tensor:
    """Attention with a soft cap: its weights are there, and what they are made of."""
    n, T = group.token_nT.shape
    S, H = group.above + T, query.shape[1]
    q = query.unflatten(0, (n, -1)).transpose(1, 2)
    k, v = (x.unflatten(0, (n, S)).transpose(1, 2) for x in (key, value))
    score = torch.tanh(q @ k.transpose(2, 3)) * 2.0
    weight = (score + score.new_empty((n, 1, 1, S))).softmax(-1, dtype=torch.float32).to(value.dtype)
    assert weight.shape[1] == H
    return (weight @ v).transpose(1, 2).flatten(0, 1)
