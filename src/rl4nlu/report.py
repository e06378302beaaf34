"""Runs side by side: a table in the terminal, and one HTML page without network, scripts or external assets."""

from __future__ import annotations

import io
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .compare import AVERAGES, Difference, average, compare, holm, interval
from .errors import UserError
from .metrics import Outcome
from .run import read_results
from .tasks import TASKS, Example, Task
from .tasks.own import read_task

METHODS = ("zero-shot", "few-shot", "sft", "ppo", "classify")
CURVES = ("loss", "reward", "accuracy", "kl", "entropy", "unparsable", "clipfrac")
EXAMPLES = 20


@dataclass(frozen=True)
class RunView:
    """What a report shows of a run."""

    path: Path
    results: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    command: str
    settings: str
    tasks: dict[str, Task]
    """The tasks of its results by name, the user's own among them."""


@dataclass(frozen=True)
class Cell:
    """One method's score on one task: the task's first metric, over the seeds that were run."""

    value: float
    error: float
    """Standard error over rows; over seeds half of the 95 % confidence interval, where there are several."""
    n: int
    seeds: int
    best: bool = False

    @property
    def text(self) -> str:
        if self.seeds > 1:
            low, high = 100 * (self.value - self.error), 100 * (self.value + self.error)
            return f"{100 * self.value:.1f} [{low:.1f}, {high:.1f}] ({self.seeds} seeds)"
        return f"{100 * self.value:.1f} ± {100 * self.error:.1f}"


def collect(paths: Sequence[Path]) -> list[RunView]:
    """Read run folders; a folder that holds run folders stands for all of them.

    Raises:
        UserError: a folder holds no results.
    """
    folders: list[Path] = []
    for path in paths:
        inner = sorted(file.parent for file in path.glob("*/results.json")) if path.is_dir() else []
        folders += [path] if (path / "results.json").is_file() or not inner else inner
    return [_view(folder) for folder in folders]


def _view(folder: Path) -> RunView:
    own = [read_task(path) for path in sorted((folder / "tasks").glob("*"))]
    results = [{**result, "run": folder.name} for result in read_results(folder)]
    known = {**TASKS, **{task.name: task for task in own}}
    return RunView(
        folder,
        results,
        _lines(folder / "metrics.jsonl"),
        _lines(folder / "predictions.jsonl"),
        _text(folder / "command.txt"),
        _text(folder / "config.yaml"),
        {result["task"]: known[result["task"]] for result in results if result["task"] in known},
    )


def column(result: dict[str, Any], with_model: bool = False) -> str:
    """The method as a column's head: with its model, shots, template and decoding where they are not the usual ones."""
    extras = [Path(result["model"]).name] if with_model or result["method"] == "classify" else []
    extras += [f"{result['shots']} shots"] if result["shots"] else []
    extras += [result["template"]] if result.get("template", "plain") != "plain" else []
    extras += [result["decode"]] if result["decode"] != "score" else []
    extras += [f"{result['calibrate']} calibration"] if "calibrate" in result else []
    extras += [f"unparsable {result['unparsable_as']}"] if "unparsable_as" in result else []
    extras += ["multi-task"] if "trained_on" in result else []
    return result["method"] + (f" ({', '.join(extras)})" if extras else "")


def heads(results: Sequence[dict[str, Any]]) -> list[str]:
    """The column of each result: its method; the model stands there where several were prompted or trained, the run
    where two of one seed differ, for they are no seeds of one method."""
    several = len({result["model"] for result in results if result["method"] != "classify"}) > 1
    plain = [column(result, several) for result in results]
    scores: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for result, head in zip(results, plain, strict=True):
        scores[head, result["task"], result["seed"]].add(json.dumps(result["metrics"]))
    unclear = {head for (head, _, _), found in scores.items() if len(found) > 1}
    return [
        f"{head.removesuffix(')')}{', ' if head.endswith(')') else ' ('}{result['run']})"
        if head in unclear and "run" in result
        else head
        for result, head in zip(results, plain, strict=True)
    ]


