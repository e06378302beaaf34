"""Tables of results: methods side by side, with their errors, averages, and which differences are real."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import say
from .compare import AVERAGES, Difference, average, interval, welch
from .tasks import TASKS

METHODS = ("zero-shot", "few-shot", "sft", "ppo", "classify")
SPLITS = ("dev", "test", "train")
"""A task's scores are those of the first of these that it has; of the others it is said."""


@dataclass(frozen=True)
class Cell:
    """One method's score on one task: the task's first metric, over the seeds that were run."""

    value: float
    error: float
    """Standard error over rows; over seeds half of the 95 % confidence interval, where there are several."""
    n: int
    seeds: int
    se: float = 0.0
    """Standard error, over rows or over seeds."""
    df: float = math.inf
    """Degrees of freedom behind it: of seeds one less than there are."""

    @property
    def text(self) -> str:
        if self.seeds > 1:
            low, high = 100 * (self.value - self.error), 100 * (self.value + self.error)
            return f"{100 * self.value:.1f} [{low:.1f}, {high:.1f}] ({self.seeds} seeds)"
        return f"{100 * self.value:.1f} ± {100 * self.error:.1f}"


def column(result: dict[str, Any], with_model: bool = False) -> str:
    """The method as a column's head: the name that a suite gave it; else with its model, shots, template and decoding
    where they are not the usual ones."""
    if "name" in result:
        return result["name"]
    extras = [Path(result["model"]).name] if with_model or result["method"] == "classify" else []
    extras += [result["estimator"]] if result.get("estimator", "gae") != "gae" else []
    extras += ["labels"] if result.get("actions") == "labels" and result["estimator"] != "expected" else []
    extras += [f"{result['shots']} shots"] if result["shots"] else []
    extras += ["reasoning"] if result.get("reason") else []
    extras += [result["template"]] if result.get("template", "plain") != "plain" else []
    extras += [result["decode"]] if result["decode"] != "score" else []
    extras += [f"{result['calibrate']} calibration"] if "calibrate" in result else []
    extras += [f"unparsable {result['unparsable_as']}"] if "unparsable_as" in result else []
    extras += ["multi-task"] if "trained_on" in result else []
    return result["method"] + (f" ({', '.join(extras)})" if extras else "")


def heads(results: Sequence[dict[str, Any]]) -> list[str]:
    """The column of each result: its method; the model stands there where several were prompted or trained, the split
    where a task's results are of dev and of others, the number of rows where seeds were asked different ones, the run
    where two of one seed differ, or were made with other settings (`setup`), for they are no seeds of one method. Two
    runs are one state measured twice if their answers are the same (`state`, else the scores)."""
    prompted = [result for result in results if result["method"] != "classify" and result["metrics"]]
    several = len({result["model"] for result in prompted}) > 1
    plain = [column(result, several) for result in results]
    splits: dict[str, set[str]] = defaultdict(set)
    for result in results:
        if result["metrics"]:
            splits[result["task"]].add(split_of(result))
    usual = {task: min(found, key=SPLITS.index) for task, found in splits.items()}
    plain = [
        _with(head, f"{split_of(result)} rows")
        if split_of(result) != usual.get(result["task"], split_of(result))
        else head
        for result, head in zip(results, plain, strict=True)
    ]
    sizes: dict[tuple[str, str], set[int]] = defaultdict(set)
    for result, head in zip(results, plain, strict=True):
        if result["metrics"]:
            sizes[head, result["task"]].add(result["n"])
    mixed = {head for (head, _), found in sizes.items() if len(found) > 1}
    plain = [_with(h, f"{result['n']} rows") if h in mixed else h for result, h in zip(results, plain, strict=True)]
    states: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for result, head in zip(results, plain, strict=True):
        if result["metrics"]:
            state = str(result.get("state", json.dumps(result["metrics"])))
            states[head, result["task"], result["seed"]].add(state)
    setups: dict[tuple[str, str], set[str]] = defaultdict(set)
    for result, head in zip(results, plain, strict=True):
        if result["metrics"] and "setup" in result and "name" not in result:
            setups[head, result["task"]].add(result["setup"])
    unclear = {head for (head, _, _), found in states.items() if len(found) > 1}
    unclear |= {head for (head, _), found in setups.items() if len(found) > 1}
    return [
        _with(head, result["run"]) if head in unclear and "run" in result else head
        for result, head in zip(results, plain, strict=True)
    ]


