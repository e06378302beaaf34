"""Calibration against float64 NumPy and plain passes of transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4nlu import data
from rl4nlu.ask import ask, encode
from rl4nlu.calibrate import ask_calibrated, calibrate, mean_logp
from rl4nlu.errors import UserError
from rl4nlu.models import load_policy
from rl4nlu.settings import EvaluateSettings
from rl4nlu.tasks import find


@pytest.fixture(scope="module")
def policy():
    return load_policy("mini")


def test_by_hand():
    """p = (0.8, 0.2), prior (0.9, 0.1): 0.8 / 0.9 against 0.2 / 0.1, so the second label wins with 18 to 8."""
    found = np.exp(calibrate(np.log([[0.8, 0.2]]), np.log([[0.9, 0.1]])))
    assert found == pytest.approx(np.array([[8 / 26, 18 / 26]]), abs=1e-12)
    assert np.exp(mean_logp(np.log([[0.8, 0.2], [0.4, 0.6]]))) == pytest.approx(np.array([[0.6, 0.4]]), abs=1e-12)


@given(st.lists(st.lists(st.floats(-20, 0), min_size=3, max_size=3), min_size=1, max_size=6), st.floats(-5, 5))
def test_properties(rows, shift):
    logp = np.array(rows)
    logp = logp - np.logaddexp.reduce(logp, axis=1, keepdims=True)
    even = calibrate(logp, np.full((1, 3), shift))  # a prior that prefers no label changes nothing
    assert even == pytest.approx(logp, abs=1e-9)
    own = calibrate(logp, logp)  # each row against itself: nothing left
    assert np.exp(own) == pytest.approx(np.full_like(logp, 1 / 3), abs=1e-9)


def first_token_logp(policy, texts, words):
    """log p of each word's first token behind each text, among the words, by a plain pass of transformers."""
    found = []
    ids_of = [policy.tokenizer("x" + word)["input_ids"][-2] for word in words]  # " Yes", then a line break
    for text in texts:
        ids = policy.tokenizer(text, return_tensors="pt")["input_ids"]
        logits = policy.model(input_ids=ids).logits[0, -1].double()
        found.append(logits[ids_of].log_softmax(-1).tolist())
    return np.array(found)


@torch.no_grad()
@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("method", ["contextual", "batch", "domain"])
def test_against_plain_passes(policy, method, shots):
    task = find("mini/entailment")
    settings = EvaluateSettings(task=task.name, shots=shots)
    question = encode(policy, task, settings, data.load(task, "dev", limit=6))
    found = list(ask_calibrated(policy, question, method, settings))
    words = [f" {task.words[label]}\n" for label in task.labels]
    logp = first_token_logp(policy, [row.prompt.text for row in question.rows], words)
    prefix = question.prompter.prefix
    premise_and_cue = task.plain.split("\n")
    if method == "batch":
        prior = np.exp(logp).mean(0, keepdims=True)
    elif method == "contextual":
        texts = [
            prefix + task.plain.format_map(dict.fromkeys(task.fields, content)) for content in ("N/A", "[MASK]", "")
        ]
        prior = np.exp(first_token_logp(policy, texts, words)).mean(0, keepdims=True)
    else:
        prior = np.exp(first_token_logp(policy, [prefix + premise_and_cue[-1]], words))
    expected = np.exp(logp) / prior
    expected /= expected.sum(1, keepdims=True)
    for prediction, row in zip(found, expected, strict=True):
        assert np.exp(list(prediction.scores.values())) == pytest.approx(row, abs=1e-5)
        assert prediction.label == task.labels[int(row.argmax())]


def test_a_model_that_says_one_label_always_is_balanced(policy):
    """A model with a favourite, six nats over the other label; batch calibration takes it away."""
    task = find("mini/sentiment")
    policy = replace(policy, label_bias={task.name: [3.0, -3.0]})
    settings = EvaluateSettings(task=task.name)
    question = encode(policy, task, settings, data.load(task, "dev"))

    def share(predictions):
        labels = [prediction.label for prediction in predictions]
        return max(labels.count(label) for label in task.labels) / len(labels)

    before = share(ask(policy, question, "score", settings))
    after = share(ask_calibrated(policy, question, "batch", settings))
    assert before > 0.9
    assert after < 0.7


def test_a_cue_that_shows_a_field_gives_each_row_a_prior_of_its_own(policy):
    """WiC asks for the row's word in its last line."""
    from rl4nlu.tasks import Example

    task = find("superglue/wic")
    examples = [
        Example(str(i), {"first": "A b.", "second": "C d.", "word": w}, "True") for i, w in enumerate(["b", "d"])
    ]
    question = encode(policy, task, EvaluateSettings(), examples)
    cues = [question.prompter.cue(example) for example in examples]
    assert cues == ["Does b mean the same in both?", "Does d mean the same in both?"]
    assert len(list(ask_calibrated(policy, question, "domain", EvaluateSettings()))) == 2


def test_a_template_without_a_cue(policy):
    """Of a prompt without a token nothing can be asked: contextual leaves it out, domain has nothing else."""
    task = replace(find("mini/sentiment"), plain="{sentence}")
    question = encode(policy, task, EvaluateSettings(), data.load(find("mini/sentiment"), "dev", limit=4))
    assert question.prompter.cue(question.rows[0].prompt.example) == ""
    found = list(ask_calibrated(policy, question, "contextual", EvaluateSettings()))
    assert len(found) == 4
    words = [f" {task.words[label]}\n" for label in task.labels]
    prior = np.exp(first_token_logp(policy, ["N/A", "[MASK]"], words)).mean(0)
    expected = np.exp(first_token_logp(policy, [question.rows[0].prompt.text], words))[0] / prior
    assert np.exp(list(found[0].scores.values())) == pytest.approx(expected / expected.sum(), abs=1e-5)
    with pytest.raises(UserError, match="nothing stands behind the last field of mini/sentiment's template"):
        list(ask_calibrated(policy, question, "domain", EvaluateSettings()))
