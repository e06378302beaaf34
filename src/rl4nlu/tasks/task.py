"""What a task is: where its rows come from, how they are asked, which label words answer them, how they are scored."""

from __future__ import annotations

import hashlib
import math
import re
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
LABEL, ID = "<label>", "<id>"
"""Keys of `Task.columns` that no template can name: a column called label may be shown, where it is not the label."""


@dataclass(frozen=True)
class Example:
    """One question with its gold label."""

    id: str
    fields: Mapping[str, str]
    label: str | None
    """Gold label: one of `task.labels` (for a numeric task the number as the file gives it); None where unknown."""
    group: str | None = None
    """Rows that a metric counts together: the answers of a question, the entities of a query, a sentence pair."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What the metric and the server file need beyond the label."""
    document: str | None = None
    """The passage that rows share: what is drawn again when an error bar is bootstrapped (default: the group)."""

    def unit(self, number: int) -> str:
        """What is drawn, or held out, as a whole: the document, else the group, else this row, of that number."""
        return self.document or self.group or f"row {number}"


def shared_text(text: str) -> str:
    """A short name of a text that several rows share."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Files:
    """Where the rows of a task lie, below the suite's folder and on the hub."""

    folder: str
    splits: Mapping[str, str | tuple[str, ...]]
    """Split -> file name; of several names the first that exists is read."""
    hub: tuple[str, str]
    """Data set and configuration on the hub."""
    hub_splits: Mapping[str, str] = field(
        default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"}
    )
    headerless: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Split -> column names, for files without a header line."""
    torn: Mapping[str, int] = field(default_factory=dict)
    """Split -> at most so many lines of the official file do not have its columns; they are left out."""


@dataclass(frozen=True)
class Table:
    """The rows of a user's own task: files, or a data set on the hub."""

    folder: Path
    """What the file names are relative to."""
    splits: Mapping[str, str]
    """Split -> file name (.csv, .tsv, .jsonl, .parquet), or the name of the split on the hub."""
    dev_share: float
    """Share of the training rows that stand in for a dev split where none is named."""
    hub: tuple[str, str | None, str | None] | None = None
    """Data set, configuration, revision."""


