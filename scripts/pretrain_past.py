"""How a model of scripts/pretrain.py was made, kept beside its weights, so that a training can go on from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from rl4nlu import files
from rl4nlu.errors import UserError

FILE = "pretraining.json"


@dataclass(frozen=True)
class Part:
    """One of the trainings that follow each other."""

    command: str
    read: int
    """Tokens of text."""
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

    def log(self) -> list[dict[str, Any]]:
        """The lines of all parts, with steps, tokens and seconds counted from the first."""
        lines: list[dict[str, Any]] = []
        for part in self.parts:
            before = {name: lines[-1][name] if lines else 0 for name in ("step", "tokens", "seconds")}
            lines += [{**line, **{name: line[name] + count for name, count in before.items()}} for line in part.log]
        return lines

    def write(self, folder: Path) -> None:
        files.write_json(folder / FILE, asdict(self))


def start_of(folder: Path, made_of: dict[str, Any], tokenizer: Tokenizer, model: nn.Module) -> Past:
    """Put the weights that a training has left in a folder into a model.

    Args:
        folder: `model` of another --out.
        made_of: of the text that is to be read now.
        tokenizer: of that text.
        model: of the shape that is to be trained.

    Returns:
        how the folder's model was made.

    Raises:
        UserError: the folder holds no such model, or one of another shape, or of other text, of which parts that are
            held out now may have been read then.
    """
    noted = files.read_json(folder / FILE)
    try:
        past = Past(noted["made_of"], tuple(Part(**part) for part in noted["parts"]))
        weights = load_file(folder / "model.safetensors")
        known = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8")).get_vocab()
    except (KeyError, TypeError, FileNotFoundError):
        raise UserError(f"--start {folder} holds no model that this script has made, with its {FILE}") from None
    if past.made_of != made_of or known != tokenizer.get_vocab():
        raise UserError(
            f"--start {folder} was made of other text, or cut in another way; give the --text, --vocabulary and "
            "--held-out that it was made with"
        )
    own = dict(model.named_parameters())
    if {name: weight.shape for name, weight in own.items()} != {name: value.shape for name, value in weights.items()}:
        raise UserError(f"--start {folder} is a model of another shape; give the --layers, --width and so on it has")
    for name, weight in own.items():
        weight.data.copy_(weights[name])
    return past
