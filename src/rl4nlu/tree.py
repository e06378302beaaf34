"""A micro-batch as one tree of tokens: what its rows share is there once.

The rows' prompts are merged where they begin alike (the task's instruction and few-shot examples; below that the
passage that several questions are about), each row's answers where they begin alike, so that an answer that was sampled
twice is read once. The tokens lie in one sequence, in the order of a depth-first walk: token j stands in front of token
i on its path if and only if `j <= i < end[j]`.

Attention is computed block by block: a block is a run of the sequence whose tokens see the same tokens outside of it,
those of its ancestors. Nothing else is padded.

Shapes: B rows, K answers, A answer tokens, N tokens of the tree, n blocks of a group, T their tokens, P those of their
ancestors, S = P + T. Masks: True = counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

WORTH = 16
"""A beginning that rows share in fewer tokens than this is read anew for each: a branching costs some time itself."""
FILLED = 0.85
"""Blocks of one group are padded to the longest; it is full of real tokens at least to this share, or small."""
SMALL = 2048
"""Slots of a group's attention (queries x keys) below which padding costs less than one more group."""

Ids = tuple[int, ...]
Range = tuple[int, int]


@dataclass(frozen=True)
class Group:
    """Blocks below the same ancestors, padded to the same length."""

    path: tuple[Range, ...]
    """Where the ancestors' tokens lie."""
    token_nT: Tensor
    """Which token each slot holds; padding holds any."""
    real_nT: Tensor
    causal: bool
    """One block, no ancestors, no branches: plain causal attention."""

    @property
    def above(self) -> int:
        """Number of ancestor tokens."""
        return sum(stop - start for start, stop in self.path)

    @cached_property
    def real(self) -> tuple[Tensor, Tensor]:
        """The tokens without padding, and their slots."""
        return self.token_nT[self.real_nT], self.real_nT.flatten().nonzero()[:, 0]

    def of_blocks(self, some_n: Tensor) -> Group:
        """Some of the blocks."""
        return (
            self if bool(some_n.all()) else Group(self.path, self.token_nT[some_n], self.real_nT[some_n], self.causal)
        )


@dataclass(frozen=True)
class Tree:
    """Tokens of a micro-batch and how they hang together."""

    ids_N: Tensor
    depth_N: Tensor
    """Position of each token in its row."""
    end_N: Tensor
    """Behind the last token that sees this one."""
    last_B: Tensor
    """The last token of each row's prompt."""
    source_BKA: Tensor
    """The token from which each answer token is predicted; 0 where there is none."""
    groups: tuple[Group, ...]
    slot_N: Tensor
    """Where each token stands among the slots of all groups, one group after the other."""
    deepest: int
    """The largest position."""
    shared: int
    """So many first tokens are above every row."""
    paths: tuple[tuple[Range, ...], ...]
    """Where the tokens of each row's prompt lie."""

    def bias(
        self,
        group: Group,
        window: int | None,
        dtype: torch.dtype,
        slot_nQ: Tensor | None = None,
        causal: bool = True,
    ) -> Tensor | None:
        """What is added to a group's attention scores, (n, 1, T, S): 0 where a token is seen, else the least number;
        None where attention is plainly causal, if that may be.

        Args:
            group: one of the tree's, or some of its blocks.
            window: a token sees so many, itself included; None: all.
            dtype: of the scores.
            slot_nQ: of these slots of each block only, (n, 1, Q, S).
            causal: whether it may be None.
        """
        if window is not None and self.deepest < window:
            window = None
        if causal and group.causal and window is None and slot_nQ is None:
            return None
        n, T = group.token_nT.shape
        device = self.ids_N.device
        query_nT1, key_n1T = group.token_nT[:, :, None], group.token_nT[:, None, :]
        above_P = self._above(group)
        own_nTT = (key_n1T <= query_nT1) & (query_nT1 < self.end_N[key_n1T]) & group.real_nT[:, None, :]
        own_nTT = own_nTT & group.real_nT[:, :, None] | torch.eye(T, dtype=torch.bool, device=device)
        sees_nTS = torch.cat([torch.ones((n, T, len(above_P)), dtype=torch.bool, device=device), own_nTT], 2)
        if window is not None:
            sees_nTS &= self.distance(group)[:, 0] < window
        if slot_nQ is not None:
            sees_nTS = sees_nTS.gather(1, slot_nQ[:, :, None].expand(-1, -1, sees_nTS.shape[2]))
        bias = torch.zeros(sees_nTS.shape, dtype=dtype, device=device)
        return bias.masked_fill_(~sees_nTS, torch.finfo(dtype).min)[:, None]

    def distance(self, group: Group, slot_nQ: Tensor | None = None) -> Tensor:
        """How far in front of each query a group's keys stand, (n, 1, T, S) or (n, 1, Q, S); anything where they are
        not seen."""
        own_nT = self.depth_N[group.token_nT]
        above_nP = self.depth_N[self._above(group)].expand(len(own_nT), -1)
        query_nT = own_nT if slot_nQ is None else own_nT.gather(1, slot_nQ)
        return (query_nT[:, :, None] - torch.cat([above_nP, own_nT], 1)[:, None])[:, None]

    def _above(self, group: Group) -> Tensor:
        """The tokens of a group's ancestors."""
        return torch.cat([torch.arange(*one, device=self.ids_N.device) for one in group.path or [(0, 0)]])


