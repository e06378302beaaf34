"""What the parts of a training have to remember, so that it can go on after a stop: tensors, and what JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class State:
    """What one part of the training has to remember."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    """What JSON can hold; floating-point numbers come back to the bit."""


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


class Weights:
    """Parameters by name."""

    def __init__(self, named: Mapping[str, nn.Parameter]) -> None:
        self.named = dict(named)

    def state(self) -> State:
        return State({name: weight.detach() for name, weight in self.named.items()})

    @torch.no_grad()
    def load(self, state: State) -> None:
        _same_names(state.tensors, self.named)
        for name, weight in self.named.items():
            if state.tensors[name].shape != weight.shape:
                raise ValueError(f"{name} has the shape {tuple(state.tensors[name].shape)}")
            weight.copy_(state.tensors[name])


class OptimizerState:
    """What an optimizer remembers of each parameter: moments, and numbers."""

    def __init__(self, optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> None:
        self.optimizer, self.named = optimizer, dict(named)

    def state(self) -> State:
        tensors, values = {}, {}
        for name, weight in self.named.items():
            for key, kept in self.optimizer.state.get(weight, {}).items():
                if isinstance(kept, Tensor):
                    tensors[f"{name}/{key}"] = kept
                else:
                    values[f"{name}/{key}"] = kept
        return State(tensors, values)

    def load(self, state: State) -> None:
        self.optimizer.state.clear()
        for path, kept in (*state.tensors.items(), *state.values.items()):
            name, _, key = path.rpartition("/")
            weight = self.named[name]
            if isinstance(kept, Tensor):
                # the number of steps stays where torch keeps it
                kept = kept.clone() if kept.ndim == 0 else kept.to(weight.device, copy=True)
            self.optimizer.state[weight][key] = kept


class Numbers:
    """Attributes of an object that JSON can hold."""

    def __init__(self, owner: Any, *names: str) -> None:
        self.owner, self.names = owner, names

    def state(self) -> State:
        return State(values={name: getattr(self.owner, name) for name in self.names})

    def load(self, state: State) -> None:
        _same_names(state.values, self.names)
        for name in self.names:
            setattr(self.owner, name, state.values[name])


def _same_names(given: Any, wanted: Any) -> None:
    if set(given) != set(wanted):
        odd = sorted(set(given) ^ set(wanted))
        raise ValueError(f"{', '.join(odd[:3])} should not differ")
