"""Labels of the closed set as actions. Shapes and masks: see the package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import processes
from ..forward import score, take_part
from ..guards import check_finite
from ..labels import closed_set_logp, distinguishing
from ..models import Policy
from ..rewards import Reward
from ..rollout import uniforms
from ..settings import PpoSettings
from ..tokens import Batch, Encoded
from .record import Closed, Kept, Rollout, keep, shared_stats


def gold_labels(rollout: Rollout, prompts: Sequence[int], device: torch.device) -> Tensor:
    """Number of the gold label of each prompt."""
    return torch.tensor([rollout.chosen[p].gold for p in prompts], device=device)


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
def draw_labels(policy: Policy, chosen: list[Encoded], settings: PpoSettings, step: int, reward: Reward) -> Rollout:
    """Draw a label for each answer to each prompt, and reward it; arguments as of `roll_out`."""
    rows = [(row.ids, distinguishing(row.answers)) for row in chosen]
    own = processes.share(len(chosen))
    mine, my_rows = [chosen[b] for b in own], [rows[b] for b in own]
    kept = keep(
        policy, my_rows, mine, settings, lambda batch: score_labels(policy, batch, [mine[i] for i in batch.rows])
    )
    logp, value = _score_all_labels(policy, mine, my_rows, settings.max_tokens, kept)
    with policy.as_reference():
        ref_logp, _ = _score_all_labels(policy, mine, my_rows, settings.max_tokens)
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
        **shared_stats(reward, chosen, said),
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
    numbers = (logp_N1, ref_N1, value_N1, score_N)
    return Rollout(chosen, rows, place_N1, mask_N1, *numbers, stats, drawn_BK, closed, own, kept)


def _invert(logp_L: Tensor, uniform_K: Tensor) -> Tensor:
    """The labels at these uniform numbers."""
    mass_L = logp_L.double().exp().cumsum(0)
    at_K = uniform_K.to(mass_L.device) * mass_L[-1]
    return torch.searchsorted(mass_L, at_K, right=True).clamp(max=len(mass_L) - 1)


def _score_all_labels(
    policy: Policy, chosen: Sequence[Encoded], rows: Sequence, max_tokens: int, kept: Sequence[Kept] = ()
) -> tuple[list[Tensor], Tensor]:
    """Log-probabilities within the closed set, and values, of all rows: of this process's, and then of those of all."""
    kinds = [row.prompter.task.name for row in chosen]
    logp: list[Tensor] = [torch.empty(0)] * len(rows)
    value_B = torch.zeros(len(rows), device=policy.device)

    def note(batch: Batch, logp_BL: Tensor, value: Tensor) -> None:
        asked = [chosen[i] for i in batch.rows]
        check_finite("the labels' log-probabilities or values are", [row.source for row in asked], logp_BL, value)
        for i, row in enumerate(batch.rows):
            logp[row], value_B[row] = logp_BL[i], value[i]

    def work(batch: Batch) -> None:
        note(batch, *score_labels(policy, batch, [chosen[i] for i in batch.rows]))

    def found() -> list[Any]:
        for one in kept:
            assert isinstance(one.scores, tuple)
            note(one.batch, *(x.detach() for x in one.scores))
        if not kept:
            idle = partial(take_part, policy.model, policy.shared)
            policy.memory.each("rollout", rows, max_tokens, work, policy.pad, policy.device, kinds, idle)
        return logp if processes.count() == 1 else [logp_L.tolist() for logp_L in logp]

    told = processes.gathered(found)
    whole = [torch.as_tensor(logp_L, dtype=value_B.dtype, device=policy.device) for logp_L in told]
    return whole, processes.gathered_rows(value_B[:, None])[:, 0]
