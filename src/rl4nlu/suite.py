"""The `suite` command: carry out a plan of runs on this machine, go on where it was left, and report on all of them.

`Study` knows what is done and what can be done next; `Workers` does it. Anything else with the methods of `Workers`
could take its place."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from . import files, say
from .config import validate
from .errors import UserError
from .names import short
from .plan import SOURCES, Group, Job, Plan, make_plan, show
from .progress import lasting
from .reports import collect, differences, write
from .run import read_config
from .settings import SuiteSettings
from .stop import Interrupted
from .tables import main_metric, print_differences, print_table
from .workers import Outcome, Work, Workers, finished, read_sources

INHERITED = ("model", "template", "chat", "max_length", "lora", "shots", "reason", "data")
"""What a run takes from the one it starts from where nothing else is said (trained.follow)."""


def suite(settings: SuiteSettings) -> int:
    """Plan, run, report. Returns the exit code: 1 if a run failed.

    Raises:
        UserError: the suite is not as it should be, or a run was made with other settings; nothing was started then.
    """
    out = settings.out or Path("runs/suite")
    plan = make_plan(settings)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder")
    with contextlib.nullcontext() if settings.dry_run else _alone(out):
        study = Study(plan, out, settings.jobs)
        study.advance(strict=True)
        _print_plan(study)
        if settings.dry_run:
            return 0
        if "planned" in study.state.values():
            try:
                carry_out(study, Workers(settings.jobs))
            except Interrupted as stopped:
                saved = (
                    f"{study.killed} runs were killed and" if study.killed else "every run that was at work is saved;"
                )
                stopped.kept = f"{saved} the same command goes on with all of them"
                raise
        study.write()
        return _report(study)


class Study:
    """What is done of a plan, what was chosen, and what comes next."""

    def __init__(self, plan: Plan, out: Path, jobs: int = 1) -> None:
        self.plan, self.out, self.jobs = plan, out, jobs
        self.state = dict.fromkeys(plan.jobs, "planned")
        self.seconds: dict[str, float] = _seconds_before(out)
        self.error: dict[str, str] = {}
        self.killed = 0
        self.diverged: set[str] = set()
        self.held_out: dict[str, float | None] = {}
        self.chosen: dict[Group, Mapping[str, Any]] = {}
        self.hopeless: dict[Group, str] = {}
        """Why nothing can be chosen."""
        self.notes: list[str] = []
        """What there is to tell."""

    def advance(self, strict: bool = False) -> None:
        """Take note of runs that are there already, choose what can be chosen, skip what can no longer be done.

        Raises:
            UserError: if strict, a run is there that was made with other settings. Else that run counts as failed.
        """
        before = None
        while before != (before := (dict(self.state), len(self.chosen), len(self.hopeless))):
            for job in self.plan.jobs.values():
                if self.state[job.name] == "planned":
                    self._look(job, strict)
            for group in self.plan.candidates:
                if group not in self.chosen and group not in self.hopeless:
                    self._choose(group)

    def _look(self, job: Job, strict: bool) -> None:
        if all(group in self.chosen for group in self.plan.picks(job)):
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
        reasons = [self.hopeless[group] for group in self.plan.picks(job) if group in self.hopeless]
        if lost or reasons:
            self.state[job.name] = "skipped"
            self.error[job.name] = f"{job.source} is missing" if lost else reasons[0]
            self.notes.append(f"{self._count()} {job.title}: skipped, {self.error[job.name]}")

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
            and all(group in self.chosen for group in self.plan.picks(job))
            and (job.source is None or self.state[job.source] == "done")
        ]

    def work(self, job: Job) -> Work:
        """All that a worker has to know of a run, which counts as running from now on."""
        self.state[job.name] = "running"
        source = self.out / job.source if job.source else None
        settings = self.plan.settings(job, self.out, self.chosen)
        return Work(job.name, job.title, job.method, job.command, settings, source, self.log(job))

    def note(self, name: str, outcome: Outcome) -> None:
        """Take note of what came of a run."""
        job = self.plan.jobs[name]
        self.seconds[name] = outcome.seconds
        if outcome.error is not None:
            if outcome.diverged:
                self.diverged.add(name)
            self._failed(job, outcome.error)
            return
        self._done(job, outcome.results)
        left = self.left()
        more = f"  (about {lasting(left)} left)" if left else ""
        self.notes.append(
            f"{self._count()} {job.title}: {_score(job, outcome.results)}  {lasting(outcome.seconds)}{more}"
        )

    def _done(self, job: Job, results: Sequence[Mapping[str, Any]]) -> None:
        self.state[job.name] = "done"
        self.held_out[job.name] = results[0].get("held_out")

    def _failed(self, job: Job, error: str) -> None:
        self.state[job.name], self.error[job.name] = "failed", error
        self.notes.append(f"{self._count()} {job.title}: failed: {error} (log: {self.log(job)})")

    def log(self, job: Job) -> Path:
        """Where all is that a run says."""
        return self.out / "logs" / f"{short(job.name.removeprefix('runs/').replace('/', '-'))}.txt"

    def _count(self) -> str:
        over = sum(state not in ("planned", "running") for state in self.state.values())
        return f"[{over}/{len(self.state)}]"

    def left(self) -> float | None:
        """Seconds that the rest will take, by the mean of the finished runs most like each; None if there is none."""
        known: dict[tuple, list[float]] = {}
        for name, job in self.plan.jobs.items():
            if self.state[name] == "done" and name in self.seconds:
                for key in _likeness(job):
                    known.setdefault(key, []).append(self.seconds[name])
        if not known:
            return None
        rest = [job for job in self.plan.jobs.values() if self.state[job.name] in ("planned", "running")]
        return sum(statistics.fmean(next(known[k] for k in _likeness(j) if k in known)) for j in rest) / self.jobs

    def write(self) -> None:
        """Write suite.json."""
        runs = [
            {
                "name": name,
                "method": job.method,
                "task": job.task,
                "seed": job.seed,
                "state": self.state[name],
                "seconds": self.seconds.get(name),
                "error": self.error.get(name),
            }
            for name, job in self.plan.jobs.items()
        ]
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
    for one, made in zip(plan.chain(job), [read_config(folder), *read_sources(folder)], strict=False):
        planned = plan.settings(one, out, chosen)
        start = "" if one is job else f"started from {one.name}, which "
        try:
            saved = validate(type(planned), made)
        except UserError as wrong:
            raise UserError(
                f"{folder}: {start}was made with settings that are none now ({wrong}); {ways_out}"
            ) from None
        for key, info in type(planned).model_fields.items():
            was, now = getattr(saved, key), getattr(planned, key)
            if key in SOURCES and was and now:
                was, now = was.parts[-2:], now.parts[-2:]  # the suite's folder may have been moved
            inherited = one.source is not None and key in INHERITED and now == info.get_default()
            if key not in ("out", "track") and was != now and not inherited:
                differs = f"was made with {key} {show(was)}, and the suite now says {show(now)}"
                raise UserError(f"{folder}: {start}{differs}; {ways_out}")


def carry_out(study: Study, workers: Workers) -> None:
    """Start every run as soon as what it needs is done and a worker is free, until nothing is left to start."""
    try:
        while True:
            study.advance()
            for job in study.ready()[: workers.free]:
                workers.start(study.work(job))
            study.write()
            _tell(study)
            if not workers.busy:
                return
            for name, outcome in workers.wait():
                study.note(name, outcome)
    finally:
        study.killed = workers.stop()
        study.state |= {name: "planned" for name, state in study.state.items() if state == "running"}
        study.write()


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Nobody else may run the suite in this folder: leftovers of interrupted runs are removed."""
    import fcntl

    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / "suite.lock").open("w")
    except OSError as wrong:
        raise UserError(f"--out {out}: cannot be written to ({wrong.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--out {out}: this suite is running already; wait for it, or stop it") from None
        yield


