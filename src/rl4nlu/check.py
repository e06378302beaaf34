"""Look before a long run: is a task file, a settings file, or a zip for a benchmark's server what it should be?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import data, say
from .config import counted, read_yaml, validate, with_preset
from .errors import UserError
from .plan import Job, Pick, Plan, make_plan
from .prompts import Prompter
from .reopen import prepare
from .server import check_zip
from .settings import RUNS, ClassifySettings, EvaluateSettings, Settings, SuiteSettings
from .tasks import Example, Task, find, find_all
from .tasks.own import SUFFIXES

if TYPE_CHECKING:
    from .cost import Cost

SPLITS = ("train", "dev", "test")


def check(path: Path, folder: Path | None = None, max_bad_rows: int = 0, model: str | None = None) -> list[str]:
    """What there is to say of a file that is as it should be, line by line.

    Args:
        path: a task file or a settings file (.yaml), or a zip for a server.
        folder: where the task's rows lie, if not beside its file.
        max_bad_rows: as in `data.load`.
        model: take this one for the model that a settings or suite file names.

    Raises:
        UserError: all that is wrong with it.
    """
    if path.suffix == ".zip":
        problems, missing = check_zip(path)
        if problems:
            raise UserError("; ".join(problems))
        return [f"{path}: all files are as the server wants them", *(f"missing: {name}" for name in missing)]
    if path.suffix in SUFFIXES and path.is_file():
        values = read_yaml(path)
        if "task" in values:
            return check_settings(path, values, folder, max_bad_rows, model)
        if "methods" in values:
            return check_suite(path, values, folder, max_bad_rows, model)
    if model is not None:
        raise UserError(f"--model {model}: {path} is no file of settings, which names a model; leave --model out")
    task = find(str(path))
    return [f"{path}: {task.name}", *check_task(task, folder, max_bad_rows)]


def check_settings(
    path: Path, values: dict[str, Any], folder: Path | None, max_bad_rows: int, model: str | None = None
) -> list[str]:
    """The settings of a run, and every row of its tasks.

    Raises:
        UserError: a setting or a row is not what it should be.
    """
    first = path.read_text(encoding="utf-8").split("\n", 1)[0].split()
    named = [command for command in RUNS if command in first]
    fitting = [command for command, kind in RUNS.items() if set(values) <= set(kind.model_fields)]
    command = next(iter(named or fitting), "sft")
    values = {**values, **({"model": model} if model else {})}
    settings = counted(validate(RUNS[command], with_preset(RUNS[command], values)))
    rows = max(max_bad_rows, settings.max_bad_rows)
    settings = settings.model_copy(update={"data": folder or settings.data, "max_bad_rows": rows})
    said = [f"{path}: settings of {command}"]
    for task in find_all(settings.task or ""):
        said.append(f"{task.name}:")
        said += [f"  {line}" for line in check_task(task, settings.data, rows)]
        teacher = data.training_task(task)
        if teacher is not task:
            said += [f"  taught by {teacher.name}: {line}" for line in check_task(teacher, settings.data, rows)[:1]]
    if settings.model or any(getattr(settings, name, None) for name in ("init", "adapter")):
        said += foreseen(command, settings)
    return said


def foreseen(command: str, settings: Settings, follows: bool = False) -> list[str]:
    """What the run will take of memory and how long, or why that is not known; nothing of a classifier that is only
    asked. For `follows` see `timing.estimate`."""
    with say.hushed():  # of the rows all has been said
        rows = prepare(command, settings)
    said = memory_of(rows)
    return said if not said or said[0].startswith("note: ") else [*said, time_of(command, rows, follows)]


def time_of(command: str, rows: Any, follows: bool = False) -> str:
    """How long a run will take here, or why that is not known."""
    from .timing import estimate

    try:
        return str(estimate(command, rows.settings, rows, follows=follows))
    except Exception as wrong:  # as below
        return f"note: how long it will take is not known: {_first_line(wrong)}"


def _first_line(wrong: Exception) -> str:
    return (str(wrong).strip() or type(wrong).__name__).splitlines()[0][:200]


def memory_of(rows: Any) -> list[str]:
    """What a run will take of memory, or why that is not known."""
    try:
        return [str(cost_of(rows))]
    except UserError:
        raise
    except Exception as wrong:  # of a model made by others anything may be wrong, and libraries raise many kinds
        return [f"note: how much memory {rows.settings.model} needs is not known: {_first_line(wrong)}"]


def cost_of(rows: Any, gpu: bool | None = None) -> Cost:
    """The memory that a run will take at its peak.

    Args:
        rows: what it works on (`reopen.prepare`).
        gpu: whether it is on a GPU, which need not be here; None: as its `device` says.

    Raises:
        Exception: of whatever kind the libraries raise where there is no such model, or it cannot be built.
    """
    settings = rows.settings
    if isinstance(settings, ClassifySettings):
        from .head_cost import classify_cost

        return classify_cost(settings, rows, gpu)
    from .cost import evaluation_cost, training_cost

    if isinstance(settings, EvaluateSettings):
        return evaluation_cost(settings, rows, gpu)
    return training_cost(settings, rows, gpu)


def check_suite(
    path: Path, values: dict[str, Any], folder: Path | None, max_bad_rows: int, model: str | None = None
) -> list[str]:
    """The settings of every run of a suite, every row of its tasks, and the memory of each method on the first one.

    Raises:
        UserError: a setting or a row is not what it should be.
    """
    suite = validate(SuiteSettings, {**values, **({"data": folder} if folder else {})})
    if model is not None:
        common = {**suite.common, "model": model}
        named = {name: {**one, "model": model} for name, one in suite.methods.items()}
        suite = suite.model_copy(update={"common": common, "methods": named, "models": {}})
    plan = make_plan(suite)
    methods, tasks = len(suite.methods), len(suite.tasks)
    seeds = ", ".join(map(str, suite.seeds))
    said = [f"{path}: suite of {len(plan.jobs)} runs: {methods} methods on {tasks} tasks, seeds {seeds}"]
    where, rows = suite.data or suite.common.get("data"), max(max_bad_rows, int(suite.common.get("max_bad_rows") or 0))
    for task in (one for name in suite.tasks for one in find_all(name)):
        said += [f"{task.name}:", *(f"  {line}" for line in check_task(task, where and Path(where), rows))]
    seen: set[str] = set()
    for job in plan.jobs.values():
        if job.method in seen or any(isinstance(value, Pick) for value in job.values.values()):
            continue
        seen.add(job.method)
        changes = {"data": where and Path(where), "max_bad_rows": rows}
        settings = alone(plan, job, suite).model_copy(update=changes)
        lines = foreseen(job.command, settings, job.source is not None)
        said += [f"{job.method} on {job.task}: {line}" for line in lines]
    return said


def alone(plan: Plan, job: Job, suite: SuiteSettings) -> Settings:
    """The settings of a run of a suite as they would be without the run that it starts from, which is not there yet."""
    settings = plan.settings(job, Path(), {})
    if not job.source:
        return settings
    started = {"adapter" if job.command == "evaluate" else "init": None}
    return settings.model_copy(update={**started, "model": settings.model or suite.common.get("model")})


def check_task(task: Task, folder: Path | None, max_bad_rows: int) -> list[str]:
    """Read every row of every split, put its gold answer through the parser, and show what the model will see.

    Raises:
        UserError: a row is not what the task declares, or the gold answer of one would be judged wrong.
    """
    said, loaded = [], {}
    for split in SPLITS:
        if data.available(task, split, folder):
            loaded[split] = data.load(task, split, folder, max_bad_rows=max_bad_rows)
    if not loaded:
        raise UserError(f"{task.name} has no rows in {folder}")
    for split, rows in loaded.items():
        for template in ("plain", "verdict"):
            _gold_check(task, Prompter(task, template), split, rows)
        apart = (
            ", kept apart from the training rows"
            if split == "dev" and task.table and "dev" not in task.table.splits
            else ""
        )
        said.append(f"{split}: {len(rows)} rows{apart}; {_labels(task, rows)}")
        empty = Counter(name for row in rows for name, text in row.fields.items() if not text.strip())
        said += [f"note: {name} is empty in {count} {split} rows" for name, count in empty.items()]
    if "train" in loaded:
        seen = {row.label for row in loaded["train"]}
        never = [label for label in task.labels if label not in seen]
        if never and not task.numeric:
            said.append(f"note: no training row has the label {', '.join(never)}, so it cannot be learnt")
        for split in ("dev", "test"):
            known = {tuple(row.fields.values()) for row in loaded["train"]}
            twice = sum(tuple(row.fields.values()) in known for row in loaded.get(split, ()))
            if twice:
                said.append(f"note: {twice} {split} rows stand in train too, so the score will be too good")
    example = next(iter(loaded.values()))[0]
    prompter = Prompter(task)
    prompt = prompter.prompt(example)
    answer = "" if prompt.gold is None else prompter.answers[prompt.gold].rstrip("\n")
    return [
        *said,
        "the first row as the model sees it, with its answer:",
        *(f"  | {line}" for line in (prompt.text + answer).splitlines()),
    ]


def _gold_check(task: Task, prompter: Prompter, split: str, rows: Sequence[Example]) -> None:
    for row in rows:
        gold = prompter.prompt(row).gold
        if gold is not None and not task.judge(prompter.parse(prompter.answers[gold]), row):
            word = task.words[task.labels[gold]]
            raise UserError(
                f"row {row.id} of {split}: its own answer {word!r} cannot be read back; choose another word for the "
                f"label {task.labels[gold]!r}"
            )


def _labels(task: Task, rows: Sequence[Example]) -> str:
    known = [row.label for row in rows if row.label is not None]
    if not known:
        return "no labels"
    if task.numeric:
        values = [float(label) for label in known]
        return f"labels from {min(values):g} to {max(values):g}, mean {sum(values) / len(values):.3g}"
    counts = Counter(known)
    return ", ".join(f"{label} {counts[label]}" for label in task.labels if counts[label])
