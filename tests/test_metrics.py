"""Metrics against scikit-learn and scipy called directly, and cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from rl4nlu.metrics import METRICS, Judged, Outcome, compute, confidence_of, normalise, value_of
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
    assert value_of(metric, task, outcomes(task, golds, said)) == pytest.approx(expected(golds, said), abs=1e-12)


def test_correlations_against_scipy():
    task, rng = find("glue/stsb"), np.random.default_rng(0)
    golds = np.round(rng.uniform(0, 5, 200), 3)
    said = np.clip(golds + rng.normal(size=200), 0, 5)
    rows = outcomes(task, [str(g) for g in golds], [str(s) for s in said])
    assert value_of("pearson", task, rows) == pytest.approx(stats.pearsonr(golds, said).statistic, abs=1e-12)
    assert value_of("spearman", task, rows) == pytest.approx(stats.spearmanr(golds, said).statistic, abs=1e-12)
    constant = outcomes(task, ["1.0", "2.0", "3.0"], ["2.5"] * 3)
    assert value_of("pearson", task, constant) == value_of("spearman", task, constant) == 0.0


def test_multirc_by_hand():
    """Question a: both answers right. Question b: one of three wrong. F1 of True: TP 2, FP 1, FN 0 -> 4/5."""
    task = find("superglue/multirc")
    golds, said = ["True", "False", "True", "False", "False"], ["True", "False", "True", "True", "False"]
    rows = outcomes(task, golds, said, ["a", "a", "b", "b", "b"])
    assert value_of("exact_match", task, rows) == 0.5
    assert value_of("f1a", task, rows) == pytest.approx(0.8)


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
    assert value_of("record_em", task, rows) == 0.5
    assert value_of("record_f1", task, rows) == pytest.approx((1 + 0.5) / 2)  # precision 1/2, recall 1/2
    assert normalise("The U.S. Navy, a fleet!") == ["us", "navy", "fleet"]


def test_gender_parity_by_hand():
    task = find("superglue/axg")
    rows = outcomes(
        task, ["entailment"] * 4, ["entailment", "entailment", "entailment", "not_entailment"], list("aabb")
    )
    assert value_of("gender_parity", task, rows) == 0.5
    silent = outcomes(task, ["entailment"] * 4, [None, None, "entailment", "entailment"], list("aabb"))
    assert value_of("gender_parity", task, silent) == 0.5  # no answer twice is no parity


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
    task = find("glue/mrpc")  # F1 of one label knows no third: it counts as the other one
    golds, said = ["same", "same", "different", "different"], ["same", None, None, "different"]
    assert value_of("accuracy", task, outcomes(task, golds, said)) == 0.5
    assert value_of("f1", task, outcomes(task, golds, said)) == pytest.approx(sk.f1_score([1, 1, 0, 0], [1, 0, 1, 0]))
    cola = find("glue/cola")  # a correlation does: nothing parsed is no correlation, not a perfect negative one
    golds = ["acceptable", "unacceptable", "acceptable", "unacceptable"]
    assert value_of("matthews", cola, outcomes(cola, golds, [None] * 4)) == 0.0
    said = ["acceptable", None, "acceptable", "unacceptable"]
    expected = sk.matthews_corrcoef([1, 0, 1, 0], [1, 2, 1, 0])
    assert value_of("matthews", cola, outcomes(cola, golds, said)) == pytest.approx(expected, abs=1e-12)
    cb = find("superglue/cb")  # three: a label of its own, so no class gets a false positive
    rows = outcomes(cb, ["entailment", "neutral", "contradiction"], ["entailment", None, "contradiction"])
    assert value_of("macro_f1", cb, rows) == pytest.approx(2 / 3)
    stsb = find("glue/stsb")  # a number: the end of the scale that is farther off
    rows = outcomes(stsb, ["1.0", "4.0", "2.0"], [None, "4.0", "2.0"])
    expected = stats.pearsonr([1.0, 4.0, 2.0], [5.0, 4.0, 2.0]).statistic
    assert value_of("pearson", stsb, rows) == pytest.approx(expected)


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


@pytest.mark.parametrize("name", TASKS)
def test_constant_or_no_answers_give_finite_numbers_without_warning(name):
    task = find(name)
    for gold in (None, task.labels[0], task.labels[-1]):  # None: golds that differ
        for said in (task.labels[0], task.labels[-1], None):
            rows = []
            for i in range(6):
                label = gold or task.labels[i % len(task.labels)]
                meta = {"query": i // 2, "entity": "x", "answers": ["x"]}
                rows.append(Outcome(Example(str(i), {}, label, str(i // 2), meta), said))
            values = {metric: value_of(metric, task, rows) for metric in task.metrics}
            assert all(math.isfinite(value) for value in values.values()), (gold, said)
            if said is not None:
                assert all(values.get(metric, 0.0) == 0.0 for metric in ("matthews", "pearson", "spearman"))


def record_row(i, query, entity, answers, prediction, confidence=None):
    meta = {"query": query, "entity": entity, "answers": answers}
    return Outcome(Example(str(i), {}, str(entity in answers), query, meta), prediction, confidence)


def test_record_takes_the_first_entity_called_right_where_nothing_was_scored():
    task = find("superglue/record")
    rows = [
        record_row(0, "1", "Oslo", ["Bergen"], "False"),
        record_row(1, "1", "Bergen", ["Bergen"], "True"),
        record_row(2, "1", "Oslo harbour", ["Bergen"], "True"),  # called right too, but later
        record_row(3, "2", "Turin", ["Turin"], "False"),  # none called right: the first
        record_row(4, "2", "Rome", ["Turin"], None),
    ]
    assert value_of("record_em", task, rows) == 1.0
    # a score overrules what was said: 'Turin' is the likelier of two that are called wrong
    scored = [record_row(0, "2", "Rome", ["Turin"], "False", -3.0), record_row(1, "2", "Turin", ["Turin"], "False", -2)]
    assert value_of("record_em", task, scored) == 1.0


def test_record_tells_candidates_apart_that_are_all_but_certain():
    """log P(True) of -3.1e-7 and -2.1e-9 are both 0 to six places."""
    task = find("superglue/record")
    sure = [{"False": -15.0, "True": -3.1e-7}, {"False": -20.0, "True": -2.1e-9}]
    rows = [
        record_row(i, "1", entity, ["Turin"], "True", confidence_of(task, scores))
        for i, (entity, scores) in enumerate(zip(("Rome", "Turin"), sure, strict=True))
    ]
    assert value_of("record_em", task, rows) == 1.0
    assert confidence_of(task, {"False": math.log(0.2), "True": math.log(0.8)}) == pytest.approx(math.log(4), abs=2e-6)
    assert confidence_of(task, None) is None
    assert confidence_of(find("glue/stsb"), {"0": -1.0, "5": -0.4}) is None


def test_record_f1_counts_a_repeated_word_as_often_as_both_have_it():
    """said: new new york (3 words); gold: new new york city (4); all 3 are common: precision 1, recall 3/4 -> 6/7."""
    task = find("superglue/record")
    rows = [record_row(0, "1", "New New York", ["Paris", "the New New York City"], "True")]
    assert value_of("record_f1", task, rows) == pytest.approx(6 / 7, abs=1e-12)
    assert value_of("record_em", task, rows) == 0.0


def test_a_document_drawn_twice_counts_twice():
    task = find("superglue/multirc")
    rows = outcomes(task, ["True", "False", "True"], ["True", "True", "False"], ["a", "a", "b"])
    twice = np.array([2.0, 1.0])
    assert METRICS["exact_match"](Judged(task, rows))(twice) == 0.0
    right = outcomes(task, ["True"] * 3, ["True", "True", "False"], ["a", "a", "b"])
    assert METRICS["exact_match"](Judged(task, right))(twice) == pytest.approx(2 / 3, abs=1e-12)
    doubled = sk.f1_score([1, 0, 1, 0, 1], [1, 1, 1, 1, 0])  # rows of "a" twice, row of "b" once
    assert METRICS["f1a"](Judged(task, rows))(twice) == pytest.approx(doubled, abs=1e-12)


@pytest.mark.parametrize("name", ["glue/cola", "glue/mrpc", "superglue/cb", "glue/stsb", "superglue/multirc"])
def test_weights_are_repeated_rows(name):
    """Every metric with weights = the metric over rows that stand there as often as their weight says."""
    task, golds, said = random_rows(name, 40)
    rows = outcomes(task, golds, said)
    weight = np.random.default_rng(5).integers(0, 4, 40)
    again = [
        Outcome(Example(f"{i}x{k}", {}, o.example.label), o.prediction)
        for i, o in enumerate(rows)
        for k in range(weight[i])
    ]
    for metric in task.metrics:
        expected = value_of(metric, task, again)
        assert METRICS[metric](Judged(task, rows))(weight) == pytest.approx(expected, abs=1e-12), metric


def test_rows_of_a_passage_are_drawn_together():
    """100 passages of 4 answers, all right or all wrong: the error is that of 100 rows, not of 400."""
    task = find("superglue/multirc")
    right = np.random.default_rng(2).random(100) < 0.6
    rows = [
        Outcome(Example(f"{d}-{q}-{a}", {}, "True", f"{d}-{q}", document=str(d)), "True" if ok else "False")
        for d, ok in enumerate(right)
        for q in range(2)
        for a in range(2)
    ]
    _, errors = compute(task, rows)
    p = right.mean()
    assert errors["exact_match"] == pytest.approx(math.sqrt(p * (1 - p) / 100), rel=0.2)


def test_bootstrap_of_a_mean_over_questions():
    """400 questions of two answers, each question right or wrong as a whole: sqrt(p (1 - p) / 400)."""
    task, right = find("superglue/multirc"), np.random.default_rng(1).random(400) < 0.7
    said = ["True" if ok else "False" for ok in right for _ in range(2)]
    rows = outcomes(task, ["True"] * 800, said, [str(i // 2) for i in range(800)])
    values, errors = compute(task, rows)
    p = right.mean()
    assert values["exact_match"] == pytest.approx(p, abs=1e-12)
    assert errors["exact_match"] == pytest.approx(math.sqrt(p * (1 - p) / 400), rel=0.25)
    assert compute(task, rows) == (values, errors)  # the same on every call


@pytest.mark.parametrize("metric", ["matthews", "f1", "f1a", "macro_f1"])
def test_draws_of_the_bootstrap_are_scikit_learns_too(metric):
    """Whatever the weights; rows of one label and answers that are never right among them."""
    where = {"matthews": "glue/cola", "f1": "glue/mrpc", "f1a": "superglue/multirc", "macro_f1": "superglue/cb"}
    task, rng = find(where[metric]), np.random.default_rng(0)
    for i in range(100):
        size = int(rng.integers(2, 30))
        golds = rng.choice(task.labels, size).tolist()
        said = rng.choice([*task.labels, None], size).tolist()
        judged = Judged(task, outcomes(task, golds, said))
        draw = rng.integers(0, 4, judged.documents)
        if not draw.sum():
            continue
        again = [o for o, count in zip(judged.outcomes, draw[judged.document_N], strict=True) for _ in range(count)]
        repeated = outcomes(task, [o.example.label for o in again], [o.prediction for o in again])
        known = value_of(metric, task, repeated)  # all weights one: scikit-learn
        assert METRICS[metric](judged)(draw) == pytest.approx(known, abs=1e-12), i
