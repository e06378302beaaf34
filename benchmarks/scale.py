"""Foreseen and measured: the seconds of real runs on this machine beside what `rl4nlu.timing` says before.

    python benchmarks/scale.py [--data DIR] [--only WORDS] [--write docs/scale.md] [--processes 2]

Every run is a command of its own. Models: the bundled one, and random ones of other sizes and classes, made here
(speed does not depend on the weights). Of the runs marked "fit" one constant is taken, the seconds until a command
begins to work (and by hand `timing.work.WHOLE`); the others are held out: other models, tasks, methods, batches. Take a
quiet machine: on two cores it is about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command does

import yaml
from rich.console import Console
from rich.table import Table

from rl4nlu.config import validate
from rl4nlu.settings import RUNS
from rl4nlu.timing import Estimate, Machine
from rl4nlu.timing.estimate import here, plan_of

CONSOLE = Console(width=150)
COMMAND = "python benchmarks/scale.py --data DIR --write docs/scale.md"
SHAPES: dict[str, dict[str, Any]] = {
    "llama-34m": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 9, "num_attention_heads": 8},
    "qwen-41m": {
        "hidden_size": 640,
        "intermediate_size": 2560,
        "num_hidden_layers": 5,
        "num_attention_heads": 10,
        "num_key_value_heads": 2,
        "vocab_size": 32_768,
    },
}
"""Random models: their sizes."""


@dataclass(frozen=True)
class Case:
    """One run."""

    name: str
    command: str
    model: str
    task: str
    more: dict[str, Any]
    fit: bool = False
    """The start of a command is taken from it; else it is held out."""


def case(name: str, model: str, task: str, fit: bool = False, **more: Any) -> Case:
    """A run by the first word of its name: its command."""
    return Case(name, name.replace(",", "").split()[0], model, task, more, fit)


CASES = [
    case("sft", "mini", "mini/entailment", fit=True, max_steps=20, eval_limit=64),
    case("evaluate", "mini", "mini/sentiment", fit=True),
    case("ppo gae", "mini", "mini/entailment", fit=True, max_steps=4, select_rows=0, eval_limit=64),
    case("classify full", "mini", "mini/sentiment", fit=True, max_steps=15, tune="full", eval_limit=64),
    case("sft, small micro-batches", "mini", "mini/question", max_steps=15, batch_size=64, max_tokens=512),
    case("sft, three tasks", "mini", "glue/cola,glue/rte,glue/mrpc", max_steps=15, eval_limit=128),
    case("sft", "llama-34m", "glue/rte", max_steps=6, batch_size=16, eval_limit=64),
    case("sft, passages shared", "llama-34m", "superglue/multirc", max_steps=6, batch_size=16, eval_limit=64),
    case("sft", "qwen-41m", "superglue/wic", max_steps=8, eval_limit=64),
    case("ppo from sft", "mini", "mini/entailment", max_steps=4, select_rows=64, eval_limit=64, init="sft"),
    case("ppo grpo, labels", "mini", "mini/question", max_steps=5, estimator="grpo", actions="labels", select_rows=0),
    case("ppo expected", "mini", "glue/rte", max_steps=4, estimator="expected", select_rows=0, eval_limit=64),
    case("ppo rloo", "llama-34m", "mini/entailment", max_steps=3, estimator="rloo", batch_size=8, select_rows=0,
         skip_flat=False, eval_limit=64, max_tokens=1024, answer_tokens=6),
    case("ppo gae", "qwen-41m", "glue/sst2", max_steps=3, batch_size=16, answers=2, select_rows=32, eval_limit=64),
    case("ppo reinforce++, 16 tokens", "qwen-41m", "mini/question", max_steps=3, batch_size=8, answers=2,
         estimator="reinforce++", answer_tokens=16, select_rows=0, eval_limit=64, inner_epochs=2),
    case("evaluate", "mini", "glue/rte"),
    case("evaluate 5 shots", "llama-34m", "glue/mrpc", shots=5, limit=200),
    case("evaluate greedy", "qwen-41m", "glue/sst2", decode="greedy", limit=400),
    case("evaluate sample", "llama-34m", "superglue/cb", decode="sample", template="verdict"),
    case("classify lora", "mini", "mini/sentiment", max_steps=15),
    case("classify full", "llama-34m", "glue/cola", max_steps=5, batch_size=16, tune="full", eval_limit=64),
]  # fmt: skip


def make_models(folder: Path) -> None:
    """Random models with the bundled one's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from rl4nlu.sources import source_of

    tokenizer = AutoTokenizer.from_pretrained(source_of("mini"))
    for name, sizes in SHAPES.items():
        kinds: Any = (Qwen2Config, Qwen2ForCausalLM) if name.startswith("qwen") else (LlamaConfig, LlamaForCausalLM)
        common = {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        model = kinds[1](kinds[0](**{"vocab_size": 8192, "tie_word_embeddings": True, **common, **sizes}))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def settings_of(one: Case, folder: Path, data: Path | None, done: dict[str, Path]) -> dict[str, Any]:
    """The settings of a run."""
    model = one.model if one.model == "mini" else str(folder / one.model)
    values = {"task": one.task, "model": model, "device": "cpu", **one.more}
    if "init" in one.more:
        values["init"] = str(done[one.more["init"]])
    return {**values, "data": str(data)} if data and not one.task.startswith("mini/") else values


def measured(one: Case, values: dict[str, Any], out: Path, processes: int) -> tuple[float, float]:
    """Seconds of the whole command, and of a step (of `evaluate`: of asking all rows)."""
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    run = [sys.executable, "-m", "rl4nlu"]
    if processes > 1:
        run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m", "rl4nlu"]
    start = time.perf_counter()
    done = subprocess.run(  # noqa: S603  our own command
        [*run, one.command, str(path), "--out", str(out)], capture_output=True, text=True, check=False
    )
    whole = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{one.name}: {done.stderr[-1500:]}")
    if one.command == "evaluate":
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))["results"]
        return whole, sum(result["seconds"] for result in results)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    size = values.get("batch_size", 32)
    return whole, statistics.median(size / line["examples_per_second"] for line in lines[1:])


