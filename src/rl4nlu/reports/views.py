"""Run folders, read and checked; and every two methods compared on the rows they share."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

from .. import saved, say, yamls
from ..compare import Difference, compare, difference_of_means, holm
from ..config import validate
from ..errors import UserError
from ..metrics import Outcome, confidence_of
from ..run import command_of
from ..settings import RUNS
from ..tables import grid, heads, is_unseeded, split_of
from ..tasks import TASKS, Example, Task
from ..tasks.own import read_task

OF_A_SEED = {
    "out",
    "task",
    "data",
    "init",
    "adapter",
    "seed",
    "shots_seed",
    "device",
    "max_tokens",
    "save_every",
    "track",
}
"""Settings in which the seeds of one method may differ."""
TUNING = "tuning"
"""Where a suite keeps the runs by which it chose settings."""


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
    prompts: Mapping[str, Mapping[str, str]]
    """Task -> id of a row -> what the model was shown, of some rows."""
    versions: Mapping[str, Any]
    """Of the libraries it was made with."""

    @property
    def title(self) -> str:
        """Its folder's name; of a run of a suite, whose folders are alike, with the method's."""
        return "/".join([*(result["name"] for result in self.results[:1] if "name" in result), self.path.name])

    @cached_property
    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Task -> its rows of predictions.jsonl."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self.predictions:
            for name in [row["task"]] if "task" in row else self.tasks:
                found[name].append(row)
        return dict(found)

    @cached_property
    def values(self) -> dict[str, Any]:
        """Its settings as plain values; none where they cannot be read."""
        try:
            found = yamls.values(self.path / "config.yaml", self.settings)
        except UserError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Column:
    """One method on one task: the runs that share a cell of the table, one for each seed."""

    task: str
    head: str
    runs: tuple[RunView, ...]
    results: tuple[dict[str, Any], ...]

    @property
    def split(self) -> str:
        """Whose rows it is about: ids are those of a split."""
        return split_of(self.results[0])


def collect(paths: Sequence[Path]) -> list[RunView]:
    """Read run folders; a folder that holds run folders (a demo's, a suite's) stands for all of them, but for those
    that only chose a suite's settings. Of several that were found so, those that cannot be read are named and left out.

    Raises:
        UserError: a folder holds no results, or what was asked for by its own name cannot be read.
    """
    folders: list[Path] = []
    for path in paths:
        below = [path] if (path / "results.json").is_file() else sorted(f.parent for f in path.rglob("results.json"))
        inner = [folder for folder in below if not _only_chose(folder, path)]
        folders += inner or [path]  # of one without results the reader says so
        unfinished = [f.parent for f in path.rglob("status.json") if f.parent not in below and f.parent != path]
        for folder in sorted(one for one in unfinished if not _only_chose(one, path)):
            say.note(f"note: {folder} has no results yet, so the report is without it")
    names = _short_names(folders)
    runs = []
    for folder, name in zip(folders, names, strict=True):
        try:
            runs.append(_view(folder, name))
        except UserError as wrong:
            if folder in paths or len(folders) == 1:
                raise
            say.note(f"note: {wrong}; the report is without it")
    runs = _with_setups(_with_states(runs))
    saved.same_metrics([result for run in runs for result in run.results])
    _same_tasks(runs)
    return runs


def _only_chose(folder: Path, path: Path) -> bool:
    """Whether a run that was found below a path is one by which a suite chose settings."""
    above = folder.relative_to(path).parents
    return any(one.name == TUNING and (path / one.parent / "suite.json").is_file() for one in above)


def _short_names(folders: Sequence[Path]) -> list[str]:
    """As much of each folder's path, from its end, as no other one shares."""
    parts = [folder.absolute().parts for folder in folders]
    for many in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-many:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(folder) for folder in folders]


def _with_states(runs: list[RunView]) -> list[RunView]:
    """Each result with the number of its state: results of one task, method and seed have the same one if all answers
    are the same (label probabilities but for rounding). What has no predictions is known by its scores."""
    known: dict[tuple[Any, ...], list[list[dict[str, Any]]]] = defaultdict(list)
    for run in runs:
        for result in run.results:
            rows = run.rows.get(result["task"], [])
            states = known[result["task"], result["method"], result["seed"], result["n"]]
            if rows:
                number = next((i for i, other in enumerate(states) if _alike(rows, other)), len(states))
                if number == len(states):
                    states.append(rows)
                result["state"] = number
    return runs


def _with_setups(runs: list[RunView]) -> list[RunView]:
    """Each result of what was trained with a mark of how, by which seeds of one way are told from other ways."""
    for run in runs:
        if mark := setup_of(run.path):
            for result in run.results:
                result["setup"] = mark
    return runs


