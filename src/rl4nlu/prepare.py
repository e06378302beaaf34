"""What a command works on: its settings with what an adapter brings along, its tasks, every row of them, read and
checked. Nothing here imports torch, so that a mistake that can be found without the model is told at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from . import data, files, say, track
from .config import validate
from .errors import UserError
from .prompts import NO_CHAT_TEMPLATE, choose_shots
from .rewards import check_reward
from .rows import read_rows
from .run import check_free, command_of
from .seeding import generator
from .settings import (
    ClassifySettings,
    EvaluateSettings,
    PpoSettings,
    PredictSettings,
    PromptSettings,
    Settings,
    TrainSettings,
)
from .sources import MINI, check_quantiser, lacks_chat_template, source_of
from .tasks import Example, Task, find, find_all
from .tasks.own import is_file
from .trained import (
    check_labels,
    classifier_source,
    continue_from,
    follow,
    own_task,
    trained_classifier,
    trained_settings,
)

T = TypeVar("T", bound=TrainSettings)
Rows = dict[str, list[Example]]
"""Task -> its rows."""
Shots = dict[str, tuple[Example, ...]]
"""Task -> the rows that stand in each of its prompts."""
HELD_OUT = "held_out.json"
"""In a run folder: task -> ids of the training rows that it did not learn from."""
DEVICES = ("auto", "cpu", "cuda", "xpu")


@dataclass(frozen=True)
class TrainingRows(Generic[T]):
    """What `sft` and `ppo` work on."""

    settings: T
    tasks: list[Task]
    """To evaluate on."""
    taught: list[Task]
    """Whose training rows are learnt."""
    learnt: Rows
    held: Rows
    """Training rows that are kept apart to choose the best state by."""
    dev: Rows
    shots: Shots
    reopened: bool = False
    """Go on with the run in the settings' folder."""


@dataclass(frozen=True)
class EvaluationRows:
    """What `evaluate` works on, with a prompt or with a classifier."""

    settings: EvaluateSettings
    tasks: list[Task]
    rows: Rows
    shots: Shots
    reopened: bool = False
    """Go on with the run in the settings' folder."""


@dataclass(frozen=True)
class ClassifyRows:
    """What `classify` works on."""

    settings: ClassifySettings
    task: Task
    train: list[Example]
    dev: list[Example]
    reopened: bool = False
    """Go on with the run in the settings' folder."""


@dataclass(frozen=True)
class PredictionRows:
    """What `predict` works on."""

    task: Task
    rows: list[Example]
    asked: EvaluateSettings | None
    """How the prompts are written; None: a classifier answers, which takes none."""
    shots: tuple[Example, ...] = ()


# -- the commands ------------------------------------------------------------------------------------------------------


def prepare_training(settings: T, reopened: bool = False) -> TrainingRows[T]:
    """Everything that `sft` and `ppo` need but the model.

    Raises:
        UserError: something in settings or rows is not as it should be.
    """
    if not reopened:
        check_free(settings.out)
    track.check(settings.track)
    settings = continue_from(settings)
    if isinstance(settings, PpoSettings):
        check_reward(settings.reward, find_all(settings.task or ""))
    _check_model(settings)
    tasks = _with_rows(settings)
    taught = present(
        list({data.training_task(task).name: data.training_task(task) for task in tasks}.values()),
        settings.data,
        lambda task: ["train"],
    )
    tasks = [task for task in tasks if data.training_task(task) in taught]
    shots = _shots([*tasks, *taught], settings)
    before = held_by(settings.init)
    learnt, held = {}, {}
    for task in taught:
        shown = {example.id for example in shots[task.name]}  # with their answers, in every prompt
        rows = [row for row in load_rows(task, "train", settings, settings.limit) if row.id not in shown]
        if not rows:
            raise UserError(
                f"--shots {settings.shots}: no row of {task.name} is left to learn from; give fewer shots, or more rows"
            )
        learnt[task.name], held[task.name] = hold_out(rows, settings, len(taught), before.get(task.name, ()))
        unknown = settings.init is not None and held[task.name] and not before.get(task.name) and not reopened
        if unknown and task.name in _taught_to(settings.init):
            say.line(
                f"note: {settings.init} may have learnt the rows of {task.name} by which the best state is chosen, so "
                "that its own looks better than it is: train it with --select-rows as well"
            )
    dev = _rows(tasks, settings, settings.eval_limit)
    return TrainingRows(settings, tasks, taught, learnt, held, dev, shots, reopened)


