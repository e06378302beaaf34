"""The progress of a long command."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import files


class Meter:
    """A live bar on a terminal; elsewhere a plain line now and then, at most 100 in all."""

    def __init__(self, title: str, total: int, console: Console | None = None, done: int = 0) -> None:
        self.title, self.total = title, max(1, total)
        self.before, self.done, self.start, self._next_line = done, done, time.perf_counter(), 0
        self._bar: Progress | None = None
        console = console or Console(stderr=True)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._id = self._bar.add_task(title, total=self.total, completed=done, note="")

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Say something beside the progress."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            files.say(text)

    def advance(self, count: int = 1, **notes: float) -> None:
        """So much more is done; the notes are shown beside it."""
        self.done += count
        note = "  ".join(f"{name} {value:.4g}" for name, value in notes.items())
        if self._bar:
            self._bar.update(self._id, completed=self.done, note=note)
        elif self.done >= self._next_line or self.done >= self.total:
            seconds = time.perf_counter() - self.start
            left = seconds / max(1, self.done - self.before) * (self.total - self.done)
            files.say(f"{self.title} {self.done}/{self.total}  {note}  {seconds:.0f} s, {left:.0f} s left")
            self._next_line = self.done + max(1, self.total // 50)
