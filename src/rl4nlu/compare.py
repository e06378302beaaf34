"""What can be believed: confidence intervals over seeds, paired tests of two methods on the same rows, and the
benchmarks' own averages. scipy is imported where it is needed, so that a mistake is told before."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .metrics import METRICS, Judged, Outcome
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
    parts: tuple[tuple[float, float], ...] = field(default=(), repr=False)
    """What makes the difference uncertain: (variance, degrees of freedom) of the rows, and of each method's seeds."""
    draws_R: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    """The difference in each draw of the bootstrap; empty where a method has several seeds."""
    documents: int = field(default=0, repr=False)
    """How many were drawn from."""

    @property
    def facts(self) -> dict[str, Any]:
        """As plain values, for files and other programs."""
        names = ("task", "a", "b", "delta", "low", "high", "p", "test", "real")
        return {name: getattr(self, name) for name in names}

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


def compare(
    task: Task, runs: Mapping[str, Sequence[Sequence[Outcome]]], unseeded: Collection[str] = ()
) -> list[Difference]:
    """Every two methods that were asked the same rows.

    Of single runs the paired bootstrap draws documents, the same ones for both methods, and p is McNemar's where the
    metric is accuracy over independent rows, else the bootstrap's. Where a method has several seeds, what varies with
    the rows (by the bootstrap, the seeds at hand) and what varies with the seeds add up, and the difference is measured
    by Student's t (see `welch`): with two or three seeds a bootstrap of seeds would be far too sure. A method with one
    seed that is compared with one of several is taken to vary as much with its seed as the other.

    Args:
        task: the task.
        runs: method -> the judged rows of each of its runs (seeds).
        unseeded: methods that do the same whatever their seed.

    Returns:
        The differences; none where no two methods have the same rows.
    """
    return [one for group in same_rows(runs) for one in _compare(task, group, unseeded)]


