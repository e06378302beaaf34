"""Text -> ids; micro-batches of bounded tokens.

Shapes: B rows, K answers, A answer tokens. Masks: True = counts.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, overload
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from .border import Answers, Border, Ids, common_prefix
from .prompts import Prompt, Prompter
from .tasks import Example
from .tree import WORTH, Tree, plant, shared_length

CHUNK = 512
"""Rows that are tokenised in one call, which a fast tokenizer does on all cores."""


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
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[tuple[int, ...], ...], ...]
    """K of each row; none where only prompts are read."""
    answer_BKA: Tensor
    """The same, padded on the right."""
    answer_mask_BKA: Tensor

    @cached_property
    def tree(self) -> Tree:
        """What goes through the model where rows share what they have in common."""
        return plant(self.prompts, self.answers, self.answer_BKA.device)

    @cached_property
    def prompt_tree(self) -> Tree:
        """The same of the prompts alone, whose answers are to be sampled."""
        return plant(self.prompts, [()] * len(self.prompts), self.answer_BKA.device)


SPARE = 4
"""Tokens that a generated answer may be longer than the longest of the closed set, if nothing else is said."""


class Encoder:
    """Encodes the prompts of one prompter for one tokenizer; `border.py` says what is whose token.

    Args:
        tokenizer: of the model.
        prompter: of the task.
        max_length: tokens of a prompt and its answer.
        truncate: cut prompts that are too long.
        generated: tokens that an answer may have where it is generated, SPARE more than the longest if None; 0 where
            answers are scored only.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompter: Prompter,
        max_length: int,
        truncate: bool = True,
        generated: int | None = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.prompter = prompter
        self.truncate = truncate
        # a chat template writes its own beginning-of-sequence token
        self._special = prompter.chat is None
        self.longest_answer = max(map(len, self._ids(["x" + answer for answer in prompter.answers])))
        room = self.longest_answer + SPARE if generated is None else generated
        self.longest_prompt = max_length - max(self.longest_answer, room)
        self._bridge: tuple[int, ...] = ()
        if prompter.reason:
            self._bridge, self._answers = self._behind(prompter.bridge, prompter.answers)
            self.longest_prompt -= prompter.reason + len(self._bridge)
        self._border = Border(
            self._ids,
            self._quick_ids,
            () if prompter.reason else prompter.answers,
            "" if prompter.chat else prompter.prefix,
        )

    def encode(self, example: Example) -> Encoded:
        """Tokens of the prompt (cut to fit, if that is allowed) and of every answer of the closed set."""
        return self.encode_all([example])[0]

    def encode_all(self, examples: Sequence[Example]) -> list[Encoded]:
        """As `encode`, all in one go."""
        prompts = [self.prompter.prompt(example) for example in examples]
        alone = self._border.ids([prompt.text for prompt in prompts])
        for i, ids in enumerate(alone):
            if len(ids) > self.longest_prompt:
                prompts[i] = self.prompter.fitted(examples[i], self._length, self.longest_prompt, self.truncate)
                alone[i] = self._border.ids([prompts[i].text])[0]
        return self._split(prompts, alone)

    def encode_prompt(self, prompt: Prompt) -> Encoded:
        """Tokens of a prompt that fits, and of every answer of the closed set."""
        return self._split([prompt], self._border.ids([prompt.text]))[0]

    def _split(self, prompts: Sequence[Prompt], alone: Sequence[Ids]) -> list[Encoded]:
        found = self._border.split([prompt.text for prompt in prompts], alone)
        return [
            self.encoded(prompt, tuple(ids), answers) for prompt, (ids, answers) in zip(prompts, found, strict=True)
        ]

    def encoded(self, prompt: Prompt, ids: tuple[int, ...], answers: Answers) -> Encoded:
        """Put together what is known of a prompt."""
        if self.prompter.reason:
            return Encoded(self.prompter, prompt, ids, self._answers, self._bridge)
        return Encoded(self.prompter, prompt, ids, answers)

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

    def _ids(self, texts: list[str]) -> list[Ids]:
        return self.tokenizer(texts, add_special_tokens=self._special, verbose=False)["input_ids"]

    def _quick_ids(self, texts: list[str]) -> list[Ids]:
        """The same, without masks and places in the text, which nobody asks for here."""
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is None or fast.truncation or fast.padding:
            return self._ids(texts)
        return [found.ids for found in fast.encode_batch_fast(texts, add_special_tokens=self._special)]


