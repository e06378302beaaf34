"""One HTML page of runs side by side: it asks the network for nothing, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files as files_of
from typing import Any

import jinja2

from ..compare import Difference
from ..tables import Cell, averages, best_of, grid, heads, main_metric, p_text, rows_text
from .curves import learning_curves, line_of, reliability
from .examples import examples_of
from .facts import calibration, changes, confusion, cost
from .views import Column, RunView, columns_of, not_compared

LIMIT = 1_900_000
"""Bytes of a page."""
MOST_DIAGRAMS = 100
"""Reliability diagrams on a page; of more methods the table alone is shown."""
FEW = 3
"""Quantities with curves on a page that would be too large with all."""
MOST_SETTINGS = 60
"""Runs whose settings are shown in full; of more of them the commands, which say the same, have to do."""


def page(runs: Sequence[RunView], found: Sequence[Difference]) -> str:
    """The page; if it would be too large, one with fewer curves and no diagrams, which says so.

    Args:
        runs: what to show.
        found: the differences between the methods.
    """
    text = _page(runs, found, whole=True)
    return text if len(text.encode()) <= LIMIT else _page(runs, found, whole=False)


def _page(runs: Sequence[RunView], found: Sequence[Difference], whole: bool) -> str:
    results = [result for run in runs for result in run.results if result["metrics"]]
    columns, table = grid(results)
    cells, means = columns_of(runs), averages(results)
    apart = not_compared(runs, found)
    parts: dict[str, Any] = {
        "compared": [*found, *apart],
        "differences": found,
        "curves": learning_curves(cells, *([] if whole else [FEW])),
        "confusions": _by_task(cells, confusion),
        "calibrations": _calibrations(cells, columns, MOST_DIAGRAMS if whole else 0),
        "examples": examples_of(cells),
    }
    environments = dict.fromkeys(", ".join(f"{k} {v}" for k, v in run.versions.items()) for run in runs)

    def place(headed: tuple[str, dict[str, Any]]) -> tuple[int, int]:
        return list(table).index(headed[1]["task"]), columns.index(headed[0])

    return _template().render(
        **parts,
        whole=whole,
        title=_title(columns, list(table)),
        lead=_lead(columns, table, means, found),
        sections=_sections(parts),
        differences_shown=_grouped(found),
        apart=apart,
        columns=columns,
        table=table,
        averages=means,
        bests={name: best_of(row) for name, row in {**table, **means}.items()},
        metric={result["task"]: main_metric(result) for result in results},
        costs=[(column, cost(column, runs)) for column in cells],
        changes=changes(cells),
        tasks_shown=list(dict.fromkeys(one.task for one in parts["examples"])),
        results=sorted(zip(heads(results), results, strict=True), key=place),
        reruns=_reruns(runs),
        environments=[one for one in environments if one],
        runs=runs,
        seeds=max((cell.seeds for row in table.values() for cell in row.values()), default=1),
    )


@cache
def _template() -> jinja2.Template:
    script = files_of("rl4nlu").joinpath("assets", "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rl4nlu", "assets"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {
        "p_text": p_text,
        "rows_text": rows_text,
        "shade": _shade,
        "amount": _amount,
        "count": _count,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return environment.get_template("report.html.j2")


def _title(columns: Sequence[str], tasks: Sequence[str]) -> str:
    if not tasks:
        return "No scores"
    return f"{tasks[0] if len(tasks) == 1 else _count(tasks, 'task')}, {_count(columns, 'method')}"


def _lead(
    columns: Sequence[str],
    table: Mapping[str, Mapping[str, Cell]],
    means: Mapping[str, Mapping[str, Cell]],
    found: Sequence[Difference],
) -> str:
    """The page in a sentence: which method is best, and whether it is really better than the next."""
    scores = means.get("average") or (next(iter(table.values())) if len(table) == 1 else {})
    order = sorted(scores, key=lambda head: -scores[head].value)
    if len(order) < 2:
        return ""
    best, other = order[:2]
    where = "on average over all tasks" if len(table) > 1 else f"on {next(iter(table))}"
    said = f"Best {where}: {best}, {scores[best].text}."
    about = "average" if len(table) > 1 else next(iter(table))
    for one in found:
        if one.task == about and {one.a, one.b} == {best, other}:
            sign = 1 if one.a == best else -1
            low, high = sorted((sign * one.low, sign * one.high))
            verdict = "the difference is real" if one.real else "the difference may be chance"
            ahead = f"{100 * sign * one.delta:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            return f"{said} Against {other}, the next best: {ahead}; {verdict}."
    return f"{said} Next best: {other}, {scores[other].text}."


def _sections(parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {
        "scores": "Scores",
        "differences": "Differences",
        "curves": "Curves",
        "confusion": "Confusion",
        "calibration": "Calibration",
        "cost": "Cost",
        "examples": "Examples",
        "all-metrics": "All metrics",
        "rerun": "Rerun",
    }
    part_of = {"differences": "compared", "confusion": "confusions", "calibration": "calibrations"}
    return [(id, name) for id, name in names.items() if parts.get(part_of.get(id, id), True)]


def _grouped(found: Sequence[Difference]) -> list[tuple[str, list[Difference]]]:
    """Those of the mean over all tasks first, where there are any; then task by task."""
    means = [one for one in found if one.task == "average"]
    others = [one for one in found if one.task != "average"]
    return [pair for pair in (("On average over all tasks", means), ("Task by task", others)) if pair[1]]


def _by_task(cells: Sequence[Column], work: Any) -> dict[str, list[tuple[str, Any]]]:
    found: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for column in cells:
        if (one := work(column)) is not None:
            found[column.task].append((column.head, one))
    return dict(found)


def _calibrations(cells: Sequence[Column], columns: Sequence[str], most: int) -> dict[str, list[tuple[str, Any, Any]]]:
    style, by_task = line_of(columns), _by_task(cells, calibration)
    drawn = sum(map(len, by_task.values())) <= most

    def picture(task: str, head: str, one: Any) -> Any:
        return reliability(one, head, style[head].colour, f"reliability/{task}/{head}") if drawn else None

    return {task: [(head, one, picture(task, head, one)) for head, one in found] for task, found in by_task.items()}


def _reruns(runs: Sequence[RunView]) -> list[tuple[str, str, str]]:
    """Title, command and settings of each run; of many runs, the commands of a folder in one place."""
    if len(runs) <= MOST_SETTINGS:
        return [(run.title, run.command, run.settings) for run in runs]
    groups: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        groups[", ".join(dict.fromkeys(result["task"] for result in run.results)) or run.title].append(run.command)
    return [(name, "\n".join(commands), "") for name, commands in groups.items()]


def _shade(count: int, counts: Sequence[int]) -> str:
    """White to blue by the share of the row; dark letters are readable on all of them."""
    share = count / sum(counts) if sum(counts) else 0.0
    return f"rgb({255 - 97 * share:.0f},{255 - 58 * share:.0f},{255 - 15 * share:.0f})"


def _count(things: Sequence[Any] | Mapping[Any, Any], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _amount(value: float | None) -> str:
    """A count or a time with the digits that say something; a dash where it is not known, or nothing."""
    if not value:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
