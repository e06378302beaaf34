"""A base model of which every process holds its share (FSDP2, `torch.distributed.fsdp.fully_shard`).

The frozen weights of the decoder's layers are cut up, a layer at a time is put together for a forward or backward pass.
Everything else is whole in every process: embeddings and output embedding, which the forward pass reads outside of
modules (forward/projection.py), and all that is trained, LoRA in float32 and the value head. So no unit mixes types,
gradients are added up as without sharing (`processes.added`), and any process can write the adapter.

The main process alone reads the weights, into main memory; the others never hold more than their share and one tensor.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from . import processes
from .errors import UserError
from .loading import load_base, quiet_transformers, without_weights
from .sources import source_of

Model = Any
"""A model of transformers."""


def load_share(name: str, dtype: torch.dtype, place: torch.device, quantize: str) -> tuple[Model, Any]:
    """This process's share of a base model, and its tokenizer; arguments as of `loading.load_base`.

    Raises:
        UserError: as there; or the weights are to be quantised.
    """
    if quantize != "none":
        raise UserError(
            f"--quantize {quantize}: layers that are shared out stay in --dtype; leave it out, or launch without "
            "--use_fsdp"
        )
    quiet_transformers()
    loaded: list[Any] = []

    def load() -> Model:
        model, tokenizer = load_base(name, dtype)
        loaded.append(tokenizer)
        return model

    model = shared_out(load, lambda: without_weights(AutoModelForCausalLM, source_of(name), dtype), place)
    tokenizer = loaded[0] if loaded else AutoTokenizer.from_pretrained(source_of(name), trust_remote_code=False)
    return model, tokenizer


def shared_out(load: Callable[[], Model], build: Callable[[], Model], device: torch.device) -> Model:
    """A model of whose layers this process holds its share.

    Args:
        load: the whole model, in main memory; called in the main process alone.
        build: the same model without weights, on the device "meta".
        device: where this process's share goes.

    Raises:
        UserError: as `load`.
    """
    whole: list[Model] = []

    def read() -> dict[str, Any]:
        whole.append(load())
        generation = getattr(whole[0], "generation_config", None)
        return {"generation": None if generation is None else generation.to_dict()}

    facts = processes.from_main(read)
    model = build().requires_grad_(False)
    mesh = init_device_mesh(device.type, (processes.count(),))
    layers = layers_of(model)
    # of the logits, which nobody changes in place, and below which no weight is cut up
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=processes.reshards())
    cut = {id(weight) for layer in layers for weight in layer.parameters()}
    fully_shard(model, mesh=mesh, ignored_params={w for w in model.parameters() if id(w) not in cut})
    model.to_empty(device=device)
    model.tie_weights()
    _fill(model, whole[0] if whole else None, device)
    if facts["generation"] is not None:
        model.generation_config = GenerationConfig.from_dict(facts["generation"])
    return model.eval()


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The list of modules that holds most of the weights: the decoder's layers.

    Raises:
        ValueError: there is no such list.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda one: sum(weight.numel() for weight in one.parameters()))


@torch.no_grad()
def _fill(model: Model, whole: Model | None, device: torch.device) -> None:
    """Hand out the main process's weights and buffers, one after the other."""
    given = dict(_tensors(whole)) if whole is not None else {}
    for name, mine in _tensors(model):
        full = torch.empty(mine.shape, dtype=mine.dtype, device=device)
        if given:
            full.copy_(given[name])
        dist.broadcast(full, 0)
        if isinstance(mine, DTensor):
            part = mine.to_local()
            parts = full.chunk(processes.count())
            if part.numel():
                part.copy_(parts[processes.rank()])
        else:
            mine.copy_(full)
    for name, module in model.named_modules():  # tensors that are neither, such as copies of rotary frequencies
        for key, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                full = torch.empty(value.shape, dtype=value.dtype, device=device)
                if whole is not None:
                    full.copy_(vars(whole.get_submodule(name))[key])
                dist.broadcast(full, 0)
                setattr(module, key, full)


def _tensors(model: Model) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
