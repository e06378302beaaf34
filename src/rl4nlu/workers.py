"""Processes that carry out runs, each one at a time, so that torch is imported once a process; what a run says goes to
its log."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from .config import read_yaml
from .errors import UserError
from .redact import Redacted, redact, scrub
from .reopen import function_of, may_be_reopened, prepare
from .run import Run, read_config, read_results, status_of
from .settings import Settings
from .stop import SIGNALS, Interrupted, heeded

PATIENCE = 30.0
"""Seconds that a run has to save itself when the suite is stopped."""


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


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    seconds: float
    """Of the whole run, not of starting the process."""
    results: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    diverged: bool = False


class Workers:
    """So many processes. Each is a pool of its own, so that it is known which run a process died of."""

    def __init__(self, count: int) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = max(1, cores // count) if count > 1 else None
        self._idle = [self._pool() for _ in range(count)]
        self._running: dict[Future[Outcome], tuple[ProcessPoolExecutor, Work, bool]] = {}

    def _pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, initializer=_begin, initargs=(self._threads,))

    @property
    def free(self) -> int:
        return len(self._idle)

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def start(self, work: Work, again: bool = False) -> None:
        """Hand a run to a free process."""
        pool = self._idle.pop(0)
        try:
            future = pool.submit(perform, work)
        except BrokenProcessPool:  # it died idle
            pool = self._pool()
            future = pool.submit(perform, work)
        self._running[future] = (pool, work, again)

    def wait(self) -> list[tuple[str, Outcome]]:
        """Wait until a run has come to its end. A run whose process died is tried once more in a new one.

        Returns:
            The names of the runs that came to their ends, and their outcomes; none where one is tried once more.
        """
        found = []
        for future in wait(self._running, return_when=FIRST_COMPLETED).done:
            pool, work, again = self._running.pop(future)
            try:
                outcome = future.result()
            except BrokenProcessPool:
                self._idle.insert(0, self._pool())
                if not again:
                    self.start(work, again=True)
                    continue
                outcome = Outcome(0.0, error="its process died twice; out of memory?")
            except (Exception, SystemExit) as error:
                self._idle.append(pool)
                outcome = Outcome(0.0, error=_one_line(error))
            else:
                self._idle.append(pool)
            found.append((work.name, outcome))
        return found

    def stop(self) -> int:
        """End all processes, whatever they are at. How many did not save themselves in time and were killed."""
        processes, killed = [], 0
        for pool in [*self._idle, *(pool for pool, *_ in self._running.values())]:
            processes += list((pool._processes or {}).values())  # the executor has no way to end what is running
            for process in (pool._processes or {}).values():
                process.terminate()  # a run that is at work saves a checkpoint
            pool.shutdown(wait=False, cancel_futures=True)
        end = time.monotonic() + PATIENCE
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                killed += 1
        self._running.clear()
        return killed


def _begin(threads: int | None) -> None:
    """The start of a process: it ends when the program does, even one that was killed, and not by itself at Ctrl-C."""
    for number in SIGNALS[1:]:  # the program decides, and sends SIGTERM
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    if threads:
        import torch

        torch.set_num_threads(threads)


def perform(work: Work) -> Outcome:
    """Make a run, in this process. Whatever goes wrong becomes its outcome."""
    results: list[dict[str, Any]] = []
    start, error, diverged = time.perf_counter(), None, False
    work.log.parent.mkdir(parents=True, exist_ok=True)
    with _said_to(work.log), heeded(signal.SIGTERM):
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
            error, diverged = _one_line(wrong), isinstance(wrong, FloatingPointError)
    gc.collect()
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


def clear(folder: Path) -> None:
    """Remove what an interrupted run has left.

    Raises:
        UserError: it does not look like a run.
    """
    if not folder.exists():
        return
    is_run = folder.is_dir() and not folder.is_symlink()
    if not is_run or (any(folder.iterdir()) and not (folder / "config.yaml").is_file()):
        raise UserError(f"{folder} is in the way and does not look like a run: move it elsewhere")
    shutil.rmtree(folder)


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


def _one_line(error: BaseException) -> str:
    text = redact(" ".join(str(error).split()))
    return text if isinstance(error, UserError | FloatingPointError) else f"{type(error).__name__}: {text}".rstrip(": ")
