"""The benchmarks' own metrics, with error bars. scikit-learn and scipy compute what they have; they are imported when
they do, so that a mistake is told before.

An answer that could not be parsed (prediction None) counts as wrong: a label of its own for accuracy, Matthews and
macro F1 (so that a model that never answers has a correlation of zero); the other label for the F1 of one label, which
knows no third; the farther end of the scale in a numeric task.

Every metric is computed from a table of judged rows and a weight for each of its documents, so that the bootstrap is a
matter of weights. Shapes: N rows, D documents, P distinct pairs of (gold, predicted) label.
"""

from __future__ import annotations

import collections
import math
import re
import string
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .seeding import generator
from .soft_metrics import SOFT
from .tasks import Example, Task

RESAMPLES = 200


@dataclass(frozen=True)
class Outcome:
    """One judged row."""

    example: Example
    prediction: str | None
    """A label of the task, a number as text, or None where no answer could be parsed."""
    confidence: float | None = None
    """Log-odds of the last label, where labels were scored: ranks the candidates of a group."""


@dataclass(frozen=True)
class Judged:
    """Rows with a gold label, as arrays; what is drawn again in the bootstrap are their documents."""

    task: Task
    outcomes: Sequence[Outcome]

    @cached_property
    def document_N(self) -> np.ndarray:
        """The number of each row's document: the passage that rows share, their group, or the row itself."""
        names = [o.example.unit(i) for i, o in enumerate(self.outcomes)]
        number = {name: d for d, name in enumerate(dict.fromkeys(names))}
        return np.array([number[name] for name in names])

    @cached_property
    def documents(self) -> int:
        return int(self.document_N.max()) + 1

    @cached_property
    def labels_N(self) -> tuple[np.ndarray, np.ndarray]:
        """Gold and predicted label by number; an unparsable answer is one number more than there are labels."""
        number = {label: i for i, label in enumerate(self.task.labels)}
        gold = [number[o.example.label or ""] for o in self.outcomes]
        said = [len(number) if o.prediction is None else number[o.prediction] for o in self.outcomes]
        return np.array(gold), np.array(said)

    @cached_property
    def numbers_N(self) -> tuple[np.ndarray, np.ndarray]:
        """Gold and predicted value of a numeric task."""
        low, high = float(self.task.labels[0]), float(self.task.labels[-1])
        gold = np.array([float(o.example.label or 0) for o in self.outcomes])
        worst = np.where(gold < (low + high) / 2, high, low)
        said = [w if o.prediction is None else float(o.prediction) for o, w in zip(self.outcomes, worst, strict=True)]
        return gold, np.array(said)

    @cached_property
    def groups(self) -> list[list[Outcome]]:
        """The rows that a metric counts together."""
        found: dict[str, list[Outcome]] = collections.defaultdict(list)
        for i, outcome in enumerate(self.outcomes):
            found[outcome.example.group or f"row {i}"].append(outcome)
        return list(found.values())

    @cached_property
    def group_document(self) -> np.ndarray:
        """The number of each group's document."""
        number = {id(o): d for o, d in zip(self.outcomes, self.document_N, strict=True)}
        return np.array([number[id(rows[0])] for rows in self.groups])

    def draws(self, resamples: int, purpose: str) -> list[np.ndarray]:
        """How often each document is drawn in each of so many resamples: the same for all runs on these rows."""
        rng = generator(0, f"bootstrap/{purpose}/{self.task.name}")
        D = self.documents
        return [np.bincount(rng.integers(D, size=D), minlength=D) for _ in range(resamples)]


Metric = Callable[[Judged], Callable[[np.ndarray], float]]
"""Rows -> (weight of each document (D,) -> value)."""


def value_of(name: str, task: Task, outcomes: Sequence[Outcome]) -> float:
    """Value of the metric called `name` over rows that all have a gold label."""
    judged = Judged(task, outcomes)
    return METRICS[name](judged)(np.ones(judged.documents))


