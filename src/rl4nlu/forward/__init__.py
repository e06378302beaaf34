"""The one forward pass: prefix -> prompt -> answers.

Everything the project does with a model needs the same thing: for each answer token its log-probability, and at will
the entropy of its distribution and the value of its state. Two ways compute it, with equal numbers:

* **tree**: a micro-batch is one tree of tokens (tree.py): what rows share is read once, nothing is padded but
  attention, which runs block by block (attention.py).
* **plain**: one whole sequence a row and answer. Exact for every model, and slower.

Which way a model takes is found by trial (`shares_prefix`): models that do not leave their attention to a function
(Bloom, Falcon; not MPT, see mpt.py) take the plain way.

The vocabulary projection runs on answer positions only (projection.py).

Shapes: B rows, K answers, A answer tokens, N tokens read, M states whose next token is asked for, I answer tokens that
count, D width, V vocabulary. Masks: True = counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .. import stop
from ..tokens import Batch, micro_batches
from .attention import Attends, TreeAttention, use
from .beginning import Beginning as Beginning
from .beginning import Continuation
from .decode import Branches
from .last_layer import wanted_only
from .mpt import attending, is_mpt
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
    beginning: Beginning | None = None,
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
        beginning: the prompts of these rows, which are read already (see `begin`).
    """
    assert batch.answer_BKA.shape[1] >= 1, "score needs answers"
    assert not closed or entropy == "none", "the entropy is that of the whole vocabulary"
    mask_BKA = batch.answer_mask_BKA
    at_I = mask_BKA.nonzero(as_tuple=True)
    token_I = batch.answer_BKA[at_I]
    reader: _Reader = _Tree(model, batch) if shared else _Plain(model, batch)
    if beginning is not None and len(batch.tree.ids_N) > len(beginning.tree.ids_N):  # some answer has two tokens
        reader = _Continued(model, batch, beginning)
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
    reader: _Reader,
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
        hidden_MD = reader.pick(hidden.flatten(0, -2), want_M)
        kept.append(hidden_MD)
        if columns:
            # in float32: bfloat16 holds a logit of 20 to the eighth, and labels would tie
            bias_C = None if head.bias is None else head.bias[column_C].float()
            return nn.functional.linear(hidden_MD.float(), head.weight[column_C].float(), bias_C)[None]
        if bare:
            return hidden_MD.new_empty((1, 0, 1))
        return own_forward(hidden_MD[None])

    with projecting(model, project):
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


class _Reader(Protocol):
    """Lets the model read a micro-batch."""

    source_BKA: Tensor
    """Number of the token from which each answer token is predicted."""

    def read(self, want_M: Tensor) -> Tensor:
        """Run the model, of which these tokens' states are asked for; returns what it takes for logits."""
        ...

    def pick(self, hidden_ND: Tensor, want_M: Tensor) -> Tensor:
        """What the model hands to its output embedding -> the states of the tokens that are asked for."""
        ...


class _Tree:
    """The micro-batch as one tree."""

    def __init__(self, model: Model, batch: Batch) -> None:
        self.model, self.tree = model, batch.tree
        self.source_BKA = self.tree.source_BKA
        self.picked = False

    def read(self, want_M: Tensor) -> Tensor:
        with wanted_only(self.model) as self.picked:
            return run(self.model, self.tree.ids_N[None], self.tree.depth_N[None], TreeAttention(self.tree, want_M))

    def pick(self, hidden_ND: Tensor, want_M: Tensor) -> Tensor:
        return hidden_ND if self.picked else hidden_ND.index_select(0, want_M)


class _Continued:
    """The answers of the micro-batch, behind prompts that are read already."""

    def __init__(self, model: Model, batch: Batch, beginning: Beginning) -> None:
        self.model, self.tree, self.beginning = model, batch.tree, beginning
        self.source_BKA = self.tree.source_BKA
        self.answers = Continuation(batch, beginning)

    def read(self, want_M: Tensor) -> Tensor:
        at_A = self.answers.token_A
        return run(self.model, self.tree.ids_N[at_A][None], self.tree.depth_N[at_A][None], self.answers)

    def pick(self, hidden_ND: Tensor, want_M: Tensor) -> Tensor:
        whole = torch.cat([self.beginning.hidden_WD, hidden_ND])
        return whole.index_select(0, self.answers.state_N[want_M])


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

    def read(self, want_M: Tensor) -> Tensor:
        stop.poll()
        return self.model(input_ids=self.ids, attention_mask=self.mask.long(), use_cache=False).logits

    def pick(self, hidden_ND: Tensor, want_M: Tensor) -> Tensor:
        return hidden_ND.index_select(0, want_M)


