"""The card of a model that scripts/pretrain.py has made."""

from __future__ import annotations

import math
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

import tokenizers
import torch
import transformers
from pretrain_settings import ASKED
from pretrain_text import EOS, SPECIAL, Text

from rl4nlu import files

if TYPE_CHECKING:
    from pretrain_past import Part, Past
    from pretrain_settings import Settings


def command(settings: Settings) -> str:
    """The command that makes the same model."""
    words = ["python", "scripts/pretrain.py", "--text", *map(str, settings.text), "--out", str(settings.out)]
    defaults = {field.name: field.default for field in fields(settings)}
    for name, value in asdict(settings).items():
        if name in ("text", "out") or (value == defaults[name] and name != "device"):
            continue
        flag = name.replace("_", "-")
        words += (
            ([f"--{flag}"] if value else [f"--no-{flag}"]) if isinstance(value, bool) else [f"--{flag}", str(value)]
        )
    return shlex.join(words)


def curve(lines: list[dict], rows: int = 16) -> str:
    """The losses of a training as a table of about so many rows."""
    at = sorted({round(i * (len(lines) - 1) / (rows - 1)) for i in range(rows)})
    table = ["| step | tokens | loss of the steps before | held-out loss | hours |", "|---|---|---|---|---|"]
    for i in at:
        line = lines[i]
        hours = line["seconds"] / 3600
        held_out = f"{line['held_out']:.3f}" if "held_out" in line else ""
        cells = [f"{line['step']:,}", f"{line['tokens']:,}", f"{line['loss']:.3f}", held_out]
        table.append(f"| {' | '.join(cells)} | {hours:.2f} |")
    return "\n".join(table)


def made_with(device: str) -> str:
    """Machine, threads and versions."""
    machine = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    threads = f"{torch.get_num_threads()} threads"
    versions = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, tokenizers {tokenizers.__version__}"
    )
    return f"{machine}, {threads}; {versions}"


def table_of(parts: Sequence[Part]) -> str:
    """What was done in each part of a training."""
    table = [
        "| part | tokens in short rows | in long rows | of the second stage | rates of Muon, AdamW | warm-up | steps | "
        "hours | made with |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for number, part in enumerate(parts, 1):
        had = part.settings
        precision = "bfloat16" if had["bfloat16"] else "float32"
        cells = [
            str(number),
            f"{had['books']:,}, {had['short']} each",
            f"{had['long']:,}, {had['context']:,} each",
            f"{had['form']:,}",
            f"{had['muon_rate']:g}, {had['adamw_rate']:g}; {had['schedule']} to {had['last_rate']:g} of that",
            f"{had['warmup']:.0%}",
            f"{part.steps:,} of {had['batch']:,} tokens",
            f"{part.log[-1]['seconds'] / 3600:.2f}",
            f"{part.made_with}; {precision}",
        ]
        table.append(f"| {' | '.join(cells)} |")
    return "\n".join(table)


STAGE = f"""
The second stage (`scripts/pretrain_form.py`) teaches the form of the job, not its answers, and reads no row of GLUE,
SuperGLUE or the bundled tasks: of {ASKED} tokens {ASKED - 1} are that text still; the others are prompts (and padding)
in the program's two templates, filled with sentences of these texts. About six of ten are of the program's own tasks,
with an answer drawn by lot; the others are questions made by rule, most of which looking at the words answers (does
one occur, which comes first, how many commas).
"""


def write(settings: Settings, text: Text, weights: int, past: Past) -> str:
    """The card of a model of so many weights, tied ones counted once, made by the parts of `past`."""
    seen, unseen = (int((ids == SPECIAL.index(EOS)).sum()) for ids in (text.seen, text.unseen))
    lines = past.log()
    last = lines[-1]
    bits = last["held_out"] / math.log(2) / text.bytes_per_token
    commands = "\n".join(part.command for part in past.parts)
    data = "\n".join(f"| `{path.name}` | {path.stat().st_size:,} | `{files.digest(path)}` |" for path in settings.text)
    listed = " The documents are listed in `SOURCES.txt`." if settings.sources else ""
    staged = any(part.settings["form"] for part in past.parts)
    longest = settings.context if staged or any(part.settings["long"] for part in past.parts) else settings.short
    losses = f" In the second stage that of the steps is of text and, with a weight of 1 in {ASKED}, of answers."
    losses = losses if staged else ""
    form = "follows the form of a question and is often wrong; it " if staged else ""
    about = {
        "architecture": f"Llama: {settings.layers} layers of width {settings.width} (MLP {settings.hidden}), "
        f"{settings.heads} heads, tied embeddings, {weights / 1e6:.1f}M parameters",
        "vocabulary": f"{settings.vocabulary:,} pieces of byte-level BPE, {text.bytes_per_token:.2f} bytes a token",
        "weights": f"bfloat16, safetensors, {2 * weights / 1e6:.1f} MB",
        "context": f"{settings.context:,} tokens; trained on rows of up to {longest:,}",
        "training": "from scratch" + (f", in {len(past.parts)} parts" if len(past.parts) > 1 else ""),
        "held-out loss": f"{last['held_out']:.3f} nats a token, {bits:.3f} bits a byte",
        "hours": f"{last['seconds'] / 3600:.2f} of training; making the tokens not counted",
        "licence": settings.licence,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in about.items())
    return f"""---
license: {settings.licence}
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [rl4nlu, llama]
---

# A small Llama, pre-trained on {settings.about}

Made for rl4nlu, so that prompting, SFT and PPO can be tried without a download.

| | |
|---|---|
{table}

## Data

{settings.about[:1].upper()}{settings.about[1:]}: {seen:,} documents of {len(text.seen):,} tokens. {past.read:,}
were read ({past.read / len(text.seen):.2f} of all), in an order drawn by lot, none a second time before all were read.
Every {settings.held_out}th document was kept apart. The held-out loss is taken on {unseen:,} of these, without those
that stand among the others too (another edition, a part of the same book): 128 rows of {settings.short} tokens, spread
evenly over them. Rows go on from one document into the next.{listed}

| file | bytes | SHA-256 |
|---|---|---|
{data}
{STAGE if staged else ""}
## Training

```
{commands}
```

{table_of(past.parts)}

Optimizer: Muon (weight decay {settings.weight_decay:g}) for the layers' matrices, AdamW for embeddings and norms;
gradients clipped at 1; seed {settings.seed}. The same settings and versions give the same model on a CPU of the same
kind with the same number of threads; elsewhere sums are rounded otherwise.

## Loss

Nats a token; all steps are counted together.{losses}

{curve(lines)}

## What it is good for

To show that prompting, SFT and PPO work, in seconds, on a laptop. It {form}writes as its texts do and may repeat
their prejudices. For anything else take a larger model.
"""