class EncodedRows(Sequence[Encoded]):
    """The encoded prompts of some examples. Each is tokenised when it is first asked for, with those that are asked for
    beside it; those that may have to be cut are tokenised at once, so that a prompt that cannot be cut is found before
    the first step. What is kept of a row is its numbers, for there may be hundreds of thousands; the rest is made again
    when it is asked for."""

    def __init__(self, encoder: Encoder, examples: Sequence[Example]) -> None:
        self.encoder, self.examples = encoder, examples
        self._known: list[tuple[np.ndarray, Answers] | None] = [None] * len(examples)
        self._cut: dict[int, Prompt] = {}
        self._used: WeakValueDictionary[int, Encoded] = WeakValueDictionary()
        prompts = map(encoder.prompter.prompt, examples)
        for chunk in _chunks([i for i, prompt in enumerate(prompts) if encoder.may_be_too_long(prompt)]):
            self._tokenise(chunk)

    @property
    def cut(self) -> int:
        """How many had to be cut."""
        return len(self._cut)

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        return self.take([index])[0]

    def __iter__(self) -> Iterator[Encoded]:
        for chunk in _chunks(range(len(self))):
            yield from self.take(chunk)

    def take(self, indices: Sequence[int]) -> list[Encoded]:
        """The rows at these places; those that are new are tokenised together."""
        places = [range(len(self))[i] for i in indices]  # as a list: from the end if negative, an error if outside
        fresh: dict[int, Encoded] = {}
        for chunk in _chunks([i for i in dict.fromkeys(places) if self._known[i] is None]):
            fresh |= self._tokenise(chunk)
        return [fresh.get(i) or self._used.get(i) or self._made(i) for i in places]

    def _tokenise(self, places: Sequence[int]) -> dict[int, Encoded]:
        rows = dict(zip(places, self.encoder.encode_all([self.examples[i] for i in places]), strict=True))
        for i, row in rows.items():
            self._known[i] = np.array(row.ids, dtype=np.int32), row.answers
            if row.prompt.cut:
                self._cut[i] = row.prompt
        self._used.update(rows)
        return rows

    def _made(self, i: int) -> Encoded:
        known = self._known[i]
        assert known is not None
        prompt = self._cut.get(i) or self.encoder.prompter.prompt(self.examples[i])
        row = self._used[i] = self.encoder.encoded(prompt, tuple(known[0].tolist()), known[1])
        return row


def _chunks(places: Sequence[int]) -> Iterator[Sequence[int]]:
    return (places[start : start + CHUNK] for start in range(0, len(places), CHUNK))


def micro_batches(
    rows: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
    max_tokens: int,
    pad: int,
    device: torch.device | str = "cpu",
    kinds: Sequence[Hashable] | None = None,
) -> Iterator[Batch]:
    """Rows that are alike together, at most `max_tokens` tokens at a time, what they share counted once; longest first.

    Args:
        rows: (prompt tokens, answers' tokens) of each row; the same number of answers in every row.
        max_tokens: bound of the tokens of prompts and answers; a longer row goes alone.
        pad: any valid token id; padding is masked, never read.
        device: where the tensors go.
        kinds: what each row is, where rows of several tasks come together: a micro-batch holds those of one kind.
    """
    for kind in dict.fromkeys(kinds or [None]):
        members = [i for i in range(len(rows)) if kinds is None or kinds[i] == kind]
        group: list[int] = []
        tokens = 0
        for i, new in _with_new_tokens(rows, members):
            cost = sum(map(len, rows[i][1]))
            if group and tokens + new + cost > max_tokens:
                yield _collate(rows, group, pad, device)
                group, tokens = [], 0
            new = new if group else len(rows[i][0])
            group.append(i)
            tokens += new + cost
        if group:
            yield _collate(rows, group, pad, device)


def _with_new_tokens(rows: Sequence, members: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rows in the order in which they are put into micro-batches, each with the number of its prompt's tokens that are
    not those of the row before it, as far as that pays. Rows that share more than all do stay together."""
    order = sorted(members, key=lambda i: tuple(rows[i][0]))
    prompts = [np.array(rows[i][0]) for i in order]
    alike = [0, *(shared_length(one, other) for one, other in pairwise(prompts))]
    common = min(alike[1:], default=0)
    above = common if common >= WORTH else 0
    families: list[list[int]] = []
    for place in range(len(order)):
        if place and alike[place] >= common + WORTH:
            families[-1].append(place)
        else:
            families.append([place])
    families.sort(key=lambda family: (-max(len(prompts[place]) for place in family), order[family[0]]))
    for family in families:
        for n, place in enumerate(family):
            # what is shared is merged in runs of WORTH tokens or more (tree.py)
            shared = max(above, alike[place] - (WORTH - 1)) if n else above
            yield order[place], len(prompts[place]) - shared


def _collate(rows: Sequence, group: list[int], pad: int, device: torch.device | str) -> Batch:
    answers = [tuple(map(tuple, rows[i][1])) for i in group]
    K = len(answers[0])
    flat, flat_mask = pad_right([answer for row in answers for answer in row], pad)
    A = flat.shape[1] if K else 0
    return Batch(
        rows=tuple(group),
        prompts=tuple(tuple(rows[i][0]) for i in group),
        answers=tuple(answers),
        answer_BKA=flat.view(len(group), K, A).to(device),
        answer_mask_BKA=flat_mask.view(len(group), K, A).to(device),
    )


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ragged rows -> ids and mask of shape (rows, longest)."""
    width = max(map(len, rows), default=0)
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], dtype=torch.long).view(len(rows), width)
    length = torch.tensor([len(row) for row in rows], dtype=torch.long)
    return ids, torch.arange(width) < length[:, None]
