"""The one forward pass: prefix -> prompt -> answers.

Everything the project does with a model needs the same thing: for each answer token its log-probability, and at will
the entropy of its distribution and the value of its state. Two ways compute it, with equal numbers:

* **shared**: the prefix is run once per micro-batch, its key/value cache expanded to the rows (gradients flow through
  it); each row's prompt and its K answers follow in one pass. A 4-D mask makes the row a tree: every answer sees
  prefix, prompt and itself, no answer sees another; positions are counted along the branch.
* **plain**: one whole sequence a row and answer, without cache. Exact for every model, and slower.

Which way a model takes is found by trial (`shares_prefix`): models that measure distance by cache slot (ALiBi) or keep
no key/value cache take the plain way, and so does a batch longer than a sliding window.

The vocabulary projection runs on answer positions only: a hook in front of the output embedding gathers the wanted
hidden states, so the model's own forward still applies whatever it does to its logits (soft-capping, scaling).

Shapes: B rows, K answers, T prompt tokens, A answer tokens, P prefix tokens, N new tokens a row, S cache slots,
M gathered states, D width, V vocabulary. Masks: True = counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from . import stop
from .tokens import Batch, micro_batches

Model = Any
"""A causal language model of transformers, with or without peft's adapters."""
PADDING, PROMPT = -1, 0
"""Branch of a cache slot: padding, the prompt; answer k is branch k + 1."""


@dataclass(frozen=True)
class Scores:
    """What the forward pass says of every answer token; zero where the answer mask is False."""

    logp_BKA: Tensor
    entropy_BKA: Tensor | None = None
    """Entropy in nats of the distribution that the token was drawn from."""
    value_BKA: Tensor | None = None
    """Value of the state before the token."""


@dataclass(frozen=True)
class States:
    """Logits and hidden states at the gathered positions."""

    logits_MV: Tensor
    hidden_MD: Tensor


def score(
    model: Model,
    batch: Batch,
    shared: bool,
    entropy: bool = False,
    value_head: nn.Module | None = None,
) -> Scores:
    """Log-probability of every answer token given prefix, prompt and the answer's tokens before it.

    Args:
        model: a causal language model, with or without adapters.
        batch: micro-batch with K >= 1 answers a row.
        shared: whether the model computes the shared way exactly (see `shares_prefix`).
        entropy: also the entropy of each token's distribution.
        value_head: maps a hidden state (D) to a value (1); also the value of each token's state.
    """
    _B, K, _A = batch.answer_BKA.shape
    assert K >= 1, "score needs answers; read() reads prompts alone"
    if shared and fits_window(model, batch):
        states, source_BKA = _shared_states(model, batch)
    else:
        states, source_BKA = _plain_states(model, batch)
    mask = batch.answer_mask_BKA
    logits_MV = states.logits_MV.float()
    norm_M = logits_MV.logsumexp(-1)
    logp = logits_MV[source_BKA, batch.answer_BKA] - norm_M[source_BKA]
    entropy_BKA = value_BKA = None
    if entropy:
        entropy_M = norm_M - ((logits_MV - norm_M[:, None]).exp() * logits_MV).sum(-1)
        entropy_BKA = torch.where(mask, entropy_M[source_BKA], 0.0)
    if value_head is not None:
        value_M = value_head(states.hidden_MD.float()).squeeze(-1)
        value_BKA = torch.where(mask, value_M[source_BKA], 0.0)
    return Scores(torch.where(mask, logp, 0.0), entropy_BKA, value_BKA)


def fits_window(model: Model, batch: Batch) -> bool:
    """Whether every token of the batch sees all before it, however short the model's sliding window."""
    window = getattr(model.config, "sliding_window", None)
    if not window or not getattr(model.config, "use_sliding_window", True):
        return True
    width = len(batch.prefix_P) + batch.prompt_BT.shape[1] + batch.answer_BKA.shape[2]
    return width <= window


# -- the shared way ----------------------------------------------------------------------------------------------------


