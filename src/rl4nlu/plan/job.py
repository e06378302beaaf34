"""What a plan is made of: runs, and the values in them that are still to be chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config import validate, with_preset
from ..errors import UserError
from ..settings import RUNS, Resources, SearchSettings, Settings, idle, without_idle
from .values import Range, nested, show

Group = tuple[str, str]
"""(method, task), for which settings are tuned; a method on one of several models counts as one of its own."""
Chosen = Mapping[Group, Mapping[str, Any]]
"""The values that were chosen for tuned settings."""


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
    """As it stands in the report: with the model, where the suite has several."""
    command: str
    task: str
    seed: int
    values: Mapping[str, Any]
    """Settings with dots in nested names; a Pick where a value is still to be chosen."""
    tried: Mapping[str, Any] = field(default_factory=dict)
    """The values that this run tries, if it is a candidate of a tuned method."""
    number: int | None = None
    """Of a trial of a search, which tries values that are known once it is its turn."""
    steps: float | None = None
    """Factor on max_steps."""
    own: Collection[str] = ()
    """The values among them that its method gives, for no other."""
    source: str | None = None
    """The run to start from, or whose adapter to evaluate."""
    model: str = ""
    """Its name in the suite's models, if there are several."""
    resources: Resources = field(default_factory=Resources)

    @property
    def is_trial(self) -> bool:
        """Whether it is run to choose settings, and stands in no report."""
        return bool(self.tried) or self.number is not None

    @property
    def unknown(self) -> bool:
        """Whether it is a trial whose values are not known yet."""
        return self.number is not None and not self.tried

    @property
    def title(self) -> str:
        """For people."""
        tried = ", ".join(f"{key} {show(value)}" for key, value in self.tried.items())
        trial = f"trial {self.number}" if self.number is not None else ""
        return f"{self.method} {self.task} {' '.join(filter(None, (trial, tried))) or f'seed {self.seed}'}"


@dataclass(frozen=True)
class Plan:
    """All runs, in the order in which they are started where nothing else holds them up."""

    jobs: dict[str, Job]
    candidates: dict[Group, list[Job]]
    spaces: dict[Group, dict[str, Range | list[Any]]] = field(default_factory=dict)
    """What a search tries values of."""
    search: SearchSettings = field(default_factory=SearchSettings)
    seed: int = 0
    """Of the candidates, and of the search."""

    def chain(self, job: Job) -> list[Job]:
        """A run, the one that it starts from, the one that that starts from, and so on."""
        return [job, *(self.chain(self.jobs[job.source]) if job.source else [])]

    def picks(self, job: Job) -> list[Group]:
        """What has to be chosen before the settings of a run, and of those that it starts from, are known."""
        found = [value.group for one in self.chain(job) for value in one.values.values() if isinstance(value, Pick)]
        return list(dict.fromkeys(found))

    def try_with(self, job: Job, tried: Mapping[str, Any]) -> None:
        """The values of a trial are known now."""
        known = replace(job, tried=dict(tried), values={**job.values, **tried})
        self.jobs[job.name] = known
        group = (job.method, job.task)
        self.candidates[group] = [known if one.name == job.name else one for one in self.candidates[group]]

    def examples(self, group: Group) -> list[Mapping[str, Any]]:
        """Values that may be chosen: all of a grid; of a search the ends of its ranges, and all of its lists."""
        if group not in self.spaces:
            return [one.tried for one in self.candidates[group]]
        ends = {k: v if isinstance(v, list) else [v.low, v.high] for k, v in self.spaces[group].items()}
        first = {key: values[0] for key, values in ends.items()}
        return [first, *({**first, key: value} for key, values in ends.items() for value in values[1:])]

    def likely(self, job: Job, out: Path) -> Settings:
        """The settings of a run as they may be, where some are still to be chosen; with the base model, also where the
        run goes on from another one."""
        chain = self.chain(job)
        chosen = {group: self.examples(group)[0] for group in self.picks(job)}
        values = {**self.examples((job.method, job.task))[0], **job.values} if job.unknown else job.values
        found = self.settings(replace(job, values=values), out, chosen)
        if job.source is None:
            return found
        first = self.settings(chain[-1], out, chosen)
        start = "adapter" if job.command == "evaluate" else "init"
        return found.model_copy(update={"model": first.model, start: None})

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
            settings = validate(kind, with_preset(kind, nested(values)))
            if waste := idle(settings):  # of common, say: it counts in others
                if own := [why for name, why in waste.items() if name in job.own]:
                    raise UserError("; ".join(own))
                settings = validate(kind, without_idle(settings))
            if settings.model is None and not job.source:
                raise UserError("model is missing, e.g. model: mini")
            if job.steps is None:
                return settings
            if not getattr(settings, "max_steps", None):
                raise UserError("steps is a factor on max_steps, which is not set here")
            return settings.model_copy(update={"max_steps": max(1, round(settings.max_steps * job.steps))})  # type: ignore[attr-defined]
        except UserError as wrong:
            raise UserError(f"methods.{job.method} on {job.task}: {wrong}") from None
