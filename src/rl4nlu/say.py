"""All that is told goes through here: as lines for people, or (with --json) as one JSON object a line for machines."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from .redact import redact

WIDTH = 100
"""Columns of a line of progress or a note in a file."""


class _Voice:
    machines: TextIO | None = None
    """Where objects go; None: people read."""
    end: dict[str, Any] | None = None
    """What the last object will say."""
    failed = False
    """An error was told."""
    hushed = False
    """Nothing is told."""


@contextlib.contextmanager
def to_machines() -> Iterator[None]:
    """Within this block stdout holds objects and nothing else: what libraries print there goes to stderr."""
    own = sys.stdout is sys.__stdout__ and _number_of(sys.stdout) == 1
    sys.stdout.flush()
    kept = os.dup(1) if own else None
    try:
        if kept is not None:
            os.dup2(2, 1)  # what libraries in C and other processes print
            _Voice.machines = os.fdopen(kept, "w", encoding="utf-8")
        else:
            _Voice.machines = sys.stdout
        _Voice.end, _Voice.failed = None, False
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            sys.stdout.flush()
            os.dup2(kept, 1)
            with contextlib.suppress(OSError):
                _Voice.machines.close()  # type: ignore[union-attr]
        _Voice.machines = None


class _Unread:
    """A stream of a command at work: when its reader has left, or its terminal is gone, the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return len(text) if self._gone else self._stream.write(text)
        except OSError as wrong:
            self._to_nowhere(wrong)
            return len(text)

    def flush(self) -> None:
        try:
            if not self._gone:
                self._stream.flush()
        except OSError as wrong:
            self._to_nowhere(wrong)

    def _to_nowhere(self, wrong: OSError) -> None:
        if wrong.errno not in (errno.EPIPE, errno.EIO):
            raise wrong
        self._gone = True
        if (number := _number_of(self._stream)) is not None:  # what is in its buffer still has to go somewhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Within this block it does no harm that nobody reads stdout any more, as behind `| tee` when its shell is gone."""
    with contextlib.redirect_stdout(_Unread(sys.stdout)):
        yield


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Within this block nothing is told."""
    before, _Voice.hushed = _Voice.hushed, True
    try:
        yield
    finally:
        _Voice.hushed = before


def silence() -> None:
    """Nothing is told from here on: another process of the same run does."""
    _Voice.hushed = True
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until the end of the process


def speak() -> None:
    """Errors are told again: whoever told them is gone."""
    _Voice.hushed = False


def silent() -> bool:
    """Whether nothing is told."""
    return _Voice.hushed


def _number_of(stream: Any) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def machines_read() -> bool:
    """Whether objects are told, not lines."""
    return _Voice.machines is not None


def event(name: str, facts: Mapping[str, Any]) -> None:
    """An object for machines; people are told nothing by this. Work does not end because nobody reads any more."""
    if _Voice.machines is not None and not _Voice.hushed:
        line = json.dumps({"event": name, **_plain(facts)} | {"event": name}, default=str)
        with contextlib.suppress(OSError, ValueError):
            print(redact(line), file=_Voice.machines, flush=True)


def _plain(value: Any) -> Any:
    """As JSON can hold it: numbers that are not finite are null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def line(text: str, name: str = "note", facts: Mapping[str, Any] | None = None) -> None:
    """A line of what a command was asked for, on stdout.

    Args:
        text: for people.
        name: of the object for machines.
        facts: what it holds; None: the text.
    """
    if machines_read():
        event(name, {"text": text} if facts is None else facts)
    elif not _Voice.hushed:
        print(text, flush=True)


def note(text: str) -> None:
    """A line for whoever watches, on stderr, wrapped in a file. Work does not end because nobody does any more."""
    if machines_read():
        event("note", {"text": text})
        return
    if _Voice.hushed:
        return
    with contextlib.suppress(OSError):
        print(text if sys.stderr.isatty() else wrapped(text), file=sys.stderr, flush=True)


def wrapped(text: str, width: int = WIDTH) -> str:
    """The text in lines of so many columns; names and paths stay whole."""
    lines = (
        textwrap.fill(one, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for one in text.splitlines()
    )
    return "\n".join(lines)


def end(facts: Mapping[str, Any], *lines: str) -> None:
    """The last lines of a command.

    Args:
        facts: for machines, which are told them when the command has ended: the run, and what to do next.
        lines: for people, on stdout.
    """
    if machines_read():
        _Voice.end = {**(_Voice.end or {}), **facts}
    for one in lines:
        if not machines_read() and not _Voice.hushed:
            print(one, flush=True)


def printable(text: str) -> str:
    """A line without what would give the terminal orders: it may quote the files of others."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def failed() -> bool:
    """Whether the last object was an error."""
    return _Voice.failed


def finish(exit_code: int) -> None:
    """The last object of a command that came to its end."""
    event("end", {"run": None, "next": None, **(_Voice.end or {}), "exit_code": exit_code})


def error(text: str, exit_code: int, what: str = "error: ") -> None:
    """The last line of a command that could not do its work, on stderr, and the last object."""
    text = printable(redact(" ".join(text.split())))
    _Voice.failed = True
    event("error", {"message": text, "exit_code": exit_code})
    if _Voice.hushed:
        return
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"{what}{text}", file=sys.stderr)
