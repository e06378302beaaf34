"""Sampling: against transformers' own generate, against the scored log-probability, and the distribution itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models_zoo import CONFIGS
from policies import tiny_policy
from rl4nlu.forward import score
from rl4nlu.rollout import draw, sample, uniforms
from rl4nlu.tokens import micro_batches

PREFIX = list(range(40, 60))
PROMPTS = [PREFIX + own for own in ([5, 9, 2], [7], [3, 3, 8, 1, 6, 2, 9, 4], [60, 61, 2, 9, 33, 12])]


def never(text: str) -> bool:
    return False


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_answers_are_those_of_generate(name):
    policy = tiny_policy(name)
    answers = sample(policy, PROMPTS, never, max_new_tokens=6, max_tokens=10_000)
    for prompt, (answer,) in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor([prompt])
        out = policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6, pad_token_id=0
        )
        assert list(answer.tokens) == out[0, len(prompt) :].tolist()
        assert not answer.ended


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral_window", "mpt", "bloom"])
def test_sampled_logp_is_the_scored_logp(name):
    policy = tiny_policy(name, eos=13)
    uniform = uniforms(len(PROMPTS), 3, 5, seed=1, purpose="rollout", step=0)
    answers = sample(policy, PROMPTS, never, 5, 10_000, uniform)
    rows = [(prompt, [a.tokens for a in found]) for prompt, found in zip(PROMPTS, answers, strict=True)]
    for batch in micro_batches(rows, 10_000, pad=13):
        logp = score(policy.model, batch, policy.shared).logp_BKA
        for i, row in enumerate(batch.rows):
            for k, answer in enumerate(answers[row]):
                recomputed = logp[i, k, : len(answer.tokens)].tolist()
                assert answer.logp == pytest.approx(recomputed, abs=1e-5)


def test_what_is_sampled_does_not_depend_on_batching():
    policy = tiny_policy("llama")
    uniform = uniforms(len(PROMPTS), 2, 5, seed=3, purpose="rollout", step=7)
    together = sample(policy, PROMPTS, never, 5, 10_000, uniform)
    apart = sample(policy, PROMPTS, never, 5, 16, uniform)
    assert [[a.tokens for a in row] for row in together] == [[a.tokens for a in row] for row in apart]
    # each of several answers is what it would be on its own
    for k in range(2):
        single = sample(policy, PROMPTS, never, 5, 10_000, uniform[:, k : k + 1])
        assert [row[0].tokens for row in single] == [row[k].tokens for row in together]


@pytest.mark.parametrize("name", ["llama", "mpt", "bloom"])
def test_answers_end_where_they_should(name):
    policy = tiny_policy(name)
    greedy = sample(policy, PROMPTS, never, 6, 10_000)
    stops = [row[0].tokens[2] for row in greedy]  # end each answer at its third token, by its text
    texts = {f" {a} {b} {c}" for (a, b, c) in (row[0].tokens[:3] for row in greedy)}
    ended = sample(policy, PROMPTS, lambda text: text in texts, 6, 10_000)
    for row, whole, stop in zip(ended, greedy, stops, strict=True):
        assert row[0].tokens == whole[0].tokens[:3]
        assert row[0].tokens[-1] == stop
        assert row[0].ended
    # and by the end token, which belongs to the answer
    end = greedy[0][0].tokens[1]
    policy.model.generation_config.eos_token_id = [end]
    (answer,) = sample(policy, PROMPTS[:1], never, 6, 10_000)[0]
    assert answer.tokens[-1] == end
    assert answer.ended


def test_draw_inverts_the_distribution():
    probabilities = np.array([0.1, 0.0, 0.25, 0.6, 0.05])
    with np.errstate(divide="ignore"):
        logits = torch.from_numpy(np.log(probabilities)).expand(10_000, 5)
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    token, logp = draw(logits, uniform)
    counts = np.bincount(token.numpy(), minlength=5) / 10_000
    assert counts == pytest.approx(probabilities, abs=1e-4)
    assert logp.exp().numpy() == pytest.approx(probabilities[token.numpy()], rel=1e-5)


@pytest.mark.parametrize("size", [3, 255, 256, 257, 1000, 8192])
def test_draw_is_the_inverse_of_the_distribution_function(size):
    rng = np.random.default_rng(size)
    logits = rng.normal(0, 4, (200, size))
    logits[:, rng.integers(0, size, size // 3)] = -np.inf  # what can never be said
    logits[:, 0] = 0.0
    uniform = rng.random(200)
    token, _ = draw(torch.from_numpy(logits).float(), torch.from_numpy(uniform))
    p = np.exp(logits - logits.max(1, keepdims=True))
    mass = (p / p.sum(1, keepdims=True)).cumsum(1)
    for n in range(200):
        assert p[n, token[n]] > 0
        below = mass[n, token[n] - 1] if token[n] else 0.0
        assert below - 1e-6 <= uniform[n] <= mass[n, token[n]] + 1e-6


def test_draw_survives_the_ends_of_the_interval():
    logits = torch.tensor([[0.0, 1.0, -1.0]]).expand(2, 3)
    token, _ = draw(logits, torch.tensor([0.0, 1.0 - 1e-17]))
    assert token.tolist() == [0, 2]


def test_uniforms_are_a_function_of_seed_and_step():
    a, b = (uniforms(3, 2, 4, 5, "rollout", 6) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, uniforms(3, 2, 4, 5, "rollout", 7))
    assert not torch.equal(a, uniforms(3, 2, 4, 6, "rollout", 6))


@pytest.mark.parametrize("name", ["llama", "mistral_window", "mpt"])
@pytest.mark.parametrize("longer", [[], [7, 8, 9]])
def test_equal_prompts_share_a_batch(name, longer):
    """As one row trained on alone, or a thought that is always the same: all of a prompt is shared, or all of the
    shorter one."""
    policy = tiny_policy(name)
    prompt = list(range(20, 44))
    prompts = [prompt, prompt + longer, prompt]
    uniform = uniforms(3, 2, 4, seed=2, purpose="rollout", step=0)
    together = sample(policy, prompts, never, 4, 10_000, uniform)
    for i, one in enumerate(prompts):
        (alone,) = sample(policy, [one], never, 4, 10_000, uniform[i : i + 1])
        assert [a.tokens for a in alone] == [a.tokens for a in together[i]]
        for a, b in zip(alone, together[i], strict=True):
            assert a.logp == pytest.approx(b.logp, abs=1e-5)
