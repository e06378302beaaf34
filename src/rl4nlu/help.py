"""The help of a command: one screen with an example first, or everything. Plain text, without a library's frames."""

from __future__ import annotations

import re
import shutil
import textwrap

from .settings import PRESETS, RUNS, Frozen
from .settings.describe import Entry, entries, grouped
from .settings.groups import FIRST

NARROWEST, WIDEST = 60, 100
COLUMN = 27
"""Where meanings begin."""
PLACEHOLDERS = {"int": "N", "float": "X", "Path": "PATH", "str": "NAME"}


def page(command: str, example: str, summary: str, kind: type[Frozen] | None = None, whole: bool = False) -> str:
    """The help of a command.

    Args:
        command: its name.
        example: a whole command line, which stands first.
        summary: what it does.
        kind: its settings, if it has any.
        whole: every setting with all that there is to say, or one screen.
    """
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    lines = [*_command_line(example, width), "", *textwrap.wrap(summary, width)]
    if kind is None:
        return "\n".join(lines)
    if kind in RUNS.values():
        with_file = f"With a file: rl4nlu {command} run.yaml --seed 1 (`rl4nlu new {command} run.yaml` writes one)"
        lines += textwrap.wrap(with_file, width)
    if kind in PRESETS:
        presets = f"Presets: --preset {' or '.join(PRESETS[kind])}. Flags win over the file, the file over the preset."
        lines += textwrap.wrap(presets, width)
    groups = grouped(kind, None if whole else FIRST.get(command))
    for group, members in groups.items():
        lines += [""] if whole or group == next(iter(groups)) else []
        lines += [f"{group}:"] if len(groups) > 1 else []
        for entry in members:
            lines += _lines(entry, width, whole)
    count, shown = len(entries(kind)), sum(map(len, groups.values()))
    what = f"all {count} settings" if shown < count else "with ranges"
    where = (
        "docs/cli.md has the same for all commands" if whole else f"{what}: rl4nlu {command} --help-all, docs/cli.md"
    )
    return "\n".join([*lines, "", where])


def _command_line(example: str, width: int) -> list[str]:
    """A command line that can be copied: broken by backslashes in front of flags."""
    lines: list[str] = []
    for words in re.split(r" (?=--)", example):
        if lines and len(lines[-1]) + len(words) + 3 <= width:
            lines[-1] += f" {words}"
        else:
            lines.append(f"    {words}" if lines else words)
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def _lines(entry: Entry, width: int, whole: bool) -> list[str]:
    placeholder = "" if entry.type is bool else PLACEHOLDERS.get(entry.type.__name__, "")
    flag = f"  {entry.flag} {placeholder}" if placeholder else f"  {entry.flag}"
    if entry.type is dict:
        flag = f"  {entry.name}"
    if entry.many:
        flag += "..."
    text = _whole(entry) if whole else _short(entry)
    wrapped = textwrap.wrap(text, width - COLUMN, break_on_hyphens=False)
    if len(flag) >= COLUMN:
        return [flag, *(" " * COLUMN + line for line in wrapped)]
    return [flag.ljust(COLUMN) + wrapped[0], *(" " * COLUMN + line for line in wrapped[1:])]


def _short(entry: Entry) -> str:
    """The first clause of the meaning, with its choices and its default."""
    text = re.split(r";\s|\.$|\.\s(?=[A-Z])", entry.meaning, maxsplit=1)[0]
    told = [choice for choice in entry.choices if choice != entry.usual]
    if not all(re.search(rf"\b{re.escape(choice)}", text) for choice in told):
        text = f"{text}: {', '.join(entry.choices)}"
    return f"{text} [{entry.usual}]" if entry.usual else text


def _whole(entry: Entry) -> str:
    """The meaning, the values it takes, and the default."""
    kind = f"{entry.kind}, or none" if entry.optional else entry.kind
    return f"{entry.meaning} ({kind}) [{entry.usual or 'none'}]"
