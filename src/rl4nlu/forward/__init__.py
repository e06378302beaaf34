"""The one forward pass: prefix -> prompt -> answers.

Everything the project does with a model needs the same thing: for each answer token its log-probability, and at will
the entropy of its distribution and the value of its state. Two ways compute it, with equal numbers:

* **tree**: a micro-batch is one tree of tokens (tree.py): what rows share is read once, nothing is padded but
  attention, which runs block by block (attention.py).
* **plain**: one whole sequence a row and answer. Exact for every model, and slower.

Which way a model takes is found by trial (`shares_prefix`): models that do not leave their attention to a function
(MPT, Bloom, Falcon) take the plain way.

The vocabulary projection runs on answer positions only (projection.py).

Shapes: B rows, K answers, A answer tokens, N tokens read, M states whose next token is asked for, I answer tokens that
count, D width, V vocabulary. Masks: True = counts.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import stop
from ..tokens import Batch, micro_batches
from .attention import Attends, TreeAttention, use
from .decode import Branches
from .last_layer import wanted_only
from .projection import Entropy as Entropy
from .projection import is_bare, is_plain, projecting, token_logp

Model = Any
"""A causal language model of transformers, with or without peft's adapters."""


@dataclass(frozen=True)
class Scores:
    """What the forward pass says of every answer token; zero where the answer mask is False."""

    logp_BKA: Tensor
    entropy_BKA: Tensor | None = None
    """Entropy in nats of the distribution that the token was drawn from."""
    value_BKA: Tensor | None = None
    """Value of the state before the token."""


def score(
    model: Model,
    batch: Batch,
    shared: bool,
    entropy: Entropy = "none",
    value_head: nn.Module | None = None,
    closed: bool = False,
) -> Scores:
    """Log-probability of every answer token given prefix, prompt and the answer's tokens before it.

    Args:
        model: a causal language model, with or without adapters.
        batch: micro-batch with K >= 1 answers a row.
        shared: whether the model computes the tree way exactly (see `shares_prefix`).
        entropy: also the entropy of each token's distribution, as a number or with its gradient.
        value_head: maps a hidden state (D) to a value (1); also the value of each token's state.
        closed: the answers are compared with each other only: what is given for `logp_BKA` may differ from it by a
            number of each state, the same for all tokens behind it, so that most of the vocabulary need not be read.
    """
    assert batch.answer_BKA.shape[1] >= 1, "score needs answers"
    assert not closed or entropy == "none", "the entropy is that of the whole vocabulary"
    mask_BKA = batch.answer_mask_BKA
    at_I = mask_BKA.nonzero(as_tuple=True)
    token_I = batch.answer_BKA[at_I]
    reader = _Tree(model, batch) if shared else _Plain(model, batch)
    want_M, state_I = reader.source_BKA[at_I].unique(return_inverse=True)
    hidden_MD, logp_I, entropy_M = _project(model, reader, want_M, state_I, token_I, entropy, closed)

    def laid_out(x_I: Tensor) -> Tensor:
        return x_I.new_zeros(mask_BKA.shape).index_put(at_I, x_I)

    entropy_BKA = laid_out(entropy_M[state_I]) if entropy != "none" else None
    value_BKA = None
    if value_head is not None:
        value_M = value_head(hidden_MD.float()).squeeze(-1)
        value_BKA = laid_out(value_M[state_I])
    return Scores(laid_out(logp_I), entropy_BKA, value_BKA)


