"""One more token of every answer at a time: the keys and values of prompts that were read as a tree, and of the answers
so far.

What all prompts begin with is kept once, each prompt once for its K answers. A step's attention adds up over the three
parts: the common beginning, the rest of the row's prompt, the answer's own tokens.

Shapes: B rows, K answers, H heads, G key/value heads, D a head's width, P tokens of the common beginning, R of the rest
of the prompts (padded), t answer tokens so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..tree import Tree
from .attention import How


@dataclass
class _Layer:
    """What one layer keeps of the prompts and of the answers."""

    common_2GPD: Tensor
    rest_2BGRD: Tensor
    own_2BKtGD: Tensor
    """With room for all the tokens to come."""


class Branches:
    """K answers to each of B prompts, grown side by side.

    Args:
        tree: the prompts.
        answers: K.
        room: tokens that an answer may have.
    """

    def __init__(self, tree: Tree, answers: int, room: int) -> None:
        self.tree, self.K, self.room, self.time = tree, answers, room, -1
        P, device = tree.shared, tree.ids_N.device
        self.length_B = tree.depth_N[tree.last_B] + 1
        rest = [[i for start, stop in path for i in range(start, stop)][P:] for path in tree.paths]
        R = max(map(len, rest))
        self.rest_BR = torch.tensor([row + [0] * (R - len(row)) for row in rest], device=device)
        self.real_BR = torch.arange(R, device=device) < (self.length_B - P)[:, None]
        self.depth_BR = torch.arange(P, P + R, device=device).expand(len(rest), -1)
        self.layers: dict[int, _Layer] = {}

    def keep_prompt(self, layer: int, key_NGD: Tensor, value_NGD: Tensor) -> None:
        """Take over what a layer read of the tree."""
        P, (B, _) = self.tree.shared, self.rest_BR.shape
        both_2NGD = torch.stack([key_NGD, value_NGD])
        rest_2BGRD = both_2NGD[:, self.rest_BR].transpose(2, 3).contiguous()
        common_2GPD = both_2NGD[:, :P].transpose(1, 2).contiguous()
        G, D = key_NGD.shape[1:]
        own = both_2NGD.new_zeros((2, B, self.K, self.room, G, D))
        self.layers[layer] = _Layer(common_2GPD, rest_2BGRD, own)

    def keep_rows(self, row_b: Tensor) -> None:
        """Go on with some of the rows only."""
        self.length_B, self.real_BR, self.depth_BR = (x[row_b] for x in (self.length_B, self.real_BR, self.depth_BR))
        for layer in self.layers.values():
            layer.rest_2BGRD = layer.rest_2BGRD[:, row_b]
            layer.own_2BKtGD = layer.own_2BKtGD[:, row_b]

    def step(self) -> Tensor:
        """Begin the next token; returns its position in every row, (B)."""
        self.time += 1
        return self.length_B + self.time

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """See `attention.Attends`; the tokens are one of each answer, (B, K) in row-major order."""
        kept, time, K = self.layers[layer], self.time, self.K
        _, H, N, D = query.shape
        G, B, P = key.shape[1], N // self.K, self.tree.shared
        for side, x in enumerate((key, value)):
            kept.own_2BKtGD[side, :, :, time] = x[0].transpose(0, 1).view(B, K, G, D)
        own_2BKtGD = kept.own_2BKtGD[:, :, :, : time + 1]
        q_BKGFD = query[0].transpose(0, 1).reshape(B, K, G, H // G, D) * how.scale
        q_BGMD = q_BKGFD.transpose(1, 2).reshape(B, G, -1, D)  # M = K x F: what of a row asks the same keys
        F = H // G
        rest = (q_BGMD @ kept.rest_2BGRD[0].transpose(2, 3)).view(B, G, K, F, -1).transpose(1, 2)
        own = torch.einsum("bkgfd,bktgd->bkgft", q_BKGFD, own_2BKtGD[0])
        scores = [rest, own]
        if P:
            q_GND = q_BKGFD.permute(2, 0, 1, 3, 4).reshape(G, -1, D)
            common = (q_GND @ kept.common_2GPD[0].transpose(1, 2)).view(G, B, K, F, P)
            scores.insert(0, common.permute(1, 2, 0, 3, 4))
        score = torch.cat(scores, -1)
        if how.softcap is not None:
            score = torch.tanh(score / how.softcap) * how.softcap
        weight = (score + self._bias(how, score)).softmax(-1, dtype=torch.float32).to(value.dtype)
        w_rest = weight[..., P : P + rest.shape[-1]].transpose(1, 2).reshape(B, G, K * F, -1)
        out = (w_rest @ kept.rest_2BGRD[1]).view(B, G, K, F, D).transpose(1, 2)
        out = out + torch.einsum("bkgft,bktgd->bkgfd", weight[..., -time - 1 :], own_2BKtGD[1])
        if P:
            w_GNP = weight[..., :P].permute(2, 0, 1, 3, 4).reshape(G, -1, P)
            out = out + (w_GNP @ kept.common_2GPD[1]).view(G, B, K, F, D).permute(1, 2, 0, 3, 4)
        return out.reshape(1, N, H, D)

    def _bias(self, how: How, like: Tensor) -> Tensor:
        """What is added to the scores, (B, 1, G, F, S) with ones where they are alike: the least number at padding and
        at what is out of the window, else ALiBi's part, if there is one."""
        P, (B, R), time = self.tree.shared, self.real_BR.shape, self.time
        seen_BS = torch.ones((B, P + R + time + 1), dtype=torch.bool, device=like.device)
        seen_BS[:, P : P + R] = self.real_BR
        bias_BGFS = torch.zeros((B, 1, 1, seen_BS.shape[1]), dtype=like.dtype, device=like.device)
        if how.window is not None or how.slope_H is not None:
            depth_P = torch.arange(P, device=like.device).expand(B, -1)
            depth_Bt = self.length_B[:, None] + torch.arange(time + 1, device=like.device)
            far_BS = (self.length_B + time)[:, None] - torch.cat([depth_P, self.depth_BR, depth_Bt], 1)
            if how.window is not None:
                seen_BS &= far_BS < how.window
            if how.slope_H is not None:
                slope_GF1 = how.slope_H.view(*like.shape[2:4], 1)
                bias_BGFS = -(slope_GF1 * far_BS[:, None, None]).to(like.dtype)
        return bias_BGFS.masked_fill(~seen_BS[:, None, None], torch.finfo(like.dtype).min)[:, None]
