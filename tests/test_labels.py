"""The policy over a closed set against a computation by brute force in NumPy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import rl4nlu
from rl4nlu.labels import closed_set_logp, distinguishing
from rl4nlu.prompts import Prompter
from rl4nlu.tasks import TASKS, Example
from rl4nlu.tokens import Encoder

V = 7


class Model:
    """A made-up language model: for every text so far a distribution over V tokens."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def logp(self, before: tuple[int, ...]) -> np.ndarray:
        logits = np.random.default_rng([self.seed, 1, *before]).normal(0, 3, V)
        return logits - np.log(np.exp(logits).sum())

    def scores(self, answers, width=None, padding=0.0) -> list[list[float]]:
        """What the forward pass gives: the log-probability of each answer token."""
        width = width or max(map(len, answers))
        rows = [[self.logp(tuple(answer[:a]))[answer[a]] for a in range(len(answer))] for answer in answers]
        return [row + [padding] * (width - len(row)) for row in rows]


def by_brute_force(model: Model, answers) -> np.ndarray:
    """P(answer) as the product, along its path, of its branch's share of all branches that some answer takes."""
    shares = []
    for answer in answers:
        share = 1.0
        for a in range(len(answer)):
            branches = {other[a] for other in answers if len(other) > a and other[:a] == answer[:a]}
            p = np.exp(model.logp(tuple(answer[:a])))
            share *= p[answer[a]] / sum(p[branch] for branch in branches)
        shares.append(share)
    return np.array(shares)


def tensor(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@st.composite
def answer_sets(draw):
    """Answers of which none is the beginning of another."""
    answers = draw(st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=5).map(tuple), min_size=1, max_size=8))
    kept = []
    for answer in answers:
        if not any(answer[: len(other)] == other or other[: len(answer)] == answer for other in kept):
            kept.append(answer)
    return kept


@settings(deadline=None, max_examples=200, derandomize=True)
@given(answers=answer_sets(), seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=3))
def test_equals_brute_force_and_adds_up_to_one(answers, seeds):
    models = [Model(seed) for seed in seeds]
    found = closed_set_logp(tensor(*(model.scores(answers) for model in models)), answers)
    assert found.shape == (len(models), len(answers))
    expected = np.stack([by_brute_force(model, answers) for model in models])
    np.testing.assert_allclose(found.exp().numpy(), expected, rtol=1e-10, atol=1e-300)
    np.testing.assert_allclose(found.exp().sum(1).numpy(), 1, rtol=1e-12)


@settings(deadline=None, derandomize=True)
@given(answers=answer_sets(), seed=st.integers(0, 2**31), garbage=st.sampled_from([-50.0, 0.0, 7.0]))
def test_padding_is_not_read(answers, seed, garbage):
    model = Model(seed)
    plain = closed_set_logp(tensor(model.scores(answers)), answers)
    padded = closed_set_logp(tensor(model.scores(answers, width=8, padding=garbage)), answers)
    assert torch.equal(plain, padded)


@settings(deadline=None, derandomize=True)
@given(answers=answer_sets(), seed=st.integers(0, 2**31), data=st.data())
def test_order_of_the_answers_is_their_order_only(answers, seed, data):
    order = data.draw(st.permutations(range(len(answers))))
    model, moved = Model(seed), [answers[k] for k in order]
    one, other = (
        closed_set_logp(tensor(model.scores(answers)), answers),
        closed_set_logp(tensor(model.scores(moved)), moved),
    )
    assert torch.allclose(one[:, list(order)], other, atol=1e-12)


def test_single_tokens_are_a_softmax_over_those_tokens():
    logits = torch.tensor([[1.0, -2.0, 0.5, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0, -9.0]], dtype=torch.float64)
    answers = [(3,), (0,), (2,)]
    tokens = [answer[0] for answer in answers]
    found = closed_set_logp(logits.log_softmax(-1)[:, tokens, None], answers)
    assert torch.allclose(found, logits[:, tokens].log_softmax(-1), atol=1e-12)


def test_worked_by_hand():
    """'Yes' | 'No' | 'No t' 'rue' ...: P(Yes) = .5 / (.5 + .25); below 'No' the branches have .1 and .3."""
    answers = [(1,), (2, 3), (2, 4, 5)]
    logp = torch.tensor([[[0.5, 0, 0], [0.25, 0.1, 0], [0.25, 0.3, 0.001]]], dtype=torch.float64).log()
    found = closed_set_logp(logp.nan_to_num(neginf=0.0), answers).exp()[0].tolist()
    assert found == pytest.approx([2 / 3, 1 / 3 * 0.25, 1 / 3 * 0.75], abs=1e-12)


