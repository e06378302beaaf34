"""What can be believed: confidence intervals over seeds, paired tests of two methods on the same rows, and the
benchmarks' own averages. scipy is imported where it is needed, so that a mistake is told before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .metrics import METRICS, Judged, Outcome
from .seeding import generator
from .tasks import Task

RESAMPLES = 1000
LEVEL = 0.95


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % confidence interval by Student's t; of one value alone there is none (NaN)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    from scipy import stats

    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


# -- two methods on the same rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Method a against method b on one task: the task's first metric, a - b."""

    task: str
    a: str
    b: str
    delta: float
    low: float
    """Bounds of the 95 % interval of the paired bootstrap."""
    high: float
    p: float
    """Two-sided, of `test`; after `holm` adjusted for all differences that are reported together."""
    test: str
    draws_R: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    """The difference in each draw of the bootstrap."""
    documents: int = field(default=0, repr=False)
    """How many were drawn from."""

    @property
    def real(self) -> bool:
        return self.p < 1 - LEVEL


def mcnemar(right_a: Sequence[bool], right_b: Sequence[bool]) -> float:
    """Exact two-sided p of McNemar's test (1947): among rows that only one of two has right, either is as likely.

    The number of rows that only a has right is binomial with probability 1/2 then.
    """
    from scipy import stats

    only_a = sum(a and not b for a, b in zip(right_a, right_b, strict=True))
    only_b = sum(b and not a for a, b in zip(right_a, right_b, strict=True))
    return 1.0 if only_a + only_b == 0 else float(stats.binomtest(only_a, only_a + only_b).pvalue)


def compare(task: Task, runs: Mapping[str, Sequence[Sequence[Outcome]]]) -> list[Difference]:
    """Every two methods on the rows that all their runs share.

    The paired bootstrap draws documents (and seeds, where a method has several), the same ones for both methods. The p
    is McNemar's where the metric is accuracy over independent rows and each has one run, else the bootstrap's.

    Args:
        task: the task.
        runs: method -> the judged rows of each of its runs (seeds).

    Returns:
        The differences; none where the runs were made on other rows.
    """
    aligned = _aligned(runs)
    if len(aligned) < 2:
        return []
    first = next(iter(aligned.values()))[0]
    draws = Judged(task, first).draws(RESAMPLES, "compare")
    metric = task.metrics[0]
    whole, drawn = {}, {}
    for name, seeds in aligned.items():
        functions = [METRICS[metric](Judged(task, outcomes)) for outcomes in seeds]
        whole[name] = float(np.mean([value(np.ones_like(draws[0])) for value in functions]))
        drawn[name] = np.array([[value(draw) for draw in draws] for value in functions])
    independent = len(draws[0]) == len(first) and metric == "accuracy"
    names, found = list(aligned), []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            delta_R = _mean_of_seeds(a, drawn[a]) - _mean_of_seeds(b, drawn[b])
            low, high = np.quantile(delta_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
            test = "paired bootstrap"
            p = bootstrap_p(delta_R, whole[a] - whole[b], len(draws[0]))
            if independent and len(aligned[a]) == len(aligned[b]) == 1:
                test = "McNemar"
                p = mcnemar(*([task.judge(o.prediction, o.example) for o in aligned[name][0]] for name in (a, b)))
            delta, documents = whole[a] - whole[b], len(draws[0])
            found.append(Difference(task.name, a, b, delta, low, high, p, test, delta_R, documents))
    return found


def difference_of_means(found: Sequence[Difference], tasks: int) -> list[Difference]:
    """The differences of the means over all tasks, of every two methods that were compared on each of them. Tasks have
    no rows in common, so the draws of one say nothing of those of another, and the mean of one draw each is a draw.

    Args:
        found: what `compare` found, task by task.
        tasks: how many there are; of a single one there is no mean.
    """
    pairs: dict[tuple[str, str], list[Difference]] = {}
    for one in found:
        pairs.setdefault((one.a, one.b), []).append(one)
    means = []
    for (a, b), of_tasks in pairs.items():
        if 1 < tasks == len(of_tasks):
            delta = float(np.mean([one.delta for one in of_tasks]))
            delta_R, documents = np.mean([one.draws_R for one in of_tasks], 0), sum(one.documents for one in of_tasks)
            low, high = np.quantile(delta_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
            p = bootstrap_p(delta_R, delta, documents)
            means.append(Difference("average", a, b, delta, low, high, p, "paired bootstrap", delta_R, documents))
    return means


def bootstrap_p(delta_R: np.ndarray, delta: float, documents: int) -> float:
    """Two-sided p of a difference, from its bootstrap: the share of draws on the other side of zero, doubled (Efron and
    Tibshirani 1993, chapter 15). Where fewer than ten draws lie there the share says little: then the normal
    distribution's tail beyond delta / standard error, but no less than what any exact test reaches that exchanges the
    two methods document by document. Of one document nothing can be said: its draws are all alike."""
    beyond = int(min(np.sum(delta_R <= 0), np.sum(delta_R >= 0)))
    if beyond >= 10:
        return min(1.0, 2 * (beyond + 1) / (len(delta_R) + 1))
    from scipy import stats

    error = np.std(delta_R, ddof=1)
    tail = float(2 * stats.norm.sf(abs(delta) / error)) if error > 0 else 0.0
    return max(tail, 2.0 ** (1 - documents))


def _mean_of_seeds(name: str, value_SR: np.ndarray) -> np.ndarray:
    """Mean over seeds of each draw; of several seeds, as many are drawn again, for each method on its own: what two
    methods make of the same seed has nothing in common."""
    S, R = value_SR.shape
    if S == 1:
        return value_SR[0]
    drawn_SR = generator(0, f"seeds/{name}").integers(S, size=(S, R))
    return np.take_along_axis(value_SR, drawn_SR, axis=0).mean(0)


def _aligned(runs: Mapping[str, Sequence[Sequence[Outcome]]]) -> dict[str, list[list[Outcome]]]:
    """The same rows in the same order in every run; runs on other rows than the first are left out."""
    found: dict[str, list[list[Outcome]]] = {}
    ids: list[str] | None = None
    for name, seeds in runs.items():
        for outcomes in seeds:
            by_id = {outcome.example.id: outcome for outcome in outcomes if outcome.example.label is not None}
            if ids is None:
                ids = list(by_id)
            if ids and set(ids) == set(by_id):
                found.setdefault(name, []).append([by_id[i] for i in ids])
    return found


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """The differences with p adjusted for their number (Holm 1979): the smallest times m, the next times m - 1, ..."""
    order = sorted(range(len(differences)), key=lambda i: differences[i].p)
    adjusted, worst = list(differences), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, differences[i].p * (len(differences) - rank)))
        adjusted[i] = replace(differences[i], p=worst)
    return adjusted


