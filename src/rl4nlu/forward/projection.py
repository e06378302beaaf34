"""From hidden states to what is asked of the vocabulary's distribution: the last matrix product, which for small models
is the largest.

Three ways, with the same numbers:

* **tokens**: log-probability of given tokens, and entropy, in one function with its own gradient: of the M x V logits
  no more than CHUNK are there at a time, and none is kept for the backward pass. For models whose logits are the
  output embedding's, which is found by trial.
* **columns**: the logits of a few tokens only: the labels of a closed set are compared with each other.
* **all**: the logits, for models that do something to them (soft-capping, scaling), and for sampling.

The model's own forward runs in each of them; its output embedding is replaced for the time of one call.

Shapes: N tokens read, M states whose next token is asked for, I answer tokens, D width, V vocabulary, C columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

CHUNK = 1 << 20
"""Logits that are there at a time on a CPU: few enough to stay in its cache."""
GPU_CHUNK = 64 << 20
"""The same on a GPU, where every part costs the start of a dozen kernels."""
FEWEST = 256
"""Words of a part, for matrix products that are worth their start."""
Entropy = Literal["none", "value", "gradient"]
"""Whether the entropy is asked for: as a number only, or with its gradient."""
_BARE: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@contextlib.contextmanager
def projecting(model: Any, project: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within this block `project` stands for the model's output embedding.

    Args:
        model: a causal language model.
        project: hidden states (1, N, D) -> what the model shall take for logits, (1, any, any).
    """
    head = model.get_output_embeddings()
    before = head.__dict__.get("forward")
    head.forward = project
    try:
        yield
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before


def is_plain(head: nn.Module) -> bool:
    """Whether the output embedding is a matrix product, without adapters or quantisation."""
    return type(head) is nn.Linear


@torch.no_grad()
def is_bare(model: Any) -> bool:
    """Whether the model's logits are those of its output embedding, which is plain: found by trial, once."""
    head = model.get_output_embeddings()
    if head not in _BARE:
        seen: list[Tensor] = []
        handle = head.register_forward_hook(lambda _, args, out: seen.append(out))
        try:
            ids = torch.arange(2, device=head.weight.device)[None] % head.weight.shape[0]
            logits = model(input_ids=ids, use_cache=False).logits
        finally:
            handle.remove()
        _BARE[head] = torch.equal(logits, seen[0])
    return _BARE[head]


def token_logp(
    hidden_MD: Tensor,
    head: nn.Linear,
    state_I: Tensor,
    token_I: Tensor,
    entropy: Entropy = "none",
) -> tuple[Tensor, Tensor]:
    """Log-probability of tokens, each behind one of the states, and the entropy of every state's distribution.

    With z = h W^T + b, p = softmax(z) and any token j:
    d log p(t) / dh = W_t - W_j - (sum_{v != j} p_v W_v - (1 - p_j) W_j), which stays precise where p_t is near 1 if j
    is the most likely of the tokens that are asked for, and dH / dh = -sum_v p_v (log p_v + H) W_v. All sums are
    computed on the way forward, part of the vocabulary by part (with a running maximum, Milakov and Gimelshein 2018,
    arXiv 1805.02867), so that each part of W is fetched once for both of its products.

    Args:
        hidden_MD: the states.
        head: the output embedding.
        state_I: which state each token follows.
        token_I: the tokens.
        entropy: whether the entropy is asked for, and its gradient, which costs half as much again.

    Returns:
        (I) and (M), float32; the entropy is 0 where it is not asked for.
    """
    found: tuple[Tensor, Tensor] = _TokenLogp.apply(hidden_MD, head.weight, head.bias, state_I, token_I, entropy)
    return found


