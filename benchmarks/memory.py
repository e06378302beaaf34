"""The estimate of `rl4nlu check` beside the memory that the real command takes: peak resident size of the process.

    python benchmarks/memory.py MODEL ... [--max-tokens 1024 4096] [--method sft gae expected] [--data DIR]

A few steps each, on a CPU. Run it anew where the machine has another C library: `shapes.HOLES` and `cost.WORKING` are
measured with it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

UNITS = {"MB": 1e6, "GB": 1e9}
PEAK = (
    "import resource, subprocess, sys\n"
    "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    "sys.exit(done.returncode)\n"
)
"""A parent of its own for every command, so that no other child counts."""


def estimate(path: Path) -> float:
    """What `rl4nlu check` says of a settings file, in bytes."""
    run = [sys.executable, "-m", "rl4nlu", "check", str(path)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)  # noqa: S603  our own command
    found = re.search(r"about ([\d.]+) ([MG]B) at the peak", done.stdout)
    assert found, done.stdout
    return float(found[1]) * UNITS[found[2]]


def measured(command: str, path: Path) -> float:
    """The most memory that the command takes, in bytes."""
    run = [sys.executable, "-m", "rl4nlu", command, str(path)]
    once = [sys.executable, "-c", PEAK, *run]
    done = subprocess.run(once, capture_output=True, text=True, check=True)  # noqa: S603  our own command
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


def compare(method: str, values: dict[str, object]) -> tuple[float, float]:
    """Estimate and measured peak of one run.

    Args:
        method: sft, or an estimator of ppo.
        values: settings.
    """
    command = "sft" if method == "sft" else "ppo"
    extra = {} if command == "sft" else {"estimator": method, "inner_epochs": 1, "select_rows": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        text = yaml.safe_dump({**values, **extra, "out": str(Path(folder) / "run")})
        path.write_text(f"# rl4nlu {command}\n{text}")
        return estimate(path), measured(command, path)


def main() -> None:
    """Print a line for every run."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("models", nargs="*", default=["mini"])
    arguments.add_argument("--max-tokens", nargs="+", type=int, default=[1024, 4096])
    arguments.add_argument("--method", nargs="+", default=["sft", "gae", "expected"])
    arguments.add_argument("--task", default="glue/rte")
    arguments.add_argument("--data")
    arguments.add_argument("--steps", type=int, default=3)
    given = arguments.parse_args()
    for model in given.models:
        for method in given.method:
            for tokens in given.max_tokens:
                values = {"model": model, "task": given.task, "max_tokens": tokens, "max_steps": given.steps}
                values |= {"limit": 300, "eval_limit": 64, **({"data": given.data} if given.data else {})}
                foreseen, real = compare(method, values)
                ratio = f"{foreseen / real:.2f}"
                print(f"{Path(model).name:<12} {method:<9} {tokens:>5}", end="  ")
                print(f"{foreseen / 1e6:6.0f} MB  {real / 1e6:6.0f} MB  {ratio}", flush=True)


if __name__ == "__main__":
    main()