@dataclass(frozen=True)
class Task:
    """A task is one declaration: nothing else in the package knows its name."""

    name: str
    files: Files | None
    """None: the rows are made by `generate`."""
    columns: Mapping[str, tuple[str, ...]]
    """Field, LABEL or ID -> the column names it goes by (official file, hub copy)."""
    labels: tuple[str, ...]
    """In the order of the hub's label numbers."""
    words: Mapping[str, str]
    """The verbalizer: label -> the word that the model says."""
    plain: str
    """Short template for base models; its last line (of one line: what follows its last field) is the cue."""
    ask: str
    """Instruction of the `verdict` template."""
    body: str
    """The row's fields in the `verdict` template."""
    metrics: tuple[str, ...]
    free: tuple[str, ...]
    """Fields that may be cut when a prompt is too long; never the question."""
    shared: str = ""
    """A field that several rows have alike: they are one document to a standard error, and held out together."""
    may_be_empty: tuple[str, ...] = ()
    """Fields that are empty in some rows of the official file."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other spellings of the labels in the official files: "1" -> "positive"."""
    numeric: bool = False
    """Labels are numbers: the answer is judged by distance, the prediction is an expectation."""
    eval_split: str = "dev"
    train_task: str | None = None
    """For diagnostic sets without training rows: the task whose training rows teach it."""
    expand: Callable[[Task, Row], Iterator[Example]] | None = None
    """Row of the official file -> examples, where it is not one to one."""
    generate: Callable[[str, str], list[Example]] | None = None
    """(task name, split) -> examples, for a bundled task."""
    table: Table | None = None
    """Where the rows of a user's own task lie."""
    pair: tuple[str, ...] = ()
    """The one or two texts that an encoder reads, as templates (default: see `segments`)."""
    candidates: tuple[str, ...] = ()
    """Fields of which one is the answer, in the order of the labels; an encoder judges each alone, as {candidate}."""

    @property
    def suite(self) -> str:
        return self.name.split("/")[0]

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that the templates use."""
        names = dict.fromkeys(template_fields(self.plain) + template_fields(self.body))
        return tuple(names)

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """The one or two texts that an encoder reads: the template's first field, and all others behind each other."""
        first, *others = (f"{{{name}}}" for name in dict.fromkeys(template_fields(self.plain)))
        return self.pair or ((first, " ".join(others)) if others else (first,))

    def label_of(self, value: object) -> str | None:
        """The canonical label for a value of the label column: its name in any case, an alias, or the hub's number.

        None, an empty cell and -1 (the hub's mark for hidden labels) give None.

        Raises:
            ValueError: the value is no label of this task.
        """
        text = "" if value is None else str(value).strip()
        hidden = text in ("", "-1", "-1.0")
        if self.numeric:
            low, high = float(self.labels[0]), float(self.labels[-1])
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if low <= number <= high:
                return text
            if hidden:
                return None
            raise ValueError(f"label {text!r} is not a number from {low:g} to {high:g}")
        # a user's table has names; the hub's copies of the benchmarks have numbers
        numbered = self.table is None and not isinstance(value, bool)
        if numbered and isinstance(value, int) and 0 <= value < len(self.labels):
            return self.labels[value]
        known = {label.casefold(): label for label in self.labels} | dict(self.aliases)
        if text.casefold() in known:
            return known[text.casefold()]
        if self.table is not None and (same := [label for label in self.labels if _same_number(label, text)]):
            return same[0]  # tables write a column of whole numbers as 1.0 where a cell is empty
        if hidden:
            return None
        mend = "" if self.table is None else "; mend the row, add the label to the task's file, or give --max-bad-rows"
        raise ValueError(f"unknown label {text!r}; the labels are {', '.join(known)}{mend}")

    # -- judging: one function for reward and metric ---------------------------------------------------------------

    def nearest(self, value: float) -> str:
        """The label of a numeric task nearest to `value`; halves go up."""
        return min(self.labels, key=lambda label: (abs(round(float(label) - value, 9)), -float(label)))

    def gold(self, example: Example) -> str | None:
        """The label whose word is the right answer."""
        if example.label is None:
            return None
        return self.nearest(float(example.label)) if self.numeric else example.label

    def parse(self, text: str) -> str | None:
        """Label that a generated answer states, or None if it states none or more than one.

        A label word counts where it stands as a whole word, whatever its case; longer words are looked for first, so
        that one label word may contain another. For a numeric task the answer must hold exactly one number within the
        range of the labels; it is returned as written, rounded to no label.
        """
        if self.numeric:
            numbers = {float(n) for n in _NUMBER.findall(text)}
            low, high = float(self.labels[0]), float(self.labels[-1])
            if len(numbers) != 1 or not low <= (value := numbers.pop()) <= high:
                return None
            return str(value)
        found, rest = set(), text.casefold()
        for word, label in self._words_longest_first:
            rest, count = re.subn(rf"(?<!\w){re.escape(word)}(?!\w)", " ", rest)
            if count:
                found.add(label)
        return found.pop() if len(found) == 1 else None

    def judge(self, prediction: str | None, example: Example) -> bool:
        """Whether a parsed answer is the gold one. Reward and metric both ask here."""
        if prediction is None or example.label is None:
            return False
        if self.numeric:
            return self.nearest(float(prediction)) == self.gold(example)
        return prediction == example.label

    @cached_property
    def _words_longest_first(self) -> list[tuple[str, str]]:
        pairs = [(self.words[label].casefold(), label) for label in self.labels]
        return sorted(pairs, key=lambda pair: -len(pair[0]))


def _same_number(a: str, b: str) -> bool:
    try:
        return float(a) == float(b)
    except ValueError:
        return False


_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w]|\.\d)")


def template_fields(template: str) -> tuple[str, ...]:
    """Field names in a template, in order. Only bare `{name}` is a field: no attribute, index or format.

    Raises:
        ValueError: the template holds anything else between braces.
    """
    names = []
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise ValueError(f"a template field is a bare name in braces, not {{{name}}}")
        names.append(name)
    return tuple(names)
