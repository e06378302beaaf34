"""Two small models side by side, as the bundled one and its successor -> their block in docs/results.md.

    python scripts/mini.py --models before=DIR now=mini --data DIR --held-out build/mini/tokens/unseen.txt [--write F]

Bits a byte on held-out books and on passages of BoolQ's dev split, which neither has read; the share of zero-shot
answers that state no label, greedily decoded, for all tasks in both templates; SFT on five tasks with three seeds.
Finished runs are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from blocks import replace_block
from torch.nn.functional import cross_entropy

from rl4nlu import data
from rl4nlu.reports import collect
from rl4nlu.sources import MINI, mini_folder
from rl4nlu.tables import grid, main_metric
from rl4nlu.tasks import find

SUITES = "glue,superglue,mini"
TEMPLATES = ("plain", "verdict")
LIMIT = 250
"""Rows of a task of which the share of unparsable answers is taken."""
SFT = {"max_steps": 300, "batch_size": 16, "learning_rate": 2e-3, "select_rows": 0}
TASKS = ("glue/sst2", "glue/cola", "glue/rte", "glue/mrpc", "superglue/wic")
SEEDS = (0, 1, 2)
CHUNK, CHUNKS = 600, 400
"""Characters of a text that is read at a time, and how many of them."""


def chunks(text: str) -> list[str]:
    """Parts of equal length, spread evenly over the text."""
    whole = [text[i : i + CHUNK] for i in range(0, len(text) - CHUNK + 1, CHUNK)]
    count = min(CHUNKS, len(whole))
    return [whole[i * len(whole) // count] for i in range(count)]


@torch.no_grad()
def bits_per_byte(folder: Path, texts: list[str]) -> float:
    """Bits that a model needs for a byte, each text read alone; the first token, which nothing foretells, and its
    bytes are not counted."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    nats, size = 0.0, 0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        nats += float(cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum"))
        size += len(text.encode()) - len(str(tokenizer.decode(ids[0, :1])).encode())
    return nats / math.log(2) / size


def folder_of(model: str) -> Path:
    return mini_folder() if model == MINI else Path(model)


def run_all(models: Mapping[str, str], rows: Path, out: Path) -> list[str]:
    """Every run that is not there yet. Returns the commands."""
    commands = []
    for name, model in models.items():
        for template in TEMPLATES:
            at = out / f"{name}-{template}"
            words = ["evaluate", "--task", SUITES, "--model", model, "--data", str(rows), "--template", template]
            commands.append(([*words, "--decode", "greedy", "--limit", str(LIMIT), "--out", str(at)], at))
    plan = out / "sft.yaml"
    values = {
        "seeds": list(SEEDS),
        "common": {"data": str(rows), **SFT},
        "models": {name: {"model": model} for name, model in models.items()},
        "tasks": list(TASKS),
        "methods": {"sft": {"command": "sft"}},
    }
    out.mkdir(parents=True, exist_ok=True)
    plan.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    commands.append((["suite", str(plan), "--out", str(out / "sft"), "--jobs", "2"], out / "sft"))
    for words, at in commands:
        if not (at / "results.json").is_file():
            print("rl4nlu", *words, flush=True)
            subprocess.run([sys.executable, "-m", "rl4nlu", *words], check=True)  # noqa: S603  # our own words
    return [" ".join(["rl4nlu", *words]) for words, _ in commands]


def unparsable(models: Mapping[str, str], out: Path) -> list[str]:
    """Percent of the answers of each task that state no label."""
    heads = [f"{name}, {template}" for name in models for template in TEMPLATES]
    share: dict[str, list[str]] = {}
    for name in models:
        for template in TEMPLATES:
            results = json.loads((out / f"{name}-{template}" / "results.json").read_text(encoding="utf-8"))
            for result in results:
                share.setdefault(result["task"], []).append(f"{100 * result['unparsable'] / result['n']:.1f}")
    return [
        f"| task | {' | '.join(heads)} |",
        "|---|" + "---|" * len(heads),
        *(f"| {task} | {' | '.join(cells)} |" for task, cells in share.items()),
    ]


def scores(out: Path) -> list[str]:
    """SFT's dev scores with their intervals over seeds."""
    results = [result for run in collect([out / "sft"]) for result in run.results]
    columns, table = grid(results)
    metric = {result["task"]: main_metric(result) for result in results}
    lines = [f"| task | metric | n | {' | '.join(columns)} |", "|---|---|---|" + "---|" * len(columns)]
    for task, row in table.items():
        cells = [row[head].text if head in row else "" for head in columns]
        lines.append(f"| {task} | {metric[task]} | {next(iter(row.values())).n} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Run what is missing, then print the block or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/mini"))
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    models = dict(pair.split("=", 1) for pair in given.models)
    passages = sorted({row.fields["passage"] for row in data.load(find("superglue/boolq"), "dev", given.data)})
    texts = {
        "held-out books": chunks(given.held_out.read_text(encoding="utf-8")),
        "BoolQ passages": chunks("\n".join(passages)),
    }
    commands = run_all(models, given.data, given.out)
    bits = [
        f"| {name} | {' | '.join(f'{bits_per_byte(folder_of(model), parts):.3f}' for model in models.values())} |"
        for name, parts in texts.items()
    ]
    lines = [
        f"Bits a byte over {CHUNKS} pieces of {CHUNK} characters, each read alone.",
        "",
        f"| text | {' | '.join(models)} |",
        "|---|" + "---|" * len(models),
        *bits,
        "",
        f"Zero-shot answers, greedily decoded, that state no label: percent of at most {LIMIT} rows.",
        "",
        *unparsable(models, given.out),
        "",
        f"SFT, {SFT['max_steps']} batches of {SFT['batch_size']}, learning rate {SFT['learning_rate']:g}: all dev",
        "rows, percent, mean and 95 % interval over seeds.",
        "",
        *scores(given.out),
        "",
        "```",
        *commands,
        "```",
    ]
    if given.write is None:
        print("\n".join(lines))
    else:
        pairs = " ".join(given.models)
        command = f"python scripts/mini.py --models {pairs} --data {given.data} --held-out {given.held_out}"
        replace_block(given.write, "mini", command, lines)


if __name__ == "__main__":
    main()
