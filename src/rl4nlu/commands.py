"""The sub-commands. One that works with a model has two stages: `prepare` finds every mistake that can be found without
it, and only then the room with the heavy imports comes in and is handed what was prepared."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .errors import UserError, did_you_mean

Args = Sequence[str]


def evaluate(args: Args) -> None:
    """Ask a model every row of a split: zero-shot, few-shot, or with a trained adapter.

    rl4nlu evaluate --task glue/rte --model mini --data DIR --shots 5
    """
    from .settings import EvaluateSettings

    settings = _settings(EvaluateSettings, args, "evaluate")
    _need(settings, "task" if settings.adapter is None else None, "model" if settings.adapter is None else None)
    run, results = _make_run("evaluate", settings)
    _finish(run.path, results, f"rl4nlu report {run.path} --out report.html")


def sft(args: Args) -> None:
    """Supervised fine-tuning with LoRA on the gold answers.

    rl4nlu sft --task glue/sst2 --model mini --data DIR --max-steps 600 --out runs/sst2-sft
    """
    from .settings import SftSettings

    settings = _settings(SftSettings, args, "sft")
    _need(settings, "task", "model" if settings.init is None else None)
    run, results = _make_run("sft", settings)
    again = f" --data {settings.data}" if settings.data else ""
    _finish(run.path, results, f"rl4nlu ppo --task {settings.task}{again} --init {run.path}")


def ppo(args: Args) -> None:
    """PPO with LoRA and its kin: answers are actions, the reward compares them with the gold one.

    rl4nlu ppo --task glue/sst2 --model mini --data DIR --init runs/sst2-sft --out runs/sst2-ppo
    """
    from .settings import PpoSettings

    settings = _settings(PpoSettings, args, "ppo")
    _need(settings, "task", "model" if settings.init is None else None)
    run, results = _make_run("ppo", settings)
    before = f"{settings.init} " if settings.init else ""
    _finish(run.path, results, f"rl4nlu report {before}{run.path} --out report.html")


def classify(args: Args) -> None:
    """A classification head on an encoder, or on a decoder with LoRA: the baseline.

    rl4nlu classify --task glue/rte --model google-bert/bert-base-uncased --out runs/rte-bert
    """
    from .settings import ClassifySettings

    settings = _settings(ClassifySettings, args, "classify")
    _need(settings, "task", "model")
    run, results = _make_run("classify", settings)
    _finish(run.path, results, f"rl4nlu report {run.path} --out report.html")


def predict(args: Args) -> None:
    """Answer new rows with a trained run.

    rl4nlu predict runs/sst2-ppo --input rows.jsonl --output answers.jsonl
    """
    from .settings import PredictSettings

    run, rest = _run_folder(args, "predict")
    settings = _settings(PredictSettings, rest, "predict")
    for name in ("input", "output"):
        if getattr(settings, name) is None:
            raise UserError(f"--{name} is missing; see: rl4nlu predict --help")
    from .prepare import prepare_prediction

    prepared = prepare_prediction(run, settings)
    from .predict import predict as run_it

    count = run_it(run, settings, prepared)
    print(f"{count} answers are in {settings.output}")


def resume(args: Args) -> None:
    """Go on with a run that was stopped or killed, to the end that it would have come to.

    rl4nlu resume runs/sst2-ppo
    """
    from .settings import ResumeSettings

    path, rest = _run_folder(args, "resume")
    settings = _settings(ResumeSettings, rest, "resume")
    from .resume import resume as run_it

    results = run_it(path, settings)
    _finish(path, results, f"rl4nlu report {path} --out report.html")


def submit(args: Args) -> None:
    """The zip for the GLUE or SuperGLUE server, from runs on the test splits.

    rl4nlu submit runs/cola-test runs/sst2-test --out glue.zip
    """
    from .settings import SubmitSettings

    runs, rest = _paths(args)
    settings = _settings(SubmitSettings, rest, "submit")
    if not runs:
        raise UserError(f"submit needs run folders: {_example('submit')}")
    if settings.out is None:
        raise UserError(f"--out is missing: {_example('submit')}")
    from .submit import submit as run_it

    made = run_it(runs, settings.out)
    for name, run in made.tasks.items():
        print(f"{name}: from {run}")
    if made.missing:
        print(f"missing, the server will want them: {', '.join(made.missing)}")
    if made.filled:
        print(f"{made.filled} answers could not be parsed; each task's first label stands for them")
    print(f"{settings.out} is written and checked")


def check(args: Args) -> None:
    """Look at a task file, a settings file, or a zip for a server: what is wrong with it, by line.

    rl4nlu check my.yaml
    """
    from .settings import CheckSettings

    files, rest = _paths(args)
    settings = _settings(CheckSettings, rest, "check")
    if len(files) != 1:
        raise UserError(f"check needs one file: {_example('check')}")
    from .check import check as run_it

    for line in run_it(files[0], settings.data, settings.max_bad_rows):
        print(line)


def new(args: Args) -> None:
    """A commented file to start from: a task of your own, or the settings of a command.

    rl4nlu new task my.yaml
    """
    from .new import write_new
    from .settings import RUNS

    kinds = ("task", *RUNS)
    if {"-h", "--help"} & set(args):
        print(f"{new.__doc__}\n    kinds: {', '.join(kinds)}")
        return
    if len(args) != 2:
        raise UserError(f"new needs a kind and a file: {_example('new')}")
    kind, name = args
    if kind not in kinds:
        near = did_you_mean(kind, kinds)
        raise UserError(f"new: no kind of file is called {kind!r}{near}; choose {', '.join(kinds)}")
    write_new(kind, Path(name))
    then = f"rl4nlu check {name}" if kind == "task" else f"rl4nlu {kind} {name}"
    print(f"{name} is written; fill it in, then: {then}")


def report(args: Args) -> None:
    """One HTML page of runs side by side: table, curves, examples.

    rl4nlu report runs/a runs/b --out report.html
    """
    from .settings import ReportSettings

    folders, rest = _paths(args)
    settings = _settings(ReportSettings, rest, "report")
    if not folders:
        raise UserError("report needs at least one run folder: rl4nlu report RUN... --out report.html")
    from .report import collect, differences, write_page
    from .tables import print_differences, print_table

    runs = collect(folders)
    found = differences(runs)
    write_page(runs, settings.out, found)
    print_table([result for run in runs for result in run.results])
    print_differences(found)
    print(f"the report is in {settings.out}")


def suite(args: Args) -> int:
    """Tasks x methods x seeds from one file: the plan, all runs, one report; the same command goes on after a stop.

    rl4nlu suite study.yaml --jobs 2
    """
    from .settings import SuiteSettings

    settings = _settings(SuiteSettings, args, "suite")
    if not args or args[0].startswith("-"):
        raise UserError(f"suite needs a file: {_example('suite')}")
    from .suite import suite as run_it

    return run_it(settings.model_copy(update={"out": settings.out or Path("runs") / Path(args[0]).stem}))


def tasks(args: Args) -> None:
    """The tasks: metrics, splits, label words.

    rl4nlu tasks
    """
    if args:
        if args[0] in ("-h", "--help"):
            print(tasks.__doc__)
            return
        raise UserError(f"tasks takes no argument, and {args[0]!r} was given; leave it out")
    from rich.console import Console
    from rich.table import Table

    from .tasks import TASKS

    table = Table("task", "metrics", "evaluated on", "labels and their words", box=None, header_style="bold")
    for task in TASKS.values():
        if task.numeric:
            words = f"{task.labels[0]} to {task.labels[-1]} in steps of 0.2"
        else:
            words = ", ".join(f"{label}: {task.words[label]}" for label in task.labels)
        table.add_row(task.name, ", ".join(task.metrics), task.eval_split, words)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)


def demo(args: Args) -> None:
    """Zero-shot, few-shot, SFT and PPO on the bundled model and tasks; no network.

    rl4nlu demo
    """
    from .settings import DemoSettings

    settings = _settings(DemoSettings, args, "demo")
    from .run import check_free

    check_free(settings.out)
    from .demo import demo as run_it

    run_it(settings)


COMMANDS: dict[str, Callable[[Args], int | None]] = {
    "demo": demo,
    "tasks": tasks,
    "evaluate": evaluate,
    "sft": sft,
    "ppo": ppo,
    "classify": classify,
    "predict": predict,
    "resume": resume,
    "submit": submit,
    "report": report,
    "suite": suite,
    "new": new,
    "check": check,
}


def _settings(kind: Any, args: Args, command: str) -> Any:
    from . import config

    first, example = [line.strip() for line in (COMMANDS[command].__doc__ or "").strip().split("\n\n")]
    return config.parse(kind, args, f"rl4nlu {command}", f"{first}\n\nexample: {example}")


def _make_run(command: str, settings: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A run and its results: what needs no model is checked before the heavy imports come in."""
    from .resume import function_of, prepare

    prepared = prepare(command, settings, reopened=False)
    return function_of(command, prepared.settings)(settings, prepared)


