"""The run folder: settings, log, predictions, results, who works in it, how it ended."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from . import config, files, processes, say, settings, track
from .errors import Diverged, Halted, NoSpace, OutOfMemory, PeerLost, UserError, did_you_mean_path
from .lock import is_locked, lock
from .names import short
from .sources import mark_of
from .stop import Interrupted, deferred
from .tasks.own import digests, dump, is_file

SCHEMA = 1
STATUS = "status.json"
PATHS = ("data", "init", "adapter", "model")
"""Settings that may be relative to the folder in which the run was begun."""
ENDS = {Interrupted: "stopped", NoSpace: "stopped", OutOfMemory: "stopped", PeerLost: "stopped", Diverged: "diverged"}
"""How a run ends by what."""


class Run:
    """One run folder, in use by this process alone: settings, metrics a step, predictions a row, results. Of several
    processes that make the run together the main one writes, and what it reads all are told.

    As a context manager it notes in status.json how the work ended: finished, stopped (by a signal, or for want of disk
    space), diverged, or failed.
    """

    HOME = Path("runs")
    """Where runs go whose folder is not named."""

    def __init__(self, path: Path, reopened: bool = False, writes: bool = True) -> None:
        """
        Args:
            path: the folder.
            reopened: go on with what is there.
            writes: this process is the one that writes there.

        Raises:
            UserError: another process works in it.
        """
        self._lock: int | None = None
        self.writes = writes
        self.mirror: track.Mirror | None = None
        self.steps: int | None = None
        self.path, self.reopened = path, reopened
        self.metrics = files.Log(path / "metrics.jsonl")
        self.predictions = files.Log(path / "predictions.jsonl")
        self.checkpoints = path / "checkpoints"
        self.identity: Mapping[str, Any] = {}
        if not writes:
            return
        self._lock = lock(path, _who(path))
        status = files.read_json(path / STATUS)
        self._before = str(status.get("state", "stopped")), str(status.get("why", ""))

    @classmethod
    def begin(cls, command: str, settings: settings.Settings, reopened: bool) -> Run:
        """`create`, or go on with the run in the settings' folder.

        Raises:
            UserError: the folder is not as it should be, or another process works in it.
        """
        begun: list[Run] = []

        def here() -> str:
            if not reopened:
                with deferred():  # a signal waits until the folder is what `resume` takes
                    run = cls.create(command, settings)
            else:
                assert settings.out is not None
                run = cls(settings.out, reopened=True)
                files.sweep(run.path)
            if (tracker := getattr(settings, "track", "none")) != "none":
                run.mirror = track.Mirror(tracker, run.path, {"command": command, **settings.model_dump(mode="json")})
            say.note(f"run folder: {run.path}")
            begun.append(run)
            return str(run.path)

        path = Path(processes.from_main(here))
        return begun[0] if begun else cls(path, reopened, writes=False)

    @classmethod
    def create(cls, command: str, settings: settings.Settings) -> Run:
        """Make the run folder and write down what is being run.

        Raises:
            UserError: the folder is there and not empty, or cannot be made.
        """
        names = [name.strip() for name in (settings.task or "task").split(",")]
        task = "+".join(Path(name).stem if is_file(name) else name.replace("/", "-") for name in names)
        path = claim(settings.out, f"{command}-{short(task)}")
        run = cls(path)
        try:
            config.save(settings, path / "config.yaml")
            own = [Path(name) for name in names if is_file(name)]
            for file in own:
                dump(file, path / "tasks" / file.name)
            files.write_text(
                path / "command.txt", f"{config.command_line(command, settings, settings.model_fields_set)}\n"
            )
            files.write_json(
                path / "environment.json",
                {
                    **environment(),
                    "processes": processes.count(),
                    "folder": os.getcwd(),
                    **({"tables": {file.name: digests(file) for file in own}} if own else {}),
                    **({"weights": mark} if (mark := mark_of(settings.model or "")) else {}),
                },
            )
            run.note("running")
        except BaseException:
            run.close()
            raise
        return run

    def close(self) -> None:
        """Let others work in the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __del__(self) -> None:
        self.close()

    def about(self, identity: Mapping[str, Any]) -> None:
        """Note what the run is about; of one that is reopened, check that it is about the same.

        Raises:
            UserError: it is not.
        """
        self.identity = identity
        processes.from_main(self._about)

    def _about(self) -> None:
        file = self.path / "identity.json"
        if self.reopened and file.is_file():
            check_same(self.path, files.read_json(file), self.identity)
        else:
            files.write_json(file, self.identity)
        self.note("running")

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one logged step to metrics.jsonl."""
        if not self.writes:
            return
        self.metrics.append(row)
        if self.mirror is not None:
            self.mirror.log(row)

    def predict(self, row: Mapping[str, Any]) -> None:
        """Append one row to predictions.jsonl."""
        if self.writes:
            self.predictions.append(row)

    def keep_prompts(self, task: str, prompts: Mapping[str, str]) -> None:
        """Put the prompts of some rows of a task (id -> text) into prompts.json, for a reader of its answers."""
        file = self.path / "prompts.json"
        if self.writes:
            files.write_json(file, {**files.read_json(file), task: prompts})

    def predicted(self, task: str, multiple: int) -> list[dict[str, Any]]:
        """The rows of a task that were predicted before the run was reopened, cut back to a multiple of so many: the
        rest of such a group is predicted again together, as it would have been. What stands behind them is removed."""
        return processes.from_main(lambda: self._predicted(task, multiple)) if self.reopened else []

    def _predicted(self, task: str, multiple: int) -> list[dict[str, Any]]:
        before, found = 0, []
        for end, row in self.predictions.lines():
            if row.get("task") == task:
                found.append((end, row))
            elif found:
                break
            else:
                before = end
        kept = found[: len(found) // multiple * multiple]
        self.predictions.cut(kept[-1][0] if kept else before)
        return [row for _, row in kept]

    def each(self, names: Sequence[str], work: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
        """A result for each task, written as it comes; those of a reopened run that are there already are kept.

        Args:
            names: of the tasks.
            work: the task's number -> its result.
        """
        results = processes.from_main(lambda: self._results_of(names)) if self.reopened else []
        for number in range(len(results), len(names)):
            results.append(work(number))
            self.write_results(results)
            if self.mirror is not None:
                self.mirror.result(results[-1])
        return results

    def _results_of(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Those that are there."""
        if not (self.path / "results.json").is_file():
            return []
        results = read_results(self.path)[: len(names)]
        return results if [result.get("task") for result in results] == list(names[: len(results)]) else []

    def write_results(self, results: list[dict[str, Any]]) -> None:
        """Replace results.json by all results so far, in one step."""
        if not self.writes:
            return
        self.predictions.sync()
        files.write_json(self.path / "results.json", {"schema": SCHEMA, "results": results})

    def note(self, state: str, why: str = "") -> None:
        """Write status.json."""
        if not self.writes:
            return
        status = {"state": state, "why": why, "process": os.getpid(), "host": platform.node()}
        files.write_json(self.path / STATUS, status if self.steps is None else {**status, "steps": self.steps})

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            if error is None:
                self.note("finished")
            elif self.reopened and isinstance(error, UserError) and self.writes:
                self.note(*self._before)  # it could not be gone on with, and is what it was
            else:
                self.note(ENDS.get(type(error), "failed"), str(error) or type(error).__name__)
            if isinstance(error, Diverged) and self.writes:
                files.write_json(self.path / "diverged.json", {"what": str(error), "rows": error.rows})
        except (NoSpace, OSError) as wrong:  # the status is not worth hiding how the run ended
            say.note(f"warning: {wrong}")
        if self.mirror is not None:
            with deferred():  # all that must not be lost is written
                self.mirror.finish(track.PATIENCE if error is None else track.IN_HASTE)
        self.close()
        if isinstance(error, Interrupted | Halted):
            error.run = self.path