def compute(task: Task, outcomes: Sequence[Outcome]) -> tuple[dict[str, float], dict[str, float]]:
    """Value and standard error of each of the task's metrics, by name.

    The standard error is the analytic one for accuracy over independent rows; for the others the bootstrap's over
    documents (passages, else groups, else rows). Rows without gold label do not count; without any, both are empty.
    """
    judged = Judged(task, [o for o in outcomes if o.example.label is not None])
    if not judged.outcomes:
        return {}, {}
    values, errors = {}, {}
    for name in task.metrics:
        metric = METRICS[name](judged)
        values[name] = metric(np.ones(judged.documents))
        if name == "accuracy" and judged.documents == len(judged.outcomes):
            errors[name] = math.sqrt(values[name] * (1 - values[name]) / len(judged.outcomes))
        else:
            errors[name] = float(np.std([metric(draw) for draw in judged.draws(RESAMPLES, "error")], ddof=1))
    return values, errors


# -- means over rows or groups -----------------------------------------------------------------------------------------


def _mean(value: np.ndarray, document: np.ndarray, documents: int) -> Callable[[np.ndarray], float]:
    sum_D = np.bincount(document, value, documents)
    count_D = np.bincount(document, minlength=documents)
    return lambda weight_D: float((weight_D @ sum_D) / (weight_D @ count_D))


def _accuracy(judged: Judged) -> Callable[[np.ndarray], float]:
    right_N = np.array([judged.task.judge(o.prediction, o.example) for o in judged.outcomes], dtype=float)
    return _mean(right_N, judged.document_N, judged.documents)


def _over_groups(score: Callable[[Task, list[Outcome]], float]) -> Metric:
    def metric(judged: Judged) -> Callable[[np.ndarray], float]:
        values = np.array([score(judged.task, rows) for rows in judged.groups])
        return _mean(values, judged.group_document, judged.documents)

    return metric


def _all_right(task: Task, rows: list[Outcome]) -> float:
    """Whether every answer of a question is judged right (Khashabi et al. 2018, MultiRC)."""
    return float(all(task.judge(o.prediction, o.example) for o in rows))


def _alike(task: Task, rows: list[Outcome]) -> float:
    """Whether sentences alike but for a pronoun's gender get one answer, if any (Rudinger et al. 2018)."""
    said = {o.prediction for o in rows}
    return float(len(said) == 1 and None not in said)


def _best_entity(score: Callable[[str, str], float]) -> Callable[[Task, list[Outcome]], float]:
    """Best score of the chosen entity against any answer of the query (Zhang et al. 2018, ReCoRD)."""

    def value(task: Task, rows: list[Outcome]) -> float:
        meta = chosen(task, rows).example.meta
        return max(score(meta["entity"], answer) for answer in meta["answers"])

    return value


def confidence_of(task: Task, scores: Mapping[str, float] | None) -> float | None:
    """Log-odds of a task's last label, of scores as predictions.jsonl has them. Its log-probability alone is 0 to six
    places for every candidate that a policy is sure of. None where nothing was scored, or the answer is a number."""
    if not scores or task.numeric:
        return None
    *others, last = (round(scores[label], 6) for label in task.labels)
    return float(last - np.logaddexp.reduce(others))


def chosen(task: Task, rows: Sequence[Outcome]) -> Outcome:
    """The candidate of a group that the model holds most to be right; the first of equals."""
    return max(rows, key=lambda o: float(o.prediction == task.labels[-1]) if o.confidence is None else o.confidence)


