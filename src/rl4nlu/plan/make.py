"""Expand a suite into its plan, and check it before anything is run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from ..config import validate
from ..errors import UserError, did_you_mean
from ..names import problem, short
from ..rewards import check_reward
from ..settings import RUNS, PpoSettings, Resources, SuiteSettings
from ..settings.describe import entries
from ..tasks import find_all
from .job import Group, Job, Pick, Plan
from .methods import RESOURCES, Method, dashed, known_somewhere, on_models
from .values import Range, flat, number, show

CANDIDATE_ROWS = 32
"""Rows of dev that a candidate is evaluated on: hardly any, for it is chosen by held-out training rows alone."""
TO_CHOOSE = (list, Range)

Merged = dict[Group, dict[str, Any]]
"""The values of each method on each task, of which some name those of another."""


def make_plan(suite: SuiteSettings) -> Plan:
    """Expand a suite, and validate the settings of every run in it.

    Raises:
        UserError: something in the suite is not as it should be.
    """
    named = {name: Method.read(name, values, suite) for name, values in suite.methods.items()}
    for name in ("methods", "tasks", "seeds"):
        if not getattr(suite, name):
            raise UserError(f"{name}: name one at least")
    if len(set(suite.seeds)) < len(suite.seeds):
        raise UserError(f"seeds: one stands there twice (got {', '.join(map(str, suite.seeds))})")
    for task in suite.tasks:
        find_all(task)
    methods = on_models(named, list(suite.models))
    merged, resources = _merge(suite, methods)
    plan = Plan({}, {}, {}, suite.search, suite.seeds[0])
    for task in suite.tasks:  # one after the other, so that a suite that was stopped has whole rows of its table
        for method in methods:
            group = (method.label, task)
            for job in _candidates(plan, method, task, merged):
                _add(plan, replace(job, resources=resources[group]))
            values = {key: _resolve(method, task, key, merged) for key in merged[group]}
            for seed in suite.seeds if method.depends_on_seed(values) else suite.seeds[:1]:
                job = method.job(f"runs/{method.folder}/{dashed(task)}-s{seed}", task, seed, values)
                _add(plan, replace(job, resources=resources[group]))
    _no_circle(plan)
    _validate_all(plan)
    return plan


def _merge(suite: SuiteSettings, methods: Sequence[Method]) -> tuple[Merged, dict[Group, Resources]]:
    """Method over task over model over common; what a run needs apart."""
    common = flat(suite.common, "common")
    if suite.data is not None:
        common["data"] = suite.data
    models = {name: flat(own, f"models.{name}") for name, own in suite.models.items()}
    tasks = {name: flat(own, f"tasks.{name}") for name, own in suite.tasks.items()}
    given = {"common": common, **{f"models.{n}": v for n, v in models.items()}}
    for where, values in {**given, **{f"tasks.{n}": v for n, v in tasks.items()}}.items():
        known_somewhere(where, values, methods)
        if models and "model" in values and not where.startswith("models."):
            raise UserError(f"{where}.model: models says which there are; leave it out here")
    for name in models:
        if wrong_name := problem(name):
            raise UserError(f"models.{name[:80]!r}: name a model with letters, digits and - ({wrong_name})")
    merged: Merged = {}
    resources: dict[Group, Resources] = {}
    for task, own in tasks.items():
        for method in methods:
            values = method.over({**common, **models.get(method.model, {}), **own})
            needs = {key.partition(".")[2]: values.pop(key) for key in RESOURCES if key in values}
            try:
                resources[method.label, task] = validate(Resources, needs)
            except UserError as wrong:
                raise UserError(f"methods.{method.label} on {task}: resources: {wrong}") from None
            merged[method.label, task] = values
    return merged, resources


def _candidates(plan: Plan, method: Method, task: str, merged: Merged) -> list[Job]:
    """The runs by which values are chosen: one for each combination of those that are listed; where there is a range,
    as many trials as the search has."""
    group = (method.label, task)
    given = {key: value for key, value in merged[group].items() if isinstance(value, TO_CHOOSE)}
    space = {key: [number(v) for v in value] if isinstance(value, list) else value for key, value in given.items()}
    if not space:
        return []
    where = f"methods.{method.label} on {task}"
    if empty := [key for key, values in space.items() if values == []]:
        raise UserError(f"{where}: {empty[0]} is a list with no value in it")
    if "select_rows" not in method.knows:
        raise UserError(f"{where}: {method.command} holds out no training rows to choose {next(iter(space))} by")
    rest = {key: _resolve(method, task, key, merged) for key in merged[group] if key not in space}
    rest["eval_limit"] = CANDIDATE_ROWS
    start = f"tuning/{method.folder}/{dashed(task)}"
    if any(isinstance(values, Range) for values in space.values()):
        plan.spaces[group] = {key: _known(f"{where}: {key}", method.command, key, v) for key, v in space.items()}
        wide = len(str(plan.search.trials))
        return [
            method.job(f"{start}-trial-{i:0{wide}}", task, plan.seed, rest, number=i)
            for i in range(1, plan.search.trials + 1)
        ]
    jobs = []
    for combination in product(*space.values()):  # type: ignore[arg-type]
        tried = dict(zip(space, combination, strict=True))
        shown = "-".join(f"{key}={show(value)}" for key, value in tried.items())
        name = short(re.sub(r"[^\w.+=-]", "_", shown))
        jobs.append(method.job(f"{start}-{name}", task, plan.seed, {**rest, **tried}, tried=tried))
    return jobs


def _known(where: str, command: str, key: str, values: Range | list[Any]) -> Range | list[Any]:
    """A range of numbers, and whether they are whole; a list beside one holds values that a search can tell apart.

    Raises:
        UserError: it is none, or does not.
    """
    if isinstance(values, list):
        if odd := [value for value in values if not isinstance(value, str | int | float | None)]:
            raise UserError(f"{where}: beside a range a list holds plain values (got {odd[0]!r})")
        return values
    kind = next(entry.type for entry in entries(RUNS[command]) if entry.name == key)
    if kind not in (int, float):
        raise UserError(f"{where} has no range; give a list of values")
    if kind is int and (values.low % 1 or values.high % 1):
        raise UserError(f"{where} is a whole number, so give whole ends (got {show(values)})")
    return replace(values, whole=kind is int)


def _resolve(method: Method, task: str, key: str, merged: Merged, seen: Sequence[str] = ()) -> Any:
    """A value; a Pick where it is tuned; that of another method on the same task and model for `=METHOD`."""
    value = merged[method.label, task][key]
    if isinstance(value, TO_CHOOSE):
        return Pick((method.label, task), key)
    if not (isinstance(value, str) and value.startswith("=")):
        return value
    other = replace(method, name=value[1:].strip())
    if (other.label, task) not in merged:  # a method with a model of its own is there once
        other = replace(other, model="")
    where = f"methods.{method.label}.{key}: {value}"
    if (other.label, task) not in merged:
        found = list(dict.fromkeys(label for label, _ in merged))
        if any(label.startswith(f"{other.name} (") for label in found):
            raise UserError(f"{where}: {other.name} runs on several models; give a value")
        raise UserError(f"{where}: no method of this suite is called {other.name!r}{did_you_mean(other.name, found)}")
    if key not in merged[other.label, task]:
        raise UserError(f"{where}: {other.name} sets no {key} on {task}")
    if other.label in (method.label, *seen):
        raise UserError(f"{where}: goes round in a circle")
    return _resolve(other, task, key, merged, (*seen, method.label))


def _add(plan: Plan, job: Job) -> None:
    if job.name in plan.jobs:
        raise UserError(f"{job.title}: another run of this suite has the folder {job.name}; is one there twice?")
    plan.jobs[job.name] = job
    if job.is_trial:
        plan.candidates.setdefault((job.method, job.task), []).append(job)


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
        own = plan.examples((job.method, job.task)) if job.unknown else [{}]
        for values, *tried in product(own, *(plan.examples(group) for group in groups)):
            known = replace(job, values={**job.values, **values})
            settings = plan.settings(known, Path(), dict(zip(groups, tried, strict=True)))
            if isinstance(settings, PpoSettings) and settings.reward != PpoSettings().reward:
                check_reward(settings.reward, find_all(job.task))
            if job.is_trial and not settings.select_rows:  # type: ignore[attr-defined]
                key = next(iter(job.tried or own[0]))
                what = "has a range" if job.unknown else "is a list"
                raise UserError(
                    f"methods.{job.method}: {key} {what}, to choose from by held-out training rows, and there are "
                    "none: give select_rows"
                )
