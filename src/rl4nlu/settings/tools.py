"""Settings of the commands around the runs: `submit`, `check`, `report`, `demo`, `suite`, `merge` and `push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .base import Frozen


class ResumeSettings(Frozen):
    """What may differ from the run's settings: where its data lie, how much memory there is, who looks on."""

    data: Path | None = None
    """Folder in the official layout, where the rows have been moved to."""
    model: str | None = None
    """Folder of the base model, if it has been moved."""
    init: Path | None = None
    """Run folder that a training started from, if it has been moved."""
    adapter: Path | None = None
    """Run folder that an evaluation is about, if it has been moved."""
    device: str | None = None
    """auto, cpu or cuda."""
    max_tokens: int | None = Field(None, ge=16)
    """Tokens in a micro-batch; memory, not the result (but for rounding, and the masks of LoRA's dropout)."""
    save_every: int | None = Field(None, ge=1)
    """Steps between checkpoints."""
    track: Literal["none", "tensorboard", "wandb", "trackio", "mlflow"] | None = None
    """The tracker from here on."""


class SubmitSettings(Frozen):
    out: Path | None = None
    """The zip to write."""


class CheckSettings(Frozen):
    data: Path | None = None
    """Folder in the official layout; files of your own are looked for here first, then beside the task file."""
    model: str | None = None
    """Take this model for the one that a settings or suite file names: a small one of its class, say."""
    max_bad_rows: int = Field(0, ge=0)
    """Skip at most N rows that cannot be read, and list them."""


class ReportSettings(Frozen):
    out: tuple[Path, ...] = Field((Path("report.html"),), min_length=1)
    """Files to write: .html, the page; .md, .tex (booktabs), .csv, .json: its tables."""


class DemoSettings(Frozen):
    out: Path | None = None
    """Run folder to make (default: runs/demo-N)."""
    seed: int = Field(0, ge=0)
    """All randomness is derived from it."""


class Resources(Frozen):
    """What a run of a suite needs."""

    cpus: int | None = Field(None, ge=1, le=4096)
    """Cores, and so threads; default: the machine's, shared out among --jobs."""
    gpus: float | None = Field(None, ge=0, le=64)
    """GPUs, or a part of one such as 0.5; on a Ray cluster; default: 1 where there are some and the run may use one."""

    @model_validator(mode="after")
    def _whole(self) -> Resources:
        if self.gpus is not None and self.gpus > 1 and self.gpus % 1:
            raise ValueError(f"gpus: a part of one, or whole ones (got {self.gpus:g})")
        return self


class SearchSettings(Frozen):
    """How values are looked for in ranges."""

    trials: int = Field(12, ge=1, le=10_000)
    """Runs of each method on each task that has a range."""
    sampler: Literal["tpe", "random"] = "tpe"
    """tpe learns from the trials before (the first third is random); random does not."""
    batch: int = Field(4, ge=1, le=1000)
    """Trials that are drawn together, so that they may run at a time; all of them, if random."""


class SuiteFlags(Frozen):
    """What of a suite may be a flag."""

    out: Path | None = None
    """Folder of all runs; default: runs/ and the name of the file."""
    jobs: int = Field(1, ge=1, le=256)
    """Runs at a time, which take the machine's GPUs in turn; on a Ray cluster on each machine, where there are no
    GPUs to count by."""
    retries: int = Field(1, ge=0, le=100)
    """How often a run whose process dies is tried again from its last checkpoint."""
    ray: str | None = Field(None, pattern=r"^(local|auto|(ray://)?[\w.\[\]:-]+:\d+)$")
    """Run on a Ray cluster; alone: one of this machine; auto, HOST:PORT or ray://HOST:PORT: one that is there."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    """Every method runs with each; once, if nothing in it is random."""
    search: SearchSettings = SearchSettings()
    """How values are looked for where a method gives a range."""
    data: Path | None = None
    """Folder in the official layout, over that of common."""
    dry_run: bool = False
    """Print the plan and stop."""


class SuiteSettings(SuiteFlags):
    """Tasks x models x methods x seeds. In the file alone, without flags: common, models, tasks, methods."""

    common: dict[str, Any] = Field({})
    """Settings of all runs whose command knows them; limit is of training rows, eval_limit of others."""
    models: dict[str, dict[str, Any]] = Field({})
    """Names, or name: settings of the runs with it (model: NAME if that is another); these go over common."""
    tasks: dict[str, dict[str, Any]] = Field({})
    """Names, or name: settings of the runs on it; these go over common and the model's."""
    methods: dict[str, dict[str, Any]] = Field({})
    """name: {command, settings}; [A, B] or {low, high}: tuned; =METHOD: as there; init: METHOD; steps: times
    max_steps."""

    @field_validator("models", mode="before")
    @classmethod
    def _models_by_name(cls, models: Any) -> Any:
        if isinstance(models, list) and all(isinstance(name, str) for name in models):
            short = [name.rstrip("/").rpartition("/")[2] for name in models]
            if twice := [name for name in short if short.count(name) > 1]:
                raise ValueError(
                    f"two are called {twice[0]}: give names, models: {{a: {{model: {models[0]}}}, b: ...}}"
                )
            return {name: {"model": model} for name, model in zip(short, models, strict=True)}
        filled = _with_nothing(models)
        if isinstance(filled, dict) and all(isinstance(own, dict) for own in filled.values()):
            return {name: {"model": name, **own} for name, own in filled.items()}
        return filled

    @field_validator("tasks", mode="before")
    @classmethod
    def _names_alone(cls, tasks: Any) -> Any:
        if isinstance(tasks, list) and all(isinstance(name, str) for name in tasks):
            return {name: {} for name in tasks}
        return _with_nothing(tasks)


def _with_nothing(named: Any) -> Any:
    """A name without anything behind it has no settings."""
    return {k: {} if v is None else v for k, v in named.items()} if isinstance(named, dict) else named


class MergeSettings(Frozen):
    out: Path | None = None
    """Folder to make."""
    model: str | None = None
    """The folder of the base model, where it was moved since."""
    dtype: Literal["base", "float32", "bfloat16", "float16"] = "base"
    """Of the weights; base: as in the base model's files."""


class PushSettings(Frozen):
    private: bool = False
    """Make a new repository private, so that only its owner sees it."""
    merged: bool = False
    """Send base model and adapter as one model."""
    base: str | None = None
    """Name on the hub of the base model, where the run names a folder."""
    predictions: bool = False
    """Send predictions.jsonl too, which may quote the rows."""
    force: bool = False
    """Write over files in the repository that rl4nlu did not put there."""
    dry_run: bool = False
    """Tell what would be sent, and stop; the hub is not asked."""
