"""An answer against its gold label -> a score; the per-token KL penalty and its controllers.

The reward asks `Task.judge`, as the metric does. Shapes: B answers, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .tasks import Example, Task


def paper_reward(task: Task, prediction: str | None, example: Example) -> float:
    """+1 right, -1 wrong, -3 not parsable; numeric tasks: 2.5 - |prediction - gold|, -2.5 not parsable
    (arXiv 2410.11020, section 3)."""
    assert example.label is not None, "a reward needs a gold label"
    if task.numeric:
        return -2.5 if prediction is None else 2.5 - abs(float(prediction) - float(example.label))
    if prediction is None:
        return -3.0
    return 1.0 if task.judge(prediction, example) else -1.0


def exact_match(task: Task, prediction: str | None, example: Example) -> float:
    """1 right, 0 wrong or not parsable."""
    return float(task.judge(prediction, example))


REWARDS: dict[str, Callable[[Task, str | None, Example], float]] = {"paper": paper_reward, "exact": exact_match}


def token_rewards(score_B: Tensor, logp_BA: Tensor, ref_logp_BA: Tensor, mask_BA: Tensor, kl_coef: float) -> Tensor:
    """r_t = -beta (log pi(a_t|s_t) - log pi_ref(a_t|s_t)), plus the answer's score at its last token.

    Ziegler et al. 2019 (arXiv 1909.08593), equation 2. Returns (B, A), zero where the mask is False.
    """
    assert logp_BA.shape == ref_logp_BA.shape == mask_BA.shape
    assert score_B.shape == logp_BA.shape[:1]
    penalty_BA = torch.where(mask_BA, -kl_coef * (logp_BA - ref_logp_BA), 0.0)
    last_BA = torch.arange(mask_BA.shape[1], device=mask_BA.device) == mask_BA.sum(1, keepdim=True) - 1
    return penalty_BA + torch.where(last_BA & mask_BA, score_B[:, None], 0.0)


@dataclass
class KLController:
    """The KL coefficient beta, adapted to hold the KL near a target.

    e = clip(KL / target - 1, -0.2, 0.2);  beta <- beta (1 + e n / horizon)
    (Ziegler et al. 2019, section 2.2). With `target` None the coefficient is fixed.
    """

    coef: float
    target: float | None
    horizon: int

    def update(self, kl: float, answers: int) -> None:
        """Take note of the mean KL (nats an answer) of `answers` new answers."""
        if self.target is not None:
            error = min(max(kl / self.target - 1.0, -0.2), 0.2)
            self.coef *= 1.0 + error * min(1.0, answers / self.horizon)  # never to zero or below
