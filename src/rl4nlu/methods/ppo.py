"""Reinforcement learning of the policy: answers are rewarded against the gold one, one of several estimators tells how
much better than expected they were. With a critic and GAE it is proximal policy optimisation, as in the paper."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import optim, processes
from ..actions import (
    Kept,
    Rollout,
    gold_labels,
    rescore,
    rescore_labels,
    reward_of,
    roll_out,
    rows_to_rescore,
)
from ..advantages import gae, group_relative, leave_one_out, returns_to_go, whiten
from ..ask import Question, label_logp
from ..calibrate import mean_logp
from ..collapse import Watch
from ..curriculum import most_uncertain
from ..errors import UserError
from ..forward import take_part
from ..guards import not_finite
from ..losses import Loss, expected_loss, ppo_loss, sft_loss
from ..mixture import Mixture
from ..models import Policy
from ..prepare import TrainingRows, prepare_training
from ..progress import Meter
from ..rewards import KLController, token_rewards
from ..run import Run
from ..seeding import generator
from ..selection import BestState
from ..session import Session
from ..settings import PpoSettings
from ..state import Numbers
from ..tokens import SPARE, Batch, Encoded, micro_batches
from .training import parts_of, train_and_measure

LEARNING_RATE = 1e-4
"""At width 256; see optim.base_rate."""
BIAS_ROWS = 256
"""Training rows of each task on which the start's label bias is measured."""


def ppo(settings: PpoSettings, prepared: TrainingRows[PpoSettings] | None = None) -> tuple[Run, list[dict[str, Any]]]:
    """The `ppo` command: train from the base model or another run's adapter, save, evaluate on the dev split."""
    extra = {"estimator": settings.estimator, "actions": "labels" if settings.over_labels else "free"}
    critic = settings.estimator == "gae"
    rows = prepared or prepare_training(settings)
    return train_and_measure("ppo", rows, train, reference=True, critic=critic, extra=extra)


def train(
    policy: Policy, mixture: Mixture, held: list[Question], settings: PpoSettings, run: Run
) -> tuple[int, dict[str, Any]]:
    """The training loop. Returns the number of steps, each a rollout and its inner epochs, and which one was kept."""
    policy.model.eval()  # no dropout, so that the first ratio is one
    steps = optim.steps_of(settings, len(mixture))
    if settings.critic_warmup >= steps:
        raise UserError(
            f"--critic-warmup {settings.critic_warmup}: the run has {steps} steps, and the policy would learn in none; "
            "give fewer, or a higher --max-steps or --epochs"
        )
    base = optim.base_rate(settings, policy, LEARNING_RATE)
    optimizer = optim.make_optimizer(settings, policy.trainable())
    best = BestState(policy, held, settings, steps)
    controller = KLController(settings.kl_coef, settings.kl_target, settings.kl_horizon)
    reward, watch = reward_of(settings), Watch(steps)
    parts = {**parts_of(policy, optimizer), "best": best, "reward": reward, "collapse": watch}
    parts["kl_controller"] = Numbers(controller, "coef")
    session = Session(run, parts, steps, settings, policy.device)
    with Meter(f"ppo {mixture.title}", steps, done=session.step) as meter, session:
        if not session.step and not settings.over_labels:
            policy.label_bias = {}  # text is written by the model as it is
        elif not session.step and settings.debias:  # a policy to start from keeps its own
            policy.label_bias = {**label_bias(policy, mixture, settings), **policy.label_bias}
        best.start()
        for step in session:
            session.hold()
            start = time.perf_counter()
            chosen = prompts_of(policy, mixture, settings, step)
            rollout = roll_out(policy, chosen, settings, step, mixture.longest_answer + SPARE, reward)
            rate = optim.rate_at(settings, base, step, steps)
            stats = update(policy, optimizer, rollout, settings, controller.coef, rate, step)
            used = controller.coef
            controller.update(rollout.stats["kl"], len(rollout.score_N))
            seconds = time.perf_counter() - start
            speed = len(rollout.rows) / seconds
            record = {"step": step + 1, **stats, **rollout.stats, "kl_coef": used, "learning_rate": rate}
            speeds = {"examples_per_second": speed, "tokens_per_second": tokens_of(rollout) / seconds}
            new = watch.see(record)
            named = {"collapse": [one.name for one in new]} if new else {}
            run.log({**record, **speeds, **best.after(step + 1), **named})
            shown = {name: record[name] for name in ("reward", "accuracy", "kl", "unparsable")}
            meter.advance(1, **shown, examples_per_second=speed)
            for one in new:
                meter.note(f"warning: step {step + 1}: collapse ({one.name}): {one.what}. To change: {one.cure}")
            if new and settings.on_collapse == "stop":
                session.steps = step + 1
                meter.note("stopped, as --on-collapse stop says")
    names = {"collapse": [one.name for one in watch.found]} if watch.found else {}
    return session.steps, {**best.put_back(), **names}


