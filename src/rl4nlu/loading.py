"""Base models, from their files to where they work: with bounded memory, quantised at will, and refused before they are
read where they do not fit.

Weights go to their device file by file. Of the files no more than PART bytes are mapped at a time, so that the host
needs that and one tensor on a GPU; on a CPU the weights besides. Where they are wanted as they stand in the files they
are never copied, but used from the mapped files.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, modeling_utils
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from .artefacts import check_no_adapter, needs_code, read_json
from .errors import UserError
from .room import free_memory
from .sources import INDEX, KNOWN_MODELS, check_quantiser, model_meant, source_of

PART = 64 << 20
"""Bytes read from a file of weights before it is mapped anew: what is mapped counts as this process's memory."""
BLOCK, SUPERBLOCK = 64, 256
"""Weights with a scale of their own, of a byte, in 4 bits; scales with one of their own (Dettmers et al. 2023, arXiv
2305.14314)."""
QUANTISING = ("cpu", "cuda", "xpu")
"""Devices for which bitsandbytes has kernels."""


def load_base(
    name: str, dtype: torch.dtype | str, place: torch.device | None = None, quantize: str = "none"
) -> tuple[Any, Any]:
    """A base model, and its tokenizer.

    Args:
        name: as of `models.load_policy`.
        dtype: of the weights; "auto": as they are in the model's files.
        place: where the weights go; None: the CPU.
        quantize: none, 8bit or 4bit: how the weights of linear layers are kept, but the output embedding's.

    Raises:
        UserError: there is no such model, it is no causal language model, or it does not fit.
    """
    place = place or torch.device("cpu")
    quiet_transformers()
    source = source_of(name)
    check_no_adapter(name, source)
    check_quantised(name, quantize, place)
    if isinstance(dtype, torch.dtype):
        check_fits(name, source, AutoModelForCausalLM, dtype, place, quantize)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = read_weights(AutoModelForCausalLM, source, dtype, place, quantize)
    except Exception as wrong:  # of a model made by others anything may be wrong, and libraries raise many kinds
        raise UserError(cannot_load(name, wrong, "a causal language model")) from None
    if model.get_output_embeddings() is None:
        raise UserError(f"--model {name}: {type(model).__name__} has no output embedding, so it is no language model")
    # encoders load as one too, and answer with nonsense: they see what follows
    if model.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(model.config, "is_decoder", False):
        kind = model.config.model_type
        raise UserError(f"--model {name}: {kind} is an encoder, which writes no answers; use it with: rl4nlu classify")
    return model, tokenizer


def read_weights(
    kind: Any,
    source: str,
    dtype: torch.dtype | str,
    place: torch.device,
    quantize: str = "none",
    whole: tuple[str, ...] = (),
    **given: Any,
) -> Any:
    """What `kind.from_pretrained` gives, on its device, with bounded memory.

    Args:
        kind: one of transformers' automatic classes.
        source: folder, or name on the hub.
        dtype: of the weights, as of `load_base`; quantised ones are computed with in it.
        place: where the weights go.
        quantize: as of `load_base`.
        whole: modules that are not quantised, besides the output embedding.
        given: for `from_pretrained`.

    Raises:
        Exception: of whatever kind the libraries raise where the model cannot be loaded.
    """
    if quantize != "none":
        given["quantization_config"] = quantisation(quantize, dtype, whole)
    if place != torch.device("cpu") or quantize != "none":
        given["device_map"] = {"": place}
    with mapped_in_parts():
        return kind.from_pretrained(source, dtype=dtype, use_safetensors=True, trust_remote_code=False, **given)


def quiet_transformers() -> None:
    """No progress bars and no advice of transformers."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


# -- files in parts ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mapped_in_parts() -> Iterator[None]:
    """Within this block transformers, which keeps every file of weights mapped until all are read, opens them as
    `_File`s."""
    of_transformers: Any = modeling_utils
    before, opened = of_transformers.safe_open, _Opened()
    of_transformers.safe_open = lambda path, **given: _File(opened, path, given)
    try:
        yield
    finally:
        of_transformers.safe_open = before


class _Opened:
    """The one file that is mapped, anew after PART bytes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # transformers reads in several threads
        self.path: Any = None
        self.handle: Any = None
        self.read = 0

    def slice_of(self, path: Any, given: dict[str, Any], name: str) -> Any:
        with self.lock:
            if path != self.path or self.read > PART:
                self.path, self.read = path, 0
                self.handle = safe_open(path, **given)
            found = self.handle.get_slice(name)
            self.read += _numbers(found.get_shape()) * 4
        return found


