"""lm-evaluation-harness loads a run's adapter, and its merged model, and gives this program's log-probabilities.

Skipped where the harness is not installed: pip install lm_eval==0.4.13 beside rl4nlu, then
pytest tests/test_harness.py
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest
import torch

from rl4nlu import data, merge
from rl4nlu.models import load_policy
from rl4nlu.prompts import Prompter
from rl4nlu.tasks import find
from runs_zoo import train

pytest.importorskip("lm_eval")
ROWS = 12


@torch.no_grad()
def plain_logp(policy, text: str, answer: str) -> float:
    """log P(answer | text) by one plain pass."""
    before = policy.tokenizer(text)["input_ids"]
    ids = policy.tokenizer(text + answer)["input_ids"]
    logp = policy.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logp[i - 1, ids[i]]) for i in range(len(before), len(ids)))


@pytest.mark.parametrize("merged", [False, True])
def test_the_card_s_command_gives_our_log_probabilities(merged, tmp_path):
    """The command as the card has it, on a small task of its own."""
    run = train("mini", tmp_path / "run", max_steps=4)
    folder = run.path
    if merged:
        folder = merge.merge(run.path, tmp_path / "merged", "float32").path
    task = find("mini/question")
    words = [f" {task.words[label]}" for label in task.labels]
    rows = [Prompter(task).prompt(row).text for row in data.load(task, "dev", limit=ROWS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text, "words": words}) + "\n" for text in rows))
    spec = {
        "task": "small",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(tmp_path / "rows.jsonl")}},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "doc_to_text": "text",
        "doc_to_choice": "words",
        "doc_to_target": 0,
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/small.yaml").write_text(json.dumps(spec))  # JSON is YAML
    line = next(one for one in (folder / "README.md").read_text().splitlines() if one.startswith("lm_eval"))
    given = shlex.split(line)
    given[given.index("--tasks") + 1] = "small"
    given[given.index("--model_args") + 1] += ",dtype=float32"
    more = ["--include_path", tmp_path / "tasks", "--device", "cpu", "--output_path", tmp_path / "out", "--log_samples"]
    environment = {**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "lm_eval", *given[1:], *map(str, more)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = (tmp_path / "out").rglob("samples_small_*.jsonl")
    samples = sorted(map(json.loads, file.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    assert [sample["doc"]["text"] for sample in samples] == rows
    policy = load_policy("mini", dtype="float32", adapter=run.path)
    for sample in samples:
        theirs = [float(response[0]) for response in sample["filtered_resps"]]
        ours = [plain_logp(policy, sample["doc"]["text"], word) for word in words]
        assert theirs == pytest.approx(ours, abs=1e-4)
