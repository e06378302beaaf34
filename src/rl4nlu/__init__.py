"""Make a decoder language model good at natural-language understanding. `rl4nlu.api` says how to use it from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Finished, classify, evaluate, load, ppo, predict, report, resume, sft
    from .errors import Diverged, OutOfMemory, UserError

__all__ = [
    "Diverged",
    "Finished",
    "OutOfMemory",
    "UserError",
    "classify",
    "evaluate",
    "load",
    "ppo",
    "predict",
    "report",
    "resume",
    "sft",
]


def __getattr__(name: str) -> Any:
    """The public names come when they are first asked for, so that the program itself starts at once. No module of the
    package may be called as one of them is: it would take its place (a test)."""
    if name not in __all__:
        raise AttributeError(f"module 'rl4nlu' has no attribute {name!r}")
    from . import api, errors

    return getattr(errors if name in ("Diverged", "OutOfMemory", "UserError") else api, name)


def __dir__() -> list[str]:
    return __all__
