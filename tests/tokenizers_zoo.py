"""Real tokenizers and odd ones, and texts to try them with."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import transformers

import rl4nlu
from rl4nlu.tasks import TASKS, Example

MINI = Path(rl4nlu.__file__).parent / "assets" / "mini"
TEMPLATES = ("plain", "verdict")
TASK = TASKS["glue/rte"]
NASTY = [
    "It rains.",
    "  ",
    "\n\n",
    "a  b\t",
    "🙂",
    "日本語",
    "ends with colon:",
    "é́",
    "<s>",
    "\x00",
    "No\n",
    "x" * 50,
    "?",
    "<verdict>",
]


def llama2(folder: Path):
    """Llama-2's tokenizer from its SentencePiece file, as its repository's tokenizer.json has it."""
    extractor = pytest.importorskip("transformers.tokenization_utils_sentencepiece").SentencePieceExtractor
    vocabulary, _, merges = extractor(str(folder / "tokenizer.model")).extract()
    return transformers.LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)


@functools.cache
def mini():
    return transformers.AutoTokenizer.from_pretrained(MINI)


def made_up(task, text="It rains.", label=None):
    return Example("r", {name: f"{text} {name}" for name in task.fields}, label or task.labels[0])


class Greedy:
    """A tokenizer that takes the longest piece it knows, wherever words end."""

    def __init__(self, *pieces):
        self.pieces = sorted(pieces, key=len, reverse=True)

    def __call__(self, texts, add_special_tokens, verbose):
        return {"input_ids": self.tokenize(texts)}

    def tokenize(self, texts):
        return [self._ids(text) for text in texts]

    def _ids(self, text):
        ids = []
        while text:
            piece = next((piece for piece in self.pieces if text.startswith(piece)), text[0])
            ids.append(1000 + self.pieces.index(piece) if piece in self.pieces else ord(piece))
            text = text[len(piece) :]
        return ids

    def text(self, ids):
        return "".join(self.pieces[i - 1000] if i >= 1000 else chr(i) for i in ids)