def part_of_vocabulary(states: int, vocabulary: int, device: torch.device) -> int:
    """Words whose logits are there at a time."""
    return min(vocabulary, max(FEWEST, (CHUNK if device.type == "cpu" else GPU_CHUNK) // max(states, 1)))


class _TokenLogp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        state_I: Tensor,
        token_I: Tensor,
        entropy: Entropy,
    ) -> tuple[Tensor, Tensor]:
        """See `token_logp`. Sums are over the tokens but j, of p relative to the largest so far."""
        (M, D), V, device = hidden_MD.shape, len(weight_VD), hidden_MD.device
        needs = ctx.needs_input_grad[0]
        float_ID = hidden_MD[state_I].float() * weight_VD[token_I].float()
        z_I = float_ID.sum(1) if bias_V is None else float_ID.sum(1) + bias_V[token_I].float()
        j_M, z_j_M = _likeliest(state_I, token_I, z_I, M)
        row_M = torch.arange(M, device=device)
        top_M, mass_M, weighted_M = (torch.full((M,), x, device=device) for x in (-1e30, 0.0, 0.0))
        mean_MD = torch.zeros((M, D), device=device) if needs else None  # sum of p W
        slope_MD = torch.zeros((M, D), device=device) if needs and entropy == "gradient" else None  # sum of p z W
        size = part_of_vocabulary(M, V, device)
        for start in range(0, V, size):
            weight_vD = weight_VD[start : start + size]
            z_vM = (weight_vD @ hidden_MD.T).float()
            if bias_V is not None:
                z_vM += bias_V[start : start + size, None].float()
            z_vM -= z_j_M
            before_M, top_M = top_M, torch.maximum(top_M, z_vM.amax(0))
            less_M = before_M - top_M
            shrink_M = less_M.exp()
            z_vM -= top_M
            p_vM = z_vM.exp() if entropy != "none" else z_vM.exp_()
            at_M = j_M - start
            here_M, at_M = (at_M >= 0) & (at_M < len(weight_vD)), at_M.clamp(0, len(weight_vD) - 1)
            p_vM[at_M, row_M] = torch.where(here_M, 0.0, p_vM[at_M, row_M])
            if entropy != "none":
                z_vM *= p_vM
                weighted_M = (weighted_M + less_M * mass_M) * shrink_M + z_vM.sum(0)
                if slope_MD is not None and mean_MD is not None:
                    slope_MD.addcmul_(mean_MD, less_M[:, None])
                    _add(slope_MD, shrink_M, z_vM, weight_vD)
            mass_M = mass_M * shrink_M + p_vM.sum(0)
            if mean_MD is not None:
                _add(mean_MD, shrink_M, p_vM, weight_vD)
        z_top_j_M = -top_M  # of j, relative to the largest
        p_j_M = z_top_j_M.exp()
        total_M = mass_M + p_j_M
        norm_M = torch.where(p_j_M > mass_M, z_top_j_M + (mass_M / p_j_M).log1p(), total_M.log())
        weighted_j_M = p_j_M * z_top_j_M
        z_mean_M = (weighted_M + weighted_j_M) / total_M
        less_MD = None
        if mean_MD is not None:
            weight_j_MD = weight_VD[j_M].float()
            if slope_MD is not None:  # log p + H = z - mean z
                slope_MD = slope_MD + weighted_j_M[:, None] * weight_j_MD
                slope_MD -= z_mean_M[:, None] * (mean_MD + p_j_M[:, None] * weight_j_MD)
                slope_MD = (slope_MD / total_M[:, None]).to(hidden_MD.dtype)
            less_MD = ((mean_MD - mass_M[:, None] * weight_j_MD) / total_M[:, None]).to(hidden_MD.dtype)
        ctx.save_for_backward(weight_VD, state_I, token_I, j_M, less_MD, slope_MD)
        logp_I = (z_I - z_j_M[state_I]) - (norm_M + top_M)[state_I]
        entropy_M = torch.zeros_like(norm_M) if entropy == "none" else norm_M - z_mean_M
        if entropy != "gradient":
            ctx.mark_non_differentiable(entropy_M)
        return logp_I, entropy_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the states, from the sums."""
        weight_VD, state_I, token_I, j_M, less_MD, slope_MD = ctx.saved_tensors
        grad_I = grads[0].to(less_MD.dtype)
        total_M = less_MD.new_zeros(len(less_MD)).index_add_(0, state_I, grad_I)
        grad_MD = less_MD * -total_M[:, None]
        rival_ID = weight_VD[token_I] - weight_VD[j_M[state_I]]
        grad_MD.index_add_(0, state_I, rival_ID * grad_I[:, None])
        if slope_MD is not None:
            grad_MD.addcmul_(slope_MD, -grads[1].to(less_MD.dtype)[:, None])
        return grad_MD, None, None, None, None, None


def _likeliest(state_I: Tensor, token_I: Tensor, z_I: Tensor, states: int) -> tuple[Tensor, Tensor]:
    """Of each state's tokens one with the largest logit, and that logit; every state has a token."""
    top_M = torch.full((states,), -torch.inf, device=z_I.device).scatter_reduce_(0, state_I, z_I, "amax")
    best_I = torch.where(z_I == top_M[state_I], token_I, 0)
    best_M = torch.zeros(states, dtype=torch.long, device=z_I.device).scatter_reduce_(0, state_I, best_I, "amax")
    return best_M, top_M


def _add(sum_MD: Tensor, shrink_M: Tensor, mass_vM: Tensor, weight_vD: Tensor) -> None:
    """Shrink the sum so far and add a part's product to it."""
    sum_MD.mul_(shrink_M[:, None])
    if weight_vD.dtype == torch.float32:
        sum_MD.addmm_(mass_vM.T, weight_vD)
    else:
        sum_MD.add_(mass_vM.T.to(weight_vD.dtype) @ weight_vD)
