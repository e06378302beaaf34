"""The last layer for the wanted tokens only.

Of all other tokens the last layer's keys and values are asked for, and nothing else: not their queries, not their part
of the output projection and the feed-forward network, which are five sixths of a layer. Of a model of six layers that
is a seventh of the work.

This needs to know how a layer is built, so it is for the classes that are built alike: Llama, Mistral, Qwen2, Qwen3.

Shapes: N tokens read, W wanted, H heads, G key/value heads, D a head's width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from .attention import How, TreeAttention

KNOWN = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)


@contextlib.contextmanager
def wanted_only(model: Any) -> Iterator[bool]:
    """Within this block the model hands the states of a tree's wanted tokens to its output embedding, (1, W, D), if it
    is of a class that is known; else those of all, (1, N, D). Yields which."""
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None or type(layers[-1]) not in KNOWN:
        yield False
        return
    layer: Any = layers[-1]
    layer.forward = lambda hidden_states, **given: _forward(layer, hidden_states, **given)
    try:
        yield True
    finally:
        del layer.forward


def _forward(
    layer: Any,
    hidden_1NE: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    context: TreeAttention,
    **_: Any,
) -> Tensor:
    attention, want_W = layer.self_attn, context.want_W
    states_1NE = layer.input_layernorm(hidden_1NE)

    def heads(project: Any, norm: str, states: Tensor) -> Tensor:
        x = project(states).unflatten(-1, (-1, attention.head_dim))
        return (getattr(attention, norm)(x) if hasattr(attention, norm) else x).transpose(1, 2)

    query = heads(attention.q_proj, "q_norm", states_1NE.index_select(1, want_W))
    key = heads(attention.k_proj, "k_norm", states_1NE)
    value = heads(attention.v_proj, "", states_1NE)
    cos, sin = position_embeddings
    query = _turned(query, cos.index_select(1, want_W), sin.index_select(1, want_W))
    key = _turned(key, cos, sin)
    source = attention if hasattr(attention, "sliding_window") else attention.config
    window = getattr(source, "sliding_window", None)
    how = How(attention.scaling, window, None, attention.attention_dropout if attention.training else 0.0)
    out_1WHD = context.attend_wanted(attention.layer_idx, query, key, value, how)
    hidden_1WE = hidden_1NE.index_select(1, want_W) + attention.o_proj(out_1WHD.flatten(2))
    return hidden_1WE + layer.mlp(layer.post_attention_layernorm(hidden_1WE))


def _turned(x_1HND: Tensor, cos_1ND: Tensor, sin_1ND: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864): a head's halves are turned against each other."""
    first, second = x_1HND.chunk(2, -1)
    return x_1HND * cos_1ND[:, None] + torch.cat([-second, first], -1) * sin_1ND[:, None]
