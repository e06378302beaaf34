"""Examples a second of every stage with the bundled model on this machine:  python benchmarks/speed.py [--repeat N]

Medians over repetitions, the first left out. Rows: mini/entailment; sizes as in the demo.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from rich.console import Console
from rich.table import Table

from rl4nlu.ask import ask, encode
from rl4nlu.config import validate
from rl4nlu.data import load
from rl4nlu.methods import ppo, sft
from rl4nlu.mixture import Mixture
from rl4nlu.models import load_policy
from rl4nlu.run import Run
from rl4nlu.settings import EvaluateSettings, PpoSettings, SftSettings
from rl4nlu.tasks import find

TASK, ROWS, BATCH = "mini/entailment", 200, 32


def stages(folder: Path) -> dict[str, tuple[Callable[[], object], int]]:
    """Name -> (one repetition, its examples)."""
    task = find(TASK)
    common = {"task": TASK, "model": "mini"}
    settings = validate(EvaluateSettings, common)
    few = validate(EvaluateSettings, {**common, "shots": 5})
    base = load_policy("mini")
    dev = load(task, "dev", limit=ROWS)
    zero_shot, few_shot = encode(base, task, settings, dev), encode(base, task, few, dev)
    sft_settings = validate(SftSettings, {**common, "batch_size": BATCH, "max_steps": 5})
    ppo_settings = validate(PpoSettings, {**common, "batch_size": BATCH, "max_steps": 2})
    policy = load_policy("mini", lora=sft_settings.lora)
    policy.add_value_head()
    train = encode(policy, task, sft_settings, load(task, "train"))
    sft_rows, ppo_rows = Mixture([train], sft_settings, "sft"), Mixture([train], ppo_settings, "ppo")
    (folder / "run").mkdir()
    run = Run(folder / "run")
    return {
        "zero-shot, labels scored": (lambda: list(ask(base, zero_shot, "score", settings)), ROWS),
        "5-shot, labels scored": (lambda: list(ask(base, few_shot, "score", few)), ROWS),
        "zero-shot, greedy": (lambda: list(ask(base, zero_shot, "greedy", settings)), ROWS),
        "sft": (lambda: sft.train(policy, sft_rows, [], sft_settings, run), 5 * BATCH),
        "ppo": (lambda: ppo.train(policy, ppo_rows, [], ppo_settings, run), 2 * BATCH),
    }


def main() -> None:
    """Time every stage in turn and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeat", type=int, default=5)
    repeat = arguments.parse_args().repeat
    table = Table("stage", "examples a second", "slowest", "fastest")
    with tempfile.TemporaryDirectory() as folder:
        for name, (once, examples) in stages(Path(folder)).items():
            rates = []
            for _ in range(repeat + 1):
                start = time.perf_counter()
                once()
                rates.append(examples / (time.perf_counter() - start))
            rates = rates[1:]
            table.add_row(name, f"{statistics.median(rates):.0f}", f"{min(rates):.0f}", f"{max(rates):.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
