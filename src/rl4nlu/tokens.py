"""Text -> ids; micro-batches of bounded tokens; the order of the rows as a function of (seed, epoch).

Shapes: B rows, K answers, T prompt tokens, A answer tokens, P prefix tokens. Masks: True = counts.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from .prompts import Prompt, Prompter
from .tasks import Example

SHORTEST_PREFIX = 8
"""A shared run of fewer tokens than this is not worth a forward pass of its own."""
FILLED, FULL_ENOUGH = 0.7, 256
"""Rows shorter than this share of a group's longest start a group of their own, once it holds so many tokens: padding
costs as much as reading, but a small matrix wastes the machine too."""


@dataclass(frozen=True)
class Encoded:
    """A prompt in tokens, with the answers that may follow it."""

    prompter: Prompter
    """Who wrote it: knows the task and reads its answers."""
    prompt: Prompt
    ids: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    """Tokens of each whole answer of the closed set."""
    bridge: tuple[int, ...] = ()
    """Tokens between what the model writes first (`Prompter.reason`) and the answer."""

    @property
    def source(self) -> tuple[str, Example]:
        """The row, and the name of its task."""
        return self.prompter.task.name, self.prompt.example

    @property
    def gold(self) -> int:
        """Index of the right answer; every training row has one."""
        assert self.prompt.gold is not None
        return self.prompt.gold


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together."""

    rows: tuple[int, ...]
    """Where each row stands in the caller's list."""
    prefix_P: Tensor
    prompt_BT: Tensor
    """What follows the prefix, padded on the right; at least one token a row."""
    prompt_mask_BT: Tensor
    answer_BKA: Tensor
    """Padded on the right; K = 0 where only prompts are read."""
    answer_mask_BKA: Tensor


class Encoder:
    """Encodes the prompts of one prompter for one tokenizer.

    An answer's tokens are those that follow the prompt's in the tokenisation of prompt and answer together, because
    a tokenizer may add a space to a lone answer. Where a token straddles the border, the prompt ends before it.
    """

    def __init__(self, tokenizer: Any, prompter: Prompter, max_length: int, truncate: bool = True) -> None:
        self.tokenizer = tokenizer
        self.prompter = prompter
        self.truncate = truncate
        # a chat template writes its own beginning-of-sequence token
        self._special = prompter.chat is None
        self.longest_answer = max(map(len, self._ids(["x" + answer for answer in prompter.answers])))
        self.longest_prompt = max_length - self.longest_answer
        self._bridge: tuple[int, ...] = ()
        if prompter.reason:
            self._bridge, self._answers = self._behind(prompter.bridge, prompter.answers)
            self.longest_prompt -= prompter.reason + len(self._bridge)

    def encode(self, example: Example) -> Encoded:
        """Tokens of the prompt (cut to fit, if that is allowed) and of every answer of the closed set."""
        prompt = self.prompter.prompt(example)
        if self.may_be_too_long(prompt):
            prompt = self.prompter.fitted(example, self._length, self.longest_prompt, self.truncate)
        return self.encode_prompt(prompt)

    def encode_prompt(self, prompt: Prompt) -> Encoded:
        """Tokens of a prompt that fits, and of every answer of the closed set."""
        if self.prompter.reason:
            return Encoded(self.prompter, prompt, tuple(self._ids([prompt.text])[0]), self._answers, self._bridge)
        alone, *whole = self._ids([prompt.text, *(prompt.text + answer for answer in self.prompter.answers)])
        start = len(common_prefix([alone, *whole]))
        return Encoded(self.prompter, prompt, tuple(whole[0][:start]), tuple(tuple(ids[start:]) for ids in whole))

    def _behind(self, bridge: str, answers: Sequence[str]) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Tokens of a bridge and of the answers behind it, as they are behind any text."""
        alone, text, *whole = self._ids(["x", f"x{bridge}", *(f"x{bridge}{answer}" for answer in answers)])
        start = len(common_prefix([text, *whole]))
        return tuple(whole[0][len(alone) : start]), tuple(tuple(ids[start:]) for ids in whole)

    def may_be_too_long(self, prompt: Prompt) -> bool:
        """Without tokenising: no text has more tokens than bytes, but for a few special ones."""
        return len(prompt.text.encode()) + 8 > self.longest_prompt

    def _length(self, text: str) -> int:
        return len(self._ids([text])[0])

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=self._special, verbose=False)["input_ids"]


class EncodedRows(Sequence[Encoded]):
    """The encoded prompts of some examples. Each is encoded when it is first asked for; those that may have to be cut
    are encoded at once, so that a prompt that cannot be cut is found before the first step."""

    def __init__(self, encoder: Encoder, examples: Sequence[Example]) -> None:
        self.encoder, self.examples = encoder, examples
        self._encoded: dict[int, Encoded] = {}
        for i, example in enumerate(examples):
            if encoder.may_be_too_long(encoder.prompter.prompt(example)):
                self._encoded[i] = encoder.encode(example)
        self.cut = sum(row.prompt.cut for row in self._encoded.values())

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index not in self._encoded:
            self._encoded[index] = self.encoder.encode(self.examples[index])
        return self._encoded[index]


def common_prefix(rows: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The longest run of tokens with which all rows begin."""
    tuples = [tuple(row) for row in rows]
    low, high = min(tuples), max(tuples)  # in sorted order the first and the last row differ the earliest
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:n]


