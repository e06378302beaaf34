"""rl4nlu and its peers side by side:  make bench DATA=DIR [REPEAT=3] [DEVICE=cpu]

Each side is a process of its own; the sides take turns, and the medians of all turns and their ratio are quoted. Every
measurement is a line of build/bench/measurements.jsonl; the table goes into docs/benchmarks.md. Stopped half-way, it
goes on where it was: delete build/bench to begin anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
WORKS = {
    "ppo": ("PPO, 20 answer tokens, 4 inner epochs", "TRL 0.11.4 PPOTrainer", 10),
    "ppo-short": ("PPO, answers that end at the closing tag (6 tokens; peer: 20)", "TRL 0.11.4 PPOTrainer", 20),
    "rloo": ("RLOO, 20 answer tokens, 4 inner epochs", "TRL 1.16 RLOOTrainer", 15),
    "sft": ("SFT", "TRL 1.16 SFTTrainer", 15),
    "zero-shot": ("zero-shot scoring of RTE dev", "lm-evaluation-harness 0.4.13", 8),
    "five-shot": ("5-shot scoring of RTE dev, same shots for all rows", "lm-evaluation-harness 0.4.13", 20),
    "multirc": ("zero-shot scoring of 400 rows of MultiRC dev", "lm-evaluation-harness 0.4.13", 10),
}
"""Work -> what it is, the peer, the ratio that is the goal."""
OLD = ("ppo", "ppo-short")
DTYPE = {"cpu": "float32", "cuda": "bfloat16"}
"""Of both sides."""


def measure(python: str, script: str, name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One process; its last line of output is the measurement."""
    command = [python, str(HERE / script), name, "--model", str(given.model), "--data", str(given.data)]
    command += ["--device", given.device]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    if script == "ours.py":
        command += ["--dtype", DTYPE[given.device]]
        environment["GOMP_SPINCOUNT"] = "10000"  # as the command line sets it
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def rate(device: str) -> float:
    """The machine's matrix rate, measured while nothing else runs."""
    command = [sys.executable, str(HERE / "limit.py"), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return float(json.loads(done.stdout)["gflop_per_s"])


def speed(one: dict[str, Any]) -> float:
    """Examples a second."""
    return float(one["examples_per_s"]) if "examples_per_s" in one else one["rows"] / one["seconds"]


def table(lines: list[dict[str, Any]], device: str) -> str:
    """The measurements as a Markdown table."""
    limit = statistics.median(line["gflop_per_s"] for line in lines)
    rows = [
        "| work | peer | peer, examples/s | rl4nlu, examples/s | ratio | goal | share of the limit | turns |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (what, peer, goal) in WORKS.items():
        ours, theirs = (
            [one for one in lines if one["work"] == name and one["side"] == side] for side in ("rl4nlu", "peer")
        )
        if not ours or not theirs:
            continue
        a, b = (statistics.median(map(speed, side)) for side in (ours, theirs))
        share = statistics.median(one["gflop"] / one["seconds"] for one in ours) / limit
        rows.append(f"| {what} | {peer} | {b:.2f} | {a:.2f} | {a / b:.1f}x | {goal}x | {share:.0%} | {len(ours)} |")
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {device}"
    product = f"{DTYPE[device]} matrix product {limit:.0f} GFLOP/s (median over the turns)"
    return "\n".join([*rows, "", f"Machine: {machine}, {product}."])


def main() -> None:
    """Take turns, and write the page."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--data", type=Path, required=True)
    words.add_argument("--model", type=Path, required=True)
    words.add_argument("--environments", type=Path, required=True)
    words.add_argument("--out", type=Path, default=Path("build/bench"))
    words.add_argument("--device", choices=list(DTYPE), default="cpu")
    words.add_argument("--repeat", type=int, default=3)
    words.add_argument("--only", default=",".join(WORKS))
    given = words.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "measurements.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    place = {"device": given.device, "model": str(given.model)}
    lines = [one for one in lines if place.items() <= one.items()]  # what was measured elsewhere is no figure of here
    console = Console()
    for turn in range(given.repeat):
        for name in given.only.split(","):
            if sum(one["work"] == name and one["side"] == "peer" for one in lines) > turn:
                continue
            limit = rate(given.device)
            peers = given.environments / ("old" if name in OLD else "new") / "bin" / "python"
            # what the peer cannot do (stop at a tag) it does as it can: the whole 20 tokens
            both = [measure(sys.executable, "ours.py", name, given), measure(str(peers), "peers.py", name, given)]
            for one in both:
                one |= {"turn": turn, "gflop_per_s": limit, **place}
                lines.append(one)
                with open(log, "a", encoding="utf-8") as file:
                    file.write(json.dumps(one) + "\n")
            console.print(f"turn {turn + 1} {name}: {speed(both[0]):.2f} against {speed(both[1]):.2f} examples/s")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    PAGE.write_text(f"{before}{BEGIN}\n{table(lines, given.device)}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
