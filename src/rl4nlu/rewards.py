"""An answer against its gold label -> a score; the per-token KL penalty and its controllers.

The reward asks `Task.judge`, as the metric does. torch is imported where it is needed only, so that a reward's name is
checked without it. Shapes: B answers, A answer tokens, L labels, C = L + 1 answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING

from .errors import UserError, did_you_mean
from .soft_metrics import SOFT
from .state import State
from .tasks import Example, Task

if TYPE_CHECKING:
    from torch import Tensor

RewardFunction = Callable[[Task, str | None, Example], float]
"""(task, label that was said or None, row) -> what it earns."""
ENTRY_POINTS = "rl4nlu.rewards"
"""Entry points under which an installed package offers rewards of its own, by name."""
METRIC = "metric"
"""The derivative of the task's own metric; the names in SOFT are those of a metric whatever the task's."""


def paper_reward(task: Task, prediction: str | None, example: Example) -> float:
    """+1 right, -1 wrong, -3 not parsable; numeric tasks: 2.5 - |prediction - gold|, -2.5 not parsable, on the scale of
    STS-B (arXiv 2410.11020, section 3)."""
    penalty = FORMAT_PENALTY["paper"] if prediction is None and not task.numeric else 0.0
    return signed_match(task, prediction, example) - penalty


def signed_match(task: Task, prediction: str | None, example: Example) -> float:
    """+1 right, -1 wrong or not parsable; numeric tasks: 2.5 - |prediction - gold|, -2.5 not parsable, on the scale of
    STS-B, where 5 lies between the lowest and the highest number."""
    assert example.label is not None, "a reward needs a gold label"
    if task.numeric:
        scale = 5 / (float(task.labels[-1]) - float(task.labels[0]))
        return -2.5 if prediction is None else 2.5 - scale * abs(float(prediction) - float(example.label))
    return 1.0 if task.judge(prediction, example) else -1.0


def exact_match(task: Task, prediction: str | None, example: Example) -> float:
    """1 right, 0 wrong or not parsable."""
    return float(task.judge(prediction, example))


REWARDS: dict[str, RewardFunction] = {"paper": paper_reward, "exact": exact_match}
CORRECTNESS: dict[str, RewardFunction] = {"paper": signed_match, "exact": exact_match}
"""The rewards without what is taken off for the form."""
NUMERIC = ("pearson", "spearman")
FORMAT_PENALTY = {"paper": 2.0}
"""What an answer that cannot be parsed costs beside being wrong."""


@dataclass
class Reward:
    """What an answer earns, in one run: one of REWARDS, a function of another package, or the derivative of a metric,
    which `observe` keeps up to date."""

    name: str
    format_penalty: float | None = None
    """What an answer that cannot be parsed costs beside being wrong; None: what the reward says itself."""
    window: int = 8
    """Steps over which the table of gold labels and answers is averaged."""
    value: dict[str, float] = field(default_factory=dict)
    """Task -> its metric on that table, where the reward is the metric's derivative."""
    tables: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)

    def state(self) -> State:
        """The running tables, for a checkpoint."""
        return State(dict(self.tables), {"steps": dict(self.steps), "value": dict(self.value)}, fixed=True)

    def load(self, state: State) -> None:
        """Go on from these tables."""
        self.tables = {name: table_LC.clone() for name, table_LC in state.tensors.items()}
        self.steps, self.value = dict(state.values["steps"]), dict(state.values["value"])

    def __post_init__(self) -> None:
        self._slopes: dict[str, Tensor] = {}
        self._given = None if self.name in (METRIC, *SOFT) else find_reward(self.name)

    def __call__(self, task: Task, prediction: str | None, example: Example) -> float:
        """What this answer to this row earns.

        Raises:
            UserError: a function of another package gave no finite number.
        """
        if self._given is None:
            place = _place(task, prediction)
            earned = float(self._slopes[task.name][_place(task, task.gold(example)), place])
        elif prediction is None and self.format_penalty is not None:
            earned = self._ask(CORRECTNESS.get(self.name, self._given), task, prediction, example)
        else:
            earned = self._ask(self._given, task, prediction, example)
        if not math.isfinite(earned):
            raise UserError(f"--reward {self.name}: it gave {earned} for {prediction!r} on row {example.id}")
        return earned - (self.format_penalty or 0.0) * (prediction is None)

    def _ask(self, function: RewardFunction, task: Task, prediction: str | None, example: Example) -> float:
        if self.name in REWARDS:
            return function(task, prediction, example)
        try:
            return float(function(task, prediction, example))
        except Exception as wrong:  # whatever goes wrong in another package
            said = f"{type(wrong).__name__}: {wrong}"
            raise UserError(
                f"--reward {self.name}: it failed for {prediction!r} on row {example.id} ({said})"
            ) from None

    def observe(self, asked: Sequence[tuple[Task, Example]], said: Sequence[Mapping[str | None, float]]) -> None:
        """Take note of the answers of a step before they are rewarded.

        Args:
            asked: the prompts.
            said: for each prompt the mass of each answer: probabilities, or shares of the sampled answers.
        """
        if self._given is not None:
            return
        import torch

        new: dict[str, Tensor] = {}
        tasks: dict[str, Task] = {}
        for (task, example), masses in zip(asked, said, strict=True):
            tasks[task.name] = task
            L = len(task.labels)
            table_LC = new.setdefault(task.name, torch.zeros((L, L + 1), dtype=torch.float64))
            for answer, mass in masses.items():
                table_LC[_place(task, task.gold(example)), _place(task, answer)] += mass
        for name, table_LC in new.items():
            table_LC /= table_LC.sum()
            self.steps[name] = self.steps.get(name, 0) + 1
            before_LC = self.tables.get(name, table_LC)
            self.tables[name] = before_LC + (table_LC - before_LC) / min(self.steps[name], self.window)
            task = tasks[name]
            numbers = [float(label) for label in task.labels] if task.numeric else range(len(task.labels))
            values_L = torch.tensor(list(numbers), dtype=torch.float64)
            metric = task.metrics[0] if self.name == METRIC else self.name
            self.value[name], self._slopes[name] = derivative(metric, self.tables[name], values_L)


