"""What a run asks of a machine, counted from its micro-batches.

A product of N tokens with a matrix of P numbers is 2 N P operations. A pass for gradients goes back through the frozen
matrices once more, 2 N P, and through LoRA's twice; where all weights are trained, through all of them twice. Attention
is 4 H d for each token and token that it sees, padding of its blocks included, and two and a half times that on the way
back, where it is done again. Of the vocabulary 2 M D V for M states, and as much again for the gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from ..tokens import Batch, micro_batches
from .sizes import Sizes

BACK = 2.5
"""Operations of attention on the way back, which begins by doing it again, for one on the way there."""
WHOLE = 32
"""Times that the bytes of a model whose weights are all trained are gone through in a step: gradients are made,
measured, clipped and let go of, the moments and what lies between them are read and written. Measured with
`benchmarks/scale.py`."""
Rows = Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]
"""(prompt, answers) in tokens."""


@dataclass(frozen=True)
class Work:
    """Counts, which can be added up and multiplied. Of one process, where there are several."""

    forward: float = 0.0
    """Operations of layers on the way there."""
    backward: float = 0.0
    """Operations of layers on the way back."""
    attention: float = 0.0
    """Operations of attention, both ways."""
    vocabulary: float = 0.0
    """Operations of the projection onto the vocabulary."""
    decoded: float = 0.0
    """Operations of layers for tokens that are sampled, one after the other."""
    calls: float = 0.0
    """Layers that were called on the way there."""
    back_calls: float = 0.0
    """Layers that were called on the way back."""
    decode_calls: float = 0.0
    """Layers that were called for one more token of every answer."""
    passes: float = 0.0
    """Micro-batches."""
    moved: float = 0.0
    """Bytes of weights, keys and values that decoding reads."""
    updated: float = 0.0
    """Bytes that the optimizer reads and writes."""
    tensors: float = 0.0
    """Tensors that the optimizer changes."""
    rows: float = 0.0
    """Rows that are put into micro-batches."""
    texts: float = 0.0
    """Sampled tokens that are looked at as text."""
    tokens: float = 0.0
    """Tokens that are read."""
    reduced: float = 0.0
    """Bytes that processes add up among each other."""
    messages: float = 0.0
    """Times that they do so."""
    gathered: float = 0.0
    """Bytes of weights that a process fetches from the others."""

    def __add__(self, other: Work) -> Work:
        return Work(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Work)})

    def __mul__(self, times: float) -> Work:
        return Work(**{f.name: getattr(self, f.name) * times for f in fields(Work)})

    @property
    def flop(self) -> float:
        """All floating-point operations."""
        return self.forward + self.backward + self.attention + self.vocabulary + self.decoded


def total(parts: Iterable[Work]) -> Work:
    """The sum."""
    found = Work()
    for part in parts:
        found = found + part
    return found


# -- passes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pass:
    """One micro-batch, as the model reads it."""

    tokens: int
    wanted: int
    """States that are asked for."""
    seen: int
    """Pairs of a token and one that it may see, padding included."""
    wanted_seen: float
    """The same of the tokens that are asked for."""
    rows: int


def pass_of(batch: Batch, shared: bool = True, prompts: bool = False) -> Pass:
    """What a micro-batch is.

    Args:
        batch: the micro-batch.
        shared: the model reads what rows share once; else whole sequences.
        prompts: of its prompts alone.
    """
    rows = len(batch.rows)
    if not shared:
        B, K, _ = batch.answer_BKA.shape
        longest = max(len(p) + max(map(len, a), default=0) for p, a in zip(batch.prompts, batch.answers, strict=True))
        count = B if prompts else B * max(K, 1)
        return Pass(count * longest, count, count * longest**2, count * longest, rows)
    tree = batch.prompt_tree if prompts else batch.tree
    tokens = len(tree.ids_N)
    seen = sum(group.token_nT.numel() * (group.above + group.token_nT.shape[1]) for group in tree.groups)
    wanted = len(tree.last_B.unique() if prompts else tree.source_BKA[batch.answer_mask_BKA].unique())
    return Pass(tokens, wanted, seen, seen * wanted / tokens, rows)


def reading(sizes: Sizes, one: Pass, back: bool = False, words: bool = True) -> Work:
    """The work of a pass.

    Args:
        sizes: of the model.
        one: the pass.
        back: with the gradients.
        words: the whole vocabulary is asked for, not the labels' tokens only.
    """
    L, N, M = sizes.layers, one.tokens, one.wanted
    last = sizes.layer - sizes.keys
    full = L * sizes.layer * N
    seen = float(L * one.seen)
    if sizes.wanted_only:  # of the last layer keys and values of all tokens, the rest of the wanted ones
        full -= last * (N - M)
        seen -= one.seen - one.wanted_seen
    adapter = sizes.adapter * N * (full / max(1, L * sizes.layer * N))
    forward = 2.0 * (full + adapter)
    backward = (4.0 * full if sizes.whole else 2.0 * full + 4.0 * adapter) if back else 0.0
    attention = 4.0 * sizes.attention * seen * ((1 + BACK) if back else 1.0)
    vocabulary = 2.0 * M * sizes.width * sizes.vocabulary * ((2 if back else 1) if words else 0)
    return Work(
        forward=forward,
        backward=backward,
        attention=attention,
        vocabulary=vocabulary,
        calls=L,
        back_calls=L if back else 0,
        passes=1,
        rows=one.rows,
        tokens=N,
    )


def decoding(sizes: Sizes, batch: Batch, answers: int, steps: int) -> Work:
    """Answers that grow by one token a step, behind prompts that are read.

    Args:
        sizes: of the model.
        batch: the prompts.
        answers: to each prompt.
        steps: tokens of an answer; the first is told by the prompt's own pass.
    """
    tokens, more = len(batch.rows) * answers, max(steps - 1, 0)
    longest = max(map(len, batch.prompts)) + steps / 2
    numbers = sizes.layers * sizes.layer + sizes.width * sizes.vocabulary
    kept = sizes.layers * sizes.kept * (sum(map(len, batch.prompts)) + tokens * steps / 2)
    return Work(
        decoded=2.0 * tokens * more * (sizes.layers * sizes.layer + sizes.adapter)
        + 4.0 * sizes.attention * sizes.layers * longest * tokens * more,
        vocabulary=2.0 * tokens * steps * sizes.width * sizes.vocabulary,
        decode_calls=sizes.layers * more,
        moved=float(sizes.bytes * (numbers + kept) * more),
        texts=tokens * steps,
        passes=more,
    )


def decoding_anew(sizes: Sizes, batch: Batch, answers: int, steps: int) -> Work:
    """The same of models that share nothing: whole sequences are read again for every token."""
    found = Work(texts=len(batch.rows) * answers * steps)
    for step in range(steps):
        rows = len(batch.rows) * (answers if step else 1)
        longest = max(map(len, batch.prompts)) + step
        found += reading(sizes, Pass(rows * longest, rows, rows * longest**2, rows * longest, len(batch.rows)))
    return found


def updating(sizes: Sizes, optimizer: str) -> Work:
    """One step of the optimizer: weights, gradients and moments are read and written; Adafactor goes by tensor."""
    times = WHOLE if sizes.whole else 8 if optimizer == "adamw" else 10
    return Work(updated=4.0 * sizes.trained * times, tensors=sizes.tensors * (1 if optimizer == "adamw" else 8))


def passes(rows: Rows, max_tokens: int, kinds: Sequence[str] | None = None) -> list[Batch]:
    """The micro-batches of some rows, as they will be made."""
    return list(micro_batches(rows, max_tokens, 0, "cpu", kinds))