def _seconds_before(out: Path) -> dict[str, float]:
    """How long the runs took that an earlier call made."""
    try:
        runs = json.loads((out / "suite.json").read_text(encoding="utf-8"))["runs"]
        return {run["name"]: float(run["seconds"]) for run in runs if run["seconds"] and run["state"] == "done"}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _likeness(job: Job) -> list[tuple]:
    """What a run may have in common with another, the most telling first."""
    trial = bool(job.tried)
    task, method, command = job.task, job.method, job.command
    return [(method, task, trial), (method, task), (command, task, trial), (method, trial), (command,), ()]


# -- what is printed ---------------------------------------------------------------------------------------------------


def _tell(study: Study) -> None:
    for note in study.notes:
        say.line(note)
    study.notes.clear()


def _print_plan(study: Study) -> None:
    """How many runs there are, and a table of tasks x methods: how many seeds are done, and candidates of tuning."""
    jobs = list(study.plan.jobs.values())
    done = sum(state == "done" for state in study.state.values())
    left = study.left() if done < len(jobs) else None
    time = f", about {lasting(left)}" if left else ""
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(job.seed for job in jobs))
    say.line(f"{len(jobs)} runs in {study.out}: {done} done already, {len(jobs) - done} to do{time}; seeds {seeds}")
    methods = list(dict.fromkeys(job.method for job in jobs))
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for head in ("done / runs", *methods):
        table.add_column(head, no_wrap=True, overflow="fold")
    for task in dict.fromkeys(job.task for job in jobs):
        cells = []
        for method in methods:
            here = [job for job in jobs if (job.method, job.task) == (method, task)]
            kinds = [[job for job in here if bool(job.tried) is trial] for trial in (False, True)]
            counts = [f"{sum(study.state[job.name] == 'done' for job in kind)}/{len(kind)}" for kind in kinds]
            cells.append(f"{counts[0]} + {counts[1]} tuning" if kinds[1] else counts[0])
            say.event(
                "plan",
                {"task": task, "method": method, "done": counts[0], "tuning_done": counts[1] if kinds[1] else None},
            )
        table.add_row(task, *cells)
    if not say.machines_read():
        (Console() if Console().is_terminal else Console(width=160)).print(table)
    _tell(study)


def _report(study: Study) -> int:
    """The page and the table over all runs that are done; then what is missing, and why. Returns the exit code."""
    jobs = study.plan.jobs.values()
    folders = [study.out / job.name for job in jobs if study.state[job.name] == "done" and not job.tried]
    if folders:
        runs = collect(folders)
        found = differences(runs)
        write(runs, study.out / "report.html", found)
        print_table([result for run in runs for result in run.results])
        print_differences(found)
        say.line(f"the report is in {study.out / 'report.html'}")
    failed = [job for job in jobs if study.state[job.name] == "failed"]
    skipped = sum(state == "skipped" for state in study.state.values())
    if failed or skipped:
        say.line(f"{len(failed)} runs failed, {skipped} were skipped for that; the same command tries them again:")
    for job in failed:
        facts = {"run": study.out / job.name, "message": study.error[job.name], "log": study.log(job)}
        say.line(f"  {job.title}: {facts['message']} (log: {facts['log']})", "failed", facts)
    say.end({"run": study.out, "page": study.out / "report.html" if folders else None})
    return 1 if failed or skipped else 0


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