def grid(results: Sequence[dict[str, Any]]) -> tuple[list[str], dict[str, dict[str, Cell]]]:
    """Columns, and task -> column -> cell; the best cell of a row is marked."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for result, head in zip(results, heads(results), strict=True):
        if result["metrics"] and result["seed"] not in [other["seed"] for other in found[result["task"]][head]]:
            found[result["task"]][head].append(result)
    order = {method: i for i, method in enumerate(METHODS)}
    known = dict.fromkeys(head for row in found.values() for head in row)
    columns = sorted(known, key=lambda head: (order.get(head.split(" ")[0], len(METHODS)), head))
    table: dict[str, dict[str, Cell]] = {}
    for task in sorted(found, key=lambda name: list(TASKS).index(name) if name in TASKS else len(TASKS)):
        cells = {head: _cell(group) for head, group in found[task].items()}
        top = max(cell.value for cell in cells.values())
        table[task] = {head: replace(cell, best=cell.value == top) for head, cell in cells.items()}
    return columns, table


def _cell(results: list[dict[str, Any]], name: str | None = None) -> Cell:
    name = name or main_metric(results[0])
    values = [result["metrics"][name] for result in results]
    if len(values) == 1:
        return Cell(values[0], results[0]["stderr"][name], results[0]["n"], 1)
    mean, _, high = interval(values)
    return Cell(mean, high - mean, results[0]["n"], len(values))


def main_metric(result: dict[str, Any]) -> str:
    """The metric that stands for a task in a table: the first that it declares."""
    return next(iter(result["metrics"]))


def averages(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Name of an average -> column -> its text, of the columns that have all it needs."""
    columns, table = grid(results)
    found: dict[str, dict[str, str]] = {}
    if len(table) > 1:
        full = [head for head in columns if all(head in row for row in table.values())]
        found["average"] = {h: f"{100 * statistics.mean(row[h].value for row in table.values()):.1f}" for h in full}
    scores: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for result, head in zip(results, heads(results), strict=True):
        for metric in result["metrics"]:
            group = scores[head][result["task"], metric]
            if result["seed"] not in [other["seed"] for other in group]:
                group.append(result)
    for name in AVERAGES:
        for head, groups in scores.items():
            cells = {key: _cell(group, key[1]) for key, group in groups.items()}
            mean = average(name, {key: (cell.value, cell.error) for key, cell in cells.items()})
            if mean is not None:
                seeds = min(cell.seeds for cell in cells.values())
                found.setdefault(name, {})[head] = Cell(*mean, 0, seeds).text
    return found


def differences(runs: Sequence[RunView]) -> list[Difference]:
    """Paired tests of every two columns of each task, on the rows they share; p adjusted for all of them together."""
    results = [(run, result) for run in runs for result in run.results]
    columns = heads([result for _, result in results])
    tasks: dict[str, Task] = {}
    outcomes: dict[str, dict[str, dict[int, list[Outcome]]]] = defaultdict(lambda: defaultdict(dict))
    for (run, result), head in zip(results, columns, strict=True):
        task = run.tasks.get(result["task"])
        if task is not None and result["metrics"]:
            tasks[task.name] = task
            outcomes[task.name][head].setdefault(result["seed"], _outcomes(task, run.predictions))
    order = {head: i for i, head in enumerate(grid([result for _, result in results])[0])}
    found = []
    for name, of_task in outcomes.items():
        seeds = {head: list(of_task[head].values()) for head in sorted(of_task, key=lambda head: -order[head])}
        found += compare(tasks[name], seeds)
    return holm(found)


def _outcomes(task: Task, predictions: Sequence[dict[str, Any]]) -> list[Outcome]:
    """Judged rows, from what predictions.jsonl tells of them."""
    found = []
    for row in predictions:
        if row.get("task", task.name) == task.name:
            places = {name: row.get(name) for name in ("group", "document")}
            example = Example(row["id"], {}, row["gold"], **places, meta=row.get("meta", {}))
            confidence = row["scores"][task.labels[-1]] if row.get("scores") and not task.numeric else None
            found.append(Outcome(example, row["prediction"], confidence))
    return found


