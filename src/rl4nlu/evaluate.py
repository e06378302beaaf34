"""The `evaluate` command: tasks x rows -> predictions, metrics, results; and what a trained adapter brings along."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from . import data
from .ask import Advance, Prediction, Question, ask, encode
from .calibrate import ask_calibrated
from .config import validate
from .errors import UserError
from .metrics import Outcome, compute
from .models import MINI, Policy, adapter_folder, base_of, load_policy
from .run import Meter, Run, check_free, command_of, read_config
from .seeding import generator
from .settings import EvaluateSettings, LoraSettings, PromptSettings, Settings, TrainSettings
from .tasks import Example, Task, find_all

S = TypeVar("S", bound=PromptSettings)
T = TypeVar("T", bound=TrainSettings)


def tally(
    title: str,
    task: Task,
    count: int,
    answers: Callable[[Advance], Iterator[Prediction]],
    run: Run | None = None,
    guess: Callable[[int], str] | None = None,
) -> dict[str, Any]:
    """Take note of every prediction and compute the task's metrics: the figures of one entry of results.json.

    Args:
        title: what the progress line says.
        task: the task.
        count: number of rows.
        answers: given what to tell of the progress, yields the predictions.
        run: where each prediction is written as it comes.
        guess: row number -> label, for answers that could not be parsed; None: they count as wrong.
    """
    start, unparsable = time.perf_counter(), 0
    outcomes: list[Outcome] = []
    with Meter(title, count) as meter:
        for prediction in answers(meter.advance):
            if prediction.label is None:
                unparsable += 1
                if guess is not None:
                    prediction = replace(prediction, label=guess(len(outcomes)))
            outcomes.append(prediction.outcome(task))
            if run is not None:
                run.predict({"task": task.name, **prediction.row})
    values, errors = compute(task, outcomes)
    return {
        "n": len(outcomes),
        "metrics": values,
        "stderr": errors,
        "unparsable": unparsable,
        "seconds": round(time.perf_counter() - start, 2),
    }


def measure(
    policy: Policy,
    question: Question,
    settings: PromptSettings,
    method: str,
    run: Run | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask every row, in the way that the settings of `evaluate` say, else with labels scored: one entry of
    results.json."""
    task = question.task
    how = settings if isinstance(settings, EvaluateSettings) else EvaluateSettings()

    def answers(advance: Advance) -> Iterator[Prediction]:
        if how.calibrate != "none":
            return ask_calibrated(policy, question, how.calibrate, settings, advance)
        return ask(policy, question, how.decode, settings, how.answer_tokens, advance)

    def guess(row: int) -> str:
        drawn = generator(settings.seed, f"unparsable/{task.name}", row).integers(len(task.labels))
        return task.labels[drawn]

    entry = {
        "task": task.name,
        "method": method,
        **(extra or {}),
        "model": policy.name,
        "template": question.prompter.template,
        "shots": len(question.prompter.shots),
        **({"reason": question.prompter.reason} if question.prompter.reason else {}),
        "decode": how.decode,
        **({"calibrate": how.calibrate} if how.calibrate != "none" else {}),
        **({"unparsable_as": how.unparsable} if how.unparsable != "wrong" else {}),
        "seed": settings.seed,
        "split": settings.split or task.eval_split,
        "cut_rows": question.rows.cut,
    }
    drawing = guess if how.unparsable == "random" else None
    return {**entry, **tally(f"{method} {task.name}", task, len(question.rows), answers, run, drawing)}


def evaluate(settings: EvaluateSettings) -> tuple[Run, list[dict[str, Any]]]:
    """The `evaluate` command: zero-shot or few-shot, or a trained adapter, on one task or several."""
    check_free(settings.out)
    if settings.adapter is not None:
        settings = follow(settings.adapter, settings)
    tasks = present(find_all(settings.task or ""), settings.data, lambda t: [settings.split or t.eval_split])
    loaded = {task.name: load_rows(task, settings.split or task.eval_split, settings, settings.limit) for task in tasks}
    policy = load_policy(settings.model or MINI, settings.device, settings.dtype, adapter=settings.adapter)
    if policy.label_bias and settings.decode != "score":
        print("note: this policy was trained over labels, with their bias taken out; generated text has it in again")
    questions = [encode(policy, task, settings, loaded[task.name]) for task in tasks]
    run = Run.create("evaluate", settings)
    method = "few-shot" if settings.shots else "zero-shot"
    extra: dict[str, Any] = {}
    if settings.adapter is not None:
        method, extra = trained_as(settings.adapter)
    results: list[dict[str, Any]] = []
    for question in questions:
        if question.rows.cut:
            print(
                f"{question.task.name}: {question.rows.cut} of {len(question.rows)} prompts were too long and were cut"
            )
        results.append(measure(policy, question, settings, method, run, extra))
        run.write_results(results)
    return run, results


def present(tasks: Sequence[Task], folder: Path | None, splits: Callable[[Task], Sequence[str]]) -> list[Task]:
    """Of several tasks those whose splits have files; the others are named and left out. One alone is kept, so that
    what it lacks is said when it is loaded.

    Raises:
        UserError: none has.
    """
    if len(tasks) == 1:
        return list(tasks)
    kept = []
    for task in tasks:
        absent = [split for split in splits(task) if not data.available(task, split, folder)]
        if absent:
            print(f"{task.name}: no {absent[0]} rows in {folder or 'the bundle'}, left out")
        else:
            kept.append(task)
    if not kept:
        raise UserError(f"none of these tasks has rows in {folder}")
    return kept


def load_rows(task: Task, split: str, settings: Settings, limit: int | None) -> list[Example]:
    """At most `limit` rows of a split, from where the settings say."""
    return data.load(task, split, settings.data, limit, settings.max_bad_rows)


def follow(run: Path, settings: S) -> S:
    """Use a trained adapter as it was trained: its base model, template and few-shot examples; and where none is given
    its task and data.

    Raises:
        UserError: there is no adapter, or the given model is another one.
    """
    if command_of(run) == "classify":
        raise UserError(f"{run} is a classifier, which takes no prompt; give the folder of an sft or ppo run")
    adapter_folder(run)
    trained = trained_settings(run)
    base = trained.model or base_of(run)
    if settings.model not in (None, base):
        raise UserError(f"--model {settings.model}: the adapter in {run} was trained on {base}; leave --model out")
    changes: dict[str, Any] = {"model": base, "template": settings.template or trained.template}
    changes |= {"chat": settings.chat or trained.chat, "max_length": settings.max_length or trained.max_length}
    changes["reason"] = settings.reason or trained.reason
    changes |= {"task": settings.task or own_task(run, trained.task), "data": settings.data or trained.data}
    if trained.shots and not settings.shots:  # the very examples it was trained with
        changes |= {"shots": trained.shots, "seed": trained.seed}
    if isinstance(settings, EvaluateSettings) and not settings.seed:  # the seed of a result is that of its training
        changes["seed"] = trained.seed
    return validate(type(settings), settings.model_copy(update=changes).model_dump())


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
    lora = trained_settings(settings.init).lora if adapter_folder(settings.init) else settings.lora
    if settings.lora not in (LoraSettings(), lora):
        raise UserError(f"lora: the adapter in {settings.init} has {lora}; leave the lora settings out")
    return follow(settings.init, settings).model_copy(update={"lora": lora})


def trained_settings(run: Path) -> TrainSettings:
    """What every training loop shares of the settings with which a run was made."""
    values = read_config(run)
    return validate(TrainSettings, {k: v for k, v in values.items() if k in TrainSettings.model_fields})


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
