"""What is known of runs without loading anything: all of them in a table, or one in one screen."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from . import files, saved, say
from .errors import UserError, did_you_mean
from .progress import figure, lasting
from .run import STATUS, command_of, read_config, status_of

STATES = ("running", "finished", "stopped", "killed", "diverged", "failed")
CURVES = ("loss", "reward", "accuracy", "kl", "entropy", "unparsable")
MARKS = "▁▂▃▄▅▆▇█"
DEPTH, TAIL, SPARK, SCORES = 8, 65_536, 40, 6
"""Folders below each other; bytes of a log that are read for its last step; columns of a curve; scores on a screen."""


@dataclass(frozen=True)
class Overview:
    """What a run folder says of itself."""

    path: Path
    state: str
    why: str
    """Of a run that did not come to its end."""
    command: str
    settings: Mapping[str, Any]
    results: Sequence[dict[str, Any]]
    step: int | None
    """The last one that was logged."""
    steps: int | None
    """Of the whole training, as far as that is known."""
    changed: float
    """When something was last written, in seconds since 1970."""

    @property
    def method(self) -> str:
        """As results call it; before there are any, the command."""
        return self.results[0]["method"] if self.results else self.command

    @property
    def task(self) -> str:
        """The tasks of the settings, or of the results."""
        return str(self.settings.get("task") or ", ".join(result["task"] for result in self.results))

    @property
    def model(self) -> str:
        """Name or folder of the base model."""
        return str(self.settings.get("model") or (self.results[0]["model"] if self.results else ""))

    @property
    def age(self) -> float:
        """Seconds since something was written."""
        return max(0.0, time.time() - self.changed)

    @property
    def score(self) -> str:
        """The main metric in percent with its standard error; of several tasks the mean."""
        scored = [result for result in self.results if result["metrics"]]
        values = [100 * next(iter(result["metrics"].values())) for result in scored]
        if len(values) > 1:
            return f"{fmean(values):.1f} ({len(values)} tasks)"
        return f"{values[0]:.1f} ± {100 * next(iter(scored[0]['stderr'].values())):.1f}" if values else ""

    @property
    def progress(self) -> str:
        """Step of steps."""
        if self.step is None:
            return ""
        return str(self.step) if self.steps is None else f"{self.step}/{self.steps}"

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {
            "run": str(self.path),
            "state": self.state,
            "why": self.why,
            "command": self.command,
            "method": self.method,
            "task": self.task,
            "model": self.model,
            "step": self.step,
            "steps": self.steps,
            "age": round(self.age),
            "scores": [{name: one[name] for name in ("task", "metrics", "stderr", "n")} for one in self.results],
        }


def find(folders: Sequence[Path]) -> list[Path]:
    """The run folders in folders, at any depth; what belongs to a run is not looked into.

    Raises:
        UserError: there is no such folder.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            near = did_you_mean(folder.name, [one.name for one in folder.parent.glob("*/")])
            raise UserError(f"{folder}: no such folder{near}; give one that holds runs")
        for path in _walk(folder):
            found[path] = None
    return list(found)


def _walk(top: Path) -> Iterator[Path]:
    for name, inner, names in os.walk(top):
        path = Path(name)
        if STATUS in names or {"config.yaml", "command.txt"} <= set(names):
            inner.clear()
            yield path
        elif len(path.relative_to(top).parts) >= DEPTH:
            inner.clear()


def read(path: Path) -> Overview:
    """What a run folder says.

    Raises:
        UserError: it is none, or what it says cannot be believed or shown.
    """
    if not path.is_dir():
        near = did_you_mean(path.name, [one.name for one in path.parent.glob("*/")] if path.parent.is_dir() else [])
        raise UserError(f"{path}: no such run folder{near}; `rl4nlu runs` lists them")
    if (path / "suite.json").is_file():
        raise UserError(f"{path} is the folder of a suite: rl4nlu runs {path}")
    status, state = files.read_json(path / STATUS), status_of(path)
    if state not in STATES:
        raise UserError(f"{path}: no run of this version of rl4nlu (its {STATUS} does not say how far it is)")
    why = saved.line(" ".join(str(status.get("why", "")).split())[:500], f"{path / STATUS}: why")
    command = saved.line(command_of(path)[:50], f"{path / 'command.txt'}")
    settings = read_config(path)
    for name in ("task", "model", "init", "estimator", "seed"):
        saved.line(str(settings.get(name) or "")[:500], f"{path / 'config.yaml'}: {name}")
    results = saved.results(path) if (path / "results.json").is_file() else []
    steps = _whole(status.get("steps")) or _whole(results[0].get("steps") if results else None)
    times = [one.stat().st_mtime for one in (path / STATUS, path / "metrics.jsonl") if one.is_file()]
    why = "" if state == "finished" else why
    return Overview(path, state, why, command, settings, results, last_step(path), steps, max(times))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 < value <= 10**12 else None


