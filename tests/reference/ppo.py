"""PPO for language models in plain NumPy loops, float64, written from the papers. Calls nothing of rl4nlu."""

from __future__ import annotations

import numpy as np


def penalised_rewards(score, logp, ref_logp, mask, beta):
    """Ziegler et al. 2019 (1909.08593), equation 2, spread over the tokens; the score comes with the last token."""
    rewards = np.zeros_like(logp)
    for b in range(len(score)):
        tokens = [t for t in range(logp.shape[1]) if mask[b, t]]
        for t in tokens:
            rewards[b, t] = -beta * (logp[b, t] - ref_logp[b, t])
        rewards[b, tokens[-1]] += score[b]
    return rewards


def gae(rewards, values, mask, gamma, lam):
    """Schulman et al. 2016 (1506.02438), equation 16, as the sum itself: A_t = sum_l (gamma lambda)^l delta_{t+l}."""
    advantages, returns = np.zeros_like(rewards), np.zeros_like(rewards)
    for b in range(len(rewards)):
        n = int(mask[b].sum())
        v = [*values[b, :n], 0.0]
        deltas = [rewards[b, t] + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            advantages[b, t] = sum((gamma * lam) ** k * deltas[t + k] for k in range(n - t))
            returns[b, t] = advantages[b, t] + v[t]
    return advantages, returns


def whiten(x, mask):
    """Zero mean, unit variance over the tokens that count."""
    chosen = x[mask]
    out = np.zeros_like(x)
    out[mask] = (chosen - chosen.mean()) / chosen.std()
    return out


def losses(logp, old_logp, advantages, values, old_values, returns, entropy, mask, clip, value_clip, c_v, c_e):
    """Schulman et al. 2017 (1707.06347), equations 7 and 9; value clipping as in the paper's own code."""
    policy = value = bonus = kl = clipped = ratios = 0.0
    n = 0
    for b, t in zip(*np.nonzero(mask), strict=True):
        n += 1
        ratio = np.exp(logp[b, t] - old_logp[b, t])
        inside = min(max(ratio, 1 - clip), 1 + clip)
        first, second = ratio * advantages[b, t], inside * advantages[b, t]
        policy -= min(first, second)
        error = (values[b, t] - returns[b, t]) ** 2
        if value_clip is not None:
            near = min(max(values[b, t], old_values[b, t] - value_clip), old_values[b, t] + value_clip)
            error = max(error, (near - returns[b, t]) ** 2)
        value += 0.5 * error
        bonus += entropy[b, t]
        kl += ratio - 1 - np.log(ratio)
        clipped += second < first
        ratios += ratio
    parts = {"policy_loss": policy, "value_loss": value, "entropy": bonus, "approx_kl": kl, "clipfrac": clipped}
    parts = {name: part / n for name, part in {**parts, "ratio": ratios}.items()}
    return parts["policy_loss"] + c_v * parts["value_loss"] - c_e * parts["entropy"], parts


def adaptive_kl(coef, target, horizon, history):
    """Ziegler et al. 2019, section 2.2: the coefficient after each (KL, answers) of a history."""
    found = []
    for kl, answers in history:
        error = np.clip(kl / target - 1, -0.2, 0.2)
        coef *= 1 + error * answers / horizon
        found.append(coef)
    return found


def leave_one_out(scores):
    """Ahmadian et al. 2024 (2402.14740), equation 7: each answer against the mean of the others."""
    out = np.zeros_like(scores)
    for b, row in enumerate(scores):
        for k in range(len(row)):
            out[b, k] = row[k] - np.mean([r for j, r in enumerate(row) if j != k])
    return out


def group_relative(scores, scale):
    """Shao et al. 2024 (2402.03300), section 4.1.2: (r - mean) / std of the group; without the std Liu et al. 2025."""
    out = np.zeros_like(scores)
    for b, row in enumerate(scores):
        spread = np.std(row)
        for k in range(len(row)):
            out[b, k] = row[k] - np.mean(row)
            if scale:
                out[b, k] = out[b, k] / spread if spread > 0 else 0.0
    return out


def returns_to_go(rewards, mask, gamma):
    out = np.zeros_like(rewards)
    for b in range(len(rewards)):
        n = int(mask[b].sum())
        for t in range(n):
            out[b, t] = sum(gamma ** (s - t) * rewards[b, s] for s in range(t, n))
    return out


def kl_estimates(logp, ref):
    """Schulman 2020: with r = p_ref / p of the drawn action: k1 = -log r, k2 = (log r)^2 / 2, k3 = r - 1 - log r."""
    r = np.exp(ref) / np.exp(logp)
    return -np.log(r), np.log(r) ** 2 / 2, r - 1 - np.log(r)


def expected(logp, old, ref, reward, clip, beta, c_e):
    """The mean over prompts of what PPO's clipped objective has as its expectation over labels drawn from the old
    policy, with the exact KL to the reference and the exact entropy."""
    total = 0.0
    for b in range(len(logp)):
        p, q, s = np.exp(logp[b]), np.exp(old[b]), np.exp(ref[b])
        baseline = sum(q[k] * reward[b, k] for k in range(len(q)))
        for k in range(len(q)):
            ratio, advantage = p[k] / q[k], reward[b, k] - baseline
            inside = min(max(ratio, 1 - clip), 1 + clip)
            total -= q[k] * min(ratio * advantage, inside * advantage)
            total += beta * p[k] * np.log(p[k] / s[k])
            total += c_e * p[k] * np.log(p[k])
    return total / len(logp)
