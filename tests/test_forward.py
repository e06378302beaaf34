"""The forward pass against plain passes over every full sequence alone, for every model class."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models_zoo import CONFIGS, FALLS_BACK, V, tiny
from rl4nlu.forward import begin, score, shares_prefix
from rl4nlu.tokens import micro_batches

PREFIX = list(range(40, 60))
RAGGED = [[5, 9, 2], [7], [3, 3, 8, 1, 6, 2, 9, 4, 11, 30, 2, 8], [60, 61, 2, 9, 33]]
MANY = ((11, 12, 13), (14,), (15, 16))
ONE = ((11,), (14,), (12,))
TOLERANCE = 1e-5


def alone(model, prompt, answer, value_head=None):
    """Log-probability, entropy and value of each answer token from one plain pass over one sequence."""
    ids = torch.tensor([prompt + list(answer)])
    out = model(input_ids=ids, output_hidden_states=True)
    logp = out.logits[0].float().log_softmax(-1)
    where = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    token_logp = torch.stack([logp[i, t] for i, t in zip(where, answer, strict=True)])
    entropy = torch.stack([-(logp[i].exp() * logp[i]).sum() for i in where])
    last_hidden = out.hidden_states[-1][0]
    values = None if value_head is None else value_head(last_hidden[list(where)]).squeeze(-1)
    return token_logp, entropy, values


def cases():
    for prefix in (PREFIX, []):
        for answers in (MANY, ONE, MANY[:1]):
            yield prefix, answers


@pytest.mark.parametrize(
    ("name", "begun"),
    [(name, begun) for name in CONFIGS for begun in (False, True) if not begun or name not in FALLS_BACK],
)
def test_equals_plain_passes_with_gradients(name, begun):
    """Also where the prompts are read first, in whatever order, and the answers behind them."""
    model = tiny(name)
    shared = shares_prefix(model)
    assert shared == (name not in FALLS_BACK)
    value_head = torch.nn.Linear(32, 1)
    for prefix, answers in cases():
        rows = [(prefix + own, answers) for own in RAGGED]
        weight = {}
        model.zero_grad()
        expected = torch.zeros(())
        for b, (prompt, _) in enumerate(rows):
            for k, answer in enumerate(answers):
                logp, entropy, values = alone(model, prompt, answer, value_head)
                weight[b, k] = torch.linspace(0.5, 1.5, len(answer)) * (1 + b - k)
                expected = expected + (weight[b, k] * (logp + 0.1 * entropy)).sum() + 0.3 * values.sum()
        expected.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        found = torch.zeros(())
        for batch in micro_batches(rows, 10_000, pad=0):
            other = replace(batch, rows=batch.rows[::-1], prompts=batch.prompts[::-1], answers=batch.answers[::-1])
            beginning = begin(model, other, goes_on=True) if begun else None
            scores = score(model, batch, shared, "gradient", value_head, beginning=beginning)
            for i, b in enumerate(batch.rows):
                for k, answer in enumerate(answers):
                    logp, entropy, values = alone(model, rows[b][0], answer, value_head)
                    n = len(answer)
                    assert torch.allclose(scores.logp_BKA[i, k, :n], logp, atol=TOLERANCE, rtol=0)
                    assert torch.allclose(scores.entropy_BKA[i, k, :n], entropy, atol=TOLERANCE, rtol=TOLERANCE)
                    assert (scores.logp_BKA[i, k, n:] == 0).all()
                    term = (weight[b, k] * (scores.logp_BKA + 0.1 * scores.entropy_BKA)[i, k, :n]).sum()
                    found = found + term + 0.3 * scores.value_BKA[i, k, :n].sum()
        found.backward()
        largest = max(g.abs().max() for g in gradients.values())
        for n, p in model.named_parameters():
            if n in gradients:
                assert (p.grad - gradients[n]).abs().max() <= TOLERANCE * max(1.0, largest), (n, prefix, answers)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mpt", "bloom"])
def test_values_are_those_of_the_state_before_the_token(name):
    model, value_head = tiny(name), torch.nn.Linear(32, 1)
    captured = []
    head = model.get_output_embeddings()
    rows = [(PREFIX + own, MANY) for own in RAGGED]
    batch = next(micro_batches(rows, 10_000, pad=0))
    scores = score(model, batch, shares_prefix(model), value_head=value_head)
    for i, b in enumerate(batch.rows):
        for k, answer in enumerate(MANY):
            handle = head.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
            model(input_ids=torch.tensor([rows[b][0] + list(answer)]))
            handle.remove()
            states = captured.pop()[0][len(rows[b][0]) - 1 : -1]
            expected = value_head(states).squeeze(-1)
            assert torch.allclose(scores.value_BKA[i, k, : len(answer)], expected, atol=TOLERANCE)


def test_a_row_alone_equals_the_row_in_a_padded_batch():
    model = tiny("llama")
    rows = [(PREFIX + own, MANY) for own in RAGGED]
    together = next(micro_batches(rows, 10_000, pad=0))
    scores = score(model, together, shared=True)
    for i, b in enumerate(together.rows):
        single = score(model, next(micro_batches([rows[b]], 10_000, pad=0)), shared=True)
        assert torch.allclose(single.logp_BKA[0], scores.logp_BKA[i], atol=TOLERANCE)


def test_padding_content_changes_nothing():
    model = tiny("gemma2")
    rows = [(PREFIX + own, MANY) for own in RAGGED]
    a, b = (score(model, next(micro_batches(rows, 10_000, pad=pad)), shared=True) for pad in (0, V - 1))
    assert torch.equal(a.logp_BKA, b.logp_BKA)


def test_projection_runs_on_answer_positions_only():
    model, seen = tiny("cohere"), []  # which scales its logits, so that all of them are made
    model.get_output_embeddings().register_forward_hook(lambda _, args, out: seen.append(out.shape[1]))
    rows = [(PREFIX + own, MANY) for own in RAGGED]
    batch = next(micro_batches(rows, 10_000, pad=0))
    score(model, batch, shared=True)
    assert seen == [len(RAGGED) * (1 + 2 + 0 + 1)], "a row's last prompt token and the inner tokens of its answers"
    score(model, batch, shared=True, closed=True)
    assert seen[1:] == seen[:1]


def test_what_rows_share_is_read_once():
    model, seen = tiny("llama"), []
    model.get_input_embeddings().register_forward_hook(lambda _, args, out: seen.append(args[0].numel()))
    answers = ((11, 12, 13), (11, 12, 14), (11, 12, 13), (15, 1))
    rows = [(PREFIX + own, answers) for own in RAGGED]
    score(model, next(micro_batches(rows, 10_000, pad=0)), shared=True)
    assert seen == [len(PREFIX) + sum(map(len, RAGGED)) + len(RAGGED) * (2 + 1)]


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_last_layer_works_for_answer_positions_only(name):
    model, seen = tiny(name), []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda _, args, out: seen.append(out.shape[1]))
    rows = [(PREFIX + own, MANY) for own in RAGGED]
    score(model, next(micro_batches(rows, 10_000, pad=0)), shared=True)
    read = len(PREFIX) + sum(map(len, RAGGED)) + len(RAGGED) * (2 + 1)
    assert seen == [read, read, len(RAGGED) * (1 + 2 + 0 + 1)]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in FALLS_BACK])
@pytest.mark.parametrize("shared", [False, True])
def test_of_a_closed_set_only_the_differences_matter(name, shared):
    model = tiny(name)
    answers = ((11, 12), (11, 30), (4, 9))
    rows = [(PREFIX + own, answers) for own in RAGGED]
    batch = next(micro_batches(rows, 10_000, pad=0))
    logp, closed = (score(model, batch, shared, closed=given).logp_BKA for given in (False, True))
    for differs in ((logp - closed)[:, :, 0], (logp - closed)[:, :2, 1]):  # of one state each
        assert torch.allclose(differs, differs[:, :1].expand_as(differs), atol=TOLERANCE)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt_neox", "gemma2", "granite"])
def test_frozen_output_embedding_gives_the_same_gradients(name):
    """With frozen weights log-probabilities have a gradient function of their own (projection.py)."""
    rows = [(PREFIX + own, MANY) for own in RAGGED]
    batch = next(micro_batches(rows, 10_000, pad=0))
    gradients, numbers = [], []
    for frozen in (False, True):
        model = tiny(name)
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=not frozen)  # tied no more
        scores = score(model, batch, shared=True, entropy="gradient")
        weight = torch.linspace(0.5, 2.0, scores.logp_BKA.numel()).view_as(scores.logp_BKA)
        (weight * (scores.logp_BKA - 0.3 * scores.entropy_BKA)).sum().backward()
        numbers.append(scores)
        gradients.append(
            {n: p.grad for n, p in model.named_parameters() if p.grad is not None and p is not head.weight}
        )
    assert torch.allclose(numbers[0].logp_BKA, numbers[1].logp_BKA, atol=TOLERANCE)
    assert torch.allclose(numbers[0].entropy_BKA, numbers[1].entropy_BKA, atol=TOLERANCE, rtol=TOLERANCE)
    largest = max(g.abs().max() for g in gradients[0].values())
    assert gradients[0].keys() == gradients[1].keys()
    for n, g in gradients[0].items():
        assert (g - gradients[1][n]).abs().max() <= TOLERANCE * max(1.0, largest), n


@pytest.mark.parametrize("name", ["llama", "cohere", "gpt_neox"])
@torch.no_grad()
def test_labels_do_not_tie_in_bfloat16(name):
    """Their logits are summed up in float32: bfloat16 has steps of an eighth where logits are 20, and which of two
    labels came first would decide. Held against float64 on the same states."""
    model = tiny(name).to(torch.bfloat16)
    head = model.get_output_embeddings()
    head.weight.mul_(8)
    rows = [(PREFIX + own, ((11,), (14,), (12,))) for own in RAGGED]
    states = []
    handle = model.base_model.register_forward_hook(lambda _, __, out: states.append(out.last_hidden_state[0]))
    expected = []
    for prompt, _ in rows:
        model(input_ids=torch.tensor([prompt]))
        logits = states[-1][-1].double() @ head.weight.double().T
        expected.append(logits[[11, 14, 12]] * getattr(model, "logit_scale", 1.0))
    handle.remove()
    for batch in micro_batches(rows, 10_000, pad=0):
        found = score(model, batch, shares_prefix(model), closed=True).logp_BKA[:, :, 0]
        for i, row in enumerate(batch.rows):
            spread = found[i].double() - found[i, 0].double() - (expected[row] - expected[row][0])
            # the states themselves are bfloat16, in another order of sums: no more than that is left
            assert float(spread.abs().max()) < 0.02 * float(expected[row].abs().max())
        assert (found != found.to(torch.bfloat16).float()).float().mean() > 0.5