class _Planting:
    """The tokens so far."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.depth: list[int] = []
        self.end: list[int] = []
        self.blocks: list[tuple[tuple[Range, ...], Range]] = []

    def put(self, ids: Sequence[int], depth: int) -> Range:
        """A run of tokens, the first `depth` tokens below the root."""
        start = len(self.ids)
        self.ids += ids
        self.depth += range(depth, depth + len(ids))
        self.end += [0] * len(ids)
        return start, len(self.ids)

    def close(self, start: int, stop: int) -> None:
        """No token that is still to come sees those of this run."""
        self.end[start:stop] = [len(self.ids)] * (stop - start)


def plant(prompts: Sequence[Ids], answers: Sequence[Sequence[Ids]], device: torch.device | str = "cpu") -> Tree:
    """The tree of some rows. Of an answer all tokens but the last are read; the last is only predicted.

    Args:
        prompts: tokens of each row's prompt, at least one.
        answers: of each row the tokens of its K answers, none empty.
        device: where the tensors go.
    """
    tree = _Planting()
    order = sorted(range(len(prompts)), key=lambda b: prompts[b])
    arrays = [np.array(prompts[b]) for b in order]
    alike = [shared_length(one, other) for one, other in pairwise(arrays)]
    last, inner = [0] * len(prompts), [[] for _ in prompts]  # type: list[int], list[list[list[int]]]
    paths: list[tuple[Range, ...]] = [()] * len(prompts)

    def leaf(b: int, depth: int, path: tuple[Range, ...]) -> None:
        """The rest of a prompt, with its answers."""
        start, stop = tree.put(prompts[b][depth:], depth)
        last[b] = stop - 1 if stop > start else path[-1][1] - 1
        paths[b] = (*path, (start, stop)) if stop > start else path
        inner[b] = _branches(tree, answers[b], len(prompts[b]))
        tree.close(start, stop)
        if len(tree.ids) > start:
            tree.blocks.append((path, (start, len(tree.ids))))

    def grow(low: int, high: int, depth: int, path: tuple[Range, ...]) -> None:
        """Rows low to high in `order`, which share the tokens above `depth`."""
        while low < high:
            stop = low + 1
            while stop < high and alike[stop - 1] >= depth + WORTH:
                stop += 1
            if stop == low + 1:
                leaf(order[low], depth, path)
            else:
                shared = min(alike[low : stop - 1])
                run = tree.put(prompts[order[low]][depth:shared], depth)
                tree.blocks.append((path, run))
                grow(low, stop, shared, (*path, run))
                tree.close(*run)
            low = stop

    grow(0, len(order), 0, ())
    K = len(answers[0]) if answers else 0
    A = max((len(answer) for row in answers for answer in row), default=0)
    source = np.zeros((len(prompts), K, A), dtype=np.int64)
    for b, row in enumerate(inner):
        for k, places in enumerate(row):
            source[b, k, : len(places) + 1] = [last[b], *places]
    groups = _grouped(tree, device)
    slot_N = torch.empty(len(tree.ids), dtype=torch.long, device=device)
    at = 0
    for group in groups:
        token_R, slot_R = group.real
        slot_N[token_R] = slot_R + at
        at += group.token_nT.numel()
    return Tree(
        torch.tensor(tree.ids, device=device),
        torch.tensor(tree.depth, device=device),
        torch.tensor(tree.end, device=device),
        torch.tensor(last, device=device),
        torch.from_numpy(source).to(device),
        groups,
        slot_N,
        max(tree.depth),
        _above_all(paths),
        tuple(paths),
    )


def _above_all(paths: Sequence[tuple[Range, ...]]) -> int:
    """So many first tokens are in all of several paths; at least one of each is left, so that no path is empty."""
    first = {path[0] for path in paths}
    if len(first) > 1 or len(paths) < 2:
        return 0
    return min(first.pop()[1], min(sum(stop - start for start, stop in path) for path in paths) - 1)


def shared_length(one: np.ndarray, other: np.ndarray) -> int:
    """So many first tokens are the same in both."""
    n = min(len(one), len(other))
    differs = one[:n] != other[:n]
    return int(differs.argmax()) if differs.any() else n


def _branches(tree: _Planting, answers: Sequence[Ids], depth: int) -> list[list[int]]:
    """Put the answers' inner tokens, merged where they begin alike; returns where those of each answer lie."""
    found: list[list[int]] = [[] for _ in answers]
    before: Ids = ()
    places: list[int] = []
    for k in sorted(range(len(answers)), key=lambda k: answers[k][:-1]):
        inner = answers[k][:-1]
        same = 0
        while same < min(len(inner), len(before)) and inner[same] == before[same]:
            same += 1
        for place in places[same:]:
            tree.close(place, place + 1)
        start, stop = tree.put(inner[same:], depth + same)
        places = [*places[:same], *range(start, stop)]
        found[k], before = places, inner
    for place in places:
        tree.close(place, place + 1)
    return found


