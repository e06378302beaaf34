"""What a checkpoint costs beside a step, on the bundled model: seconds to save, to hold a snapshot in memory, bytes.

python benchmarks/save_cost.py
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl4nlu import checkpoint, session
from rl4nlu.config import validate
from rl4nlu.methods import ppo, sft
from rl4nlu.settings import PpoSettings, SftSettings


def main() -> None:
    """Train a few steps with a checkpoint after each, and print the medians."""
    seconds: dict[str, list[float]] = {"save": [], "take": []}

    def timed(name: str, function: Callable[..., Any]) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            start = time.perf_counter()
            found = function(*args, **more)
            seconds[name].append(time.perf_counter() - start)
            return found

        return call

    session.save = timed("save", checkpoint.save)
    session.take = timed("take", checkpoint.take)
    common = {"task": "mini/sentiment", "model": "mini", "max_steps": 12, "eval_limit": 8, "save_every": 1}
    commands: dict[str, Any] = {
        "sft": lambda values: sft.sft(validate(SftSettings, values)),
        "ppo": lambda values: ppo.ppo(validate(PpoSettings, values)),
    }
    for name, command in commands.items():
        for measured in seconds.values():
            measured.clear()
        with tempfile.TemporaryDirectory() as folder:
            run, _ = command({**common, "select_rows": 32, "out": Path(folder) / "run"})
            logged = [json.loads(line) for line in run.metrics.path.read_text().splitlines()]
            step = 1000 * statistics.median(32 / row["examples_per_second"] for row in logged)
            last = max(run.checkpoints.iterdir())
            size = sum(path.stat().st_size for path in last.iterdir())
            save, hold = (1000 * statistics.median(seconds[what]) for what in ("save", "take"))
            written = f"a checkpoint {size / 1e6:.1f} MB, {save:.0f} ms to write, flush and verify"
            print(f"{name}: {written}; a snapshot in memory {hold:.1f} ms; a step {step:.0f} ms")


if __name__ == "__main__":
    main()
