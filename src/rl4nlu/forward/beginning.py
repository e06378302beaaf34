"""Prompts that are read once: answers are sampled on them and, with the graph of that pass, read on them again.

Shapes: B rows, N tokens of the whole tree, P of them in prompts, A in answers, W prompts' last tokens, D width,
G key/value heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..tokens import Batch
from ..tree import Tree
from .attention import How, TreeAttention, permuted
from .decode import Branches


class Beginning:
    """What is known of a micro-batch's prompts behind one pass over them.

    Args:
        batch: whose prompts are read.
        answers: K to be sampled to each; 0: none.
        room: tokens that a sampled answer may have.
        goes_on: `Continuation` is to read whole answers behind it.
    """

    def __init__(self, batch: Batch, answers: int, room: int, goes_on: bool) -> None:
        self.batch, self.goes_on = batch, goes_on
        self.tree = batch.prompt_tree
        self.branches = Branches(self.tree, answers, room)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        """If it goes on: keys and values of each layer, (P, G, D), with their graph where there is one."""
        self.want_W, self.which_B = self.tree.last_B.unique(return_inverse=True)
        self.hidden_WD = self.logits_BV = torch.empty(0)
        """States of the prompts' last tokens, and the logits behind each prompt."""

    @property
    def attention(self) -> TreeAttention:
        """Of the pass over the prompts."""
        return TreeAttention(self.tree, self.want_W, self._keep)

    def _keep(self, layer: int, key_PGD: Tensor, value_PGD: Tensor) -> None:
        if self.goes_on:
            self.layers[layer] = key_PGD, value_PGD
        if self.branches.K:
            self.branches.keep_prompt(layer, key_PGD.detach(), value_PGD.detach())


class Continuation:
    """The answers' tokens of a whole tree, whose prompts are read already; their attention (`attention.Attends`).

    Args:
        batch: micro-batch with the same rows as the beginning's, and answers.
        beginning: one that goes on.
    """

    def __init__(self, batch: Batch, beginning: Beginning) -> None:
        tree, device = batch.tree, batch.tree.ids_N.device
        self.layers = beginning.layers
        P, N = len(beginning.tree.ids_N), len(tree.ids_N)
        row_of = {row: b for b, row in enumerate(beginning.batch.rows)}
        place_N = torch.full((N,), -1, dtype=torch.long)  # where a token stands: prompts' tokens first, then answers'
        for b, row in enumerate(batch.rows):
            place_N[_along(tree, b)] = _along(beginning.tree, row_of[row])
        answers_A = (place_N < 0).nonzero()[:, 0]
        place_N[answers_A] = torch.arange(P, P + len(answers_A))
        self.place_N, self.token_N = place_N.to(device), place_N.argsort().to(device)
        self.token_A = answers_A.to(device)
        self.state_N = torch.zeros(N, dtype=torch.long, device=device)  # where its state stands, likewise
        W = len(beginning.want_W)
        self.state_N[self.token_N[beginning.want_W]] = torch.arange(W, device=device)
        self.state_N[self.token_A] = torch.arange(W, W + len(answers_A), device=device)
        self.attention = TreeAttention(tree, self.token_A)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """See `attention.Attends`; the tokens are those of the answers."""
        before_key, before_value = self.layers[layer]
        key, value = self._whole(before_key, key), self._whole(before_value, value)
        return self.attention.attend_wanted(layer, query, key, value, how)

    def _whole(self, before_PGD: Tensor, x_1GAD: Tensor) -> Tensor:
        """Keys or values of all tokens, (1, G, N, D)."""
        both = torch.cat([before_PGD, x_1GAD[0].transpose(0, 1)])
        return permuted(both, self.place_N, self.token_N).transpose(0, 1)[None]


def _along(tree: Tree, b: int) -> Tensor:
    """The tokens of a row's prompt, in their order."""
    return torch.cat([torch.arange(start, stop) for start, stop in tree.paths[b]])