def last_step(path: Path) -> int | None:
    """The last logged step, from the end of the log."""
    log = path / "metrics.jsonl"
    if not log.is_file():
        return None
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        for text in reversed(file.read().split(b"\n")):
            try:
                step = json.loads(text)["step"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            return _whole(step)
    return None


def print_runs(paths: Sequence[Path]) -> None:
    """A table of runs, the newest last; what cannot be read is named below it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    found, broken = [], {}
    for path in paths:
        try:
            found.append(read(path))
        except (UserError, OSError) as wrong:
            broken[path] = say.printable(str(wrong))
    found.sort(key=lambda run: run.changed)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("run", overflow="fold", min_width=12)
    for head in ("state", "method", "task", "model", "step", "score", "age"):
        table.add_column(
            head, no_wrap=True, overflow="ellipsis", justify="right" if head in ("step", "age") else "left"
        )
    for run in found:
        cells = (run.state, run.method, run.task, Path(run.model).name, run.progress, run.score, lasting(run.age))
        table.add_row(escape(say.printable(str(run.path))), *(escape(cell) for cell in cells))
        say.event("run", run.facts)
    if not say.machines_read():
        console = Console() if sys.stdout.isatty() else Console(width=1000)
        if found:
            console.print(table)
    for path, reason in broken.items():
        say.line(f"cannot be read: {reason}", "broken", {"run": path, "message": reason})
    then = f"rl4nlu show {shlex.quote(say.printable(str(found[-1].path)))}" if found else "rl4nlu demo"
    say.end({"next": then}, f"next: {then}" if found else f"no run is there; to make some: {then}")


def spark(values: Sequence[float], width: int = SPARK) -> str:
    """A curve in one line: the mean of each piece between the least and the largest of them."""
    pieces = min(width, len(values))
    means = [fmean(values[i * len(values) // pieces : (i + 1) * len(values) // pieces]) for i in range(pieces)]
    low, span = min(means, default=0.0), max(means, default=0.0) - min(means, default=0.0)
    return "".join(MARKS[round((mean - low) / span * (len(MARKS) - 1))] if span else MARKS[0] for mean in means)


def curves(steps: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """What was logged of each quantity that is looked at; what is no finite number is passed over."""
    found: dict[str, list[float]] = {}
    for name in CURVES:
        values = [row[name] for row in steps if type(row.get(name)) in (int, float) and math.isfinite(row[name])]
        if values:
            found[name] = values
    return found


def next_command(run: Overview) -> str:
    """What to try now."""
    path = shlex.quote(str(run.path))
    if run.state == "running":
        return f"tail -f {path}/{'predictions' if run.command == 'evaluate' else 'metrics'}.jsonl"
    if run.state in ("stopped", "killed"):
        return f"rl4nlu resume {path}"
    if run.state == "failed":
        return f"rl4nlu resume {path} --debug"
    if run.state == "diverged" and run.command == "evaluate":
        return f"rl4nlu check {path}/config.yaml"
    if run.state == "diverged":
        return f"rl4nlu {run.command} {path}/config.yaml --out NEW --learning-rate LOWER"
    if run.command == "evaluate":
        return f"rl4nlu report {path} --out report.html"
    return f"rl4nlu predict {path} --input rows.jsonl --output answers.jsonl"


def describe(run: Overview) -> list[str]:
    """One run in one screen, line by line.

    Raises:
        UserError: its log is none.
    """
    steps = saved.steps(run.path)
    of = f" at step {run.step} of {run.steps}" if run.step and run.steps and run.step < run.steps else ""
    lines = [f"{run.path}: {run.state}{of}, {lasting(run.age)} ago", *_reason(run)]
    from_run = f", from {run.settings['init']}" if run.settings.get("init") else ""
    how = f" ({run.settings['estimator']})" if run.command == "ppo" and run.settings.get("estimator") else ""
    seed = run.settings.get("seed", 0)
    lines += [_cut(f"{run.command}{how}: task {run.task}, model {run.model}, seed {seed}{from_run}", 160)]
    lines += [f"  {line}" for line in _scores(run)]
    logged = curves(steps)
    wide = max(map(len, logged), default=0)
    for name, values in logged.items():
        lines.append(f"  {name:<{wide}}  {spark(values):<{min(SPARK, len(steps))}}  {figure(values[-1])}")
    seen = [
        f"{saved.line(str(name)[:30], 'collapse')} (step {row['step']:.0f})" for row in steps for name in _named(row)
    ]
    lines += [_cut(f"collapses seen: {', '.join(seen)}", 78)] if seen else []
    inside = [name for name in ("adapter", "model", "checkpoints") if (run.path / name).is_dir()]
    inside += [name for name in ("results.json", "predictions.jsonl", "metrics.jsonl") if (run.path / name).is_file()]
    return [*lines, f"there: {', '.join(inside)}", f"next: {next_command(run)}"]


def _named(row: Mapping[str, Any]) -> list[Any]:
    found = row.get("collapse")
    return found[:4] if isinstance(found, list) else []


def _scores(run: Overview) -> list[str]:
    found = []
    for result in run.results:
        told = [f"{k} {100 * v:.1f} ± {100 * result['stderr'][k]:.1f}" for k, v in result["metrics"].items()]
        found.append(_cut(f"{result['task']}  {', '.join(told) or 'no gold labels'}  (n {result['n']})", 76))
    more = (
        [f"and {len(found) - SCORES + 1} more: rl4nlu report {shlex.quote(str(run.path))}"]
        if len(found) > SCORES
        else []
    )
    return [*found[: SCORES - 1], *more] if more else found


def _reason(run: Overview) -> list[str]:
    """Why a run has not come to its end, in words."""
    names = (one.name for one in (run.path / "checkpoints").glob("step-*"))
    kept = sorted(name for name in names if name.removeprefix("step-").isdecimal())
    left = f"; saved up to {kept[-1]}" if kept else ""
    words = {
        "stopped": f"stopped by {run.why}{left}",
        "killed": f"its process is gone and did not say why (killed, or out of memory?){left}",
        "diverged": f"{run.why}; the rows are in {run.path / 'diverged.json'}",
        "failed": f"{run.why}{left}",
    }
    return [_cut(f"  {words[run.state]}", 158)] if run.state in words else []


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
