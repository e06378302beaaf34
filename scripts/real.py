"""Zero-shot, SFT and PPO of the bundled model on official GLUE and SuperGLUE rows -> docs/results.md.

    python scripts/real.py --data DIR [--out runs/real] [--write docs/results.md]

Every run is a command of its own, printed and written down as it was run; finished ones are not run again.
"""

from __future__ import annotations

import argparse
import collections
import subprocess
import sys
from pathlib import Path

from rl4nlu import data
from rl4nlu.metrics import Outcome, value_of
from rl4nlu.report import collect, grid, main_metric
from rl4nlu.run import environment
from rl4nlu.tasks import find

SFT_STEPS = {
    "glue/sst2": 600,
    "glue/cola": 400,
    "glue/rte": 150,
    "glue/mrpc": 200,
    "superglue/cb": 80,
    "superglue/wic": 300,
}
PPO_STEPS = 60


def commands(folder: Path, rows: Path) -> list[tuple[Path, str]]:
    """(run folder, command) in the order in which they must run."""
    found = []
    for task, steps in SFT_STEPS.items():
        name = task.split("/")[1]
        common = f"--task {task} --model mini --data {rows}"
        zero, sft, ppo = (folder / f"{method}-{name}" for method in ("zero", "sft", "ppo"))
        found.append((zero, f"rl4nlu evaluate {common} --out {zero}"))
        found.append((sft, f"rl4nlu sft {common} --max-steps {steps} --out {sft}"))
        found.append((ppo, f"rl4nlu ppo {common} --max-steps {PPO_STEPS} --init {sft} --out {ppo}"))
    return found


def majority(task_name: str, rows: Path) -> float:
    """The task's first metric for always giving the dev split's most common label."""
    task = find(task_name)
    examples = data.load(task, "dev", rows)
    (most_common, _), *_ = collections.Counter(example.label for example in examples).most_common(1)
    return value_of(task.metrics[0], task, [Outcome(example, most_common) for example in examples])


def page(done: list[tuple[Path, str]], rows: Path) -> str:
    """The results page."""
    runs = collect([folder for folder, _ in done])
    results = [result for run in runs for result in run.results]
    columns, table = grid(results)
    metric = {result["task"]: main_metric(result) for result in results}
    lines = [
        "# Results",
        "",
        "<!-- made by scripts/real.py (`make real DATA=DIR`) -->",
        "The bundled 7M-parameter model on official dev rows, labels scored, template `plain`, one seed; percent",
        "± standard error over rows. PPO starts from the SFT adapter and ends in the state that was best on held-out",
        "training rows, which may be its start. Majority: always the most common label. Differences below two standard",
        "errors may be chance.",
        "",
        f"| task | metric | n | majority | {' | '.join(columns)} |",
        "|---|---|---|" + "---|" * (len(columns) + 1),
    ]
    for task, row in table.items():
        always = f"{100 * majority(task, rows):.1f}"
        cells = [row[head].text if head in row else "" for head in columns]
        n = next(iter(row.values())).n
        lines.append(f"| {task} | {metric[task]} | {n} | {always} | {' | '.join(cells)} |")
    lines += ["", "All metrics:", "", "| run | metrics | rows cut |", "|---|---|---|"]
    for run in runs:
        for result in run.results:
            values = ", ".join(f"{k} {v:.3f} ± {result['stderr'][k]:.3f}" for k, v in result["metrics"].items())
            lines.append(f"| {run.path.name} | {values} | {result['cut_rows']} |")
    versions = ", ".join(f"{name} {version}" for name, version in environment().items())
    lines += ["", "Commands:", "", "```", *[command for _, command in done], "```", "", f"Made with {versions}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Run what is not there yet, then write the page."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--out", type=Path, default=Path("runs/real"))
    arguments.add_argument("--write", type=Path, default=Path("docs/results.md"))
    given = arguments.parse_args()
    todo = commands(given.out, given.data)
    for folder, command in todo:
        if not (folder / "results.json").is_file():
            print(command, flush=True)
            subprocess.run([sys.executable, "-m", *command.split()], check=True)  # noqa: S603
    given.write.write_text(page(todo, given.data), encoding="utf-8")


if __name__ == "__main__":
    main()