@dataclass
class Context:
    """What the model has read so far: one key/value cache of B rows, and for every slot its branch and position."""

    cache: DynamicCache
    branch_BS: Tensor
    position_BS: Tensor

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> Context:
        nothing = torch.zeros((rows, 0), dtype=torch.long, device=device)
        return cls(DynamicCache(), nothing, nothing)

    def expand(self, rows: int) -> None:
        """Give each of `rows` rows the one row read so far. A view: gradients flow back to the one pass."""
        assert self.branch_BS.shape[0] == 1
        self.branch_BS = self.branch_BS.expand(rows, -1)
        self.position_BS = self.position_BS.expand(rows, -1)
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows only."""
        self.branch_BS, self.position_BS = self.branch_BS[rows], self.position_BS[rows]
        self.cache.batch_select_indices(rows)


def extend(
    model: Model, context: Context, ids_BN: Tensor, branch_BN: Tensor, position_BN: Tensor, want_BN: Tensor
) -> States:
    """Read N more tokens a row and return the states at the wanted ones, in row-major order.

    A token sees the slots of its own branch and of the prompt that stand before it or at it; padding sees itself
    alone, so that no row of the attention is empty.
    """
    stop.poll()
    before = context.branch_BS.shape[1]
    context.branch_BS = torch.cat([context.branch_BS, branch_BN], 1)
    context.position_BS = torch.cat([context.position_BS, position_BN], 1)
    slot_S = torch.arange(context.branch_BS.shape[1], device=ids_BN.device)
    slot_N = slot_S[before:]
    key_B1S, query_BN1 = context.branch_BS[:, None, :], branch_BN[:, :, None]
    sees_BNS = ((key_B1S == PROMPT) | (key_B1S == query_BN1)) & (key_B1S != PADDING) & (slot_S <= slot_N[:, None])
    sees_BNS = sees_BNS | (slot_S == slot_N[:, None])
    dtype = model.dtype
    bias_B1NS = torch.zeros(sees_BNS.shape, dtype=dtype, device=ids_BN.device)
    bias_B1NS = bias_B1NS.masked_fill_(~sees_BNS, torch.finfo(dtype).min)[:, None]
    with _gathering(model, want_BN) as gathered:
        out = model(
            input_ids=ids_BN,
            attention_mask=bias_B1NS,
            position_ids=position_BN.clamp(min=0),
            past_key_values=context.cache,
            use_cache=True,
        )
    return States(out.logits.flatten(0, -2), gathered[0])


def read(model: Model, batch: Batch) -> tuple[Context, States]:
    """Read prefix and prompts, without answers: the context to go on from, and the state after each prompt (M = B)."""
    context = _read_prefix(model, batch)
    length_B = batch.prompt_mask_BT.sum(1)
    last_BT = torch.arange(batch.prompt_BT.shape[1], device=length_B.device) == length_B[:, None] - 1
    branch_BT, position_BT = _prompt_layout(batch)
    return context, extend(model, context, batch.prompt_BT, branch_BT, position_BT, last_BT)


def _read_prefix(model: Model, batch: Batch) -> Context:
    B, P = len(batch.rows), len(batch.prefix_P)
    if not P:
        return Context.empty(B, batch.prompt_BT.device)
    context = Context.empty(1, batch.prompt_BT.device)
    position = torch.arange(P, device=batch.prompt_BT.device)[None]
    nothing = torch.zeros_like(position, dtype=torch.bool)
    extend(model, context, batch.prefix_P[None], torch.full_like(position, PROMPT), position, nothing)
    context.expand(B)
    return context


def _prompt_layout(batch: Batch) -> tuple[Tensor, Tensor]:
    branch_BT = torch.where(batch.prompt_mask_BT, PROMPT, PADDING)
    position_T = torch.arange(batch.prompt_BT.shape[1], device=batch.prompt_BT.device) + len(batch.prefix_P)
    return branch_BT, position_T.expand_as(branch_BT)


def _shared_states(model: Model, batch: Batch) -> tuple[States, Tensor]:
    """One pass over prompts and answers. An answer's last token is predicted but never read."""
    B, K, A = batch.answer_BKA.shape
    T, device = batch.prompt_BT.shape[1], batch.prompt_BT.device
    length_B = batch.prompt_mask_BT.sum(1)
    branch_BT, position_BT = _prompt_layout(batch)
    last_BT = torch.arange(T, device=device) == length_B[:, None] - 1
    inner_BKA = batch.answer_mask_BKA[:, :, 1:]  # token a is read if token a + 1 is wanted
    branch_K1 = torch.arange(1, K + 1, device=device)[:, None]
    branch_BKA = torch.where(inner_BKA, branch_K1, PADDING)
    position_BKA = (len(batch.prefix_P) + length_B[:, None] + torch.arange(A - 1, device=device))[:, None].expand(
        B, K, A - 1
    )
    want_BN = torch.cat([last_BT, inner_BKA.flatten(1)], 1)
    states = extend(
        model,
        _read_prefix(model, batch),
        torch.cat([batch.prompt_BT, batch.answer_BKA[:, :, :-1].flatten(1)], 1),
        torch.cat([branch_BT, branch_BKA.flatten(1)], 1),
        torch.cat([position_BT, position_BKA.flatten(1)], 1),
        want_BN,
    )
    # where among the gathered states each answer token is predicted from
    index_BN = (want_BN.flatten().cumsum(0) - 1).clamp(min=0).view_as(want_BN)
    first_BK1 = index_BN.gather(1, length_B[:, None] - 1)[:, None].expand(B, K, 1)
    source_BKA = torch.cat([first_BK1, index_BN[:, T:].view(B, K, A - 1)], 2)
    return states, source_BKA


