"""How long a user waits before anything happens:  python benchmarks/startup.py [--repeat N]

Seconds of wall clock of whole commands as processes of their own, the median of N after a first one that is left out.
Run it on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

COMMANDS = {
    "--help": 0.3,
    "ppo --help": 0.3,
    "tasks": None,
    "explain clipfrac": None,
    "check ppo.yaml": 10.0,
    "evaluate --task mini/question --model mini --limit 1": None,
}
"""Command -> seconds that it should take at most."""


def seconds(words: list[str], folder: str) -> float:
    """Of one run of the program."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rl4nlu", *words], cwd=folder, capture_output=True, check=True)  # noqa: S603
    return time.perf_counter() - start


def main() -> None:
    """Measure all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    table = Table("command", "median s", "lowest", "highest", "goal", box=None, header_style="bold")
    with tempfile.TemporaryDirectory() as folder:
        seconds(["new", "ppo", str(Path(folder) / "ppo.yaml")], folder)
        for command, goal in COMMANDS.items():
            _, *found = [seconds(command.split(), folder) for _ in range(repeat + 1)]
            figures = (statistics.median(found), min(found), max(found))
            table.add_row(f"rl4nlu {command}", *(f"{one:.2f}" for one in figures), "" if goal is None else f"{goal:g}")
    Console().print(table)


if __name__ == "__main__":
    main()