@pytest.mark.parametrize("tail", [1, 2, 10])
@pytest.mark.parametrize("price", [-0.1, -5.0, -40.0])
def test_a_longer_word_is_not_penalised(tail, price):
    """Tokens without rival cost nothing, however unlikely: length alone never decides."""
    answers = [(1,), (2, *range(10, 10 + tail))]
    logp = tensor([[-1.0] + [0.0] * tail, [-1.0] + [price] * tail])
    assert closed_set_logp(logp, answers)[0].tolist() == pytest.approx([math.log(0.5)] * 2, abs=1e-12)


def test_a_common_first_token_costs_nothing():
    logp = tensor([[-30.0, -1.0], [-30.0, -2.0]])
    found = closed_set_logp(logp, [(9, 1), (9, 2)])[0]
    assert torch.allclose(found, torch.tensor([-1.0, -2.0], dtype=torch.float64).log_softmax(0), atol=1e-12)


def test_a_single_answer_is_certain():
    assert closed_set_logp(tensor([[-3.0, -4.0]]), [(5, 6)]).tolist() == [[0.0]]


def test_very_unlikely_answers_stay_finite_and_add_up():
    found = closed_set_logp(tensor([[-500.0], [-510.0]], [[-1e4], [-1e4]]), [(1,), (2,)])
    assert found.exp().sum(1).tolist() == pytest.approx([1, 1], abs=1e-12)
    assert found[0].tolist() == pytest.approx([-math.log1p(math.exp(-10)), -10 - math.log1p(math.exp(-10))], abs=1e-9)


@pytest.mark.parametrize("answers", [[(1,), (2, 3), (2, 4, 5)], [(0,), (1,)], [(1, 2), (1, 3), (4, 5, 6, 6)], [(3, 3)]])
def test_gradients_are_those_of_finite_differences(answers):
    logp = tensor(Model(1).scores(answers), Model(2).scores(answers)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: closed_set_logp(x, answers), logp)


# -- distinguishing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "cut"),
    [
        ([(1, 9), (2, 9)], [(1,), (2,)]),
        ([(1, 2, 9), (1, 3, 9)], [(1, 2), (1, 3)]),
        ([(1, 2, 9), (1, 3, 9), (4, 5, 9)], [(1, 2), (1, 3), (4,)]),
        ([(1, 2, 3, 9), (1, 2, 4, 9), (1, 5, 9)], [(1, 2, 3), (1, 2, 4), (1, 5)]),
        ([(1,), (2, 3, 4)], [(1,), (2,)]),
        ([(7, 8, 9)], [(7,)]),
    ],
)
def test_answers_are_cut_behind_what_sets_them_apart(answers, cut):
    assert list(distinguishing(answers)) == cut


@settings(deadline=None, derandomize=True)
@given(answers=answer_sets(), seed=st.integers(0, 2**31))
def test_what_is_cut_off_changes_no_probability(answers, seed):
    cut = distinguishing(answers)
    assert len(set(cut)) == len(answers)
    for short, whole in zip(cut, answers, strict=True):
        assert 1 <= len(short) <= len(whole)
        assert tuple(whole[: len(short)]) == short
        assert len(short) == 1 or sum(tuple(other[: len(short) - 1]) == short[:-1] for other in answers) > 1, (
            "not the shortest"
        )
    assert distinguishing(cut) == cut
    model = Model(seed)
    whole, short = (closed_set_logp(tensor(model.scores(a)), a) for a in (answers, cut))
    assert torch.allclose(whole, short, atol=1e-12)


@pytest.mark.parametrize("template", ["plain", "verdict"])
@pytest.mark.parametrize("name", ["glue/stsb", "glue/mnli", "superglue/copa", "mini/sentiment"])
def test_real_answers_of_the_bundled_tokenizer(name, template):
    task = TASKS[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(Path(rl4nlu.__file__).parent / "assets" / "mini")
    row = Example("r", dict.fromkeys(task.fields, "It rains."), None)
    answers = distinguishing(Encoder(tokenizer, Prompter(task, template), 512).encode(row).answers)
    assert len(set(answers)) == len(task.labels)
    generator = torch.Generator().manual_seed(0)
    values: dict[tuple[int, ...], float] = {}
    for answer in answers:  # one value for each branch, as one model gives it
        for a in range(len(answer)):
            values.setdefault(answer[: a + 1], -5 * torch.rand((), generator=generator).item())
    width = max(map(len, answers))
    logp = tensor([[values[x[: a + 1]] if a < len(x) else 0.0 for a in range(width)] for x in answers])
    assert closed_set_logp(logp, answers).exp().sum().item() == pytest.approx(1, abs=1e-12)