def split_of(result: Mapping[str, Any]) -> str:
    """The split that was asked; of what does not say it, the one that all tables are about."""
    return result["split"] if result.get("split") in SPLITS else SPLITS[0]


def _with(head: str, more: str) -> str:
    """A head with one more thing in its brackets."""
    return f"{head.removesuffix(')')}, {more})" if head.endswith(")") else f"{head} ({more})"


def grid(results: Sequence[dict[str, Any]]) -> tuple[list[str], dict[str, dict[str, Cell]]]:
    """Columns, and task -> column -> cell."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for result, head in zip(results, heads(results), strict=True):
        if result["metrics"]:
            _add_seed(found[result["task"]][head], result)
    order = {method: i for i, method in enumerate(METHODS)}
    known = dict.fromkeys(head for row in found.values() for head in row)
    named = list(dict.fromkeys(head for result, head in zip(results, heads(results), strict=True) if "name" in result))

    def place(head: str) -> tuple[int, str]:
        """A suite's methods in the suite's order, behind all others."""
        if head in named:
            return len(METHODS) + 1 + named.index(head), ""
        return order.get(head.split(" ")[0], len(METHODS)), head

    columns = sorted(known, key=place)
    table: dict[str, dict[str, Cell]] = {}
    for task in sorted(found, key=lambda name: list(TASKS).index(name) if name in TASKS else len(TASKS)):
        cells = {head: _cell(group) for head, group in found[task].items()}
        table[task] = cells
    return columns, table


def _add_seed(group: list[dict[str, Any]], result: dict[str, Any]) -> None:
    """Put a result among those of a cell, if it is another seed's, and seeds make a difference."""
    if not group or (result["seed"] not in [other["seed"] for other in group] and not is_unseeded(result)):
        group.append(result)


def is_unseeded(result: Mapping[str, Any]) -> bool:
    """Whether it would be the same with another seed: nothing was trained, drawn or chosen."""
    return result["method"] == "zero-shot" and result["decode"] != "sample" and "unparsable_as" not in result


def _cell(results: list[dict[str, Any]], name: str | None = None) -> Cell:
    name = name or main_metric(results[0])
    values = [result["metrics"][name] for result in results]
    if len(values) == 1:
        error = results[0]["stderr"][name]
        return Cell(values[0], error, results[0]["n"], 1, error)
    mean, _, high = interval(values)
    se = statistics.stdev(values) / math.sqrt(len(values))
    return Cell(mean, high - mean, results[0]["n"], len(values), se, len(values) - 1)


def _mean_cell(value: float, se: float, cells: Sequence[Cell]) -> Cell:
    """The cell of a mean over tasks: its standard error, or where a task has several seeds the half of its 95 %
    interval, by Student's t with the degrees of freedom of Welch and Satterthwaite."""
    seeds = max(cell.seeds for cell in cells)
    if seeds == 1:
        return Cell(value, se, 0, 1, se)
    low, _, _ = welch(value, [(cell.se**2, cell.df) for cell in cells])
    wide = math.sqrt(sum(cell.se**2 for cell in cells))
    return Cell(value, (value - low) * se / wide if wide else 0.0, 0, seeds, se)


def _one_term(cells: Sequence[Cell]) -> Cell:
    """The mean of several metrics on the same rows: their errors do not cancel."""
    se, df = statistics.mean(cell.se for cell in cells), min(cell.df for cell in cells)
    return Cell(statistics.mean(cell.value for cell in cells), se, 0, max(cell.seeds for cell in cells), se, df)


def main_metric(result: dict[str, Any]) -> str:
    """The metric that stands for a task in a table: the first that it declares."""
    return next(iter(result["metrics"]))