def _grouped(tree: _Planting, device: torch.device | str) -> tuple[Group, ...]:
    """Blocks below the same ancestors together, those of like length."""
    by_path: dict[tuple[Range, ...], list[Range]] = {}
    for path, block in tree.blocks:
        by_path.setdefault(path, []).append(block)
    groups = []
    for path, blocks in by_path.items():
        above = sum(stop - start for start, stop in path)
        blocks.sort(key=lambda block: block[0] - block[1])
        start = 0
        while start < len(blocks):
            T = blocks[start][1] - blocks[start][0]
            stop, real = start, 0
            while stop < len(blocks):
                own = blocks[stop][1] - blocks[stop][0]
                slots = (stop + 1 - start) * T * (above + T)
                real += own * (above + own)
                if slots > SMALL and real < FILLED * slots:
                    break
                stop += 1
            groups.append(_group(tree, path, blocks[start:stop], device))
            start = stop
    return tuple(groups)


def _group(tree: _Planting, path: tuple[Range, ...], blocks: Sequence[Range], device: torch.device | str) -> Group:
    length_n = torch.tensor([stop - start for start, stop in blocks])
    slot_T = torch.arange(int(length_n.max()))
    real_nT = slot_T < length_n[:, None]
    token_nT = torch.tensor([start for start, _ in blocks])[:, None] + slot_T
    token_nT = torch.where(real_nT, token_nT, token_nT[:, :1])
    (start, stop), *more = blocks
    causal = not more and not path and all(end == stop for end in tree.end[start:stop])
    return Group(path, token_nT.to(device), real_nT.to(device), causal)
