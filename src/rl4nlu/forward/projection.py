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
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

CHUNK = 2 << 20
"""Logits that are there at a time: few enough to stay in a processor's cache, and for the allocator to use their memory
again; enough that reading the matrix anew for each of them costs little."""
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
    entropy: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability of tokens, each behind one of the states, and the entropy of every state's distribution.

    With z = h W^T + b, p = softmax(z) and the most likely token j:
    d log p(t) / dh = W_t - W_j - (sum_{v != j} p_v W_v - (1 - p_j) W_j), which stays precise where p_j is near 1, and
    dH / dh = -sum_v p_v (log p_v + H) W_v. Both sums are computed on the way forward, while the logits are there.

    Args:
        hidden_MD: the states.
        head: the output embedding.
        state_I: which state each token follows.
        token_I: the tokens.
        entropy: whether the entropy is asked for.

    Returns:
        (I) and (M), float32; the entropy is 0 where it is not asked for.
    """
    found: tuple[Tensor, Tensor] = _TokenLogp.apply(hidden_MD, head.weight, head.bias, state_I, token_I, entropy)
    return found


class _TokenLogp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        state_I: Tensor,
        token_I: Tensor,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `token_logp`."""
        M = len(hidden_MD)
        needs = ctx.needs_input_grad[0]
        logp_I = torch.empty(len(state_I), device=hidden_MD.device)
        entropy_M = torch.zeros(M, device=hidden_MD.device)
        less_MD = torch.empty_like(hidden_MD) if needs else None
        slope_MD = torch.empty_like(hidden_MD) if needs and entropy else None
        best_M = torch.empty(M, dtype=torch.long, device=hidden_MD.device)
        rows = max(1, CHUNK // len(weight_VD))
        for start in range(0, M, rows):
            part = slice(start, min(start + rows, M))
            row_m = torch.arange(part.stop - start, device=hidden_MD.device)
            z_mV = linear(hidden_MD[part], weight_VD, bias_V).float()
            top_m, best_m = z_mV.max(1)
            z_mV.sub_(top_m[:, None])
            here_i = ((state_I >= part.start) & (state_I < part.stop)).nonzero()[:, 0]
            of_m = state_I[here_i] - part.start
            z_i = z_mV[of_m, token_I[here_i]]
            p_mV = z_mV.exp() if entropy else z_mV.exp_()
            p_mV[row_m, best_m] = 0.0  # the largest is 1, and is left out of the sums: they stay exact where it is all
            others_m = p_mV.sum(1)
            norm_m = others_m.log1p()
            logp_I[here_i] = z_i - norm_m[of_m]
            p_mV.div_((1 + others_m)[:, None])
            if entropy:
                z_mean_m = torch.linalg.vecdot(p_mV, z_mV)
                entropy_M[part] = norm_m - z_mean_m
            if less_MD is not None:
                p_mV[row_m, best_m] = -others_m / (1 + others_m)
                less_MD[part], best_M[part] = p_mV.to(weight_VD.dtype) @ weight_VD, best_m
            if slope_MD is not None:  # log p + H = z - mean z
                p_mV[row_m, best_m] = 1 / (1 + others_m)
                z_mV.sub_(z_mean_m[:, None]).mul_(p_mV)
                slope_MD[part] = z_mV.to(weight_VD.dtype) @ weight_VD
        ctx.save_for_backward(weight_VD, state_I, token_I, best_M, less_MD, slope_MD)
        if not entropy:
            ctx.mark_non_differentiable(entropy_M)
        return logp_I, entropy_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the states, from the sums."""
        weight_VD, state_I, token_I, best_M, less_MD, slope_MD = ctx.saved_tensors
        grad_I = grads[0].to(less_MD.dtype)
        total_M = less_MD.new_zeros(len(less_MD)).index_add_(0, state_I, grad_I)
        grad_MD = less_MD * -total_M[:, None]
        rival_ID = weight_VD[token_I] - weight_VD[best_M[state_I]]
        grad_MD.index_add_(0, state_I, rival_ID * grad_I[:, None])
        if slope_MD is not None:
            grad_MD.addcmul_(slope_MD, -grads[1].to(less_MD.dtype)[:, None])
        return grad_MD, None, None, None, None, None
