"""Intervals, paired tests and averages against cases worked by hand, scipy and published leaderboard rows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from rl4nlu.compare import (
    AVERAGES,
    Difference,
    average,
    bootstrap_p,
    compare,
    difference_of_means,
    holm,
    interval,
    mcnemar,
    welch,
)
from rl4nlu.metrics import Outcome
from rl4nlu.tasks import TASKS, Example, find


def rows(task, golds, said, group=None):
    return [
        Outcome(Example(str(i), {}, gold, None if group is None else str(group[i])), label)
        for i, (gold, label) in enumerate(zip(golds, said, strict=True))
    ]


def mostly(task, golds, right):
    """The gold label where `right`, else the other one."""
    return [g if ok else task.labels[1 - task.labels.index(g)] for g, ok in zip(golds, right, strict=True)]


def test_interval_is_students():
    values = [0.71, 0.74, 0.69, 0.73, 0.72]
    mean, low, high = interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((0.718, expected.low, expected.high), abs=1e-12)
    alone = interval([0.5])
    assert alone[0] == 0.5
    assert math.isnan(alone[1])
    assert math.isnan(alone[2])


def test_mcnemar_by_hand():
    """10 rows that only a has right, 2 that only b has: 2 (1 + 12 + 66) / 2^12."""
    a = [True] * 10 + [False] * 2 + [True] * 30 + [False] * 8
    b = [False] * 10 + [True] * 2 + [True] * 30 + [False] * 8
    assert mcnemar(a, b) == pytest.approx(2 * (1 + 12 + 66) / 4096, abs=1e-12)
    assert mcnemar(b, a) == mcnemar(a, b)
    assert mcnemar(a, a) == 1.0


def test_holm_by_hand():
    """p = .01, .04, .03 of three: .03, then .03 x 2 = .06, then .04 but not below what came before: .06."""
    found = holm([Difference("t", "a", "b", 0, 0, 0, p, "x") for p in (0.01, 0.04, 0.03)])
    assert [d.p for d in found] == pytest.approx([0.03, 0.06, 0.06])
    assert [d.real for d in found] == [True, False, False]
    assert holm([]) == []
    assert max(d.p for d in holm([Difference("t", "a", "b", 0, 0, 0, 0.9, "x")] * 3)) == 1.0


def test_bootstrap_p():
    draws = np.arange(-50, 950)  # 51 of 1,000 at or below zero
    assert bootstrap_p(draws, 450.0, 900) == pytest.approx(2 * 52 / 1001)
    far = np.random.default_rng(0).normal(5, 1, 1000)  # none: the normal tail
    expected = 2 * stats.norm.sf(5 / np.std(far, ddof=1))
    assert bootstrap_p(far, 5.0, 900) == pytest.approx(expected)
    assert bootstrap_p(np.zeros(1000), 0.0, 900) == 1.0
    for draws in (np.ones(1000), far):  # few documents cannot say more than that all are on one side
        assert [bootstrap_p(draws, 5.0, documents) for documents in (1, 2, 5)] == [1.0, 0.5, 1 / 16]


@pytest.mark.filterwarnings("error")
def test_one_passage_is_no_evidence():
    """Its draws are all alike, which is no certainty."""
    task = find("superglue/multirc")
    golds = ["True", "False"] * 5
    examples = [Example(str(i), {}, gold, group="q", document="p") for i, gold in enumerate(golds)]
    said = {"right": golds, "wrong": ["True"] * 10}
    runs = {
        name: [[Outcome(e, label) for e, label in zip(examples, labels, strict=True)]] for name, labels in said.items()
    }
    (found,) = compare(task, runs)
    assert found.delta > 0
    assert found.p == 1.0


def test_accuracy_of_single_runs_is_tested_by_mcnemar():
    task, rng = find("glue/rte"), np.random.default_rng(0)
    golds = rng.choice(task.labels, 300).tolist()
    good = [g if ok else None for g, ok in zip(golds, rng.random(300) < 0.8, strict=True)]
    poor = [g if ok else None for g, ok in zip(golds, rng.random(300) < 0.6, strict=True)]
    (found,) = compare(task, {"good": [rows(task, golds, good)], "poor": [rows(task, golds, poor)]})
    right = [[s == g for s, g in zip(said, golds, strict=True)] for said in (good, poor)]
    assert (found.a, found.b, found.test) == ("good", "poor", "McNemar")
    assert found.delta == pytest.approx(np.mean(right[0]) - np.mean(right[1]), abs=1e-12)
    assert found.p == mcnemar(*right)
    # the paired bootstrap's interval is about that of a mean of differences
    each = np.array(right[0], float) - np.array(right[1], float)
    half = 1.96 * each.std() / math.sqrt(300)
    assert (found.low, found.high) == pytest.approx((found.delta - half, found.delta + half), abs=0.02)


def test_pairs_are_paired():
    """Two methods that agree on most rows: the interval is far narrower than from two independent samples."""
    task, rng = find("glue/cola"), np.random.default_rng(1)
    golds = rng.choice(task.labels, 500).tolist()
    first = [
        g if ok else task.labels[1 - task.labels.index(g)] for g, ok in zip(golds, rng.random(500) < 0.75, strict=True)
    ]
    second = list(first)
    second[:10] = golds[:10]
    (found,) = compare(task, {"b": [rows(task, golds, second)], "a": [rows(task, golds, first)]})
    assert found.test == "paired bootstrap"
    expected = sk.matthews_corrcoef(golds, second) - sk.matthews_corrcoef(golds, first)
    assert found.delta == pytest.approx(expected, abs=1e-12)
    assert found.high - found.low < 0.04  # one sample of 500 alone: about 4 x 0.03


@pytest.mark.slow
def test_under_the_null_few_differences_are_called_real():
    """Two methods of the same quality, F1, 120 times: at the 5 % level about 6 false alarms, by no means 20."""
    task, rng = find("glue/mrpc"), np.random.default_rng(3)
    alarms = 0
    for _ in range(120):
        golds = rng.choice(task.labels, 120).tolist()
        said = [mostly(task, golds, rng.random(120) < 0.7) for _ in "ab"]
        (found,) = compare(task, {"a": [rows(task, golds, said[0])], "b": [rows(task, golds, said[1])]})
        alarms += found.real
    assert 1 <= alarms <= 14


def test_rows_are_matched_by_id_and_other_rows_are_no_match():
    task = find("glue/rte")
    golds = ["entailment", "not_entailment"] * 20
    forward = rows(task, golds, golds)
    backward = list(reversed(rows(task, golds, golds)))
    (found,) = compare(task, {"a": [forward], "b": [backward]})
    assert (found.delta, found.p) == (0.0, 1.0)
    assert compare(task, {"a": [forward], "b": [forward[:10]]}) == []
    assert compare(task, {"a": [forward]}) == []
    assert compare(task, {}) == []


def test_several_seeds_are_drawn_too():
    """Seeds far apart: the interval is far wider than that of one seed."""
    task, rng = find("glue/rte"), np.random.default_rng(5)
    golds = rng.choice(task.labels, 2000).tolist()

    def seed(share):
        return rows(task, golds, [g if ok else None for g, ok in zip(golds, rng.random(2000) < share, strict=True)])

    (alone,) = compare(task, {"a": [seed(0.7)], "b": [seed(0.7)]})
    (apart,) = compare(task, {"a": [seed(s) for s in (0.5, 0.7, 0.9)], "b": [seed(s) for s in (0.5, 0.7, 0.9)]})
    assert apart.test == "t over rows and seeds"
    assert apart.high - apart.low > 3 * (alone.high - alone.low)


def test_few_seeds_raise_no_more_alarms_than_they_should(monkeypatch):
    """No true difference, three seeds that differ more than the rows: about one in twenty is called real."""
    monkeypatch.setattr("rl4nlu.compare.RESAMPLES", 60)
    task, rng = find("glue/rte"), np.random.default_rng(11)
    golds = rng.choice(task.labels, 150).tolist()

    def method():
        shares = np.clip(rng.normal(0.7, 0.08, 3), 0, 1)
        return [
            rows(task, golds, [g if ok else None for g, ok in zip(golds, rng.random(150) < s, strict=True)])
            for s in shares
        ]

    alarms = sum(compare(task, {"a": method(), "b": method()})[0].real for _ in range(80))
    assert alarms <= 10  # 4 expected; 11 or more come about once in 600


def test_welch_is_scipys():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.3, 1, 5), rng.normal(0, 3, 8)
    theirs = stats.ttest_ind(a, b, equal_var=False)
    low, high, p = welch(a.mean() - b.mean(), [(a.var(ddof=1) / 5, 4), (b.var(ddof=1) / 8, 7)])
    assert p == pytest.approx(theirs.pvalue)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_methods_on_other_rows_do_not_keep_the_rest_from_being_compared():
    task = find("glue/rte")
    some, others = rows(task, ["entailment"] * 20, ["entailment"] * 20), rows(task, ["entailment"] * 30, [None] * 30)
    found = compare(task, {"other": [others], "a": [some], "b": [some]})
    assert [(one.a, one.b) for one in found] == [("a", "b")]


def test_a_mean_over_tasks_of_equal_seeds_and_of_one():
    """Seeds that all say the same vary in nothing; what one seed leaves open is known by its rows."""
    low, high, p = welch(0.1, [(0.0, 1.0), (0.01, math.inf)])
    assert (low, high) == pytest.approx((0.1 - 1.959964 * 0.1, 0.1 + 1.959964 * 0.1), abs=1e-6)
    assert p == pytest.approx(2 * stats.norm.sf(1.0))


def test_seeds_of_different_tasks_have_nothing_in_common():
    """Opposite orders of the seeds on two tasks must not make their mean surer than it is."""
    rng, parts = np.random.default_rng(5), []
    for name, shares in (("glue/rte", (0.5, 0.7, 0.9)), ("glue/wnli", (0.9, 0.7, 0.5))):
        task = find(name)
        golds = rng.choice(task.labels, 200).tolist()

        def seed(share, task=task, golds=golds):
            return rows(task, golds, [g if ok else None for g, ok in zip(golds, rng.random(200) < share, strict=True)])

        parts += compare(task, {"a": [seed(s) for s in shares], "b": [seed(0.65)]})
    (mean,) = difference_of_means(parts, 2)
    spread = sum(variance for one in parts for variance, _ in one.parts) / 4
    assert mean.high - mean.low > 2 * 1.96 * spread**0.5
    assert not mean.real


# -- averages: rows of the public leaderboards, which round to one digit ----------------------------------------------

BERT_LARGE = {
    ("glue/cola", "matthews"): 60.5,
    ("glue/sst2", "accuracy"): 94.9,
    ("glue/mrpc", "f1"): 89.3,
    ("glue/mrpc", "accuracy"): 85.4,
    ("glue/stsb", "pearson"): 87.6,
    ("glue/stsb", "spearman"): 86.5,
    ("glue/qqp", "f1"): 72.1,
    ("glue/qqp", "accuracy"): 89.3,
    ("glue/mnli", "accuracy"): 86.7,
    ("glue/mnli-mm", "accuracy"): 85.9,
    ("glue/qnli", "accuracy"): 92.7,
    ("glue/rte", "accuracy"): 70.1,
    ("glue/wnli", "accuracy"): 65.1,
    ("glue/ax", "matthews"): 39.6,
}
SUPERGLUE_BERT = {
    ("superglue/boolq", "accuracy"): 77.4,
    ("superglue/cb", "macro_f1"): 75.7,
    ("superglue/cb", "accuracy"): 83.6,
    ("superglue/copa", "accuracy"): 70.6,
    ("superglue/multirc", "f1a"): 70.0,
    ("superglue/multirc", "exact_match"): 24.1,
    ("superglue/record", "record_f1"): 72.0,
    ("superglue/record", "record_em"): 71.3,
    ("superglue/rte", "accuracy"): 71.7,
    ("superglue/wic", "accuracy"): 69.6,
    ("superglue/wsc", "accuracy"): 64.4,
}


def with_error(scores, error=0.0):
    return {key: (value, error) for key, value in scores.items()}


def test_averages_are_those_of_the_leaderboards():
    """BERT-large: 80.5 on the GLUE server, 82.1 by the average of nine columns in its own paper; 69.0 on SuperGLUE."""
    assert average("GLUE", with_error(BERT_LARGE))[0] == pytest.approx(80.5, abs=0.05)
    assert average("GLUE (paper's nine)", with_error(BERT_LARGE))[0] == pytest.approx(82.1, abs=0.05)
    assert average("SuperGLUE", with_error(SUPERGLUE_BERT))[0] == pytest.approx(69.0, abs=0.05)


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_of_perfect_scores_and_their_errors(name):
    keys = {key for term in AVERAGES[name] for key in term}
    assert all(metric in TASKS[task].metrics for task, metric in keys)
    mean, error = average(name, dict.fromkeys(keys, (1.0, 0.1)))
    assert mean == pytest.approx(1.0, abs=1e-12)
    terms = len(AVERAGES[name])
    assert terms == {"GLUE": 9, "GLUE (paper's nine)": 9, "SuperGLUE": 8}[name]
    # both halves of MNLI and two metrics of a task count as one term with the mean of their errors
    assert error == pytest.approx(0.1 / math.sqrt(terms), abs=1e-12)
    for missing in keys:
        assert average(name, {key: (1.0, 0.1) for key in keys if key != missing}) is None


def test_runs_of_before_are_drawn_as_those_of_now():
    """Of some tasks rows that share a text were no document once; beside a run that knows them they are."""
    task = find("superglue/boolq")
    golds = ["True", "False"] * 20
    now = [
        replace(one, example=replace(one.example, document=str(i // 2)))
        for i, one in enumerate(rows(task, golds, golds))
    ]
    before = rows(task, golds, ["True"] * 40)
    for runs in ({"a": [now], "b": [before]}, {"a": [before], "b": [now]}):
        (found,) = compare(task, runs)
        assert (found.documents, found.test) == (20, "paired bootstrap")


def test_rows_of_two_splits_are_no_pairs():
    """Both number their rows from 0: it is the gold labels that differ."""
    task = find("glue/rte")
    golds = ["entailment", "not_entailment"] * 20
    assert compare(task, {"a": [rows(task, golds, golds)], "b": [rows(task, golds[::-1], golds)]}) == []


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_one_seed_against_several_raises_no_more_alarms_than_it_should(monkeypatch, seeds):
    """The one seed varies as each of the others does; a method that has none does not."""
    monkeypatch.setattr("rl4nlu.compare.RESAMPLES", 40)
    task, rng = find("glue/rte"), np.random.default_rng(13)
    golds = rng.choice(task.labels, 150).tolist()

    def method(count, spread=0.08):
        shares = np.clip(rng.normal(0.7, spread, count), 0, 1)
        return [
            rows(task, golds, [g if ok else None for g, ok in zip(golds, rng.random(150) < s, strict=True)])
            for s in shares
        ]

    alarms = sum(compare(task, {"a": method(1), "b": method(seeds)})[0].real for _ in range(80))
    assert alarms <= 10
    both = {"a": method(1, 0), "b": method(seeds)}
    trained, asked = compare(task, both)[0], compare(task, both, {"a"})[0]
    assert asked.high - asked.low < trained.high - trained.low
