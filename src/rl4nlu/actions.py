"""What the policy does in one step of reinforcement learning, and how likely it was: free text, of which every token is
an action, or labels of the closed set, of which one answer is one action.

Shapes: B prompts, K answers a prompt, N = B x K answers in the order of the prompts, A actions an answer (1 for
labels), L labels. Masks: True = counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from .forward import score
from .guards import check_finite
from .labels import closed_set_logp, distinguishing
from .models import Policy
from .rewards import Reward
from .rollout import sample, think, uniforms
from .settings import PpoSettings
from .tokens import Batch, Encoded, pad_right


@dataclass(frozen=True)
class Closed:
    """What is known of every label of each prompt."""

    labels: Sequence[str]
    logp_BL: Tensor
    ref_logp_BL: Tensor
    reward_BL: Tensor


@dataclass(frozen=True)
class Rollout:
    """The answers sampled in one step."""

    chosen: Sequence[Encoded]
    """The prompts."""
    rows: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]
    """(prompt, its sampled answers) in tokens; of the closed set all of its labels stand for the answers."""
    place_NA: Tensor
    """Where among an answer's tokens each action stands: the bridge to the verdict is written by nobody."""
    mask_NA: Tensor
    logp_NA: Tensor
    ref_logp_NA: Tensor
    value_NA: Tensor
    score_N: Tensor
    """The reward of each answer."""
    stats: dict[str, float]
    label_BK: Tensor | None = None
    """Which labels were drawn, where labels are the actions."""
    closed: Sequence[Closed] = ()
    """Where labels are the actions: one entry a prompt, of one row."""

    @property
    def kinds(self) -> list[str]:
        """The task of each prompt."""
        return [row.prompter.task.name for row in self.chosen]


@dataclass(frozen=True)
class ActionScores:
    """What the policy of now says of actions that were taken: n answers."""

    logp_nA: Tensor
    entropy_nA: Tensor
    value_nA: Tensor
    gold_logp_bA: Tensor
    """Of the tokens of each prompt's gold answer, for the SFT term; of labels of the gold label (A = 1)."""
    gold_mask_bA: Tensor


def roll_out(
    policy: Policy, chosen: list[Encoded], settings: PpoSettings, step: int, longest: int, reward: Reward | None = None
) -> Rollout:
    """Sample answers, reward them, and score them under policy and reference in the same form of the forward pass.

    Args:
        policy: the policy.
        chosen: the prompts, those of a task together.
        settings: of the run.
        step: number of the step.
        longest: tokens that an answer of free text may have, unless the settings say.
        reward: what an answer earns; by default what the settings say.
    """
    reward = reward or reward_of(settings)
    if settings.over_labels:
        return _draw_labels(policy, chosen, settings, step, reward)
    return _write_text(policy, chosen, settings, step, settings.answer_tokens or longest, reward)


def reward_of(settings: PpoSettings) -> Reward:
    """The reward of a run."""
    return Reward(settings.reward, settings.format_penalty, settings.metric_window)


def rescore(
    policy: Policy, batch: Batch, rollout: Rollout, prompts: Sequence[int], with_gold: bool = False
) -> ActionScores:
    """Score actions again, with gradients.

    Args:
        policy: the policy.
        batch: micro-batch of `rows_to_rescore`.
        rollout: what was done.
        prompts: which prompt of the rollout each row of the batch is.
        with_gold: as in `rows_to_rescore`.
    """
    if rollout.label_BK is not None:
        logp_bL, value_b = score_labels(policy, batch, [rollout.chosen[p] for p in prompts])
        drawn_bK = rollout.label_BK[list(prompts)]
        entropy_b = -(logp_bL.exp() * logp_bL).sum(1)
        K = drawn_bK.shape[1]
        gold_logp_b1 = logp_bL.gather(1, gold_labels(rollout, prompts, logp_bL.device)[:, None])
        return ActionScores(
            logp_bL.gather(1, drawn_bK).flatten()[:, None],
            entropy_b.repeat_interleave(K)[:, None],
            value_b.repeat_interleave(K)[:, None],
            gold_logp_b1,
            torch.ones_like(gold_logp_b1, dtype=torch.bool),
        )
    scores = score(policy.model, batch, policy.shared, entropy=True, value_head=policy.value_head)
    assert scores.entropy_BKA is not None
    value_BKA = torch.zeros_like(scores.logp_BKA) if scores.value_BKA is None else scores.value_BKA
    K = batch.answer_BKA.shape[1] - with_gold
    place_nA = rollout.place_NA.view(len(rollout.rows), K, -1)[list(prompts)].flatten(0, 1)
    logp_nA, entropy_nA, value_nA = (
        _at(x_BKA[:, :K].flatten(0, 1), place_nA) for x_BKA in (scores.logp_BKA, scores.entropy_BKA, value_BKA)
    )
    gold = (x_BKA[:, -1, :] for x_BKA in (scores.logp_BKA, batch.answer_mask_BKA))
    return ActionScores(logp_nA, entropy_nA, value_nA, *gold)