def prompts_of(policy: Policy, mixture: Mixture, settings: PpoSettings, step: int) -> list[Encoded]:
    """The prompts of a step: the mixture's next ones, or those of several batches of which the policy is unsure."""
    times = settings.oversample
    if times == 1:
        return mixture.batch(step)
    candidates = [row for i in range(times) for row in mixture.batch(step * times + i)]
    return most_uncertain(policy, candidates, settings.batch_size, settings.max_tokens, settings.seed, step)


def label_bias(policy: Policy, mixture: Mixture, settings: PpoSettings) -> dict[str, dict[str, float]]:
    """log of the mean probability of each label over training rows, whose labels are not seen: what the policy says
    whatever the row (Zhou et al. 2024, arXiv 2309.17249, equation 5). Tasks of which that is known are left out."""
    found = {}
    for question in mixture.questions:
        if policy.bias_of(question.task) is not None:
            continue
        order = generator(settings.seed, f"bias/{question.task.name}").permutation(len(question.rows))
        rows = question.rows.take(order[:BIAS_ROWS].tolist())
        logp_NL = np.array(label_logp(policy, rows, settings.max_tokens))
        found[question.task.name] = dict(zip(question.task.labels, mean_logp(logp_NL)[0].tolist(), strict=True))
    return found


def tokens_of(rollout: Rollout) -> int:
    """Tokens of the prompts and of the actions: what a step is about, however often it is run through the model."""
    return sum(len(row.ids) for row in rollout.chosen) + int(rollout.mask_NA.sum())


def advantages(rollout: Rollout, settings: PpoSettings, kl_coef: float) -> tuple[Tensor, Tensor]:
    """Advantage and return of every action, (N, A): what the settings' estimator makes of the same rollout.

    The KL penalty is part of the reward for gae and reinforce++ (each action's own) and for rloo (the whole answer's);
    for grpo it is a term of the loss. Without a critic the return is the value itself, so that there is no value loss.
    """
    mask_NA, shape_BK = rollout.mask_NA, (len(rollout.rows), settings.answers)
    reward_NA = token_rewards(rollout.score_N, rollout.logp_NA, rollout.ref_logp_NA, mask_NA, kl_coef)
    if settings.estimator == "gae":
        raw_NA, return_NA = gae(reward_NA, rollout.value_NA, mask_NA, settings.gamma, settings.lam)
        return normalised(raw_NA, rollout, settings), return_NA
    if settings.estimator == "reinforce++":
        return normalised(returns_to_go(reward_NA, mask_NA, settings.gamma), rollout, settings), rollout.value_NA
    if settings.estimator == "rloo":
        whole_BK = leave_one_out(reward_NA.sum(1).view(shape_BK))
    else:
        whole_BK = group_relative(rollout.score_N.view(shape_BK), settings.group_std)
    return torch.where(mask_NA, whole_BK.flatten()[:, None], 0.0), rollout.value_NA


def normalised(raw_NA: Tensor, rollout: Rollout, settings: PpoSettings) -> Tensor:
    """Advantages whitened over the batch, or over the answers of each task: rewards of tasks differ in scale."""
    if settings.whiten == "none":
        return raw_NA
    if settings.whiten == "batch":
        return whiten(raw_NA, rollout.mask_NA)
    K, found_NA = settings.answers, torch.zeros_like(raw_NA)
    for kind in dict.fromkeys(rollout.kinds):
        of_kind_N = torch.tensor([name == kind for name in rollout.kinds for _ in range(K)], device=raw_NA.device)
        found_NA = found_NA + whiten(raw_NA, rollout.mask_NA & of_kind_N[:, None])
    return found_NA


