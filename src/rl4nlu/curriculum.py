"""Which of several prompts a step learns from: those of which the policy is unsure.

The gradient of the expected reward of a yes-or-no answer is p (1 - p) times that of its log-odds, so a row of which the
policy is certain teaches nothing (docs/method.md; as dynamic sampling, Yu et al. 2025, arXiv 2503.14476, section 3.2,
which leaves out prompts whose answers all earn the same).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .ask import label_logp
from .models import Policy
from .seeding import generator
from .tokens import Encoded

FLOOR = 1e-3
"""Least weight of a row, so that none is left out for good."""


def most_uncertain(
    policy: Policy, candidates: Sequence[Encoded], count: int, max_tokens: int, seed: int, step: int
) -> list[Encoded]:
    """`count` of the candidates, drawn without replacement with weights p (1 - p), p the policy's probability of the
    gold label within the closed set; those of a task together, as `Mixture.batch` gives them."""
    logp = label_logp(policy, candidates, max_tokens)
    gold = np.exp([scores[row.gold] for scores, row in zip(logp, candidates, strict=True)])
    keys = np.log(gold * (1 - gold) + FLOOR) + generator(seed, "uncertain", step).gumbel(size=len(candidates))
    kept = sorted(np.argsort(-keys)[:count].tolist(), key=lambda i: (candidates[i].prompter.task.name, i))
    return [candidates[i] for i in kept]
