"""The training rows of one task or several: which rows a step sees, a function of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .ask import Question
from .seeding import generator
from .settings import TrainSettings
from .tokens import Encoded

POWER = {"proportional": 1.0, "sqrt": 0.5, "equal": 0.0}


class Mixture:
    """Questions of one task or several, drawn from as the settings say.

    An epoch has as many rows as all tasks have (each at most `mixture_cap`), shared out among the tasks in proportion
    to their rows to the power of 1, 1/2 or 0. Each task's rows come in fresh permutations, none twice before all have
    come once; the permutations go on from one epoch to the next.
    """

    def __init__(self, questions: Sequence[Question], settings: TrainSettings, method: str) -> None:
        self.questions = list(questions)
        self.settings = settings
        self.method = method
        self.quotas = shares([len(question.rows) for question in questions], settings.mixing, settings.mixture_cap)
        self._epoch = lru_cache(maxsize=2)(self._order_of)

    def __len__(self) -> int:
        return sum(self.quotas)

    @property
    def title(self) -> str:
        names = [question.task.name for question in self.questions]
        return names[0] if len(names) == 1 else f"{len(names)} tasks"

    @property
    def longest_answer(self) -> int:
        return max(question.rows.encoder.longest_answer for question in self.questions)

    def batch(self, step: int) -> list[Encoded]:
        """The rows of a step, those of a task together. A batch may span the border of two epochs, so that every batch
        is full and every row is seen equally often."""
        size = self.settings.batch_size
        chosen: list[tuple[int, int]] = []
        while len(chosen) < size:
            epoch, offset = divmod(step * size + len(chosen), len(self))
            chosen += self._epoch(epoch)[offset : offset + size - len(chosen)]
        of_task: dict[int, list[int]] = {}
        for task, row in chosen:
            of_task.setdefault(task, []).append(row)
        return [row for task in sorted(of_task) for row in self.questions[task].rows.take(of_task[task])]

    def _order_of(self, epoch: int) -> list[tuple[int, int]]:
        """(task, row) pairs of an epoch. Each method has an order of its own, so that a short PPO run after a short SFT
        run sees other rows."""
        pairs = []
        for task, (question, quota) in enumerate(zip(self.questions, self.quotas, strict=True)):
            rows = len(question.rows)
            for place in range(epoch * quota, (epoch + 1) * quota):
                pairs.append((task, int(self._permutation(place // rows, rows)[place % rows])))
        if len(self.questions) == 1:
            return pairs
        order = generator(self.settings.seed, f"mixture/{self.method}", epoch).permutation(len(pairs))
        return [pairs[i] for i in order]

    @lru_cache(maxsize=64)  # noqa: B019  a mixture lives as long as its run
    def _permutation(self, turn: int, rows: int) -> np.ndarray:
        return generator(self.settings.seed, f"order/{self.method}", turn).permutation(rows)


def shares(rows: Sequence[int], mixing: str, cap: int | None) -> list[int]:
    """How many rows of each task an epoch has; every task at least one.

    n_t = min(rows_t, cap); the sum of all n_t is shared out by n_t ** (1 proportional, 1/2 sqrt, 0 equal), with the
    largest remainders rounded up.
    """
    counted = [min(n, cap or n) for n in rows]
    weight = [n ** POWER[mixing] for n in counted]
    exact = [sum(counted) * w / sum(weight) for w in weight]
    found = [math.floor(x) for x in exact]
    for i in sorted(range(len(exact)), key=lambda i: found[i] - exact[i])[: sum(counted) - sum(found)]:
        found[i] += 1
    return [max(1, n) for n in found]
