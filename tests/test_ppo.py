"""PPO: the identities of its first step, the reference, its invariances, and that it learns."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from policies import assert_same_gradients
from rl4nlu import data, optim
from rl4nlu.actions import roll_out
from rl4nlu.ask import encode
from rl4nlu.config import validate, with_preset
from rl4nlu.errors import UserError
from rl4nlu.forward import score
from rl4nlu.methods import ppo, sft
from rl4nlu.models import load_policy
from rl4nlu.prepare import prepare_training, shots_of
from rl4nlu.settings import PpoSettings, SftSettings
from rl4nlu.suites.study import INHERITED
from rl4nlu.tasks import find
from rl4nlu.tokens import micro_batches
from rl4nlu.trained import continue_from, trained_settings

TASK = "mini/acceptability"


def settings(**values) -> PpoSettings:
    return validate(PpoSettings, {"task": TASK, "model": "mini", "batch_size": 8, "answer_tokens": 5, **values})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short SFT run to start from."""
    out = tmp_path_factory.mktemp("sft") / "run"
    values = {"max_steps": 25, "eval_limit": 20, "select_rows": 16}
    sft.sft(validate(SftSettings, {"task": TASK, "model": "mini", **values, "out": out}))
    return out


def test_what_a_preset_says_of_lora_is_no_wish_of_the_users(trained):
    """Going on from a run, its adapter is what it is; only who says otherwise himself is refused."""
    values = {"task": TASK, "init": trained, "preset": "paper"}
    chosen = validate(SftSettings, with_preset(SftSettings, values))
    assert chosen.lora.dropout == 0.05
    assert continue_from(chosen).lora == trained_settings(trained).lora
    with pytest.raises(UserError, match="leave it out"):
        continue_from(validate(SftSettings, with_preset(SftSettings, {**values, "lora": {"r": 8}})))


def start(chosen: PpoSettings):
    """Policy and question, as the command makes them."""
    init = chosen.init
    policy = load_policy(chosen.model, lora=chosen.lora, adapter=init, reference=init is not None, seed=chosen.seed)
    policy.add_value_head()
    task = find(chosen.task)
    return policy, encode(policy, task, chosen, data.load(task, "train", limit=64))


@pytest.mark.parametrize("from_sft", [False, True])
@pytest.mark.parametrize("answers", [1, 3])
def test_the_first_step_starts_at_the_reference(trained, from_sft, answers):
    chosen = settings(init=trained if from_sft else None, answers=answers, max_tokens=512)
    policy, question = start(chosen)
    rollout = roll_out(policy, question.rows[:8], chosen, 0, longest=8)
    assert rollout.stats["kl"] == 0.0
    assert torch.equal(rollout.logp_NA, rollout.ref_logp_NA)
    assert rollout.mask_NA.any(1).all()
    optimizer = optim.make_optimizer(chosen, policy.trainable())
    stats = ppo.update(policy, optimizer, rollout, chosen, kl_coef=0.05, rate=1e-4, step=0)
    assert abs(stats["first_ratio"] - 1) <= 1e-5
    one = settings(init=chosen.init, answers=answers, inner_epochs=1)
    policy, question = start(one)
    rollout = roll_out(policy, question.rows[:8], one, 0, longest=8)
    stats = ppo.update(policy, optim.make_optimizer(one, policy.trainable()), rollout, one, 0.05, 1e-4, 0)
    assert stats["clipfrac"] == 0
    assert abs(stats["approx_kl"]) <= 1e-9


def test_the_reference_is_the_sft_adapter_and_stays_it(trained):
    chosen = settings(init=trained)
    policy, question = start(chosen)
    rows = [(row.ids, row.answers) for row in question.rows[:8]]
    batch = next(micro_batches(rows, 10_000, pad=0))

    def logp(model) -> torch.Tensor:
        with torch.no_grad():
            return score(model, batch, shared=True).logp_BKA

    alone = logp(load_policy("mini", adapter=trained).model)
    base = logp(load_policy("mini").model)
    with policy.as_reference():
        before = logp(policy.model)
    assert torch.equal(before, alone)
    assert not torch.allclose(before, base, atol=0.1)
    optimizer = optim.make_optimizer(chosen, policy.trainable())
    for step in range(2):
        rollout = roll_out(policy, question.rows[:8], chosen, step, longest=8)
        ppo.update(policy, optimizer, rollout, chosen, 0.05, 1e-3, step)
    with policy.as_reference():
        assert torch.equal(logp(policy.model), before)
    assert not torch.allclose(logp(policy.model), before, atol=1e-3)
    with policy.model.disable_adapter():
        assert torch.equal(logp(policy.model), base), "without adapters the model is the base model, to the bit"
    assert rollout.stats["kl"] != 0


