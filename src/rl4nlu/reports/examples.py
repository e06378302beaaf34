"""Rows to look at: what each method said to the same prompt."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from .facts import judged
from .views import Column

MOST, OF_A_TASK, FEWEST = 120, 20, 5
"""Examples on a page, of a task, and of a task where there are many of them."""
LETTERS = 240_000
"""Of prompts on a page, all together."""
MOST_LABELS = 6
KINDS = ("mixed", "wrong", "right")


@dataclass(frozen=True)
class Said:
    """One method's answer."""

    head: str
    right: bool
    answer: str
    """A label, or what was generated."""
    label: str
    probabilities: tuple[tuple[str, float], ...]
    """Label -> probability, the likeliest first; empty where none were scored."""


@dataclass(frozen=True)
class Shown:
    """One row, with what every method said to it."""

    task: str
    id: str
    gold: str
    prompt: str
    """Empty where the runs have kept none of this row."""
    said: tuple[Said, ...]

    @property
    def kind(self) -> str:
        """right or wrong where all methods are, else mixed."""
        return _kind({one.right for one in self.said})

    @property
    def sure(self) -> float:
        """The highest probability that a method gave to a wrong answer, 0 where none is known: bad surprises first."""
        return max((one.probabilities[0][1] for one in self.said if one.probabilities and not one.right), default=0.0)


def examples_of(columns: Sequence[Column]) -> list[Shown]:
    """Of each task some rows that methods answer differently well, some that all have wrong, some that all have right;
    rows of which a prompt is known come first. Of a method with several seeds the first run is shown."""
    tasks = list(dict.fromkeys((column.task, column.split) for column in columns))
    each = max(FEWEST, min(OF_A_TASK, MOST // max(1, len(tasks))))
    most = max(300, LETTERS // (each * max(1, len(tasks))))
    return [shown for one in tasks for shown in _of_task([c for c in columns if (c.task, c.split) == one], each, most)]


def _of_task(columns: Sequence[Column], count: int, most: int) -> list[Shown]:
    rows = [{row["id"]: row for row in column.runs[0].rows.get(column.task, ())} for column in columns]
    right = [judged(column) for column in columns]
    prompts = _prompts(columns)
    ids = list(dict.fromkeys(i for of_column in right for i in of_column))
    ids.sort(key=lambda i: i not in prompts)  # stable: else in the order of the rows
    return [_shown(columns, rows, right, i, short(prompts.get(i, ""), most)) for i in _choose(right, ids, count)]


def _choose(right: Sequence[Mapping[str, bool]], ids: Sequence[str], count: int) -> list[str]:
    """Half of them mixed, the other half of either other kind; where a kind is short of rows, others take its place."""
    kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for i in ids:
        kinds[_kind({of_column[i] for of_column in right if i in of_column})].append(i)
    share = {"mixed": count // 2, "wrong": count // 4, "right": count // 4}
    spare = [i for kind, found in kinds.items() for i in found[share[kind] :]]
    first = [i for kind, found in kinds.items() for i in found[: share[kind]]]
    chosen = {*first, *spare[: count - len(first)]}
    return [i for found in kinds.values() for i in found if i in chosen]


def _kind(right: Set[bool]) -> str:
    return "mixed" if len(right) > 1 else "right" if True in right else "wrong"


def _shown(
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, dict[str, Any]]],
    right: Sequence[Mapping[str, bool]],
    i: str,
    prompt: str,
) -> Shown:
    said = tuple(
        _said(column.head, of_column[i], judged_here[i])
        for column, of_column, judged_here in zip(columns, rows, right, strict=True)
        if i in judged_here
    )
    gold = next(of_column[i]["gold"] for of_column in rows if i in of_column)
    return Shown(columns[0].task, i, gold, prompt, said)


def _said(head: str, row: Mapping[str, Any], right: bool) -> Said:
    scores = sorted((row.get("scores") or {}).items(), key=lambda one: -one[1])
    probabilities = tuple((label, math.exp(min(0.0, value))) for label, value in scores[:MOST_LABELS])
    label = "not parsable" if row["prediction"] is None else row["prediction"]
    text = row.get("text")
    return Said(head, right, short(label if text is None else text, 300), label, probabilities)


def _prompts(columns: Sequence[Column]) -> dict[str, str]:
    """Id -> prompt: of the method that shows the model least beside the row itself."""
    found: dict[str, str] = {}
    for prompts in _sources(columns):
        for i, text in prompts.items():
            if i not in found or len(text) < len(found[i]):
                found[i] = text
    return found


def _sources(columns: Sequence[Column]) -> Iterator[Mapping[str, str]]:
    for column in columns:
        if column.task in column.runs[0].prompts:
            yield column.runs[0].prompts[column.task]


def short(text: str, most: int) -> str:
    """The end of a text, where a prompt's own row and its question stand."""
    text = re.sub(r"[^\S\n]+", " ", text).strip()
    return text if len(text) <= most else f"… {text[-most:]}"
