"""The command line: one sub-command, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import sys
import textwrap
from typing import Any

from . import processes, say, stop, track
from .commands import COMMANDS, GROUPS, Args, summary_of, work
from .errors import Diverged, Halted, NoSpace, OutOfMemory, PeerLost, UserError, did_you_mean
from .redact import redact

UNREACHABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTDIR,
}
"""What is wrong with a path, not with this program."""


def main(argv: Args | None = None) -> int:
    """Run one sub-command.

    Returns:
        The exit code: 0; 1 if runs of a suite failed; 2 for input that the user can mend; 3 for a run that diverged, 4
        for a full disk, 5 for too little memory, 6 where another process of the run has ended; 143, 130, 138 or 129
        where SIGTERM, SIGINT, SIGUSR1 or SIGHUP came.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not processes.may_work(args):
        return 0
    # waiting threads of GNU's OpenMP burn their core for long by default; beside another job that slows both manyfold
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if argv is None:
        sys.excepthook = _tell_crash
    if hasattr(sys.stdout, "reconfigure"):  # where a terminal has no plus-minus sign, a question mark will do
        sys.stdout.reconfigure(errors="replace")
    debug, machines = "--debug" in args, "--json" in args
    args = [arg for arg in args if arg not in ("--debug", "--json")]
    if not machines:
        return _left(_run(args, debug), argv is None)
    with say.to_machines():
        try:
            try:
                code = _run(args, debug)
            except SystemExit:  # after help
                say.finish(0)
                raise
            if not say.failed():
                say.finish(code)
            return _left(code, argv is None)
        except Exception as wrong:  # a mistake of this program: told, and its traceback as ever
            say.error(f"{type(wrong).__name__}: {wrong}", 1)
            raise


def _left(code: int, alone: bool) -> int:
    """The exit code. A process that is alone does not wait for a tracker that hangs."""
    if alone and track.any_left_alone():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(args: list[str], debug: bool) -> int:
    """One sub-command, its exit code."""
    try:
        if not args or args[0] in ("-h", "--help"):
            say.line(_help())
            return 0
        if args[0] == "--version":
            from importlib.metadata import version

            say.line(f"rl4nlu {version('rl4nlu')}")
            return 0
        if args[0] not in COMMANDS:
            raise UserError(f"no command is called {args[0]!r}{did_you_mean(args[0], COMMANDS)}; see: rl4nlu --help")
        command = COMMANDS[args[0]]
        reading = say.at_work() if command.__module__ == work.__name__ else contextlib.nullcontext()
        with stop.heeded(), processes.ending(), reading:
            return command(args[1:]) or 0
    except UserError as error:
        if debug:
            raise
        say.error(str(error), 2)
        return 2
    except Halted as error:
        say.error(f"{error}{_next_step(error)}", error.exit_code)
        return error.exit_code
    except stop.Interrupted as signal:
        say.error(f"stopped by {signal}{_what_is_kept(signal)}", signal.exit_code, "")
        return signal.exit_code
    except BrokenPipeError:  # nobody reads on, as behind `| head`
        _stdout_to_nowhere()
        return 0
    except SystemExit as left:
        if left.code != 1:
            raise  # after help
        return 0  # so rich says that nobody reads on
    except OSError as error:
        if error.errno in UNREACHABLE and error.filename is not None and not debug:
            where = os.fsdecode(error.filename)[:300]
            say.error(f"{where}: {error.strerror}; name another place, or ask for access", 2)
            return 2
        if error.errno != errno.ENOSPC:
            raise
        _stdout_to_nowhere()
        say.error("the disk is full (or what stdout goes to); free some space", NoSpace.exit_code)
        return NoSpace.exit_code


def _stdout_to_nowhere() -> None:
    """What is still to be flushed at the end must not fail once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _next_step(error: Halted) -> str:
    if isinstance(error, Diverged):
        rows = f"; the rows are in {error.run}/diverged.json" if error.rows and error.run else ""
        if error.run is None or not (error.run / "checkpoints").is_dir():
            return f"{rows}: look at the weights of the model, and at the rows"
        return f"; nothing was changed by this step{rows}: look at them, or begin again with a lower --learning-rate"
    if error.run is None:
        return ""
    go_on = f"rl4nlu resume {shlex.quote(str(error.run))}"
    if isinstance(error, PeerLost):
        return f"; go on, with any number of processes: {go_on}"
    then = "with more memory" if isinstance(error, OutOfMemory) else "then"
    return f"; {then} go on: {go_on}"


def _what_is_kept(signal: stop.Interrupted) -> str:
    if signal.run is None:
        return "; no run was begun" if not signal.kept else f"; {signal.kept}"
    kept = f"; {signal.kept}" if signal.kept else ""
    return f"{kept}; go on: rl4nlu resume {shlex.quote(str(signal.run))}"


def _tell_crash(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """The traceback of what nobody expected, without tokens."""
    import traceback

    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _help() -> str:
    width = min(max(shutil.get_terminal_size().columns, 60), 100)
    lines = [
        "rl4nlu demo   # zero-shot, few-shot, SFT and PPO on bundled data, no network",
        "",
        "usage: rl4nlu COMMAND [FILE.yaml] [--flags]",
    ]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:"]
        for one in commands:
            does = summary_of(one)[0].split("; ")[0].split(". ")[0].rstrip(".")
            name = f"  {one.__name__:<10}"
            lines += textwrap.wrap(does, width, initial_indent=name, subsequent_indent=" " * len(name))
    return "\n".join([*lines, "", "settings of a command: rl4nlu COMMAND --help; all of all commands: docs/cli.md"])


if __name__ == "__main__":
    sys.exit(main())
