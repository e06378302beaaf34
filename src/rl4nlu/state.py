"""What the parts of a training have to remember, so that it can go on after a stop: tensors, and what JSON can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class State:
    """What one part of the training has to remember."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    """What JSON can hold; floating-point numbers come back to the bit."""
    fixed: bool = False
    """These very tensors are replaced by others, never written to."""


class Stateful(Protocol):
    """A part of the training that has something to remember."""

    def state(self) -> State:
        """What it has to remember."""
        ...

    def load(self, state: State) -> None:
        """Take it back.

        Raises:
            ValueError: this is not what it remembers.
        """
        ...


class Numbers:
    """Attributes of an object that JSON can hold."""

    def __init__(self, owner: Any, *names: str) -> None:
        self.owner, self.names = owner, names

    def state(self) -> State:
        return State(values={name: getattr(self.owner, name) for name in self.names})

    def load(self, state: State) -> None:
        same_names(state.values, self.names)
        for name in self.names:
            setattr(self.owner, name, state.values[name])


def same_names(given: Iterable[str], wanted: Iterable[str]) -> None:
    """Whether a part is given what it knows.

    Raises:
        ValueError: these are not the same names.
    """
    if set(given) != set(wanted):
        odd = sorted(set(given) ^ set(wanted))
        raise ValueError(f"{', '.join(odd[:3])} should not differ")
