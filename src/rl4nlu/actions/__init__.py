"""What the policy does in one step of reinforcement learning, and how likely it was: free text, of which every token is
an action, or labels of the closed set, of which one answer is one action.

Shapes: B prompts, K answers a prompt, N = B x K answers in the order of the prompts, A actions an answer (1 for
labels), L labels. Masks: True = counts.
"""

from __future__ import annotations

from ..models import Policy
from ..rewards import Reward
from ..settings import PpoSettings
from ..tokens import Encoded
from .labels import draw_labels, gold_labels, score_labels
from .record import ActionScores, Closed, Kept, Rollout
from .rescore import rescore, rescore_labels, rows_to_rescore
from .text import write_text

__all__ = [
    "ActionScores",
    "Closed",
    "Kept",
    "Rollout",
    "gold_labels",
    "rescore",
    "rescore_labels",
    "reward_of",
    "roll_out",
    "rows_to_rescore",
    "score_labels",
]


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
        return draw_labels(policy, chosen, settings, step, reward)
    return write_text(policy, chosen, settings, step, settings.answer_tokens or longest, reward)


def reward_of(settings: PpoSettings) -> Reward:
    """The reward of a run."""
    return Reward(settings.reward, settings.format_penalty, settings.metric_window)
