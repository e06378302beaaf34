"""What the rows and logs of a column say beside its score: confusion, calibration, cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics import Judged
from ..tasks import Task
from .views import Column, RunView, outcomes_of

BINS, RESAMPLES, MOST_LABELS = 10, 200, 12
UNPARSABLE = "not parsable"


@dataclass(frozen=True)
class Confusion:
    """How often each gold label got each answer, over all seeds."""

    gold: tuple[str, ...]
    said: tuple[str, ...]
    count_GS: tuple[tuple[int, ...], ...]

    @property
    def n(self) -> int:
        return sum(map(sum, self.count_GS))


def confusion(column: Column) -> Confusion | None:
    """Gold labels against answers; numbers are put into five bins. None where rows or task are not known, or there are
    too many labels for a table."""
    task, rows = _rows(column)
    if task is None or not rows:
        return None
    names = _bins(task) if task.numeric else task.labels
    if len(names) > MOST_LABELS:
        return None

    def place(value: str | None) -> str:
        if value is None:
            return UNPARSABLE
        return names[_bin(task, float(value))] if task.numeric else value

    counts = Counter((place(row["gold"]), place(row["prediction"])) for row in rows)
    said = (*names, *([UNPARSABLE] if any(name == UNPARSABLE for _, name in counts) else []))
    return Confusion(names, said, tuple(tuple(counts[gold, name] for name in said) for gold in names))


def _bins(task: Task) -> tuple[str, ...]:
    edges = np.linspace(float(task.labels[0]), float(task.labels[-1]), 6)
    return tuple(f"{low:g} to {high:g}" for low, high in pairwise(edges))


def _bin(task: Task, value: float) -> int:
    low, high = float(task.labels[0]), float(task.labels[-1])
    return min(4, max(0, int(5 * (value - low) / (high - low))))


def _rows(column: Column) -> tuple[Task | None, list[dict[str, Any]]]:
    """The column's task, and its rows with a gold label in all runs."""
    task = column.runs[0].tasks.get(column.task)
    return task, [row for run in column.runs for row in run.rows.get(column.task, ()) if row["gold"] is not None]


@dataclass(frozen=True)
class Calibration:
    """What the label probabilities are worth, over all seeds (Guo et al. 2017, arXiv 1706.04599)."""

    confidence_M: tuple[float, ...]
    """Mean probability of the answers in each bin that is not empty."""
    accuracy_M: tuple[float, ...]
    low_M: tuple[float, ...]
    """Bounds of the accuracy's 95 % interval (Wilson 1927, which has a width where all answers are right, too)."""
    high_M: tuple[float, ...]
    count_M: tuple[int, ...]
    ece: float
    """Expected calibration error: the mean of |accuracy - confidence| over the bins, weighted by their rows."""
    ece_error: float
    """Standard error: the bootstrap's over documents."""
    log_loss: float
    """Mean of -log p(gold label), in nats."""
    log_loss_error: float
    n: int
    """Rows, those of all seeds counted."""


def calibration(column: Column) -> Calibration | None:
    """None where no labels were scored, or where they are numbers."""
    task, _ = _rows(column)
    if task is None or task.numeric:
        return None
    sure, right, loss, drawn = [], [], [], []
    for run in column.runs:
        rows = [row for row in run.rows.get(column.task, ()) if row["gold"] is not None]
        if not rows or not all(
            row.get("scores") and {row["gold"], row["prediction"]} <= set(row["scores"]) for row in rows
        ):
            return None
        sure += [math.exp(min(0.0, row["scores"][row["prediction"]])) for row in rows]
        right += [row["prediction"] == row["gold"] for row in rows]
        loss += [-row["scores"][row["gold"]] for row in rows]
        judged = Judged(task, outcomes_of(task, rows))
        drawn.append((judged.draws(RESAMPLES, "calibration"), judged.document_N))
    sure_N, right_N, loss_N = np.array(sure), np.array(right, float), np.array(loss)
    bin_N = np.minimum((sure_N * BINS).astype(int), BINS - 1)

    def ece(weight_N: np.ndarray) -> float:
        gap_M = np.bincount(bin_N, weight_N * (right_N - sure_N), BINS)
        return float(np.abs(gap_M).sum() / weight_N.sum())

    def errors_of(statistic: Callable[[np.ndarray], float]) -> float:
        found = (np.concatenate([draws[r][document_N] for draws, document_N in drawn]) for r in range(RESAMPLES))
        return float(np.std([statistic(weight_N) for weight_N in found], ddof=1))

    known = [m for m in range(BINS) if (bin_N == m).any()]
    counts = [int((bin_N == m).sum()) for m in known]
    spans = [_wilson(int(right_N[bin_N == m].sum()), n) for m, n in zip(known, counts, strict=True)]
    return Calibration(
        confidence_M=tuple(float(sure_N[bin_N == m].mean()) for m in known),
        accuracy_M=tuple(float(right_N[bin_N == m].mean()) for m in known),
        low_M=tuple(low for low, _ in spans),
        high_M=tuple(high for _, high in spans),
        count_M=tuple(counts),
        ece=ece(np.ones_like(sure_N)),
        ece_error=errors_of(ece),
        log_loss=float(loss_N.mean()),
        log_loss_error=errors_of(lambda weight_N: float(np.average(loss_N, weights=weight_N))),
        n=len(sure_N),
    )


