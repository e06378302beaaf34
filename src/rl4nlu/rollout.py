"""Sample answers from the policy: one token at a time on the shared context, K answers a prompt side by side.

A token is drawn by inverting the distribution at a uniform number that belongs to its (row, answer, position) alone,
so what is sampled does not depend on how rows are put into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from . import processes
from .forward import Beginning, begin, more, read_last, take_part
from .models import Policy
from .prompts import Prompter
from .seeding import generator
from .tokens import Batch, Encoded, micro_batches, pad_right


@dataclass(frozen=True)
class Answer:
    """One sampled answer."""

    tokens: tuple[int, ...]
    """Up to and including the token that ended it."""
    logp: tuple[float, ...]
    """Log-probability of each token when it was drawn."""
    text: str
    ended: bool
    """Whether it came to an end of its own; False: it ran out of tokens."""


RUN = 256
"""Tokens that are added up at once where a distribution is inverted."""


def uniforms(count: int, answers: int, tokens: int, seed: int, purpose: str, step: int) -> Tensor:
    """Uniform numbers in [0, 1), one for each token to be drawn: (count, answers, tokens)."""
    return torch.from_numpy(generator(seed, purpose, step).random((count, answers, tokens)))


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    finished: Callable[[str], bool],
    max_new_tokens: int,
    max_tokens: int,
    uniform_BKA: Tensor | None = None,
    begun: Beginning | None = None,
) -> list[list[Answer]]:
    """K answers to each prompt, sampled at temperature 1, or the greedy one.

    Args:
        policy: the model; no dropout while it samples.
        prompts: token ids.
        finished: whether a text is a complete answer.
        max_new_tokens: where an answer that does not end is cut.
        max_tokens: bound of the tokens in a micro-batch.
        uniform_BKA: one number in [0, 1) for each prompt, answer and token; None: one greedy answer.
        begun: these prompts, which are read already (see `begin_all`).
    """
    policy.model.eval()
    K = 1 if uniform_BKA is None else uniform_BKA.shape[1]
    rows = [(prompt, [[policy.pad] * max_new_tokens] * K) for prompt in prompts]  # room for the answers
    answers: list[list[Answer]] = [[] for _ in prompts]

    def work(batch: Batch) -> None:
        uniform = None if uniform_BKA is None else uniform_BKA[list(batch.rows)]
        here = begun if begun is not None and batch is begun.batch else None
        found = _sample_batch(policy, batch, K, finished, max_new_tokens, uniform, here)
        for row, texts in zip(batch.rows, found, strict=True):
            answers[row] = texts

    def at_once(most: int) -> bool:
        if begun is None or most < max_tokens:
            return False
        work(begun.batch)
        return True

    def idle() -> None:
        room = [[policy.pad] * max_new_tokens] * K
        (batch,) = micro_batches([((policy.pad,) * 2, room)], max_tokens, policy.pad, policy.device)
        _sample_batch(policy, batch, K, lambda text: True, max_new_tokens, None, None)

    if not policy.memory.fitting("rollout", max_tokens, at_once):
        policy.memory.each("rollout", rows, max_tokens, work, policy.pad, policy.device, idle=idle)
    return answers


def begin_all(
    policy: Policy, prompts: Sequence[Sequence[int]], answers: int, max_new_tokens: int, max_tokens: int
) -> Beginning | None:
    """Read prompts, with their graph, if those with answers are no more than one micro-batch.

    Args:
        policy: the model; no dropout.
        prompts: token ids.
        answers: K to each.
        max_new_tokens: where an answer is cut.
        max_tokens: bound of the tokens in a micro-batch.
    """
    if not policy.shared or processes.sharded() or not prompts:
        return None
    rows = [(prompt, [[policy.pad] * max_new_tokens] * answers) for prompt in prompts]
    batches = list(islice(micro_batches(rows, max_tokens, policy.pad, policy.device), 2))
    if len(batches) > 1:
        return None
    with torch.enable_grad():
        return begin(policy.model, batches[0], answers, max_new_tokens, goes_on=True)


@torch.no_grad()
def think(
    policy: Policy,
    prompter: Prompter,
    rows: Sequence[Encoded],
    max_tokens: int,
    uniform_BKA: Tensor | None = None,
) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """What the model writes in front of its answers: K texts a prompt, each with the bridge to the answer, in tokens.

    Args:
        policy: the model.
        prompter: who wrote the prompts.
        rows: the prompts.
        max_tokens: bound of the tokens in a micro-batch.
        uniform_BKA: as in `sample`, for `Prompter.reason` tokens; None: one greedy text.
    """
    found = sample(policy, [row.ids for row in rows], prompter.thought, prompter.reason, max_tokens, uniform_BKA)
    return [
        [(text.tokens, () if prompter.bridged(text.text) else row.bridge) for text in texts]
        for row, texts in zip(rows, found, strict=True)
    ]


def _sample_batch(
    policy: Policy, batch: Batch, K: int, finished, max_new_tokens: int, uniform_BKA, begun: Beginning | None
) -> list[list[Answer]]:
    B = len(batch.rows)
    if policy.shared:
        reader: Any = _TreeReader(policy, begun or begin(policy.model, batch, K, max_new_tokens))
    else:
        reader = _PlainReader(policy, batch)
    alive_BK = torch.ones((B, K), dtype=torch.bool)
    ended_BK = torch.zeros((B, K), dtype=torch.bool)
    tokens: list[list[list[int]]] = [[[] for _ in range(K)] for _ in range(B)]
    logps: list[list[list[float]]] = [[[] for _ in range(K)] for _ in range(B)]
    ends, words = policy.end_tokens, words_of(policy.tokenizer)
    logits_MV = reader.first().repeat_interleave(K, 0)
    for t in range(max_new_tokens):
        if not alive_BK.any():  # other processes go on
            take_part(policy.model, policy.shared)
            if t + 1 == max_new_tokens or not processes.go_on(False):
                break
            continue
        uniform_M = None if uniform_BKA is None else uniform_BKA[:, :, t][alive_BK]
        token_M, logp_M = draw(logits_MV, uniform_M, words)
        tokens_BK = torch.full((B, K), policy.pad, dtype=torch.long)
        tokens_BK[alive_BK] = token_M.cpu()
        for (b, k), logp in zip(alive_BK.nonzero().tolist(), logp_M.tolist(), strict=True):
            tokens[b][k].append(int(tokens_BK[b, k]))
            logps[b][k].append(logp)
            if tokens[b][k][-1] in ends or finished(_text(policy, tokens[b][k])):
                alive_BK[b, k], ended_BK[b, k] = False, True
        if t + 1 == max_new_tokens or not processes.go_on(bool(alive_BK.any())):
            break
        if alive_BK.any():
            logits_MV = reader.more(tokens_BK, alive_BK)
    return [
        [
            Answer(tuple(tokens[b][k]), tuple(logps[b][k]), _text(policy, tokens[b][k]), bool(ended_BK[b, k]))
            for k in range(K)
        ]
        for b in range(B)
    ]


def words_of(tokenizer: Any) -> int:
    """How many ids mean something: many models have more, to fill up their matrices."""
    return max([len(tokenizer), *(number + 1 for number in getattr(tokenizer, "added_tokens_decoder", ()))])


def draw(logits_MV: Tensor, uniform_M: Tensor | None, words: int | None = None) -> tuple[Tensor, Tensor]:
    """A token for each row of logits, and its log-probability: the most likely one, or the one at `uniform_M`; one of
    the first `words`. The log-probability is the model's own, in which the others have their part."""
    logp_MV = logits_MV.float().log_softmax(-1)
    if uniform_M is None:
        token_M = logp_MV[:, :words].argmax(-1)
    else:
        token_M = _invert(logp_MV[:, :words].exp(), uniform_M.to(logp_MV.device))
    return token_M, logp_MV.gather(1, token_M[:, None])[:, 0]


