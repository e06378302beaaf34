"""Reinforcement learning of the policy: answers are rewarded against the gold one, one of several estimators tells how
much better than expected they were. With a critic and GAE it is proximal policy optimisation, as in the paper."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from . import optim
from .actions import Rollout, acts_on_labels, rescore, roll_out, score_labels
from .advantages import gae, group_relative, leave_one_out, returns_to_go, whiten
from .ask import Question
from .losses import Loss, expected_loss, ppo_loss
from .mixture import Mixture
from .models import Policy
from .rewards import KLController, token_rewards
from .run import Meter, Run
from .seeding import generator
from .selection import BestState
from .settings import PpoSettings
from .tokens import Batch, micro_batches
from .training import train_and_measure

LEARNING_RATE = 1e-4
"""At width 256; see optim.base_rate."""


def ppo(settings: PpoSettings) -> tuple[Run, list[dict[str, Any]]]:
    """The `ppo` command: train from the base model or another run's adapter, save, evaluate on the dev split."""
    extra = {"estimator": settings.estimator, "actions": "labels" if acts_on_labels(settings) else "free"}
    critic = settings.estimator == "gae"
    return train_and_measure("ppo", settings, train, reference=True, critic=critic, extra=extra)


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


def advantages(rollout: Rollout, settings: PpoSettings, kl_coef: float) -> tuple[Tensor, Tensor]:
    """Advantage and return of every action, (N, A): what the settings' estimator makes of the same rollout.

    The KL penalty is part of the reward for gae and reinforce++ (each action's own) and for rloo (the whole answer's);
    for grpo it is a term of the loss. Without a critic the return is the value itself, so that there is no value loss.
    """
    mask_NA, shape_BK = rollout.mask_NA, (len(rollout.rows), settings.answers)
    reward_NA = token_rewards(rollout.score_N, rollout.logp_NA, rollout.ref_logp_NA, mask_NA, kl_coef)
    if settings.estimator == "gae":
        raw_NA, return_NA = gae(reward_NA, rollout.value_NA, mask_NA, settings.gamma, settings.lam)
        return whiten(raw_NA, mask_NA), return_NA
    if settings.estimator == "reinforce++":
        return whiten(returns_to_go(reward_NA, mask_NA, settings.gamma), mask_NA), rollout.value_NA
    if settings.estimator == "rloo":
        whole_BK = leave_one_out(reward_NA.sum(1).view(shape_BK))
    else:
        whole_BK = group_relative(rollout.score_N.view(shape_BK), settings.group_std)
    return torch.where(mask_NA, whole_BK.flatten()[:, None], 0.0), rollout.value_NA


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
    exact = settings.estimator == "expected"
    advantage_NA, return_NA = (rollout.value_NA,) * 2 if exact else advantages(rollout, settings, kl_coef)
    weights, prompts = policy.trainable(), len(rollout.rows)
    size = min(settings.minibatch or prompts, prompts)
    sums: dict[str, float] = defaultdict(float)
    updates, first_ratio = 0, 1.0
    for epoch in range(settings.inner_epochs):
        order = generator(settings.seed, f"minibatch/{epoch}", step).permutation(prompts)
        for start in range(0, prompts, size):
            part = order[start : start + size].tolist()
            totals: dict[str, float] = defaultdict(float)
            rows, kinds = [rollout.rows[p] for p in part], [rollout.kinds[p] for p in part]
            count = int(rollout.mask_NA.view(prompts, -1)[part].sum())
            for batch in micro_batches(rows, settings.max_tokens, policy.pad, policy.device, kinds):
                at = [part[i] for i in batch.rows]
                if exact:
                    loss = _exact(policy, batch, rollout, at, settings, kl_coef, len(part))
                else:
                    loss = _sampled(policy, batch, rollout, at, advantage_NA, return_NA, settings, kl_coef, count)
                loss.total.backward()
                for name, part_value in loss.parts.items():
                    totals[name] += part_value
            totals["grad_norm"] = optim.apply(optimizer, weights, rate, settings.max_grad_norm)
            if updates == 0:
                first_ratio = totals["ratio"]
            for name, total in totals.items():
                sums[name] += total
            updates += 1
    stats = {**{name: value / updates for name, value in sums.items()}, "first_ratio": first_ratio}
    return {**stats, **explained(rollout, return_NA)} if settings.estimator == "gae" else stats


def _sampled(
    policy: Policy,
    batch: Batch,
    rollout: Rollout,
    at: list[int],
    advantage_NA: Tensor,
    return_NA: Tensor,
    settings: PpoSettings,
    kl_coef: float,
    count: int,
) -> Loss:
    """The loss of a micro-batch over the actions that were sampled."""
    now = rescore(policy, batch, rollout, at)
    K, A = len(rollout.mask_NA) // len(rollout.rows), now.logp_nA.shape[1]
    n = torch.tensor([p * K + k for p in at for k in range(K)], device=advantage_NA.device)
    return ppo_loss(
        now.logp_nA,
        rollout.logp_NA[n, :A],
        advantage_NA[n, :A],
        now.value_nA,
        rollout.value_NA[n, :A],
        return_NA[n, :A],
        now.entropy_nA,
        rollout.mask_NA[n, :A],
        count,
        settings.clip,
        settings.value_clip,
        settings.value_coef if settings.estimator == "gae" else 0.0,
        settings.entropy_coef,
        rollout.ref_logp_NA[n, :A],
        kl_coef if settings.estimator == "grpo" else 0.0,
    )


def _exact(
    policy: Policy, batch: Batch, rollout: Rollout, at: list[int], settings: PpoSettings, kl_coef: float, count: int
) -> Loss:
    """The loss of a micro-batch as an exact sum over its labels."""
    logp_BL, _ = score_labels(policy, batch, [rollout.rows[p][1] for p in at])
    known = [rollout.closed[p] for p in at]
    return expected_loss(
        logp_BL,
        torch.cat([one.logp_BL for one in known]),
        torch.cat([one.ref_logp_BL for one in known]),
        torch.cat([one.reward_BL for one in known]),
        count,
        settings.clip,
        kl_coef,
        settings.entropy_coef,
    )


def explained(rollout: Rollout, return_NA: Tensor) -> dict[str, float]:
    """Share of the returns' variance that the critic foresaw."""
    mask = rollout.mask_NA
    spread = float(return_NA[mask].var(correction=0))
    residual = float((return_NA - rollout.value_NA)[mask].var(correction=0))
    return {"explained_variance": 1 - residual / spread if spread > 1e-8 else 0.0}
