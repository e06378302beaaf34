"""Proximal policy optimisation: each generated token is an action; the reward compares the answer with the gold one."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from . import optim
from .advantages import gae, whiten
from .ask import Question
from .forward import Scores, score
from .losses import ppo_loss
from .mixture import Mixture
from .models import Policy
from .rewards import REWARDS, KLController, token_rewards
from .rollout import Answer, sample, uniforms
from .run import Meter, Run
from .seeding import generator
from .selection import BestState
from .settings import PpoSettings
from .tokens import Encoded, micro_batches
from .training import train_and_measure

LEARNING_RATE = 1e-4
"""At width 256; see optim.base_rate."""


@dataclass(frozen=True)
class Rollout:
    """The answers sampled in one step, N = prompts x answers of them in the order of the prompts; A answer tokens."""

    rows: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]
    """(prompt, its sampled answers), in tokens."""
    kinds: Sequence[str]
    """The task of each prompt."""
    mask_NA: Tensor
    logp_NA: Tensor
    ref_logp_NA: Tensor
    value_NA: Tensor
    score_N: Tensor
    """The reward of each answer."""
    stats: dict[str, float]


def ppo(settings: PpoSettings) -> tuple[Run, list[dict[str, Any]]]:
    """The `ppo` command: train from the base model or another run's adapter, save, evaluate on the dev split."""
    return train_and_measure("ppo", settings, train, critic=True, extra={"estimator": "gae"})


def train(
    policy: Policy, mixture: Mixture, held: list[Question], settings: PpoSettings, run: Run
) -> tuple[int, dict[str, float]]:
    """The training loop. Returns the number of steps, each a rollout and its inner epochs, and which one was kept."""
    policy.model.eval()  # no dropout, so that the first ratio is one
    steps = optim.steps_of(settings, len(mixture))
    base = optim.base_rate(settings, policy, LEARNING_RATE)
    optimizer = optim.make_optimizer(settings, policy.trainable())
    best = BestState(policy, held, settings, steps)
    controller = KLController(settings.kl_coef, settings.kl_target, settings.kl_horizon)
    with Meter(f"ppo {mixture.title}", steps) as meter:
        for step in range(steps):
            start = time.perf_counter()
            rollout = roll_out(policy, mixture.batch(step), settings, step, mixture.longest_answer + 4)
            rate = optim.rate_at(settings, base, step, steps)
            stats = update(policy, optimizer, rollout, settings, controller.coef, rate, step)
            controller.update(rollout.stats["kl"], len(rollout.score_N))
            speed = len(rollout.rows) / (time.perf_counter() - start)
            record = {"step": step + 1, **stats, **rollout.stats, "kl_coef": controller.coef, "learning_rate": rate}
            run.log({**record, "examples_per_second": speed, **best.after(step + 1, steps)})
            shown = {name: record[name] for name in ("reward", "accuracy", "kl", "unparsable")}
            meter.advance(1, **shown, examples_per_second=speed)
    return steps, best.restore()


