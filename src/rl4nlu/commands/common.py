"""What the sub-commands have in common: how they read their words, and their last lines."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import processes, say
from ..errors import UserError

Args = Sequence[str]
Command = Callable[[Args], int | None]


def summary_of(command: Command) -> tuple[str, str]:
    """What a command does, in a sentence, and an example of it: the two paragraphs of its docstring."""
    first, example = (command.__doc__ or "").strip().split("\n\n")
    return " ".join(first.split()), example.strip()


def example_of(command: Command) -> str:
    """An example of a command."""
    return summary_of(command)[1]


def settings_of(command: Command, kind: Any, args: Args) -> Any:
    """Settings from the words behind a command.

    Raises:
        SystemExit: after its help (code 0), which comes before anything is read.
    """
    show_help(command, args, kind)
    from .. import config

    return config.parse(kind, args, f"rl4nlu {command.__name__}")


def show_help(command: Command, args: Args, kind: Any = None) -> None:
    """The help of a command, where its words ask for it: `--help` a screen, `--help-all` every setting.

    Raises:
        SystemExit: help was asked for (code 0).
    """
    if asked_for_help(args):
        from ..help import page

        first, example = summary_of(command)
        say.line(page(command.__name__, example, first, kind, whole="--help-all" in args))
        raise SystemExit(0)


def make_run(command: str, settings: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A run and its results: what needs no model is checked before the heavy imports come in, but for those of several
    processes."""
    processes.join(settings.device)
    from ..reopen import function_of, prepare

    prepared = prepare(command, settings, reopened=False)
    return function_of(command, prepared.settings)(settings, prepared)


def need(settings: Any, *names: str | None) -> None:
    """Complain about what is missing or misspelt before the heavy imports."""
    from ..tasks import find_all

    hints = {
        "task": "--task glue/rte; `rl4nlu tasks` lists them",
        "model": "--model mini, a folder, or a name on the hub",
    }
    for name in filter(None, names):
        if not getattr(settings, name):
            raise UserError(f"--{name} is missing, e.g. {hints[name]}")
    if settings.task is not None:
        find_all(settings.task)


def quoted(path: object) -> str:
    """As a shell takes it for one word."""
    return shlex.quote(str(path))


def paths(args: Args) -> tuple[list[Path], Args]:
    """The paths in front of the flags, and the flags."""
    split = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    return [Path(arg) for arg in args[:split]], args[split:]


def asked_for_help(args: Args) -> bool:
    """Whether the words behind a command ask for its help."""
    return bool({"-h", "--help", "--help-all"} & set(args))


def run_folder(command: Command, args: Args) -> tuple[Path, Args]:
    """The run folder in front of the flags, and the flags."""
    if args and not args[0].startswith("-"):
        return Path(args[0]), args[1:]
    if asked_for_help(args):
        return Path("RUN"), args
    kind = "a run" if command.__name__ == "resume" else "a finished run"
    raise UserError(f"{command.__name__} needs the folder of {kind} first: {example_of(command)}")


def finish(path: Path, results: list[dict[str, Any]], next_command: str) -> None:
    """The last lines of every command: the scores, where everything is, what to try next."""
    from ..tables import print_table

    print_table(results)
    suite = results[0]["task"].split("/")[0]
    if suite in ("glue", "superglue") and not any(result["metrics"] for result in results):
        next_command = f"rl4nlu submit {quoted(path)} --out {suite}.zip"
    facts = {"run": path, "next": next_command}
    say.end(facts, f"results and predictions are in {path}", f"next: {next_command}")