def micro_batches(
    rows: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
    max_tokens: int,
    pad: int,
    device: torch.device | str = "cpu",
    kinds: Sequence[Hashable] | None = None,
) -> Iterator[Batch]:
    """Rows of similar length together, at most `max_tokens` tokens (padding included) at a time, longest first.

    Args:
        rows: (prompt tokens, answers' tokens) of each row; the same number of answers in every row.
        max_tokens: bound of prefix + rows x (longest prompt + its answers); a longer row goes alone.
        pad: any valid token id; padding is masked, never read.
        kinds: what each row is, where rows of several tasks come together: only those of one kind share a prefix, so
            no other goes into their micro-batch.
    """
    cost = [len(prompt) + sum(map(len, answers)) for prompt, answers in rows]
    for kind in dict.fromkeys(kinds or [None]):
        members = [i for i in range(len(rows)) if kinds is None or kinds[i] == kind]
        order = sorted(members, key=lambda i: (-cost[i], i))
        start = 0
        while start < len(order):
            group = _largest_group(rows, cost, order, start, max_tokens)
            start += len(group)
            yield _collate(rows, group, pad, device)


def _largest_group(rows, cost, order, start: int, max_tokens: int) -> list[int]:
    """The next rows in `order` that fit, counted as `_collate` lays them out."""
    group = [order[start]]
    prompts = [rows[order[start]][0]]
    shared = tuple(prompts[0])
    answer_width = _answer_width(rows[order[start]])
    for i in order[start + 1 :]:
        if cost[i] < FILLED * cost[order[start]] and len(group) * cost[order[start]] >= FULL_ENOUGH:
            break
        shared = common_prefix([shared, rows[i][0]])
        prompts.append(rows[i][0])
        answer_width = max(answer_width, _answer_width(rows[i]))
        prefix = _prefix_length(shared, prompts)
        width = max(map(len, prompts)) - prefix + len(rows[i][1]) * answer_width
        if prefix + len(prompts) * width > max_tokens:
            break
        group.append(i)
    return group


def _answer_width(row) -> int:
    return max(map(len, row[1]), default=0)


def _prefix_length(shared: Sequence[int], prompts: Sequence[Sequence[int]]) -> int:
    """How much of what all prompts share is run as their prefix: at least one token stays with each row."""
    length = min(len(shared), min(map(len, prompts)) - 1)
    return length if len(prompts) > 1 and length >= SHORTEST_PREFIX else 0


def _collate(rows, group: list[int], pad: int, device: torch.device | str) -> Batch:
    prompts = [list(rows[i][0]) for i in group]
    prefix = prompts[0][: _prefix_length(common_prefix(prompts), prompts)]
    prompt_BT, prompt_mask_BT = pad_right([prompt[len(prefix) :] for prompt in prompts], pad)
    K = len(rows[group[0]][1])
    flat, flat_mask = pad_right([list(answer) for i in group for answer in rows[i][1]], pad)
    A = flat.shape[1] if K else 0
    return Batch(
        rows=tuple(group),
        prefix_P=torch.tensor(prefix, dtype=torch.long, device=device),
        prompt_BT=prompt_BT.to(device),
        prompt_mask_BT=prompt_mask_BT.to(device),
        answer_BKA=flat.view(len(group), K, A).to(device),
        answer_mask_BKA=flat_mask.view(len(group), K, A).to(device),
    )


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ragged rows -> ids and mask of shape (rows, longest)."""
    width = max(map(len, rows), default=0)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = True
    return ids, mask
