"""Keep the best state of a run: scored on training rows that were held out, never on dev."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from .ask import Question, ask
from .metrics import value_of
from .models import Policy
from .settings import TrainSettings


class BestState:
    """The trainable weights with the best held-out score so far; the state at the start is the first candidate.

    The score is the mean over the tasks of each one's first metric. Scores are equal far more often than one thinks on
    a few hundred rows: a later state must be strictly better.
    """

    def __init__(self, policy: Policy, held: Sequence[Question], settings: TrainSettings, steps: int) -> None:
        self.policy, self.settings = policy, settings
        self.held = [question for question in held if len(question.rows)]
        self.every = max(1, steps // 5)
        self.step, self.score = 0, float("-inf")
        self._weights: list[Tensor] = []
        if self.held:
            self._consider(0)

    def after(self, step: int, steps: int) -> dict[str, float]:
        """Look at the state after `step` steps if it is time to; the score for the log."""
        if not self.held or (step % self.every and step != steps):
            return {}
        return {"held_out": self._consider(step)}

    def restore(self) -> dict[str, float]:
        """Give the policy its best weights back. Says from which step they are; nothing if none were kept."""
        if not self._weights:
            return {}
        with torch.no_grad():
            for weight, best in zip(self.policy.trainable(), self._weights, strict=True):
                weight.copy_(best)
        return {"best_step": self.step, "held_out": self.score}

    def _consider(self, step: int) -> float:
        training = self.policy.model.training
        score = fmean(self._score(question) for question in self.held)
        if score > self.score:
            self.step, self.score = step, score
            self._weights = [weight.detach().clone() for weight in self.policy.trainable()]
        self.policy.model.train(training)
        return score

    def _score(self, question: Question) -> float:
        found = ask(self.policy, question, "score", self.settings)
        task = question.task
        return value_of(task.metrics[0], task, [prediction.outcome(task) for prediction in found])