def averages(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Cell]]:
    """Name of an average -> column -> its cell, of the columns that have all it needs. Tasks have no rows in common, so
    their errors add in squares."""
    columns, table = grid(results)
    found: dict[str, dict[str, Cell]] = {}
    if len(table) > 1:
        rows = list(table.values())
        for head in (head for head in columns if all(head in row for row in rows)):
            cells = [row[head] for row in rows]
            value = statistics.mean(cell.value for cell in cells)
            se = math.hypot(*(cell.se for cell in cells)) / len(cells)
            found.setdefault("average", {})[head] = _mean_cell(value, se, cells)
    scores: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for result, head in zip(results, heads(results), strict=True):
        for metric in result["metrics"]:
            _add_seed(scores[head][result["task"], metric], result)
    for name in AVERAGES:
        for head, groups in scores.items():
            of_metric = {key: _cell(group, key[1]) for key, group in groups.items()}
            mean = average(name, {key: (cell.value, cell.se) for key, cell in of_metric.items()})
            if mean is not None:
                terms = [[of_metric[key] for key in term] for term in AVERAGES[name]]
                found.setdefault(name, {})[head] = _mean_cell(*mean, [_one_term(cells) for cells in terms])
    return found


def best_of(row: Mapping[str, Cell]) -> set[str]:
    """The columns with the highest score of a row; none where there is only one."""
    top = max((cell.value for cell in row.values()), default=0.0)
    return {head for head, cell in row.items() if cell.value == top} if len(row) > 1 else set()


def terminal_table(results: Sequence[dict[str, Any]]) -> Table:
    """Tasks x methods in percent, with standard errors; the best of a row is bold."""
    columns, cells = grid(results)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for head in ("task", "metric", "n"):
        table.add_column(head, no_wrap=True, overflow="fold")
    for head in columns:
        table.add_column(escape(head.replace(" (", "\n(")), justify="right", no_wrap=True, overflow="fold")
    metric = {result["task"]: main_metric(result) for result in results if result["metrics"]}
    for task, row in cells.items():
        best = best_of(row)
        texts = {h: f"[bold]{escape(row[h].text)}[/]" if h in best else escape(row[h].text) for h in row}
        table.add_row(escape(task), escape(metric[task]), rows_text(row), *[texts.get(h, "") for h in columns])
    for name, values in averages(results).items():
        table.add_row(name, "", "", *[escape(values[h].text) if h in values else "" for h in columns])
    return table


def rows_text(row: dict[str, Cell]) -> str:
    """The number of rows behind a task's scores: one, unless some runs saw fewer."""
    counts = sorted({cell.n for cell in row.values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def difference_table(found: Sequence[Difference]) -> Table:
    """Every pair of methods: by how much they differ, and whether that is real."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for head in ("task", "method", "against"):
        table.add_column(head, no_wrap=True, overflow="fold")
    for head in ("difference", "95 % interval", "p", ""):
        table.add_column(head, justify="right", no_wrap=True)
    for one in found:
        span = f"{100 * one.low:+.1f} to {100 * one.high:+.1f}"
        verdict = "[bold]real[/]" if one.real else "may be chance"
        table.add_row(
            escape(one.task), escape(one.a), escape(one.b), f"{100 * one.delta:+.1f}", span, p_text(one.p), verdict
        )
    return table


def p_text(p: float) -> str:
    """A p-value with two digits that say something."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _console() -> Console:
    """The terminal; a file is as wide as it takes, so that nothing is cut off."""
    if sys.stdout.isatty():
        return Console()
    return Console(width=1000, soft_wrap=True, force_jupyter=False)  # a notebook's would not write into the text


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Print the table; nothing is cut off where the output goes to a file. Machines are told every result."""
    if say.machines_read():
        for result in results:
            say.event("result", result)
        return
    console = _console()
    if any(result["metrics"] for result in results):
        console.print(terminal_table(results))
    for result in results:
        if not result["metrics"]:
            console.print(
                f"{escape(result['task'])}: {result['n']} answers; these rows have no gold labels to judge them by"
            )
    for meaning in ("wrong", "random"):
        counted = [result for result in results if result.get("unparsable_as", "wrong") == meaning]
        if unparsable := sum(result["unparsable"] for result in counted):
            means = "count as wrong" if meaning == "wrong" else "got a random label"
            console.print(f"{unparsable} answers could not be parsed and {means}")


def print_differences(found: Sequence[Difference]) -> None:
    """Print which differences between methods are real."""
    if say.machines_read():
        for one in found:
            say.event("difference", one.facts)
    elif found:
        console = _console()
        console.print("\nPaired tests on the same rows, p adjusted for all of them together (Holm):")
        console.print(difference_table(found))
