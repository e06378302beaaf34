"""All that a run has come to, to compare one run with another."""

from __future__ import annotations

import json
from pathlib import Path

TIMINGS = ("examples_per_second", "tokens_per_second")


def logged(run: Path) -> list[dict]:
    """The logged steps, without how long they took; there are neither gaps nor doubles."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)), "gaps or doubles"
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows]


def outcome(run: Path) -> dict[str, object]:
    """Weights, optimizer, logs, predictions and results, but how long it took. Of the checkpoints the last one: the one
    before is of whatever step a signal came at."""
    found: dict[str, object] = {}
    older = sorted((run / "checkpoints").glob("step-*"))[:-1]
    for path in sorted(run.rglob("*")):
        if path.parent in older:
            continue
        if path.suffix in (".safetensors", ".jsonl") or path.name in ("state.json", "label_bias.json"):
            found[str(path.relative_to(run))] = path.read_bytes()
    if (run / "metrics.jsonl").exists():
        found["metrics.jsonl"] = logged(run)
    results = json.loads((run / "results.json").read_text())["results"]
    found["results.json"] = [{k: v for k, v in result.items() if k != "seconds"} for result in results]
    return found


def assert_same_outcome(one: Path, other: Path, but: tuple[str, ...] = ()) -> None:
    a, b = (
        {k: v for k, v in outcome(run).items() if not k.startswith(but)} if but else outcome(run)
        for run in (one, other)
    )
    assert set(a) == set(b)
    assert [name for name in a if a[name] != b[name]] == []