@torch.no_grad()
def roll_out(policy: Policy, chosen: list[Encoded], settings: PpoSettings, step: int, longest: int) -> Rollout:
    """Sample answers, reward them, and score them under policy and reference in the same form of the forward pass.

    Args:
        policy: the policy.
        chosen: the prompts, those of a task together.
        settings: of the run.
        step: number of the step.
        longest: tokens that an answer may have, unless the settings say.
    """
    longest = settings.answer_tokens or longest
    uniform = uniforms(len(chosen), settings.answers, longest, settings.seed, "rollout", step)
    prompts = [row.ids for row in chosen]
    kinds = [row.prompter.task.name for row in chosen]
    answers: list[list[Answer]] = []
    for _, part in groupby(range(len(chosen)), key=lambda i: id(chosen[i].prompter)):
        at = list(part)
        finished = chosen[at[0]].prompter.finished
        answers += sample(policy, [prompts[i] for i in at], finished, longest, settings.max_tokens, uniform[at])
    rows = [(ids, [answer.tokens for answer in found]) for ids, found in zip(prompts, answers, strict=True)]
    flat = [answer for found in answers for answer in found]
    mask_NA = _mask(flat)
    scores = _score_all(policy, rows, kinds, mask_NA, settings.max_tokens, with_value=True)
    with policy.as_reference():
        reference = _score_all(policy, rows, kinds, mask_NA, settings.max_tokens, with_value=False)
    assert scores.value_BKA is not None
    logp_NA, ref_logp_NA, value_NA = scores.logp_BKA[:, 0], reference.logp_BKA[:, 0], scores.value_BKA[:, 0]
    reward = REWARDS[settings.reward]
    asked = [row for row in chosen for _ in range(settings.answers)]
    parsed = [row.prompter.parse(answer.text) for row, answer in zip(asked, flat, strict=True)]
    judged = [(row.prompter.task, label, row.prompt.example) for row, label in zip(asked, parsed, strict=True)]
    score_N = torch.tensor([reward(*one) for one in judged], device=logp_NA.device)
    stats = {
        "reward": float(score_N.mean()),
        "accuracy": sum(task.judge(label, example) for task, label, example in judged) / len(flat),
        "unparsable": sum(p is None for p in parsed) / len(flat),
        "kl": float((logp_NA - ref_logp_NA).sum(1).mean()),  # nats an answer, the k1 estimator
        "answer_tokens": float(mask_NA.sum(1).float().mean()),
        "most_common": Counter(parsed).most_common(1)[0][1] / len(flat),
    }
    return Rollout(rows, kinds, mask_NA.to(logp_NA.device), logp_NA, ref_logp_NA, value_NA, score_N, stats)


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    settings: PpoSettings,
    kl_coef: float,
    rate: float,
    step: int,
) -> dict[str, float]:
    """The inner epochs over one rollout. Returns the means of the losses' parts, and the first minibatch's ratio."""
    reward_NA = token_rewards(rollout.score_N, rollout.logp_NA, rollout.ref_logp_NA, rollout.mask_NA, kl_coef)
    raw_NA, return_NA = gae(reward_NA, rollout.value_NA, rollout.mask_NA, settings.gamma, settings.lam)
    advantage_NA = whiten(raw_NA, rollout.mask_NA)
    weights = policy.trainable()
    prompts, K = len(rollout.rows), settings.answers
    size = min(settings.minibatch or prompts, prompts)
    sums: dict[str, float] = defaultdict(float)
    updates = 0
    first_ratio = 1.0
    for epoch in range(settings.inner_epochs):
        order = generator(settings.seed, f"minibatch/{epoch}", step).permutation(prompts)
        for start in range(0, prompts, size):
            part = order[start : start + size].tolist()
            index_nK = torch.tensor([[p * K + k for k in range(K)] for p in part], device=raw_NA.device)
            count = int(rollout.mask_NA[index_nK].sum())
            totals: dict[str, float] = defaultdict(float)
            rows, kinds = [rollout.rows[p] for p in part], [rollout.kinds[p] for p in part]
            for batch in micro_batches(rows, settings.max_tokens, policy.pad, policy.device, kinds):
                scores = score(policy.model, batch, policy.shared, entropy=True, value_head=policy.value_head)
                assert scores.entropy_BKA is not None
                assert scores.value_BKA is not None
                at = index_nK[list(batch.rows)].flatten()
                A = batch.answer_BKA.shape[2]
                loss = ppo_loss(
                    scores.logp_BKA.flatten(0, 1),
                    rollout.logp_NA[at, :A],
                    advantage_NA[at, :A],
                    scores.value_BKA.flatten(0, 1),
                    rollout.value_NA[at, :A],
                    return_NA[at, :A],
                    scores.entropy_BKA.flatten(0, 1),
                    rollout.mask_NA[at, :A],
                    count,
                    settings.clip,
                    settings.value_clip,
                    settings.value_coef,
                    settings.entropy_coef,
                )
                loss.total.backward()
                for name, part_value in loss.parts.items():
                    totals[name] += part_value
            totals["grad_norm"] = optim.apply(optimizer, weights, rate, settings.max_grad_norm)
            if updates == 0:
                first_ratio = totals["ratio"]
            for name, total in totals.items():
                sums[name] += total
            updates += 1
    stats = {name: value / updates for name, value in sums.items()}
    mask = rollout.mask_NA
    spread = float(return_NA[mask].var(correction=0))
    residual = float((return_NA - rollout.value_NA)[mask].var(correction=0))
    return {**stats, "first_ratio": first_ratio, "explained_variance": 1 - residual / spread if spread > 1e-8 else 0.0}


def _score_all(
    policy: Policy, rows: Sequence, kinds: Sequence[str], mask_NA: Tensor, max_tokens: int, with_value: bool
) -> Scores:
    """Scores of every answer, in the order of the rows: (N, 1, A)."""
    N, A = mask_NA.shape
    K = N // len(rows)
    logp_NA = torch.zeros((N, A), device=policy.device)
    value_NA = torch.zeros((N, A), device=policy.device)
    head = policy.value_head if with_value else None
    for batch in micro_batches(rows, max_tokens, policy.pad, policy.device, kinds):
        scores = score(policy.model, batch, policy.shared, value_head=head)
        at = torch.tensor([row * K + k for row in batch.rows for k in range(K)], device=policy.device)
        logp_NA[at, : scores.logp_BKA.shape[2]] = scores.logp_BKA.flatten(0, 1)
        if scores.value_BKA is not None:
            value_NA[at, : scores.value_BKA.shape[2]] = scores.value_BKA.flatten(0, 1)
    return Scores(logp_NA[:, None], None, value_NA[:, None])


def _mask(answers: Sequence[Answer]) -> Tensor:
    length_N = torch.tensor([len(answer.tokens) for answer in answers])
    return torch.arange(int(length_N.max())) < length_N[:, None]
