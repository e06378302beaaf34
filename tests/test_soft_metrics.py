"""Differentiable metrics: on counts they are the benchmarks' own; the derivative is what one more answer changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rl4nlu.metrics import METRICS, Outcome, value_of
from rl4nlu.rewards import SMOOTHING, derivative
from rl4nlu.soft_metrics import SOFT
from rl4nlu.tasks import TASKS, Example, find

WHERE = {
    "accuracy": "glue/mnli",
    "f1": "glue/mrpc",
    "f1a": "superglue/multirc",
    "macro_f1": "superglue/cb",
    "matthews": "glue/cola",
    "pearson": "glue/stsb",
    "spearman": "glue/stsb",
}
"""Metric -> a task that has it."""


def numbers(task) -> torch.Tensor:
    values = [float(label) for label in task.labels] if task.numeric else range(len(task.labels))
    return torch.tensor(list(values), dtype=torch.float64)


def random_rows(metric: str, seed: int, rows: int = 60) -> list[Outcome]:
    """Answers that are right more often than not, some of them not parsable."""
    task, rng = find(WHERE[metric]), np.random.default_rng(seed)
    found = []
    for i in range(rows):
        gold = str(rng.choice(task.labels))
        said = gold if rng.random() < 0.5 else rng.choice([*task.labels, None])
        found.append(Outcome(Example(str(i), {}, gold), said))
    return found


def table_of(metric: str, rows: list[Outcome]) -> torch.Tensor:
    task = find(WHERE[metric])
    table = torch.zeros((len(task.labels), len(task.labels) + 1), dtype=torch.float64)
    for row in rows:
        said = len(task.labels) if row.prediction is None else task.labels.index(row.prediction)
        table[task.labels.index(row.example.label), said] += 1
    return table


@pytest.mark.parametrize("metric", SOFT)
def test_on_counts_it_is_the_benchmarks_metric(metric):
    task = find(WHERE[metric])
    for seed in range(50):
        rows = random_rows(metric, seed)
        table, known = table_of(metric, rows), value_of(metric, task, rows)
        assert float(SOFT[metric](table, numbers(task))) == pytest.approx(known, abs=1e-12), seed
        assert SOFT[metric](table.numpy(), numbers(task).numpy()) == pytest.approx(known, abs=1e-12), seed


@pytest.mark.parametrize("metric", SOFT)
def test_the_derivative_is_what_more_mass_in_a_cell_changes(metric):
    task = find(WHERE[metric])
    for seed in range(5):
        table = table_of(metric, random_rows(metric, seed)) + 0.01
        table /= table.sum()
        _, slope = derivative(metric, table, numbers(task))
        blind = torch.full((len(task.labels) + 1,), 1 / len(task.labels), dtype=torch.float64)
        blind[-1] = 0
        gold = (table.sum(1, keepdim=True) + 1 / len(task.labels)) / 2
        smooth = (1 - SMOOTHING) * table + SMOOTHING * gold * blind
        rng = np.random.default_rng(seed)
        for _ in range(10):
            row, column = rng.integers(len(task.labels)), rng.integers(len(task.labels) + 1)
            step = torch.zeros_like(smooth)
            step[row, column] = 1e-6
            both = [float(SOFT[metric](smooth + sign * step, numbers(task))) for sign in (1, -1)]
            assert float(slope[row, column]) == pytest.approx((both[0] - both[1]) / 2e-6, abs=1e-6), (seed, row, column)
        assert float((slope * smooth).sum()) == pytest.approx(0, abs=1e-12)  # doubling all counts changes nothing


@pytest.mark.parametrize("metric", SOFT)
def test_where_every_answer_is_the_same_it_still_points_to_the_right_ones(metric):
    """Matthews and the correlations are 0/0 there; without a derivative a policy could never leave that state."""
    task = find(WHERE[metric])
    L = len(task.labels)
    table = torch.zeros((L, L + 1), dtype=torch.float64)
    table[:, 0] = 1 / L
    value, slope = derivative(metric, table, numbers(task))
    assert np.isfinite(value)
    assert torch.isfinite(slope).all()
    assert float(slope[-1, L - 1]) > float(slope[-1, 0])  # say the last label where it is gold
    if metric != "accuracy":
        assert float(slope[0, L - 1]) < float(slope[-1, L - 1])


@pytest.mark.parametrize("metric", SOFT)
@pytest.mark.parametrize("said", [0, -1])
def test_rows_of_one_gold_label_alone(metric, said):
    """As the first rows of a small task in a mixture are: the right answer pays, and nothing explodes."""
    task = find(WHERE[metric])
    L = len(task.labels)
    table = torch.zeros((L, L + 1), dtype=torch.float64)
    table[L - 1, said] = 1.0
    _, slope = derivative(metric, table, numbers(task))
    assert float(slope.abs().max()) < 1e3
    right, wrong = float(slope[L - 1, L - 1]), float(slope[L - 1, 0])
    assert right > wrong


def test_f1_by_hand():
    """tp 2, missed 1, wrongly 1: F1 = 4/6. d/d tp = (2 (2 tp + m + w) - 4 tp) / (..)^2 = 4/36; d/d m = -2 tp / 36."""
    table = torch.tensor([[5.0, 1.0, 0.0], [1.0, 2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = SOFT["f1"](table, None)
    value.backward()
    assert value.item() == pytest.approx(4 / 6)
    assert table.grad.tolist() == [
        pytest.approx([0, -4 / 36, -4 / 36]),
        pytest.approx([-4 / 36, 4 / 36, -4 / 36]),
    ]


def test_every_metric_is_soft_or_counted_by_group():
    assert set(METRICS) - set(SOFT) == {"exact_match", "gender_parity", "record_em", "record_f1"}
    assert {metric for task in TASKS.values() for metric in task.metrics} <= set(METRICS)
