"""The sub-commands to look at things, and to begin them: no model is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

from .. import say
from ..errors import UserError, did_you_mean
from .common import Args, example_of, paths, settings_of


def tasks(args: Args) -> None:
    """The tasks: metrics, splits, label words.

    rl4nlu tasks
    """
    if args:
        if args[0] in ("-h", "--help"):
            print(tasks.__doc__)
            return
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
    """A commented file to start from: a task of your own, or the settings of a command.

    rl4nlu new task my.yaml
    """
    from ..new import write_new
    from ..settings import RUNS

    kinds = ("task", *RUNS)
    if {"-h", "--help"} & set(args):
        print(f"{new.__doc__}\n    kinds: {', '.join(kinds)}")
        return
    if len(args) != 2:
        raise UserError(f"new needs a kind and a file: {example_of(new)}")
    kind, name = args
    if kind not in kinds:
        near = did_you_mean(kind, kinds)
        raise UserError(f"new: no kind of file is called {kind!r}{near}; choose {', '.join(kinds)}")
    write_new(kind, Path(name))
    then = f"rl4nlu check {name}" if kind == "task" else f"rl4nlu {kind} {name}"
    say.end({"output": name, "next": then}, f"{name} is written; fill it in, then: {then}")


def check(args: Args) -> None:
    """Look at a task file, a settings file, or a zip for a server: what is wrong with it, by line.

    rl4nlu check my.yaml
    """
    from ..settings import CheckSettings

    files, rest = paths(args)
    settings = settings_of(check, CheckSettings, rest)
    if len(files) != 1:
        raise UserError(f"check needs one file: {example_of(check)}")
    from ..check import check as run_it

    for line in run_it(files[0], settings.data, settings.max_bad_rows):
        say.line(line, "check", {"text": line})


def runs(args: Args) -> None:
    """All runs in a folder (runs/, if none is named), how far they are, and their scores; the newest last.

    rl4nlu runs
    """
    if {"-h", "--help"} & set(args):
        say.line(str(runs.__doc__).replace("rl4nlu runs", "rl4nlu runs [DIR...]"))
        return
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
    """One run in one screen: how far it is and why, scores, curves, what to do next.

    rl4nlu show runs/sst2-ppo
    """
    if {"-h", "--help"} & set(args):
        say.line(str(show.__doc__))
        return
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


def report(args: Args) -> None:
    """One HTML page of runs side by side: table, curves, examples.

    rl4nlu report runs/a runs/b --out report.html
    """
    from ..settings import ReportSettings

    folders, rest = paths(args)
    settings = settings_of(report, ReportSettings, rest)
    if not folders:
        raise UserError("report needs at least one run folder: rl4nlu report RUN... --out report.html")
    from ..report import collect, differences, write_page
    from ..tables import print_differences, print_table

    runs = collect(folders)
    found = differences(runs)
    write_page(runs, settings.out, found)
    print_table([result for run in runs for result in run.results])
    print_differences(found)
    say.end({"page": settings.out}, f"the report is in {settings.out}")
