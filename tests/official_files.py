"""A small made-up GLUE and SuperGLUE in the layout of the official files: few rows, of words that mean nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS = {"train": 80, "dev": 12}
TESTS = {"CoLA": 1063, "SST-2": 1821, "RTE": 3000}
"""Tasks with a test split, and its size: the servers want it whole."""
WORDS = ("grey", "river", "letter", "under", "seven", "old", "stone", "walks", "quiet", "market", "blue", "never")


def text(number: int, length: int = 5) -> str:
    """Some words, other ones for another number."""
    return " ".join(WORDS[(number * 7 + i * (1 + number % 5)) % len(WORDS)] for i in range(length)) + f" {number}"


def _pair(i: int) -> dict[str, Any]:
    return {"sentence1": text(i), "sentence2": text(i + 1)}


ENTAILED = ("entailment", "not_entailment")
THREE_WAY = ("entailment", "neutral", "contradiction")
TSV: dict[str, Callable[[int], dict[str, Any]]] = {
    "SST-2": lambda i: {"sentence": text(i), "label": i % 2},
    "MRPC": lambda i: {"Quality": i % 2, "#1 ID": i, "#2 ID": i, "#1 String": text(i), "#2 String": text(i + 1)},
    "STS-B": lambda i: {"index": i, **_pair(i), "score": f"{i % 6}.000"},
    "QQP": lambda i: {"id": i, "question1": text(i), "question2": text(i + 1), "is_duplicate": i % 2},
    "QNLI": lambda i: {"index": i, "question": text(i), "sentence": text(i + 1), "label": ENTAILED[i % 2]},
    "RTE": lambda i: {"index": i, **_pair(i), "label": ENTAILED[i % 2]},
    "WNLI": lambda i: {"index": i, **_pair(i), "label": i % 2},
    "MNLI": lambda i: {"index": i, **_pair(i), "gold_label": THREE_WAY[i % 3]},
}
JSONL: dict[str, Callable[[int], dict[str, Any]]] = {
    "BoolQ": lambda i: {"idx": i, "question": text(i), "passage": text(i, 20), "label": i % 2 == 0},
    "CB": lambda i: {"idx": i, "premise": text(i, 12), "hypothesis": text(i), "label": THREE_WAY[i % 3]},
    "COPA": lambda i: {
        "idx": i,
        "premise": text(i),
        "choice1": text(i + 1),
        "choice2": text(i + 2),
        "question": ("cause", "effect")[i % 2],
        "label": i % 2,
    },
    "RTE": lambda i: {"idx": i, "premise": text(i), "hypothesis": text(i + 1), "label": ENTAILED[i % 2]},
    "WiC": lambda i: {"idx": i, "word": WORDS[i % 12], **_pair(i), "label": i % 2 == 0},
    "WSC": lambda i: {
        "idx": i,
        "text": "Ann said she left.",
        "target": {"span1_index": 0, "span1_text": "Ann", "span2_index": 2, "span2_text": "she"},
        "label": i % 2 == 0,
    },
    "MultiRC": lambda i: {
        "idx": i,
        "passage": {
            "text": text(i, 20),
            "questions": [
                {
                    "idx": i,
                    "question": text(i),
                    "answers": [{"idx": 2 * i + k, "text": text(k), "label": k} for k in (0, 1)],
                }
            ],
        },
    },
    "ReCoRD": lambda i: {
        "idx": i,
        "passage": {"text": "Ann met Bob.", "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 10}]},
        "qas": [{"idx": i, "query": "@placeholder left.", "answers": [{"start": 0, "end": 2, "text": "Ann"}]}],
    },
}


def make(folder: Path) -> Path:
    """Write both benchmarks below a folder, which is what `--data` takes. Returns the folder."""
    for task, row in TSV.items():
        for split in ("train", "dev"):
            names = [split] if task != "MNLI" or split == "train" else ["dev_matched", "dev_mismatched"]
            for name in names:
                _tsv(folder / "glue" / task / f"{name}.tsv", [row(i) for i in range(ROWS[split])])
    for task, count in TESTS.items():
        row = _pair if task == "RTE" else lambda i: {"sentence": text(i)}
        _tsv(folder / "glue" / task / "test.tsv", [{"index": i, **row(i)} for i in range(count)])
    for split in ("train", "dev"):  # without a header
        lines = [f"x\t{i % 2}\t{'' if i % 2 else '*'}\t{text(i)}" for i in range(ROWS[split])]
        (folder / "glue" / "CoLA" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    axes = [{"Premise": text(i), "Hypothesis": text(i + 1), "Label": THREE_WAY[i % 3]} for i in range(ROWS["dev"])]
    _tsv(folder / "glue" / "AX" / "diagnostic-full.tsv", axes)
    for task, row in JSONL.items():
        for split, name in (("train", "train"), ("dev", "val")):
            _jsonl(folder / "superglue" / task / f"{name}.jsonl", [row(i) for i in range(ROWS[split])])
    pairs = [{"idx": i, **_pair(i), "label": ENTAILED[i % 2]} for i in range(ROWS["dev"])]
    _jsonl(folder / "superglue" / "AX-b" / "AX-b.jsonl", pairs)
    _jsonl(folder / "superglue" / "AX-g" / "AX-g.jsonl", [JSONL["RTE"](i) for i in range(ROWS["dev"])])
    return folder


def _tsv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(map(str, line)) for line in (rows[0], *(row.values() for row in rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
