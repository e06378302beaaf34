"""Base model and LoRA adapter of a run made one: a folder in the Hugging Face layout that needs no peft."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig

from . import files, stop
from .card import card
from .classifier import computing, restore
from .errors import UserError
from .finished import Finished, licence_of, mergeable
from .loading import cannot_load, load_base, written_out
from .models import DTYPES, quiet_peft, with_adapters
from .sources import LABEL_BIAS, source_of
from .tasks import find
from .trained import base_now, own_task, trained_classifier
from .usage import Place, evaluation_of

SHARD = "5GB"
"""Most that one file of weights holds."""
KEPT = ("config.yaml", "command.txt", "results.json", "environment.json", LABEL_BIAS)
"""What of the run goes into the folder too."""
CLOSE = 1e-3
"""Largest difference in a log-probability that float32 explains."""


@dataclass(frozen=True)
class Merged:
    """A folder that was written."""

    path: Path
    size: int
    """Bytes of the weights."""
    dtype: str
    difference: float
    """Largest difference to base model and adapter, in a made-up text's log-probabilities (of a classifier: logits)."""
    quantised: str
    """How the base was kept in training: none, 8bit or 4bit."""
    biased: bool
    """Whether the run's policy takes out a label bias, which is in no weight."""
    ask: str
    """The command that asks the model as it was trained."""


def notes(made: Merged) -> list[str]:
    """What the user should know of a merged model."""
    found = []
    if made.dtype != "float32":
        found.append(f"note: {made.dtype} rounds what was added to the weights; merge --dtype float32 keeps it")
    if made.quantised != "none":
        found.append(
            f"note: the adapter was trained on weights of {made.quantised}; it is merged into what these stand for, "
            "written out in full"
        )
    if made.biased:
        found.append(
            "note: this policy takes a bias out of the label words, which no weight can hold: the model has it in again"
        )
    return found


def merge(run: Path, out: Path, dtype: str = "base", name: str | None = None, model: str | None = None) -> Merged:
    """Write a model that says what base model and adapter say together.

    All happens on the CPU, in the memory of one model; a folder that is there is whole.

    Args:
        run: folder of a finished sft or ppo run, or of a classifier with LoRA.
        out: new or empty folder.
        dtype: of the weights; base: as the base model's files.
        name: what the card calls the folder (default: `out`).
        model: the folder of the base model, if it was moved.

    Raises:
        UserError: there is nothing to merge, the disk has no room, or the merged model says something else.
    """
    found = mergeable(run)
    base = base_now(run, found.base, model)
    found = replace(found, settings=found.settings.model_copy(update={"model": base}))
    chosen = _dtype_of(found.base) if dtype == "base" else dtype
    whole, tokenizer = _load(found, chosen)
    size = sum(weight.numel() * weight.element_size() for weight in whole.parameters())
    if (free := files.free_bytes(out)) < size:
        raise UserError(
            f"--out {out}: the model needs about {size / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; free some, or "
            "name a folder on another disk"
        )
    whole, difference = _merged(found, whole, DTYPES[chosen])
    size = sum(weight.numel() * weight.element_size() for weight in whole.parameters())
    with files.folder_in_one_step(out, size) as part, stop.deferred():
        _write(part, found, whole, tokenizer, name or str(out))
    quantised = getattr(found.settings, "quantize", None) or "none"
    return Merged(out, size, chosen, difference, quantised, found.biased, _question(found, str(out)))


def _dtype_of(base: str) -> str:
    """The type of the numbers in a base model's files, as its configuration names it."""
    try:
        config = AutoConfig.from_pretrained(source_of(base), trust_remote_code=False)
    except Exception as wrong:  # of a model made by others anything may be wrong, and libraries raise many kinds
        raise UserError(cannot_load(base, wrong, "a model")) from None
    name = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return name if name in DTYPES else "float32"


def _load(found: Finished, dtype: str) -> tuple[Any, Any]:
    """Base model with the adapter on it, and tokenizer. What was quantised in training is, too, and is then written
    out: with these weights the adapter was trained, not with those of the files."""
    cpu, quantize = torch.device("cpu"), getattr(found.settings, "quantize", None) or "none"
    if found.classifier:
        task = find(own_task(found.path, found.settings.task))
        base = found.base if found.base != trained_classifier(found.path).model else None
        classifier = restore(found.path, task, "cpu", dtype, model=base, in_full=True)
        return classifier.model.eval(), classifier.tokenizer
    model, tokenizer = load_base(found.base, DTYPES[dtype], cpu, quantize)
    if quantize != "none":
        model = written_out(model, DTYPES[dtype])
    elif getattr(model.config, "quantization_config", None) is not None:
        raise UserError(
            f"{found.base} is quantised in its own files, into which nothing can be merged; use the adapter"
        )
    with quiet_peft():
        return with_adapters(model.eval(), found.base, None, found.path), tokenizer


@torch.no_grad()
def _merged(found: Finished, model: Any, dtype: torch.dtype) -> tuple[Any, float]:
    """The model without adapter, and how far what it says is from what it said before.

    Raises:
        UserError: further than rounding explains.
    """
    before = _said(found, model)
    stop.poll()
    _untie(model)
    with quiet_peft():
        model = model.merge_and_unload(safe_merge=True)
    if found.classifier:
        model = model.to(dtype)  # the head was kept in float32
    difference = float((_said(found, model) - before).abs().max())
    if not difference <= (CLOSE if dtype == torch.float32 else float("inf")):
        raise UserError(
            f"{found.path}: merged into the weights of {found.base}, the adapter says something else (off by "
            f"{difference:.1e}); use it as an adapter"
        )
    return model, difference


def _said(found: Finished, model: Any) -> Tensor:
    """What a model says of a made-up text: log-probabilities, or a classifier's logits."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary // 2, (2, 12), generator=torch.Generator().manual_seed(0)) + vocabulary // 4
    with computing(model) if found.classifier else nullcontext():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
    return logits if found.classifier else logits.log_softmax(-1)


def _untie(model: Any) -> None:
    """Give the output its own weights where they are the input embedding's and the adapter is about one of both: what
    is added to the one must not be added to the other."""
    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if not all(isinstance(getattr(end, "weight", None), Tensor) for end in ends):
        return
    layers = [getattr(end, "base_layer", end) for end in ends]
    adapted = any(layer is not end for layer, end in zip(layers, ends, strict=True))
    if adapted and layers[0].weight.data_ptr() == layers[1].weight.data_ptr():
        layers[1].weight = nn.Parameter(layers[1].weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False


def _write(folder: Path, found: Finished, model: Any, tokenizer: Any, name: str) -> None:
    """Fill the folder: weights, tokenizer, how texts are generated, what is known of the run, a card."""
    # saving refuses settings of generation that contradict each other, which many models have: they stay as they are
    generation, model.generation_config = getattr(model, "generation_config", None), GenerationConfig()
    model.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if generation is not None and not found.classifier:
        files.write_text(folder / "generation_config.json", generation.to_json_string())
    for kept in (*KEPT, *(f"tasks/{file.name}" for file in found.task_files)):
        if (found.path / kept).is_file():
            (folder / kept).parent.mkdir(exist_ok=True)
            shutil.copyfile(found.path / kept, folder / kept)
    whole = replace(found, whole=True, weights=folder)
    command = (found.path / "command.txt").read_text(encoding="utf-8").strip()
    text = card(whole, Place(name, name, found.base), command, licence_of(found.base))
    files.write_text(folder / "README.md", text)


def _question(found: Finished, folder: str) -> str:
    return f"rl4nlu evaluate --adapter {folder}" if found.classifier else evaluation_of(found, folder, folder)
