"""The table of tasks. A task is found by its name, or by the file that declares it; `glue`, `superglue` and `mini`
alone mean the whole suite."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from ..errors import UserError, did_you_mean
from .glue import GLUE
from .mini import MINI
from .superglue import SUPERGLUE
from .task import ID, LABEL, Example, Files, Table, Task

TASKS: dict[str, Task] = {task.name: task for task in (*GLUE, *SUPERGLUE, *MINI)}
SUITES = tuple(dict.fromkeys(task.suite for task in TASKS.values()))

__all__ = ["ID", "LABEL", "SUITES", "TASKS", "Example", "Files", "Table", "Task", "find", "find_all"]


def find(name: str) -> Task:
    """The task called `name`.

    Raises:
        UserError: there is none; the message suggests the nearest name.
    """
    if name in TASKS:
        return TASKS[name]
    if name.endswith((".yaml", ".yml")):
        from .own import read_task  # pydantic: only where it is needed, so that help is quick

        return read_task(Path(name))
    if name in SUITES:
        raise UserError(f"task {name!r} is a whole suite, and one task is needed here: try {name}/{_short(name)}")
    files = map(str, islice(Path().glob("*.yaml"), 100))
    near = did_you_mean(name, [*TASKS, *SUITES, *files])
    raise UserError(f"no task is called {name!r}{near}; `rl4nlu tasks` lists them all, `rl4nlu new task` makes one")


def find_all(names: str) -> list[Task]:
    """The tasks that a comma-separated list of task and suite names means, in order, each once.

    Raises:
        UserError: there is no such task, the list is empty, or two files cannot be told apart by name.
    """
    found: dict[str, Task] = {}
    files: dict[str, str] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        members = [task for task in TASKS.values() if task.suite == name] or [find(name)]
        for task in members:
            if found.setdefault(task.name, task) != task:
                raise UserError(f"--task {name}: another file's task is called {task.name} too; add `name:` to one")
        if members[0].table is not None:
            other = files.setdefault(Path(name).name, name)
            if Path(other).resolve() != Path(name).resolve():
                raise UserError(f"--task: a run keeps copies of {other} and {name}; give one of them another file name")
    if not found:
        raise UserError("--task is empty: name a task, e.g. --task glue/rte; `rl4nlu tasks` lists them all")
    return list(found.values())


def _short(suite: str) -> str:
    return next(task.name.split("/")[1] for task in TASKS.values() if task.suite == suite)