def normalise(text: str) -> list[str]:
    """Words of an answer as SQuAD and ReCoRD compare them: lower case, no punctuation, no articles."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _same_words(said: str, gold: str) -> float:
    return float(normalise(said) == normalise(gold))


def _word_f1(said: str, gold: str) -> float:
    a, b = normalise(said), normalise(gold)
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 0.0 if not common else 2 * common / (len(a) + len(b))


# -- functions of gold and predicted labels ----------------------------------------------------------------------------


def _on_labels(function: Callable[[int, np.ndarray, np.ndarray, np.ndarray], float], soft: str) -> Metric:
    """`function` of (number of labels, gold, predicted, weight) of the distinct pairs of labels.

    What is reported is scikit-learn's; the thousands of draws of the bootstrap go through the same metric as a function
    of the joint table (SOFT), thirty times as fast, and equal to 1e-12 (a test).
    """

    def metric(judged: Judged) -> Callable[[np.ndarray], float]:
        """The distinct pairs, how often each stands in each document; then any weights."""
        gold_N, said_N = judged.labels_N
        pair_PX, pair_N = np.unique(np.stack([gold_N, said_N], 1), axis=0, return_inverse=True)
        count_PD = np.zeros((len(pair_PX), judged.documents))
        np.add.at(count_PD, (pair_N.ravel(), judged.document_N), 1)

        def value(weight_D: np.ndarray) -> float:
            weight_P = count_PD @ weight_D
            drawn = weight_P > 0
            gold, said = pair_PX[drawn].T
            constant = len(set(gold)) == 1, len(set(said)) == 1
            undefined = any(constant) if soft == "matthews" else all(constant)  # 0 / 0 in the table
            if (weight_D == 1).all() or undefined:
                return function(len(judged.task.labels), gold, said, weight_P[drawn])
            table_LC = np.zeros((len(judged.task.labels), len(judged.task.labels) + 1))
            table_LC[gold, said] = weight_P[drawn]
            return float(SOFT[soft](table_LC, None))

        return value

    return metric


def _matthews(labels: int, gold: np.ndarray, said: np.ndarray, weight: np.ndarray) -> float:
    """Matthews' correlation; in its form for several classes (Gorodkin 2004) where there are more than two."""
    if len(set(gold)) == 1 or len(set(said)) == 1:  # 0 by convention; scikit-learn warns on the way there
        return 0.0
    from sklearn import metrics as sk

    return float(sk.matthews_corrcoef(gold, said, sample_weight=weight))


def _f1(labels: int, gold: np.ndarray, said: np.ndarray, weight: np.ndarray) -> float:
    """F1 of the last label (same, duplicate, True)."""
    from sklearn import metrics as sk

    last = labels - 1
    other = np.where(gold == last, 0, last)
    said = np.where(said == labels, other, said)
    return float(sk.f1_score(gold == last, said == last, sample_weight=weight, zero_division=0))


def _macro_f1(labels: int, gold: np.ndarray, said: np.ndarray, weight: np.ndarray) -> float:
    from sklearn import metrics as sk

    occur = [i for i in range(labels) if i in gold or i in said]  # as scikit-learn: those that occur
    return float(sk.f1_score(gold, said, labels=occur, average="macro", sample_weight=weight, zero_division=0))


def _correlation(name: str) -> Metric:
    def metric(judged: Judged) -> Callable[[np.ndarray], float]:
        """By the function of this name in scipy.stats."""
        gold_N, said_N = judged.numbers_N

        def value(weight_D: np.ndarray) -> float:
            from scipy import stats

            function = stats.pearsonr if name == "pearsonr" else stats.spearmanr
            drawn = np.repeat(np.arange(len(gold_N)), weight_D[judged.document_N].astype(int))
            with warnings.catch_warnings():  # constant predictions have no correlation: it counts as zero
                warnings.simplefilter("ignore", stats.ConstantInputWarning)
                warnings.simplefilter("ignore", stats.NearConstantInputWarning)
                found = float(function(gold_N[drawn], said_N[drawn]).statistic) if len(drawn) > 1 else 0.0
            return 0.0 if math.isnan(found) else found

        return value

    return metric


METRICS: dict[str, Metric] = {
    "accuracy": _accuracy,
    "matthews": _on_labels(_matthews, "matthews"),
    "f1": _on_labels(_f1, "f1"),
    "macro_f1": _on_labels(_macro_f1, "macro_f1"),
    "pearson": _correlation("pearsonr"),
    "spearman": _correlation("spearmanr"),
    "f1a": _on_labels(_f1, "f1"),
    "exact_match": _over_groups(_all_right),
    "gender_parity": _over_groups(_alike),
    "record_em": _over_groups(_best_entity(_same_words)),
    "record_f1": _over_groups(_best_entity(_word_f1)),
}
