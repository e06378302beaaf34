"""The benchmarks' own metrics, with error bars. scikit-learn and scipy compute what they have.

An answer that could not be parsed (prediction None) counts as wrong: in a task of two labels as the other label, in a
task of more as a label of its own, in a numeric task as the end of the scale that is farther from the gold number.
"""

from __future__ import annotations

import collections
import math
import re
import string
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from .seeding import generator
from .tasks import Example, Task

RESAMPLES = 200


@dataclass(frozen=True)
class Outcome:
    """One judged row."""

    example: Example
    prediction: str | None
    """A label of the task, a number as text, or None where no answer could be parsed."""
    confidence: float | None = None
    """log P(the last label), where labels were scored: ranks the candidates of a group."""


def compute(task: Task, outcomes: Sequence[Outcome]) -> tuple[dict[str, float], dict[str, float]]:
    """Value and standard error of each of the task's metrics, by name.

    The standard error is the analytic one for accuracy; for the others the bootstrap's over groups of rows (questions,
    queries, pairs). Rows without gold label do not count; without any, both are empty.
    """
    judged = [o for o in outcomes if o.example.label is not None]
    if not judged:
        return {}, {}
    values = {name: METRICS[name](task, judged) for name in task.metrics}
    groups: dict[str, list[Outcome]] = collections.defaultdict(list)
    for i, outcome in enumerate(judged):
        groups[outcome.example.group or f"row {i}"].append(outcome)
    errors = {}
    for name in task.metrics:
        if name == "accuracy" and len(groups) == len(judged):
            errors[name] = math.sqrt(values[name] * (1 - values[name]) / len(judged))
        else:
            errors[name] = _bootstrap(METRICS[name], task, list(groups.values()))
    return values, errors


def _bootstrap(metric: Callable[[Task, Sequence[Outcome]], float], task: Task, groups: list[list[Outcome]]) -> float:
    rng = generator(0, f"bootstrap/{task.name}")
    values = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(groups), size=len(groups))
        values.append(metric(task, [outcome for g in drawn for outcome in groups[g]]))
    return float(np.std(values, ddof=1))


def _numbers(task: Task, outcomes: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray]:
    """Gold and predicted labels as numbers."""
    if task.numeric:
        low, high = float(task.labels[0]), float(task.labels[-1])
        gold = np.array([float(o.example.label or 0) for o in outcomes])
        worst = np.where(gold < (low + high) / 2, high, low)
        said = [w if o.prediction is None else float(o.prediction) for o, w in zip(outcomes, worst, strict=True)]
        return gold, np.array(said)
    number = {label: i for i, label in enumerate(task.labels)}
    gold = np.array([number[o.example.label or ""] for o in outcomes])
    missing = 1 - gold if len(number) == 2 else np.full_like(gold, len(number))
    said = [int(m) if o.prediction is None else number[o.prediction] for o, m in zip(outcomes, missing, strict=True)]
    return gold, np.array(said)


def _accuracy(task: Task, outcomes: Sequence[Outcome]) -> float:
    return float(np.mean([task.judge(o.prediction, o.example) for o in outcomes]))


def _matthews(task: Task, outcomes: Sequence[Outcome]) -> float:
    gold, said = _numbers(task, outcomes)
    if len(set(gold)) == 1 or len(set(said)) == 1:  # 0 by convention; scikit-learn warns on the way there
        return 0.0
    return float(sk.matthews_corrcoef(gold, said))


def _f1(task: Task, outcomes: Sequence[Outcome]) -> float:
    """F1 of the last label (same, duplicate, True)."""
    gold, said = _numbers(task, outcomes)
    return float(sk.f1_score(gold, said, pos_label=len(task.labels) - 1, zero_division=0))


def _macro_f1(task: Task, outcomes: Sequence[Outcome]) -> float:
    gold, said = _numbers(task, outcomes)
    labels = [i for i in range(len(task.labels)) if i in gold or i in said]  # as scikit-learn: those that occur
    return float(sk.f1_score(gold, said, labels=labels, average="macro", zero_division=0))


def _correlation(function: Callable) -> Callable[[Task, Sequence[Outcome]], float]:
    def metric(task: Task, outcomes: Sequence[Outcome]) -> float:
        gold, said = _numbers(task, outcomes)
        with warnings.catch_warnings():  # constant predictions have no correlation: it counts as zero
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            value = float(function(gold, said).statistic) if len(gold) > 1 else 0.0
        return 0.0 if math.isnan(value) else value

    return metric


def _by_group(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Rows of a group together; a group that was drawn twice by the bootstrap counts twice."""
    groups: dict[tuple[str | None, int], list[Outcome]] = collections.defaultdict(list)
    seen: collections.Counter[tuple[str | None, str]] = collections.Counter()
    for outcome in outcomes:
        key = (outcome.example.group, outcome.example.id)
        groups[outcome.example.group, seen[key]].append(outcome)
        seen[key] += 1
    return list(groups.values())


def _exact_match(task: Task, outcomes: Sequence[Outcome]) -> float:
    """Share of questions of which every answer is judged right (Khashabi et al. 2018, MultiRC)."""
    return float(np.mean([all(task.judge(o.prediction, o.example) for o in rows) for rows in _by_group(outcomes)]))


def _gender_parity(task: Task, outcomes: Sequence[Outcome]) -> float:
    """Share of sentence pairs, alike but for a pronoun's gender, that get one prediction (Rudinger et al. 2018)."""
    return float(np.mean([len({o.prediction for o in rows}) == 1 for rows in _by_group(outcomes)]))


def _record(score: Callable[[str, str], float]) -> Callable[[Task, Sequence[Outcome]], float]:
    """Mean over queries of the best score of the chosen entity against any answer (Zhang et al. 2018, ReCoRD)."""

    def metric(task: Task, outcomes: Sequence[Outcome]) -> float:
        values = []
        for rows in _by_group(outcomes):
            chosen = max(rows, key=lambda o: (_belief(task, o), -rows.index(o)))
            answers = chosen.example.meta["answers"]
            values.append(max(score(chosen.example.meta["entity"], answer) for answer in answers))
        return float(np.mean(values))

    return metric


def _belief(task: Task, outcome: Outcome) -> float:
    """How much the model holds a candidate to be right."""
    if outcome.confidence is not None:
        return outcome.confidence
    return float(outcome.prediction == task.labels[-1])


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


METRICS: dict[str, Callable[[Task, Sequence[Outcome]], float]] = {
    "accuracy": _accuracy,
    "matthews": _matthews,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "pearson": _correlation(stats.pearsonr),
    "spearman": _correlation(stats.spearmanr),
    "f1a": _f1,
    "exact_match": _exact_match,
    "gender_parity": _gender_parity,
    "record_em": _record(_same_words),
    "record_f1": _record(_word_f1),
}
