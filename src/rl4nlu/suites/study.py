"""What is done of a suite's plan, what was chosen, and what comes next. Nothing is run here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import files
from ..config import validate, with_preset
from ..errors import NoSpace, UserError
from ..names import short
from ..plan import Group, Job, Plan, show
from ..progress import lasting
from ..reopen import differing
from ..run import command_of, of_other_weights, read_config
from ..settings import BROUGHT, TrainSettings, idle
from ..tables import main_metric
from ..tasks.own import changed_since, is_file
from ..trained import other_than
from .search import propose
from .times import Times
from .work import Outcome, Work, finished, read_sources

INHERITED = ("model", "template", "chat", "max_length", "lora", "shots", "shots_seed", "reason", "data", "quantize")
"""What a run takes from the one it starts from where nothing else is said (trained.follow)."""


class Study:
    """What is done of a plan, what was chosen, and what comes next."""

    def __init__(self, plan: Plan, out: Path, at_a_time: int = 1) -> None:
        """
        Args:
            plan: the runs.
            out: the folder of all.
            at_a_time: how many are made at a time.
        """
        self.plan, self.out = plan, out
        self.times = Times(plan, at_a_time)
        self.state = dict.fromkeys(plan.jobs, "planned")
        self.times.seconds |= _seconds_before(out)
        self.error: dict[str, str] = {}
        self.killed = 0
        self.diverged: set[str] = set()
        self.held_out: dict[str, float | None] = {}
        self.chosen: dict[Group, Mapping[str, Any]] = {}
        self.hopeless: dict[Group, str] = {}
        """Why nothing can be chosen."""
        self.notes: list[str] = []
        """What there is to tell."""

    def advance(self, strict: bool = False, draw: bool = True) -> None:
        """Take note of runs that are there already, choose what can be chosen, draw what a search tries next, skip what
        can no longer be done.

        Args:
            strict: whether a run that was made with other settings is an error; else it counts as failed.
            draw: whether trials are drawn; without it they stay unknown.

        Raises:
            UserError: if strict, a run is there that was made with other settings; there is no Optuna to draw with.
        """
        before = None
        while before != (before := (dict(self.state), len(self.chosen), len(self.hopeless), self._unknown())):
            for job in list(self.plan.jobs.values()):
                if self.state[job.name] == "planned":
                    self._look(job, strict)
            for group in self.plan.spaces if draw else ():
                self._draw(group)
            for group in self.plan.candidates:
                if group not in self.chosen and group not in self.hopeless:
                    self._choose(group)

    def _unknown(self) -> int:
        return sum(job.unknown for job in self.plan.jobs.values())

    def _draw(self, group: Group) -> None:
        """The next batch of a search, once all trials before have come to their end."""
        trials = self.plan.candidates[group]
        drawn = [job for job in trials if not job.unknown]
        over = all(self.state[job.name] == "done" or job.name in self.diverged for job in drawn)
        if len(drawn) < len(trials) and over:
            tried = [(job.tried, self.held_out.get(job.name)) for job in drawn]
            batch = propose(self.plan.search, self.plan.spaces[group], group, self.plan.seed, tried)
            for job, values in zip(trials[len(drawn) :], batch, strict=False):
                self.plan.try_with(job, values)

    def _look(self, job: Job, strict: bool) -> None:
        if not job.unknown and all(group in self.chosen for group in self.plan.picks(job)):
            try:
                results = finished(self.out / job.name, job.method)
                if results is not None:
                    check_same(self.plan, job, self.out, self.chosen)
                    self._done(job, results)
                    return
            except UserError as wrong:
                if strict:
                    raise
                self._failed(job, str(wrong))
                return
        lost = job.source is not None and self.state[job.source] in ("failed", "skipped")
        needed = [*self.plan.picks(job), *([(job.method, job.task)] if job.unknown else [])]
        reasons = [self.hopeless[group] for group in needed if group in self.hopeless]
        if lost or reasons:
            self.state[job.name] = "skipped"
            self.error[job.name] = f"{job.source} is missing" if lost else reasons[0]
            self.notes.append(f"{self.count} {job.title}: skipped, {self.error[job.name]}")

    def _choose(self, group: Group) -> None:
        """A candidate that diverged is no candidate any more; for any other failure nothing is chosen, so that the same
        suite never chooses twice."""
        candidates = self.plan.candidates[group]
        where = f"{group[0]} {group[1]}"
        states = [self.state[job.name] for job in candidates if job.name not in self.diverged]
        if "failed" in states or "skipped" in states:
            self.hopeless[group] = f"not all candidates of {where} could be run"
        elif set(states) <= {"done"}:
            try:
                tried = [(job.tried, self.held_out.get(job.name)) for job in candidates]
                self.chosen[group] = choose(tried)
                scores = ", ".join(f"{_values(values)}: {_percent(score)}" for values, score in tried)
                self.notes.append(f"{where}: chosen {_values(self.chosen[group])} by held-out rows ({scores})")
            except UserError as wrong:
                self.hopeless[group] = str(wrong)

    def ready(self) -> list[Job]:
        """The runs that could be started now, in the plan's order."""
        return [
            job
            for job in self.plan.jobs.values()
            if self.state[job.name] == "planned"
            and not job.unknown
            and all(group in self.chosen for group in self.plan.picks(job))
            and (job.source is None or self.state[job.source] == "done")
        ]

    def work(self, job: Job) -> Work:
        """All that a worker has to know of a run, which counts as running from now on."""
        self.state[job.name] = "running"
        source = self.out / job.source if job.source else None
        settings = self.plan.settings(job, self.out, self.chosen)
        return Work(job.name, job.title, job.method, job.command, settings, source, self.log(job), job.resources)

    def note(self, name: str, outcome: Outcome) -> None:
        """Take note of what came of a run."""
        job = self.plan.jobs[name]
        self.times.seconds[name] = outcome.seconds
        if outcome.error is not None:
            if outcome.diverged:
                self.diverged.add(name)
            self._failed(job, outcome.error)
            return
        self._done(job, outcome.results)
        left = self.left
        more = f"  (about {lasting(left)} left)" if left else ""
        self.notes.append(f"{self.count} {job.title}: {_score(job, outcome.results)}  {lasting(outcome.seconds)}{more}")

    def _done(self, job: Job, results: Sequence[Mapping[str, Any]]) -> None:
        self.state[job.name] = "done"
        self.held_out[job.name] = results[0].get("held_out")

    def _failed(self, job: Job, error: str) -> None:
        self.state[job.name], self.error[job.name] = "failed", error
        self.notes.append(f"{self.count} {job.title}: failed: {error} (log: {self.log(job)})")

    def log(self, job: Job) -> Path:
        """Where all is that a run says."""
        return self.out / "logs" / f"{short(job.name.removeprefix('runs/').replace('/', '-'))}.txt"

    @property
    def count(self) -> str:
        """How many runs have come to their end, of how many."""
        over = sum(state not in ("planned", "running") for state in self.state.values())
        return f"[{over}/{len(self.state)}]"

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take; None where nothing is known."""
        return self.times.left(self.state)

    def stopped(self, killed: int) -> None:
        """What was running is planned again; so many runs could not save themselves."""
        self.killed = killed
        self.state |= {name: "planned" for name, state in self.state.items() if state == "running"}
        with contextlib.suppress(NoSpace, OSError):  # as in `carry_out`
            self.write()

    def facts(self, name: str) -> dict[str, Any]:
        """What is known of a run."""
        job = self.plan.jobs[name]
        return {
            "name": name,
            "method": job.method,
            "task": job.task,
            "seed": job.seed,
            "state": self.state[name],
            "seconds": self.times.seconds.get(name),
            "error": self.error.get(name),
        }

    def write(self) -> None:
        """Write suite.json."""
        runs = [self.facts(name) for name in self.plan.jobs]
        chosen: dict[str, dict[str, Any]] = {}
        for (method, task), values in self.chosen.items():
            tried = [
                {"name": job.name, "settings": job.tried, "held_out": self.held_out.get(job.name)}
                for job in self.plan.candidates[method, task]
            ]
            chosen.setdefault(method, {})[task] = {"settings": values, "candidates": tried}
        files.write_json(self.out / "suite.json", {"runs": runs, "chosen": chosen})


def choose(candidates: Sequence[tuple[Mapping[str, Any], float | None]]) -> Mapping[str, Any]:
    """The values with the best score on held-out training rows; the first ones where scores are equal.

    Args:
        candidates: values and score; None: it did not get through.

    Raises:
        UserError: there is no score.
    """
    scored = [(values, score) for values, score in candidates if score is not None]
    if not scored:
        raise UserError("no candidate has a score on held-out training rows; are there ten training rows at least?")
    return max(scored, key=lambda one: one[1])[0]


def check_same(plan: Plan, job: Job, out: Path, chosen: Mapping[Group, Mapping[str, Any]]) -> None:
    """A finished run was made with the planned settings, and so was the run that it started from.

    Raises:
        UserError: it was not.
    """
    folder = out / job.name
    ways_out = "put the setting back, or remove this folder to make the run again"
    if (made_by := command_of(folder)) not in ("", job.command):
        raise UserError(f"{folder}: was made by {made_by}, and the suite now says {job.command}; {ways_out}")
    for one, made in zip(plan.chain(job), [read_config(folder), *read_sources(folder)], strict=False):
        planned = plan.settings(one, out, chosen)
        start = "" if one is job else f"started from {one.name}, which "
        try:
            saved = validate(type(planned), made)
        except UserError as wrong:
            raise UserError(
                f"{folder}: {start}was made with settings that are none now ({wrong}); {ways_out}"
            ) from None
        preset = getattr(planned, "preset", "default")
        of_preset = with_preset(type(planned), {}, preset)
        usual, said = validate(type(planned), of_preset), planned.model_fields_set - of_preset.keys()
        waste = {name.partition(".")[0] for name in idle(saved)}  # as suites of before had it
        for key, was, now in differing(saved, planned):
            inherited = one.source is not None and key in INHERITED
            if inherited and key == "lora" and isinstance(planned, TrainSettings):
                same = not other_than(planned, was)
            else:
                same = inherited and now == getattr(usual, key) and not (key in said and key in BROUGHT)
            if not same and key not in waste:
                differs = f"was made with {key} {show(was)}, and the suite now says {show(now)}"
                raise UserError(f"{folder}: {start}{differs}; {ways_out}")
    settings = plan.settings(job, out, chosen)
    if of_other_weights(folder, settings.model or ""):
        raise UserError(
            f"{folder}: was made with other weights than those that {settings.model} has now; put them back, or remove "
            "this folder to make the run again"
        )
    for name in (part.strip() for part in (settings.task or "").split(",")):
        if is_file(name) and (changed := changed_since(Path(name), folder)):
            raise UserError(f"{folder}: was made before {changed} was changed; {ways_out}")


def _seconds_before(out: Path) -> dict[str, float]:
    """How long the runs took that an earlier call made."""
    try:
        runs = json.loads((out / "suite.json").read_text(encoding="utf-8"))["runs"]
        return {run["name"]: float(run["seconds"]) for run in runs if run["seconds"] and run["state"] == "done"}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _score(job: Job, results: Sequence[Mapping[str, Any]]) -> str:
    first = dict(results[0])
    if job.tried:
        return f"held-out {_percent(first.get('held_out'))}"
    if len(results) > 1 or not first["metrics"]:
        return f"{len(results)} tasks" if len(results) > 1 else f"{first['n']} answers"
    metric = main_metric(first)
    return f"{metric} {100 * first['metrics'][metric]:.1f} ± {100 * first['stderr'][metric]:.1f}"


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {show(value)}" for key, value in values.items())


def _percent(score: float | None) -> str:
    return "none" if score is None else f"{100 * score:.1f}"