def _compare(
    task: Task, aligned: Mapping[str, Sequence[Sequence[Outcome]]], unseeded: Collection[str]
) -> list[Difference]:
    """Every two of some methods on the same rows in the same order."""
    if len(aligned) < 2:
        return []
    first = next(iter(aligned.values()))[0]
    # runs of before knew no documents for some tasks: what is drawn together is the same for all
    known = next((one for seeds in aligned.values() for one in seeds if any(o.example.document for o in one)), first)
    aligned = {name: [_drawn_as(one, known) for one in seeds] for name, seeds in aligned.items()}
    first = _drawn_as(first, known)
    draws = Judged(task, first).draws(RESAMPLES, "compare")
    metric, documents = task.metrics[0], len(draws[0])
    whole, drawn = {}, {}
    for name, seeds in aligned.items():
        functions = [METRICS[metric](Judged(task, outcomes)) for outcomes in seeds]
        whole[name] = np.array([value(np.ones(documents)) for value in functions])
        drawn[name] = np.array([[value(draw) for draw in draws] for value in functions])
    independent = documents == len(first) and metric == "accuracy"
    names, found = list(aligned), []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            delta, delta_R = float(whole[a].mean() - whole[b].mean()), drawn[a].mean(0) - drawn[b].mean(0)
            rows = (float(np.var(delta_R, ddof=1)), documents - 1.0)
            seeds_of = [whole[name] for name in (a, b) if len(whole[name]) > 1]
            alone = sum(len(whole[name]) == 1 and name not in unseeded for name in (a, b))
            parts = (rows, *((float(np.var(one, ddof=1)) * (1 / len(one) + alone), len(one) - 1.0) for one in seeds_of))
            if alone and seeds_of:  # one spread stands for both: no more freedom than its own is claimed for the sum
                parts = ((sum(variance for variance, _ in parts), parts[-1][1]),)
            if seeds_of:
                low, high, p = welch(delta, parts)
                found.append(Difference(task.name, a, b, delta, low, high, p, "t over rows and seeds", parts))
                continue
            low, high = np.quantile(delta_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
            test, p = "paired bootstrap", bootstrap_p(delta_R, delta, documents)
            if independent:
                test = "McNemar"
                p = mcnemar(*([task.judge(o.prediction, o.example) for o in aligned[name][0]] for name in (a, b)))
            found.append(Difference(task.name, a, b, delta, low, high, p, test, parts, delta_R, documents))
    return found


def _drawn_as(outcomes: Sequence[Outcome], known: Sequence[Outcome]) -> Sequence[Outcome]:
    """The same rows, with the documents and groups of others."""
    pairs = list(zip(outcomes, known, strict=True))
    if all((a.example.document, a.example.group) == (b.example.document, b.example.group) for a, b in pairs):
        return outcomes
    return [
        replace(a, example=replace(a.example, document=b.example.document, group=b.example.group)) for a, b in pairs
    ]


def welch(delta: float, parts: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Interval and two-sided p of a difference whose variance is a sum of estimated ones (Welch 1947; Satterthwaite
    1946): Student's t with (sum v)^2 / sum(v^2 / df) degrees of freedom.

    Args:
        delta: the difference.
        parts: (variance, its degrees of freedom). Of one without any, nothing can be said: p is 1.
    """
    from scipy import stats

    total = sum(variance for variance, _ in parts)
    if any(df < 1 for _, df in parts):
        return -1.0, 1.0, 1.0
    if total == 0:
        return delta, delta, 1.0 if delta == 0 else float(2.0 ** -max(df for _, df in parts))
    freedom = sum(variance**2 / df for variance, df in parts)
    df = total**2 / freedom if freedom else math.inf  # what varies is known by rows alone
    half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * math.sqrt(total)
    return delta - half, delta + half, float(2 * stats.t.sf(abs(delta) / math.sqrt(total), df))


def difference_of_means(found: Sequence[Difference], tasks: int) -> list[Difference]:
    """The differences of the means over all tasks, of every two methods that were compared on each of them. Tasks have
    no rows in common, so the draws of one say nothing of those of another, and the mean of one draw each is a draw;
    where methods have several seeds, variances add up.

    Args:
        found: what `compare` found, task by task.
        tasks: how many there are; of a single one there is no mean.
    """
    pairs: dict[tuple[str, str], list[Difference]] = {}
    for one in found:
        pairs.setdefault((one.a, one.b), []).append(one)
    means = []
    for (a, b), of_tasks in pairs.items():
        if not 1 < tasks == len(of_tasks):
            continue
        delta = float(np.mean([one.delta for one in of_tasks]))
        parts = tuple((variance / tasks**2, df) for one in of_tasks for variance, df in one.parts)
        if all(len(one.draws_R) for one in of_tasks):
            delta_R, documents = np.mean([one.draws_R for one in of_tasks], 0), sum(one.documents for one in of_tasks)
            low, high = np.quantile(delta_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
            p = bootstrap_p(delta_R, delta, documents)
            means.append(Difference("average", a, b, delta, low, high, p, "paired bootstrap", parts))
        else:
            low, high, p = welch(delta, parts)
            means.append(Difference("average", a, b, delta, low, high, p, "t over rows and seeds", parts))
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


def same_rows(runs: Mapping[str, Sequence[Sequence[Outcome]]]) -> list[dict[str, list[list[Outcome]]]]:
    """Methods in groups that were asked the same rows, and their rows in the same order. Of a method whose seeds were
    asked different ones, those that most of them share count. Rows are the same by id and gold label: two splits may
    number their rows alike."""
    groups: dict[frozenset[tuple[str, str]], dict[str, list[list[Outcome]]]] = {}
    order: dict[frozenset[tuple[str, str]], list[tuple[str, str]]] = {}
    for name, seeds in runs.items():
        known = [
            {(one.example.id, one.example.label): one for one in outcomes if one.example.label is not None}
            for outcomes in seeds
        ]
        counts = Counter(frozenset(by_id) for by_id in known if by_id)
        if counts:
            ids = counts.most_common(1)[0][0]
            ordered = order.setdefault(ids, next(list(by_id) for by_id in known if frozenset(by_id) == ids))
            groups.setdefault(ids, {})[name] = [
                [by_id[i] for i in ordered] for by_id in known if frozenset(by_id) == ids
            ]
    return list(groups.values())


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
