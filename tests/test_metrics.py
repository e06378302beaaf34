"""Metrics against scikit-learn and scipy called directly, and cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from rl4nlu.metrics import METRICS, Outcome, compute, normalise
from rl4nlu.tasks import TASKS, Example, find


def outcomes(task, golds, said, groups=None) -> list[Outcome]:
    groups = groups or [None] * len(golds)
    rows = zip(golds, said, groups, strict=True)
    return [Outcome(Example(str(i), {}, gold, group), p) for i, (gold, p, group) in enumerate(rows)]


def random_rows(name: str, n: int = 300):
    task, rng = find(name), np.random.default_rng(len(name))
    golds = rng.choice(task.labels, n).tolist()
    said = [
        g if keep else s
        for g, s, keep in zip(golds, rng.choice(task.labels, n).tolist(), rng.random(n) < 0.5, strict=True)
    ]
    return task, golds, said


@pytest.mark.parametrize(
    ("name", "metric", "expected"),
    [
        ("glue/cola", "matthews", lambda g, s: sk.matthews_corrcoef(g, s)),
        ("glue/ax", "matthews", lambda g, s: sk.matthews_corrcoef(g, s)),
        ("superglue/axb", "matthews", lambda g, s: sk.matthews_corrcoef(g, s)),
        ("glue/rte", "accuracy", lambda g, s: sk.accuracy_score(g, s)),
        ("glue/mrpc", "f1", lambda g, s: sk.f1_score(g, s, pos_label="same")),
        ("glue/qqp", "f1", lambda g, s: sk.f1_score(g, s, pos_label="duplicate")),
        ("superglue/cb", "macro_f1", lambda g, s: sk.f1_score(g, s, average="macro")),
        ("superglue/multirc", "f1a", lambda g, s: sk.f1_score(g, s, pos_label="True")),
    ],
)
def test_against_scikit_learn(name, metric, expected):
    task, golds, said = random_rows(name)
    assert METRICS[metric](task, outcomes(task, golds, said)) == pytest.approx(expected(golds, said), abs=1e-12)


def test_correlations_against_scipy():
    task, rng = find("glue/stsb"), np.random.default_rng(0)
    golds = np.round(rng.uniform(0, 5, 200), 3)
    said = np.clip(golds + rng.normal(size=200), 0, 5)
    rows = outcomes(task, [str(g) for g in golds], [str(s) for s in said])
    assert METRICS["pearson"](task, rows) == pytest.approx(stats.pearsonr(golds, said).statistic, abs=1e-12)
    assert METRICS["spearman"](task, rows) == pytest.approx(stats.spearmanr(golds, said).statistic, abs=1e-12)
    constant = outcomes(task, ["1.0", "2.0", "3.0"], ["2.5"] * 3)
    assert METRICS["pearson"](task, constant) == METRICS["spearman"](task, constant) == 0.0


def test_multirc_by_hand():
    """Question a: both answers right. Question b: one of three wrong. F1 of True: TP 2, FP 1, FN 0 -> 4/5."""
    task = find("superglue/multirc")
    golds, said = ["True", "False", "True", "False", "False"], ["True", "False", "True", "True", "False"]
    rows = outcomes(task, golds, said, ["a", "a", "b", "b", "b"])
    assert METRICS["exact_match"](task, rows) == 0.5
    assert METRICS["f1a"](task, rows) == pytest.approx(0.8)


def test_record_by_hand():
    """Query 1: the entity believed most is an answer but for article and case. Query 2: it shares one of two words."""
    task = find("superglue/record")

    def row(i, query, entity, answers, belief):
        label = str(entity in answers)
        example = Example(str(i), {}, label, query, {"query": query, "entity": entity, "answers": answers})
        return Outcome(example, "True" if belief > -0.7 else "False", belief)

    rows = [
        row(0, "1", "the Hague", ["Hague", "Paris"], -0.1),
        row(1, "1", "Paris", ["Hague", "Paris"], -0.2),
        row(2, "2", "Benazir Bhutto", ["Bilawal Bhutto"], -0.9),
        row(3, "2", "Karachi", ["Bilawal Bhutto"], -1.5),
    ]
    assert METRICS["record_em"](task, rows) == 0.5
    assert METRICS["record_f1"](task, rows) == pytest.approx((1 + 0.5) / 2)  # precision 1/2, recall 1/2
    assert normalise("The U.S. Navy, a fleet!") == ["us", "navy", "fleet"]


def test_gender_parity_by_hand():
    task = find("superglue/axg")
    rows = outcomes(
        task, ["entailment"] * 4, ["entailment", "entailment", "entailment", "not_entailment"], list("aabb")
    )
    assert METRICS["gender_parity"](task, rows) == 0.5


@pytest.mark.parametrize("name", TASKS)
def test_perfect_predictions(name):
    task, rows = find(name), []
    for i in range(60):
        label = task.labels[i % len(task.labels)]
        meta = {"query": str(i), "entity": "x", "answers": ["x"]} if name == "superglue/record" else {}
        group = str(i // 2) if "gender_parity" not in task.metrics else str(i // 2 * 2 + i % 2)
        rows.append(Outcome(Example(str(i), {}, label, group, meta), label))
    values, errors = compute(task, rows)
    assert set(values) == set(errors) == set(task.metrics)
    assert all(value == pytest.approx(1.0) for value in values.values())
    assert all(error == pytest.approx(0.0, abs=1e-9) for error in errors.values())


def test_what_cannot_be_parsed_is_wrong():
    task = find("glue/mrpc")  # two labels: it counts as the other one
    golds, said = ["same", "same", "different", "different"], ["same", None, None, "different"]
    assert METRICS["accuracy"](task, outcomes(task, golds, said)) == 0.5
    assert METRICS["f1"](task, outcomes(task, golds, said)) == pytest.approx(sk.f1_score([1, 1, 0, 0], [1, 0, 1, 0]))
    cb = find("superglue/cb")  # three: a label of its own, so no class gets a false positive
    rows = outcomes(cb, ["entailment", "neutral", "contradiction"], ["entailment", None, "contradiction"])
    assert METRICS["macro_f1"](cb, rows) == pytest.approx(2 / 3)
    stsb = find("glue/stsb")  # a number: the end of the scale that is farther off
    rows = outcomes(stsb, ["1.0", "4.0", "2.0"], [None, "4.0", "2.0"])
    expected = stats.pearsonr([1.0, 4.0, 2.0], [5.0, 4.0, 2.0]).statistic
    assert METRICS["pearson"](stsb, rows) == pytest.approx(expected)


def test_standard_errors():
    rng = np.random.default_rng(3)
    task = find("glue/rte")
    golds = rng.choice(task.labels, 400).tolist()
    said = [g if keep else None for g, keep in zip(golds, rng.random(400) < 0.7, strict=True)]
    values, errors = compute(task, outcomes(task, golds, said))
    p = values["accuracy"]
    assert errors["accuracy"] == pytest.approx(math.sqrt(p * (1 - p) / 400))
    # the bootstrap agrees with the analytic value where there is one; rows in groups of four count as one draw
    axg = find("superglue/axg")
    _, apart = compute(axg, outcomes(axg, golds, said, [str(i) for i in range(400)]))
    assert apart["accuracy"] == pytest.approx(errors["accuracy"], rel=1e-9)
    grouped = outcomes(
        axg,
        ["entailment"] * 400,
        ["entailment" if i // 4 % 2 else None for i in range(400)],
        [str(i // 4) for i in range(400)],
    )
    _, together = compute(axg, grouped)
    assert together["accuracy"] == pytest.approx(math.sqrt(0.25 / 100), rel=0.2)


def test_rows_without_gold_do_not_count():
    task = find("glue/rte")
    rows = outcomes(task, ["entailment", None], ["entailment", "entailment"])
    assert compute(task, rows)[0] == {"accuracy": 1.0}
    assert compute(task, rows[1:]) == ({}, {})
