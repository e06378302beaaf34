"""Two small models side by side, the bundled one and its predecessor, say -> their block in docs/results.md.

    python scripts/mini.py --models before=DIR now=mini --data DIR --held-out build/mini/tokens/unseen.txt [--write F]

Bits a byte on books that the new model has not read (another may have), and on passages of BoolQ's dev split, which
no book has; the share of zero-shot answers that state no label, greedily decoded, in both templates, for every task of
which DIR has rows; SFT on five tasks with three seeds. Runs that were stopped go on, finished ones are not run again.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

import torch
import yaml
from blocks import around, replace_block
from outcome import in_one_line
from torch.nn.functional import cross_entropy

from rl4nlu import data, files
from rl4nlu.errors import Halted, UserError
from rl4nlu.reports import collect
from rl4nlu.run import read_results, status_of
from rl4nlu.sources import MINI, mini_folder
from rl4nlu.tables import grid, main_metric
from rl4nlu.tasks import find, find_all

SUITES = "glue,superglue,mini"
TEMPLATES = ("plain", "verdict")
BLOCK = ("mini", "python scripts/mini.py")
"""Of the page: its name, and what makes it."""
LIMIT = 250
"""Rows of a task, the first of its file, of which the share of unparsable answers is taken."""
SFT = {"max_steps": 300, "batch_size": 16, "learning_rate": 1e-3, "select_rows": 0}
TASKS = ("glue/sst2", "glue/cola", "glue/rte", "glue/mrpc", "superglue/wic")
SEEDS = (0, 1, 2)
CHUNK, CHUNKS, LEAD = 700, 400, 100
"""Characters of a text that is read at a time, how many texts, and characters of each that are read and not counted."""


def chunks(text: str) -> list[str]:
    """Parts of equal length, spread evenly over the text; a shorter text is one part."""
    text = text.replace("\f", "\n")
    whole = [text[i : i + CHUNK] for i in range(0, len(text) - CHUNK + 1, CHUNK)]
    count = min(CHUNKS, len(whole))
    return [whole[i * len(whole) // count] for i in range(count)] or [text]


def begin(text: str) -> int:
    """The byte from which on a text is counted: the first blank behind LEAD characters, where a word ends for every
    tokenizer; of a text without one all is counted but its first token."""
    at = text.find(" ", LEAD)
    return len(text[: max(at, 0)].encode())


@torch.no_grad()
def bits_per_byte(folder: Path, texts: list[str]) -> float:
    """Bits that a model needs for a byte, each text read alone, from `begin` on.

    Raises:
        UserError: its tokenizer is not a byte-level BPE, of which the bytes of a token are known.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = {"use_safetensors": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **known)
    nats, size = 0.0, 0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        # byte-level BPE writes each byte of a piece as one character
        lengths = [len(piece) for piece in tokenizer.convert_ids_to_tokens(ids[0].tolist())]
        if sum(lengths) != len(text.encode()):
            raise UserError(f"{folder}: its tokenizer is not a byte-level BPE, so its bits a byte are not known")
        first = max(1, sum(end <= begin(text) for end in accumulate(lengths)))
        nats += float(cross_entropy(model(ids).logits[0, first - 1 : -1], ids[0, first:], reduction="sum"))
        size += sum(lengths[first:])
    return nats / math.log(2) / size


def folder_of(model: str) -> Path:
    return mini_folder() if model == MINI else Path(model)


def check_weights(models: Mapping[str, str], out: Path) -> None:
    """The runs that are there must be of the weights that are there.

    Raises:
        UserError: they are of others.
    """
    noted = {name: files.digest(folder_of(model) / "model.safetensors") for name, model in models.items()}
    kept = out / "weights.json"
    if kept.exists() and files.read_json(kept) != noted:
        raise UserError(f"the runs in {out} are of other weights ({kept}); give another --out")
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(kept, noted)


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
    plan.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    commands.append((["suite", str(plan), "--out", str(out / "sft"), "--jobs", "2"], out / "sft"))
    for words, at in commands:
        if words[0] == "suite":
            again = words  # knows itself what is done
        else:
            state = status_of(at)
            again = [] if state == "finished" else ["resume", str(at)] if state else words
        if again:
            print("rl4nlu", *again, flush=True)
            done = subprocess.run([sys.executable, "-m", "rl4nlu", *again], check=False)  # noqa: S603  # our own words
            if done.returncode:
                advice = "" if done.returncode == 2 else "; run this command again"
                raise Halted(f"`rl4nlu {' '.join(again)}` ended with code {done.returncode}{advice}")
    return [" ".join(["rl4nlu", *words]) for words, _ in commands]


