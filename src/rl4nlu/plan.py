"""Tasks x methods x seeds as a plan of runs: what each run is, what has to come before it, and which of its settings
are still to be chosen. Nothing is read or run here.

    seeds: [0, 1, 2]
    common: {model: mini, data: DIR, select_rows: 256, max_steps: 100}   # for all runs whose command knows them
    tasks:
      glue/sst2: {max_steps: 200}                          # over common
      glue/rte: {}
    methods:                                               # over the task
      zero-shot: {command: evaluate}
      sft: {command: sft, learning_rate: [3e-4, 1e-3]}     # a list: one is chosen per task, by held-out training rows
      sft-half: {command: sft, steps: 0.5, learning_rate: =sft}   # half of max_steps; the value chosen for sft
      ppo: {command: ppo, init: sft-half}                  # from that method's run on the same task with the same seed
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from .config import names, validate, with_preset
from .errors import UserError, did_you_mean
from .names import problem, short
from .rewards import check_reward
from .settings import RUNS, EvaluateSettings, PpoSettings, Settings, SuiteSettings
from .tasks import find_all

Group = tuple[str, str]
"""(method, task), for which settings are tuned."""
Chosen = Mapping[Group, Mapping[str, Any]]
"""The values that were chosen for tuned settings."""

COMMANDS = ("evaluate", "sft", "ppo", "classify")
"""What a method may be."""
CANDIDATE_ROWS = 32
"""Rows of dev that a candidate is evaluated on: hardly any, for it is chosen by held-out training rows alone."""
OURS = ("task", "seed", "out")
SOURCES = ("init", "adapter")
"""Settings that name another method's run."""


@dataclass(frozen=True)
class Pick:
    """A value that is not known yet: the one that tuning chooses for a method on a task."""

    group: Group
    key: str


@dataclass(frozen=True)
class Job:
    """One run of the plan."""

    name: str
    """Its folder inside the suite's; unique."""
    method: str
    command: str
    task: str
    seed: int
    values: Mapping[str, Any]
    """Settings with dots in nested names; a Pick where a value is still to be chosen."""
    tried: Mapping[str, Any] = field(default_factory=dict)
    """The values that this run tries, if it is a candidate of a tuned method."""
    steps: float | None = None
    """Factor on max_steps."""
    source: str | None = None
    """The run to start from, or whose adapter to evaluate."""

    @property
    def title(self) -> str:
        tried = ", ".join(f"{key} {show(value)}" for key, value in self.tried.items())
        return f"{self.method} {self.task} {tried or f'seed {self.seed}'}"


@dataclass(frozen=True)
class Plan:
    """All runs, in the order in which they are started where nothing else holds them up."""

    jobs: dict[str, Job]
    candidates: dict[Group, list[Job]]

    def chain(self, job: Job) -> list[Job]:
        """A run, the one that it starts from, the one that that starts from, and so on."""
        return [job, *(self.chain(self.jobs[job.source]) if job.source else [])]

    def picks(self, job: Job) -> list[Group]:
        """What has to be chosen before the settings of a run, and of those that it starts from, are known."""
        found = [value.group for one in self.chain(job) for value in one.values.values() if isinstance(value, Pick)]
        return list(dict.fromkeys(found))

    def settings(self, job: Job, out: Path, chosen: Chosen) -> Settings:
        """The settings of a run.

        Raises:
            UserError: they are not what its command takes.
        """
        kind = RUNS[job.command]
        values = {k: chosen[v.group][v.key] if isinstance(v, Pick) else v for k, v in job.values.items()}
        values |= {"task": job.task, "seed": job.seed, "out": out / job.name}
        if job.source:
            values["adapter" if job.command == "evaluate" else "init"] = out / job.source
        try:
            settings = validate(kind, with_preset(kind, _nested(values)))
            if settings.model is None and not job.source:
                raise UserError("model is missing, e.g. model: mini")
            if job.steps is None:
                return settings
            if not getattr(settings, "max_steps", None):
                raise UserError("steps is a factor on max_steps, which is not set here")
            return settings.model_copy(update={"max_steps": max(1, round(settings.max_steps * job.steps))})  # type: ignore[attr-defined]
        except UserError as wrong:
            raise UserError(f"methods.{job.method} on {job.task}: {wrong}") from None


