"""What a user can mend: one line, exit code 2; what stops a run: exit codes 3 to 6."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .similar import nearest, nearest_path


class UserError(Exception):
    """Something in the input is wrong: the message says what, where, and how to mend it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the nearest known name, or two that are equally near; else an empty string."""
    near = nearest(name, known)[:2]
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def did_you_mean_path(path: Path) -> str:
    """`" (did you mean 'x'?)"` for the path most like one that is not there, or an empty string."""
    near = nearest_path(path)
    return f" (did you mean {str(near)!r}?)" if near is not None and near != path else ""


class Halted(Exception):
    """A run cannot go on, and what was saved of it is whole."""

    exit_code = 1
    run: Path | None = None
    """Its folder."""


class Diverged(Halted, FloatingPointError):
    """A number that is not finite turned up: nothing that came after it was kept."""

    exit_code = 3
    rows: Sequence[Mapping[str, Any]] = ()
    """Where it came from, for the run's diverged.json."""


class NoSpace(Halted):
    """The disk is full: what was there before still stands."""

    exit_code = 4


class OutOfMemory(Halted):
    """Not even one row at a time fits into memory."""

    exit_code = 5


class PeerLost(Halted):
    """Another process of the run has ended before its time."""

    exit_code = 6
