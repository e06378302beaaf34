"""What is known of the actions of one step. Shapes and masks: see the package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from .. import processes
from ..forward import Scores
from ..models import Policy
from ..rewards import Reward
from ..settings import PpoSettings
from ..tokens import Batch, Encoded, micro_batches


@dataclass(frozen=True)
class Closed:
    """What is known of every label of each prompt."""

    labels: Sequence[str]
    logp_BL: Tensor
    ref_logp_BL: Tensor
    reward_BL: Tensor


@dataclass(frozen=True)
class Kept:
    """One pass over all of a rollout's answers with the policy that gave them, with its graph for gradients: it tells
    their log-probabilities, and is the first pass of the first inner epoch as well."""

    batch: Batch
    scores: Scores | tuple[Tensor, Tensor]
    """Of free text; of labels what `score_labels` gives."""
    with_gold: bool
    """As in `rows_to_rescore`."""


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
    mine: Sequence[int] = ()
    """The prompts that this process has worked on."""
    kept: list[Kept] = field(default_factory=list)
    """At most one, over this process's prompts; whoever uses it takes it out."""

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


def in_parts(settings: PpoSettings) -> bool:
    """Whether an optimizer step is on some of a step's prompts only."""
    return settings.minibatch is not None and settings.minibatch < settings.batch_size


def keep(
    policy: Policy,
    rows: Sequence,
    chosen: Sequence[Encoded],
    settings: PpoSettings,
    work: Callable[[Batch], Scores | tuple[Tensor, Tensor]],
) -> list[Kept]:
    """`work` on all rows with gradients, if all go through the model at once and the optimizer's first step is on all
    of them; else nothing."""
    if in_parts(settings) or processes.sharded() or not rows:
        return []
    kinds = [row.prompter.task.name for row in chosen]

    def once(max_tokens: int) -> list[Kept]:
        batches = list(islice(micro_batches(rows, max_tokens, policy.pad, policy.device, kinds), 2))
        if len(batches) > 1:
            return []
        with torch.enable_grad():
            return [Kept(batches[0], work(batches[0]), settings.sft_coef > 0)]

    return policy.memory.fitting("update", settings.max_tokens, once)


def shared_stats(reward: Reward, chosen: Sequence[Encoded], said: Sequence[str | None]) -> dict[str, float]:
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
