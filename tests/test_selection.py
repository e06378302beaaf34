"""Keeping the best state: on held-out training rows, the start included."""

from __future__ import annotations

import json

import torch

from rl4nlu import data
from rl4nlu.ask import encode
from rl4nlu.config import validate
from rl4nlu.methods import ppo
from rl4nlu.models import load_policy
from rl4nlu.prepare import hold_out
from rl4nlu.selection import BestState
from rl4nlu.settings import PpoSettings, SftSettings
from rl4nlu.tasks import find


def test_rows_are_held_out_once_and_for_all():
    examples = data.load(find("mini/question"), "train", limit=500)
    settings = validate(SftSettings, {"select_rows": 40})
    rest, held = hold_out(examples, settings)
    assert (len(rest), len(held)) == (460, 40)
    assert {e.id for e in rest} | {e.id for e in held} == {e.id for e in examples}
    assert (rest, held) == hold_out(examples, settings)
    assert len(hold_out(examples, validate(SftSettings, {"select_rows": 400}))[1]) == 50
    assert hold_out(examples, validate(SftSettings, {})) == (examples, [])


def test_the_best_weights_come_back(monkeypatch):
    settings = validate(SftSettings, {"task": "mini/question", "model": "mini", "select_rows": 8})
    policy = load_policy("mini", lora=settings.lora)
    task = find("mini/question")
    held = encode(policy, task, settings, data.load(task, "train", limit=8))
    scores = iter([0.5, 0.6, 0.7, 0.7, 0.2, 0.1])
    monkeypatch.setattr("rl4nlu.selection.value_of", lambda *_: next(scores))
    best = BestState(policy, [held], settings, steps=10)
    best.start()
    logged = {}
    for step in range(1, 11):
        with torch.no_grad():
            for weight in policy.trainable():
                weight.fill_(step)
        logged[step] = best.after(step)
        if step == 5:  # a stop, and a new beginning from what is remembered
            state = best.state()
            best = BestState(policy, [held], settings, steps=10)
            best.load(state)
            best.start()
    assert {step: row["held_out"] for step, row in logged.items() if row} == {2: 0.6, 4: 0.7, 6: 0.7, 8: 0.2, 10: 0.1}
    assert best.put_back() == {"best_step": 4, "held_out": 0.7}
    assert all((weight == 4).all() for weight in policy.trainable())


def test_a_run_that_goes_wrong_ends_where_it_began(tmp_path):
    """A learning rate that destroys the model: the start is kept, the adapter is that of the base model."""
    values = {"task": "mini/question", "model": "mini", "max_steps": 2, "batch_size": 8, "learning_rate": 10.0}
    settings = validate(PpoSettings, {**values, "warmup": 0.0, "eval_limit": 40, "out": tmp_path / "run"})
    run, (result,) = ppo.ppo(settings)
    assert result["best_step"] == 0
    base = load_policy("mini")
    task = find("mini/question")
    question = encode(base, task, settings, data.load(task, "dev", limit=40))
    from rl4nlu.methods.evaluate import measure

    assert result["metrics"] == measure(base, question, settings, "zero-shot")["metrics"]
    logged = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert all("held_out" in row for row in logged)
