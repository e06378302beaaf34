"""Rows of which the policy is unsure come more often, as p (1 - p) says."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np

from rl4nlu import curriculum
from rl4nlu.curriculum import FLOOR, most_uncertain


def candidates(monkeypatch, gold):
    """One row for each probability of the gold label."""
    rows = [
        SimpleNamespace(gold=0, number=i, prompter=SimpleNamespace(task=SimpleNamespace(name="t")))
        for i in range(len(gold))
    ]
    monkeypatch.setattr(
        curriculum, "label_logp", lambda policy, rows, max_tokens: [[np.log(gold[r.number])] for r in rows]
    )
    return rows


def test_drawn_in_proportion_to_p_one_minus_p(monkeypatch):
    gold = np.array([0.5, 0.9, 0.99, 0.1])
    rows = candidates(monkeypatch, gold)
    count = Counter(most_uncertain(None, rows, 1, 100, seed=0, step=i)[0].number for i in range(4000))
    weight = gold * (1 - gold) + FLOOR
    expected = weight / weight.sum()
    for i, p in enumerate(expected):
        assert abs(count[i] / 4000 - p) <= 4 * np.sqrt(p * (1 - p) / 4000)


def test_none_comes_twice_and_the_same_step_draws_the_same(monkeypatch):
    rows = candidates(monkeypatch, np.linspace(0.01, 0.99, 40))
    first, again, other = (most_uncertain(None, rows, 10, 100, 0, step) for step in (3, 3, 4))
    assert len({row.number for row in first}) == 10
    assert first == again
    assert first != other
