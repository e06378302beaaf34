"""One run of a suite, made in this process; what it says goes to its log."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..config import read_yaml
from ..errors import UserError
from ..redact import Redacted, redact, scrub
from ..reopen import function_of, may_be_reopened, prepare
from ..run import Run, read_config, read_results, status_of
from ..settings import Resources, Settings
from ..stop import Interrupted, heeded


@dataclass(frozen=True)
class Work:
    """A run to make."""

    name: str
    title: str
    method: str
    command: str
    settings: Settings
    source: Path | None
    """The run that it starts from."""
    log: Path
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    seconds: float
    """Of the whole run, not of starting the process."""
    results: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    diverged: bool = False


def perform(work: Work, *more: int) -> Outcome:
    """Make a run, in this process. Whatever goes wrong becomes its outcome.

    Args:
        work: the run.
        more: signals that stop it, beside SIGTERM.
    """
    results: list[dict[str, Any]] = []
    start, error, diverged = time.perf_counter(), None, False
    work.log.parent.mkdir(parents=True, exist_ok=True)
    with _said_to(work.log), _threads(work.resources.cpus), heeded(signal.SIGTERM, *more):
        print(f"--- {work.title}, {time.strftime('%Y-%m-%d %H:%M:%S')}")
        try:
            assert work.settings.out is not None
            run, results = make_run(work)
            if work.source is not None:
                sources = [read_config(work.source), *read_sources(work.source)]
                text = yaml.safe_dump({"sources": sources}, sort_keys=False)
                (run.path / "sources.yaml").write_text(text, encoding="utf-8")
            results = [{"name": work.method, **result} for result in results]
            run.write_results(results)  # the last of all, see `finished`
            for checkpoint in run.checkpoints.glob("step-*"):  # of a finished run nothing needs them any more
                shutil.rmtree(checkpoint, ignore_errors=True)
        except Interrupted as stopped:
            print(f"stopped by {stopped}; {stopped.kept}")
            error = "stopped"
        except Exception as wrong:
            print(traceback.format_exc(), end="", file=sys.stderr)
            error, diverged = one_line(wrong), isinstance(wrong, FloatingPointError)
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():  # for whoever else works on this GPU
            torch.cuda.empty_cache()
    return Outcome(time.perf_counter() - start, results, error, diverged)


def make_run(work: Work) -> tuple[Run, list[dict[str, Any]]]:
    """Make the run; one with the same settings that was stopped goes on where it was."""
    folder = work.settings.out
    assert folder is not None
    prepared = prepare(work.command, work.settings, reopened=True)
    if status_of(folder) == "running":
        raise UserError(f"{folder}: another process is at work there; wait for it, or stop it")
    if may_be_reopened(folder, work.command, prepared.settings):
        print("going on with what is there")
    else:
        clear(folder)
        prepared = replace(prepared, reopened=False)
    return function_of(work.command, prepared.settings)(prepared.settings, prepared)


def finished(folder: Path, method: str) -> list[dict[str, Any]] | None:
    """The results of a finished run of a suite: the method's name in them is the last thing that is written."""
    if not (folder / "results.json").is_file():
        return None
    results = read_results(folder)
    return results if results and all(result.get("name") == method for result in results) else None


def read_sources(folder: Path) -> list[dict[str, Any]]:
    """The settings of the run that a run started from, and of the one before that, as they were then."""
    file = folder / "sources.yaml"
    return read_yaml(file)["sources"] if file.is_file() else []


BEGUN = {"run.lock", "config.yaml.part"}
"""What lies in a run folder in its first moments."""


def clear(folder: Path) -> None:
    """Remove what an interrupted run has left.

    Raises:
        UserError: it does not look like a run.
    """
    if not folder.exists():
        return
    is_run = folder.is_dir() and not folder.is_symlink()
    begun = is_run and {one.name for one in folder.iterdir()} <= BEGUN
    if not is_run or not (begun or (folder / "config.yaml").is_file()):
        raise UserError(f"{folder} is in the way and does not look like a run: move it elsewhere")
    shutil.rmtree(folder)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Within this block a run computes with so many threads; None: as the process was set up."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _said_to(log: Path) -> Iterator[None]:
    """All that this process says goes to a file, what libraries in C say too."""
    with log.open("a", buffering=1, encoding="utf-8") as file:
        streams = (sys.stdout, sys.stderr)
        kept, said = [os.dup(number) for number in (1, 2)], Redacted(file)
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                yield
        finally:
            said.finish()
            for stream, number, old in zip(streams, (1, 2), kept, strict=True):
                stream.flush()
                os.dup2(old, number)
                os.close(old)
            scrub(log)


def one_line(error: BaseException) -> str:
    """An error as one line of a table, without tokens."""
    text = redact(" ".join(str(error).split()))
    return text if isinstance(error, UserError | FloatingPointError) else f"{type(error).__name__}: {text}".rstrip(": ")
