"""Llamas with random weights (15 and 110 million) and a tokenizer of 32,000 words:

    python benchmarks/models.py OUT --data DIR

The words are learnt from DIR/corpora/*.txt.xz, or from DIR/glue where there are no such files.
"""

from __future__ import annotations

import argparse
import lzma
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SHAPES = {"llama15m": (288, 768, 6, 6), "llama110m": (768, 2048, 12, 12)}
"""Width, inner width, layers, heads."""


def texts(data: Path) -> Iterator[str]:
    """About 20 million characters."""
    books = sorted((data / "corpora").glob("*.txt.xz"))
    if books:
        with lzma.open(books[0], "rt", encoding="utf-8") as file:
            for _ in range(20):
                yield file.read(1_000_000)
    else:
        for path in sorted((data / "glue").glob("*/train.tsv")):
            yield path.read_text(encoding="utf-8")[:4_000_000]


def main() -> None:
    """Write each model with the tokenizer beside it."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", type=Path)
    words.add_argument("--data", type=Path, required=True)
    given = words.parse_args()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    bpe.train_from_iterator(
        texts(given.data), trainers.BpeTrainer(vocab_size=32_000, special_tokens=special, initial_alphabet=alphabet)
    )
    unknown, begin, end = special
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token=unknown, bos_token=begin, eos_token=end)
    for name, (width, inner, layers, heads) in SHAPES.items():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=32_000,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        )
        LlamaForCausalLM(config).save_pretrained(given.out / name)
        tokenizer.save_pretrained(given.out / name)
        settings = given.out / name / "tokenizer_config.json"  # the name that transformers 4 knows too
        text = settings.read_text(encoding="utf-8")
        settings.write_text(text.replace("TokenizersBackend", "PreTrainedTokenizerFast"), encoding="utf-8")


if __name__ == "__main__":
    main()