def _project(
    model: Model,
    reader: _Tree | _Plain,
    want_M: Tensor,
    state_I: Tensor,
    token_I: Tensor,
    entropy: Entropy,
    closed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """States, log-probabilities of the tokens behind them, entropies."""
    head = model.get_output_embeddings()
    own_forward = head.forward
    kept: list[Tensor] = []
    plain = is_plain(head)
    columns = closed and plain
    bare = not closed and plain and not head.weight.requires_grad and is_bare(model)
    column_C, column_I = token_I.unique(return_inverse=True) if columns else (token_I, token_I)

    def project(hidden: Tensor) -> Tensor:
        hidden_MD = hidden.flatten(0, -2)
        if not picked:
            hidden_MD = hidden_MD.index_select(0, want_M)
        kept.append(hidden_MD)
        if columns:
            bias_C = None if head.bias is None else head.bias[column_C]
            return nn.functional.linear(hidden_MD, head.weight[column_C], bias_C)[None]
        if bare:
            return hidden_MD.new_empty((1, 0, 1))
        return own_forward(hidden_MD[None])

    with reader.reading(model) as picked, projecting(model, project):
        logits = reader.read(want_M)
    (hidden_MD,) = kept
    nothing_M = hidden_MD.new_zeros(len(want_M), dtype=torch.float32)
    if columns:
        return hidden_MD, logits[0, state_I, column_I].float(), nothing_M
    if bare:
        return hidden_MD, *token_logp(hidden_MD, head, state_I, token_I, entropy)
    logits_MV = logits[0].float()
    norm_M = logits_MV.logsumexp(-1)
    entropy_M = nothing_M
    if entropy != "none":
        with torch.set_grad_enabled(torch.is_grad_enabled() and entropy == "gradient"):
            entropy_M = norm_M - ((logits_MV - norm_M[:, None]).exp() * logits_MV).sum(-1)
    return hidden_MD, logits_MV[state_I, token_I] - norm_M[state_I], entropy_M


class _Tree:
    """The micro-batch as one tree."""

    def __init__(self, model: Model, batch: Batch) -> None:
        self.model, self.tree = model, batch.tree
        self.source_BKA = self.tree.source_BKA

    reading = staticmethod(wanted_only)

    def read(self, want_M: Tensor) -> Tensor:
        return run(self.model, self.tree.ids_N[None], self.tree.depth_N[None], TreeAttention(self.tree, want_M))


class _Plain:
    """One whole sequence a row and answer, padded on the right, no cache."""

    def __init__(self, model: Model, batch: Batch) -> None:
        self.model = model
        B, K, A = batch.answer_BKA.shape
        device = batch.answer_BKA.device
        rows = [
            [*prompt, *answer[:-1]]
            for prompt, answers in zip(batch.prompts, batch.answers, strict=True)
            for answer in answers
        ]
        width = max(map(len, rows))
        self.ids = torch.tensor([row + row[:1] * (width - len(row)) for row in rows], device=device)
        length = torch.tensor([len(row) for row in rows], device=device)
        self.mask = torch.arange(width, device=device) < length[:, None]
        start = torch.tensor([len(prompt) - 1 for prompt in batch.prompts for _ in range(K)], device=device)
        at = (start[:, None] + torch.arange(A, device=device)).clamp(max=width - 1)
        self.source_BKA = (at + torch.arange(B * K, device=device)[:, None] * width).view(B, K, A)

    @staticmethod
    def reading(model: Model) -> contextlib.AbstractContextManager[bool]:
        return contextlib.nullcontext(False)

    def read(self, want_M: Tensor) -> Tensor:
        stop.poll()
        return self.model(input_ids=self.ids, attention_mask=self.mask.long(), use_cache=False).logits


def run(model: Model, ids_1N: Tensor, position_1N: Tensor, context: Attends) -> Tensor:
    """Let the model read tokens whose attention is the context's."""
    use(model)
    stop.poll()
    nothing = torch.zeros((1, 1, 1, 1), dtype=model.dtype, device=ids_1N.device)  # so that the model makes no mask
    out = model(input_ids=ids_1N, position_ids=position_1N, attention_mask=nothing, use_cache=False, context=context)
    return out.logits


def read_last(model: Model, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits behind the last token of whole sequences, padded on the right: (rows, V)."""
    stop.poll()
    last = torch.arange(len(ids), device=ids.device) * ids.shape[1] + mask.sum(1) - 1
    own_forward = model.get_output_embeddings().forward
    with projecting(model, lambda hidden: own_forward(hidden.flatten(0, -2).index_select(0, last)[None])):
        return model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[0]


def read_prompts(model: Model, batch: Batch, answers: int, room: int) -> tuple[Branches, Tensor]:
    """Read the prompts of a micro-batch, and make ready for K answers to each.

    Returns:
        what to go on from (see `more`), and the logits behind each prompt, (B, V).
    """
    tree = batch.prompt_tree
    branches = Branches(tree, answers, room)
    own_forward = model.get_output_embeddings().forward
    want_W, which_B = tree.last_B.unique(return_inverse=True)
    context = TreeAttention(tree, want_W, branches.keep_prompt)
    with (
        wanted_only(model) as picked,
        projecting(model, lambda hidden: own_forward(hidden if picked else hidden.index_select(1, want_W))),
    ):
        logits = run(model, tree.ids_N[None], tree.depth_N[None], context)
    return branches, logits[0, which_B]


def more(model: Model, branches: Branches, token_BK: Tensor, want_BK: Tensor) -> Tensor:
    """Read one more token of every answer; the logits behind the wanted ones, (M, V) in row-major order."""
    position_1N = branches.step().repeat_interleave(branches.K)[None]
    own_forward = model.get_output_embeddings().forward
    want_N = want_BK.flatten()
    with projecting(model, lambda hidden: own_forward(hidden[:, want_N])):
        return run(model, token_BK.reshape(1, -1), position_1N, branches)[0]


# -- which way is exact ------------------------------------------------------------------------------------------------


@torch.no_grad()
def shares_prefix(model: Model) -> bool:
    """Whether the tree way gives this model's own numbers: found by trial on ragged rows of made-up tokens."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    words = [7 + i * i % max(1, vocabulary - 8) for i in range(64)]
    ids = [word % vocabulary for word in words]
    answers = ((ids[3], ids[5], ids[4]), (ids[9],))
    rows = [(ids[:18] + ids[20:stop], answers) for stop in (22, 60, 31)]
    device = model.get_input_embeddings().weight.device
    batch = next(micro_batches(rows, 10_000, ids[0], device))
    training, before = model.training, model.config._attn_implementation
    model.eval()
    exact = False
    try:
        plain_BKA = score(model, batch, shared=False).logp_BKA
        found = [score(model, batch, shared=True).logp_BKA, _step_by_step(model, batch)]
        tolerance = 1e-4 if model.dtype == torch.float32 else 0.2
        exact = all(bool((plain_BKA - one_BKA).abs().max() <= tolerance) for one_BKA in found)
    except Exception:  # a model class may refuse masks, positions or an unknown argument in any way it likes
        exact = False
    finally:
        model.train(training)
        if not exact:
            use(model, before)
    return exact


def _step_by_step(model: Model, batch: Batch) -> Tensor:
    """As `score`, one token after the other, as answers are sampled."""
    B, K, A = batch.answer_BKA.shape
    everywhere = torch.ones_like(batch.answer_mask_BKA[:, :, 0])
    branches, logits_BV = read_prompts(model, batch, K, A)
    logits_BKV = logits_BV[:, None].expand(-1, K, -1)
    found = []
    for a in range(A):
        logp_BKV = logits_BKV.float().log_softmax(-1)
        found.append(logp_BKV.gather(2, batch.answer_BKA[:, :, a, None])[:, :, 0])
        logits_BKV = more(model, branches, batch.answer_BKA[:, :, a], everywhere).view(B, K, -1)
    return torch.where(batch.answer_mask_BKA, torch.stack(found, 2), 0.0)
