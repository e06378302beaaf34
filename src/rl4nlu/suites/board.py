"""What a suite shows while it runs: on a terminal a table that is kept up to date, in a file a line for each run that
ends, objects for machines."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .. import files, say
from ..overview import last_step
from ..plan import Job
from ..progress import lasting
from ..run import STATUS
from .study import Study

OFTEN = 1.0
"""Times a second that the table is drawn."""
ROWS, BAR = 12, 20
"""Runs that are shown at a time, at most; columns of a bar."""
OVER = ("done", "failed", "skipped")


class Board:
    """What is shown of a study."""

    def __init__(self, study: Study, console: Console | None = None) -> None:
        """
        Args:
            study: what is done.
            console: where the table is drawn, if it is a terminal.
        """
        self.study = study
        self._start = time.monotonic()
        self._seen: dict[str, tuple[float, int]] = {}
        self._told: dict[str, str] = {}
        self._live: Live | None = None
        console = console or Console()
        if console.is_terminal and not say.machines_read():
            self._live = Live(
                console=console,
                get_renderable=self.panel,
                refresh_per_second=OFTEN,
                transient=True,
                redirect_stderr=True,
            )

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.tell([])
        if self._live:
            self._live.stop()

    def tell(self, notes: list[str]) -> None:
        """What has happened since the last time.

        Args:
            notes: more to tell, which is taken out.
        """
        for note in [*self.study.notes, *notes]:
            say.line(note)
        self.study.notes.clear()
        notes.clear()
        states = dict(self.study.state)
        changed = [name for name, state in states.items() if state != self._told.get(name, "planned")]
        for name in changed:
            facts = self.study.facts(name)
            say.event("run", {"run": self.study.out / facts.pop("name"), **facts})
        if changed:
            over = sum(state in OVER for state in states.values())
            facts = {"title": "suite", "done": over, "total": len(states), "left": self.study.left}
            say.event("progress", {**facts, "seconds": round(time.monotonic() - self._start, 2)})
        self._told = states

    def panel(self) -> RenderableType:
        """All there is to see now."""
        states = list(self.study.state.values())
        counts = {name: states.count(name) for name in ("done", "running", "failed", "skipped", "planned")}
        over, left = sum(counts[name] for name in OVER), self.study.left
        head = Table.grid(padding=(0, 2, 0, 0))
        words = [f"{count} {name}" for name, count in counts.items() if count and name != "planned"]
        times = f"{lasting(time.monotonic() - self._start)}, {'?' if left is None else lasting(left)} left"
        bar = ProgressBar(total=max(1, len(states)), completed=over, width=BAR)
        head.add_row(Text(f"{over}/{len(states)} runs", style="bold"), bar, ", ".join(words), times)
        running = [job for job in list(self.study.plan.jobs.values()) if self.study.state[job.name] == "running"]
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(4):
            table.add_column(no_wrap=True, overflow="ellipsis")
        rows = [(job, *self._progress(self.study.out / job.name)) for job in running]
        begun = [row for row in rows if row[1] is not None]
        for job, step, steps in begun[:ROWS]:
            table.add_row(*self._row(job, step or 0, steps))
        waiting = len(rows) - len(begun)
        last = [f"and {len(begun) - ROWS} more"] if len(begun) > ROWS else []
        last += [f"{waiting} about to begin, or waiting for room"] if waiting else []
        return Group(head, table, Text("; ".join(last), style="dim"))

    def _row(self, job: Job, step: int, steps: int | None) -> tuple[RenderableType, ...]:
        now = time.monotonic()
        since, before = self._seen.setdefault(job.name, (now, step))
        if not steps:
            return Text(job.title), Text(""), Text(""), Text(lasting(now - since))
        left = f", {lasting((now - since) / (step - before) * (steps - step))} left" if step > before else ""
        bar = ProgressBar(total=steps, completed=step, width=BAR)
        return Text(job.title), bar, Text(f"{step}/{steps}"), Text(f"{lasting(now - since)}{left}")

    def _progress(self, folder: Path) -> tuple[int | None, int | None]:
        """Last step and steps of a run that has begun; without its lock, which the run itself may want right now."""
        with contextlib.suppress(OSError, ValueError):
            status = files.read_json(folder / STATUS)
            if status.get("state") == "running":
                steps = status.get("steps")
                return last_step(folder) or 0, steps if isinstance(steps, int) and steps > 0 else None
        return None, None