def test_dropout_is_off_and_only_lora_and_value_head_train(tmp_path):
    """Also of a start that was trained with it, as the paper's preset does."""
    values = {"task": TASK, "model": "mini", "max_steps": 1, "batch_size": 4, "eval_limit": 4, "select_rows": 0}
    sft.sft(validate(SftSettings, {**values, "lora": {"dropout": 0.5}, "out": tmp_path / "start"}))
    chosen = settings(init=tmp_path / "start", inner_epochs=1)
    policy, question = start(chosen)
    layers = [module for module in policy.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert any(layer.p == 0.5 for layer in layers)
    rollout = roll_out(policy, question.rows[:8], chosen, 0, longest=8)
    assert rollout.stats["kl"] == 0.0
    stats = ppo.update(policy, optim.make_optimizer(chosen, policy.trainable()), rollout, chosen, 0.05, 1e-4, 0)
    assert abs(stats["first_ratio"] - 1) <= 1e-5
    assert stats["clipfrac"] == 0
    assert not policy.model.training
    names = [name for name, weight in policy.model.named_parameters() if weight.requires_grad]
    assert names
    assert all("lora_" in name and ".default." in name for name in names)
    assert len(policy.trainable()) == len(names) + 2


def test_the_critic_of_a_run_goes_on_in_the_next(tmp_path, trained, monkeypatch):
    values = {"select_rows": 0, "max_steps": 2, "eval_limit": 4}
    first, _ = ppo.ppo(settings(init=trained, **values, out=tmp_path / "first"))
    kept = load_file(first.path / "value_head.safetensors")["weight"]
    assert kept.abs().max() > 0
    policy = load_policy("mini", adapter=first.path)
    policy.add_value_head()
    assert policy.load_value_head(first.path)
    assert torch.equal(policy.value_head.weight.detach(), kept)
    assert not policy.load_value_head(trained)
    began = []
    real = ppo.update

    def seen(policy, *rest):
        began.append(policy.value_head.weight.detach().clone())
        return real(policy, *rest)

    monkeypatch.setattr(ppo, "update", seen)
    ppo.ppo(settings(init=first.path, **values, out=tmp_path / "second"))
    assert torch.equal(began[0], kept)


@pytest.mark.parametrize("answers", [1, 2])
def test_micro_batches_leave_the_gradient_alone(trained, gradients, answers):
    for max_tokens in (10_000, 48):
        chosen = settings(init=trained, answers=answers, max_tokens=max_tokens, inner_epochs=1)
        policy, question = start(chosen)
        rollout = roll_out(policy, question.rows[:8], chosen, 0, longest=8)
        ppo.update(policy, optim.make_optimizer(chosen, policy.trainable()), rollout, chosen, 0.05, 1e-4, 0)
    assert_same_gradients(*gradients)


def test_rewards_of_a_rollout_are_those_of_its_texts(trained):
    chosen = settings(init=trained, answers=2)
    policy, question = start(chosen)
    rollout = roll_out(policy, question.rows[:8], chosen, 0, longest=8)
    task, n = find(TASK), 0
    for row, (prompt, answers) in zip(question.rows[:8], rollout.rows, strict=True):
        assert tuple(prompt) == row.ids
        for tokens in answers:
            text = policy.tokenizer.decode(tokens, skip_special_tokens=True)
            word = text.strip().split("\n")[0]
            expected = {"Yes": "acceptable", "No": "unacceptable"}.get(word)
            gold = row.prompt.example.label
            assert float(rollout.score_N[n]) == (-3 if expected is None else 1 if expected == gold else -1)
            n += 1
    assert rollout.stats["reward"] == pytest.approx(float(rollout.score_N.mean()))
    assert task.numeric is False


@pytest.mark.slow
def test_it_learns_and_repeats_to_the_bit(trained, tmp_path):
    common = {"init": trained, "max_steps": 24, "batch_size": 32, "eval_limit": 200, "learning_rate": 3e-4}
    run, (result,) = ppo.ppo(settings(**common, out=tmp_path / "a"))
    steps = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    first, last = (sum(s["accuracy"] for s in part) / 4 for part in (steps[:4], steps[-4:]))
    assert last > first + 0.1
    assert result["n"] == 200
    again, _ = ppo.ppo(settings(**common, out=tmp_path / "b"))
    for name in ("adapter/adapter_model.safetensors", "value_head.safetensors"):
        assert (run.path / name).read_bytes() == (again.path / name).read_bytes()


def test_from_the_base_model_and_numeric_rewards(tiny_model):
    """PPO needs no SFT run before it; an unparsable answer's reward is -3. A random model hardly says any other."""
    chosen = settings(task="mini/sentiment", model=str(tiny_model))
    policy, question = start(chosen)
    rollout = roll_out(policy, question.rows[:16], chosen, 0, longest=8)
    assert rollout.stats["unparsable"] > 0.5
    assert float(rollout.score_N.min()) == -3.0


def test_a_start_brings_its_own_settings(tmp_path):
    """Model, template, examples and LoRA are those of the run to start from; nothing is silently mixed, and the seed is
    one's own."""
    values = {"task": TASK, "model": "mini", "max_steps": 1, "eval_limit": 8, "template": "verdict", "lora": {"r": 4}}
    values |= {"shots": 2, "seed": 3}
    first, _ = sft.sft(validate(SftSettings, {**values, "out": tmp_path / "first"}))
    chosen = {"task": TASK, "init": first.path, "max_steps": 1, "batch_size": 4, "eval_limit": 8, "seed": 5}
    second, (result,) = ppo.ppo(validate(PpoSettings, {**chosen, "out": tmp_path / "second"}))
    assert result["template"] == "verdict"
    assert (result["shots"], result["seed"]) == (2, 5)
    saved = (second.path / "config.yaml").read_text()
    assert "shots_seed: 3" in saved
    shown = {example.id for example in shots_of(find(TASK), validate(SftSettings, {**values, "out": None}))}
    rows = prepare_training(validate(PpoSettings, {**chosen, "out": tmp_path / "third"}))
    assert {example.id for example in rows.shots[TASK]} == shown
    asked = validate(PpoSettings, {**chosen, "out": tmp_path / "third"})
    brought = {key for key in type(asked).model_fields if getattr(rows.settings, key) != getattr(asked, key)}
    assert {"model", "template", "shots", "shots_seed", "lora"} <= brought <= set(INHERITED)  # a suite knows of them
    assert not shown & {example.id for example in (*rows.learnt[TASK], *rows.held[TASK])}
    assert "r: 4" in saved
    assert "model: mini" in saved
    assert json.loads((second.path / "adapter" / "adapter_config.json").read_text())["r"] == 4
