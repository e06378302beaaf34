"""The policy over a closed set of label words: a trie of their tokens, renormalised at every branch.

A plain sum of log-probabilities favours short words. Here each token's probability is taken among the tokens with
which the set goes on at that node, so the answers' probabilities add up to one, and a token without rival has
probability one: nothing behind the token that sets an answer apart from all others needs to be read.

Shapes: B rows, K answers, A answer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .tokens import common_prefix


def distinguishing(answers: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Each answer cut behind the token that sets it apart from all others."""
    cut = []
    for k, answer in enumerate(answers):
        others = [other for j, other in enumerate(answers) if j != k]
        shared = max((len(common_prefix([answer, other])) for other in others), default=0)
        cut.append(tuple(answer[: shared + 1]))
    return tuple(cut)


def closed_set_logp(logp_BKA: Tensor, answers: Sequence[Sequence[int]]) -> Tensor:
    """log P(answer k | prompt, the answer is one of the set) = sum over its tokens of log-softmax among the branches.

    Args:
        logp_BKA: log-probability of each answer token, as the forward pass gives it.
        answers: the tokens of the K answers; none is the beginning of another.

    Returns:
        (B, K), each row's probabilities adding up to one.
    """
    K, A = len(answers), max(map(len, answers))
    assert logp_BKA.shape[1] == K
    assert logp_BKA.shape[2] >= A
    total_BK = logp_BKA.new_zeros(logp_BKA.shape[:2])
    for a in range(A):
        # the first answer through each branch stands for it
        stands_KK = torch.zeros((K, K), dtype=torch.bool)
        reads_K = torch.tensor([len(answer) > a for answer in answers])
        for k, answer in enumerate(answers):
            branches: set[int] = set()
            for j, other in enumerate(answers):
                if (
                    len(answer) > a
                    and len(other) > a
                    and tuple(other[:a]) == tuple(answer[:a])
                    and other[a] not in branches
                ):
                    branches.add(other[a])
                    stands_KK[k, j] = True
        rivals_BKK = torch.where(stands_KK.to(logp_BKA.device), logp_BKA[:, None, :, a], float("-inf"))
        reads_K = reads_K.to(logp_BKA.device)
        norm_BK = torch.where(reads_K[:, None], rivals_BKK, 0.0).logsumexp(-1)
        total_BK = total_BK + torch.where(reads_K, logp_BKA[:, :, a] - norm_BK, 0.0)
    return total_BK
