"""What a trained run brings along: its base model, template, few-shot examples, task. Read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from . import say
from .config import validate
from .errors import UserError
from .run import command_of, of_other_weights, read_config
from .settings import (
    BROUGHT,
    PRESETS,
    ClassifySettings,
    EvaluateSettings,
    LoraSettings,
    PpoSettings,
    PromptSettings,
    TrainSettings,
)
from .sources import MINI, base_of, check_adapter, check_model, source_of
from .tasks import Task, find, find_all

S = TypeVar("S", bound=PromptSettings)
T = TypeVar("T", bound=TrainSettings)


def follow(run: Path, settings: S) -> S:
    """Use a trained adapter as it was trained: its base model, template and few-shot examples; and where none is given
    its task and data.

    Raises:
        UserError: there is no adapter, or the given model is another one.
    """
    if command_of(run) == "classify":
        raise UserError(f"{run} is a classifier, which takes no prompt; give the folder of an sft or ppo run")
    check_adapter(run)
    trained = trained_settings(run)
    base = base_now(run, trained.model or base_of(run), settings.model)
    changes: dict[str, Any] = {"model": base, "template": settings.template or trained.template}
    changes |= {name: getattr(settings, name) or getattr(trained, name) for name in ("max_length", "quantize", "data")}
    changes["task"] = settings.task or own_task(run, trained.task)
    said = settings.model_fields_set
    for name in BROUGHT:  # of a result the seed is that of its training
        usual = getattr(settings, name)
        if name not in said and (name != "seed" or isinstance(settings, EvaluateSettings)):
            changes |= {name: value} if (value := getattr(trained, name)) != usual else {}
    if trained.shots and changes.get("shots", settings.shots) and settings.shots_seed is None:  # the very examples
        changes["shots_seed"] = trained.seed if trained.shots_seed is None else trained.shots_seed
    return validate(type(settings), {**settings.model_dump(include=set(said)), **changes})


def base_now(run: Path, known: str | None, given: str | None) -> str | None:
    """The base model of a run's adapter: as the run names it, or the folder that it was moved to.

    Raises:
        UserError: the model that is given is another one, or the weights of that name have been replaced.
    """
    replaced = known is not None and of_other_weights(run, known)
    if given in (None, known):
        if replaced:
            raise UserError(
                f"{run}: its adapter was trained on other weights than those that {known} has now; give the folder of "
                "the old ones with --model, or train it again"
            )
        return known
    there = known == MINI or Path(known or "").is_dir()
    if (there and not replaced) or not Path(given or "").is_dir():
        raise UserError(f"--model {given}: the adapter in {run} was trained on {known}; leave --model out")
    if of_other_weights(run, given or ""):
        raise UserError(
            f"--model {given}: these are not the weights that the adapter in {run} was trained on; give those"
        )
    say.note(f"note: the adapter names {known} as its base model, and {given} is taken for it")
    return given


def own_task(run: Path, names: str | None) -> str:
    """The task that a run was trained on; files of the user's own are those that the run has kept."""
    kept = {path.name: str(path) for path in (run / "tasks").glob("*")}
    return ",".join(kept.get(Path(name.strip()).name, name.strip()) for name in (names or "").split(","))


def continue_from(settings: T) -> T:
    """Settings of a training run, with what an adapter to start from (`--init`) brings along.

    Raises:
        UserError: as `follow`; or LoRA settings are given that are not the adapter's.
    """
    if settings.init is None:
        return settings
    followed = follow(settings.init, settings)
    lora = trained_settings(settings.init).lora
    if name := other_than(settings, lora):
        raise UserError(f"lora.{name}: that of the adapter in {settings.init} is {getattr(lora, name)}; leave it out")
    return followed.model_copy(update={"lora": lora})


def other_than(settings: TrainSettings, lora: LoraSettings) -> str:
    """A setting of the adapter that somebody wants otherwise than the adapter to start from has it; "" where there is
    none. What a preset says is no such wish, nor is dropout for PPO, which trains without."""
    of_preset = PRESETS.get(type(settings), {}).get(settings.preset, {}).get("lora", {})
    for name in settings.lora.model_fields_set - ({"dropout"} if isinstance(settings, PpoSettings) else set()):
        value, its = getattr(settings.lora, name), getattr(lora, name)
        if value not in (its, of_preset.get(name, its)):
            return name
    return ""


def trained_settings(run: Path) -> TrainSettings:
    """What every training loop shares of the settings with which a run was made."""
    values = read_config(run)
    return validate(TrainSettings, {k: v for k, v in values.items() if k in TrainSettings.model_fields})


def trained_classifier(run: Path) -> ClassifySettings:
    """Settings with which a classifier was trained."""
    return validate(ClassifySettings, read_config(run))


def trained_as(run: Path) -> tuple[str, dict[str, Any]]:
    """How the adapter in a run folder was trained: sft or ppo, and what else tells it apart in a table."""
    values = read_config(run)
    extra: dict[str, Any] = {}
    if "inner_epochs" in values:
        estimator = values.get("estimator", "gae")
        extra = {"estimator": estimator}
        extra["actions"] = values.get("actions") or ("labels" if estimator == "expected" else "free")
    taught = [task.name for task in find_all(own_task(run, values.get("task")))] if values.get("task") else []
    if len(taught) > 1:
        extra["trained_on"] = taught
    return "ppo" if "inner_epochs" in values else "sft", extra


def check_labels(run: Path, task: Task) -> None:
    """A classifier can answer a task's question: it has learnt to tell those labels.

    Raises:
        UserError: it has not.
    """
    taught = find(own_task(run, trained_classifier(run).task))
    if (taught.labels, taught.segments) != (task.labels, task.segments):
        raise UserError(
            f"{run} was trained to tell the labels of {taught.name}, and {task.name} has others; leave --task out, or "
            f"train one on it: rl4nlu classify --task {task.name}"
        )


def classifier_source(run: Path, model: str | None = None) -> tuple[str, Path | None]:
    """Where a classifier's weights are: the model's folder or name on the hub, and the adapter that goes onto it; None:
    the run holds the whole model.

    Args:
        run: the classifier's.
        model: where its base model is now, if that was moved.

    Raises:
        UserError: something is missing or torn, or `model` is another one.
    """
    for full in (run / "model", run):  # of a downloaded one the weights lie at the top
        if (full / "config.json").is_file() and not (full / "adapter_config.json").is_file():
            check_model(full, str(full))
            if model is not None:
                raise UserError(f"--model {model}: {run} holds a whole model; leave --model out")
            return str(full), None
    return source_of(base_now(run, trained_classifier(run).model, model) or ""), check_adapter(run)
