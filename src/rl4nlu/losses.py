"""The losses. Pure functions; B answers, A answer tokens; masks: True = counts.

Every loss is a sum over the tokens that count, divided by `count`: the number of such tokens in the whole batch, not in
the micro-batch. So the gradient does not depend on how a batch is cut into micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A loss and its parts, each a share of the batch's mean."""

    total: Tensor
    parts: dict[str, float]


def sft_loss(logp_BA: Tensor, mask_BA: Tensor, count: int) -> Loss:
    """-(1/count) sum_t log pi(y_t | x, y_<t) over the answer's tokens; the prompt has no loss."""
    assert logp_BA.shape == mask_BA.shape
    total = -torch.where(mask_BA, logp_BA, 0.0).sum() / count
    return Loss(total, {"loss": total.item()})


def ppo_loss(
    logp_BA: Tensor,
    old_logp_BA: Tensor,
    advantage_BA: Tensor,
    value_BA: Tensor,
    old_value_BA: Tensor,
    return_BA: Tensor,
    entropy_BA: Tensor,
    mask_BA: Tensor,
    count: int,
    clip: float,
    value_clip: float | None,
    value_coef: float,
    entropy_coef: float,
) -> Loss:
    """Clipped policy and value losses (Schulman et al. 2017, arXiv 1707.06347, equations 7 and 9).

    rho_t = exp(log pi(a_t|s_t) - log pi_old(a_t|s_t))
    policy = -mean min(rho A, clip(rho, 1 - eps, 1 + eps) A)
    value  = 1/2 mean max((V - R)^2, (clip(V, V_old - eps_v, V_old + eps_v) - R)^2)
    total  = policy + value_coef * value - entropy_coef * mean entropy

    `approx_kl` is mean (rho - 1 - log rho), the k3 estimator of KL(old || new); `clipfrac` the share of tokens whose
    clipped term is the smaller one.
    """
    shape = mask_BA.shape
    given = (logp_BA, old_logp_BA, advantage_BA, value_BA, old_value_BA, return_BA, entropy_BA)
    assert all(x.shape == shape for x in given), f"shapes differ: {[tuple(x.shape) for x in given]}"

    # whatever stands at masked positions, NaN included, is gone before it meets a number that counts
    logp_BA, old_logp_BA, advantage_BA, value_BA, old_value_BA, return_BA, entropy_BA = (
        torch.where(mask_BA, x_BA, 0.0) for x_BA in given
    )

    def mean(x_BA: Tensor) -> Tensor:
        return torch.where(mask_BA, x_BA, 0.0).sum() / count

    log_ratio_BA = logp_BA - old_logp_BA
    ratio_BA = log_ratio_BA.exp()
    free_BA = ratio_BA * advantage_BA
    clipped_BA = ratio_BA.clamp(1 - clip, 1 + clip) * advantage_BA
    policy = -mean(torch.minimum(free_BA, clipped_BA))
    error_BA = (value_BA - return_BA).square()
    if value_clip is not None:
        near_BA = torch.clamp(value_BA, old_value_BA - value_clip, old_value_BA + value_clip)
        error_BA = torch.maximum(error_BA, (near_BA - return_BA).square())
    value = 0.5 * mean(error_BA)
    entropy = mean(entropy_BA)
    total = policy + value_coef * value - entropy_coef * entropy
    with torch.no_grad():
        parts = {
            "loss": total.item(),
            "policy_loss": policy.item(),
            "value_loss": value.item(),
            "entropy": entropy.item(),
            "approx_kl": mean(ratio_BA - 1 - log_ratio_BA).item(),
            "clipfrac": mean((clipped_BA < free_BA).to(ratio_BA.dtype)).item(),
            "ratio": mean(ratio_BA).item(),
        }
    return Loss(total, parts)