def make_plan(suite: SuiteSettings) -> Plan:
    """Expand a suite, and validate the settings of every run in it.

    Raises:
        UserError: something in the suite is not as it should be.
    """
    methods = {name: _Method.read(name, values, suite) for name, values in suite.methods.items()}
    for name in ("methods", "tasks", "seeds"):
        if not getattr(suite, name):
            raise UserError(f"{name}: name one at least")
    if len(set(suite.seeds)) < len(suite.seeds):
        raise UserError(f"seeds: one stands there twice (got {', '.join(map(str, suite.seeds))})")
    for task in suite.tasks:
        find_all(task)
    common = _flat(suite.common)
    if suite.data is not None:
        common["data"] = suite.data
    _known_somewhere("common", common, methods.values())
    merged: dict[Group, dict[str, Any]] = {}
    for task, own in suite.tasks.items():
        _known_somewhere(f"tasks.{task}", _flat(own), methods.values())
        for name, method in methods.items():
            merged[name, task] = method.over({**common, **_flat(own)})
    plan = Plan({}, {})
    for task in suite.tasks:  # one after the other, so that a suite that was stopped has whole rows of its table
        for name, method in methods.items():
            for job in _candidates(method, task, merged, suite.seeds[0]):
                _add(plan, job)
                plan.candidates.setdefault((name, task), []).append(job)
            values = {key: _resolve((name, task), key, merged) for key in merged[name, task]}
            for seed in suite.seeds if method.depends_on_seed(values) else suite.seeds[:1]:
                _add(plan, method.job(f"runs/{name}/{_dashed(task)}-s{seed}", task, seed, values))
    _no_circle(plan)
    _validate_all(plan)
    return plan


@dataclass(frozen=True)
class _Method:
    name: str
    command: str
    values: dict[str, Any]
    steps: float | None
    source: str | None
    """The method whose run to start from."""

    @classmethod
    def read(cls, name: str, given: Mapping[str, Any], suite: SuiteSettings) -> _Method:
        """A method as the file gives it.

        Raises:
            UserError: it is not what its command takes, or names a method that is not there.
        """
        where, values = f"methods.{name}", _flat(given)
        if wrong_name := problem(name):
            raise UserError(f"methods.{name[:80]!r}: name a method with letters, digits and - ({wrong_name})")
        command, steps = values.pop("command", None), values.pop("steps", None)
        if command not in COMMANDS:
            near = did_you_mean(str(command), COMMANDS)
            raise UserError(f"{where}.command: give {', '.join(COMMANDS)} (got {command!r}){near}")
        known = set(names(RUNS[command]))
        if steps is not None:
            if isinstance(steps, bool) or not isinstance(steps, int | float) or not 0 < steps < float("inf"):
                raise UserError(f"{where}.steps: a factor on max_steps, so a number above 0 (got {steps!r})")
            if "max_steps" in values or "max_steps" not in known:
                reason = "max_steps is given too" if "max_steps" in values else f"{command} takes no steps"
                raise UserError(f"{where}.steps: a factor on max_steps, but {reason}")
        for key in OURS:
            if key in values:
                raise UserError(f"{where}.{key}: every run of a suite gets its own; leave it out")
        if wrong := next((key for key in values if key not in known), None):
            raise UserError(f"{where}.{wrong}: {command} has no such setting{did_you_mean(wrong, known)}")
        source = next((values.pop(key) for key in SOURCES if values.get(key) is not None), None)
        if source is not None:
            if not isinstance(source, str) or source not in suite.methods:
                near = did_you_mean(str(source), suite.methods)
                raise UserError(f"{where}: no method of this suite is called {source!r}{near}")
            trained = suite.methods[source].get("command")
            if trained not in ("sft", "ppo") and not (trained == "classify" and command == "evaluate"):
                raise UserError(f"{where}: {source} is {trained}, which gives no adapter to start from")
        return cls(name, command, values, steps, source)

    def over(self, under: Mapping[str, Any]) -> dict[str, Any]:
        """The method's own values over those of common and task, as far as its command knows them."""
        inherited = {key: value for key, value in under.items() if key in self.knows}
        if self.command == "evaluate" and "eval_limit" in inherited:
            inherited["limit"] = inherited.pop("eval_limit")
        if self.source:  # the base model is that of the run it starts from
            inherited.pop("model", None)
        return {**inherited, **self.values}

    @property
    def knows(self) -> set[str]:
        """The names of common and task settings that reach this method: `limit` there is about training rows, and
        `eval_limit` about those that are evaluated, which `evaluate` calls its limit."""
        known = set(names(RUNS[self.command]))
        return known - {"limit"} | {"eval_limit"} if self.command == "evaluate" else known

    def depends_on_seed(self, values: Mapping[str, Any]) -> bool:
        """All does but an evaluation with nothing drawn: neither examples nor answers nor labels."""
        if self.command != "evaluate" or self.source:
            return True
        given = with_preset(EvaluateSettings, _nested(values))
        return bool(given.get("shots")) or given.get("decode") == "sample" or given.get("unparsable") == "random"

    def job(self, name: str, task: str, seed: int, values: Mapping[str, Any], **more: Any) -> Job:
        source = f"runs/{self.source}/{_dashed(task)}-s{seed}" if self.source else None
        return Job(name, self.name, self.command, task, seed, values, steps=self.steps, source=source, **more)


