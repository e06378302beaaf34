"""Trackers: what a training logs, and its results, are handed on to TensorBoard, wandb, trackio or MLflow.

A tracker never stops, slows or changes a run. It works in a thread of its own behind a queue that drops what does not
fit; when something goes wrong in it, that is said once and it is off; at the end it has some seconds and not more."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import files, say
from .errors import UserError
from .redact import redact

ROOM = 2000
"""Steps that wait for the tracker at most."""
PATIENCE, IN_HASTE = 10.0, 2.0
"""Seconds that it has at the end of a run; of one that was stopped by a signal."""
PROJECT = "rl4nlu"
NOTED = "track.json"
"""File of a run folder: the tracker's name of the run, by which it goes on with it."""
_left_alone: list[threading.Thread] = []


def check(name: str) -> None:
    """Whether a tracker is installed.

    Raises:
        UserError: it is not.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(f"--track {name}: it is not installed: pip install 'rl4nlu[{name}]', or leave --track out")


def any_left_alone() -> bool:
    """Whether a tracker still hangs: then only leaving the process at once ends it."""
    return any(thread.is_alive() for thread in _left_alone)


@dataclass(frozen=True)
class Place:
    """Where a tracker begins."""

    folder: Path
    """The run folder."""
    settings: Mapping[str, Any]
    """Of the run, as plain values, nested ones as name.name."""
    step: int | None
    """The first step that will be logged; None: none will."""
    known: str
    """The tracker's name of this run, where it was begun before; else empty."""


class Mirror:
    """Hands rows of metrics.jsonl and results on to a tracker."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        """
        Args:
            name: of the tracker.
            folder: the run's.
            settings: of the run, as JSON can hold them.
        """
        self.name, self.folder, self.settings = name, folder, dict(_flat(settings))
        self._queue: queue.Queue[tuple[dict[str, float], int | None] | None] = queue.Queue(ROOM)
        self._thread: threading.Thread | None = None
        self._dropped, self._wrong, self._told = 0, "", False

    def log(self, row: Mapping[str, Any]) -> None:
        """A step."""
        self._hand_on(row, row.get("step"))

    def result(self, entry: Mapping[str, Any]) -> None:
        """An entry of results.json."""
        values = {f"{entry['task']}/{name}": value for name, value in entry["metrics"].items()}
        values |= {f"{entry['task']}/{name}_stderr": value for name, value in entry["stderr"].items()}
        self._hand_on({**values, f"{entry['task']}/n": entry["n"]}, entry.get("steps"))

    def finish(self, seconds: float = PATIENCE) -> None:
        """Wait until the tracker has all, but no longer than so many seconds."""
        if self._thread is None:
            return
        end = time.monotonic() + seconds
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=seconds)
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            _left_alone.append(self._thread)
            self._wrong = self._wrong or f"no answer for {seconds:.0f} s, so it is left alone"
        elif self._dropped and not self._wrong:
            self._wrong = f"it was too slow, and {self._dropped} steps were not handed on"
        self._tell()

    def _hand_on(self, values: Mapping[str, Any], step: int | None) -> None:
        self._tell()
        if self._wrong:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, args=(step,), name=f"track {self.name}", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait((dict(_numbers(values)), step))
        except queue.Full:
            self._dropped += 1

    def _tell(self) -> None:
        """What went wrong, once, by the main thread."""
        if self._wrong and not self._told:
            self._told = True
            say.note(f"warning: --track {self.name}: {self._wrong}; the run goes its way, and all is in its folder")

    def _work(self, step: int | None) -> None:
        """The tracker's thread, from its start to its end."""
        try:
            noted = files.read_json(self.folder / NOTED)
            known = str(noted.get("id", "")) if noted.get("tracker") == self.name else ""
            tracker, now = OPENERS[self.name](Place(self.folder, self.settings, step, known))
            if now != known:
                files.write_json(self.folder / NOTED, {"tracker": self.name, "id": now})
            if not known and step is not None:  # a run that was begun without this tracker
                for _, row in files.Log(self.folder / "metrics.jsonl").lines():
                    if row["step"] >= step:
                        break
                    tracker.log(dict(_numbers(row)), step=row["step"])
            while (item := self._queue.get()) is not None:
                tracker.log(item[0], step=item[1])
            tracker.finish()
        except BaseException as wrong:  # whatever it is, it must not reach the run
            reason = (str(wrong).strip() or "it ended").splitlines()[0][:200]
            self._wrong = redact(f"{type(wrong).__name__}: {reason}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "none" if value is None else value


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if name != "step" and isinstance(value, int | float) and math.isfinite(value):
            yield name, float(value)


# -- the trackers, by the classes of accelerate; each with its own name of the run ------------------------------------


def _begun(tracker: Any, settings: Mapping[str, Any] | None) -> Any:
    """Start a tracker, and tell it the settings."""
    from accelerate import PartialState

    PartialState()  # without it accelerate's logger, which every tracker uses, raises
    tracker.main_process_only = False
    tracker.start()
    if settings is not None:
        tracker.store_init_configuration(dict(settings))
    return tracker


def _tensorboard(place: Place) -> tuple[Any, str]:
    from accelerate.tracking import TensorBoardTracker

    # steps that are done again stand there once
    again = {"purge_step": place.step} if place.known and place.step is not None else {}
    tracker = _begun(TensorBoardTracker("tensorboard", place.folder, **again), None)
    if not place.known:  # its own table of settings would make a second run of each
        lines = "\n".join(f"    {name}: {value}" for name, value in place.settings.items())
        tracker.log({"settings": lines}, step=0)
    return tracker, "tensorboard"


def _wandb(place: Place) -> tuple[Any, str]:
    import wandb
    from accelerate.tracking import WandBTracker

    now = place.known or secrets.token_hex(4)
    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "online" and not _has_wandb_key():
        mode = "offline"  # a login would ask on the terminal
    settings = wandb.Settings(silent=True, console="off")
    where = {"dir": str(place.folder), "name": place.folder.name, "id": now, "resume": "allow", "mode": mode}
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    return _begun(WandBTracker(project, settings=settings, **where), place.settings), now


def _has_wandb_key() -> bool:
    """Whether wandb could log in without asking."""
    import netrc
    from urllib.parse import urlparse

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for name in filter(None, (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")):
        with contextlib.suppress(OSError, netrc.NetrcParseError, RuntimeError):
            if netrc.netrc(os.path.expanduser(name)).authenticators(host):
                return True
    return False


def _trackio(place: Place) -> tuple[Any, str]:
    from accelerate.tracking import TrackioTracker

    now = place.known or f"{place.folder.name}-{secrets.token_hex(2)}"
    tracker = TrackioTracker(PROJECT, name=now, resume="allow", embed=False)
    return _begun(tracker, place.settings), now


def _mlflow(place: Place) -> tuple[Any, str]:
    import mlflow  # noqa: F401 - it sets the levels of its own logs when it comes in
    from accelerate.tracking import MLflowTracker

    for name in ("mlflow", "alembic"):  # they tell of every table of a new store
        logging.getLogger(name).setLevel(logging.ERROR)
    tracker = MLflowTracker(PROJECT, run_id=place.known or None, run_name=place.folder.name)
    tracker = _begun(tracker, None if place.known else place.settings)  # MLflow's settings of a run cannot change
    return tracker, tracker.active_run.info.run_id


OPENERS: dict[str, Callable[[Place], tuple[Any, str]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}
"""Tracker -> how it begins."""