def _who(path: Path) -> str:
    """Which process works in a folder, as it says itself; empty if it does not."""
    status = files.read_json(path / STATUS)
    return f"process {status['process']} on {status.get('host', '?')}" if "process" in status else ""


def status_of(path: Path) -> str:
    """How far a run is: running, finished, stopped, diverged, failed; killed, if it says running and nobody works in
    it. Empty for what is no run folder, or one of an older version."""
    state = files.read_json(path / STATUS).get("state", "")
    return "killed" if state == "running" and not is_locked(path) else state


def check_same(where: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Whether work can be gone on with.

    Args:
        where: what `was` is about, for the message.
        was: what the run was about.
        now: what it is about.

    Raises:
        UserError: something has changed.
    """
    was, now = (json.loads(json.dumps(one)) for one in (was, now))
    differing = [name for name in now if was.get(name) != now[name]]
    if "settings" in differing:
        then, here = was.get("settings") or {}, now["settings"]
        told = ", ".join(
            f"{key} was {then.get(key, 'unknown')!r} and is {here.get(key, 'unknown')!r}"
            for key in {**then, **here}
            if then.get(key) != here.get(key)
        )
        raise UserError(f"{where}: the settings have changed since ({told}); put config.yaml back, or make a new run")
    if differing:
        raise UserError(
            f"{where}: the {' and '.join(differing)} that the run works on have changed since; put them back as they "
            "were, or make a new run"
        )


def read_results(path: Path) -> list[dict[str, Any]]:
    """Results of a run folder.

    Raises:
        UserError: the folder holds none, or they are of another schema.
    """
    file = path / "results.json"
    if not file.is_file():
        near = "" if path.exists() else did_you_mean_path(path)
        raise UserError(f"{path}: no results.json{near}; give the folder of a finished run")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        assert content["schema"] == SCHEMA
        results = content["results"]
        assert isinstance(results, list)
        assert all(isinstance(result["task"], str) for result in results)
        json.dumps(results, ensure_ascii=False).encode()  # of half a character no page can be made
        return results
    except (OSError, ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise UserError(
            f"{file}: not a results file of schema {SCHEMA}; give the folder of a run of this version, or run it again"
        ) from None


def read_config(path: Path) -> dict[str, Any]:
    """Settings with which a run was made; a folder that they name relative to where it was begun is found from here."""
    file = path / "config.yaml"
    if not file.is_file():
        raise UserError(f"{path}: no config.yaml; give the folder of an sft or ppo run")
    values = config.read_yaml(file)
    begun_in = Path(str(files.read_json(path / "environment.json").get("folder", ".")))
    for name in PATHS:
        given = values.get(name)
        if isinstance(given, str) and given and not Path(given).exists() and (begun_in / given).exists():
            values[name] = str(begun_in / given)
    return values


def command_of(path: Path) -> str:
    """The command that made a run folder: evaluate, sft, ppo or classify; empty if that is not known."""
    file = path / "command.txt"
    words = file.read_text(encoding="utf-8", errors="replace").split() if file.is_file() else []
    return words[1] if len(words) > 1 else ""


def of_other_weights(path: Path, model: str) -> bool:
    """Whether a run was made with weights that are no longer those of `model`; where one of them is not known: no."""
    was, now = files.read_json(path / "environment.json").get("weights"), mark_of(model)
    return None not in (was, now) and was != now


def environment() -> dict[str, str]:
    """What a run's numbers may depend on."""
    packages = ("rl4nlu", "torch", "transformers", "tokenizers", "peft", "numpy", "scikit-learn", "scipy")
    versions = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "platform": platform.platform(), **versions}