def unparsable(models: Mapping[str, str], out: Path) -> list[str]:
    """Percent of the answers of each task that state no label; the worst task; the tasks left out."""
    heads = [f"{name}, {template}" for name in models for template in TEMPLATES]
    share: dict[str, dict[str, float]] = {}
    for head in heads:
        for result in read_results(out / head.replace(", ", "-")):
            share.setdefault(result["task"], {})[head] = 100 * result["unparsable"] / result["n"]
    worst = {head: max(cells[head] for cells in share.values()) for head in heads}
    missing = [task.name for suite in SUITES.split(",") for task in find_all(suite) if task.name not in share]
    return [
        f"| task | {' | '.join(heads)} |",
        "|---|" + "---|" * len(heads),
        *(f"| {task} | {' | '.join(f'{cells[head]:.1f}' for head in heads)} |" for task, cells in share.items()),
        f"| the worst | {' | '.join(f'{worst[head]:.1f}' for head in heads)} |",
        "",
        f"Without rows here: {', '.join(missing) or 'none'}.",
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


def bits(models: Mapping[str, str], rows: Path, held_out: Path) -> list[str]:
    """Bits a byte of both texts, as a table with what it shows."""
    passages = sorted({row.fields["passage"] for row in data.load(find("superglue/boolq"), "dev", rows)})
    texts = {
        "held-out books": chunks(held_out.read_text(encoding="utf-8")),
        "BoolQ passages": chunks("\n".join(passages)),
    }
    counts = " and ".join(str(len(parts)) for parts in texts.values())
    table = [
        f"| {name} | {' | '.join(f'{bits_per_byte(folder_of(model), parts):.3f}' for model in models.values())} |"
        for name, parts in texts.items()
    ]
    return [
        f"Bits a byte over {counts} pieces of {CHUNK} characters, each read alone, counted from its first blank",
        f"behind {LEAD} on; the held-out books are those of the last model: another may have read them.",
        "",
        f"| text | {' | '.join(models)} |",
        "|---|" + "---|" * len(models),
        *table,
        "",
    ]


def block(models: Mapping[str, str], known: list[str], out: Path, commands: list[str]) -> list[str]:
    """The lines of the page, from the bits a byte and the runs in `out`."""
    return [
        *known,
        f"Zero-shot answers, greedily decoded, that state no label: percent of the first {LIMIT} rows of each task,",
        "or of all if it has fewer.",
        "",
        *unparsable(models, out),
        "",
        f"SFT, {SFT['max_steps']} batches of {SFT['batch_size']}, learning rate {SFT['learning_rate']:g}: all dev",
        "rows, percent, mean and 95 % interval over seeds.",
        "",
        *scores(out),
        "",
        "```text",
        *commands,
        "```",
    ]


def main() -> None:
    """Run what is missing, then print the block or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/mini"))
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    if wrong := [pair for pair in given.models if "=" not in pair]:
        parser.error(f"--models {wrong[0]}: give NAME=FOLDER")
    models = dict(pair.split("=", 1) for pair in given.models)
    pairs = " ".join(given.models)
    ours = f"python scripts/mini.py --models {pairs} --data {given.data} --held-out {given.held_out} --out {given.out}"
    with in_one_line("; the same command goes on"):
        if given.write is not None:
            if not given.write.is_file() or not os.access(given.write, os.W_OK):
                raise UserError(f"--write {given.write} is no file that can be written")
            around(given.write, *BLOCK)  # an error now, not after an hour
        if not given.held_out.is_file():
            raise UserError(f"--held-out {given.held_out} is no file")
        check_weights(models, given.out)
        known = bits(models, given.data, given.held_out)  # first, for it takes a minute, and runs take an hour
        commands = [ours, "", *run_all(models, given.data, given.out)]
        lines = block(models, known, given.out, commands)
        if given.write is None:
            print("\n".join(lines))
        else:
            replace_block(given.write, *BLOCK, lines)


if __name__ == "__main__":
    main()
