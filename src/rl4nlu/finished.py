"""A finished run as it is shared: what was trained, where its weights lie, how well it does. Read without torch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import saved, yamls
from .config import validate
from .errors import UserError
from .run import command_of, read_config, status_of
from .settings import RUNS, Settings
from .sources import LABEL_BIAS, MINI, MINILM, check_adapter, check_model, mini_folder
from .tasks import TASKS, Task
from .tasks.own import SUFFIXES, is_file, read_task

TRAINED = ("sft", "ppo", "classify")
LICENCE = ("license", "license_name", "license_link")
"""What a model card says of the licence."""


@dataclass(frozen=True)
class Finished:
    """A run folder, or a folder with a whole model that `merge` has made of one."""

    path: Path
    method: str
    """sft, ppo or classify."""
    settings: Settings
    results: list[dict[str, Any]]
    weights: Path
    """Where the adapter, or the whole model, lies."""
    whole: bool
    """Whether that is a model with all of its weights, and no adapter."""

    @property
    def classifier(self) -> bool:
        return self.method == "classify"

    @property
    def merged(self) -> bool:
        """Whether the whole model is one that `merge` has made."""
        return self.whole and self.results[0].get("tune") != "full"

    @property
    def base(self) -> str:
        """The base model, as it was named."""
        return self.settings.model or ""

    @property
    def biased(self) -> bool:
        """Whether the policy takes a bias out of the label words' log-probabilities."""
        return (self.path / LABEL_BIAS).is_file()

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks of the results, by name; one whose declaration is not at hand is missing."""
        own = {}
        for file in self.task_files:
            with contextlib.suppress(UserError):
                task = read_task(file)
                own[task.name] = task
        names = [result["task"] for result in self.results]
        known = {**TASKS, **own}
        return {name: known[name] for name in names if name in known}

    @property
    def task_files(self) -> list[Path]:
        """The run's copies of the user's own task files."""
        return sorted(file for file in (self.path / "tasks").glob("*") if file.suffix in SUFFIXES)

    def task_argument(self, folder: str) -> str:
        """What --task takes for the run's tasks, their files being in a folder's tasks/."""
        names = [name.strip() for name in (self.settings.task or "").split(",")]
        return ",".join(f"{folder}/tasks/{Path(name).name}" if is_file(name) else name for name in names if name)


def finished(folder: Path) -> Finished:
    """What a run folder, or a folder made by `merge` or downloaded after `push`, holds.

    Raises:
        UserError: there is no finished training in it, or a file is missing or torn.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder; runs say at their start where they write")
    method = command_of(folder)
    if method not in TRAINED:
        what = "an evaluation, which has no weights" if method == "evaluate" else "no run (no command.txt)"
        raise UserError(f"{folder} holds {what}; give the folder of a finished sft, ppo or classify run")
    state = status_of(folder)
    if state not in ("", "finished"):
        raise UserError(f"{folder}: the run is {state} and not finished; go on with it first: rl4nlu resume {folder}")
    results = saved.results(folder)
    if not results:
        raise UserError(f"{folder}: results.json is empty; go on with the run first: rl4nlu resume {folder}")
    settings = validate(RUNS[method], read_config(folder))
    weights, whole = weights_of(folder)
    return Finished(folder, method, settings, results, weights, whole)


def mergeable(run: Path) -> Finished:
    """A run that has an adapter to merge.

    Raises:
        UserError: it has not.
    """
    found = finished(run)
    if found.whole:
        raise UserError(f"{run}: {found.weights} is a whole model already, with nothing to merge; load it as it is")
    return found


def weights_of(folder: Path) -> tuple[Path, bool]:
    """Where a run's adapter or whole model lies, and whether it is whole.

    Raises:
        UserError: there is none, or it is torn.
    """
    for place in (folder / "model", folder):
        if (place / "config.json").is_file() and not (place / "adapter_config.json").is_file():
            check_model(place, str(place))
            return place, True
    return check_adapter(folder), False


def licence_of(model: str) -> dict[str, str]:
    """What the card of a base model says of its licence, where that lies on this machine; else nothing."""
    folder = mini_folder() if model == MINI else Path(model) if model not in ("", MINILM) else None
    if folder is None or not (folder / "README.md").is_file():
        return {}
    with contextlib.suppress(UserError, OSError, UnicodeDecodeError):
        return licence_in((folder / "README.md").read_text(encoding="utf-8"))
    return {}


def licence_in(card: str) -> dict[str, str]:
    """What the head of a model card says of the licence.

    Raises:
        UserError: the head is no YAML.
    """
    parts = card.split("---\n", 2)
    head = yamls.values(Path("README.md"), parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    values = head if isinstance(head, dict) else {}
    return {key: values[key] for key in LICENCE if isinstance(values.get(key), str)}