def _wilson(right: int, n: int) -> tuple[float, float]:
    from scipy import stats

    low, high = stats.binomtest(right, n).proportion_ci(method="wilson")
    return float(low), float(high)


# -- cost --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a column took, a run: the mean over its seeds."""

    steps: float = 0.0
    examples: float = 0.0
    """Training rows, each time one was seen."""
    answers: float = 0.0
    """Sampled in training."""
    tokens: float | None = 0.0
    """Of prompts and answers in training; None where the log does not tell."""
    seconds: float = 0.0
    """Of training."""
    before: float | None = None
    """Seconds that the run took from which it started; None where there is none, or it is not known."""
    asking: float = 0.0
    """Seconds of the evaluation."""
    asked: float = 0.0
    """Rows of the evaluation."""


def cost(column: Column, runs: Sequence[RunView]) -> Cost:
    """What the runs of a column took.

    Args:
        column: the column.
        runs: all runs of the report, among them perhaps the one that it started from.
    """
    trained = [_training(run) for run in column.runs]
    befores = [_before(run, runs, 0) for run in column.runs]
    known = [before for before in befores if before is not None]
    tokens = [one.tokens for one in trained if one.tokens is not None]

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    return Cost(
        steps=mean([one.steps for one in trained]),
        examples=mean([one.examples for one in trained]),
        answers=mean([one.answers for one in trained]),
        tokens=mean(tokens) if len(tokens) == len(trained) else None,
        seconds=mean([one.seconds for one in trained]),
        before=mean(known) if len(known) == len(column.runs) else None,
        asking=mean([result["seconds"] for result in column.results]),
        asked=mean([result["n"] for result in column.results]),
    )


def _training(run: RunView) -> Cost:
    """From the log: a step's rows stand in the settings, its seconds are rows / (rows a second)."""
    values = run.values
    batch = _number(values.get("batch_size"))
    if not run.steps or not batch:
        return Cost(steps=len(run.steps), tokens=0.0 if not run.steps else None)
    speeds = [_number(row.get("examples_per_second")) for row in run.steps]
    seconds = [batch / speed if speed else 0.0 for speed in speeds]
    tokens = [_number(row.get("tokens_per_second")) for row in run.steps]
    samples = bool(run.results) and run.results[0].get("actions") == "free"
    return Cost(
        steps=len(run.steps),
        examples=batch * len(run.steps),
        answers=batch * len(run.steps) * _number(values.get("answers")) if samples else 0.0,
        tokens=sum(a * b for a, b in zip(tokens, seconds, strict=True)) if all(tokens) else None,
        seconds=sum(seconds),
    )


def _before(run: RunView, runs: Sequence[RunView], deep: int) -> float | None:
    start = run.values.get("init")
    if not isinstance(start, str) or deep > 8:
        return None
    for other in runs:
        if other is not run and _same_folder(start, other.path):
            return _training(other).seconds + (_before(other, runs, deep + 1) or 0.0)
    return None


def _same_folder(named: str, path: Path) -> bool:
    """Whether a path in a run's settings is this folder; it may have been written in another folder, or be moved."""
    parts, there = Path(named).parts, path.absolute().parts
    return bool(parts) and (parts == there or parts[-2:] == there[-2:])


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15 else 0.0


# -- what changed ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """Rows of one task that two methods answer differently well, in their first runs."""

    task: str
    before: str
    after: str
    became_right: int
    became_wrong: int
    n: int


def changes(columns: Sequence[Column]) -> list[Change]:
    """Every two neighbouring columns of each task and split, row by row."""
    found = []
    by_task: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        by_task.setdefault((column.task, column.split), []).append(column)
    for (task, _), of_task in by_task.items():
        for before, after in pairwise(of_task):
            first, then = judged(before), judged(after)
            shared = first.keys() & then.keys()
            if shared:
                better = sum(then[i] and not first[i] for i in shared)
                worse = sum(first[i] and not then[i] for i in shared)
                found.append(Change(task, before.head, after.head, better, worse, len(shared)))
    return found


def judged(column: Column) -> dict[str, bool]:
    """Id -> whether the column's first run has this row right."""
    task, run = column.runs[0].tasks.get(column.task), column.runs[0]
    if task is None:
        return {}
    outcomes = outcomes_of(task, [row for row in run.rows.get(column.task, ()) if row["gold"] is not None])
    return {one.example.id: task.judge(one.prediction, one.example) for one in outcomes}
