"""What every side of the benchmarks does: the same rows, prompts and models.

Rows are of the official files under a data folder (`glue/RTE`, `superglue/MultiRC`); the models are Llamas with random
weights, since speed does not depend on the values.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

INSTRUCTION = (
    "You judge whether one text follows from another. Reply with a verdict between tags, in exactly this form:\n"
    '<Judgement> {only "Yes" or "No"} </Judgement>\n\nText and claim follow. Say Yes if the claim must be true '
    "when the text is true, and No if it may be false.\n"
)
OPEN, CLOSE = "<Judgement>", " </Judgement>"
BATCH, ANSWER_TOKENS, INNER_EPOCHS, LORA_R, LORA_ALPHA = 16, 20, 4, 16, 32
"""Of every training side: prompts a step, sampled tokens, passes over them, LoRA on q_proj and v_proj."""


SCORING = ("zero-shot", "five-shot", "multirc")
NAMES = ("ppo", "ppo-short", "rloo", "sft", *SCORING)
SHORT_TOKENS = 6
"""Of ppo-short: as many as the right answer has."""


def rte(data: Path, split: str) -> list[dict[str, str]]:
    """Rows of RTE."""
    with open(data / "glue" / "RTE" / f"{split}.tsv", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def prompt(row: dict[str, str]) -> str:
    """The prompt of a training side."""
    return f'{INSTRUCTION}Text: "{row["sentence1"]}"\nClaim: "{row["sentence2"]}"\n{OPEN}'


def gold(row: dict[str, str]) -> str:
    """The right answer to it."""
    return f" {'Yes' if row['label'] == 'entailment' else 'No'}{CLOSE}"


def question(row: dict[str, str]) -> str:
    """The prompt of a scoring side, in the form that lm-evaluation-harness has for RTE."""
    return f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:"


def verdict(row: dict[str, str]) -> int:
    """Which of " True" and " False" is right."""
    return int(row["label"] != "entailment")


def multirc(data: Path, limit: int) -> Iterator[tuple[str, int]]:
    """Prompts of the first `limit` answers of MultiRC dev, one passage after the other, and which of " No" and " Yes"
    is right."""
    with open(data / "superglue" / "MultiRC" / "val.jsonl", encoding="utf-8") as file:
        rows = (
            (
                f"{one['passage']['text']}\nQuestion: {asked['question']}\nAnswer: {answer['text']}\nIs that right?",
                answer["label"],
            )
            for one in map(json.loads, file)
            for asked in one["passage"]["questions"]
            for answer in asked["answers"]
        )
        for _, row in zip(range(limit), rows, strict=False):
            yield row


def scoring(name: str, data: Path, limit: int) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """Prompts and the numbers of their right endings, and the endings."""
    if name == "multirc":
        return list(multirc(data, limit)), (" No", " Yes")
    endings = (" True", " False")
    shots = rte(data, "train")[: 5 if name == "five-shot" else 0]
    shown = "".join(f"{question(row)}{endings[verdict(row)]}\n\n" for row in shots)
    return [(shown + question(row), verdict(row)) for row in rte(data, "dev")], endings