def learnt_from(rollout: Rollout, settings: PpoSettings) -> Tensor:
    """Which actions have a loss, (N, A): all, but where answers to a prompt are compared with each other none of a
    prompt whose answers all earn the same."""
    if settings.estimator not in ("rloo", "grpo") or not settings.skip_flat:
        return rollout.mask_NA
    score_BK = rollout.score_N.view(len(rollout.rows), settings.answers)
    differs_B = (score_BK != score_BK[:, :1]).any(1)
    return rollout.mask_NA & differs_B.repeat_interleave(settings.answers)[:, None]


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
    mask_NA, with_gold = learnt_from(rollout, settings), settings.sft_coef > 0
    goal = Goal(rollout, advantage_NA, return_NA, mask_NA, settings, kl_coef)
    weights, prompts, kind_of = policy.trainable(), len(rollout.rows), rollout.kinds
    still: list[torch.nn.Parameter] = []  # while the critic warms up (VC-PPO, Yuan et al. 2025, arXiv 2503.01491)
    if step < settings.critic_warmup and policy.value_head is not None:
        weights = list(policy.value_head.parameters())
        still = policy.trainable()[: -len(weights)]
    size = min(settings.minibatch or prompts, prompts)
    if size < prompts or any(one.with_gold != with_gold for one in rollout.kept):
        rollout.kept.clear()
    sums: dict[str, float] = defaultdict(float)
    updates, first_ratio, epochs = 0, 1.0, 0
    for epoch in range(settings.inner_epochs):
        order = generator(settings.seed, f"minibatch/{epoch}", step).permutation(prompts)
        furthest = 0.0
        for start in range(0, prompts, size):
            part = order[start : start + size].tolist()
            # of a minibatch that is the whole rollout each process keeps to the prompts that it has worked on
            own = [part[i] for i in processes.share(len(part))] if size < prompts else list(rollout.mine)
            rows, kinds = rows_to_rescore(rollout, own, with_gold), [kind_of[p] for p in own]
            goal.count = len(part) if exact else int(mask_NA.view(prompts, -1)[part].sum())
            gold = [rollout.chosen[p].answers[rollout.chosen[p].gold] for p in part]
            goal.gold_count = len(part) if rollout.label_BK is not None else sum(map(len, gold))
            if not goal.count and not with_gold and not settings.entropy_coef:
                rollout.kept.clear()
                continue  # all answers to every prompt earn the same
            goal.whole = int(rollout.mask_NA.view(prompts, -1)[part].sum())
            work = partial(goal.gradient, policy, rows, kinds, own)
            totals = processes.added(
                partial(policy.memory.fitting, "update", settings.max_tokens, work), policy.trainable()
            )
            optim.clear(still)
            of_part = [rollout.chosen[p].source for p in part]
            totals["grad_norm"] = optim.apply(optimizer, weights, rate, settings.max_grad_norm, of_part)
            if updates == 0 and goal.count:
                first_ratio = totals["ratio"]
            furthest = max(furthest, totals["approx_kl"])
            for name, total in totals.items():
                sums[name] += total
            updates += 1
        epochs += 1
        if settings.stop_kl is not None and furthest > settings.stop_kl:
            break
    stats = {name: value / updates for name, value in sums.items()}
    stats |= {"first_ratio": first_ratio, "inner_epochs": epochs}
    if not exact:
        stats["skipped"] = 1 - int(mask_NA.any(1).sum()) / len(mask_NA)
    return {**stats, **explained(rollout, return_NA)} if settings.estimator == "gae" else stats


