"""The log-probability function with a gradient of its own, against plain float64 by autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rl4nlu.forward import projection
from rl4nlu.forward.projection import token_logp

D, V = 6, 40


def head_of(generator, bias: bool, scale: float) -> nn.Linear:
    head = nn.Linear(D, V, bias=bias).requires_grad_(False)
    head.weight.copy_(torch.randn(V, D, generator=generator) * scale)
    if bias:
        head.bias.copy_(torch.randn(V, generator=generator))
    return head


def plainly(hidden, head, state, token):
    """Log-probabilities, entropies; and what gradients of them are, by autograd in float64."""
    leaf = hidden.double().requires_grad_()
    bias = None if head.bias is None else head.bias.double()
    logp = nn.functional.linear(leaf, head.weight.double(), bias).log_softmax(-1)
    return leaf, logp[state, token], -(logp.exp() * logp).sum(-1)


def weights_like(x):
    return torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    states=st.integers(1, 9),
    tokens=st.integers(1, 20),
    bias=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
    part=st.sampled_from([1, 7, 20, V]),
    entropy=st.sampled_from(["none", "value", "gradient"]),
)
def test_equals_plain_float64(seed, states, tokens, bias, scale, part, entropy):
    generator = torch.Generator().manual_seed(seed)
    head, hidden = head_of(generator, bias, scale), torch.randn(states, D, generator=generator)
    state = torch.cat([torch.randint(states, (tokens,), generator=generator), torch.arange(states)])
    token = torch.randint(V, (len(state),), generator=generator)  # one or several behind a state
    leaf, logp, surprise = plainly(hidden, head, state, token)
    own = hidden.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "CHUNK", part * states)
        patch.setattr(projection, "FEWEST", 1)
        found_logp, found_surprise = token_logp(own, head, state, token, entropy)
    loss, found = (weights_like(logp) * logp).sum(), (weights_like(found_logp) * found_logp).sum()
    if entropy == "gradient":
        loss, found = (
            loss + (weights_like(surprise) * surprise).sum(),
            found + (weights_like(found_surprise) * found_surprise).sum(),
        )
    loss.backward()
    found.backward()
    assert torch.allclose(found_logp.double(), logp, rtol=2e-6, atol=2e-6 * scale)
    if entropy == "none":
        assert not found_surprise.any()
    else:
        assert torch.allclose(found_surprise.double(), surprise, rtol=1e-5, atol=5e-6)
    assert found_surprise.requires_grad == (entropy == "gradient")
    largest = max(scale, float(leaf.grad.abs().max()))  # what cancels out is as exact as what it was made of
    assert torch.allclose(own.grad.double(), leaf.grad, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("first", [True, False])
def test_the_gradient_of_a_sure_token_keeps_its_digits(first):
    """Where p is 1 - 1e-9 the gradient of log p is of that size; a plain float32 softmax has lost it. It is so for a
    state with another, unlikely token too (of answers that begin alike)."""
    weight = torch.zeros(V, D)
    weight[3] = 1.0
    head = nn.Linear(D, V, bias=False).requires_grad_(False)
    head.weight.copy_(weight)
    hidden = torch.full((1, D), 4.0)
    token = torch.tensor([3, 7] if first else [7, 3])
    which = int(token[1] == 3)
    leaf, logp, _ = plainly(hidden, head, torch.zeros(2, dtype=torch.long), token)
    logp[which].backward()
    own = hidden.clone().requires_grad_()
    found, _ = token_logp(own, head, torch.zeros(2, dtype=torch.long), token)
    found[which].backward()
    assert 1e-10 < float(leaf.grad.abs().max()) < 1e-7
    assert torch.allclose(own.grad.double(), leaf.grad, rtol=1e-5, atol=0)
    assert found[which].item() == pytest.approx(logp[which].item(), rel=1e-6)
