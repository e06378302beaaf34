"""Processes of this machine that carry out runs, each one at a time, so that torch is imported once a process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from ..stop import SIGNALS, deferred, poll
from .work import Outcome, Work, one_line, perform

PATIENCE = 30.0
"""Seconds that a run has to save itself when the suite is stopped."""


@dataclass
class Seat:
    """Where one run at a time is carried out."""

    pool: ProcessPoolExecutor
    """Of one process; another one's once that has died."""
    number: int


class Workers:
    """So many processes. Each is a pool of its own, so that it is known which run a process died of."""

    def __init__(self, count: int, retries: int = 1) -> None:
        """
        Args:
            count: runs at a time.
            retries: how often a run whose process died is tried again.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = max(1, cores // count) if count > 1 else None
        self._idle = [Seat(self._pool(number), number) for number in range(count)]
        self._running: dict[Future[Outcome], tuple[Seat, Work, int]] = {}
        self.at_a_time, self.retries = count, retries
        self.notes: list[str] = []
        """What there is to tell."""

    def _pool(self, number: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, initializer=_begin, initargs=(self._threads, number))

    @property
    def free(self) -> int:
        """How many runs could be handed over now."""
        return len(self._idle)

    @property
    def busy(self) -> bool:
        """Whether a run is at work."""
        return bool(self._running)

    def start(self, work: Work, died: int = 0) -> None:
        """Hand a run to a free process; it has died so often already."""
        with deferred():  # between here and there `stop` would not know the seat
            seat = self._idle.pop(0)
            try:
                future = seat.pool.submit(perform, work)
            except BrokenProcessPool:  # it died idle
                seat.pool = self._pool(seat.number)
                future = seat.pool.submit(perform, work)
            self._running[future] = (seat, work, died)
        poll()

    def wait(self) -> list[tuple[str, Outcome]]:
        """Wait until a run has come to its end. A run whose process died is tried again in a new one.

        Returns:
            The names of the runs that came to their ends, and their outcomes; none where one is tried again.
        """
        found = []
        for future in wait(self._running, return_when=FIRST_COMPLETED).done:
            seat, work, died = self._running.pop(future)
            try:
                outcome = future.result()
            except BrokenProcessPool:
                seat.pool = self._pool(seat.number)
                self._idle.insert(0, seat)
                if died < self.retries:
                    self.notes.append(f"{work.title}: its process died; it goes on from its last checkpoint")
                    self.start(work, died + 1)
                    continue
                outcome = Outcome(0.0, error=f"its process died {times(died + 1)}; out of memory?")
            except (Exception, SystemExit) as error:
                self._idle.append(seat)
                outcome = Outcome(0.0, error=one_line(error))
            else:
                self._idle.append(seat)
            found.append((work.name, outcome))
        return found

    def stop(self) -> int:
        """End all processes, whatever they are at. How many did not save themselves in time and were killed."""
        processes, killed = [], 0
        for seat in [*self._idle, *(seat for seat, *_ in self._running.values())]:
            found = list((seat.pool._processes or {}).values())  # the executor has no way to end what is running
            for process in found:
                process.terminate()  # a run that is at work saves a checkpoint
            processes += found
            seat.pool.shutdown(wait=False, cancel_futures=True)
        end = time.monotonic() + PATIENCE
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                killed += 1
        self._running.clear()
        return killed


def times(count: int) -> str:
    """How often, in words."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def take_gpu(number: int) -> None:
    """Of several GPUs each process has one, in turn; a run whose `device` names one goes there all the same."""
    import torch

    if (gpus := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(number % gpus)


def _begin(threads: int | None, number: int) -> None:
    """The start of a process: it ends when the program does, even one that was killed, and not by itself at Ctrl-C."""
    for kind in SIGNALS[1:]:  # the program decides, and sends SIGTERM
        signal.signal(kind, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    if threads:
        import torch

        torch.set_num_threads(threads)
        take_gpu(number)
