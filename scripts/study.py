"""The runs of a suite -> their block in docs/results.md: scores and costs; of configs/study.yaml also its planned
comparisons and learning curves.

    python scripts/study.py runs/study [--write docs/results.md]
    python scripts/study.py runs/bundle

What is compared was fixed before the runs were made: every method with reinforcement learning against SFT that has seen
as many examples, and those that start from SFT against SFT with about the same compute. Tasks of which runs are missing
are left out and named.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from blocks import replace_block

from rl4nlu.compare import Difference, compare, holm, interval
from rl4nlu.reports import RunView, collect, outcomes_of
from rl4nlu.tables import best_of, grid, main_metric, p_text
from rl4nlu.tasks import find

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams["svg.hashsalt"] = "rl4nlu"  # the same curves are the same file

EQUAL_EXAMPLES = [(rl, "sft") for rl in ("sft+ppo", "sft+rloo", "sft+expected", "hybrid", "expected")]
EQUAL_COMPUTE = [(rl, "sft-long") for rl in ("sft+ppo", "sft+rloo")]
COLOURS = {
    "sft": "#1b2430",
    "sft+ppo": "#d1495b",
    "sft+rloo": "#e0a100",
    "sft+expected": "#2a7f62",
    "hybrid": "#3b6fb6",
    "expected": "#8a5fbf",
}
LOOKED_AT = [("expected", "sft-long", ""), ("expected", "sft", "glue/sst2")]
"""Differences that came to mind with the results at hand, and a task left out of them."""
Runs = dict[str, dict[str, list[RunView]]]
"""Task -> method -> its runs, a seed each."""


def read(folder: Path) -> tuple[Runs, list[str]]:
    """The finished runs of tasks of which none is missing, and the other tasks."""
    planned: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in json.loads((folder / "suite.json").read_text(encoding="utf-8"))["runs"]:
        if run["name"].startswith("runs/"):
            planned[run["task"]].append(run)
    whole = [task for task, runs in planned.items() if all(run["state"] == "done" for run in runs)]
    found: Runs = {}
    for task in whole:
        found[task] = defaultdict(list)
        for run in planned[task]:
            found[task][run["method"]] += collect([folder / run["name"]])
    return found, [task for task in planned if task not in whole]


def passes(run: RunView) -> float | None:
    """Thousands of times that a training prompt went through the model forwards, or backwards counted as two."""
    values = yaml.safe_load(run.settings)
    (result,) = run.results
    if "steps" not in result:
        return None
    a_row = 3.0
    if "inner_epochs" in values:
        sampled = 0 if values["actions"] == "labels" or values["estimator"] == "expected" else 1
        a_row = sampled + 2 + 3 * values["inner_epochs"]  # sampling, old and reference scores, updates
    return result["steps"] * values["batch_size"] * a_row / 1000


def examples(run: RunView) -> int:
    """Training examples seen by a run itself."""
    values = yaml.safe_load(run.settings)
    return run.results[0].get("steps", 0) * values.get("batch_size", 0)


def scores_table(runs: Runs) -> list[str]:
    """Tasks x methods: mean over seeds and its 95 % interval."""
    heads, table = grid(
        [result for methods in runs.values() for found in methods.values() for run in found for result in run.results]
    )
    metric = {task: main_metric(found["sft"][0].results[0]) for task, found in runs.items()}
    lines = [f"| task | metric | n | {' | '.join(heads)} |", "|---|---|---|" + "---|" * len(heads)]
    for task, row in table.items():
        texts = []
        for head in heads:
            cell = row[head]
            half = f" ± {100 * cell.error:.1f}"
            bold = "**" if head in best_of(row) else ""
            texts.append(f"{bold}{100 * cell.value:.1f}{half}{bold}")
        lines.append(f"| {task} | {metric[task]} | {row['sft'].n} | {' | '.join(texts)} |")
    means = [f"{100 * statistics.fmean(row[head].value for row in table.values()):.1f}" for head in heads]
    lines.append(f"| average | | | {' | '.join(means)} |")
    return lines


def tests(runs: Runs, pairs: Sequence[tuple[str, str]]) -> list[Difference]:
    """Paired bootstraps of these pairs on every task."""
    found = []
    for task, methods in runs.items():
        kind = find(task)
        for pair in pairs:
            seeds = {name: [outcomes_of(kind, run.predictions) for run in methods[name]] for name in pair}
            found += compare(kind, seeds)
    return found


def overall(runs: Runs, a: str, b: str) -> tuple[float, float, float]:
    """Mean over the tasks of a less b, seed by seed; mean and 95 % interval over the seeds."""

    def values(name: str) -> np.ndarray:
        return np.array(
            [[run.results[0]["metrics"][main_metric(run.results[0])] for run in found[name]] for found in runs.values()]
        )

    return interval((values(a) - values(b)).mean(0).tolist())


def tests_table(runs: Runs) -> list[str]:
    """Every planned comparison: the mean over tasks, and each task's own."""
    plan = {"equal examples": EQUAL_EXAMPLES, "equal compute": EQUAL_COMPUTE}
    found: dict[tuple[str, str], list[Difference]] = {pair: [] for pairs in plan.values() for pair in pairs}
    for one in holm(tests(runs, list(found))):
        found[one.a, one.b].append(one)
    lines = ["| at | method | against | mean over tasks | better on | worse on |", "|---|---|---|---|---|---|"]
    for kind, pairs in plan.items():
        for a, b in pairs:
            mean, low, high = overall(runs, a, b)
            said = [
                ", ".join(
                    f"{one.task} {100 * one.delta:+.1f} (p {p_text(one.p)})"
                    for one in found[a, b]
                    if one.real and (one.delta > 0) is better
                )
                for better in (True, False)
            ]
            lines.append(f"| {kind} | {a} | {b} | {span(mean, low, high)} | {said[0] or '-'} | {said[1] or '-'} |")
    more = [
        f"{a} against {b}{f' without {left_out}' if left_out else ''} "
        + span(*overall({task: found for task, found in runs.items() if task != left_out}, a, b))
        for a, b, left_out in LOOKED_AT
    ]
    return [*lines, "", f"Looked at later, not planned: {'; '.join(more)}."]


