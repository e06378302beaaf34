"""Go on with a run that was stopped or killed. Read and checked without torch, as every command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import processes, say
from .config import validate
from .errors import UserError, did_you_mean_path
from .prepare import prepare_classifier_evaluation, prepare_classify, prepare_evaluation, prepare_training
from .run import Run, command_of, read_config, read_results, status_of
from .settings import (
    BESIDE,
    MEMORY,
    RUNS,
    SOURCES,
    ClassifySettings,
    EvaluateSettings,
    PpoSettings,
    ResumeSettings,
    Settings,
    SftSettings,
)
from .tasks.own import is_file
from .trained import own_task

Results = list[dict[str, Any]]


@dataclass(frozen=True)
class Rest:
    """What is left of a run."""

    command: str
    prepared: Any
    """The rows, as `prepare` gives them; None: nothing is left."""


def rest_of(path: Path, settings: ResumeSettings | None = None) -> Rest:
    """What is left of a run, checked.

    Args:
        path: the run folder.
        settings: what differs from then.

    Raises:
        UserError: it is no run, another process works in it, or what it needs is not there any more.
    """
    if not path.is_dir():
        raise UserError(
            f"{path}: no such run folder{did_you_mean_path(path)}; runs say at their start where they write"
        )
    if (path / "suite.json").is_file():
        raise UserError(f"{path} is the folder of a suite: give its command again, it goes on where it was")
    command = command_of(path)
    if command not in RUNS or not (path / "config.yaml").is_file():
        raise UserError(
            f"{path} holds no run that could be gone on with (no command.txt, no config.yaml); remove it and make the "
            "run again"
        )
    state = processes.from_main(lambda: status_of(path))
    if state == "finished":
        return Rest(command, None)
    if not state and (path / "results.json").is_file():
        raise UserError(f"{path}: a run of an older version of rl4nlu, which did not say how far it was; make it again")
    if state == "running":
        raise UserError(f"{path}: the run is at work in another process; wait for it, or stop it")
    return Rest(command, prepare(command, saved_settings(path, command, settings)))


def saved_settings(path: Path, command: str, settings: ResumeSettings | None = None) -> Settings:
    """The settings of a run, as they are to be understood here and now."""
    values = read_config(path)
    if any(map(is_file, (values.get("task") or "").split(","))):
        values["task"] = own_task(path, values["task"])
    changes = {} if settings is None else settings.model_dump(exclude_none=True)
    known = RUNS[command].model_fields
    for name in changes:
        if name not in known:
            raise UserError(f"--{name.replace('_', '-')}: {command} has no such setting; leave it out")
    return validate(RUNS[command], {**values, **changes, "out": path})


def prepare(command: str, settings: Settings, reopened: bool = True) -> Any:
    """The rows that a command works on.

    Raises:
        UserError: something in settings or rows is not as it should be.
    """
    if isinstance(settings, SftSettings | PpoSettings):
        return prepare_training(settings, reopened)
    if isinstance(settings, ClassifySettings):
        return prepare_classify(settings, reopened)
    assert isinstance(settings, EvaluateSettings), f"{command} makes no run"
    if settings.adapter is not None and command_of(settings.adapter) == "classify":
        return prepare_classifier_evaluation(settings, reopened)
    return prepare_evaluation(settings, reopened)


def function_of(command: str, settings: Settings) -> Callable[[Any, Any], tuple[Run, Results]]:
    """The function of (settings, prepared rows) that makes a run. The heavy imports are here."""
    run_it: Callable[[Any, Any], tuple[Run, Results]]
    if command == "sft":
        from .methods.sft import sft as run_it
    elif command == "ppo":
        from .methods.ppo import ppo as run_it
    elif command == "classify":
        from .methods.classify import classify as run_it
    elif isinstance(settings, EvaluateSettings) and settings.adapter and command_of(settings.adapter) == "classify":
        from .methods.classify import evaluate as run_it
    else:
        from .methods.evaluate import evaluate as run_it
    return run_it


def resume(path: Path, settings: ResumeSettings | None = None) -> Results:
    """Go on with a run until it is finished. Its results.

    Raises:
        UserError: as `rest_of`.
    """
    if processes.announced()[1] > 1:  # before anything that one of them may refuse
        saved = read_config(path) if (path / "config.yaml").is_file() else {}
        processes.join((settings.device if settings else None) or saved.get("device") or "auto")
    rest = rest_of(path, settings)
    if rest.prepared is None:
        say.line(f"{path} is finished")
        return read_results(path)
    found = rest.prepared.settings
    return function_of(rest.command, found)(found, rest.prepared)[1]


def may_be_reopened(path: Path, command: str, settings: Settings) -> bool:
    """Whether there is a run of this command with these settings in the folder that can go on, or has come to its
    end.

    Raises:
        UserError: there is one with other settings, and work would be lost if it were begun anew.
    """
    state, before = status_of(path), command_of(path)
    if state in ("", "running"):
        return False
    try:
        if before != command:
            raise UserError(f"the command {before}, which is {command} now")
        changed = differing(validate(type(settings), read_config(path)), settings)
        told = ", ".join(f"{key} {was!r}, and {now!r} now" for key, was, now in changed)
    except UserError as wrong:
        told = str(wrong)
    if not told:
        return True
    if state != "diverged" and any((path / "checkpoints").glob("step-*")):
        raise UserError(f"{path} is a run that can go on, and was made with {told}: put the setting back, or remove it")
    return False


def differing(was: Settings, now: Settings) -> list[tuple[str, Any, Any]]:
    """The settings in which two runs of a command differ, with their values: but for the folder, whose name may have
    changed, and for what changes nothing, or no more than rounding does."""
    found = []
    for key in type(now).model_fields:
        then, here = getattr(was, key), getattr(now, key)
        if key in SOURCES and then and here:
            then, here = then.parts[-2:], here.parts[-2:]  # a suite's folder may have been moved
        if key not in {"out", *MEMORY, *BESIDE} and then != here:
            found.append((key, then, here))
    return found
