"""Keeping the best state: on held-out training rows, the start included."""

from __future__ import annotations

import json
from itertools import product

import pytest
import torch

from rl4nlu import data
from rl4nlu.ask import encode
from rl4nlu.config import validate
from rl4nlu.methods import ppo, sft
from rl4nlu.metrics import Outcome, value_of
from rl4nlu.models import load_policy
from rl4nlu.prepare import hold_out
from rl4nlu.selection import BestState
from rl4nlu.settings import PpoSettings, SftSettings
from rl4nlu.tasks import Example, find


def test_rows_are_held_out_once_and_for_all():
    examples = data.load(find("mini/question"), "train", limit=500)
    settings = validate(SftSettings, {"select_rows": 40})
    rest, held = hold_out(examples, settings)
    assert (len(rest), len(held)) == (460, 40)
    assert {e.id for e in rest} | {e.id for e in held} == {e.id for e in examples}
    assert (rest, held) == hold_out(examples, settings)
    assert len(hold_out(examples, validate(SftSettings, {"select_rows": 400}))[1]) == 50
    assert hold_out(examples, validate(SftSettings, {"select_rows": 0})) == (examples, [])


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


@pytest.mark.parametrize("name", ["superglue/record", "superglue/multirc", "glue/rte"])
def test_the_score_of_held_out_rows_tells_policies_apart(name):
    """Rows that a metric counts together are held out together: who is right everywhere has everything, who is wrong
    everywhere nothing. Of single rows of ReCoRD's queries each would be its query's best, whoever says what."""
    task = find(name)
    no, yes = task.labels[:2]
    examples = []
    for d, q, k in product(range(200), range(2), range(4)):
        meta = {"query": f"{d}-{q}", "entity": f"name{k}", "answers": [f"name{q}"]}
        examples.append(Example(f"{d}-{q}-{k}", {}, yes if k == q else no, f"{d}-{q}", meta, str(d)))
    rest, held = hold_out(examples, validate(SftSettings, {"select_rows": 64}))
    assert not {e.document for e in rest} & {e.document for e in held}
    assert len(held) == 64
    scores = []
    for right in (True, False):
        said = [e.label if right else {yes: no, no: yes}[e.label] for e in held]
        outcomes = [Outcome(e, label, 0.0 if label == yes else -9.0) for e, label in zip(held, said, strict=True)]
        scores.append(value_of(task.metrics[0], task, outcomes))
    assert scores == [1.0, 0.0]


def test_what_the_run_to_start_from_held_out_is_held_out_again():
    """All else it has learnt, whatever the seed and the number of rows now."""
    examples = data.load(find("mini/question"), "train", limit=500)
    _, before = hold_out(examples, validate(SftSettings, {"select_rows": 40}))
    ids = [example.id for example in before]
    rest, held = hold_out(examples[:450], validate(PpoSettings, {"select_rows": 16, "seed": 3}), 1, ids)
    assert {e.id for e in held} == set(ids) & {e.id for e in examples[:450]}
    assert len(rest) + len(held) == 450
    assert hold_out(examples, validate(PpoSettings, {"select_rows": 0}), 1, ids) == (examples, [])


def test_ppo_is_chosen_by_rows_that_its_start_has_not_learnt(tmp_path, capsys, tiny_model):
    common = {"task": "mini/question", "model": str(tiny_model), "limit": 100, "eval_limit": 8, "max_steps": 1}
    first, _ = sft.sft(validate(SftSettings, {**common, "out": tmp_path / "sft"}))
    held = json.loads((first.path / "held_out.json").read_text())
    assert len(held["mini/question"]) == 10
    values = {**common, "init": first.path, "seed": 5, "answer_tokens": 2, "answers": 2, "batch_size": 4}
    second, _ = ppo.ppo(validate(PpoSettings, {**values, "out": tmp_path / "ppo"}))
    assert json.loads((second.path / "held_out.json").read_text()) == held
    assert "may have learnt" not in capsys.readouterr().out
    whole, _ = sft.sft(validate(SftSettings, {**common, "select_rows": 0, "out": tmp_path / "whole"}))
    assert not (whole.path / "held_out.json").exists()
    ppo.ppo(validate(PpoSettings, {**values, "init": whole.path, "out": tmp_path / "other"}))
    assert "may have learnt the rows of mini/question by which the best state is chosen" in capsys.readouterr().out
    ppo.ppo(validate(PpoSettings, {**values, "init": whole.path, "task": "mini/sentiment", "out": tmp_path / "third"}))
    assert "may have learnt" not in capsys.readouterr().out