class _File:
    """Stands for what `safe_open` gives: a file whose tensors are looked for when they are asked for."""

    def __init__(self, opened: _Opened, path: Any, given: dict[str, Any]) -> None:
        self.opened, self.path, self.given = opened, path, {"framework": "pt", **given}

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getattr__(self, name: str) -> Any:  # keys, metadata, get_tensor, ...
        return getattr(safe_open(self.path, **self.given), name)

    def get_slice(self, name: str) -> _Tensor:
        return _Tensor(self, name)


class _Tensor:
    """Stands for a slice that `get_slice` gives."""

    def __init__(self, file: _File, name: str) -> None:
        self.file, self.name = file, name

    def __getattr__(self, name: str) -> Any:  # get_shape, get_dtype
        return getattr(self._real(), name)

    def __getitem__(self, which: Any) -> torch.Tensor:
        found: torch.Tensor = self._real()[which]
        return found

    def _real(self) -> Any:
        return self.file.opened.slice_of(self.file.path, self.file.given, self.name)


# -- quantised weights -------------------------------------------------------------------------------------------------


def quantisation(quantize: str, dtype: torch.dtype | str, whole: tuple[str, ...] = ()) -> BitsAndBytesConfig:
    """Eight bits: LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339); four: NF4 with scales that are quantised too."""
    skipped = list(whole) or None
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=None if isinstance(dtype, str) else dtype,
        llm_int8_skip_modules=skipped,
    )


def check_quantised(name: str, quantize: str, place: torch.device) -> None:
    """Whether weights can be quantised here.

    Raises:
        UserError: bitsandbytes is not there, or has nothing for the device.
    """
    if quantize == "none":
        return
    check_quantiser(quantize)
    if place.type not in QUANTISING:
        raise UserError(
            f"--quantize {quantize}: bitsandbytes cannot work on {place.type}; leave it out, or --device cpu"
        )
    # 8 bits are computed with in float16, which is said of every product
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")


def quantised_layers(model: Any, whole: tuple[str, ...] = ()) -> list[nn.Module]:
    """The modules whose weights bitsandbytes would quantise: all linear ones but the output embedding."""
    head = model.get_output_embeddings()
    return [
        module
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, Conv1D) and module is not head and not {*whole} & {*name.split(".")}
    ]


def size_of(model: Any, dtype: torch.dtype | None = None, quantize: str = "none", whole: tuple[str, ...] = ()) -> int:
    """Bytes of a model's weights, which need not be there.

    Args:
        model: on whatever device, not quantised.
        dtype: of the weights; None: as they are.
        quantize: as of `load_base`.
        whole: as of `read_weights`.
    """
    layers = [] if quantize == "none" else quantised_layers(model, whole)
    shortened = {id(layer.weight): layer.weight for layer in layers if isinstance(layer.weight, torch.Tensor)}
    size = sum(quantised_size(weight, quantize) for weight in shortened.values())
    for weight in (*model.parameters(), *model.buffers()):
        if id(weight) not in shortened:
            short = dtype if dtype is not None and weight.is_floating_point() else weight.dtype
            size += weight.numel() * short.itemsize
    return size


