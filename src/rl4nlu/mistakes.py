"""What is wrong with a setting, in one line: which one, what it should be, and what may have been meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from .errors import did_you_mean
from .settings import RUNS, SuiteFlags, SuiteSettings
from .settings.describe import Entry, entries, names
from .settings.groups import ALSO_CALLED
from .similar import nearest

FLAGS_OF_ALL = ("help", "help-all")


def meant(kind: type[BaseModel], name: str, flags: bool = False) -> str:
    """What a setting that is not there may have meant: `" (did you mean 'lora.r'?)"`, the command that has it, or an
    empty string.

    Args:
        kind: the settings that have no such name.
        name: as it was given.
        flags: whether names are shown as flags.
    """
    known = names(kind)
    called = {**{one: one for one in known}, **{other: one for other, one in ALSO_CALLED.items() if one in known}}
    plain = name.replace("-", "_")
    owners = [command for command, other in RUNS.items() if plain in names(other)]
    if owners and plain not in called:
        return f" (it belongs to {' and '.join(owners)})"
    near = list(dict.fromkeys(called[one] for one in nearest(plain, called)))[:2]
    if flags:
        near = [f"--{one.replace('_', '-')}" for one in near]
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def of_value(kind: type[BaseModel], error: Any) -> str:
    """What pydantic has found, as a line."""
    where = ".".join(map(str, error["loc"]))
    if not where:  # a rule over several settings says all itself
        return error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{where}: no such setting{meant(kind, where)}"
    entry = next((one for one in entries(kind) if one.name == where), None)
    if entry is not None and entry.choices:
        return f"{where}: {_not_a_choice(entry, error['input'])}"
    if error["type"] in ("model_type", "model_attributes_type"):
        within = [name.partition(".")[2] for name in names(kind) if name.startswith(f"{where}.")]
        return f"{where}: a group of settings, so give {', '.join(within)} inside it (got {error['input']!r})"
    return f"{where}: {error['msg'][0].lower() + error['msg'][1:]} (got {error['input']!r})"


def of_flags(kind: type[BaseModel], args: Sequence[str]) -> str | None:
    """The first word that is no flag of these settings, or no choice of one; None if all are."""
    shown = SuiteFlags if kind is SuiteSettings else kind
    known = {entry.name.replace("_", "-"): entry for entry in entries(shown)}
    for i, arg in enumerate(args):
        name, given, value = arg[2:].partition("=")
        if not arg.startswith("--"):
            if complaint := _stray(shown, arg, args[i - 1] if i else ""):
                return complaint
            continue
        entry = known.get(name.replace("_", "-"))
        if entry is None and not _negates(name, known) and name not in FLAGS_OF_ALL:
            return f"--{name}: no such flag{meant(shown, name, flags=True)}"
        if entry is not None and entry.choices:
            value = value if given else next(iter(args[i + 1 : i + 2]), "--")
            if value not in entry.choices and not (entry.optional and value == "None") and value[:2] != "--":
                return f"--{name}: {_not_a_choice(entry, value)}"
    return None


def of_parser(box: str) -> str:
    """The flag parser's framed, many-line message as one line: its first paragraph, without frame and jargon."""
    lines = [re.sub(r"^[│╭╰|+]+|[│╮╯|+]+$", "", line).strip() for line in box.splitlines()]
    lines = [line for line in lines if line.strip("─- ")][1:]  # the first line is the frame's title
    text = " ".join(line for line in lines if "For full helptext" not in line)
    text = text.split("Argument helptext:")[0].split("Got errors:")[0]
    pydantic = re.search(r"validation error[s]? for \w+ (\S+) (.*?) \[type=\w+, input_value=(.*?), input_type", text)
    if rule := re.search(r"validation error for \w+ Value error, (.*?) \[type=value_error", text):
        return rule.group(1)  # a rule over several settings says all itself
    if pydantic:
        name, message, given = pydantic.groups()
        text = f"--{name.replace('_', '-')}: {message[0].lower() + message[1:]} (got {given})"
    text = re.sub(r"no type matching (\S+) could be instantiated from \['?(.*?)'?\]", r"\2 is not a \1", text)
    text = text.replace("{None}|", "").replace("Error parsing ", "").strip(" .")
    return text[0].lower() + text[1:] if text else "the flags cannot be read"


def _not_a_choice(entry: Entry, given: Any) -> str:
    near = did_you_mean(str(given), entry.choices)
    if not near and (most := difflib.get_close_matches(str(given), entry.choices, n=1, cutoff=0.4)):
        near = f" (did you mean {most[0]!r}?)"  # there are few, and all of them follow
    return f"no such choice {str(given)[:80]!r}{near}; choose one of {', '.join(map(repr, entry.choices))}"


def _stray(kind: type[BaseModel], arg: str, before: str) -> str | None:
    """What is wrong with a word that is no flag; None if it is one's value."""
    name, equals, value = arg.lstrip("-–—").partition("=")
    flag = f"--{name.replace('_', '-')}"
    if name.replace("-", "_") not in names(kind) or (before.startswith("--") and "=" not in before):
        return None
    if equals:
        return f"{arg}: flags begin with two dashes: {flag} {value}"
    return f"{arg}: flags begin with two dashes: {flag}" if arg[0] in "-–—" else None


def _negates(name: str, known: dict[str, Entry]) -> bool:
    group, _, last = name.rpartition(".")
    return last.startswith("no-") and ".".join(filter(None, (group, last[3:]))) in known
