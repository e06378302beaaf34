"""The text of scripts/pretrain.py: files -> documents -> byte-level BPE -> tokens on disk."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, BOS, EOS = SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>")
"""Tokens 0, 1, 2."""


@dataclass(frozen=True)
class Text:
    """What a training reads."""

    tokenizer: Tokenizer
    seen: np.ndarray
    """Tokens of all documents but the held-out ones, one after the other, each with EOS at its end."""
    unseen: np.ndarray
    """Of the held-out ones."""
    bytes_per_token: float
    """Of the held-out ones."""


def documents(paths: tuple[Path, ...]) -> Iterator[str]:
    """The documents of all files, in order."""
    for path in paths:
        with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
            rest = ""
            for line in file:
                *ended, line = line.split("\f")
                for end in ended:
                    yield rest + end
                    rest = ""
                rest += line
            yield rest


def prepare(paths: tuple[Path, ...], vocabulary: int, held_out: int, at: Path) -> Text:
    """Makes the tokens once; reads them from the folder `at` from then on.

    Args:
        paths: see `documents`.
        vocabulary: pieces of the tokenizer, which is trained on every fifth line.
        held_out: every how manieth document is held out.
        at: the folder.

    Raises:
        ValueError: no document would be held out, or a file cannot be read as text.
    """
    if not (at / "done").exists():
        texts = [text for text in documents(paths) if text.strip()]
        unseen = texts[held_out // 2 :: held_out]
        if not unseen:
            raise ValueError(
                f"of {len(texts)} documents none is held out; give a smaller --held-out, or mark where documents end "
                "by form feeds"
            )
        at.mkdir(parents=True, exist_ok=True)
        seen = [text for i, text in enumerate(texts) if i % held_out != held_out // 2]
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
        (at / "unseen.txt").write_text("\f".join(unseen), encoding="utf-8")
        (at / "done").touch()
    return read(at)


def read(at: Path) -> Text:
    """What `prepare` has left in a folder."""
    tokenizer = Tokenizer.from_file(str(at / "tokenizer.json"))
    ids_seen, ids_unseen = (np.load(at / f"{name}.npy", mmap_mode="r") for name in ("seen", "unseen"))
    return Text(tokenizer, ids_seen, ids_unseen, (at / "unseen.txt").stat().st_size / len(ids_unseen))