def quantised_size(weight: torch.Tensor, quantize: str) -> int:
    """Bytes of a quantised matrix with its scales."""
    count = weight.numel()
    if quantize == "8bit":
        return count + 4 * max(weight.shape)
    scales = -(-count // BLOCK)
    return -(-count // 2) + scales + 4 * -(-scales // SUPERBLOCK)


def written_out(model: Any, dtype: torch.dtype) -> Any:
    """A quantised model with the weights that its own stand for, in full, as modules of its own class."""
    turned = [name for name, module in model.named_modules() if getattr(module, "source_cls", None) is Conv1D]
    model = model.dequantize(dtype=dtype)
    for name in turned:  # they come back as nn.Linear
        linear = model.get_submodule(name)
        with torch.device("meta"):
            module = Conv1D(linear.out_features, linear.in_features)
        module.weight, module.bias = nn.Parameter(linear.weight.T.contiguous()), linear.bias
        model.set_submodule(name, module)
    return model.requires_grad_(False)


# -- does it fit? ------------------------------------------------------------------------------------------------------


def check_fits(
    name: str,
    source: str,
    kind: Any,
    dtype: torch.dtype,
    place: torch.device,
    quantize: str = "none",
    whole: tuple[str, ...] = (),
) -> None:
    """Whether the weights alone fit into the memory that is free, before any of them is read.

    Args:
        name: of the model, as given.
        source: folder, or name on the hub.
        kind: one of transformers' automatic classes.
        dtype: of the weights.
        place: where they are to go.
        quantize: as of `load_base`.
        whole: as of `read_weights`.

    Raises:
        UserError: they do not; it says what would.
    """
    free = free_memory(place)
    if free is None:
        return
    needed = None if quantize != "none" else size_in_files(source, dtype)
    if needed is not None and needed <= free:
        return
    try:
        model = without_weights(kind, source, dtype)
    except Exception:  # of whatever is wrong loading tells
        return
    needed = needed or size_of(model, dtype, quantize, whole)
    if needed > free:
        where = f"of {place} " if place.type != "cpu" else ""
        how = f"{quantize}, {_name(dtype)}" if quantize != "none" else _name(dtype)
        raise UserError(
            f"--model {name}: its weights take {_gb(needed)} ({how}) and {_gb(free)} of memory {where}are free; "
            f"give {_what_fits(model, dtype, place, quantize, needed, free)}"
        )


def _what_fits(model: Any, dtype: torch.dtype, place: torch.device, quantize: str, needed: int, free: int) -> str:
    """What else to try: what would fit first, with its size."""
    ways = []
    half = torch.bfloat16
    if dtype == torch.float32 and (size := size_of(model, half, quantize)) <= free:
        ways.append(f"--dtype bfloat16 ({_gb(size)})")
    if place.type == "cuda":
        for other in ("8bit", "4bit")[0 if quantize == "none" else 1 :]:
            if other != quantize and (size := size_of(model, half, other)) <= free:
                ways.append(f"--quantize {other} --dtype bfloat16 ({_gb(size)})")
                break
        if quantize == "none":
            parts = -(-needed // max(free, 1))
            launch = f"accelerate launch --use_fsdp --fsdp_version 2 --num_processes {parts} ..."
            ways.append(f"{parts} GPUs that share it ({launch})")
    return ", ".join([*ways, "or a smaller model" if ways else "a smaller model"])


def size_in_files(source: str, dtype: torch.dtype) -> int | None:
    """Bytes of the weights in a folder's files once they are loaded; their heads tell. None if it is no folder."""
    folder = Path(source)
    if not folder.is_dir():
        return None
    names = {path.name for path in folder.glob("model*.safetensors")}
    if (folder / INDEX).is_file():
        names = set(read_json(folder / INDEX).get("weight_map", {}).values())
    size = 0
    for file in sorted(names):
        with safe_open(folder / file, framework="pt") as opened:
            size += sum(_numbers(opened.get_slice(key).get_shape()) for key in opened.keys()) * dtype.itemsize  # noqa: SIM118
    return size or None


def without_weights(kind: Any, source: str, dtype: torch.dtype) -> Any:
    """The model as its configuration describes it, on the device "meta".

    Raises:
        Exception: of whatever kind the libraries raise.
    """
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    with torch.device("meta"):
        return kind.from_config(config, dtype=dtype, trust_remote_code=False)


def _numbers(shape: Any) -> int:
    count = 1
    for size in shape:
        count *= int(size)
    return count


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


# -- what is wrong with a model ----------------------------------------------------------------------------------------


def cannot_load(name: str, wrong: Exception, kind: str) -> str:
    """One line on why a model could not be loaded as a model of some kind."""
    if said := needs_code(name, wrong):
        return said
    first = (str(wrong).strip() or type(wrong).__name__).splitlines()[0][:200]
    try:
        AutoConfig.from_pretrained(source_of(name), trust_remote_code=False)
    except Exception:  # as above
        near = "" if name in KNOWN_MODELS else model_meant(name)
        return (
            f"--model {name}: neither a folder here nor a model that could be loaded from the hub{near} ({first}); "
            "give a folder, a name on the hub, or mini"
        )
    return f"--model {name}: it cannot be loaded as {kind} ({first}); give a model that is one"
