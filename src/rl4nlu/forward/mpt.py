"""MPT, whose layers do not leave their attention to a function: theirs is replaced for the time of one call.

Instead of positions MPT has ALiBi (Press et al. 2022, arXiv 2108.12409): a key's score is lowered in proportion to its
distance, each head by a slope of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers.models.mpt.modeling_mpt import MptAttention, build_mpt_alibi_tensor

from .attention import Attends, How


def is_mpt(model: Any) -> bool:
    """Whether a model's layers need `attending`."""
    return getattr(model.config, "model_type", None) == "mpt"


@contextlib.contextmanager
def attending(model: Any, context: Attends) -> Iterator[None]:
    """Within this block the layers' attention is the context's."""
    layers: list[Any] = [module for module in model.modules() if isinstance(module, MptAttention)]
    # the bias of the key at a distance of one
    slope_H = -build_mpt_alibi_tensor(layers[0].n_heads, 2, device=layers[0].Wqkv.weight.device)[:, 0, 0]
    try:
        for layer in layers:
            layer.forward = lambda hidden_states, _layer=layer, **_: _forward(_layer, hidden_states, context, slope_H)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _forward(layer: Any, hidden_1NE: Tensor, context: Attends, slope_H: Tensor) -> tuple[Tensor, None]:
    mixed = layer.Wqkv(hidden_1NE)
    if layer.clip_qkv:
        mixed = mixed.clamp(min=-layer.clip_qkv, max=layer.clip_qkv)
    query, key, value = (x.unflatten(-1, (layer.n_heads, layer.head_dim)).transpose(1, 2) for x in mixed.chunk(3, -1))
    dropout = layer.attn_dropout_p if layer.training else 0.0
    out_1NHD = context.attend(
        layer.layer_idx, query, key, value, How(layer.softmax_scale, dropout=dropout, slope_H=slope_H)
    )
    out: Tensor = layer.out_proj(out_1NHD.flatten(2))
    return out, None