def claim(out: Path | None, name: str) -> Path:
    """Make an empty folder: `out`, or the first free runs/NAME-N.

    Raises:
        UserError: `out` is not empty, or the folder cannot be made.
    """
    check_free(out)
    n = 1
    while True:
        path = out or Run.HOME / f"{name}-{n}"
        try:
            path.mkdir(parents=True, exist_ok=out is not None)
            return path
        except OSError as wrong:
            if out is None and isinstance(wrong, FileExistsError):  # perhaps made by another process this very moment
                n += 1
                continue
            raise UserError(f"--out {path}: cannot make this folder ({wrong.strerror})") from None


def check_free(path: Path | None) -> None:
    """Nothing is ever written over: a run folder must be new or empty, and can be made.

    Raises:
        UserError: it is none of these.
    """
    if path is not None and "," in str(path):  # the tasks that it keeps are named with commas between
        raise UserError(f"--out {path}: a comma stands between the names of tasks; name a folder without")
    if path is not None and path.exists():
        if not path.is_dir():
            raise UserError(f"--out {path} is a file: name a folder")
        if any(path.iterdir()):
            on = f"go on with it (rl4nlu resume {path})" if (path / STATUS).is_file() else "remove this one first"
            raise UserError(f"--out {path} is not empty: name another folder, or {on}")
    if path is not None:
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir() or not os.access(path if path.exists() else above, os.W_OK):
            raise UserError(f"--out {path}: cannot make this folder in {above}; name another one")
