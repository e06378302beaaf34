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
from .state import State


class BestState:
    """The trainable weights with the best held-out score so far.

    The score is the mean over the tasks of each one's first metric. Scores are equal far more often than one thinks on
    a few hundred rows. Reinforcement learning, and whatever goes on from an adapter, must be strictly better to replace
    what is there, the start included; who teaches a base model (`untaught`) wants what was taught: its start is no
    candidate, and of equal states the later is kept.
    """

    def __init__(
        self, policy: Policy, held: Sequence[Question], settings: TrainSettings, steps: int, untaught: bool = False
    ) -> None:
        self.policy, self.settings, self.untaught = policy, settings, untaught
        self.held = [question for question in held if len(question.rows)]
        self.every, self.steps = max(1, steps // 5), steps
        self.step, self.score = 0, float("-inf")
        self._weights: dict[str, Tensor] = {}

    def start(self) -> None:
        """Look at the state at the start, if that has not been done."""
        if self.held and not self._weights and not self.untaught:
            self._consider(0)

    def is_due(self, step: int) -> bool:
        """Whether it is time to look at the state after `step` steps."""
        return bool(self.held) and (step % self.every == 0 or step == self.steps)

    def after(self, step: int) -> dict[str, float]:
        """Look at the state after `step` steps if it is time to; the score for the log."""
        return {"held_out": self._consider(step)} if self.is_due(step) else {}

    def put_back(self) -> dict[str, float]:
        """Give the policy its best weights back. Says from which step they are; nothing if none were kept."""
        if not self._weights:
            return {}
        with torch.no_grad():
            for name, weight in self.policy.named_trainable().items():
                weight.copy_(self._weights[name])
        return {"best_step": self.step, "held_out": self.score}

    def state(self) -> State:
        """The best weights so far, for a checkpoint."""
        return State(self._weights, {"step": self.step, "score": self.score} if self._weights else {}, fixed=True)

    def load(self, state: State) -> None:
        """Go on from these weights."""
        self._weights = {name: weight.to(self.policy.device, copy=True) for name, weight in state.tensors.items()}
        if self._weights:
            self.step, self.score = state.values["step"], state.values["score"]

    def _consider(self, step: int) -> float:
        training = self.policy.model.training
        score = fmean(self._score(question) for question in self.held)
        if score > self.score or (self.untaught and score == self.score):
            self.step, self.score = step, score
            self._weights = {name: weight.detach().clone() for name, weight in self.policy.named_trainable().items()}
        self.policy.model.train(training)
        return score

    def _score(self, question: Question) -> float:
        found = ask(self.policy, question, "score", self.settings)
        task = question.task
        return value_of(task.metrics[0], task, [prediction.outcome(task) for prediction in found])
