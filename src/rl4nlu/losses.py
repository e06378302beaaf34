"""The losses. Pure functions; B answers (or prompts), A answer tokens, L labels of a closed set; masks: True = counts.

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
    ref_logp_BA: Tensor | None = None,
    kl_coef: float = 0.0,
) -> Loss:
    """Clipped policy and value losses (Schulman et al. 2017, arXiv 1707.06347, equations 7 and 9).

    rho_t = exp(log pi(a_t|s_t) - log pi_old(a_t|s_t))
    policy = -mean min(rho A, clip(rho, 1 - eps, 1 + eps) A)
    value  = 1/2 mean max((V - R)^2, (clip(V, V_old - eps_v, V_old + eps_v) - R)^2)
    total  = policy + value_coef * value - entropy_coef * mean entropy + kl_coef * mean k3(pi, pi_ref)

    The last term is GRPO's (Shao et al. 2024, equation 4). `approx_kl` is mean (rho - 1 - log rho), the k3 estimator of
    KL(old || new); `clipfrac` the share of tokens whose clipped term is the smaller one.
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
    if kl_coef:
        assert ref_logp_BA is not None
        assert ref_logp_BA.shape == shape
        total = total + kl_coef * mean(kl_estimates(logp_BA, torch.where(mask_BA, ref_logp_BA, 0.0))[2])
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


def kl_estimates(logp: Tensor, ref_logp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k1, k2 and k3, three estimates of KL(pi || pi_ref) from actions drawn from pi (Schulman 2020, "Approximating KL
    divergence"): with x = log pi_ref - log pi of the action

    k1 = -x;  k2 = x^2 / 2;  k3 = exp(x) - 1 - x

    k1 and k3 are unbiased as values, k3 is never negative; the gradient of k2 is that of the KL, that of k1 is zero in
    the mean.
    """
    assert logp.shape == ref_logp.shape
    x = ref_logp - logp
    return -x, 0.5 * x.square(), torch.expm1(x) - x


def expected_loss(
    logp_BL: Tensor,
    old_logp_BL: Tensor,
    ref_logp_BL: Tensor,
    reward_BL: Tensor,
    count: int,
    clip: float,
    kl_coef: float,
    entropy_coef: float,
) -> Loss:
    """The policy's expected reward over a closed set of labels, exactly: no sampling, no critic, no action variance.

    A(k)   = r(k) - sum_j pi_old(j) r(j);  rho(k) = pi(k) / pi_old(k)
    policy = -mean_b sum_k pi_old(k) min(rho A, clip(rho, 1 - eps, 1 + eps) A)
    total  = policy + kl_coef * mean KL(pi || pi_ref) - entropy_coef * mean entropy

    KL and entropy are exact sums too. Where pi = pi_old the gradient is that of -sum_k pi(k) r(k), the mean of the
    policy gradient over all samples (docs/method.md). Rows add up to `count` over all micro-batches.

    Args:
        logp_BL: log-probabilities within the closed set; each row's probabilities add up to one.
        old_logp_BL: the same when the step began.
        ref_logp_BL: of the reference policy.
        reward_BL: of every label.
        count: prompts of the whole batch.
        clip: range of the ratio.
        kl_coef: weight of the KL.
        entropy_coef: weight of the entropy.
    """
    assert logp_BL.shape == old_logp_BL.shape == ref_logp_BL.shape == reward_BL.shape
    old_BL, p_BL = old_logp_BL.exp(), logp_BL.exp()
    advantage_BL = reward_BL - (old_BL * reward_BL).sum(1, keepdim=True)
    ratio_BL = (logp_BL - old_logp_BL).exp()
    free_BL = ratio_BL * advantage_BL
    clipped_BL = ratio_BL.clamp(1 - clip, 1 + clip) * advantage_BL
    policy = -(old_BL * torch.minimum(free_BL, clipped_BL)).sum() / count
    kl = (p_BL * (logp_BL - ref_logp_BL)).sum() / count
    entropy = -(p_BL * logp_BL).sum() / count
    total = policy + kl_coef * kl - entropy_coef * entropy
    with torch.no_grad():
        parts = {
            "loss": total.item(),
            "policy_loss": policy.item(),
            "entropy": entropy.item(),
            "approx_kl": (old_BL * (old_logp_BL - logp_BL)).sum().item() / count,
            "clipfrac": (old_BL * (clipped_BL < free_BL)).sum().item() / count,
            "ratio": ratio_BL.mean(1).sum().item()
            / count,  # over the labels alike: weighted by pi_old it is always one
        }
    return Loss(total, parts)