@dataclass
class Goal:
    """What the inner epochs over one rollout minimise."""

    rollout: Rollout
    advantage_NA: Tensor
    return_NA: Tensor
    mask_NA: Tensor
    """Actions that have a loss."""
    settings: PpoSettings
    kl_coef: float
    count: int = 0
    """Actions (of the exact sum: prompts) with a loss in the minibatch."""
    whole: int = 0
    """All actions in the minibatch."""
    gold_count: int = 0
    """Gold tokens (over labels: prompts) in the minibatch."""

    def gradient(
        self, policy: Policy, rows: Sequence, kinds: Sequence[str], own: Sequence[int], max_tokens: int
    ) -> dict[str, float]:
        """The gradient of this process's share of a minibatch's loss, in the weights' `grad`; and the sums of the
        loss's parts.

        Args:
            policy: the policy.
            rows: this process's of the minibatch, from `rows_to_rescore`.
            kinds: the task of each.
            own: which prompt of the rollout each is.
            max_tokens: bound of the tokens in a micro-batch.
        """
        optim.clear(policy.trainable())
        totals: dict[str, float] = defaultdict(float)
        kept = self.rollout.kept.pop() if self.rollout.kept else None  # of all these rows
        batches = micro_batches(rows, max_tokens, policy.pad, policy.device, kinds) if kept is None else [kept.batch]
        for batch in processes.in_step(batches, partial(take_part, policy.model, policy.shared)):
            at = [own[i] for i in batch.rows]
            loss = self.loss(policy, batch, at, kept)
            if not math.isfinite(loss.parts["loss"]):
                raise not_finite("the loss is", [self.rollout.chosen[p].source for p in at])
            loss.total.backward()
            for name, value in loss.parts.items():
                totals[name] += value
        return totals

    def loss(self, policy: Policy, batch: Batch, at: Sequence[int], kept: Kept | None = None) -> Loss:
        """The loss of a micro-batch, with gradients.

        Args:
            policy: the policy.
            batch: micro-batch of `rows_to_rescore`.
            at: which prompt of the rollout each row of the batch is.
            kept: the pass over this batch that the rollout has done already.
        """
        if self.settings.estimator == "expected":
            loss, gold = self._exact(policy, batch, at, kept)
        else:
            loss, gold = self._sampled(policy, batch, at, kept)
        if not self.settings.sft_coef:
            return loss
        sft = sft_loss(*gold, self.gold_count)
        total = loss.total + self.settings.sft_coef * sft.total
        return Loss(total, {**loss.parts, "loss": total.item(), "sft_loss": sft.parts["loss"]})

    def _sampled(
        self, policy: Policy, batch: Batch, at: Sequence[int], kept: Kept | None
    ) -> tuple[Loss, tuple[Tensor, Tensor]]:
        """Over the actions that were sampled; and log-probabilities and mask of the gold answers."""
        rollout, settings = self.rollout, self.settings
        now = rescore(policy, batch, rollout, at, settings, kept)
        K, A = len(rollout.mask_NA) // len(rollout.rows), now.logp_nA.shape[1]
        n = torch.tensor([p * K + k for p in at for k in range(K)], device=self.advantage_NA.device)
        loss = ppo_loss(
            now.logp_nA,
            rollout.logp_NA[n, :A],
            self.advantage_NA[n, :A],
            now.value_nA,
            rollout.value_NA[n, :A],
            self.return_NA[n, :A],
            now.entropy_nA,
            self.mask_NA[n, :A],
            max(self.count, 1),
            settings.clip,
            settings.value_clip,
            settings.value_coef if settings.estimator == "gae" else 0.0,
            0.0,  # entropy: below
            rollout.ref_logp_NA[n, :A],
            self.kl_coef if settings.estimator == "grpo" else 0.0,
        )
        # prompts that are left out keep their entropy bonus, which alone can make their answers differ again: it is the
        # mean over all tokens
        entropy = torch.where(rollout.mask_NA[n, :A], now.entropy_nA, 0.0).sum() / self.whole
        total = loss.total - settings.entropy_coef * entropy
        loss = Loss(total, {**loss.parts, "loss": total.item(), "entropy": entropy.item()})
        return loss, (now.gold_logp_bA, now.gold_mask_bA)

    def _exact(
        self, policy: Policy, batch: Batch, at: Sequence[int], kept: Kept | None
    ) -> tuple[Loss, tuple[Tensor, Tensor]]:
        """As an exact sum over the labels; and log-probability and mask of the gold ones."""
        logp_BL, _ = rescore_labels(policy, batch, self.rollout, at, kept)
        known = [self.rollout.closed[p] for p in at]
        loss = expected_loss(
            logp_BL,
            torch.cat([one.logp_BL for one in known]),
            torch.cat([one.ref_logp_BL for one in known]),
            torch.cat([one.reward_BL for one in known]),
            self.count,
            self.settings.clip,
            self.kl_coef,
            self.settings.entropy_coef,
        )
        gold_logp_B1 = logp_BL.gather(1, gold_labels(self.rollout, at, logp_BL.device)[:, None])
        return loss, (gold_logp_B1, torch.ones_like(gold_logp_B1, dtype=torch.bool))


def explained(rollout: Rollout, return_NA: Tensor) -> dict[str, float]:
    """Share of the returns' variance that the critic foresaw."""
    mask = rollout.mask_NA
    spread = float(return_NA[mask].var(correction=0))
    residual = float((return_NA - rollout.value_NA)[mask].var(correction=0))
    return {"explained_variance": 1 - residual / spread if spread > 1e-8 else 0.0}
