"""The benchmarks' metrics as differentiable functions of a joint table, and the reward that is their derivative.

What a metric needs of a policy is how often each answer was given to rows of each gold label: a table of L gold labels
by L answers and, in a last column, no answer that could be parsed. Where the table holds the policy's probabilities
instead of counts, the metric M is a smooth function of them, and by the chain rule

    dM = sum over rows of dM/dC[gold, k] dpi(k | x) / N,

so the policy gradient with the reward r(x, k) = dM/dC[gold(x), k] climbs M itself, as cross-entropy cannot (for F1:
Jansche 2005, "Maximum expected F-measure training"; the derivative of a functional of a distribution is its influence
function, Hampel 1974). M does not change if all counts double, so that the mean reward over the table is zero (Euler).

The tables' numbers equal those of metrics.py (a test). Shapes: L labels, C = L + 1 answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def accuracy(table_LC: Tensor, values_L: Sequence[float]) -> Tensor:
    """Share of right answers."""
    return table_LC.diagonal().sum() / table_LC.sum()


def f1(table_LC: Tensor, values_L: Sequence[float]) -> Tensor:
    """F1 of the last label; no answer counts as the other label."""
    right = table_LC[-1, -2]
    missed = table_LC[-1].sum() - right
    wrongly = table_LC[:-1, -2:].sum()  # said so, or nothing, of a row of another label
    return 2 * right / (2 * right + missed + wrongly)


def macro_f1(table_LC: Tensor, values_L: Sequence[float]) -> Tensor:
    """Mean F1 of the labels that are gold or were said."""
    right_L = table_LC.diagonal()
    gold_L, said_L = table_LC.sum(1), table_LC.sum(0)[:-1]
    occurs_L = gold_L + said_L > 0
    return (2 * right_L[occurs_L] / (gold_L + said_L)[occurs_L]).mean()


def matthews(table_LC: Tensor, values_L: Sequence[float]) -> Tensor:
    """Matthews' correlation in its form for several classes (Gorodkin 2004); no answer is a class of its own."""
    whole = table_LC.sum()
    gold_C = torch.cat([table_LC.sum(1), table_LC.new_zeros(1)])
    said_C = table_LC.sum(0)
    covariance = table_LC.diagonal().sum() * whole - gold_C @ said_C
    return covariance / ((whole**2 - gold_C @ gold_C) * (whole**2 - said_C @ said_C)).sqrt()


def pearson(table_LC: Tensor, values_L: Sequence[float]) -> Tensor:
    """Pearson's correlation of gold and said numbers; no answer is the farther end of the scale."""
    table_LL = _answered(table_LC, values_L)
    value_L = torch.tensor(values_L, dtype=table_LC.dtype)
    return _correlation(table_LL, value_L, value_L)


def spearman(table_LC: Tensor, values_L: Sequence[float]) -> Tensor:
    """Pearson's correlation of mid-ranks, which are functions of the table too."""
    table_LL = _answered(table_LC, values_L)
    return _correlation(table_LL, _mid_ranks(table_LL.sum(1)), _mid_ranks(table_LL.sum(0)))


def _answered(table_LC: Tensor, values_L: Sequence[float]) -> Tensor:
    """The table without its last column, whose mass goes to the number that is farther from the gold one."""
    middle = (values_L[0] + values_L[-1]) / 2
    worst_L = torch.tensor([len(values_L) - 1 if value < middle else 0 for value in values_L])
    return table_LC[:, :-1] + torch.nn.functional.one_hot(worst_L, len(values_L)) * table_LC[:, -1:]


def _mid_ranks(mass_L: Tensor) -> Tensor:
    return mass_L.cumsum(0) - mass_L / 2


def _correlation(table_LL: Tensor, gold_L: Tensor, said_L: Tensor) -> Tensor:
    table_LL = table_LL / table_LL.sum()
    gold_L = gold_L - table_LL.sum(1) @ gold_L
    said_L = said_L - table_LL.sum(0) @ said_L
    spread = (table_LL.sum(1) @ gold_L**2) * (table_LL.sum(0) @ said_L**2)
    return gold_L @ table_LL @ said_L / spread.sqrt()


SOFT: dict[str, Callable[[Tensor, Sequence[float]], Tensor]] = {
    "accuracy": accuracy,
    "f1": f1,
    "f1a": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
"""Metrics of metrics.py that are functions of the joint table."""
SMOOTHING = 0.05
"""Share of answers drawn blindly that is mixed in: where every answer is the same, Matthews and the correlations have
no derivative."""


def derivative(name: str, table_LC: Tensor, values_L: Sequence[float]) -> tuple[float, Tensor]:
    """Value of a metric on a table, and its derivative by each cell: (L, C).

    Args:
        name: one of SOFT.
        table_LC: mass of each pair of gold label and answer; any total.
        values_L: the labels as numbers; only correlations read them.
    """
    table_LC = (table_LC / table_LC.sum()).double()
    blind_C = torch.full(table_LC.shape[1:], 1 / len(table_LC), dtype=torch.float64)
    blind_C[-1] = 0
    smooth_LC = (1 - SMOOTHING) * table_LC + SMOOTHING * table_LC.sum(1, keepdim=True) * blind_C
    with torch.enable_grad():
        leaf_LC = smooth_LC.clone().requires_grad_()
        value = SOFT[name](leaf_LC, values_L)
        (slope_LC,) = torch.autograd.grad(value, leaf_LC)
    return value.item(), slope_LC