def _candidates(method: _Method, task: str, merged: Mapping[Group, Mapping[str, Any]], seed: int) -> list[Job]:
    """One run for each combination of the values that are to choose from."""
    group = (method.name, task)
    grid = {key: [_number(v) for v in value] for key, value in merged[group].items() if isinstance(value, list)}
    if not grid:
        return []
    where = f"methods.{method.name} on {task}"
    if empty := [key for key, values in grid.items() if not values]:
        raise UserError(f"{where}: {empty[0]} is a list with no value in it")
    if "select_rows" not in method.knows:
        raise UserError(f"{where}: {method.command} holds out no training rows to choose {next(iter(grid))} by")
    jobs = []
    for combination in product(*grid.values()):
        tried = dict(zip(grid, combination, strict=True))
        rest = {key: _resolve(group, key, merged) for key in merged[group] if key not in grid}
        shown = "-".join(f"{key}={show(value)}" for key, value in tried.items())
        name = short(re.sub(r"[^\w.+=-]", "_", shown))
        values = {**rest, "eval_limit": CANDIDATE_ROWS, **tried}
        jobs.append(method.job(f"tuning/{method.name}/{_dashed(task)}-{name}", task, seed, values, tried=tried))
    return jobs


def _resolve(group: Group, key: str, merged: Mapping[Group, Mapping[str, Any]], seen: Sequence[str] = ()) -> Any:
    """A value; a Pick where it is tuned; that of another method on the same task for `=METHOD`."""
    value = merged[group][key]
    if isinstance(value, list):
        return Pick(group, key)
    if not (isinstance(value, str) and value.startswith("=")):
        return value
    (method, task), other = group, value[1:].strip()
    where = f"methods.{method}.{key}: {value}"
    if (other, task) not in merged:
        raise UserError(f"{where}: no method of this suite is called {other!r}{did_you_mean(other, _methods(merged))}")
    if key not in merged[other, task]:
        raise UserError(f"{where}: {other} sets no {key} on {task}")
    if other in (method, *seen):
        raise UserError(f"{where}: goes round in a circle")
    return _resolve((other, task), key, merged, (*seen, method))


def _methods(merged: Mapping[Group, Any]) -> list[str]:
    return list(dict.fromkeys(method for method, _ in merged))


def _known_somewhere(where: str, values: Mapping[str, Any], methods: Iterable[_Method]) -> None:
    known = set[str]().union(*(method.knows for method in methods)) - {*OURS, *SOURCES}
    for key in values:
        if key not in known:
            commands = ", ".join(dict.fromkeys(method.command for method in methods))
            raise UserError(f"{where}.{key}: no such setting for all runs of {commands}{did_you_mean(key, known)}")


def _add(plan: Plan, job: Job) -> None:
    if job.name in plan.jobs:
        raise UserError(f"{job.title}: another run of this suite has the folder {job.name}; is one there twice?")
    plan.jobs[job.name] = job


def _no_circle(plan: Plan) -> None:
    """Every run can come after all that it needs.

    Raises:
        UserError: some runs wait for each other.
    """
    left = dict(plan.jobs)
    while left:
        free = [job for job in left.values() if not any(need in left for need in _needs(plan, job))]
        if not free:
            round_ = ", ".join(dict.fromkeys(job.method for job in left.values()))
            raise UserError(f"methods: none of {round_} can go first: they wait for each other")
        for job in free:
            del left[job.name]


def _needs(plan: Plan, job: Job) -> list[str]:
    groups = [value.group for value in job.values.values() if isinstance(value, Pick)]
    return [*([job.source] if job.source else []), *(one.name for group in groups for one in plan.candidates[group])]


def _validate_all(plan: Plan) -> None:
    for job in plan.jobs.values():
        groups = list(dict.fromkeys(v.group for v in job.values.values() if isinstance(v, Pick)))
        for tried in product(*([one.tried for one in plan.candidates[group]] for group in groups)):
            settings = plan.settings(job, Path(), dict(zip(groups, tried, strict=True)))
            if isinstance(settings, PpoSettings) and settings.reward != PpoSettings().reward:
                check_reward(settings.reward, find_all(job.task))
            if job.tried and not settings.select_rows:  # type: ignore[attr-defined]
                raise UserError(
                    f"methods.{job.method}: {next(iter(job.tried))} is a list, to choose from by held-out training "
                    f"rows, and there are none: give select_rows"
                )


# -- names and values --------------------------------------------------------------------------------------------------


def show(value: Any) -> str:
    """A value as a person would write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> Any:
    """A number such as 3e-4, which YAML takes for text, as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _dashed(task: str) -> str:
    parts = [part.strip() for part in task.split(",")]
    return short("+".join(Path(p).stem if p.endswith((".yaml", ".yml")) else p.replace("/", "-") for p in parts))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        inner = found
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return found
