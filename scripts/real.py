"""The bundled model and the baselines on official GLUE and SuperGLUE rows -> their block in docs/results.md.

    python scripts/real.py --data DIR [--out runs/real] [--write docs/results.md]

Zero-shot, few-shot, SFT, PPO and classification heads; then what the decoding protocol and the calibration of label
words change. Every run is a command of its own, printed and written down as it was run; finished ones are not run
again.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
from pathlib import Path

from blocks import replace_block

from rl4nlu import data
from rl4nlu.metrics import Outcome, value_of
from rl4nlu.reports import RunView, collect
from rl4nlu.run import environment
from rl4nlu.tables import Cell, grid, main_metric
from rl4nlu.tasks import find

SFT_STEPS = {
    "glue/cola": 400,
    "glue/sst2": 600,
    "glue/mrpc": 200,
    "glue/stsb": 400,
    "glue/rte": 150,
    "superglue/cb": 80,
    "superglue/wic": 300,
}
PPO_STEPS, SHOTS = 60, 5
HEADS = {"glue/cola": "", "glue/sst2": " --limit 2000", "glue/mrpc": "", "glue/stsb": "", "glue/rte": ""}
"""Tasks of the classification heads -> more flags."""
STUDIED = ("glue/cola", "glue/sst2", "glue/mrpc", "glue/rte", "superglue/cb")
"""Tasks on which protocols and calibrations are compared."""
PROTOCOLS = {
    "score": "",
    "greedy": " --decode greedy",
    "sample": " --decode sample",
    "random": " --decode sample --unparsable random",
}
CALIBRATIONS = ("none", "contextual", "batch", "domain")


def commands(folder: Path, rows: Path) -> dict[str, str]:
    """Run folder -> command, in the order in which they must run."""
    found = {}
    for task, steps in SFT_STEPS.items():
        name = task.split("/")[1]
        common = f"--task {task} --model mini --data {rows}"
        found[f"zero-{name}"] = f"rl4nlu evaluate {common}"
        found[f"few-{name}"] = f"rl4nlu evaluate {common} --shots {SHOTS}"
        found[f"sft-{name}"] = f"rl4nlu sft {common} --max-steps {steps}"
        found[f"ppo-{name}"] = f"rl4nlu ppo {common} --max-steps {PPO_STEPS} --init {folder / f'sft-{name}'}"
    for task, more in HEADS.items():
        name = task.split("/")[1]
        for kind, model in (("encoder", "minilm"), ("head", "mini")):
            found[f"{kind}-{name}"] = f"rl4nlu classify --task {task} --model {model} --data {rows}{more}"
    for task in STUDIED:
        name = task.split("/")[1]
        common = f"rl4nlu evaluate --task {task} --data {rows}"
        for protocol, flags in PROTOCOLS.items():
            if protocol != "score":
                found[f"zero-{name}-{protocol}"] = f"{common} --model mini{flags}"
                found[f"sft-{name}-{protocol}"] = f"{common} --adapter {folder / f'sft-{name}'}{flags}"
        for method in CALIBRATIONS[1:]:
            found[f"zero-{name}-{method}"] = f"{common} --model mini --calibrate {method}"
            found[f"few-{name}-{method}"] = f"{common} --model mini --shots {SHOTS} --calibrate {method}"
    return {name: f"{command} --out {folder / name}" for name, command in found.items()}


def majority(task_name: str, rows: Path) -> str:
    """The task's first metric for always giving the dev split's most common label."""
    task = find(task_name)
    if task.numeric:
        return "0.0"  # a constant has no correlation
    examples = data.load(task, "dev", rows)
    (most_common, _), *_ = collections.Counter(example.label for example in examples).most_common(1)
    return f"{100 * value_of(task.metrics[0], task, [Outcome(example, most_common) for example in examples]):.1f}"


def main_table(runs: dict[str, RunView], rows: Path) -> list[str]:
    """Tasks x methods."""
    results = [result for name, run in runs.items() if name.count("-") == 1 for result in run.results]
    columns, table = grid(results)
    metric = {result["task"]: main_metric(result) for result in results}
    lines = [f"| task | metric | n | majority | {' | '.join(columns)} |", "|---|---|---|" + "---|" * (len(columns) + 1)]
    for task, row in table.items():
        cells = [row[head].text if head in row else "" for head in columns]
        n = next(iter(row.values())).n
        lines.append(f"| {task} | {metric[task]} | {n} | {majority(task, rows)} | {' | '.join(cells)} |")
    return lines


def score_of(run: RunView) -> str:
    """The first metric of a run's only result."""
    (result,) = run.results
    name = main_metric(result)
    return Cell(result["metrics"][name], result["stderr"][name], result["n"], 1).text


