"""Which rows of the evaluated tasks stand, in part, in a text that a model is trained on.

    python scripts/overlap.py --text FILES --data DIR [--words 8]

A row counts as met if so many words of one of its fields stand in the text in the same order, whatever their case and
the signs between them. Rows whose fields are all shorter are not looked at.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pretrain_text import documents
from rich.console import Console
from rich.table import Table

from rl4nlu import data
from rl4nlu.tasks import Task, find_all

SPLITS = ("train", "dev", "test")
BASE = np.uint64(1_000_003)
WORD = re.compile(r"[^\W_]+")


class Numbers:
    """Words -> numbers, and runs of words -> one number each."""

    def __init__(self, words: int) -> None:
        self.words, self.known = words, {}  # type: ignore[var-annotated]

    def runs(self, text: str) -> np.ndarray:
        """A number for each run of so many words, as many as the text has."""
        known = self.known
        ids = [known.setdefault(word, len(known) + 1) for word in WORD.findall(text.lower())]
        if len(ids) < self.words:
            return np.zeros(0, dtype=np.uint64)
        mixed = np.array(ids, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        windows = np.lib.stride_tricks.sliding_window_view(mixed, self.words)
        powers = np.array([pow(int(BASE), k, 2**64) for k in range(self.words)], dtype=np.uint64)
        return (windows * powers).sum(axis=1, dtype=np.uint64)


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


def main() -> None:
    """Print a table: task, rows, rows that are long enough, rows met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--words", type=int, default=8)
    given = parser.parse_args()
    numbers = Numbers(given.words)
    runs: list[np.ndarray] = []
    owner: list[int] = []
    tasks: list[tuple[str, int, int]] = []
    """Name, rows, first row's number."""
    count = 0
    cache: dict[str, np.ndarray] = {}
    for task in (task for suite in ("glue", "superglue", "mini") for task in find_all(suite)):
        first = count
        for fields in rows_of(task, given.data):
            for field in fields:
                found = cache.get(field)
                if found is None:
                    found = cache[field] = numbers.runs(field)
                runs.append(found)
                owner.append(count)
            count += 1
        cache.clear()
        tasks.append((task.name, count - first, first))
    wanted = np.unique(np.concatenate(runs))
    met = np.zeros(len(wanted), dtype=bool)
    for document in documents(tuple(given.text)):
        here = numbers.runs(document)
        at = np.searchsorted(wanted, here)
        at[at == len(wanted)] = 0
        met[at[wanted[at] == here]] = True
    hit, long = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    for row, found in zip(owner, runs, strict=True):
        long[row] |= len(found) > 0
        hit[row] |= bool(met[np.searchsorted(wanted, found)].any())
    table = Table("task", "rows", f"with {given.words} words", "met")
    for name, rows, first in tasks:
        part = slice(first, first + rows)
        table.add_row(name, f"{rows:,}", f"{long[part].sum():,}", f"{hit[part].sum():,}")
    Console().print(table)


if __name__ == "__main__":
    main()
