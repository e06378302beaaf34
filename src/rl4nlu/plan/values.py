"""Values as a suite's file gives them: nested or with dots, one, a list to choose from, or a range to search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError

ENDS = ("low", "high")
"""What makes a range."""
FIGURES = 4
"""Significant digits of a value that a search tries."""


@dataclass(frozen=True)
class Range:
    """Numbers to search between."""

    low: float
    high: float
    log: bool = False
    """Whether ratios count, not differences."""
    whole: bool = False
    """Whether the numbers are whole."""

    @classmethod
    def read(cls, where: str, given: Mapping[str, Any]) -> Range:
        """A range as the file gives it.

        Raises:
            UserError: it is none.
        """
        how = "a range is {low: NUMBER, high: NUMBER}, and log: true where ratios count"
        if odd := next((key for key in given if key not in (*ENDS, "log")), None):
            raise UserError(f"{where}: {how}; there is no {odd!r} in it")
        low, high = (number(given.get(end)) for end in ENDS)
        log = given.get("log", False)
        if isinstance(low, bool) or isinstance(high, bool) or not isinstance(log, bool):
            raise UserError(f"{where}: {how} (got {dict(given)!r})")
        if not isinstance(low, int | float) or not isinstance(high, int | float):
            raise UserError(f"{where}: {how} (got {dict(given)!r})")
        if not float("-inf") < low < high < float("inf"):
            raise UserError(f"{where}: low has to be below high (got {show(low)} and {show(high)})")
        if log and low <= 0:
            raise UserError(f"{where}: with log: true low has to be above 0 (got {show(low)})")
        return cls(low, high, log)


def show(value: Any) -> str:
    """A value as a person would write it."""
    if isinstance(value, Range):
        return f"{show(value.low)} to {show(value.high)}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(value: Any) -> Any:
    """A number such as 3e-4, which YAML takes for text, as a number; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def flat(values: Mapping[str, Any], where: str, prefix: str = "") -> dict[str, Any]:
    """Nested settings with dots in their names; {low, high} is a Range.

    Raises:
        UserError: a range is none.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and set(ENDS) & set(value):
            found[f"{prefix}{name}"] = Range.read(f"{where}.{prefix}{name}", value)
        elif isinstance(value, dict):
            found |= flat(value, where, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The other way round."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        inner = found
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return found