def _need(settings: Any, *names: str | None) -> None:
    """Complain about what is missing or misspelt before the heavy imports."""
    from .tasks import find_all

    hints = {
        "task": "--task glue/rte; `rl4nlu tasks` lists them",
        "model": "--model mini, a folder, or a name on the hub",
    }
    for name in filter(None, names):
        if not getattr(settings, name):
            raise UserError(f"--{name} is missing, e.g. {hints[name]}")
    if settings.task is not None:
        find_all(settings.task)


def _paths(args: Args) -> tuple[list[Path], Args]:
    """The paths in front of the flags, and the flags."""
    split = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    return [Path(arg) for arg in args[:split]], args[split:]


def _run_folder(args: Args, command: str) -> tuple[Path, Args]:
    if args and not args[0].startswith("-"):
        return Path(args[0]), args[1:]
    if {"-h", "--help"} & set(args):
        return Path("RUN"), args
    kind = "a run" if command == "resume" else "a finished run"
    raise UserError(f"{command} needs the folder of {kind} first: {_example(command)}")


def _example(command: str) -> str:
    return (COMMANDS[command].__doc__ or "").strip().split("\n\n")[1].strip()


def _finish(path: Path, results: list[dict[str, Any]], next_command: str) -> None:
    """The last lines of every command: the scores, where everything is, what to try next."""
    from .tables import print_table

    print_table(results)
    print(f"results and predictions are in {path}")
    suite = results[0]["task"].split("/")[0]
    if suite in ("glue", "superglue") and not any(result["metrics"] for result in results):
        next_command = f"rl4nlu submit {path} --out {suite}.zip"
    print(f"next: {next_command}")
