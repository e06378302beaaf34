"""Signals that ask the program to end: noted when they come, acted on at the next safe point; a second one ends it.

Within `deferred` that point is the next `poll`, which the forward pass calls each time it runs: between micro-batches
and between generated tokens. Elsewhere nothing can be lost, and the signal acts at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIGNALS: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)
if hasattr(signal, "SIGHUP"):  # not on Windows
    SIGNALS += (signal.SIGUSR1, signal.SIGHUP)
"""SIGUSR1 is what batch systems send as a warning, SIGHUP what a terminal sends that is closed."""

AGAIN = 1.0
"""Seconds after which a second signal is meant as one; before that it is the same one, sent to a process and to its
group."""


class Interrupted(BaseException):
    """Somebody wants the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.run: Path | None = None
        """The folder of the run that was at work."""
        self.kept = ""
        """What is saved of it, in words."""
        self.agreed = False
        """All processes of the run stop at this point."""

    @property
    def exit_code(self) -> int:
        """As of a process that the signal has ended: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.number


class _State:
    asked: int | None = None
    """The signal that came."""
    since = 0.0
    """When it came."""
    depth = 0
    """How many `deferred` blocks there are around."""
    together = False
    """Several processes make the run: they stop at the same point, which `processes.poll` finds."""


@contextlib.contextmanager
def heeded(*numbers: int) -> Iterator[None]:
    """Within this block these signals (all of SIGNALS, if none is named) become `Interrupted`. A signal that the
    program's start has set to be ignored (nohup, a shell's background job) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may take signals
        return
    before: dict[int, Any] = {}
    for number in numbers or SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _on_signal)
    _State.asked = None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _State.asked = None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within this block a signal waits for the next `poll`."""
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1


def poll() -> None:
    """A safe point.

    Raises:
        Interrupted: a signal has come.
    """
    if _State.asked is not None and not _State.together:
        raise Interrupted(_State.asked)


def together() -> None:
    """From here on several processes make the run: within `deferred` none stops alone."""
    _State.together = True


def asked() -> int | None:
    """The signal that has come."""
    return _State.asked


def _on_signal(number: int, _: Any) -> None:
    if _State.asked is not None:
        if time.monotonic() - _State.since < AGAIN:
            return
        with contextlib.suppress(OSError):
            os.write(2, b"left at once; what was saved before is whole\n")
        os._exit(128 + number)
    _State.asked, _State.since = number, time.monotonic()
    if not _State.depth:
        raise Interrupted(number)
