"""A training in its run folder, step by step: where it goes on, when a checkpoint is written, how it ends."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import torch

from . import processes, say, stop
from .checkpoint import Broken, Snapshot, give, newest, save, take, to_all
from .errors import NoSpace, PeerLost, UserError
from .run import Run, environment
from .settings import ClassifySettings, TrainSettings
from .state import Numbers, State, Stateful

SHARE, AT_LEAST = 0.01, 10.0
"""Checkpoints cost this share of the time, and are so many seconds apart, unless it is said after how many steps."""
CPU = torch.device("cpu")


class Session:
    """The steps that are left of a training.

        with Session(run, parts, steps, settings) as session:
            for step in session:
                ...

    A step counts once its body has come to its end. A signal within it (`stop.Interrupted`) saves the state before the
    step, which is the present one as long as no weight has changed; a body that changes weights and can then be
    interrupted calls `hold` before it does.
    """

    def __init__(
        self,
        run: Run,
        parts: Mapping[str, Stateful],
        steps: int,
        settings: TrainSettings | ClassifySettings,
        device: torch.device = CPU,
    ) -> None:
        """
        Args:
            run: the run; where it is reopened, the parts are given the state of its newest checkpoint.
            parts: name -> what has to be remembered.
            steps: of the whole training.
            settings: of the run; without `save_every` checkpoints are as frequent as costs a hundredth of the time.
            device: the training's, which its numbers depend on.

        Raises:
            UserError: the run's checkpoints are broken, or of another run.
        """
        self.run, self.steps, self.save_every = run, steps, settings.save_every
        run.steps = steps
        self.parts = {**parts, "session": Numbers(self, "steps")}
        self.step = 0
        self._environment = {**environment(), "threads": torch.get_num_threads(), "device": _name_of(device)}
        self._environment["processes"] = processes.count()
        if isinstance(settings, TrainSettings):
            self._environment["max_tokens"] = settings.max_tokens
        self._held: Snapshot | None = None
        self._broken: set[Path] = set()
        self._last, self._cost, self._saved_step = time.monotonic(), 0.0, -1
        if run.reopened:
            self._go_on()

    def _go_on(self) -> None:
        snapshot = to_all(self._newest)
        if snapshot is None:
            return
        give(snapshot, self.parts)
        self.step = self._saved_step = snapshot.step
        if self.run.writes:
            self.run.metrics.cut(snapshot.log_bytes)
        differs = {k: v for k, v in self._environment.items() if snapshot.environment.get(k) != v}
        if differs:
            told = ", ".join(
                f"{name} {snapshot.environment.get(name)} then, {now} now" for name, now in differs.items()
            )
            say.note(f"note: the rest may differ in the last bits from a run without a stop: {told}")
        if {"device", "max_tokens"} & set(differs) and "memory" in self.parts:
            self.parts["memory"].load(State(values={"most": {}}))  # what was too much then may fit now

    def _newest(self) -> Snapshot | None:
        """The newest whole checkpoint, if any was written.

        Raises:
            UserError: the run's checkpoints are broken, or of another run.
        """
        folder, log = self.run.checkpoints, self.run.metrics
        snapshot, broken = newest(folder, self.run.identity, log)
        for path, reason in broken.items():
            say.note(f"warning: {path}: {reason}; it is passed over")
        if snapshot is None and (broken or log.size):  # the first one is written before the first line of the log
            raise UserError(
                f"{folder}: no checkpoint is whole; remove {self.run.path} and make the run again, or make it with "
                "another --out"
            )
        self._broken = set(broken)
        return snapshot

    def __enter__(self) -> Session:
        self._deferred = contextlib.ExitStack()
        self._deferred.enter_context(stop.deferred())
        try:
            self.run.note("running")
            if self._saved_step < 0:
                self._save(take(self.step, self.parts, self.run.metrics.size))
        except BaseException:
            self._deferred.close()
            raise
        return self

    def __iter__(self) -> Iterator[int]:
        while self.step < self.steps:
            processes.poll()
            yield self.step
            self.step += 1
            self._held = None
            if self.step < self.steps and self.run.writes and self._due():
                self.save()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if isinstance(error, stop.Interrupted | PeerLost):  # every process has all that is trained
                self.save(self._held)
                if isinstance(error, stop.Interrupted):
                    error.kept = f"{self._saved_step} of {self.steps} steps are saved"
            elif error is None:
                self.save()
        finally:
            self._deferred.close()

    def hold(self) -> None:
        """Keep the state before this step: its body is about to change weights and may be interrupted then."""
        if self.run.writes:
            self._held = take(self.step, self.parts, self.run.metrics.size, copy=True)

    def save(self, snapshot: Snapshot | None = None) -> None:
        """Write a checkpoint of the present state, or of an earlier one. If that cannot be done the training goes on,
        and the checkpoint before stands."""
        try:
            with processes.writing():
                self._save(snapshot or take(self.step, self.parts, self.run.metrics.size))
        except (NoSpace, Broken, OSError) as wrong:
            self._last = time.monotonic()
            say.note(f"warning: no checkpoint of step {self.step}: {wrong}; that of step {self._saved_step} stands")

    def _save(self, snapshot: Snapshot) -> None:
        if not self.run.writes:
            self._saved_step = snapshot.step
            return
        start = time.monotonic()
        self.run.metrics.sync()
        for path in self._broken:  # they count for nothing, and none that is whole goes in their stead
            shutil.rmtree(path, ignore_errors=True)
        self._broken.clear()
        save(self.run.checkpoints, snapshot, self.run.identity, self._environment)
        self._last, self._saved_step = time.monotonic(), snapshot.step
        self._cost = self._last - start

    def _due(self) -> bool:
        if self.save_every is not None:
            return self.step % self.save_every == 0
        return time.monotonic() - self._last >= max(AT_LEAST, self._cost / SHARE)


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
