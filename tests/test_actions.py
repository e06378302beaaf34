"""Labels as actions, and every estimator on the same rollouts: identities of the first step, invariances, learning."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from policies import assert_same_gradients
from reference import ppo as reference
from rl4nlu import data, optim
from rl4nlu.actions import roll_out, rows_to_rescore, score_labels
from rl4nlu.ask import encode, label_logp
from rl4nlu.config import validate
from rl4nlu.errors import UserError
from rl4nlu.forward import score
from rl4nlu.losses import sft_loss
from rl4nlu.methods import ppo
from rl4nlu.methods.evaluate import evaluate
from rl4nlu.mixture import Mixture
from rl4nlu.models import load_policy
from rl4nlu.rewards import paper_reward
from rl4nlu.settings import EvaluateSettings, PpoSettings
from rl4nlu.sources import mini_folder
from rl4nlu.tasks import TASKS, find
from rl4nlu.tokens import micro_batches

TASK = "mini/question"
LEAN = 1.5
ESTIMATORS = ["gae", "rloo", "grpo", "reinforce++", "expected"]


def settings(**values) -> PpoSettings:
    free = values.get("actions") != "labels" and values.get("estimator") != "expected"
    values = {"answer_tokens": 4, **values} if free else values
    return validate(PpoSettings, {"task": TASK, "model": "mini", "batch_size": 8, **values})


def start(chosen: PpoSettings, rows: int = 8):
    """Policy and rows, as the command makes them."""
    policy = load_policy("mini", lora=chosen.lora, seed=chosen.seed)
    if chosen.estimator == "gae":
        policy.add_value_head()
    task = find(chosen.task)
    return policy, encode(policy, task, chosen, data.load(task, "train", limit=rows)).rows[:]


@pytest.fixture(scope="module")
def leaning(tmp_path_factory):
    """The bundled model, made to say one label of the task far more often than the others."""
    folder = tmp_path_factory.mktemp("leaning") / "model"
    shutil.copytree(mini_folder(), folder)
    (token,) = AutoTokenizer.from_pretrained(folder).encode(" person", add_special_tokens=False)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][token] *= LEAN
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_labels_are_drawn_from_the_closed_set_that_is_scored():
    chosen = settings(actions="labels", answers=64)
    policy, rows = start(chosen)
    rollout = roll_out(policy, rows, chosen, step=0, longest=8)
    known = label_logp(policy, rows, chosen.max_tokens)
    task = find(TASK)
    for b, row in enumerate(rows):
        closed = rollout.closed[b]
        assert closed.logp_BL[0].tolist() == pytest.approx(known[b], abs=1e-5)
        assert closed.reward_BL[0].tolist() == [paper_reward(task, label, row.prompt.example) for label in task.labels]
        drawn = rollout.label_BK[b]
        assert torch.equal(rollout.logp_NA.view(8, 64)[b], closed.logp_BL[0][drawn])
        assert torch.equal(rollout.score_N.view(8, 64)[b], closed.reward_BL[0][drawn])
    drawn = np.array([[int((rollout.label_BK[b] == k).sum()) for k in range(len(task.labels))] for b in range(8)])
    expected = 64 * np.exp(np.array(known))
    spread = np.sqrt(expected * (1 - expected / 64)) + 0.5
    assert (np.abs(drawn - expected) <= 4 * spread).all()


@pytest.mark.parametrize("max_tokens", [256, 4096])
@pytest.mark.parametrize("actions", ["free", "labels"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_first_step_starts_at_the_reference(estimator, actions, max_tokens):
    if estimator == "expected" and actions == "free":
        with pytest.raises(UserError, match="leave out --actions free"):
            settings(estimator=estimator, actions=actions)
        return
    chosen = settings(estimator=estimator, actions=actions, answers=3, max_tokens=max_tokens)
    policy, rows = start(chosen)
    rollout = roll_out(policy, rows, chosen, step=0, longest=8)
    assert rollout.stats["kl"] == 0.0
    assert torch.equal(rollout.logp_NA, rollout.ref_logp_NA)
    optimizer = optim.make_optimizer(chosen, policy.trainable())
    stats = ppo.update(policy, optimizer, rollout, chosen, kl_coef=0.05, rate=1e-3, step=0)
    assert abs(stats["first_ratio"] - 1) <= 1e-5
    assert ("explained_variance" in stats) == (estimator == "gae")
    after = roll_out(policy, rows, chosen, step=1, longest=8)
    assert after.stats["kl"] != 0.0


def test_prompts_are_read_once_for_sampling_and_the_first_inner_epoch():
    chosen = settings(answers=3, inner_epochs=2)
    policy, rows = start(chosen)
    prompts = len(next(micro_batches([(row.ids, ()) for row in rows], 4096, policy.pad)).prompt_tree.ids_N)
    read = []
    hook = policy.model.get_input_embeddings().register_forward_hook(lambda _, args, out: read.append(args[0].numel()))
    rollout = roll_out(policy, rows, chosen, step=0, longest=8)
    answers = read[-1]
    assert [n for n in read if n >= prompts] == [prompts, prompts], "of the policy, of the reference"
    assert read[-3:] == [answers, prompts, answers]
    assert answers < 8 * 3 * 4
    sampled = read.copy()
    optimizer = optim.make_optimizer(chosen, policy.trainable())
    ppo.update(policy, optimizer, rollout, chosen, kl_coef=0.05, rate=1e-3, step=0)
    hook.remove()
    assert read == [*sampled, prompts + answers], "the second inner epoch reads all again"


@pytest.mark.parametrize("estimator", ["grpo", "expected", "gae"])
def test_micro_batches_leave_the_gradient_alone(gradients, estimator):
    for max_tokens in (10_000, 40):
        chosen = settings(estimator=estimator, actions="labels", max_tokens=max_tokens, inner_epochs=1)
        policy, rows = start(chosen)
        rollout = roll_out(policy, rows, chosen, 0, longest=8)
        ppo.update(policy, optim.make_optimizer(chosen, policy.trainable()), rollout, chosen, 0.05, 1e-4, 0)
    assert_same_gradients(*gradients)


def test_sampled_gradients_average_to_the_expected_one(gradients):
    """On a real policy: 40 gradients of 16 sampled answers a prompt scatter around the exact one, which does not."""
    common = {"actions": "labels", "answers": 16, "inner_epochs": 1, "max_grad_norm": 1e9, "kl_coef": 0.0}
    exact = settings(estimator="expected", **common)
    policy, rows = start(exact, 4)
    optimizer = optim.make_optimizer(exact, policy.trainable())
    for step in range(2):
        ppo.update(policy, optimizer, roll_out(policy, rows, exact, step, 8), exact, 0.0, 0.0, step)
    first, second = (torch.cat([g.flatten() for g in one]) for one in gradients)
    # other samples, the same gradient: it has no variance over actions (rows come in another order, so not to the bit)
    assert float((first - second).abs().max()) <= 1e-5 * float(first.abs().max())
    gradients.clear()
    sampled = settings(estimator="rloo", **common)
    for step in range(40):
        ppo.update(policy, optimizer, roll_out(policy, rows, sampled, step, 8), sampled, 0.0, 0.0, step)
    along = torch.stack([torch.cat([g.flatten() for g in one]) @ first for one in gradients]) / first.square().sum()
    error = along.std() / len(along) ** 0.5
    assert abs(float(along.mean()) - 1) <= 4 * float(error)
    assert float(along.std()) > 0.05


def test_from_the_base_model_labels_are_learnt(tmp_path):
    """No SFT before: every answer of the closed set earns something, so there is something to learn from the start."""
    values = {"estimator": "expected", "max_steps": 16, "batch_size": 32, "inner_epochs": 2, "eval_limit": 20}
    run, (result,) = ppo.ppo(settings(**values, learning_rate=1e-3, select_rows=0, out=tmp_path / "run"))
    steps = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    first, last = (sum(step["accuracy"] for step in part) / 4 for part in (steps[:4], steps[-4:]))
    assert last > first + 0.3
    assert result["estimator"] == "expected"
    assert all(step["unparsable"] == 0 for step in steps)


EVERY = (
    "step loss policy_loss entropy approx_kl clipfrac ratio grad_norm reward accuracy unparsable kl kl_coef "
    "learning_rate examples_per_second tokens_per_second"
)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_every_step_reports(tmp_path, estimator):
    values = {"estimator": estimator, "actions": "labels", "max_steps": 1, "eval_limit": 4, "select_rows": 0}
    run, _ = ppo.ppo(settings(**values, out=tmp_path / "run"))
    (step,) = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    wanted = {*EVERY.split(), *(("explained_variance", "value_loss") if estimator == "gae" else ())}
    assert wanted <= set(step)
    assert all(np.isfinite(step[name]) for name in wanted)


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_one_answer_has_nothing_to_be_compared_with(estimator):
    with pytest.raises(UserError, match="give --answers 2 or more"):
        settings(estimator=estimator, answers=1)


def test_numbers_have_their_ordinal_reward(real_data):
    chosen = settings(task="glue/stsb", data=real_data, estimator="expected")
    policy = load_policy("mini", lora=chosen.lora)
    task = find("glue/stsb")
    rows = encode(policy, task, chosen, data.load(task, "train", real_data, 4)).rows[:]
    rollout = roll_out(policy, rows, chosen, 0, longest=8)
    for row, closed in zip(rows, rollout.closed, strict=True):
        gold = float(row.prompt.example.label)
        assert closed.reward_BL[0].tolist() == pytest.approx(
            [2.5 - abs(float(x) - gold) for x in task.labels], abs=1e-6
        )


# -- what keeps it stable ----------------------------------------------------------------------------------------------


def gradient_of(chosen: PpoSettings, policy, rollout, gradients) -> torch.Tensor:
    """The gradient of one update at rate 0, flat; nothing where no step was taken."""
    gradients.clear()
    optimizer = optim.make_optimizer(chosen, policy.trainable())
    ppo.update(policy, optimizer, rollout, chosen, chosen.kl_coef, 0.0, 0)
    return torch.cat([g.flatten() for g in gradients[0]]) if gradients else torch.zeros(0)


@pytest.mark.parametrize(
    ("estimator", "actions"), [("gae", "free"), ("rloo", "free"), ("grpo", "labels"), ("expected", "labels")]
)
def test_the_sft_term_adds_the_gradient_of_supervised_fine_tuning(gradients, estimator, actions):
    """Hybrid: the RL gradient and c times that of the gold answers; over labels, of their probability in the set."""
    common = {"estimator": estimator, "actions": actions, "inner_epochs": 1, "max_grad_norm": 1e9, "max_tokens": 300}
    alone, mixed = settings(**common), settings(**common, sft_coef=0.5)
    policy, rows = start(alone)
    rollout = roll_out(policy, rows, alone, 0, longest=8)
    difference = gradient_of(mixed, policy, rollout, gradients) - gradient_of(alone, policy, rollout, gradients)
    pairs = [(row.ids, [row.answers[row.gold]]) for row in rows]
    if actions == "free":
        batch = next(micro_batches(pairs, 10_000, policy.pad))
        mask = batch.answer_mask_BKA[:, 0]
        loss = sft_loss(score(policy.model, batch, policy.shared).logp_BKA[:, 0], mask, int(mask.sum())).total
    else:
        batch = next(micro_batches(rollout.rows, 10_000, policy.pad))
        logp, _ = score_labels(policy, batch, [rows[i] for i in batch.rows])
        loss = -sum(logp[n, rows[i].gold] for n, i in enumerate(batch.rows)) / len(rows)
    loss.backward()
    expected = [torch.zeros_like(w) if w.grad is None else w.grad for w in policy.trainable()]
    expected = 0.5 * torch.cat([g.flatten() for g in expected])
    assert float((difference - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_prompts_whose_answers_all_earn_the_same_move_nothing(gradients, estimator):
    """Away from the reference the KL penalty alone would move them (TRL issue 5588)."""
    common = {"estimator": estimator, "answers": 3, "inner_epochs": 1, "kl_coef": 0.5, "max_grad_norm": 1e9}
    chosen, kept = settings(**common), settings(**common, skip_flat=False)
    policy, rows = start(chosen)
    rollout = roll_out(policy, rows, chosen, 0, longest=8)
    noise = torch.rand(rollout.logp_NA.shape, generator=torch.Generator().manual_seed(0))
    flat = replace(rollout, ref_logp_NA=rollout.logp_NA - noise, score_N=torch.ones_like(rollout.score_N))
    assert gradient_of(chosen, policy, flat, gradients).numel() == 0
    assert float(gradient_of(kept, policy, flat, gradients).abs().max()) > 1e-4
    # one prompt of eight differs: the mean is over its tokens alone
    score = torch.ones_like(rollout.score_N)
    score[0] = -1.0
    some = replace(flat, score_N=score, ref_logp_NA=rollout.logp_NA)
    only = [n.tolist() for n in ppo.learnt_from(some, chosen).any(1).nonzero()[:, 0]]
    assert only == [0, 1, 2]
    small, large = (gradient_of(s, policy, some, gradients) for s in (kept, chosen))
    counted = int(rollout.mask_NA.sum()) / int(rollout.mask_NA[:3].sum())
    assert torch.allclose(large, small * counted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_prompts_that_are_left_out_keep_their_entropy_bonus(gradients, estimator):
    """Else a policy that says the same to every prompt could never leave that state."""
    common = {"estimator": estimator, "answers": 3, "inner_epochs": 1, "entropy_coef": 0.1, "max_grad_norm": 1e9}
    chosen, kept = settings(**common, kl_coef=0.5), settings(**common, kl_coef=0.0, skip_flat=False)
    policy, rows = start(chosen)
    rollout = roll_out(policy, rows, chosen, 0, longest=8)
    flat = replace(rollout, ref_logp_NA=rollout.logp_NA - 0.3, score_N=torch.ones_like(rollout.score_N))
    found, entropy_alone = (gradient_of(one, policy, flat, gradients) for one in (chosen, kept))
    assert float(entropy_alone.abs().max()) > 1e-5
    assert torch.allclose(found, entropy_alone, rtol=1e-4, atol=1e-7)
    # where some are left out, it is still the mean over the tokens of all
    score = torch.ones_like(rollout.score_N)
    score[0] = -1.0
    some = replace(rollout, score_N=score, ref_logp_NA=rollout.logp_NA)
    without = gradient_of(settings(**{**common, "entropy_coef": 0}), policy, some, gradients)
    bonus = gradient_of(settings(**common), policy, some, gradients) - without
    # a difference of gradients that are far larger; what it was meant to find was a factor of almost two
    assert float((bonus - entropy_alone).abs().max()) <= 0.02 * float(entropy_alone.abs().max())


def test_a_critic_that_warms_up_to_the_end_is_refused(tiny_model, tmp_path):
    values = {"task": "mini/question", "model": str(tiny_model), "critic_warmup": 3, "eval_limit": 4, "select_rows": 0}
    with pytest.raises(UserError, match="in 3 steps the policy would learn in none: give fewer"):
        validate(PpoSettings, {**values, "max_steps": 3})
    with pytest.raises(UserError, match="the run has 2 steps, and the policy would learn in none; give fewer"):
        ppo.ppo(validate(PpoSettings, {**values, "limit": 64, "out": tmp_path / "run"}))


def test_a_task_is_asked_with_the_bias_of_the_one_that_teaches_it():
    policy = load_policy("mini")
    labels = find("glue/mnli").labels
    policy.label_bias = {"glue/mnli": dict(zip(labels, (-1.0, -2.0, -0.5), strict=True))}
    assert policy.bias_of(find("glue/mnli-mm")) == policy.bias_of(find("glue/ax")) == (-1.0, -2.0, -0.5)
    assert policy.bias_of(find("glue/rte")) is None
    turned = replace(find("glue/mnli"), labels=labels[::-1])
    assert policy.bias_of(turned) == (-0.5, -2.0, -1.0)
    with pytest.raises(UserError, match="the bias of other labels"):
        policy.bias_of(replace(turned, labels=labels[:2]))
    policy.label_bias = {"glue/mnli": [-1.0, -2.0, -0.5]}  # as a file of before has it
    assert policy.bias_of(find("glue/mnli")) == (-1.0, -2.0, -0.5)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"reason": 4, "sft_coef": 1.0}, "leave out --reason"),
        ({"kl_coef": 0, "kl_target": 6}, "give it a value above 0"),
        ({"actions": "labels", "format_penalty": 1}, "--format-penalty is about free text"),
        ({"estimator": "expected", "answer_tokens": 4}, "--answer-tokens is about free text"),
        ({"estimator": "rloo", "whiten": "task"}, "leave out --whiten"),
        ({"stop_kl": 0.1, "inner_epochs": 1}, "--inner-epochs 2 or more"),
        ({"critic_warmup": 2, "value_coef": 0}, "--value-coef is 0"),
    ],
)
def test_no_flag_does_nothing(values, match):
    with pytest.raises(UserError, match=match):
        validate(PpoSettings, {"task": TASK, "model": "mini", **values})


def test_a_critics_warm_up_moves_the_critic_alone():
    chosen = settings(critic_warmup=1)
    policy, rows = start(chosen)
    optimizer = optim.make_optimizer(chosen, policy.trainable())
    before = [weight.detach().clone() for weight in policy.trainable()]
    for step, moves in ((0, False), (1, True)):
        ppo.update(policy, optimizer, roll_out(policy, rows, chosen, step, 8), chosen, 0.05, 1e-3, step)
        changed = [not torch.equal(a, b) for a, b in zip(before, policy.trainable(), strict=True)]
        assert any(changed[:-2]) is moves
        assert all(changed[-2:])


def test_inner_epochs_end_where_the_policy_has_gone_far_enough():
    far, near = (settings(estimator="rloo", actions="labels", stop_kl=kl) for kl in (1e-9, 1e9))
    for chosen, epochs in ((far, 2), (near, 4)):  # the first one starts at KL 0
        policy, rows = start(chosen)
        rollout = roll_out(policy, rows, chosen, 0, 8)
        stats = ppo.update(policy, optim.make_optimizer(chosen, policy.trainable()), rollout, chosen, 0.0, 1e-3, 0)
        assert stats["inner_epochs"] == epochs


@pytest.mark.parametrize("estimator", ["gae", "rloo", "grpo", "reinforce++"])
def test_advantages_of_a_rollout_against_numpy(estimator):
    """Away from the reference, so that the KL penalty counts, and its sign; answers of several tokens."""
    chosen = settings(estimator=estimator, answers=3, **({"gamma": 0.9, "lam": 0.8} if estimator == "gae" else {}))
    policy, rows = start(chosen)
    rollout = roll_out(policy, rows, chosen, 0, 8)
    random = torch.Generator().manual_seed(0)
    away, value, score = (
        torch.rand(x.shape, generator=random) for x in (rollout.mask_NA, rollout.mask_NA, rollout.score_N)
    )
    mask = rollout.mask_NA.numpy()
    assert mask.sum(1).max() > 1
    ref_logp = rollout.logp_NA - away * rollout.mask_NA
    rollout = replace(rollout, ref_logp_NA=ref_logp, value_NA=value * rollout.mask_NA, score_N=score)
    names = ("score_N", "logp_NA", "ref_logp_NA", "value_NA")
    score, logp, ref, value = (getattr(rollout, name).double().numpy() for name in names)
    pay = reference.penalised_rewards(score, logp, ref, mask, 0.3)
    returns = value
    if estimator == "gae":
        raw, returns = reference.gae(pay, value, mask, 0.9, 0.8)
        expected = reference.whiten(raw, mask)
    elif estimator == "reinforce++":
        expected = reference.whiten(reference.returns_to_go(pay, mask, 1.0), mask)
    elif estimator == "rloo":
        expected = reference.leave_one_out(pay.sum(1).reshape(-1, 3)).reshape(-1, 1) * mask
    else:
        expected = reference.group_relative(score.reshape(-1, 3), True).reshape(-1, 1) * mask
        plain, _ = ppo.advantages(rollout, settings(estimator=estimator, answers=3, group_std=False), 0.3)
        without = reference.group_relative(score.reshape(-1, 3), False).reshape(-1, 1) * mask
        assert plain.numpy() == pytest.approx(without, abs=1e-5)
    found, found_returns = ppo.advantages(rollout, chosen, 0.3)
    assert found.numpy() == pytest.approx(expected, abs=2e-4 if estimator == "grpo" else 1e-5)
    assert found_returns.numpy()[mask] == pytest.approx(returns[mask], abs=1e-5)


def test_the_logged_kl_is_nats_an_answer_and_steers_the_penalty(tmp_path):
    """A mean per answer, over its tokens a sum; over labels it is exact. The controller is given what is logged."""
    for actions in ("free", "labels"):
        chosen = settings(actions=actions, answers=3)
        policy, rows = start(chosen)
        optimizer, first = optim.make_optimizer(chosen, policy.trainable()), roll_out(policy, rows, chosen, 0, 8)
        ppo.update(policy, optimizer, first, chosen, 0.0, 1e-3, 0)
        after = roll_out(policy, rows, chosen, 1, 8)
        mask = after.mask_NA.numpy()
        logp, ref = after.logp_NA.double().numpy() * mask, after.ref_logp_NA.double().numpy() * mask
        known = (logp - ref).sum(1).mean()
        if actions == "labels":
            sets = [(one.logp_BL.double().numpy(), one.ref_logp_BL.double().numpy()) for one in after.closed]
            known = np.mean([(np.exp(now) * (now - then)).sum() for now, then in sets])
        assert after.stats["kl"] == pytest.approx(known, abs=1e-5)
        assert abs(known) > 1e-4
    values = {"kl_coef": 0.2, "kl_target": 6.0, "kl_horizon": 100, "answers": 2, "max_steps": 3, "eval_limit": 4}
    run, _ = ppo.ppo(settings(**values, select_rows=0, learning_rate=1e-3, out=tmp_path / "run"))
    steps = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    moved = reference.adaptive_kl(0.2, 6.0, 100, [(step["kl"], 16) for step in steps[:2]])
    assert [step["kl_coef"] for step in steps] == pytest.approx([0.2, *moved], rel=1e-9)


def test_advantages_are_whitened_over_each_task(tmp_path):
    """Two tasks whose rewards differ in scale: each has its own mean and spread."""
    chosen = settings(task="mini/question,mini/sentiment", estimator="reinforce++", whiten="task", kl_coef=0.0)
    policy = load_policy("mini", lora=chosen.lora)
    tasks = [find(name) for name in chosen.task.split(",")]
    rows = [row for task in tasks for row in encode(policy, task, chosen, data.load(task, "train", limit=8)).rows[:]]
    rollout = roll_out(policy, rows, settings(estimator="reinforce++", actions="labels"), 0, 8)
    scale = torch.tensor([1.0 if name == tasks[0].name else 100.0 for name in rollout.kinds for _ in range(4)])
    scaled = replace(rollout, score_N=rollout.score_N * scale)
    found, _ = ppo.advantages(scaled, chosen, 0.0)
    for part in (found[:32], found[32:]):
        assert abs(float(part.mean())) <= 1e-5
        assert float(part.std(correction=0)) == pytest.approx(1, abs=1e-4)
    plain, _ = ppo.advantages(scaled, chosen.model_copy(update={"whiten": "none"}), 0.0)
    assert torch.allclose(plain[:, 0], scaled.score_N)


def test_a_debiased_start_says_every_label_alike_and_is_kept_with_the_run(tmp_path, leaning):
    """A base model says one label far more often than others; without that bias it is the same model elsewhere."""
    values = {"estimator": "expected", "debias": True, "max_steps": 1, "eval_limit": 50, "select_rows": 0}
    values |= {"model": str(leaning), "learning_rate": 1e-9, "out": tmp_path / "run"}
    run, (result,) = ppo.ppo(settings(**values))
    task = find(TASK)
    rows = data.load(task, "train", limit=100)
    means = {}
    for name, adapter in (("base", None), ("debiased", run.path)):
        policy = load_policy(str(leaning), adapter=adapter)
        question = encode(policy, task, settings(), rows)
        means[name] = np.exp(label_logp(policy, question.rows[:], 4096)).mean(0)
    assert means["base"].max() > 0.4
    assert np.abs(means["debiased"] - 1 / len(task.labels)).max() < 0.1
    _, (same,) = evaluate(validate(EvaluateSettings, {"adapter": run.path, "limit": 50, "out": tmp_path / "again"}))
    assert same["metrics"] == result["metrics"]
    steps = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-7)  # the reference has the bias out too
    assert "label_bias.json" in (run.path / "README.md").read_text()
    with pytest.raises(UserError, match="add --actions labels"):
        settings(debias=True)


def test_prompts_of_which_the_policy_is_unsure_are_chosen(leaning):
    """Of four times as many candidates; the same ones whenever the step is run again."""
    chosen = settings(estimator="expected", oversample=4, batch_size=8)
    policy = load_policy(str(leaning), lora=chosen.lora)
    question = encode(policy, find(TASK), chosen, data.load(find(TASK), "train", limit=64))
    mixture = Mixture([question], chosen, "ppo")
    doubt = {}
    for times in (1, 4):
        some = chosen.model_copy(update={"oversample": times})
        rows = [row for step in range(2) for row in ppo.prompts_of(policy, mixture, some, step)]
        assert len({id(row) for row in rows}) == 16
        gold = np.exp([s[r.gold] for s, r in zip(label_logp(policy, rows, 4096), rows, strict=True)])
        doubt[times] = float((gold * (1 - gold)).mean())
    assert doubt[4] > 1.1 * doubt[1]
    first, again = (ppo.prompts_of(policy, mixture, chosen, 1) for _ in range(2))
    assert [row.ids for row in first] == [row.ids for row in again]


@pytest.mark.slow
def test_the_tasks_own_metric_is_climbed(tmp_path, monkeypatch):
    """Macro F1 through its derivative, over labels and without a sample; the log tells it."""
    monkeypatch.setitem(TASKS, TASK, replace(find(TASK), metrics=("macro_f1", "accuracy")))
    values = {"estimator": "expected", "reward": "metric", "debias": True, "batch_size": 32}
    values |= {"max_steps": 15, "eval_limit": 20, "select_rows": 0, "learning_rate": 1e-3}
    run, _ = ppo.ppo(settings(**values, out=tmp_path / "run"))
    steps = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["metric"] > steps[0]["metric"] + 0.15
    with pytest.raises(UserError, match="no such reward"):
        ppo.ppo(settings(reward="papper", out=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_rows_with_their_gold_answer_behind():
    chosen = settings(answers=2)
    policy, rows = start(chosen)
    rollout = roll_out(policy, rows, chosen, 0, longest=8)
    plain, more = (rows_to_rescore(rollout, [3, 1], gold) for gold in (False, True))
    for (ids, answers), (same, with_gold), p in zip(plain, more, (3, 1), strict=True):
        assert ids == same == rows[p].ids
        assert with_gold == [*answers, rows[p].answers[rows[p].gold]]