# -- averages ----------------------------------------------------------------------------------------------------------

_MNLI = (("glue/mnli", "accuracy"), ("glue/mnli-mm", "accuracy"))
_ALIKE = ((("glue/cola", "matthews"),), (("glue/sst2", "accuracy"),))
_NLI = ((("glue/qnli", "accuracy"),), (("glue/rte", "accuracy"),))

AVERAGES: dict[str, tuple[tuple[tuple[str, str], ...], ...]] = {
    "GLUE": (
        *_ALIKE,
        (("glue/mrpc", "f1"), ("glue/mrpc", "accuracy")),
        (("glue/stsb", "pearson"), ("glue/stsb", "spearman")),
        (("glue/qqp", "f1"), ("glue/qqp", "accuracy")),
        _MNLI,
        *_NLI,
        (("glue/wnli", "accuracy"),),
    ),
    "GLUE (paper's nine)": (
        *_ALIKE,
        (("glue/mrpc", "f1"),),
        (("glue/stsb", "spearman"),),
        (("glue/qqp", "f1"),),
        *((one,) for one in _MNLI),
        *_NLI,
    ),
    "SuperGLUE": (
        (("superglue/boolq", "accuracy"),),
        (("superglue/cb", "macro_f1"), ("superglue/cb", "accuracy")),
        (("superglue/copa", "accuracy"),),
        (("superglue/multirc", "f1a"), ("superglue/multirc", "exact_match")),
        (("superglue/record", "record_f1"), ("superglue/record", "record_em")),
        (("superglue/rte", "accuracy"),),
        (("superglue/wic", "accuracy"),),
        (("superglue/wsc", "accuracy"),),
    ),
}
"""Average -> its terms, each the mean of one metric or several. The servers' averages take a task with two metrics, and
both halves of MNLI, as one term, and leave the diagnostic sets out; the paper's (arXiv 2410.11020) takes one metric a
task, both halves of MNLI apart, and leaves WNLI out. Devlin et al. 2019 average as the paper does."""


def average(name: str, scores: Mapping[tuple[str, str], tuple[float, float]]) -> tuple[float, float] | None:
    """A benchmark's average and its standard error, from (task, metric) -> (value, standard error).

    Tasks are independent, so their errors add in squares; two metrics on the same rows are not, so theirs are averaged,
    which is an upper bound. None where a task or metric is missing.
    """
    terms = AVERAGES[name]
    if any(key not in scores for term in terms for key in term):
        return None
    values = [np.mean([scores[key][0] for key in term]) for term in terms]
    errors = [np.mean([scores[key][1] for key in term]) for term in terms]
    return float(np.mean(values)), float(np.sqrt(np.sum(np.square(errors)))) / len(terms)
