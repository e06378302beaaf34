"""The text of scripts/pretrain.py: files -> documents -> byte-level BPE -> tokens on disk."""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rl4nlu import files
from rl4nlu.errors import UserError

PAD, BOS, EOS = SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>")
"""Tokens 0, 1, 2."""
TWIN_WORDS, TWIN_SHARE = 20, 0.01
"""A document is another's twin (a second edition, a part of the same book) if more than this share of its runs of so
many words stand in the other too. What authors quote stays far below."""
BASE = 1_000_003
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Text:
    """What a training reads."""

    tokenizer: Tokenizer
    seen: np.ndarray
    """Tokens of all documents but the held-out ones, one after the other, each with EOS at its end."""
    unseen: np.ndarray
    """Of the held-out ones, without those that have a twin among the others."""
    bytes_per_token: float
    """Of the held-out ones."""
    made_of: dict[str, Any] = field(default_factory=dict)
    """Digests of the files, and how they were cut."""


class Runs:
    """Runs of words -> one number each, whatever the words' case and the signs between them.

    Args:
        words: of a run.
    """

    def __init__(self, words: int) -> None:
        self.words = words
        self.known: dict[str, int] = {}

    def of(self, text: str) -> np.ndarray:
        """64-bit numbers, one for each place where a run begins; none of a text of fewer words."""
        known = self.known
        ids = [known.setdefault(word, len(known) + 1) for word in WORD.findall(text.lower())]
        if len(ids) < self.words:
            return np.zeros(0, dtype=np.uint64)
        mixed = np.array(ids, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        windows = np.lib.stride_tricks.sliding_window_view(mixed, self.words)
        powers = np.array([pow(BASE, k, 2**64) for k in range(self.words)], dtype=np.uint64)
        return (windows * powers).sum(axis=1, dtype=np.uint64)


def mark_met(met: np.ndarray, wanted: np.ndarray, here: np.ndarray) -> None:
    """Set `met` where a number of `wanted`, which rises, is one of `here`."""
    at = np.searchsorted(wanted, here)
    inside = at < len(wanted)
    met[at[inside][wanted[at[inside]] == here[inside]]] = True


def documents(paths: tuple[Path, ...]) -> Iterator[str]:
    """The documents of all files, in order.

    Raises:
        UserError: a file is not text in UTF-8, or its .xz is torn.
    """
    for path in paths:
        try:
            with (
                lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file
            ):
                rest = ""
                for line in file:
                    *ended, line = line.split("\f")
                    for end in ended:
                        yield rest + end
                        rest = ""
                    rest += line
                yield rest
        except (lzma.LZMAError, EOFError, UnicodeDecodeError) as wrong:
            raise UserError(f"{path} cannot be read as text: {wrong}; copy it again") from None


def without_twins(held_out: Sequence[str], others: Sequence[str]) -> list[str]:
    """The held-out documents that have no twin among the others (see TWIN_SHARE)."""
    runs = Runs(TWIN_WORDS)
    found = [runs.of(text) for text in held_out]
    wanted = np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.uint64)
    met = np.zeros(len(wanted), dtype=bool)
    for text in others:
        mark_met(met, wanted, runs.of(text))
    shares = [float(met[np.searchsorted(wanted, numbers)].mean()) if len(numbers) else 0.0 for numbers in found]
    return [text for text, share in zip(held_out, shares, strict=True) if share <= TWIN_SHARE]


def prepare(paths: tuple[Path, ...], vocabulary: int, held_out: int, at: Path) -> Text:
    """Makes the tokens once; reads them from the folder `at` from then on.

    Args:
        paths: see `documents`.
        vocabulary: pieces of the tokenizer, which is trained on every fifth line.
        held_out: every how manieth document is held out; the loss is looked at on those that have no twin.
        at: the folder.

    Raises:
        UserError: no document would be held out, or a file cannot be read as text.
    """
    made_of = {"sha256": [files.digest(path) for path in paths], "vocabulary": vocabulary, "held_out": held_out}
    if files.read_json(at / "done.json") != made_of:
        texts = [text for text in documents(paths) if text.strip()]
        apart = texts[held_out // 2 :: held_out]
        seen = [text for i, text in enumerate(texts) if i % held_out != held_out // 2]
        unseen = without_twins(apart, seen)
        if not unseen:
            twins = f" ({len(apart)} of them stand in others too)" if apart else ""
            raise UserError(
                f"of {len(texts)} documents none is held out{twins}; give a smaller --held-out, or mark "
                "by form feeds where documents end"
            )
        at.mkdir(parents=True, exist_ok=True)
        (at / "done.json").unlink(missing_ok=True)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        sample = (line for text in seen for line in text.splitlines(keepends=True)[::5])
        tokenizer.train_from_iterator(sample, trainer)
        tokenizer.save(str(at / "tokenizer.json"))
        for name, part in (("seen", seen), ("unseen", unseen)):
            ids: list[np.ndarray] = []
            for text in part:
                lines = tokenizer.encode_batch_fast(text.splitlines(keepends=True), add_special_tokens=False)
                ids += [np.array(line.ids, dtype=np.uint16) for line in lines]
                ids.append(np.array([SPECIAL.index(EOS)], dtype=np.uint16))
            np.save(at / f"{name}.npy", np.concatenate(ids))
        files.write_text(at / "unseen.txt", "\f".join(unseen))
        files.write_json(at / "done.json", made_of)
    return read(at)


def read(at: Path) -> Text:
    """What `prepare` has left in a folder."""
    tokenizer = Tokenizer.from_file(str(at / "tokenizer.json"))
    ids_seen, ids_unseen = (np.load(at / f"{name}.npy", mmap_mode="r") for name in ("seen", "unseen"))
    bytes_per_token = (at / "unseen.txt").stat().st_size / len(ids_unseen)
    return Text(tokenizer, ids_seen, ids_unseen, bytes_per_token, files.read_json(at / "done.json"))