def span(mean: float, low: float, high: float) -> str:
    """A difference in percent with its interval."""
    return f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def cost_table(runs: Runs) -> list[str]:
    """What each method costs, added over the tasks: one seed."""
    lines = ["| method | training examples | passes (thousands) | of them the SFT start's |", "|---|---|---|---|"]
    names = [name for name, found in next(iter(runs.values())).items() if passes(found[0]) is not None]
    for name in names:
        own = sum(passes(found[name][0]) or 0 for found in runs.values())
        seen = sum(examples(found[name][0]) for found in runs.values())
        start = 0.0
        if init := yaml.safe_load(next(iter(runs.values()))[name][0].settings).get("init"):
            first = Path(init).parts[-2]
            start = sum(passes(found[first][0]) or 0 for found in runs.values())
            seen += sum(examples(found[first][0]) for found in runs.values())
        lines.append(f"| {name} | {seen:,} | {own + start:.1f} | {start:.1f} |")
    return lines


def chosen(folder: Path) -> list[str]:
    """The learning rates that held-out training rows chose for SFT."""
    found = json.loads((folder / "suite.json").read_text(encoding="utf-8"))["chosen"]["sft"]
    return [f"{task} {choice['settings']['learning_rate']:g}" for task, choice in found.items()]


def draw(runs: Runs, path: Path) -> None:
    """Held-out score against training examples seen, a panel a task: mean over seeds, band of a standard deviation."""
    columns = min(4, len(runs))
    rows = -(-len(runs) // columns)
    size = (max(7, 3.2 * columns), 2.4 * rows + 0.7)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for place in axes.flat[len(runs) :]:
        place.axis("off")
    for place, (task, methods) in zip(axes.flat, runs.items(), strict=False):
        for name, colour in COLOURS.items():
            curves = [
                curve(run, examples(methods["sft-half"][0]) if name.startswith("sft+") else 0) for run in methods[name]
            ]
            at = [x for x, _ in curves[0]]
            values = 100 * np.array([[y for _, y in one] for one in curves])
            mean, spread = values.mean(0), values.std(0)
            place.plot(at, mean, color=colour, marker=".", linewidth=1.5, label=name)
            place.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.12, linewidth=0)
        place.set_title(task, fontsize=9)
        place.tick_params(labelsize=7)
        place.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8, frameon=False)
    figure.supxlabel("training examples seen", fontsize=9)
    figure.supylabel("held-out score, %", fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def curve(run: RunView, before: int) -> list[tuple[int, float]]:
    """(training examples seen, score on held-out training rows) of a run that starts after so many examples."""
    size = yaml.safe_load(run.settings)["batch_size"]
    return [(before + size * step["step"], step["held_out"]) for step in run.steps if "held_out" in step]


def main() -> None:
    """Read the runs, write the block and the picture."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--write", type=Path, default=Path("docs/results.md"))
    given = arguments.parse_args()
    runs, missing = read(given.folder)
    if not runs:
        raise SystemExit(f"{given.folder}: no task of which all runs are done")
    name = given.folder.name
    methods = next(iter(runs.values()))
    planned = all(method in methods for pair in (*EQUAL_EXAMPLES, *EQUAL_COMPUTE) for method in pair)
    lines = [
        *scores_table(runs),
        "",
        "Dev rows, percent, mean over three seeds ± half of the 95 % interval by Student's t (one run alone: ± its",
        "standard error over rows).",
        *([f"Not finished, so left out: {', '.join(missing)}."] if missing else []),
        "",
    ]
    if planned:
        lines += [
            "Planned comparisons. Mean over the tasks with its 95 % interval over seeds; then the tasks on which the",
            "t test over rows and seeds calls the difference real (p adjusted for all these tests by Holm).",
            "",
            *tests_table(runs),
            "",
        ]
    lines += [
        "Cost of one seed, all tasks: a pass is one prompt through the model forwards; backwards counts as two.",
        "",
        *cost_table(runs),
    ]
    if planned:
        picture = given.write.with_name(f"{name}-curves.svg")
        draw(runs, picture)
        lines += [
            "",
            "Learning rate of SFT, chosen on held-out training rows with the first seed:",
            f"{', '.join(chosen(given.folder))}.",
            "",
            f"![Learning curves]({picture.name})",
        ]
    replace_block(given.write, name, f"python scripts/study.py runs/{name}", lines)


if __name__ == "__main__":
    main()
