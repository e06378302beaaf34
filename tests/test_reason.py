"""Free text before the verdict: the question stands before it, the verdict alone is judged, the bridge between them is
nobody's action."""

from __future__ import annotations

import json

import pytest
import torch

from rl4nlu import data, optim
from rl4nlu.actions import roll_out
from rl4nlu.ask import encode
from rl4nlu.config import validate
from rl4nlu.errors import UserError
from rl4nlu.methods import ppo
from rl4nlu.methods.evaluate import evaluate
from rl4nlu.models import load_policy
from rl4nlu.prompts import Prompter
from rl4nlu.rewards import paper_reward
from rl4nlu.rollout import sample, uniforms
from rl4nlu.settings import EvaluateSettings, PpoSettings, SftSettings
from rl4nlu.tasks import find

TASK = "mini/sentiment"


def settings(**values) -> PpoSettings:
    values = {"task": TASK, "model": "mini", "reason": 6, "batch_size": 4, "answers": 3, "answer_tokens": 4, **values}
    return validate(PpoSettings, values)


def start(chosen: PpoSettings, rows: int = 4):
    policy = load_policy("mini", lora=chosen.lora)
    policy.add_value_head()
    return policy, encode(policy, find(TASK), chosen, data.load(find(TASK), "train", limit=rows)).rows[:]


@pytest.mark.parametrize(
    ("template", "end", "bridge"), [("plain", "\nReasoning:", "\nAnswer:"), ("verdict", "\nReasoning:", "\n<verdict>")]
)
def test_question_then_reasoning_then_verdict(template, end, bridge):
    task = find(TASK)
    (row,) = data.load(task, "train", limit=1)
    plain, reasoned = (Prompter(task, template, reason=n).prompt(row).text for n in (0, 8))
    assert reasoned.endswith(end)
    assert Prompter(task, template, reason=8).bridge == bridge
    question = plain if template == "plain" else plain.removesuffix("\n<verdict>")
    assert reasoned == question + end
    assert "<verdict>" not in reasoned.split(row.fields[task.fields[0]].strip())[1]
    assert Prompter(task, template).bridge == ""


@pytest.mark.parametrize("template", ["plain", "verdict"])
def test_tokens_are_those_of_the_whole_text(template):
    """Prompt, text, bridge and answer, put behind each other, read as one text."""
    chosen = settings(template=template)
    policy, rows = start(chosen)
    prompter = rows[0].prompter
    thought = policy.tokenizer(" It is good", add_special_tokens=False)["input_ids"]
    for row in rows:
        for answer, tokens in zip(prompter.answers, row.answers, strict=True):
            text = policy.tokenizer.decode([*row.ids, *thought, *row.bridge, *tokens], skip_special_tokens=True)
            assert text == f"{row.prompt.text} It is good{prompter.bridge}{answer}"


@pytest.mark.parametrize("template", ["plain", "verdict"])
def test_actions_are_the_models_own_tokens(template):
    chosen = settings(template=template, max_tokens=300)
    policy, rows = start(chosen)
    rollout = roll_out(policy, rows, chosen, step=0, longest=8)
    assert rollout.stats["kl"] == 0.0
    uniform = uniforms(4, 3, 10, chosen.seed, "rollout", 0)
    prompter = rows[0].prompter
    thoughts = sample(policy, [r.ids for r in rows], prompter.thought, 6, 4096, uniform[:, :, :6])
    n = 0
    for b, row in enumerate(rows):
        for k, thought in enumerate(thoughts[b]):
            before = (*row.ids, *thought.tokens, *row.bridge)
            ((verdict,),) = sample(policy, [before], prompter.finished, 4, 4096, uniform[b : b + 1, k : k + 1, 6:])
            assert rollout.rows[b][1][k] == (*thought.tokens, *row.bridge, *verdict.tokens)
            own = torch.tensor([*thought.logp, *verdict.logp])  # as sampled, the bridge not among them
            assert torch.allclose(rollout.logp_NA[n][rollout.mask_NA[n]], own, atol=1e-5)
            label = prompter.parse(verdict.text)
            assert float(rollout.score_N[n]) == paper_reward(prompter.task, label, row.prompt.example)
            n += 1
    optimizer = optim.make_optimizer(chosen, policy.trainable())
    stats = ppo.update(policy, optimizer, rollout, chosen, kl_coef=0.05, rate=1e-3, step=0)
    assert abs(stats["first_ratio"] - 1) <= 1e-5


@pytest.mark.parametrize("decode", ["score", "greedy", "sample"])
def test_evaluation_reasons_too(tmp_path, decode):
    chosen = validate(
        EvaluateSettings,
        {"task": TASK, "model": "mini", "reason": 5, "decode": decode, "limit": 6, "out": tmp_path / "run"},
    )
    run, (result,) = evaluate(chosen)
    assert result["reason"] == 5
    rows = [json.loads(line) for line in (run.path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert any(row["reasoning"] for row in rows)
    assert all("Answer:" not in row["reasoning"] for row in rows)


def test_an_adapter_that_was_trained_to_reason_is_asked_to(tmp_path):
    run, (result,) = ppo.ppo(settings(max_steps=1, eval_limit=4, select_rows=16, out=tmp_path / "run"))
    assert result["reason"] == 6
    chosen = validate(EvaluateSettings, {"adapter": run.path, "limit": 4, "out": tmp_path / "again"})
    _, (again,) = evaluate(chosen)
    assert again["reason"] == 6
    assert again["metrics"] == result["metrics"]


@pytest.mark.parametrize(
    ("kind", "values", "match"),
    [
        (SftSettings, {}, "no reasoning to learn from"),
        (PpoSettings, {"actions": "labels"}, "needs free text"),
        (PpoSettings, {"estimator": "expected"}, "needs free text"),
        (PpoSettings, {"oversample": 2}, "leave out --reason"),
        (EvaluateSettings, {"calibrate": "batch"}, "leave out --reason"),
    ],
)
def test_what_does_not_go_with_it_is_refused(kind, values, match):
    with pytest.raises(UserError, match=match):
        validate(kind, {"task": TASK, "model": "mini", "reason": 4, **values})
