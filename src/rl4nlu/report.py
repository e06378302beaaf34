"""Runs side by side: their paired tests, and one HTML page without network, scripts or external assets."""

from __future__ import annotations

import io
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from . import files, saved
from .compare import Difference, compare, holm
from .errors import UserError
from .metrics import Outcome
from .tables import averages, grid, heads, main_metric, p_text, rows_text
from .tasks import TASKS, Example, Task
from .tasks.own import read_task

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

    @property
    def title(self) -> str:
        """Its folder's name; of a run of a suite, whose folders are alike, with the method's."""
        return "/".join([*(result["name"] for result in self.results[:1] if "name" in result), self.path.name])


def collect(paths: Sequence[Path]) -> list[RunView]:
    """Read run folders; a folder that holds run folders stands for all of them.

    Raises:
        UserError: a folder holds no results.
    """
    folders: list[Path] = []
    for path in paths:
        inner = sorted(file.parent for file in path.glob("*/results.json")) if path.is_dir() else []
        folders += [path] if (path / "results.json").is_file() or not inner else inner
    runs = [_view(folder) for folder in folders]
    saved.same_metrics([result for run in runs for result in run.results])
    return runs


def _view(folder: Path) -> RunView:
    own = [read_task(path) for path in sorted((folder / "tasks").glob("*"))]
    results = [{**result, "run": folder.name} for result in saved.results(folder)]
    known = {**TASKS, **{task.name: task for task in own}}
    tasks = {result["task"]: known[result["task"]] for result in results if result["task"] in known}
    return RunView(
        folder,
        results,
        saved.steps(folder),
        saved.predictions(folder, tasks),
        saved.text(folder / "command.txt"),
        saved.text(folder / "config.yaml"),
        tasks,
    )


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
            outcomes[task.name][head].setdefault(result["seed"], outcomes_of(task, run.predictions))
    order = {head: i for i, head in enumerate(grid([result for _, result in results])[0])}
    found = []
    for name, of_task in outcomes.items():
        seeds = {head: list(of_task[head].values()) for head in sorted(of_task, key=lambda head: -order[head])}
        found += compare(tasks[name], seeds)
    return holm(found)


def outcomes_of(task: Task, predictions: Sequence[dict[str, Any]]) -> list[Outcome]:
    """Judged rows, from what predictions.jsonl tells of them."""
    found = []
    for row in predictions:
        if row.get("task", task.name) == task.name:
            places = {name: row.get(name) for name in ("group", "document")}
            example = Example(row["id"], {}, row["gold"], **places, meta=row.get("meta", {}))
            confidence = row["scores"][task.labels[-1]] if row.get("scores") and not task.numeric else None
            found.append(Outcome(example, row["prediction"], confidence))
    return found


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

    def place(headed: tuple[str, dict[str, Any]]) -> tuple[int, int]:
        return list(table).index(headed[1]["task"]), columns.index(headed[0])

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
        results=[result for _, result in sorted(zip(heads(results), results, strict=True), key=place)],
        runs=runs,
        curves=[(run.title, _curves(run)) for run in runs if run.steps],
        examples=[(run.title, _examples(run)) for run in runs if run.predictions],
        seeds=max((cell.seeds for row in table.values() for cell in row.values()), default=1),
    )
    try:
        files.write_text(out, page)
    except OSError as wrong:
        raise UserError(f"--out {out}: cannot be written ({wrong.strerror})") from None


def _curves(run: RunView) -> list[str]:
    """Learning curves as inline SVGs: each logged quantity faint, its running mean on top."""
    logged = [(name, [row for row in run.steps if _plottable(row.get(name))]) for name in CURVES]
    return [_curve(rows, name) for name, rows in logged if rows]


def _plottable(value: Any) -> bool:
    """Whether a curve can go through it: a number, and none that the axes could not hold."""
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e30


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