def prepare_evaluation(settings: EvaluateSettings, reopened: bool = False) -> EvaluationRows:
    """Everything that `evaluate` needs but the model, where it prompts a language model.

    Raises:
        UserError: something in settings or rows is not as it should be.
    """
    if not reopened:
        check_free(settings.out)
    if settings.adapter is not None:
        settings = follow(settings.adapter, settings)
    _check_model(settings)
    tasks = _with_rows(settings)
    return EvaluationRows(settings, tasks, _rows(tasks, settings, settings.limit), _shots(tasks, settings), reopened)


def prepare_classify(settings: ClassifySettings, reopened: bool = False) -> ClassifyRows:
    """Everything that `classify` needs but the model.

    Raises:
        UserError: something in settings or rows is not as it should be.
    """
    if not reopened:
        check_free(settings.out)
    track.check(settings.track)
    if "," in (settings.task or ""):
        raise UserError(f"--task {settings.task}: a classifier has one head, for one task; sft and ppo take several")
    task = find(settings.task or "")
    _check_model(settings)
    rows = load_rows(data.training_task(task), "train", settings, settings.limit)
    return ClassifyRows(settings, task, rows, _rows([task], settings, settings.eval_limit)[task.name], reopened)


def prepare_classifier_evaluation(settings: EvaluateSettings, reopened: bool = False) -> EvaluationRows:
    """Everything that `evaluate` needs but the model, where that is a classifier.

    Raises:
        UserError: a prompting setting is given, a task has other labels, or rows are not as they should be.
    """
    if not reopened:
        check_free(settings.out)
    source = settings.adapter
    assert source is not None
    for name in (
        "template",
        "chat",
        "shots",
        "reason",
        "decode",
        "answer_tokens",
        "unparsable",
        "calibrate",
    ):
        if getattr(settings, name) != EvaluateSettings.model_fields[name].default:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag}: {source} is a classifier, which takes no prompt; leave {flag} out")
    trained = trained_classifier(source)
    chosen = settings.task or own_task(source, trained.task)
    classifier_source(source, None if settings.model == trained.model else settings.model)
    base = settings.model or trained.model
    settings = settings.model_copy(update={"task": chosen, "data": settings.data or trained.data, "model": base})
    _check_device(settings.device)
    for task in find_all(chosen):
        check_labels(source, task)
    tasks = _with_rows(settings)
    return EvaluationRows(settings, tasks, _rows(tasks, settings, settings.limit), {}, reopened)


def prepare_prediction(run: Path, settings: PredictSettings) -> PredictionRows:
    """Everything that `predict` needs but the model.

    Raises:
        UserError: the run holds no model, a row lacks a field, or the output file is there already.
    """
    assert settings.input is not None
    assert settings.output is not None
    if settings.output.exists():
        raise UserError(f"--output {settings.output} is there already: name another file, or remove this one first")
    if not settings.output.absolute().parent.is_dir():
        raise UserError(f"--output {settings.output}: its folder does not exist; make it first")
    asked = None
    if command_of(run) == "classify":
        if settings.decode != "score":
            raise UserError(
                f"--decode {settings.decode}: {run} is a classifier, which generates no text; leave --decode out"
            )
        _check_device(settings.device)
        classifier_source(run, settings.model)
        task = one_task(run, settings.task or own_task(run, trained_classifier(run).task))
        check_labels(run, task)
    else:
        names = ("task", "model", "decode", "device", "dtype", "max_tokens", "seed")
        values = settings.model_dump(include=set(names) & settings.model_fields_set)
        asked = follow(run, validate(EvaluateSettings, {**values, "adapter": run}))
        _check_model(asked)
        task = one_task(run, asked.task or "")
    located = read_rows(settings.input, quoted=task.table is not None)
    rows = [data.example_from_fields(task, row, where) for where, row in located]
    if not rows:
        raise UserError(f"{settings.input}: the file has a header and no row; put the rows to answer below it")
    return PredictionRows(task, rows, asked, () if asked is None else shots_of(task, asked))