def rows_to_rescore(rollout: Rollout, prompts: Sequence[int], with_gold: bool = False) -> list:
    """(prompt, answers) in tokens of some of the rollout's prompts.

    Args:
        rollout: what was done.
        prompts: which prompts.
        with_gold: the gold answer comes behind those of free text; among the labels it is anyway.
    """
    rows = [rollout.rows[p] for p in prompts]
    if not with_gold or rollout.label_BK is not None:
        return rows
    gold = [rollout.chosen[p].answers[rollout.chosen[p].gold] for p in prompts]
    return [(ids, [*answers, one]) for (ids, answers), one in zip(rows, gold, strict=True)]


def gold_labels(rollout: Rollout, prompts: Sequence[int], device: torch.device) -> Tensor:
    """Number of the gold label of each prompt."""
    return torch.tensor([rollout.chosen[p].gold for p in prompts], device=device)


# -- labels ------------------------------------------------------------------------------------------------------------


def score_labels(policy: Policy, batch: Batch, prompts: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Log-probabilities within the closed set, and the value of the state in front of the answer: (B, L), (B,).

    Args:
        policy: the policy.
        batch: micro-batch with every label (cut where it is told from the others) as the answers of each row.
        prompts: what each row of the batch is.
    """
    scores = score(policy.model, batch, policy.shared, value_head=policy.value_head, closed=True)
    rows = [
        closed_set_logp(scores.logp_BKA[i : i + 1], distinguishing(one.answers), policy.bias_of(one.prompter.task))
        for i, one in enumerate(prompts)
    ]
    logp_BL = torch.cat(rows)
    value_B = logp_BL.new_zeros(len(rows)) if scores.value_BKA is None else scores.value_BKA[:, 0, 0]
    return logp_BL, value_B


@torch.no_grad()
def _draw_labels(policy: Policy, chosen: list[Encoded], settings: PpoSettings, step: int, reward: Reward) -> Rollout:
    rows = [(row.ids, distinguishing(row.answers)) for row in chosen]
    logp, value = _score_all_labels(policy, chosen, rows, settings.max_tokens)
    with policy.as_reference():
        ref_logp, _ = _score_all_labels(policy, chosen, rows, settings.max_tokens)
    asked = [(row.prompter.task, row.prompt.example) for row in chosen]
    masses = [logp_L.double().exp().tolist() for logp_L in logp]
    reward.observe(asked, [dict(zip(task.labels, p, strict=True)) for (task, _), p in zip(asked, masses, strict=True)])
    closed = []
    for row, logp_L, ref_L in zip(chosen, logp, ref_logp, strict=True):
        task = row.prompter.task
        rewards = [reward(task, label, row.prompt.example) for label in task.labels]
        reward_1L = torch.tensor([rewards], dtype=logp_L.dtype, device=policy.device)
        closed.append(Closed(task.labels, logp_L[None], ref_L[None], reward_1L))
    uniform_BK = uniforms(len(chosen), settings.answers, 1, settings.seed, "rollout", step)[:, :, 0]
    label_BK = torch.stack([_invert(one.logp_BL[0], uniform_BK[b]) for b, one in enumerate(closed)])
    pick = [(b, int(label)) for b in range(len(chosen)) for label in label_BK[b]]
    logp_N = torch.stack([closed[b].logp_BL[0, label] for b, label in pick])
    ref_N = torch.stack([closed[b].ref_logp_BL[0, label] for b, label in pick])
    score_N = torch.stack([closed[b].reward_BL[0, label] for b, label in pick])
    said = [closed[b].labels[label] for b, label in pick]
    right = [chosen[b].prompter.task.judge(said[n], chosen[b].prompt.example) for n, (b, _) in enumerate(pick)]
    stats = {
        **_shared_stats(reward, chosen, said),
        "reward": float(score_N.mean()),
        "expected_reward": float(torch.stack([(one.logp_BL.exp() * one.reward_BL).sum() for one in closed]).mean()),
        "accuracy": sum(right) / len(right),
        "unparsable": 0.0,
        "kl": float(torch.stack([(o.logp_BL.exp() * (o.logp_BL - o.ref_logp_BL)).sum() for o in closed]).mean()),
        "answer_tokens": 1.0,
    }
    value_N = value.repeat_interleave(settings.answers)
    mask_N1 = torch.ones((len(pick), 1), dtype=torch.bool, device=policy.device)
    logp_N1, ref_N1, value_N1 = logp_N[:, None], ref_N[:, None], value_N[:, None]
    drawn_BK = label_BK.to(policy.device)
    place_N1 = torch.zeros_like(mask_N1, dtype=torch.long)
    return Rollout(chosen, rows, place_N1, mask_N1, logp_N1, ref_N1, value_N1, score_N, stats, drawn_BK, closed)


def _shared_stats(reward: Reward, chosen: Sequence[Encoded], said: Sequence[str | None]) -> dict[str, float]:
    """The metric of which the reward is the derivative, and how common the most common answer and gold label are: of
    several tasks the mean, weighted by their rows."""
    K = len(said) // len(chosen)
    task_of = [row.prompter.task.name for row in chosen]
    given, gold = (
        _most_common([(name, label) for name, label in zip(names, labels, strict=True)])
        for names, labels in (
            ([name for name in task_of for _ in range(K)], said),
            (task_of, [row.prompter.task.gold(row.prompt.example) for row in chosen]),
        )
    )
    stats = {"most_common": given, "gold_common": gold}
    return {**stats, "metric": sum(reward.value.values()) / len(reward.value)} if reward.value else stats


def _most_common(labels: Sequence[tuple[str, str | None]]) -> float:
    """Share of the (task, label) pairs that are their task's most common."""
    best: dict[str, int] = {}
    for (task, _), count in Counter(labels).items():
        best[task] = max(best.get(task, 0), count)
    return sum(best.values()) / len(labels)


def _invert(logp_L: Tensor, uniform_K: Tensor) -> Tensor:
    """The labels at these uniform numbers."""
    mass_L = logp_L.double().exp().cumsum(0)
    at_K = uniform_K.to(mass_L.device) * mass_L[-1]
    return torch.searchsorted(mass_L, at_K, right=True).clamp(max=len(mass_L) - 1)


def _score_all_labels(
    policy: Policy, chosen: Sequence[Encoded], rows: Sequence, max_tokens: int
) -> tuple[list, Tensor]:
    kinds = [row.prompter.task.name for row in chosen]
    logp: list[Tensor] = [torch.empty(0)] * len(rows)
    value_B = torch.zeros(len(rows), device=policy.device)

    def work(batch: Batch) -> None:
        asked = [chosen[i] for i in batch.rows]
        logp_BL, value = score_labels(policy, batch, asked)
        check_finite("the labels' log-probabilities or values are", [row.source for row in asked], logp_BL, value)
        for i, row in enumerate(batch.rows):
            logp[row], value_B[row] = logp_BL[i], value[i]

    policy.memory.each("rollout", rows, max_tokens, work, policy.pad, policy.device, kinds)
    return logp, value_B


# -- free text ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _write_text(
    policy: Policy, chosen: list[Encoded], settings: PpoSettings, step: int, longest: int, reward: Reward
) -> Rollout:
    written: list[_Written] = []
    uniform = uniforms(len(chosen), settings.answers, settings.reason + longest, settings.seed, "rollout", step)
    for _, part in groupby(range(len(chosen)), key=lambda i: id(chosen[i].prompter)):
        at = list(part)
        written += _write(policy, [chosen[i] for i in at], longest, settings.max_tokens, uniform[at])
    K = settings.answers
    rows = [(row.ids, [one.tokens for one in written[b * K : b * K + K]]) for b, row in enumerate(chosen)]
    place_NA, mask_NA = pad_right([one.places for one in written], 0)
    place_NA, mask_NA = place_NA.to(policy.device), mask_NA.to(policy.device)
    logp_NA, value_NA = _score_all(policy, rows, chosen, place_NA, mask_NA, settings.max_tokens, with_value=True)
    with policy.as_reference():
        ref_logp_NA, _ = _score_all(policy, rows, chosen, place_NA, mask_NA, settings.max_tokens, with_value=False)
    asked = [row for row in chosen for _ in range(K)]
    parsed = [row.prompter.parse(one.verdict) for row, one in zip(asked, written, strict=True)]
    judged = [(row.prompter.task, label, row.prompt.example) for row, label in zip(asked, parsed, strict=True)]
    reward.observe([(task, example) for task, _, example in judged], [{label: 1.0} for label in parsed])
    score_N = torch.tensor([reward(*one) for one in judged], device=logp_NA.device)
    stats = {
        **_shared_stats(reward, chosen, parsed),
        "reward": float(score_N.mean()),
        "accuracy": sum(task.judge(label, example) for task, label, example in judged) / len(written),
        "unparsable": sum(p is None for p in parsed) / len(written),
        "kl": float((logp_NA - ref_logp_NA).sum(1).mean()),  # nats an answer, the k1 estimator
        "answer_tokens": float(mask_NA.sum(1).float().mean()),
    }
    return Rollout(chosen, rows, place_NA, mask_NA, logp_NA, ref_logp_NA, value_NA, score_N, stats)


