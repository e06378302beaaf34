"""Run folders made by hand, for what reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def result(task="glue/rte", method="sft", value=0.7, seed=0, **more) -> dict[str, Any]:
    """One entry of results.json."""
    entry = {"task": task, "method": method, "model": "mini", "shots": 0, "decode": "score", "seed": seed, "n": 100}
    scores = {"metrics": {"accuracy": value}, "stderr": {"accuracy": 0.03}, "unparsable": 0, "split": "dev"}
    return {**entry, **scores, "cut_rows": 0, "seconds": 1.0, **more}


def make_run(
    folder: Path,
    task: str,
    method: str,
    said: Sequence[str | None],
    golds: Sequence[str],
    seed: int = 0,
    sure: Sequence[float] | None = None,
    steps: Sequence[Mapping[str, float]] = (),
    prompts: Mapping[str, str] | None = None,
    settings: str = "",
    **more: Any,
) -> Path:
    """A run that said this to rows of these gold labels.

    Args:
        folder: to make.
        task: its name; it is told by its accuracy.
        method: in results.json.
        said: answers, None for one that could not be parsed.
        golds: gold labels.
        seed: of the run.
        sure: probability of each answer; the other labels share the rest.
        steps: of metrics.jsonl.
        prompts: id of a row -> its prompt.
        settings: of config.yaml.
        more: further entries of the result.
    """
    folder.mkdir(parents=True)
    right = [s == g for s, g in zip(said, golds, strict=True)]
    labels = sorted({*golds, *(one for one in said if one is not None)})
    entry = result(task, method, sum(right) / len(right), seed, **{"n": len(golds), **more})
    (folder / "results.json").write_text(json.dumps({"schema": 1, "results": [entry]}))
    rows = []
    for i, (s, g) in enumerate(zip(said, golds, strict=True)):
        scores = None
        if sure is not None:
            rest = (1 - sure[i]) / (len(labels) - 1)
            scores = {label: math.log(sure[i] if label == s else rest) for label in labels}
        text = None if s is not None or sure is not None else "hm"
        rows.append({"task": task, "id": str(i), "gold": g, "prediction": s, "scores": scores, "text": text})
    (folder / "predictions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    (folder / "command.txt").write_text(f"rl4nlu {method} --task {task} --seed {seed}\n")
    (folder / "config.yaml").write_text(settings or f"task: {task}\nseed: {seed}\n")
    if prompts is not None:
        (folder / "prompts.json").write_text(json.dumps({task: prompts}))
    return folder
