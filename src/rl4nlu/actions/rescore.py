"""The policy of now on actions that were taken, with gradients. Shapes and masks: see the package."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..forward import Scores
from ..models import Policy
from ..settings import PpoSettings
from ..tokens import Batch
from .labels import gold_labels, score_labels
from .record import ActionScores, Kept, Rollout
from .text import at_places, score_with_entropy, with_gold_answers


def rescore(
    policy: Policy,
    batch: Batch,
    rollout: Rollout,
    prompts: Sequence[int],
    settings: PpoSettings,
    kept: Kept | None = None,
) -> ActionScores:
    """Score actions again, with gradients.

    Args:
        policy: the policy.
        batch: micro-batch of `rows_to_rescore`.
        rollout: what was done.
        prompts: which prompt of the rollout each row of the batch is.
        settings: of the run: an SFT term also needs the gold answers, which stand last in the batch's rows.
        kept: a pass over this very batch that was done already.
    """
    if rollout.label_BK is not None:
        logp_bL, value_b = rescore_labels(policy, batch, rollout, prompts, kept)
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
    scores = kept.scores if kept is not None else score_with_entropy(policy, batch, settings)
    assert isinstance(scores, Scores)
    assert scores.entropy_BKA is not None
    value_BKA = torch.zeros_like(scores.logp_BKA) if scores.value_BKA is None else scores.value_BKA
    K = batch.answer_BKA.shape[1] - (settings.sft_coef > 0)
    place_nA = rollout.place_NA.view(len(rollout.rows), K, -1)[list(prompts)].flatten(0, 1)
    logp_nA, entropy_nA, value_nA = (
        at_places(x_BKA[:, :K].flatten(0, 1), place_nA) for x_BKA in (scores.logp_BKA, scores.entropy_BKA, value_BKA)
    )
    gold = (x_BKA[:, -1, :] for x_BKA in (scores.logp_BKA, batch.answer_mask_BKA))
    return ActionScores(logp_nA, entropy_nA, value_nA, *gold)


def rescore_labels(
    policy: Policy, batch: Batch, rollout: Rollout, prompts: Sequence[int], kept: Kept | None = None
) -> tuple[Tensor, Tensor]:
    """As `score_labels`, of a rollout's prompts; `kept` as in `rescore`."""
    if kept is None:
        return score_labels(policy, batch, [rollout.chosen[p] for p in prompts])
    assert isinstance(kept.scores, tuple)
    return kept.scores


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
    return with_gold_answers(rows, [rollout.chosen[p] for p in prompts])
