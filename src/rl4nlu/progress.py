"""The progress of a long command: live on a terminal, lines now and then in a file, objects for machines."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from . import say

LINES, FEW, BUDGET = 50, 5, 100
"""Lines in a file, at most, of what a command is about; of an evaluation after a training; of all meters since the last
of LINES began, but for each one's last line."""
SECONDS = 1.0
"""Between two lines or objects at least."""
CELL, TITLE = 7, 34
"""Columns of a figure, and of a title, at most."""
WORDS = {"examples_per_second": "examples/s", "kl": "KL"}
SHORT = {**WORDS, "examples_per_second": "ex/s"}
"""On a terminal, where all figures have to stand in 80 columns."""
SHORTEST = {**SHORT, "accuracy": "acc", "unparsable": "unparsed"}


class Meter:
    """How far a command is: on a terminal a bar with figures, in a file at most `lines` and one."""

    _left = BUDGET
    """Lines that meters may still write into a file; a training begins with all of them."""

    def __init__(
        self, title: str, total: int, console: Console | None = None, done: int = 0, lines: int = LINES
    ) -> None:
        """
        Args:
            title: what is done.
            total: steps or rows.
            console: where a bar is drawn, if it is a terminal.
            done: how much was done before.
            lines: how many there may be in a file.
        """
        self.title = title if len(title) <= TITLE else f"{title[: TITLE - 1]}…"
        self.total, self.before, self.done = max(1, total), done, done
        self.start = self._told = time.perf_counter()
        self._lines, self._next_line, self._notes = lines, 0, dict[str, float]()
        if lines >= LINES:
            Meter._left = BUDGET
        self._live: Live | None = None
        self._console = console or Console(stderr=True)
        if self._console.is_terminal and not say.machines_read() and not say.silent():
            self._live = Live(console=self._console, get_renderable=self._panel, refresh_per_second=5)

    def __enter__(self) -> Meter:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """Say something beside the progress."""
        if self._live:
            self._console.print(text, markup=False, highlight=False)
        else:
            say.note(text)

    def advance(self, count: int = 1, **notes: float) -> None:
        """So much more is done; the notes are shown beside it."""
        self.done += count
        self._notes = notes
        if self._live is None and self._is_due():
            self._told = time.perf_counter()
            if say.machines_read():
                facts = {"title": self.title, "done": self.done, "total": self.total}
                say.event("progress", {**facts, "seconds": self.seconds, "left": self.left, **notes})
            else:
                Meter._left -= 1
                self._next_line = self.done + max(1, self.total // self._lines)
                say.note(plain_line(self.title, self.done, self.total, notes, self.seconds, self.left))

    @property
    def seconds(self) -> float:
        """Since the start."""
        return round(time.perf_counter() - self.start, 2)

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take; None as long as nothing is known."""
        done = self.done - self.before
        return round(self.seconds / done * (self.total - self.done), 2) if done > 0 else None

    def _is_due(self) -> bool:
        if self.done >= self.total:
            return True
        first = self._told == self.start
        late = first or time.perf_counter() - self._told >= SECONDS
        if say.machines_read():
            return late
        # what is asked after a training needs no line at its start
        return late and self.done >= self._next_line and Meter._left > 0 and (self._lines >= LINES or not first)

    def _panel(self) -> RenderableType:
        """The bar, and the figures below it, each at its place."""
        count = f"{self.done:>{len(str(self.total))}}/{self.total}"
        times = f"{lasting(self.seconds)}, {'?' if self.left is None else lasting(self.left)} left"
        room = self._console.width - len(self.title) - len(count) - len(times) - 8
        head = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(4):
            head.add_column(no_wrap=True)
        bar = ProgressBar(total=self.total, completed=self.done, width=min(60, max(4, room)))
        head.add_row(Text(self.title, style="bold"), bar, count, times)
        if not self._notes:
            return head
        shown = ((SHORT.get(name, name), figure(value)) for name, value in self._notes.items())
        figures = "  ".join(f"{name} {value:<{CELL}}" for name, value in shown)
        return Group(head, Text(figures.rstrip(), no_wrap=True, overflow="ellipsis"))


def plain_line(
    title: str, done: int, total: int, notes: Mapping[str, float], seconds: float, left: float | None
) -> str:
    """A line of progress in a file, of `say.WIDTH` columns at most: where all would be longer, first the seconds so far
    are left out, then names are shortened, then the last figures are left out, and last the title is cut."""
    count = f"{done}/{total}"
    so_far, to_come = lasting(seconds), "" if left is None else f"{lasting(left)} left"
    times, shortest = ", ".join(filter(None, (so_far, to_come))), to_come or so_far

    def parts(words: Mapping[str, str], shown: int, times: str) -> str:
        figures = [f"{words.get(name, name)} {figure(value)}" for name, value in list(notes.items())[:shown]]
        return "  ".join([title, count, *figures, times])

    all_of_them = len(notes)
    tries = [(WORDS, all_of_them, times), (WORDS, all_of_them, shortest)]
    tries += [(SHORTEST, shown, shortest) for shown in range(all_of_them, -1, -1)]
    lines = [parts(*one) for one in tries]
    return next((line for line in lines if len(line) <= say.WIDTH), lines[-1][: say.WIDTH])


def figure(value: float) -> str:
    """A number in at most `CELL` columns."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}"  # infinity, too, is written so
    if abs(value) >= 999.5:
        return f"{value:.0f}"
    return f"{value:.2g}" if abs(value) < 0.01 else f"{value:.3g}"


def lasting(seconds: float) -> str:
    """A time in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
