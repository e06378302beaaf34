"""Where the tokens of a prompt end and those of its answers begin.

An answer's tokens are those that follow the prompt's in the tokenisation of prompt and answer together, because a
tokenizer may add a space to a lone answer. Where a token straddles the border, the prompt ends before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

Ids = list[int]
Answers = tuple[tuple[int, ...], ...]
Tokenize = Callable[[list[str]], list[Ids]]

LINE = 5
"""Characters that a prompt's last line must have, so that nothing before it matters to the border."""
LONG = 80
"""Of a last line longer than this only the end is looked at,"""
WORDS = 40
"""and that from the last space on that leaves so many characters behind it."""
BEGIN = 4
"""Tokens at the beginning of a tail that may be others than in the whole prompt, which has text before them."""
BESIDE = 2
"""Tokens beside the border, and not across it, in which tail and prompt must agree."""
WORTH = 200
"""Characters that all prompts must begin with, for these not to be tokenised with each."""
PROBES = 8
"""So many prompts are split both ways first."""
REMEMBERED = 10_000
"""Tails whose borders are kept."""


class Ending(NamedTuple):
    """What a tail of a prompt says about the border."""

    ids: Ids
    """The tokens with which the whole prompt must end, if the tail is to speak for it."""
    across: int
    """How many of them belong to the answers, because a token straddles the border."""
    answers: Answers


class Head:
    """Tokenises texts that begin alike (with an instruction, with few-shot examples): the beginning once, and of each
    text the rest with the beginning's last line in front. The two are joined where their tokens agree, on both sides of
    the seam; where they do not, the text is tokenised as a whole."""

    def __init__(self, text: str, tokenize: Tokenize) -> None:
        self.text, self._tokenize = text, tokenize
        start = text.rfind("\n", 0, max(0, len(text) - WORDS)) - 1
        self._from, self._seam = max(0, start), 0
        if len(text) >= WORTH and start > 0:
            whole, self._line = tokenize([text, text[start:]])
            alike = len(common_prefix([whole[::-1], self._line[::-1]]))
            if alike >= 2 * BESIDE:
                self._seam = len(self._line) - alike + BESIDE
                self._before = whole[: len(whole) - alike + BESIDE]

    def ids(self, texts: Sequence[str]) -> list[Ids]:
        """Tokens of each text; it need not begin with the head."""
        begins = [bool(self._seam) and text.startswith(self.text) for text in texts]
        found = self._tokenize([text[self._from :] if head else text for text, head in zip(texts, begins, strict=True)])
        again = []
        for i, (ids, head) in enumerate(zip(found, begins, strict=True)):
            if not head:
                continue
            if ids[: self._seam + BESIDE] == self._line[: self._seam + BESIDE]:
                found[i] = self._before + ids[self._seam :]
            else:
                again.append(i)
        if again:
            for i, ids in zip(again, self._tokenize([texts[i] for i in again]), strict=True):
                found[i] = ids
        return found


