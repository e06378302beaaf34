"""Zero-shot label scores against lm-evaluation-harness, given the same texts, row by row.

    python benchmarks/lm_eval_agreement.py --data DIR [--tasks glue/rte,...] [--limit N] [--out FILE.json]

Both sides get the prompts that rl4nlu writes and the same continuations, and sum the log-probabilities of their tokens
in float32: once the bare label words (" Yes"), once the whole answers (" Yes" and the end of the line). "closed set"
counts where rl4nlu's own choice, which renormalises over the closed set of labels, is not the harness's by plain sums
of the label words; with words of one token each the two are the same.

Needs `pip install lm_eval==0.4.13` beside rl4nlu, best in an environment of its own. Exits with 1 if a row gets another
label or a log-probability is off by more than 1e-3.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from rl4nlu import data
from rl4nlu.ask import Question, ask, encode
from rl4nlu.border import common_prefix
from rl4nlu.forward import score
from rl4nlu.models import Policy, load_policy
from rl4nlu.settings import EvaluateSettings
from rl4nlu.sources import mini_folder
from rl4nlu.tasks import find
from rl4nlu.tokens import micro_batches

TASKS = "glue/rte,glue/cola,glue/sst2,superglue/cb,superglue/boolq"
TOLERANCE = 1e-3


@torch.no_grad()
def our_sums(policy: Policy, question: Question, endings: Sequence[str], max_tokens: int) -> list[list[float]]:
    """Sum of the log-probabilities of each continuation's tokens, for every row."""
    pairs = []
    for row in question.rows:
        texts = [row.prompt.text, *(row.prompt.text + ending for ending in endings)]
        alone, *whole = policy.tokenizer(texts)["input_ids"]
        start = len(common_prefix([alone, *whole]))
        pairs.append((whole[0][:start], [ids[start:] for ids in whole]))
    found: dict[int, list[float]] = {}
    for batch in micro_batches(pairs, max_tokens, policy.pad, policy.device):
        sum_BK = score(policy.model, batch, policy.shared).logp_BKA.double().sum(-1)
        found.update(zip(batch.rows, sum_BK.tolist(), strict=True))
    return [found[i] for i in range(len(pairs))]


def their_sums(peer: Any, question: Question, endings: Sequence[str], folder: Path) -> list[list[float]]:
    """The harness's log-likelihood of each continuation, for every row."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    choices = list(endings)
    docs = [{"text": row.prompt.text, "choices": choices, "label": row.prompt.gold or 0} for row in question.rows]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, docs)), encoding="utf-8")
    name = question.task.name.replace("/", "_")
    spec = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(folder / "rows.jsonl")}, "cache_dir": str(folder)},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "doc_to_text": "text",  # the name of a column: taken as it is, no template that might strip it
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 1.0},
    }
    (folder / f"{name}.yaml").write_text(json.dumps(spec), encoding="utf-8")  # JSON is YAML
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    result = lm_eval.simple_evaluate(peer, tasks=[name], task_manager=manager, log_samples=True, bootstrap_iters=0)
    samples = sorted(result["samples"][name], key=lambda sample: sample["doc_id"])
    for sample, doc in zip(samples, docs, strict=True):
        asked = ["".join(request) for request in sample["arguments"]]
        assert asked == [f"{doc['text']}{choice}" for choice in choices], "the harness asked for another text"
    return [[response[0] for response in sample["filtered_resps"]] for sample in samples]


def compare(policy: Policy, peer: Any, name: str, rows: Path, limit: int | None) -> dict[str, Any]:
    """One task's figures."""
    settings = EvaluateSettings(task=name, data=rows)
    task = find(name)
    question = encode(policy, task, settings, data.load(task, "dev", rows, limit))
    words = [f" {task.words[label]}" for label in task.labels]
    figures: dict[str, Any] = {"task": name, "rows": len(question.rows)}
    for kind, endings in (("words", words), ("answers", question.prompter.answers)):
        ours = torch.tensor(our_sums(policy, question, endings, settings.max_tokens), dtype=torch.float64)
        with tempfile.TemporaryDirectory() as folder:
            theirs = torch.tensor(their_sums(peer, question, endings, Path(folder)), dtype=torch.float64)
        figures[f"{kind}: largest difference"] = float((ours - theirs).abs().max())
        figures[f"{kind}: other label"] = int((ours.argmax(1) != theirs.argmax(1)).sum())
        if kind == "words":
            chosen = [task.labels.index(p.label or "") for p in ask(policy, question, "score", settings)]
            figures["closed set: other label"] = int((torch.tensor(chosen) != theirs.argmax(1)).sum())
    return figures


def main() -> int:
    """Compare on every task, print a table. Returns 1 if the target is missed, 2 without the harness."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--tasks", default=TASKS)
    arguments.add_argument("--limit", type=int)
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    if importlib.util.find_spec("lm_eval") is None:
        print("lm_eval is not installed: pip install lm_eval==0.4.13, best beside rl4nlu in an environment of its own")
        return 2
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    from lm_eval.models.huggingface import HFLM

    policy = load_policy("mini", device="cpu", dtype="float32")
    peer = HFLM(pretrained=str(mini_folder()), batch_size=16, dtype="float32", device="cpu")
    found = [compare(policy, peer, name, given.data, given.limit) for name in given.tasks.split(",")]
    table = Table(*found[0], box=None)
    for one in found:
        table.add_row(*(f"{value:.1e}" if isinstance(value, float) else str(value) for value in one.values()))
    Console(width=160).print(table)
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    kinds = ("words", "answers")
    off = [one for one in found for kind in kinds if not one[f"{kind}: largest difference"] <= TOLERANCE]  # NaN too
    other = [one for one in found for kind in kinds if one[f"{kind}: other label"]]
    return int(bool(off or other))


if __name__ == "__main__":
    sys.exit(main())
