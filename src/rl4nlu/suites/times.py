"""How long the runs of a suite take: as those that are done took, as far as they are alike; else as foreseen."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from ..plan import Job, Plan
from ..settings import Settings

Foresee = Callable[[str, Settings], float]
"""A run's command and settings -> the seconds that it will take; raises where it cannot tell."""
TELLING = 3
"""So many of the likenesses tell more than what is foreseen."""


class Times:
    """What is known of the seconds that runs take."""

    def __init__(self, plan: Plan, at_a_time: int = 1) -> None:
        """
        Args:
            plan: the runs.
            at_a_time: how many are made at a time.
        """
        self.plan, self.at_a_time = plan, at_a_time
        self.seconds: dict[str, float] = {}
        """Name of a run -> how long it took."""
        self.foreseen: dict[str, float] = {}
        """Name of a run -> how long it may take."""

    def left(self, state: Mapping[str, str]) -> float | None:
        """Seconds that the rest will take; None where nothing is known of a run.

        Args:
            state: name of a run -> what is done of it.
        """
        known = self._known(state)
        found = [self._of(job, known) for job in self._rest(state)]
        return None if None in found else sum(filter(None, found)) / self.at_a_time

    def foresee(self, state: Mapping[str, str], out: Path, ask: Foresee) -> None:
        """Fill `foreseen` for the runs of which no finished one tells. What is asked once stands for all runs of this
        command, task and model: the times of trainings are taken to grow with their steps.

        Args:
            state: name of a run -> what is done of it.
            out: the suite's folder.
            ask: tells the seconds of one run.
        """
        known = self._known(state)
        asked: dict[tuple[str, str, str | None], tuple[float | None, float]] = {}
        for job in self._rest(state):
            if any(key in known for key in _likeness(job)[:TELLING]):
                continue
            settings = self.plan.likely(job, out)
            steps = float(getattr(settings, "max_steps", None) or 1)
            kind = (job.command, job.task, settings.model)
            if kind not in asked:
                asked[kind] = (_answer(ask, job.command, settings), steps)
            seconds, at_steps = asked[kind]
            if seconds is not None:
                self.foreseen[job.name] = seconds * steps / at_steps

    def _rest(self, state: Mapping[str, str]) -> list[Job]:
        return [job for job in self.plan.jobs.values() if state[job.name] in ("planned", "running")]

    def _known(self, state: Mapping[str, str]) -> dict[tuple, float]:
        found: dict[tuple, list[float]] = {}
        for name, job in self.plan.jobs.items():
            if state[name] == "done" and name in self.seconds:
                for key in _likeness(job):
                    found.setdefault(key, []).append(self.seconds[name])
        return {key: statistics.fmean(seconds) for key, seconds in found.items()}

    def _of(self, job: Job, known: Mapping[tuple, float]) -> float | None:
        keys = _likeness(job)
        told = next((known[key] for key in keys[:TELLING] if key in known), None)
        if told is None:
            told = self.foreseen.get(job.name)
        return next((known[key] for key in keys[TELLING:] if key in known), None) if told is None else told


def _answer(ask: Foresee, command: str, settings: Settings) -> float | None:
    try:
        return max(0.0, ask(command, settings))
    except Exception:  # of a model made by others anything may be wrong, and an estimate is worth no stop
        return None


def _likeness(job: Job) -> list[tuple]:
    """What a run may have in common with another, the most telling first."""
    trial, task, method, command, model = job.is_trial, job.task, job.method, job.command, job.model
    return [
        (method, task, trial),
        (method, task),
        (command, model, task, trial),
        (method, trial),
        (command, model),
        (),
    ]