class Border:
    """Splits prompts from the answers of a closed set.

    The exact way tokenises each prompt with each answer. The short way tokenises the prompt alone, and with the answers
    only its tail (hardly ever more than the last line, which most rows have in common, so that it is remembered). It is
    trusted where the prompt's tokens end as the tail's do: tokenizers split text into words first, and a sequence is
    what byte-pair encoding makes of a text if every two neighbours in it are, so that tokens which agree beside the
    border make the rest agree. The first prompts are split both ways; if one comes out otherwise, no tail is trusted.
    """

    def __init__(self, exact: Tokenize, quick: Tokenize, answers: Sequence[str], head: str = "") -> None:
        """
        Args:
            exact: texts -> ids, as the tokenizer is asked by everybody.
            quick: the same by a shorter way, if the tokenizer has one; checked with the first prompts too.
            answers: the closed set.
            head: what the prompts begin with.
        """
        self.exact, self.answers = exact, answers
        self._quick, self._head = quick, Head(head, quick)
        self._endings: dict[str, Ending | None] = {}
        self._same: dict[Answers, Answers] = {}
        self._probes, self._trusted = PROBES, True

    def ids(self, texts: list[str]) -> list[Ids]:
        """Tokens of prompts."""
        return self._head.ids(texts) if self._trusted else self.exact(texts)

    def split(self, texts: Sequence[str], alone: Sequence[Ids]) -> list[tuple[Ids, Answers]]:
        """Tokens of each prompt up to the border, and of every answer behind it; `alone` are the prompts' own tokens,
        as `ids` gives them."""
        probed = self._probe(texts[: self._probes], alone)
        rest, own = texts[len(probed) :], alone[len(probed) :]
        found = self._short(rest, own) if self._trusted else [None] * len(rest)
        missing = [i for i, one in enumerate(found) if one is None]
        again = dict(zip(missing, self.slowly([rest[i] for i in missing]), strict=True))
        return [*probed, *(one or again[i] for i, one in enumerate(found))]

    def slowly(self, texts: Sequence[str]) -> list[tuple[Ids, Answers]]:
        """The exact way."""
        return [self._cut(own, whole) for own, whole in self._whole(texts, self.exact)]

    def _whole(self, texts: Sequence[str], tokenize: Tokenize) -> list[tuple[Ids, list[Ids]]]:
        """The tokens of each text alone, and with each answer."""
        each = 1 + len(self.answers)
        flat = tokenize([text + end for text in texts for end in ("", *self.answers)]) if texts else []
        return [(flat[i], flat[i + 1 : i + each]) for i in range(0, len(flat), each)]

    def _probe(self, texts: Sequence[str], alone: Sequence[Ids]) -> list[tuple[Ids, Answers]]:
        """The first prompts, in the exact way; what is shorter is given up if it does not come to the same."""
        both = self._whole(texts, self.exact)
        right = [self._cut(own, whole) for own, whole in both]
        if texts and self._trusted:
            self._probes -= len(texts)
            short = self._short(texts, alone)
            agree = all(one is None or one == other for one, other in zip(short, right, strict=True))
            if not agree or [own for own, _ in both] != list(alone[: len(texts)]):
                self._trusted = False
        return right

    def _short(self, texts: Sequence[str], alone: Sequence[Ids]) -> list[tuple[Ids, Answers] | None]:
        """By the tails; None where a prompt does not end as its tail does."""
        tails = [tail(text) for text in texts]
        new = [one for one in dict.fromkeys(tails) if one not in self._endings]
        if new:
            if len(self._endings) + len(new) > REMEMBERED:
                self._endings.clear()
                new = list(dict.fromkeys(tails))
            self._look(new)
        found: list[tuple[Ids, Answers] | None] = []
        for ids, one in zip(alone, tails, strict=False):
            ending = self._endings[one]
            if ending is None or ids[-len(ending.ids) :] != ending.ids:
                found.append(None)
            else:
                found.append((ids[: len(ids) - ending.across], ending.answers))
        return found

    def _look(self, tails: Sequence[str]) -> None:
        """Find the borders of new tails."""
        for one, (own, whole) in zip(tails, self._whole(tails, self._quick), strict=True):
            before, answers = self._cut(own, whole)
            across = len(own) - len(before)
            needed = max(across + BESIDE, len(own) - BEGIN)
            self._endings[one] = Ending(own[-needed:], across, answers) if needed <= len(own) else None

    def _cut(self, alone: Ids, whole: Sequence[Ids]) -> tuple[Ids, Answers]:
        start = len(common_prefix([alone, *whole]))
        answers = tuple(tuple(ids[start:]) for ids in whole)
        return alone[:start], self._same.setdefault(answers, answers)  # the same for most rows: kept once


def tail(text: str) -> str:
    """The end of a prompt that decides where its border is: its last line and the character before, or more if that is
    short; of a long line the last words."""
    start = text.rfind("\n", 0, max(0, len(text) - LINE)) - 1
    if start < len(text) - LONG:
        start = max(start, text.rfind(" ", 0, max(0, len(text) - WORDS)))
    return text[max(0, start) :]


def common_prefix(rows: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The longest run of tokens with which all rows begin."""
    tuples = [tuple(row) for row in rows]
    low, high = min(tuples), max(tuples)  # in sorted order the first and the last row differ the earliest
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:n]
