"""The sub-commands. One that works with a model has two stages: `prepare` finds every mistake that can be found without
it, and only then the room with the heavy imports comes in and is handed what was prepared."""

from __future__ import annotations

from .common import Args, Command, summary_of
from .look import check, explain, new, report, runs, schema, show, tasks
from .share import merge, push, submit
from .work import classify, demo, evaluate, ppo, predict, resume, sft, suite

__all__ = ["COMMANDS", "GROUPS", "Args", "Command", "summary_of"]

GROUPS: dict[str, tuple[Command, ...]] = {
    "begin": (demo, tasks, new, check, schema, explain),
    "ask and train": (evaluate, sft, ppo, classify, suite, resume),
    "use": (runs, show, report, predict, merge, push, submit),
}
"""The commands in the order of `rl4nlu --help`."""
COMMANDS: dict[str, Command] = {command.__name__: command for group in GROUPS.values() for command in group}