def run(model: Model, ids_1N: Tensor, position_1N: Tensor, context: Attends) -> Tensor:
    """Let the model read tokens whose attention is the context's."""
    stop.poll()
    nothing = torch.zeros((1, 1, 1, 1), dtype=model.dtype, device=ids_1N.device)  # so that the model makes no mask
    given = {"input_ids": ids_1N, "attention_mask": nothing, "use_cache": False}
    if is_mpt(model):
        with attending(model, context):
            mpt_logits: Tensor = model(**given).logits
        return mpt_logits
    use(model)
    logits: Tensor = model(**given, position_ids=position_1N, context=context).logits
    return logits


def read_last(model: Model, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits behind the last token of whole sequences, padded on the right: (rows, V)."""
    stop.poll()
    last = torch.arange(len(ids), device=ids.device) * ids.shape[1] + mask.sum(1) - 1
    own_forward = model.get_output_embeddings().forward
    with projecting(model, lambda hidden: own_forward(hidden.flatten(0, -2).index_select(0, last)[None])):
        return model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[0]


def take_part(model: Model, shared: bool) -> None:
    """A pass over next to nothing, backward too where gradients are enabled: what a process does that has no rows left
    where a pass is one of all processes (`processes.in_step`). It adds nothing to any gradient."""
    device = model.get_input_embeddings().weight.device
    (batch,) = micro_batches([((1, 2), ((1,),))], 16, 0, device)
    nothing = 0.0 * score(model, batch, shared).logp_BKA.sum()
    if nothing.requires_grad:
        nothing.backward()


def begin(model: Model, batch: Batch, answers: int = 0, room: int = 0, goes_on: bool = False) -> Beginning:
    """Read the prompts of a micro-batch, and make ready for answers.

    Args:
        model: one that computes the tree way exactly.
        batch: whose prompts are read.
        answers: K to be sampled to each prompt.
        room: tokens that such an answer may have.
        goes_on: `score` is to go on from here, with gradients if they are enabled now.
    """
    found = Beginning(batch, answers, room, goes_on)
    own_forward = model.get_output_embeddings().forward

    def project(hidden: Tensor) -> Tensor:
        hidden_WD = hidden[0] if picked else hidden[0].index_select(0, found.want_W)
        found.hidden_WD = hidden_WD
        with torch.no_grad():
            logits: Tensor = own_forward(hidden_WD[None])
        return logits

    with wanted_only(model) as picked, projecting(model, project):
        logits = run(model, found.tree.ids_N[None], found.tree.depth_N[None], found.attention)
    found.logits_BV = logits[0, found.which_B]
    return found


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
        begun = begin(model, batch, goes_on=True)
        ways = [score(model, batch, shared=True), score(model, batch, shared=True, beginning=begun)]
        found = [*(way.logp_BKA for way in ways), _step_by_step(model, batch)]
        # in 8 bits activations are rounded by what goes through the model beside them
        rounded = model.dtype != torch.float32 or getattr(model, "is_loaded_in_8bit", False)
        tolerance = 0.2 if rounded else 1e-4
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
    begun = begin(model, batch, K, A)
    logits_BKV = begun.logits_BV[:, None].expand(-1, K, -1)
    found = []
    for a in range(A):
        logp_BKV = logits_BKV.float().log_softmax(-1)
        found.append(logp_BKV.gather(2, batch.answer_BKA[:, :, a, None])[:, :, 0])
        logits_BKV = more(model, begun.branches, batch.answer_BKA[:, :, a], everywhere).view(B, K, -1)
    return torch.where(batch.answer_mask_BKA, torch.stack(found, 2), 0.0)
