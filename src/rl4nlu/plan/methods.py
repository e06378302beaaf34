"""A suite's methods, and each of them on each model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import names, with_preset
from ..errors import UserError, did_you_mean
from ..names import problem, short
from ..settings import RUNS, SOURCES, EvaluateSettings, Resources, SuiteSettings
from .job import Job
from .values import flat, nested

COMMANDS = ("evaluate", "sft", "ppo", "classify")
"""What a method may be."""
OURS = ("task", "seed", "out")
RESOURCES = tuple(f"resources.{name}" for name in Resources.model_fields)


@dataclass(frozen=True)
class Method:
    """A method, on one model if there are several."""

    name: str
    command: str
    values: dict[str, Any]
    steps: float | None
    source: str | None
    """The method whose run to start from."""
    model: str = ""

    @classmethod
    def read(cls, name: str, given: Mapping[str, Any], suite: SuiteSettings) -> Method:
        """A method as the file gives it.

        Raises:
            UserError: it is not what its command takes, or names a method that is not there.
        """
        where, values = f"methods.{name}", flat(given, f"methods.{name}")
        if wrong_name := problem(name):
            raise UserError(f"methods.{name[:80]!r}: name a method with letters, digits and - ({wrong_name})")
        command, steps = values.pop("command", None), values.pop("steps", None)
        if command not in COMMANDS:
            near = did_you_mean(str(command), COMMANDS)
            raise UserError(f"{where}.command: give {', '.join(COMMANDS)} (got {command!r}){near}")
        known = {*names(RUNS[command]), *RESOURCES}
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

    @property
    def label(self) -> str:
        """As it stands in reports."""
        return f"{self.name} ({self.model})" if self.model else self.name

    @property
    def folder(self) -> str:
        """Where its runs are, inside those of all."""
        return f"{self.model}/{self.name}" if self.model else self.name

    def over(self, under: Mapping[str, Any]) -> dict[str, Any]:
        """The method's own values over those of common, model and task, as far as its command knows them."""
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
        known = {*names(RUNS[self.command]), *RESOURCES}
        return known - {"limit"} | {"eval_limit"} if self.command == "evaluate" else known

    def depends_on_seed(self, values: Mapping[str, Any]) -> bool:
        """All does but an evaluation with nothing drawn: neither examples nor answers nor labels."""
        if self.command != "evaluate" or self.source:
            return True
        given = with_preset(EvaluateSettings, nested(values))
        drawn = given.get("shots") and given.get("shots_seed") is None
        return bool(drawn) or given.get("decode") == "sample" or given.get("unparsable") == "random"

    def job(self, name: str, task: str, seed: int, values: Mapping[str, Any], **more: Any) -> Job:
        """A run of it on a task.

        Args:
            name: its folder, behind the method's.
            task: what it runs on.
            seed: of it and of the run that it starts from.
            values: its settings.
            more: of a `Job`.
        """
        start = self.source and f"runs/{replace(self, name=self.source).folder}/{dashed(task)}-s{seed}"
        own = frozenset(self.values)
        return Job(
            name,
            self.label,
            self.command,
            task,
            seed,
            values,
            steps=self.steps,
            own=own,
            source=start,
            model=self.model,
            **more,
        )


def on_models(methods: Mapping[str, Method], models: Iterable[str]) -> list[Method]:
    """Every method on every model; once, if it names a model of its own or starts from a method that does."""
    own = {name for name in methods if "model" in _first(methods, name).values}
    found = [method for name, method in methods.items() if name in own or not models]
    for model in models:
        found += [replace(method, model=model) for name, method in methods.items() if name not in own]
    return found


def _first(methods: Mapping[str, Method], name: str) -> Method:
    """The method that the training of a method begins with."""
    seen = [name]
    while (source := methods[seen[-1]].source) and source not in seen:
        seen.append(source)
    return methods[seen[-1]]


def known_somewhere(where: str, values: Mapping[str, Any], methods: Iterable[Method]) -> None:
    """Some method can use each of these values.

    Raises:
        UserError: one is of use to none.
    """
    methods = list(methods)
    known = set[str]().union(*(method.knows for method in methods)) - {*OURS, *SOURCES}
    for key in values:
        if key not in known:
            commands = ", ".join(dict.fromkeys(method.command for method in methods))
            raise UserError(f"{where}.{key}: no such setting for all runs of {commands}{did_you_mean(key, known)}")


def dashed(task: str) -> str:
    """A task's name in a path."""
    parts = [part.strip() for part in task.split(",")]
    return short("+".join(Path(p).stem if p.endswith((".yaml", ".yml")) else p.replace("/", "-") for p in parts))