def protocol_table(runs: dict[str, RunView]) -> list[str]:
    """What the decoding protocol changes."""
    lines = [
        "| task | method | labels scored | greedy | sampled | sampled, random label | unparsable greedy / sampled |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for task in STUDIED:
        name = task.split("/")[1]
        for method in ("zero", "sft"):
            found = [runs[f"{method}-{name}" + ("" if p == "score" else f"-{p}")] for p in PROTOCOLS]
            (greedy,), (sampled,) = found[1].results, found[2].results
            lost = f"{greedy['unparsable']} / {sampled['unparsable']} of {greedy['n']}"
            lines.append(f"| {task} | {found[0].results[0]['method']} | {' | '.join(map(score_of, found))} | {lost} |")
    return lines


def calibration_table(runs: dict[str, RunView]) -> list[str]:
    """What the calibration of label words changes."""
    lines = [f"| task | method | {' | '.join(CALIBRATIONS)} |", "|---|---|" + "---|" * len(CALIBRATIONS)]
    for task in STUDIED:
        name = task.split("/")[1]
        for method in ("zero", "few"):
            found = [runs[f"{method}-{name}" + ("" if c == "none" else f"-{c}")] for c in CALIBRATIONS]
            lines.append(f"| {task} | {found[0].results[0]['method']} | {' | '.join(map(score_of, found))} |")
    return lines


def agreement(folder: Path, rows: Path) -> list[str]:
    """Label scores against lm-evaluation-harness, where that was run (it wants an environment of its own)."""
    file = folder / "lm_eval.json"
    if not file.is_file():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    heads = list(found[0])
    return [
        "### Agreement with lm-evaluation-harness 0.4.13",
        "",
        "Zero-shot scores of the same texts in float32, all dev rows: bare label words, and whole answers with the end",
        "of the line. Largest difference of a log-probability, and rows for which the harness chooses another label.",
        "",
        f"| {' | '.join(heads)} |",
        "|---|" + "---|" * (len(heads) - 1),
        *(f"| {' | '.join(f'{v:.1e}' if isinstance(v, float) else str(v) for v in one.values())} |" for one in found),
        "",
        f"Command: `python benchmarks/lm_eval_agreement.py --data {rows} --out {file}`",
        "",
    ]


def block(folder: Path, done: dict[str, str], rows: Path) -> str:
    """The block of the results page."""
    runs = dict(zip(done, collect([folder / name for name in done]), strict=True))
    every = []
    for name, run in runs.items():
        for result in run.results:
            values = ", ".join(f"{k} {v:.3f} ± {result['stderr'][k]:.3f}" for k, v in result["metrics"].items())
            every.append(f"| {name} | {values} | {result['unparsable']} | {result['cut_rows']} |")
    versions = ", ".join(f"{name} {version}" for name, version in environment().items())
    return "\n".join(
        [
            "The bundled 7M-parameter model `mini` and, as an encoder, MiniLM (22M) on official dev rows; template",
            "`plain`, one seed; percent ± standard error over rows. Prompted models have their labels scored. PPO",
            "starts from the SFT adapter and ends in the state that was best on held-out training rows, which may be",
            "its start. `classify (minilm)`: all weights of the encoder with a classification head, three epochs;",
            "`classify (mini)`: the decoder with LoRA and a head, three epochs; both on SST-2 with 2,000",
            "training rows. Majority: always the most common label. Differences below two standard errors may be",
            "chance.",
            "",
            *main_table(runs, rows),
            "",
            "### Decoding protocols",
            "",
            "The same models, their answers scored over the closed set of labels, decoded greedily, or sampled at",
            "temperature 1; an answer that cannot be parsed counts as wrong, or gets a random label (the protocol of",
            "the paper's released evaluation).",
            "",
            *protocol_table(runs),
            "",
            "### Calibration of label words",
            "",
            "Contextual calibration (Zhao et al. 2021), batch calibration (Zhou et al. 2024) and domain-conditional",
            f"PMI (Holtzman et al. 2021), zero-shot and with {SHOTS} examples.",
            "",
            *calibration_table(runs),
            "",
            *agreement(folder, rows),
            "### All metrics",
            "",
            "| run | metrics | unparsable | rows cut |",
            "|---|---|---|---|",
            *every,
            "",
            "### Commands",
            "",
            "```",
            *done.values(),
            "```",
            "",
            f"Made with {versions}.",
            "",
        ]
    )


def main() -> None:
    """Run what is not there yet, then write the page."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--out", type=Path, default=Path("runs/real"))
    arguments.add_argument("--write", type=Path, default=Path("docs/results.md"))
    given = arguments.parse_args()
    todo = commands(given.out, given.data)
    for name, command in todo.items():
        if not (given.out / name / "results.json").is_file():
            begun = (given.out / name / "status.json").is_file()
            words = ["rl4nlu", "resume", str(given.out / name)] if begun else command.split()
            print(*words, flush=True)
            subprocess.run([sys.executable, "-m", *words], check=True)  # noqa: S603
    replace_block(given.write, "methods", f"make real DATA={given.data}", [block(given.out, todo, given.data)])


if __name__ == "__main__":
    main()
