"""The benchmarks' metrics as functions of a joint table: for their derivative (`rewards.derivative`) and the bootstrap.

What a metric needs of a policy is how often each answer was given to rows of each gold label: a table of L gold labels
by L answers and, in a last column, no answer that could be parsed. Where the table holds the policy's probabilities
instead of counts, the metric M is a smooth function of them, and by the chain rule

    dM = sum over rows of dM/dC[gold, k] dpi(k | x) / N,

so the policy gradient with the reward r(x, k) = dM/dC[gold(x), k] climbs M itself, as cross-entropy cannot (for F1:
Jansche 2005, "Maximum expected F-measure training"; the derivative of a functional of a distribution is its influence
function, Hampel 1974). M does not change if all counts double, so that the mean reward over the table is zero (Euler).

On counts they equal scikit-learn's and scipy's (a test). Shapes: L labels, C = L + 1 answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Array = Any
"""A tensor or a NumPy array: the functions use what both have, so that the bootstrap needs no torch."""


def accuracy(table_LC: Array, values_L: Array) -> Array:
    """Share of right answers."""
    return table_LC.diagonal().sum() / table_LC.sum()


def f1(table_LC: Array, values_L: Array) -> Array:
    """F1 of the last label; no answer counts as the other label."""
    right = table_LC[-1, -2]
    missed = table_LC[-1].sum() - right
    wrongly = table_LC[:-1, -2:].sum()  # said so, or nothing, of a row of another label
    return 2 * right / (2 * right + missed + wrongly)


def macro_f1(table_LC: Array, values_L: Array) -> Array:
    """Mean F1 of the labels that are gold or were said."""
    right_L = table_LC.diagonal()
    either_L = table_LC.sum(1) + table_LC.sum(0)[:-1]
    occurs_L = either_L > 0
    return (2 * right_L[occurs_L] / either_L[occurs_L]).mean()


def matthews(table_LC: Array, values_L: Array) -> Array:
    """Matthews' correlation in its form for several classes (Gorodkin 2004); no answer is a class of its own."""
    whole, gold_L, said_C = table_LC.sum(), table_LC.sum(1), table_LC.sum(0)
    covariance = table_LC.diagonal().sum() * whole - gold_L @ said_C[:-1]
    return covariance / ((whole**2 - gold_L @ gold_L) * (whole**2 - said_C @ said_C)) ** 0.5


def pearson(table_LC: Array, values_L: Array) -> Array:
    """Pearson's correlation of gold and said numbers; no answer is the farther end of the scale."""
    return _correlation(_answered(table_LC, values_L), values_L, values_L)


def spearman(table_LC: Array, values_L: Array) -> Array:
    """Pearson's correlation of mid-ranks, which are functions of the table too."""
    table_LL = _answered(table_LC, values_L)
    return _correlation(table_LL, _mid_ranks(table_LL.sum(1)), _mid_ranks(table_LL.sum(0)))


def _answered(table_LC: Array, values_L: Array) -> Array:
    """The table without its last column, whose mass goes to the number that is farther from the gold one."""
    low, high = values_L[0], values_L[-1]
    worst_L = low + (high - low) * (values_L < (low + high) / 2)
    return table_LC[:, :-1] + table_LC[:, -1:] * (values_L[None] == worst_L[:, None])


def _mid_ranks(mass_L: Array) -> Array:
    return mass_L.cumsum(0) - mass_L / 2


def _correlation(table_LL: Array, gold_L: Array, said_L: Array) -> Array:
    table_LL = table_LL / table_LL.sum()
    gold_L = gold_L - table_LL.sum(1) @ gold_L
    said_L = said_L - table_LL.sum(0) @ said_L
    spread = (table_LL.sum(1) @ gold_L**2) * (table_LL.sum(0) @ said_L**2)
    return gold_L @ table_LL @ said_L / spread**0.5


SOFT: dict[str, Callable[[Array, Array], Array]] = {
    "accuracy": accuracy,
    "f1": f1,
    "f1a": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
"""Metrics of metrics.py that are functions of the joint table."""
