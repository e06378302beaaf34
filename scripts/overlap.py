"""Which rows of the evaluated tasks stand, in part, in a text that a model is trained on.

    python scripts/overlap.py --text FILES --data DIR [--words 8]

A row counts as met if so many words of one of its fields stand in the text in the same order, whatever their case and
the signs between them. Rows whose fields are all shorter are not looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from outcome import in_one_line
from pretrain_text import Runs, documents, mark_met
from rich.console import Console
from rich.table import Table

from rl4nlu import data
from rl4nlu.tasks import Task, find_all

SPLITS = ("train", "dev", "test")


def rows_of(task: Task, folder: Path) -> Iterator[tuple[str, ...]]:
    """The fields of all rows that are there; what many rows share, once."""
    seen: set[tuple[str, ...]] = set()
    for split in SPLITS:
        if not data.available(task, split, folder):
            continue
        for example in data.load(task, split, folder):
            fields = tuple(example.fields.values())
            if fields not in seen:
                seen.add(fields)
                yield fields


@dataclass(frozen=True)
class Count:
    """How many rows a task has, how many have a field of enough words, and how many of these are met."""

    rows: int
    long: int
    met: int


def count(tasks: Iterable[Iterable[tuple[str, ...]]], texts: Iterable[str], words: int) -> list[Count]:
    """Looks for the rows of each task, given by their fields, in the texts.

    All runs of the rows are held in memory, eight bytes each; the texts are read one by one.
    """
    numbers = Runs(words)
    rows_of_task: list[list[list[np.ndarray]]] = []
    for rows in tasks:
        cache: dict[str, np.ndarray] = {}  # a passage is often the field of many rows
        found: list[list[np.ndarray]] = []
        for fields in rows:
            for field in fields:
                if field not in cache:
                    cache[field] = numbers.of(field)
            found.append([cache[field] for field in fields if len(cache[field])])
        rows_of_task.append(found)
    parts = [runs for rows in rows_of_task for fields in rows for runs in fields]
    wanted = np.unique(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.uint64)
    met = np.zeros(len(wanted), dtype=bool)
    for text in texts:
        mark_met(met, wanted, numbers.of(text))

    def is_met(fields: list[np.ndarray]) -> bool:
        return any(met[np.searchsorted(wanted, runs)].any() for runs in fields)

    return [Count(len(rows), sum(map(bool, rows)), sum(map(is_met, rows))) for rows in rows_of_task]


def main() -> None:
    """Print a table: task, rows, rows that are long enough, rows met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--words", type=int, default=8)
    given = parser.parse_args()
    if given.words < 1:
        parser.error(f"--words {given.words}: give at least 1")
    tasks = [task for suite in ("glue", "superglue", "mini") for task in find_all(suite)]
    with in_one_line():
        counts = count([rows_of(task, given.data) for task in tasks], documents(tuple(given.text)), given.words)
    table = Table("task", "rows", f"with {given.words} words", "met")
    for task, found in zip(tasks, counts, strict=True):
        table.add_row(task.name, *(f"{value:,}" for value in (found.rows, found.long, found.met)))
    Console().print(table)


if __name__ == "__main__":
    main()