@dataclass(frozen=True)
class Found:
    """One line of the table."""

    case: Case
    foreseen: Estimate
    whole: float
    step: float

    @property
    def part(self) -> float:
        """Seconds of a step, or of asking all rows, that were foreseen."""
        if self.case.command == "evaluate":
            return self.foreseen.evaluation
        return self.foreseen.training / self.foreseen.steps


def all_of(given: argparse.Namespace, folder: Path) -> list[Found]:
    """Foresee and measure every run."""
    make_models(folder)
    found: list[Found] = []
    done: dict[str, Path] = {}
    for number, one in enumerate(CASES):
        words = f"{one.name} {one.model} {one.task}"
        if (one.task.split("/")[0] != "mini" and not given.data) or not all(w in words for w in given.only):
            continue
        if (given.processes > 1 and one.command != "sft") or one.more.get("init", one.name) not in {one.name, *done}:
            continue
        values = settings_of(one, folder, given.data, done)
        settings = validate(RUNS[one.command], values)
        plan = plan_of(one.command, settings, processes=given.processes)
        machine: Machine = here(plan, settings)
        out = folder / f"run-{number}"
        whole, step = measured(one, values, out, given.processes)
        done.setdefault(one.name, out)
        found.append(Found(one, plan.on(machine), whole, step))
        CONSOLE.print(
            f"{words}: {found[-1].part:.3f} s foreseen, {step:.3f} s measured, {found[-1].part / step:.2f}; whole "
            f"{found[-1].foreseen.total:.1f} s, {whole:.1f} s, {found[-1].foreseen.total / whole:.2f}"
        )
    return found


def fitted(found: list[Found]) -> list[Found]:
    """With the start of a command from the runs that are for that."""
    starts = [one.whole - (one.foreseen.total - one.foreseen.start) for one in found if one.case.fit]
    if not starts:
        return found
    start = statistics.median(starts)
    CONSOLE.print(f"start of a command, from the runs for that: {start:.1f} s")
    return [replace(one, foreseen=replace(one.foreseen, start=start)) for one in found]


def shown(found: list[Found]) -> tuple[Table, list[str]]:
    """The table, for people and for the page."""
    heads = [
        "run",
        "model",
        "task",
        "step foreseen, s",
        "measured, s",
        "ratio",
        "whole foreseen, s",
        "measured, s",
        "ratio",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    table = Table(*heads)
    for one in found:
        name = f"{one.case.name}{' (fit)' if one.case.fit else ''}"
        part = [f"{one.part:.3f}", f"{one.step:.3f}", f"{one.part / one.step:.2f}"]
        whole = [f"{one.foreseen.total:.1f}", f"{one.whole:.1f}", f"{one.foreseen.total / one.whole:.2f}"]
        cells = [name, one.case.model, one.case.task.replace(",", ", "), *part, *whole]
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    held = [one for one in found if not one.case.fit]
    told = []
    for what, ratios in (
        ("a step", [one.part / one.step for one in held]),
        ("the whole command", [one.foreseen.total / one.whole for one in held]),
    ):
        near = sum(1 / 1.3 <= ratio <= 1.3 for ratio in ratios)
        span = f"ratios {min(ratios):.2f} to {max(ratios):.2f}"
        told.append(f"{near} of {len(ratios)} held-out runs within 30 % by {what} ({span})")
    return table, [*lines, "", "; ".join(told) + f". {os.cpu_count()} cores, float32."] if held else lines


def main() -> None:
    """Measure, print, and write the table into a page."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--data", type=Path, help="folder with the official files; without it, runs on bundled tasks")
    words.add_argument("--only", nargs="*", default=[], help="runs in whose name, model and task all of these stand")
    words.add_argument("--write", type=Path, help="page into which the table goes")
    words.add_argument("--processes", type=int, default=1, help="of every sft run, by accelerate launch")
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = fitted(all_of(given, Path(folder)))
    if not found:
        sys.exit("no run fits --only")
    table, lines = shown(found)
    CONSOLE.print(table)
    if given.write:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
        from blocks import replace_block

        replace_block(given.write, "foreseen and measured", COMMAND, lines)


if __name__ == "__main__":
    main()
