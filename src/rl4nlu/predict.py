"""Answer new rows with a trained run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from . import data
from .ask import Advance, Prediction, ask, encode
from .classifier import ask as ask_classifier
from .classifier import restore, trained_settings
from .config import validate
from .errors import UserError
from .evaluate import follow, own_task
from .models import load_policy
from .rows import read_rows
from .run import Meter, command_of
from .settings import EvaluateSettings, PredictSettings
from .tasks import Example, Task, find_all
from .tasks.own import is_file

Answers = Callable[[Sequence[Example], Advance], Iterator[Prediction]]
"""(rows, whom to tell of the progress) -> what a run says of them."""


def predict(run: Path, settings: PredictSettings) -> int:
    """Read rows that hold the task's fields, write one object a row in the same order. Returns how many.

    Raises:
        UserError: a row lacks a field, or the output file is there already.
    """
    assert settings.input is not None
    assert settings.output is not None
    if settings.output.exists():
        raise UserError(f"--output {settings.output} is there already: name another file, or remove this one first")
    if not settings.output.absolute().parent.is_dir():
        raise UserError(f"--output {settings.output}: its folder does not exist; make it first")
    is_classifier = command_of(run) == "classify"
    task, answers = (_by_classifier if is_classifier else _by_prompt)(run, settings)
    located = read_rows(settings.input, quoted=task.table is not None)
    rows = [data.example_from_fields(task, row, where) for where, row in located]
    if not rows:
        raise UserError(f"{settings.input}: the file has a header and no row")
    part = settings.output.with_name(settings.output.name + ".part")
    with Meter(f"predict {task.name}", len(rows)) as meter:
        found = answers(rows, meter.advance)
        with part.open("w", encoding="utf-8") as file:
            for prediction in found:
                answer = {"task": task.name, **prediction.row}
                del answer["gold"]
                file.write(json.dumps(answer, ensure_ascii=False) + "\n")
    os.replace(part, settings.output)
    return len(rows)


def _by_prompt(run: Path, settings: PredictSettings) -> tuple[Task, Answers]:
    values = {name: getattr(settings, name) for name in ("task", "decode", "device", "dtype", "max_tokens", "seed")}
    asked = follow(run, validate(EvaluateSettings, {**values, "adapter": run}))
    task = _only(run, asked.task or "")

    def answers(rows: Sequence[Example], advance: Advance) -> Iterator[Prediction]:
        policy = load_policy(asked.model or "", settings.device, settings.dtype, adapter=run)
        return ask(policy, encode(policy, task, asked, rows), settings.decode, asked, advance=advance)

    return task, answers


def _by_classifier(run: Path, settings: PredictSettings) -> tuple[Task, Answers]:
    if settings.decode != "score":
        raise UserError(f"--decode {settings.decode}: {run} is a classifier, which generates no text")
    task = _only(run, settings.task or own_task(run, trained_settings(run).task))

    def answers(rows: Sequence[Example], advance: Advance) -> Iterator[Prediction]:
        return ask_classifier(restore(run, task, settings.device, settings.dtype), rows, advance)

    return task, answers


def _only(run: Path, names: str) -> Task:
    tasks = find_all(names)
    if len(tasks) > 1:
        # of the user's own the file: their names are known to results only
        known = ", ".join(name for part in names.split(",") for name in _spelt(part))
        raise UserError(f"{run} was trained on several tasks: say with --task whose question to ask ({known})")
    return tasks[0]


def _spelt(part: str) -> list[str]:
    """What --task takes for the tasks that a part of a list means."""
    return [part] if is_file(part) else [task.name for task in find_all(part)]
