"""How a model of scripts/pretrain.py was made, kept beside its weights, so that a training can go on from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pretrain_text import Text
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from rl4nlu import files
from rl4nlu.errors import UserError

FILE = "pretraining.json"

SAME = ("vocabulary", "layers", "width", "hidden", "heads", "context", "short", "held_out", "seed")
"""Settings that all parts share: of the shape, and of what is read in which order and measured on what."""


@dataclass(frozen=True)
class Part:
    """One of the trainings that follow each other."""

    command: str
    settings: dict[str, Any]
    """`Settings.noted`."""
    read: int
    """Tokens of text."""
    steps: int
    made_with: str
    """Machine, threads and versions."""
    log: list[dict[str, Any]]
    """The lines of its log.jsonl."""


@dataclass(frozen=True)
class Past:
    """What came before a training; nothing, if it starts from scratch."""

    made_of: dict[str, Any]
    """The text and how it was cut; see `pretrain_text.prepare`."""
    parts: tuple[Part, ...] = ()

    @property
    def read(self) -> int:
        """Tokens of text read in all."""
        return sum(part.read for part in self.parts)

    @property
    def steps(self) -> int:
        return sum(part.steps for part in self.parts)

    def log(self) -> list[dict[str, Any]]:
        """The lines of all parts, with steps, tokens and seconds counted from the first."""
        lines: list[dict[str, Any]] = []
        for part in self.parts:
            before = {name: lines[-1][name] if lines else 0 for name in ("step", "tokens", "seconds")}
            lines += [{**line, **{name: line[name] + count for name, count in before.items()}} for line in part.log]
        return lines

    def write(self, folder: Path) -> None:
        files.write_json(folder / FILE, asdict(self))


def start_of(folder: Path, noted: dict[str, Any], text: Text, model: nn.Module) -> Past:
    """Put the weights that a training has left in a folder into a model.

    Args:
        folder: `model` of another --out.
        noted: settings of the training that begins.
        text: that it reads.
        model: that it trains.

    Returns:
        how the folder's model was made.

    Raises:
        UserError: the folder holds no such model, or one of other settings, or of other text, of which parts that are
            held out now may have been read then.
    """
    found = files.read_json(folder / FILE)
    try:
        past = Past(found["made_of"], tuple(Part(**part) for part in found["parts"]))
        before = past.parts[-1].settings
        other = [name for name in SAME if before[name] != noted[name]]
    except (KeyError, TypeError, IndexError):
        raise UserError(f"--start {folder} holds no model that this script has made, with its {FILE}") from None
    if other:
        asked = ", ".join(f"--{name.replace('_', '-')} {before[name]}" for name in other)
        raise UserError(f"--start {folder} was made with {asked}; give the same")
    try:
        weights = load_file(folder / "model.safetensors")
        known = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8")).get_vocab()
    except Exception as wrong:  # tokenizers and safetensors raise kinds of their own
        raise UserError(f"--start {folder} cannot be read: {str(wrong).splitlines()[0]}; copy it again") from None
    if past.made_of != text.made_of or known != text.tokenizer.get_vocab():
        raise UserError(f"--start {folder} was made of other text; give the same --text")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])
    return past
