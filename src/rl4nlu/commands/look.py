"""The sub-commands to look at things, and to begin them: no model is loaded."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from .. import say
from ..errors import UserError, did_you_mean
from .common import Args, example_of, paths, settings_of, show_help


def tasks(args: Args) -> None:
    """The tasks: metrics, splits, label words.

    rl4nlu tasks
    """
    show_help(tasks, args)
    if args:
        raise UserError(f"tasks takes no argument, and {args[0]!r} was given; leave it out")
    from ..tasks import TASKS

    if say.machines_read():
        for task in TASKS.values():
            facts = {"task": task.name, "metrics": task.metrics, "split": task.eval_split, "labels": task.labels}
            say.event("task", {**facts, "words": task.words})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "metrics", "evaluated on", "labels and their words", box=None, header_style="bold")
    for task in TASKS.values():
        if task.numeric:
            words = f"{task.labels[0]} to {task.labels[-1]} in steps of 0.2"
        else:
            words = ", ".join(f"{label}: {task.words[label]}" for label in task.labels)
        table.add_row(task.name, ", ".join(task.metrics), task.eval_split, words)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)


def new(args: Args) -> None:
    """A commented file to start from: task, settings or suite.

    rl4nlu new task my.yaml
    """
    show_help(new, args)
    from ..new import KINDS, write_new

    if len(args) != 2:
        raise UserError(f"new needs a kind and a file: {example_of(new)}")
    kind, name = args
    if kind not in KINDS:
        near = did_you_mean(kind, KINDS)
        raise UserError(f"new: no kind of file is called {kind!r}{near}; choose {', '.join(KINDS)}")
    beside = write_new(kind, Path(name))
    then = f"rl4nlu {'check' if kind == 'task' else kind} {shlex.quote(name)}"
    say.end(
        {"output": name, "next": then}, f"{name} is written, and {beside} for your editor; fill it in, then: {then}"
    )


def schema(args: Args) -> None:
    """The JSON schema of a settings, suite or task file; for editors and checkers.

    rl4nlu schema ppo
    """
    show_help(schema, args)
    from ..schema import KINDS, text_of

    if len(args) != 1 or args[0] not in KINDS:
        near = did_you_mean(args[0], KINDS) if args else ""
        raise UserError(f"schema needs one kind of file{near}: choose {', '.join(KINDS)}")
    text = text_of(args[0])
    say.line(text.rstrip(), "schema", {"kind": args[0], "schema": json.loads(text)})


def check(args: Args) -> None:
    """What is wrong with a file, before a long run; a task, settings or suite file by line, or a zip for a server.

    rl4nlu check my.yaml
    """
    from ..settings import CheckSettings

    files, rest = paths(args)
    settings = settings_of(check, CheckSettings, rest)
    if len(files) != 1:
        raise UserError(f"check needs one file: {example_of(check)}")
    from ..check import check as run_it

    for line in run_it(files[0], settings.data, settings.max_bad_rows, settings.model):
        say.line(line, "check", {"text": line})


def runs(args: Args) -> None:
    """All runs in a folder (runs/), how far they are, and their scores; the newest last.

    rl4nlu runs runs/demo-1
    """
    show_help(runs, args)
    folders, rest = paths(args)
    if rest:
        raise UserError(f"runs takes folders only, and {rest[0]!r} was given; leave it out")
    from ..overview import find, print_runs

    home = Path("runs")
    if not folders and not home.is_dir():
        say.end({"next": "rl4nlu demo"}, "there is no folder runs/ here; to make some runs: rl4nlu demo")
        return
    print_runs(find(folders or [home]))


def show(args: Args) -> None:
    """One run in one screen: state, scores, curves, what to do next.

    rl4nlu show runs/sst2-ppo
    """
    show_help(show, args)
    if len(args) != 1 or args[0].startswith("-"):
        raise UserError(f"show needs the folder of one run: {example_of(show)}")
    from ..overview import curves, describe, next_command, read
    from ..saved import steps

    run = read(Path(args[0]))
    if say.machines_read():
        last = {name: values[-1] for name, values in curves(steps(run.path)).items()}
        say.event("run", {**run.facts, "last": last})
    said = describe(run)
    say.end({"run": run.path, "next": next_command(run)}, *said)


def explain(args: Args) -> None:
    """What a word in a log, a result, a report or a setting means; of a task its labels, metrics, reward, prompt.

    rl4nlu explain clipfrac
    """
    show_help(explain, args)
    if len(args) != 1:
        raise UserError(f"explain needs one word: {example_of(explain)}")
    from ..explain import explain as look_up

    for entry in look_up(args[0]):
        facts = {"word": entry.word, "kind": entry.kind, "text": entry.lines}
        lines = (say.wrapped(f"  {one}") for one in entry.lines)
        say.line("\n".join([f"{entry.word} ({entry.kind})", *lines]), "meaning", facts)


def report(args: Args) -> None:
    """Runs side by side: a page with scores, tests, curves, examples; or a table (.tex, .md, .csv, .json).

    rl4nlu report runs/a runs/b --out report.html scores.tex
    """
    from ..settings import ReportSettings

    folders, rest = paths(args)
    settings = settings_of(report, ReportSettings, rest)
    if not folders:
        raise UserError("report needs at least one run folder: rl4nlu report RUN... --out report.html")
    from ..reports import collect, differences, kind_of, write
    from ..tables import print_differences, print_table

    for out in settings.out:
        kind_of(out)
    runs = collect(folders)
    found = differences(runs)
    for out in settings.out:
        write(runs, out, found)
    print_table([result for run in runs for result in run.results])
    print_differences(found)
    files = [str(out) for out in settings.out]
    say.end({"files": files}, f"the report is in {' and '.join(files)}")