# -- rows --------------------------------------------------------------------------------------------------------------


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
            say.line(f"{task.name}: no {absent[0]} rows in {folder or 'the bundle'}, left out")
        else:
            kept.append(task)
    if not kept:
        raise UserError(
            f"none of these tasks has rows in {folder}; --data should hold them as glue/RTE/train.tsv and so on"
        )
    return kept


def load_rows(task: Task, split: str, settings: Settings, limit: int | None) -> list[Example]:
    """At most `limit` rows of a split, from where the settings say."""
    return data.load(task, split, settings.data, limit, settings.max_bad_rows)


def hold_out(
    examples: Sequence[Example], settings: TrainSettings, tasks: int = 1, before: Collection[str] = ()
) -> tuple[list[Example], list[Example]]:
    """Training rows, and those held out of them: the task's share of `select_rows`, but at most a tenth; chosen by the
    seed. Rows of one document go together, so that none of it is learnt, and a metric that counts the answers of a
    question or the entities of a query together has all of them: the last document may exceed the share. What the run
    to start from held out (`before`, by id) is held out again: all else it has learnt."""
    most = len(examples) // 10
    wanted = min(-(-settings.select_rows // tasks), most)
    documents: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        documents.setdefault(example.unit(i), []).append(i)
    rows = list(documents.values())
    held = {i for i, example in enumerate(examples) if example.id in before} if wanted else set()
    for at in generator(settings.seed, "held-out").permutation(len(rows)).tolist():
        if len(held) >= wanted or (before and held):
            break
        if len(held) + len(rows[at]) <= most:
            held.update(rows[at])
    rest = [example for i, example in enumerate(examples) if i not in held]
    return rest, [examples[i] for i in sorted(held)]


def _taught_to(run: Path | None) -> set[str]:
    """The tasks whose training rows a run may have learnt."""
    tasks = [] if run is None else find_all(own_task(run, trained_settings(run).task))
    return {data.training_task(task).name for task in tasks}


def held_by(run: Path | None) -> dict[str, set[str]]:
    """Task -> the ids of the training rows that a run did not learn from."""
    said = {} if run is None else files.read_json(run / HELD_OUT)
    return {task: {one for one in ids if isinstance(one, str)} for task, ids in said.items() if isinstance(ids, list)}


def shots_of(task: Task, settings: PromptSettings) -> tuple[Example, ...]:
    """The training rows that stand in every prompt of a task.

    Raises:
        UserError: there are fewer than `--shots`.
    """
    if not settings.shots:
        return ()
    teacher = data.training_task(task)  # tasks that are taught by one show the same rows
    rows = load_rows(teacher, "train", settings, None)
    seed = settings.seed if settings.shots_seed is None else settings.shots_seed
    return choose_shots(teacher, rows, settings.shots, seed)


def one_task(run: Path, names: str) -> Task:
    """The task whose question is asked of new rows.

    Raises:
        UserError: it could be several.
    """
    tasks = find_all(names)
    if len(tasks) > 1:
        # of the user's own the file: their names are known to results only
        known = ", ".join(name for part in names.split(",") for name in _spelt(part))
        raise UserError(f"{run} was trained on several tasks: say with --task whose question to ask ({known})")
    return tasks[0]


def _spelt(part: str) -> list[str]:
    """What --task takes for the tasks that a part of a list means."""
    return [part] if is_file(part) else [task.name for task in find_all(part)]


def _with_rows(settings: Settings) -> list[Task]:
    return present(find_all(settings.task or ""), settings.data, lambda task: [settings.split or task.eval_split])


def _rows(tasks: Iterable[Task], settings: Settings, limit: int | None) -> Rows:
    return {task.name: load_rows(task, settings.split or task.eval_split, settings, limit) for task in tasks}


def _shots(tasks: Iterable[Task], settings: PromptSettings) -> Shots:
    return {name: shots_of(task, settings) for name, task in {task.name: task for task in tasks}.items()}


def _check_model(settings: Settings) -> None:
    _check_device(settings.device)
    check_quantiser(settings.quantize)
    source = source_of(settings.model or MINI)
    if isinstance(settings, PromptSettings) and settings.chat and lacks_chat_template(source):
        raise UserError(NO_CHAT_TEMPLATE)


def _check_device(name: str) -> None:
    """Whether there can be such a device; whether this machine has it torch alone can tell."""
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (":" in name and not number.isdecimal()):
        raise UserError(f"--device {name}: no such device; use auto, cpu or cuda")
