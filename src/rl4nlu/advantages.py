"""Rewards and values -> advantages. Pure functions; B answers (or prompts), K answers a prompt, A answer tokens; masks:
True = counts."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(reward_BA: Tensor, value_BA: Tensor, mask_BA: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equations 11, 12 and 16).

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t);  A_t = delta_t + gamma lambda A_{t+1};  R_t = A_t + V(s_t)

    V behind an answer's last token is 0: the episode ends there. r_t is the reward for token t, V(s_t) the value of
    the state before it. The masked tokens of a row must be a prefix of it.

    Returns:
        advantages and returns, (B, A), zero where the mask is False.
    """
    assert reward_BA.shape == value_BA.shape == mask_BA.shape
    assert reward_BA.dim() == 2
    value_BA = torch.where(mask_BA, value_BA, 0.0)
    reward_BA = torch.where(mask_BA, reward_BA, 0.0)
    columns = []
    next_advantage_B = torch.zeros_like(reward_BA[:, 0])
    next_value_B = torch.zeros_like(next_advantage_B)
    for t in reversed(range(reward_BA.shape[1])):
        delta_B = reward_BA[:, t] + gamma * next_value_B - value_BA[:, t]
        next_advantage_B = torch.where(mask_BA[:, t], delta_B + gamma * lam * next_advantage_B, 0.0)
        next_value_B = value_BA[:, t]
        columns.append(next_advantage_B)
    advantage_BA = torch.stack(columns[::-1], 1)
    return advantage_BA, advantage_BA + value_BA


def whiten(x_BA: Tensor, mask_BA: Tensor) -> Tensor:
    """(x - mean) / std over the tokens that count; zero elsewhere.

    The standard deviation is the population's; where all values are (nearly) equal it is floored at 1e-4, so that
    noise is not blown up.
    """
    assert x_BA.shape == mask_BA.shape
    count, dtype = mask_BA.sum(), x_BA.dtype
    x_BA = x_BA.double()  # a mean that is large beside the spread leaves float32 too few digits
    mean = torch.where(mask_BA, x_BA, 0.0).sum() / count
    centred_BA = torch.where(mask_BA, x_BA - mean, 0.0)
    std = (centred_BA.square().sum() / count).sqrt()
    return (centred_BA / std.clamp(min=1e-4)).to(dtype)


def leave_one_out(score_BK: Tensor) -> Tensor:
    """A_k = r_k - mean of the other answers' rewards to the same prompt (Kool et al. 2019; Ahmadian et al. 2024, arXiv
    2402.14740, equation 7). (B, K); K >= 2."""
    assert score_BK.dim() == 2
    K = score_BK.shape[1]
    assert K >= 2, "leave-one-out needs two answers a prompt"
    exact_BK = score_BK.double()
    return ((exact_BK - exact_BK.mean(1, keepdim=True)) * (K / (K - 1))).to(score_BK.dtype)


def group_relative(score_BK: Tensor, scale: bool) -> Tensor:
    """A_k = r_k - mean of the prompt's rewards, over their standard deviation if `scale` (Shao et al. 2024, arXiv
    2402.03300, section 4.1.2); without, as Liu et al. 2025 (arXiv 2503.20783) correct it.

    The population's standard deviation; a prompt whose answers all earn the same has advantage zero. (B, K); K >= 2.
    """
    assert score_BK.dim() == 2
    assert score_BK.shape[1] >= 2, "a group needs two answers a prompt"
    exact_BK = score_BK.double()  # rewards that are nearly equal leave float32 too few digits
    centred_BK = exact_BK - exact_BK.mean(1, keepdim=True)
    std_B1 = centred_BK.square().mean(1, keepdim=True).sqrt()
    if scale:
        centred_BK = torch.where(std_B1 > 1e-6, centred_BK / std_B1.clamp(min=1e-6), 0.0)
    return centred_BK.to(score_BK.dtype)


def returns_to_go(reward_BA: Tensor, mask_BA: Tensor, gamma: float) -> Tensor:
    """R_t = sum over s >= t of gamma^(s - t) r_s: what REINFORCE++ normalises over the batch into its advantage (Hu et
    al. 2025, arXiv 2501.03262). (B, A), zero where the mask is False."""
    nothing = torch.zeros_like(reward_BA)
    return gae(reward_BA, nothing, mask_BA, gamma, 1.0)[0]
