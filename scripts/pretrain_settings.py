"""The settings of scripts/pretrain.py."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rl4nlu.errors import UserError

ASKED = 4
"""In the second stage one token of so many is of prompts, the others are text still."""
BESIDE = ("about", "licence", "sources", "look_every")
"""Settings that the model does not depend on."""


@dataclass(frozen=True)
class Settings:
    """What makes a model; the same settings give the same model."""

    text: tuple[Path, ...]
    """Text files, plain or .xz; one paragraph a line, a form feed between documents."""
    out: Path
    """Folder of tokens, checkpoints, log and, in `model`, the result."""
    about: str = "documents"
    """What the text is, for the card."""
    licence: str = "apache-2.0"
    """Of the model."""
    sources: Path | None = None
    """A list of the documents, kept beside the card as SOURCES.txt."""
    start: Path | None = None
    """Folder `model` of a training of the same text, from whose weights this one goes on, where that left off reading.
    Its rates are not taken over: give those that it ended with."""
    vocabulary: int = 8192
    layers: int = 6
    width: int = 256
    hidden: int = 704
    """Width inside the MLPs."""
    heads: int = 4
    context: int = 1024
    """Tokens of a row of the long stage; what the model may read."""
    short: int = 256
    """Tokens of a row before it, and of the second stage's text."""
    books: int = 18_000_000
    """Tokens read in short rows."""
    long: int = 2_500_000
    """Tokens read in long rows."""
    form: int = 3_000_000
    """Tokens of the second stage."""
    batch: int = 8192
    """Tokens of a step."""
    muon_rate: float = 8e-3
    adamw_rate: float = 4e-3
    schedule: Literal["linear", "cosine"] = "linear"
    last_rate: float = 0.0
    """Share of both rates that is left at the end, for a training that others go on from."""
    warmup: float = 0.02
    """Share of the tokens."""
    weight_decay: float = 0.05
    held_out: int = 50
    """One document of so many is held out."""
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    bfloat16: bool = True
    """Compute in bfloat16; weights and optimizers stay in float32. On a CPU that has no instructions for it,
    --no-bfloat16 is faster."""
    compile: bool = True
    """Faster; it needs a compiler: on a CPU of C++, on a GPU of C."""
    look_every: int = 100
    """Steps between looks at the held-out loss, and between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "hidden", "heads", "context", "short", "batch", "look_every"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least 1")
        if self.batch % (ASKED * self.context) or self.context % self.short:
            raise UserError(f"--batch must be a multiple of {ASKED} times --context, and --context one of --short")
        if self.width % (2 * self.heads):
            raise UserError(f"--width {self.width} must be a multiple of twice --heads {self.heads}")
        if self.form and self.context < 64:
            raise UserError(f"--context {self.context}: the second stage needs rows of 64 tokens (or --form 0)")
        for name in ("muon_rate", "adamw_rate"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give a rate between 0 and 1")
        for name in ("warmup", "last_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least 0 and less than 1")
        if self.held_out < 2:
            raise UserError("--held-out must be 2 at least: all but one document of so many are learnt from")
        if min(self.books, self.long, self.form) < 0 or self.steps < 1:
            raise UserError(f"--books, --long and --form are less than a --batch of {self.batch:,} tokens")
        if not 259 < self.vocabulary <= 65_536:
            raise UserError(
                f"--vocabulary {self.vocabulary}: it must be more than 259 (bytes and special tokens), at most 65,536"
            )
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise UserError(f"--device {self.device}: no such device; give cpu or cuda") from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"--device {self.device}: torch sees {torch.cuda.device_count()} GPUs here")
        compilers = ("g++", "c++", "clang++") if device.type == "cpu" else ("gcc", "cc", "clang")
        if self.compile and not any(map(shutil.which, compilers)):
            raise UserError(f"no C{'++' * (device.type == 'cpu')} compiler is found: add --no-compile, which is slower")
        for path in (*self.text, *([self.sources] if self.sources else [])):
            if not path.is_file():
                raise UserError(f"no such file: {path}")
        if self.start and not (self.start / "model.safetensors").is_file():
            raise UserError(f"--start {self.start} holds no model.safetensors; give the folder model of another --out")

    def noted(self) -> dict[str, Any]:
        """What the model depends on, but for the files that are read."""
        beside = (*BESIDE, "text", "out", "start")
        return {name: value for name, value in asdict(self).items() if name not in beside}

    @property
    def first_of_form(self) -> int:
        """The first step of the second stage."""
        return math.ceil((self.books + self.long) / self.batch)

    @property
    def read(self) -> int:
        """Tokens of text that are read."""
        alone = min(self.first_of_form, self.steps)
        return alone * self.batch + (self.steps - alone) * (self.batch - self.batch // ASKED)

    @property
    def steps(self) -> int:
        return (self.books + self.long + self.form) // self.batch