def terminal_table(results: Sequence[dict[str, Any]]) -> Table:
    """Tasks x methods in percent, with standard errors; the best of a row is bold."""
    columns, cells = grid(results)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for head in ("task", "metric", "n"):
        table.add_column(head, no_wrap=True, overflow="fold")
    for head in columns:
        table.add_column(head.replace(" (", "\n("), justify="right", no_wrap=True, overflow="fold")
    metric = {result["task"]: main_metric(result) for result in results if result["metrics"]}
    for task, row in cells.items():
        texts = {h: f"[bold]{escape(row[h].text)}[/]" if row[h].best else escape(row[h].text) for h in row}
        table.add_row(task, metric[task], rows_text(row), *[texts.get(h, "") for h in columns])
    for name, values in averages(results).items():
        table.add_row(name, "", "", *[escape(values.get(h, "")) for h in columns])
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
        table.add_row(one.task, one.a, one.b, f"{100 * one.delta:+.1f}", span, p_text(one.p), verdict)
    return table


def p_text(p: float) -> str:
    """A p-value with two digits that say something."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Print the table; nothing is cut off where the output goes to a file."""
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(terminal_table(results))
    for meaning in ("wrong", "random"):
        counted = [result for result in results if result.get("unparsable_as", "wrong") == meaning]
        if unparsable := sum(result["unparsable"] for result in counted):
            means = "count as wrong" if meaning == "wrong" else "got a random label"
            console.print(f"{unparsable} answers could not be parsed and {means}")


def print_differences(found: Sequence[Difference]) -> None:
    """Print which differences between methods are real."""
    if found:
        console = Console() if sys.stdout.isatty() else Console(width=160)
        console.print("\nPaired tests on the same rows, p adjusted for all of them together (Holm):")
        console.print(difference_table(found))


def write_page(runs: Sequence[RunView], out: Path, found: Sequence[Difference]) -> None:
    """Write the HTML page.

    Args:
        runs: what to show.
        out: the file to write.
        found: the differences between the methods.

    Raises:
        UserError: the file cannot be written.
    """
    results = [result for run in runs for result in run.results if result["metrics"]]
    columns, table = grid(results)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rl4nlu", "assets"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        columns=columns,
        table=table,
        averages=averages(results),
        differences=found,
        p_text=p_text,
        rows_text=rows_text,
        metric={result["task"]: main_metric(result) for result in results},
        results=sorted(results, key=lambda result: (list(table).index(result["task"]), columns.index(column(result)))),
        runs=runs,
        curves=[(run.path.name, _curves(run)) for run in runs if run.steps],
        examples=[(run.path.name, _examples(run)) for run in runs if run.predictions],
        seeds=max((cell.seeds for row in table.values() for cell in row.values()), default=1),
    )
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as wrong:
        raise UserError(f"--out {out}: cannot be written ({wrong.strerror})") from None


def _curves(run: RunView) -> list[str]:
    """Learning curves as inline SVGs: each logged quantity faint, its running mean on top."""
    return [_curve(run.steps, name) for name in CURVES if name in run.steps[0]]


def _curve(steps: list[dict[str, Any]], name: str) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    x, y = [row["step"] for row in steps], [row[name] for row in steps]
    window = max(1, len(steps) // 20)
    smooth = [statistics.mean(y[max(0, i - window + 1) : i + 1]) for i in range(len(y))]
    figure = Figure(figsize=(2.6, 2.0), layout="constrained")
    axis = figure.subplots()
    axis.plot(x, y, color="#9db4d0", linewidth=0.8)
    axis.plot(x, smooth, color="#1f4e8c", linewidth=1.6)
    axis.set_title(name, fontsize=9)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    with io.StringIO() as text, matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
        svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _examples(run: RunView) -> list[dict[str, Any]]:
    """Some rows, wrong answers first, half and half where there are both."""
    known = [row for row in run.predictions if row["gold"] is not None]
    wrong = [row for row in known if not _right(run, row)]
    right = [row for row in known if _right(run, row)]
    half = EXAMPLES // 2
    chosen = wrong[: max(half, EXAMPLES - len(right))] + right[: max(half, EXAMPLES - len(wrong))]
    return [{**row, "right": _right(run, row)} for row in chosen[:EXAMPLES]]


def _right(run: RunView, row: dict[str, Any]) -> bool:
    task = run.tasks.get(row.get("task", ""))
    if task is not None and task.numeric and row["prediction"] is not None:
        return task.nearest(float(row["prediction"])) == task.nearest(float(row["gold"]))
    return row["prediction"] == row["gold"]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