def setup_of(folder: Path, depth: int = 3) -> str:
    """A mark of the settings that a run was trained with, and of those of the run that it started from; of an
    evaluation that of the run whose adapter it asked. Empty where nothing was trained, or that cannot be read.

    Settings count that are not the default, and in which the seeds of one method do not differ anyway.
    """
    try:
        command = command_of(folder)
        kind = RUNS[command]
        settings = validate(kind, yamls.values(folder / "config.yaml", saved.text(folder / "config.yaml")))
    except (UserError, KeyError):
        return ""
    before = getattr(settings, "adapter", None) or getattr(settings, "init", None)
    beneath = setup_of(before, depth - 1) if before is not None and depth else ""
    if command == "evaluate":
        return beneath
    usual = kind().model_dump(mode="json")
    own = {
        name: value
        for name, value in settings.model_dump(mode="json").items()
        if name not in OF_A_SEED and value not in (usual[name], "none")
    }
    return hashlib.sha256(json.dumps([command, own, beneath], sort_keys=True).encode()).hexdigest()[:8]


def _same_tasks(runs: Sequence[RunView]) -> None:
    """Runs on a task of the user's own know it by the same labels.

    Raises:
        UserError: they do not.
    """
    first: dict[str, tuple[Task, RunView]] = {}
    for run in runs:
        for name, task in run.tasks.items():
            known, other = first.setdefault(name, (task, run))
            if (known.labels, known.numeric) != (task.labels, task.numeric):
                raise UserError(f"{name} has other labels in {run.path} than in {other.path}: report them apart")


def _alike(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> bool:
    if [(a["id"], a["prediction"], a.get("text")) for a in rows] != [
        (b["id"], b["prediction"], b.get("text")) for b in others
    ]:
        return False
    pairs = ((a.get("scores") or {}, b.get("scores") or {}) for a, b in zip(rows, others, strict=True))
    return all(a.keys() == b.keys() and all(abs(a[k] - b[k]) < 1e-3 for k in a) for a, b in pairs)


def _view(folder: Path, name: str) -> RunView:
    own = [read_task(path) for path in sorted((folder / "tasks").glob("*"))]
    results = [{**result, "run": name} for result in saved.results(folder)]
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
        saved.prompts(folder),
        saved.versions(folder),
    )


def columns_of(runs: Sequence[RunView]) -> list[Column]:
    """Every cell of the table with the runs behind it, task by task in the table's order. The same state measured twice
    counts once."""
    results = [(run, result) for run in runs for result in run.results]
    found: dict[tuple[str, str], dict[int, tuple[RunView, dict[str, Any]]]] = defaultdict(dict)
    for (run, result), head in zip(results, heads([result for _, result in results]), strict=True):
        if result["metrics"]:
            found[result["task"], head].setdefault(0 if is_unseeded(result) else result["seed"], (run, result))
    order, table = grid([result for _, result in results])
    pairs = [(task, head) for task in table for head in order if (task, head) in found]
    return [
        Column(
            task, head, *map(tuple, zip(*(of_seed for _, of_seed in sorted(found[task, head].items())), strict=True))
        )
        for task, head in pairs
    ]


def differences(runs: Sequence[RunView]) -> list[Difference]:
    """Paired tests of every two columns of each task, on the rows they share, and of their means over all tasks; p
    adjusted for all of them together."""
    outcomes: dict[str, dict[str, list[list[Outcome]]]] = defaultdict(dict)
    tasks: dict[str, Task] = {}
    columns = columns_of(runs)
    for column in reversed(columns):  # what stands further right in the table is compared with what stands left of it
        for run in column.runs:
            if column.task in run.tasks:
                task = tasks[column.task] = run.tasks[column.task]
                outcomes[column.task].setdefault(column.head, []).append(outcomes_of(task, run.predictions))
    unseeded = {column.head for column in columns if all(is_unseeded(result) for result in column.results)}
    found = []
    for name in dict.fromkeys(column.task for column in columns):
        if name in tasks:
            found += compare(tasks[name], outcomes[name], unseeded)
    shown = len(dict.fromkeys(column.task for column in columns))
    return holm([*found, *difference_of_means(found, shown)])


def not_compared(runs: Sequence[RunView], found: Sequence[Difference]) -> list[str]:
    """Pairs of methods that stand in one row of the table and were not asked the same rows, in words."""
    pairs = {(one.task, frozenset((one.a, one.b))) for one in found}
    said = []
    for task, columns in groupby(columns_of(runs), key=lambda column: column.task):
        heads_here = [column.head for column in columns if column.task in column.runs[0].tasks]
        apart = [f"{a} and {b}" for a, b in combinations(heads_here, 2) if (task, frozenset((a, b))) not in pairs]
        said += [f"{task}: {', '.join(apart)}"] if apart else []
    return said


def outcomes_of(task: Task, predictions: Sequence[dict[str, Any]]) -> list[Outcome]:
    """Judged rows, from what predictions.jsonl tells of them."""
    found = []
    for row in predictions:
        if row.get("task", task.name) == task.name:
            found.append(Outcome(example_of(task, row), row["prediction"], confidence_of(task, row.get("scores"))))
    return found


def example_of(task: Task, row: Mapping[str, Any]) -> Example:
    """The row of a data set that a prediction is about, without its texts."""
    places = {name: row.get(name) for name in ("group", "document")}
    return Example(row["id"], {}, row["gold"], **places, meta=row.get("meta", {}))
