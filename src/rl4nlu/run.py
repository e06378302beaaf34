"""The run folder, the log and the progress of a long command."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import config, settings
from .errors import UserError
from .names import short
from .tasks.own import dump, is_file

SCHEMA = 1


class Run:
    """One run folder: settings, metrics a step, predictions a row, results."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics = path / "metrics.jsonl"
        self._predictions = path / "predictions.jsonl"

    @classmethod
    def create(cls, command: str, settings: settings.Settings) -> Run:
        """Make the run folder and write down what is being run.

        Raises:
            UserError: the folder is there and not empty, or cannot be made.
        """
        names = [name.strip() for name in (settings.task or "task").split(",")]
        task = "+".join(Path(name).stem if is_file(name) else name.replace("/", "-") for name in names)
        path = claim(settings.out, f"{command}-{short(task)}")
        config.save(settings, path / "config.yaml")
        for name in filter(is_file, (part.strip() for part in (settings.task or "").split(","))):
            dump(Path(name), path / "tasks" / Path(name).name)
        (path / "command.txt").write_text(f"{config.command_line(command, settings)}\n", encoding="utf-8")
        write_json(path / "environment.json", environment())
        return cls(path)

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one logged step to metrics.jsonl."""
        _append(self._metrics, row)

    def predict(self, row: Mapping[str, Any]) -> None:
        """Append one row to predictions.jsonl."""
        _append(self._predictions, row)

    def write_results(self, results: list[dict[str, Any]]) -> None:
        """Replace results.json by all results so far, in one step."""
        write_json(self.path / "results.json", {"schema": SCHEMA, "results": results})


def read_results(path: Path) -> list[dict[str, Any]]:
    """Results of a run folder.

    Raises:
        UserError: the folder holds none, or they are of another schema.
    """
    file = path / "results.json"
    if not file.is_file():
        raise UserError(f"{path}: no results.json; give the folder of a finished run")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        assert content["schema"] == SCHEMA
        results = content["results"]
        assert isinstance(results, list)
        assert all(isinstance(result["task"], str) for result in results)
        json.dumps(results, ensure_ascii=False).encode()  # of half a character no page can be made
        return results
    except (OSError, ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise UserError(f"{file}: not a results file of schema {SCHEMA}") from None


def read_config(path: Path) -> dict[str, Any]:
    """Settings with which a run was made."""
    file = path / "config.yaml"
    if not file.is_file():
        raise UserError(f"{path}: no config.yaml; give the folder of an sft or ppo run")
    return config.read_yaml(file)


def command_of(path: Path) -> str:
    """The command that made a run folder: evaluate, sft, ppo or classify; empty if that is not known."""
    file = path / "command.txt"
    words = file.read_text(encoding="utf-8", errors="replace").split() if file.is_file() else []
    return words[1] if len(words) > 1 else ""


def environment() -> dict[str, str]:
    """What a run's numbers may depend on."""
    packages = ("rl4nlu", "torch", "transformers", "peft", "numpy", "scikit-learn", "scipy")
    versions = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "platform": platform.platform(), **versions}


def claim(out: Path | None, name: str) -> Path:
    """Make an empty folder: `out`, or the first free runs/NAME-N.

    Raises:
        UserError: `out` is not empty, or the folder cannot be made.
    """
    n = 1
    while out is None and (Path("runs") / f"{name}-{n}").exists():
        n += 1
    path = out or Path("runs") / f"{name}-{n}"
    check_free(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as wrong:
        raise UserError(f"--out {path}: cannot make this folder ({wrong.strerror})") from None
    return path


def check_free(path: Path | None) -> None:
    """Nothing is ever written over: a run folder must be new or empty.

    Raises:
        UserError: it is neither.
    """
    if path is not None and path.exists():
        if not path.is_dir():
            raise UserError(f"--out {path} is a file: name a folder")
        if any(path.iterdir()):
            raise UserError(f"--out {path} is not empty: name another folder, or remove this one first")


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step: it is the old one or the new one, never half of it."""
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


class Meter:
    """A live bar on a terminal; elsewhere a plain line now and then, at most 100 in all."""

    def __init__(self, title: str, total: int, console: Console | None = None) -> None:
        self.title, self.total = title, max(1, total)
        self.done, self.start, self._next_line = 0, time.perf_counter(), 0
        self._bar: Progress | None = None
        console = console or Console(stderr=True)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._id = self._bar.add_task(title, total=self.total, note="")

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Say something beside the progress."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr)

    def advance(self, count: int = 1, **notes: float) -> None:
        """So much more is done; the notes are shown beside it."""
        self.done += count
        note = "  ".join(f"{name} {value:.4g}" for name, value in notes.items())
        if self._bar:
            self._bar.update(self._id, completed=self.done, note=note)
        elif self.done >= self._next_line or self.done >= self.total:
            seconds = time.perf_counter() - self.start
            left = seconds / self.done * (self.total - self.done)
            print(f"{self.title} {self.done}/{self.total}  {note}  {seconds:.0f} s, {left:.0f} s left", file=sys.stderr)
            self._next_line = self.done + max(1, self.total // 50)