# -- the plain way -----------------------------------------------------------------------------------------------------


def _plain_states(model: Model, batch: Batch) -> tuple[States, Tensor]:
    """One whole sequence a row and answer, padded on the right, no cache."""
    B, K, A = batch.answer_BKA.shape
    prompts = whole_prompts(batch)
    rows = [prompt + batch.answer_BKA[b, k, :-1].tolist() for b, prompt in enumerate(prompts) for k in range(K)]
    width = max(map(len, rows))
    device = batch.prompt_BT.device
    ids = torch.tensor([row + row[:1] * (width - len(row)) for row in rows], device=device)
    start = torch.tensor([len(prompt) - 1 for prompt in prompts for _ in range(K)], device=device)
    step = torch.arange(width, device=device) - start[:, None]
    length = batch.answer_mask_BKA.flatten(0, 1).sum(1)
    want = (step >= 0) & (step < length[:, None])
    real = step < length[:, None]  # every token that is read: prompt and answer but its last
    states = read_whole(model, ids, real | (step < 0), want)
    source = (want.flatten().cumsum(0) - 1).clamp(min=0).view_as(want)
    at = (start[:, None] + torch.arange(A, device=device)).clamp(max=width - 1)
    return states, source.gather(1, at).view(B, K, A)


def whole_prompts(batch: Batch) -> list[list[int]]:
    """Prefix and prompt of each row, without padding."""
    prefix = batch.prefix_P.tolist()
    return [prefix + row[mask].tolist() for row, mask in zip(batch.prompt_BT, batch.prompt_mask_BT, strict=True)]


def read_whole(model: Model, ids: Tensor, mask: Tensor, want: Tensor) -> States:
    """States at the wanted positions of whole sequences, padded on the right."""
    stop.poll()
    with _gathering(model, want) as gathered:
        out = model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    return States(out.logits.flatten(0, -2), gathered[0])


@contextlib.contextmanager
def _gathering(model: Model, want_BN: Tensor) -> Iterator[list[Tensor]]:
    """Let only the wanted hidden states reach the output embedding; they are handed out as (M, D)."""
    gathered: list[Tensor] = []

    def gather(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_MD = args[0][want_BN]
        gathered.append(hidden_MD)
        return (hidden_MD[None], *args[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield gathered
    finally:
        hook.remove()


# -- which way is exact ------------------------------------------------------------------------------------------------


@torch.no_grad()
def shares_prefix(model: Model) -> bool:
    """Whether the shared way gives this model's own numbers: found by trial on ragged rows of made-up tokens."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    words = [7 + i * i % max(1, vocabulary - 8) for i in range(64)]
    ids = [word % vocabulary for word in words]
    answers = ((ids[3], ids[5], ids[4]), (ids[9],))
    rows = [(ids[:12] + ids[20:stop], answers) for stop in (22, 60, 31)]
    device = model.get_input_embeddings().weight.device
    batch = next(micro_batches(rows, 10_000, ids[0], device))
    training = model.training
    model.eval()
    try:
        plain = score(model, batch, shared=False).logp_BKA
        shared = score(model, batch, shared=True).logp_BKA
    except Exception:  # a model class may refuse 4-D masks, positions or this cache in any way it likes
        return False
    finally:
        model.train(training)
    tolerance = 1e-4 if model.dtype == torch.float32 else 0.2
    return bool((plain - shared).abs().max() <= tolerance)
