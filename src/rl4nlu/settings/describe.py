"""Settings as they are told to a person: names, kinds, ranges, defaults and meanings, read from the models."""

from __future__ import annotations

import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .groups import GROUPS

SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
KINDS: dict[Any, str] = {bool: "yes or no", int: "whole number", float: "number", Path: "path", str: "text"}


@dataclass(frozen=True)
class Entry:
    """One setting."""

    name: str
    """With a dot where it stands in a group: lora.r."""
    type: Any
    """bool, int, float, Path, str, dict; of a tuple its items'."""
    many: bool
    """Whether it takes several values."""
    choices: tuple[str, ...]
    """All values that there are, if they are few."""
    bounds: tuple[tuple[str, float], ...]
    """(gt, ge, lt or le; a number)."""
    optional: bool
    """Whether None is a value: nothing set."""
    default: Any
    meaning: str

    @property
    def flag(self) -> str:
        """As it is typed: --lora.r."""
        name = self.name.replace("_", "-")
        group, _, last = name.rpartition(".")
        return f"--{group + '.' if group else ''}{'[no-]' if self.type is bool else ''}{last}"

    @property
    def range(self) -> str:
        """`> 0, <= 1`, or an empty string."""
        return ", ".join(f"{SIGNS[kind]} {bound:g}" for kind, bound in self.bounds)

    @property
    def kind(self) -> str:
        """What values it takes, in words: the choices, or the type and its range."""
        if self.choices:
            return " or ".join(filter(None, (", ".join(self.choices[:-1]), self.choices[-1])))
        words = KINDS.get(self.type, "names and values")
        return f"{words}{'s' if self.many else ''} {self.range}".strip()

    @property
    def usual(self) -> str:
        """The default as one would type it; an empty string where nothing is set."""
        if self.default is None or self.default == {}:
            return ""
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return " ".join(map(str, self.default)) if self.many else str(self.default)


def names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """All setting names, nested ones with a dot."""
    return [entry.name for entry in entries(kind, prefix)]


def entries(kind: type[BaseModel], prefix: str = "") -> list[Entry]:
    """All settings of a model, in its order."""
    found: list[Entry] = []
    for name, info in kind.model_fields.items():
        inner = info.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        found += entries(inner, f"{prefix}{name}.") if nested else [_entry(prefix + name, info)]  # type: ignore[arg-type]
    return found


def grouped(kind: type[BaseModel], shown: str | None = None) -> dict[str, list[Entry]]:
    """Group -> the settings of a model that are in it; without empty ones.

    Args:
        kind: a settings model.
        shown: the names of those that are wanted (default: all).
    """
    known = {entry.name: entry for entry in entries(kind)}
    wanted = set(known if shown is None else shown.split())
    found = {
        group: [known[name] for name in within.split() if name in wanted & set(known)]
        for group, within in GROUPS.items()
    }
    return {group: members for group, members in found.items() if members}


def _entry(name: str, info: FieldInfo) -> Entry:
    bounds = _bounds(info.metadata)
    kind, optional, many = info.annotation, False, False
    if get_origin(kind) in (Union, types.UnionType):
        options = [one for one in get_args(kind) if one is not type(None)]
        kind, optional = options[0], len(options) < len(get_args(kind))
    if get_origin(kind) is tuple:
        kind, many = get_args(kind)[0], True
    if get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        bounds += _bounds([one for part in more for one in getattr(part, "metadata", [part])])
    choices = tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()
    kind = str if choices else get_origin(kind) or kind
    return Entry(name, kind, many, choices, bounds, optional, info.get_default(), info.description or "")


def _bounds(metadata: list[Any]) -> tuple[tuple[str, float], ...]:
    return tuple((sign, getattr(one, sign)) for one in metadata for sign in SIGNS if hasattr(one, sign))