SMOOTHING = 0.05
"""Share of rows answered blindly that is mixed in: where every answer is the same, or every gold label, Matthews and
the correlations have no derivative."""


def derivative(name: str, table_LC: Tensor, values_L: Tensor) -> tuple[float, Tensor]:
    """Value of a metric on a table, and its derivative by each cell: (L, C).

    Args:
        name: one of SOFT.
        table_LC: mass of each pair of gold label and answer; any total.
        values_L: the labels as numbers; only correlations read them.
    """
    import torch

    table_LC = (table_LC / table_LC.sum()).double()
    blind_C = torch.full(table_LC.shape[1:], 1 / len(table_LC), dtype=torch.float64)
    blind_C[-1] = 0
    gold_L1 = (table_LC.sum(1, keepdim=True) + 1 / len(table_LC)) / 2
    smooth_LC = (1 - SMOOTHING) * table_LC + SMOOTHING * gold_L1 * blind_C
    with torch.enable_grad():
        leaf_LC = smooth_LC.clone().requires_grad_()
        value = SOFT[name](leaf_LC, values_L)
        (slope_LC,) = torch.autograd.grad(value, leaf_LC)
    return value.item(), slope_LC


def find_reward(name: str) -> RewardFunction:
    """The reward of this name: one of REWARDS, or an entry point of an installed package.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    if name in REWARDS:
        return REWARDS[name]
    offered = {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}
    if name not in offered:
        known = [*REWARDS, METRIC, *SOFT, *offered]
        raise UserError(
            f"--reward {name}: no such reward{did_you_mean(name, known)}; there are {', '.join(known)}; a function of "
            f"your own is offered by an installed package as an entry point of {ENTRY_POINTS!r}"
        )
    try:
        found = offered[name].load()
    except Exception as wrong:  # whatever goes wrong while another package is imported
        raise UserError(f"--reward {name}: {offered[name].value} cannot be loaded ({wrong})") from None
    if not callable(found):
        raise UserError(f"--reward {name}: {offered[name].value} is no function of (task, prediction, example)")
    return found


def check_reward(name: str, tasks: Sequence[Task]) -> None:
    """Whether this reward is there and fits the tasks.

    Raises:
        UserError: it is not, or does not.
    """
    if name not in (METRIC, *SOFT):
        find_reward(name)
        return
    for task in tasks:
        if name != METRIC and task.numeric != (name in NUMERIC):
            others = ", ".join(NUMERIC) if task.numeric else ", ".join(m for m in SOFT if m not in (*NUMERIC, "f1a"))
            are = "numbers" if task.numeric else "no numbers"
            raise UserError(f"--reward {name}: the labels of {task.name} are {are}; give one that fits: {others}")
        if name in ("f1", "f1a") and len(task.labels) != 2:
            raise UserError(
                f"--reward {name}: that of one label of two; {task.name} has {len(task.labels)}; give one that fits: "
                "macro_f1"
            )
        if name == METRIC and task.metrics[0] not in SOFT:
            raise UserError(
                f"--reward {METRIC}: {task.metrics[0]} of {task.name} is counted by group, so it has no derivative by "
                f"the answer; give one that has: {', '.join(SOFT)}"
            )


def _place(task: Task, answer: str | None) -> int:
    """Row or column of an answer in the table; numbers stand at the nearest label."""
    if answer is None:
        return len(task.labels)
    return task.labels.index(task.nearest(float(answer)) if task.numeric else answer)


def token_rewards(score_B: Tensor, logp_BA: Tensor, ref_logp_BA: Tensor, mask_BA: Tensor, kl_coef: float) -> Tensor:
    """r_t = -beta (log pi(a_t|s_t) - log pi_ref(a_t|s_t)), plus the answer's score at its last token.

    Ziegler et al. 2019 (arXiv 1909.08593), equation 2. Returns (B, A), zero where the mask is False.
    """
    import torch

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