@dataclass(frozen=True)
class _Written:
    """One answer of free text: what the model wrote first and the bridge, if any, and the verdict."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    """Which of them are the model's own."""
    verdict: str


def _write(policy: Policy, rows: list[Encoded], longest: int, max_tokens: int, uniform_BKA: Tensor) -> list[_Written]:
    """K answers to each prompt of one prompter, in the order of the prompts."""
    prompter, K = rows[0].prompter, uniform_BKA.shape[1]
    thoughts: list[list[tuple[tuple[int, ...], tuple[int, ...]]]] = [[((), ())] * K for _ in rows]
    prompts, uniform = [row.ids for row in rows], uniform_BKA
    if prompter.reason:  # every text then is a prompt of its own, with one verdict
        thoughts = think(policy, rows, max_tokens, uniform_BKA[:, :, : prompter.reason])
        prompts = [row.ids + own + bridge for row, texts in zip(rows, thoughts, strict=True) for own, bridge in texts]
        uniform = uniform_BKA[:, :, prompter.reason :].flatten(0, 1)[:, None]
    answers = [
        one for found in sample(policy, prompts, prompter.finished, longest, max_tokens, uniform) for one in found
    ]
    written = []
    for n, answer in enumerate(answers):
        own, bridge = thoughts[n // K][n % K]
        start = len(own) + len(bridge)
        places = (*range(len(own)), *range(start, start + len(answer.tokens)))
        written.append(_Written(own + bridge + answer.tokens, places, answer.text))
    return written


def _score_all(
    policy: Policy,
    rows: Sequence,
    chosen: Sequence[Encoded],
    place_NA: Tensor,
    mask_NA: Tensor,
    max_tokens: int,
    with_value: bool,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and values of every action, in the order of the rows: (N, A), zero where the mask is False."""
    N, A = mask_NA.shape
    K = N // len(rows)
    logp_NA = torch.zeros((N, A), device=policy.device)
    value_NA = torch.zeros((N, A), device=policy.device)
    head = policy.value_head if with_value else None
    kinds = [row.prompter.task.name for row in chosen]

    def work(batch: Batch) -> None:
        scores = score(policy.model, batch, policy.shared, value_head=head)
        at = torch.tensor([row * K + k for row in batch.rows for k in range(K)], device=policy.device)
        logp_NA[at] = torch.where(mask_NA[at], _at(scores.logp_BKA.flatten(0, 1), place_NA[at]), 0.0)
        if scores.value_BKA is not None:
            value_NA[at] = torch.where(mask_NA[at], _at(scores.value_BKA.flatten(0, 1), place_NA[at]), 0.0)

    policy.memory.each("rollout", rows, max_tokens, work, policy.pad, policy.device, kinds)
    what = "the log-probabilities or values of the answers are"
    check_finite(what, [row.source for row in chosen], logp_NA, value_NA)
    return logp_NA, value_NA


def _at(x_nT: Tensor, place_nA: Tensor) -> Tensor:
    """The numbers at the tokens that are actions; anything where a row has fewer."""
    return x_nT.gather(1, place_nA.clamp(max=x_nT.shape[1] - 1))
