"""The policy over a closed set of label words: a trie of their tokens, renormalised at every branch.

A plain sum of log-probabilities favours short words. Here each token's probability is taken among the tokens with
which the set goes on at that node, so the answers' probabilities add up to one, and a token without rival has
probability one: nothing behind the token that sets an answer apart from all others needs to be read.

Shapes: B rows, K answers, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .border import common_prefix


def distinguishing(answers: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Each answer cut behind the token that sets it apart from all others."""
    return _cut(tuple(map(tuple, answers)))


@lru_cache(maxsize=64)  # the rows of a task mostly have the same answers
def _cut(answers: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    cut = []
    for k, answer in enumerate(answers):
        others = [other for j, other in enumerate(answers) if j != k]
        shared = max((len(common_prefix([answer, other])) for other in others), default=0)
        cut.append(tuple(answer[: shared + 1]))
    return tuple(cut)


def closed_set_logp(
    logp_BKA: Tensor, answers: Sequence[Sequence[int]], bias_K: Sequence[float] | None = None
) -> Tensor:
    """log P(answer k | prompt, the answer is one of the set) = sum over its tokens of log-softmax among the branches.

    Args:
        logp_BKA: log-probability of each answer token, as the forward pass gives it.
        answers: the tokens of the K answers; none is the beginning of another.
        bias_K: log-probabilities to take out of the answers' (batch calibration, Zhou et al. 2024, arXiv 2309.17249).

    Returns:
        (B, K), each row's probabilities adding up to one.
    """
    stands_AKK, reads_AK = (mask.to(logp_BKA.device) for mask in _branches(tuple(map(tuple, answers))))
    A, K = reads_AK.shape
    assert logp_BKA.shape[1] == K
    assert logp_BKA.shape[2] >= A
    total_BK = logp_BKA.new_zeros(logp_BKA.shape[:2])
    for a in range(A):
        rivals_BKK = torch.where(stands_AKK[a], logp_BKA[:, None, :, a], float("-inf"))
        norm_BK = torch.where(reads_AK[a][:, None], rivals_BKK, 0.0).logsumexp(-1)
        total_BK = total_BK + torch.where(reads_AK[a], logp_BKA[:, :, a] - norm_BK, 0.0)
    return total_BK if bias_K is None else (total_BK - total_BK.new_tensor(bias_K)).log_softmax(1)


@lru_cache(maxsize=64)
def _branches(answers: tuple[tuple[int, ...], ...]) -> tuple[Tensor, Tensor]:
    """Where token a of answer k is read (A, K), and which answers j stand for its rivals there (A, K, K).

    The first answer through a branch stands for it.
    """
    K, A = len(answers), max(map(len, answers))
    stands_AKK = torch.zeros((A, K, K), dtype=torch.bool)
    reads_AK = torch.zeros((A, K), dtype=torch.bool)
    for a in range(A):
        for k, answer in enumerate(answers):
            reads_AK[a, k] = len(answer) > a
            taken: set[int] = set()
            for j, other in enumerate(answers):
                if len(answer) > a and len(other) > a and other[:a] == answer[:a] and other[a] not in taken:
                    taken.add(other[a])
                    stands_AKK[a, k, j] = True
    return stands_AKK, reads_AK
