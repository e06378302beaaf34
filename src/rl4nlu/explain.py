"""What a word means: a setting, a column of the log, a task, a metric, a reward, a state, an exit code, a file."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from .collapse import ALL as COLLAPSES
from .errors import UserError, did_you_mean
from .glossary import ESTIMATORS, EXIT_CODES, FILES, LOGGED, METRICS, REPORT, RESULTS, SHORT, STATES
from .rewards import NUMERIC, REWARDS
from .settings import COMMANDS
from .settings.describe import entries as settings_of
from .settings.groups import ALSO_CALLED
from .tasks import TASKS, Task


@dataclass(frozen=True)
class Entry:
    """One meaning of a word."""

    word: str
    kind: str
    """What it is: setting, column of metrics.jsonl, task, ..."""
    lines: tuple[str, ...]


def entries() -> Iterator[Entry]:
    """All that can be explained."""
    yield from _settings()
    for kind, words in (
        ("column of metrics.jsonl", LOGGED),
        ("entry of results.json", RESULTS),
        ("file of a run", FILES),
        ("state of a run", STATES),
        ("exit code", EXIT_CODES),
        ("--estimator", ESTIMATORS),
        ("word of a report", REPORT),
    ):
        for word, meaning in words.items():
            yield Entry(word, kind, (meaning,))
    for one in COLLAPSES:
        yield Entry(one.name, "collapse of a policy", (one.what, f"to change: {one.cure}"))
    for name, meaning in METRICS.items():
        yield Entry(
            name, "metric", (meaning, f"of {', '.join(one.name for one in TASKS.values() if name in one.metrics)}")
        )
    for name, function in REWARDS.items():
        yield Entry(name, "--reward", (" ".join((inspect.getdoc(function) or "").split()),))
    for task in TASKS.values():
        yield Entry(task.name, "task", tuple(about(task)))


def explain(word: str) -> list[Entry]:
    """Every meaning of a word. A task may be named without its suite, a flag with its dashes.

    Raises:
        UserError: nothing is called so.
    """
    asked = word.strip().removeprefix("--").replace("-", "_").casefold()
    asked = SHORT.get(word.strip().casefold(), ALSO_CALLED.get(asked, asked)).replace("-", "_")
    known = list(entries())
    found = [entry for entry in known if asked in _names(entry)]
    if not found:
        near = did_you_mean(asked, dict.fromkeys(one.word for one in known))
        raise UserError(
            f"explain: nothing is called {word!r}{near}; docs/cli.md lists the settings, `rl4nlu tasks` tasks"
        )
    return found


def _names(entry: Entry) -> set[str]:
    word = entry.word.replace("-", "_").casefold()
    return {word, word.split("/")[-1], word.split(".")[0] if entry.kind.startswith("file") else word}


def about(task: Task) -> Iterator[str]:
    """A task in a few lines: how it is asked, answered, judged and rewarded."""
    if task.numeric:
        yield f"numbers from {task.labels[0]} to {task.labels[-1]}; the answer is judged by its distance"
        yield "reward (--reward paper): 2.5 - |answer - gold|, and -2.5 if no number can be read"
    else:
        yield "labels and their words: " + ", ".join(f"{label}: {task.words[label]}" for label in task.labels)
        yield "reward (--reward paper): +1 right, -1 wrong, -3 if no label can be read"
    correlations = [name for name in task.metrics if name in NUMERIC]
    climbed = correlations or [name for name in task.metrics if name in ("matthews", "f1", "macro_f1")]
    if climbed:
        yield f"its metric can be the reward as well: --reward metric (that is, {climbed[0]})"
    yield f"metrics: {', '.join(task.metrics)}; measured on {task.eval_split}"
    yield f"prompt: {task.plain!r}"
    yield f"declared in rl4nlu/tasks/{task.suite}.py; rewards are in rl4nlu/rewards.py"


def _settings() -> Iterator[Entry]:
    found: dict[tuple[str, str], list[str]] = {}
    for command, kind in COMMANDS.items():
        for one in settings_of(kind):
            usual = f" (default {one.usual})" if one.usual else ""
            found.setdefault((one.name, f"{one.meaning} Takes: {one.kind}."), []).append(f"{command}{usual}")
    for (name, meaning), where in found.items():
        yield Entry(name, "setting", (meaning, f"of {', '.join(where)}"))
