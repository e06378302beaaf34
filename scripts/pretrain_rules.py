"""Questions made by rule, most of whose answers stand in the text, for the second stage of pre-training
(scripts/pretrain_form.py), and what draws their texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")
SCORES = tuple(f"{i / 5:.1f}" for i in range(26))
YES_NO = (("Yes", "No"), ("Yes", "No"), ("True", "False"), ("right", "wrong"), ("yes", "no"), ("true", "false"))
ORDER = (("1", "2"), ("1", "2"), ("first", "second"), ("A", "B"))


SUPPOSED = ("one reads here of", "the text has the word", "among these words stands", "Somewhere it says")
"""How a question begins that the word at its end decides; no task's own question begins so."""


class Pen:
    """Draws texts from some pages of the books."""

    def __init__(self, pages: list[str], rng: np.random.Generator) -> None:
        """Args: `pages`: running text, each cut off at both ends."""
        self.rng = rng
        self.pages: list[list[str]] = []
        """Sentences that follow each other; where one is too short or too long, another page begins."""
        for page in pages:
            self.pages.append([])
            for part in re.split(r"(?<=[.!?])[\"'”’]?\s+", page)[1:-1]:
                sentence = " ".join(part.split())  # a line's end parts the fields of a prompt
                if 3 <= len(sentence.split()) <= 45 and re.search("[A-Za-z]", sentence):
                    self.pages[-1].append(sentence)
                else:
                    self.pages.append([])
        self.pages = [page for page in self.pages if len(page) > 1] or [["It was late.", "He went home.", "She slept."]]

    def coin(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def one(self, of: Sequence[T]) -> T:
        return of[int(self.rng.integers(len(of)))]

    def passage(self, words: int) -> str:
        """Sentences that follow each other, of at most about so many words; one at least."""
        page = self.one(self.pages)
        at = int(self.rng.integers(len(page)))
        text = page[at]
        for sentence in page[at + 1 :]:
            if len(text.split()) + len(sentence.split()) > words:
                break
            text += " " + sentence
        return text

    def sentence(self) -> str:
        return self.one(self.one(self.pages))

    def other(self, text: str) -> str:
        """A sentence that the text does not hold."""
        for _ in range(20):
            if (sentence := self.sentence()) not in text:
                return sentence
        return "Nothing of the kind was ever said."

    def word(self, text: str) -> str:
        """A word of the text, a long one if it has any."""
        words = re.findall(r"[A-Za-z]+", text)
        return self.one([w for w in words if len(w) > 3] or words or ["it"])

    def foreign(self, text: str) -> str:
        """A word that the text has not."""
        have = set(re.findall(r"[a-z]+", text.lower()))
        for _ in range(20):
            if (word := self.word(self.sentence())).lower() not in have:
                return word
        return "zebra"

    def rough(self, text: str) -> str:
        """The text as other sources than books would write it, half of the time as it is."""
        way = int(self.rng.integers(8))
        if way == 0:
            return re.sub(r"([.,;:!?])", r" \1", text).lower() + " "
        if way == 1:
            return text.rstrip(".")
        if way == 2:
            words = text.split()
            for _ in range(int(self.rng.integers(1, 7))):
                odd = self.one(("%d", "%d", "(%d)", "$%d", "%d,000", "%d%%", "19%02d", "20%02d")) % int(
                    self.rng.integers(100)
                )
                words.insert(int(self.rng.integers(len(words) + 1)), odd)
            return " ".join(words)
        if way == 3:
            letters = "".join(self.one("ABCDEFGHIJKLMNOPRSTUVWZ") for _ in range(int(self.rng.integers(2, 7))))
            return text.replace(self.word(text), self.one((letters, letters.capitalize(), f"{letters}-{letters[:1]}")))
        return text


@dataclass(frozen=True)
class Rule:
    """A question that the text itself answers."""

    words: tuple[tuple[str, ...], ...]
    """Label words that may stand for the labels 0, 1 ...: one tuple is drawn."""
    asks: tuple[str, ...]
    """Instructions, of which one is drawn."""
    body: str
    cue: str
    """Last line of the plain template."""
    make: Callable[[Pen, int, int], dict[str, str] | None]
    """(pen, label, words that a passage may have) -> fields, or None where what was drawn cannot have that label."""
    numeric: bool = False

    def draw(self, pen: Pen, label: int, words: int) -> dict[str, str]:
        """Fields of which the label is right."""
        while (fields := self.make(pen, label, words)) is None:
            pass
        return fields


def _changed(pen: Pen, text: str) -> str:
    words = text.split()
    words[int(pen.rng.integers(len(words)))] = pen.foreign(text).lower()
    return " ".join(words)


def _shuffled(pen: Pen, text: str) -> str:
    words = text.split()
    return " ".join(words[i] for i in pen.rng.permutation(len(words)))


def _occurs(pen: Pen, label: int, words: int) -> dict[str, str]:
    text = pen.rough(pen.passage(words))
    return {"text": text, "word": pen.foreign(text) if label else pen.word(text)}


def _asked(pen: Pen, label: int, words: int) -> dict[str, str]:
    found = _occurs(pen, label, words)
    return {"text": found["text"], "question": pen.one(SUPPOSED), "sought": found["word"]}


def _same(pen: Pen, label: int, words: int) -> dict[str, str]:
    first = pen.sentence()
    second = first if not label else _changed(pen, first) if pen.coin() else pen.other(first)
    return {"first": first, "second": second}


def _made_of(pen: Pen, label: int, words: int) -> dict[str, str]:
    first = pen.sentence()
    other = _changed(pen, first) if pen.coin() else pen.other(first)
    return {"first": first, "second": _shuffled(pen, other if label else first)}


def _first(pen: Pen, label: int, words: int) -> dict[str, str] | None:
    text = pen.passage(words)
    first: dict[str, str] = {}
    for word in re.findall(r"[A-Za-z]+", text):
        first.setdefault(word.lower(), word)
    found = list(first.values())
    if len(found) < 2:
        return None
    i, j = sorted(pen.rng.choice(len(found), 2, replace=False).tolist())
    pair = (found[j], found[i]) if label else (found[i], found[j])
    return {"text": text, "one": pair[0], "two": pair[1]}


def _gap(pen: Pen, label: int, words: int) -> dict[str, str]:
    text = pen.passage(min(words, 60))
    right, wrong = pen.word(text), pen.foreign(text)
    pair = (wrong, right) if label else (right, wrong)
    return {"text": re.sub(rf"(?<![A-Za-z]){right}(?![A-Za-z])", "___", text, count=1), "one": pair[0], "two": pair[1]}


def _follows(pen: Pen, label: int, words: int) -> dict[str, str]:
    page = pen.one(pen.pages)
    at = int(pen.rng.integers(len(page) - 1))
    return {"first": page[at], "second": pen.other(page[at] + page[at + 1]) if label else page[at + 1]}


def _longer(pen: Pen, label: int, words: int) -> dict[str, str] | None:
    short, long = sorted((pen.sentence(), pen.sentence()), key=len)
    if len(short) == len(long):
        return None
    return {"first": short, "second": long} if label else {"first": long, "second": short}


def _mark(pen: Pen, label: int, words: int) -> dict[str, str]:
    return {"text": pen.sentence().rstrip(".!?\"'”’;:-") + ".?!"[label]}


def _commas(pen: Pen, label: int, words: int) -> dict[str, str]:
    words_of = pen.sentence().replace(",", "").split()
    while len(words_of) < 5:
        words_of += pen.sentence().replace(",", "").split()
    for at in pen.rng.choice(len(words_of) - 1, label, replace=False).tolist():
        words_of[at] += ","
    return {"text": " ".join(words_of)}


def _holds(pen: Pen, label: int, words: int) -> dict[str, str]:
    """0: the claim stands in the text; 1: it stands there with other words in the place of some; 2: it does not."""
    page = pen.one(pen.pages)
    at = int(pen.rng.integers(len(page)))
    text = " ".join(page[max(0, at - 1) : at + 2]) if words > 60 else page[at]
    return {"text": text, "claim": (page[at], _changed(pen, _changed(pen, page[at])), pen.other(text))[label]}


def _alike(pen: Pen, label: int, words: int) -> dict[str, str]:
    """Of the first line's 25 words so many as the label's number stand in the same place of the second."""
    first = pen.sentence().split()
    while len(first) < 25:
        first += pen.sentence().split()
    first = first[:25]
    at = set(pen.rng.choice(25, label, replace=False).tolist())
    second = [word if i in at else pen.foreign(" ".join(first)).lower() for i, word in enumerate(first)]
    return {"first": " ".join(first), "second": " ".join(second)}


LINES, CHOICE = "One: {first}\nOther: {second}", "Text: {text}\n1: {one}\n2: {two}"
RULES: Mapping[str, Rule] = {
    "occurs": Rule(
        YES_NO,
        ("Decide whether the word stands in the text.", "Look for the word in the text and say whether it is there."),
        "Text: {text}\nWord: {word}",
        "Is {word} in it?",
        _occurs,
    ),
    "asked": Rule(
        YES_NO,
        ("Answer the question about the text.", "Read the text. Then say whether it is as the question supposes."),
        "Text: {text}\nQuestion: {question} {sought}?",
        "Answer:",
        _asked,
    ),
    "same": Rule(
        (*YES_NO, ("same", "different")),
        ("Decide whether both lines are the same, word for word.", "Compare two lines. Are they equal in every word?"),
        LINES,
        "Are both the same?",
        _same,
    ),
    "made-of": Rule(
        YES_NO,
        (
            "Decide whether both lines are made of the same words.",
            "The order of words does not count. Are these equal?",
        ),
        LINES,
        "Have both the same words?",
        _made_of,
    ),
    "first": Rule(
        ORDER,
        ("Say which of the two words comes first in the text.", "Two words of a text are given. Find the earlier one."),
        CHOICE,
        "Which comes first?",
        _first,
    ),
    "gap": Rule(
        ORDER,
        ("A word was taken out of the text. Choose the one that fits.", "Choose the word that belongs into the gap."),
        CHOICE,
        "Which word fits?",
        _gap,
    ),
    "follows": Rule(
        YES_NO,
        ("Decide whether the second line comes right after the first in a story.", "Do these lines belong together?"),
        LINES,
        "Does the second follow?",
        _follows,
    ),
    "longer": Rule(
        ORDER,
        ("Say which of the two lines is longer.", "Compare the lengths of two lines and name the longer one."),
        LINES,
        "Which is longer?",
        _longer,
    ),
    "mark": Rule(
        (("statement", "question", "cry"), ("plain", "question", "loud"), ("stop", "ask", "shout")),
        ("Say what kind of sentence this is, by its last sign.", "Look at the end of the sentence and name its kind."),
        "Sentence: {text}",
        "It is a",
        _mark,
    ),
    "commas": Rule(
        (("0", "1", "2", "3"), ("none", "one", "two", "three")),
        ("Count the commas of the sentence.", "Say how many commas stand in the sentence."),
        "Sentence: {text}",
        "How many commas?",
        _commas,
    ),
    "holds": Rule(
        (("told", "altered", "missing"), ("true", "false", "unknown"), ("yes", "no", "open")),
        (
            "Decide whether the claim stands in the text.",
            "Find the claim in the text and say whether it is told there.",
        ),
        "Page: {text}\nLine: {claim}",
        "Is that said?",
        _holds,
    ),
    "alike": Rule(
        (SCORES,),
        (
            "Rate how many words two lines share, from 0.0 to 5.0.",
            "Say from 0.0 to 5.0 how much the lines have in common.",
        ),
        LINES,
        "How alike, from 0.0 to 5.0?",
        _alike,
        numeric=True,
    ),
}