def _invert(p_MV: Tensor, uniform_M: Tensor) -> Tensor:
    """Where the distribution function passes these numbers: first among runs of RUN tokens, then within one, so that
    most of the vocabulary is added up, but not cumulated."""
    M, V = p_MV.shape
    p_MCR = torch.nn.functional.pad(p_MV, (0, -V % RUN)).view(M, -1, RUN)
    run_MC = p_MCR.sum(-1, dtype=torch.float64).cumsum(-1)
    at_M1 = uniform_M[:, None] * run_MC[:, -1:]  # rounding may leave the total beside 1
    run_M1 = torch.searchsorted(run_MC, at_M1, right=True).clamp(max=run_MC.shape[1] - 1)
    before_M1 = torch.where(run_M1 > 0, run_MC.gather(1, (run_M1 - 1).clamp(min=0)), 0.0)
    inside_MR = p_MCR[torch.arange(M, device=p_MV.device), run_M1[:, 0]].double().cumsum(-1) + before_M1
    place_M1 = torch.searchsorted(inside_MR, at_M1, right=True).clamp(max=RUN - 1)
    return (run_M1 * RUN + place_M1)[:, 0].clamp(max=V - 1)


def _text(policy: Policy, tokens: list[int]) -> str:
    return policy.tokenizer.decode(tokens, skip_special_tokens=True)


class _TreeReader:
    """Reads the prompts as a tree, then one token of every answer at a time."""

    def __init__(self, policy: Policy, begun: Beginning) -> None:
        self.model = policy.model
        self.branches, self.logits_BV = begun.branches, begun.logits_BV
        self.rows = torch.arange(len(self.logits_BV))

    def first(self) -> Tensor:
        """Logits behind each prompt: (B, V)."""
        return self.logits_BV

    def more(self, tokens_BK: Tensor, alive_BK: Tensor) -> Tensor:
        """Logits behind one more token of each answer that goes on: (M, V), in row-major order."""
        live = alive_BK[self.rows].any(1)
        device = self.logits_BV.device
        if int(live.sum()) <= len(self.rows) // 2:  # copying keys and values pays once half the rows are done
            self.branches.keep_rows(live.nonzero()[:, 0].to(device))
            self.rows = self.rows[live]
        token_BK, alive_BK = tokens_BK[self.rows].to(device), alive_BK[self.rows].to(device)
        return more(self.model, self.branches, token_BK, alive_BK)


class _PlainReader:
    """Runs the whole sequences again for every token: exact for every model."""

    def __init__(self, policy: Policy, batch: Batch) -> None:
        self.policy = policy
        self.prompts = batch.prompts
        self.grown: list[list[list[int]]] | None = None

    def first(self) -> Tensor:
        """As `_TreeReader`."""
        return self._last_logits(self.prompts)

    def more(self, tokens_BK: Tensor, alive_BK: Tensor) -> Tensor:
        """As `_TreeReader`."""
        if self.grown is None:
            self.grown = [[list(prompt) for _ in range(tokens_BK.shape[1])] for prompt in self.prompts]
        live = alive_BK.nonzero().tolist()
        for b, k in live:
            self.grown[b][k].append(int(tokens_BK[b, k]))
        return self._last_logits([self.grown[b][k] for b, k in live])

    def _last_logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        ids, mask = pad_right(rows, self.policy.pad)
        return read_last(self.policy.model, ids.to(self.policy.device), mask.to(self.policy.device))
