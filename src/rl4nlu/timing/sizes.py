"""The sizes of a model that its speed depends on, read from its configuration: it is built without weights.

L layers, D width, V words, H heads of width d, G of them with keys and values of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from ..forward.last_layer import KNOWN
from ..settings import LoraSettings
from ..shapes import META
from ..sources import source_of


@dataclass(frozen=True)
class Sizes:
    """What the time of a pass depends on."""

    layers: int
    layer: int
    """Numbers in the matrices of one layer."""
    keys: int
    """Of these, those that make keys and values."""
    width: int
    attention: int
    """Numbers in a token's queries of one layer (H x d)."""
    kept: int
    """Numbers in a token's keys and values of one layer (2 x G x d)."""
    inner: int
    """Width of the feed-forward network."""
    vocabulary: int
    weights: int
    """Numbers in all weights, an embedding that stands at both ends counted once."""
    adapter: int = 0
    """Numbers in LoRA's matrices, of all layers."""
    tensors: int = 0
    """Tensors that are trained."""
    wanted_only: bool = False
    """Whether the last layer works for the wanted tokens alone (forward/last_layer.py)."""
    bytes: int = 4
    """Of a number."""
    whole: bool = False
    """All weights are trained, not LoRA's."""

    @property
    def trained(self) -> int:
        """Numbers that are trained."""
        return self.weights if self.whole else self.adapter


def sizes_of(model: str, lora: LoraSettings | None = None, dtype: torch.dtype = torch.float32) -> Sizes:
    """Of a causal language model, with LoRA or without.

    Args:
        model: mini, a folder, or a name on the hub.
        lora: the adapter; None: there is none.
        dtype: of the weights.

    Raises:
        Exception: of whatever kind the libraries raise where there is no such model, or it cannot be built.
    """
    config = AutoConfig.from_pretrained(source_of(model), trust_remote_code=False)
    return of_config(config, lora, dtype)


def of_config(config: Any, lora: LoraSettings | None = None, dtype: torch.dtype = torch.float32) -> Sizes:
    """As `sizes_of`, of a configuration in memory."""
    with META:
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    return of_model(model, lora)


def of_model(model: Any, lora: LoraSettings | None = None) -> Sizes:
    """As `sizes_of`, of a causal language model without an adapter."""
    return _measure(model, model.get_output_embeddings(), lora)


def of_classifier(model: str, labels: int, lora: LoraSettings | None, dtype: torch.dtype = torch.float32) -> Sizes:
    """Of a model with a classification head; without LoRA all of its weights are trained.

    Raises:
        Exception: as `sizes_of`.
    """
    config = AutoConfig.from_pretrained(source_of(model), num_labels=labels, trust_remote_code=False)
    with META:
        found: Any = AutoModelForSequenceClassification.from_config(config, dtype=dtype, trust_remote_code=False)
    sizes = _measure(found, None, lora)
    if lora is not None:
        return sizes
    return replace(sizes, whole=True, tensors=len(list(found.parameters())))


def _measure(model: Any, head: nn.Module | None, lora: LoraSettings | None) -> Sizes:
    """Sizes of a model without weights."""
    config = model.config
    first = getattr(config, "get_text_config", lambda: config)()
    layers = max(
        (m for m in model.modules() if isinstance(m, nn.ModuleList)),
        key=lambda m: sum(p.numel() for p in m.parameters()),
    )
    matrices = {name: m for name, m in layers[0].named_modules() if isinstance(m, nn.Linear | Conv1D)}
    heads = first.num_attention_heads
    width = first.hidden_size
    each = getattr(first, "head_dim", None) or width // heads
    groups = getattr(first, "num_key_value_heads", None) or heads
    fused = not any(re.search(r"(^|\.)(k_proj|key)$", name) for name in matrices)
    adapter, tensors = _lora(layers, lora) if lora is not None else (0, 0)
    weights = sum(p.numel() for p in model.parameters())
    return Sizes(
        layers=len(layers),
        layer=sum(p.numel() for p in layers[0].parameters() if p.dim() > 1),
        keys=0 if fused else 2 * width * groups * each,
        width=width,
        attention=heads * each,
        kept=2 * groups * each,
        inner=max((_outer(m) for m in matrices.values()), default=width),
        vocabulary=0 if head is None else model.get_input_embeddings().weight.shape[0],
        weights=weights,
        adapter=adapter,
        tensors=tensors,
        wanted_only=head is not None and type(layers[-1]) in KNOWN,
        bytes=next(model.parameters()).dtype.itemsize,
    )


def _outer(module: nn.Module) -> int:
    return max(module.weight.shape)  # type: ignore[arg-type]


def _lora(layers: nn.ModuleList, lora: LoraSettings) -> tuple[int, int]:
    """Numbers and tensors of an adapter: r x (in + out) of every module that gets one."""
    wanted = None if lora.target == "all-linear" else {name.strip() for name in lora.target.split(",")}
    found = [
        lora.r * sum(module.weight.shape)
        for name, module in layers.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and (wanted is None or name.rpartition(".")[2] in wanted)
    ]
    return sum(found), 2 * len(found)
