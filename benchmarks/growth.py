"""How the cost of a training pass grows:  python benchmarks/growth.py [--out docs]

One thing at a time is varied from a base case (32 rows, 64 own tokens a prompt, 64 shared ones, 1 answer of 4 tokens, a
Llama of width 256 with 6 layers and 8,192 words, random tokens and weights): seconds of one pass forward and backward
with LoRA, the median of several. Writes growth.svg and prints a table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from rl4nlu.forward import score
from rl4nlu.models import quiet_peft
from rl4nlu.tokens import micro_batches

mpl.use("svg")
import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Case:
    """What a pass is about."""

    rows: int = 32
    own: int = 64
    """Tokens of each row's own."""
    shared: int = 64
    """Tokens that all rows begin with: instruction and examples."""
    answers: int = 1
    vocabulary: int = 8192
    width: int = 256


VARIED: dict[str, tuple[str, tuple[int, ...]]] = {
    "rows": ("rows", (8, 16, 32, 64, 128)),
    "own": ("own tokens of a prompt", (16, 32, 64, 128, 256)),
    "shared": ("shared tokens (shots)", (0, 64, 256, 512, 1024)),
    "answers": ("answers a prompt", (1, 2, 4, 8, 16)),
    "vocabulary": ("words", (2048, 8192, 32_768, 131_072)),
    "width": ("width of the model", (128, 256, 512, 768)),
}


def model_of(case: Case) -> Any:
    """A random Llama with LoRA."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=case.width,
        intermediate_size=case.width * 8 // 3,
        num_hidden_layers=6,
        num_attention_heads=case.width // 64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    lora = LoraConfig(r=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with quiet_peft():
        return get_peft_model(LlamaForCausalLM(config), lora).eval()


def seconds(case: Case, repeat: int = 5) -> float:
    """Of one pass forward and backward over all rows."""
    model, rng = model_of(case), np.random.default_rng(0)

    def draw(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(3, 2048, n).tolist())

    head = draw(case.shared)
    rows = [(head + draw(case.own), [draw(4) for _ in range(case.answers)]) for _ in range(case.rows)]
    spans = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        for batch in micro_batches(rows, 4096, pad=0):
            score(model, batch, shared=True).logp_BKA.sum().backward()
        spans.append(time.perf_counter() - start)
    return statistics.median(spans[1:])


def draw(found: dict[str, list[float]], path: Path) -> None:
    """A panel for each thing that was varied."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.5), constrained_layout=True)
    for (name, (what, values)), axis in zip(VARIED.items(), axes.flat, strict=True):
        axis.plot(values, found[name], marker="o")
        axis.set_xlabel(what)
        axis.set_ylabel("seconds")
        axis.set_ylim(0, 1.08 * max(found[name]))
        apart = [
            a for a, b in pairwise((*values, 2 * values[-1])) if b - a > values[-1] / 20
        ]  # labels that do not touch
        axis.set_xticks(apart, [f"{value:,}" for value in apart], rotation=45, ha="right", fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print, draw."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path, default=Path("docs"))
    out = words.parse_args().out
    base = seconds(Case())
    table = Table("varied", *(f"step {i + 1}" for i in range(5)), title=f"seconds of a pass; base case {base:.2f}")
    found: dict[str, list[float]] = {}
    for name, (what, values) in VARIED.items():
        found[name] = [seconds(replace(Case(), **{name: value})) for value in values]
        table.add_row(what, *(f"{value}: {one:.2f}" for value, one in zip(values, found[name], strict=True)))
    draw(found, out / "growth.svg")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
