"""The policy: a base model with LoRA and, for PPO, a value head. The reference is the same base with another adapter
(or none), so that it costs no second model."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as bytes_of
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from . import files, processes, say
from .errors import Diverged, UserError
from .forward import shares_prefix
from .loading import load_base
from .memory import Memory, keep_freed_pages
from .settings import LoraSettings
from .sources import LABEL_BIAS, VALUE_HEAD, adapter_folder
from .tasks import Task

REFERENCE = "reference"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Policy:
    """A model with what is needed to ask it."""

    name: str
    model: Any
    tokenizer: Any
    shared: bool
    """Whether the shared way of the forward pass is exact for this model."""
    value_head: nn.Linear | None = None
    memory: Memory = field(default_factory=Memory)
    label_bias: dict[str, dict[str, float] | list[float]] = field(default_factory=dict)
    """Task -> log-probability of each label that is taken out of the policy over labels (PPO's `debias`)."""

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def context_length(self) -> int:
        """Tokens that the model can read."""
        return context_of(self.model.config)

    @property
    def pad(self) -> int:
        """A token id to fill up with, of which there is an embedding: some tokenizers have a pad token behind the last
        one. Masks, not ids, say what counts, so that pad may equal EOS."""
        found = self.tokenizer.pad_token_id
        return found if found is not None and found < self.model.get_input_embeddings().weight.shape[0] else 0

    @property
    def end_tokens(self) -> set[int]:
        """Ids that end a generated text."""
        ends = [self.tokenizer.eos_token_id, getattr(self.model.generation_config, "eos_token_id", None)]
        return {i for end in ends for i in (end if isinstance(end, list) else [end]) if i is not None}

    def bias_of(self, task: Task) -> tuple[float, ...] | None:
        """The label bias of a task, or of the task whose training rows teach it, in the order of its labels.

        Raises:
            UserError: it is known for other labels.
        """
        found = self.label_bias.get(task.name) or self.label_bias.get(task.train_task or "")
        if not found:
            return None
        if isinstance(found, dict) and set(found) == set(task.labels):
            return tuple(found[label] for label in task.labels)
        if isinstance(found, dict) or len(found) != len(task.labels):
            raise UserError(f"{task.name}: the adapter has the bias of other labels than {', '.join(task.labels)}")
        return tuple(found)  # as files of before name no labels

    def trainable(self) -> list[nn.Parameter]:
        """LoRA weights and, where there is one, the value head's."""
        return list(self.named_trainable().values())

    def named_trainable(self) -> dict[str, nn.Parameter]:
        """The same, by name."""
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        head = self.value_head.named_parameters() if self.value_head is not None else ()
        return {**named, **{f"value_head.{name}": p for name, p in head}}

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[None]:
        """Within this block the model is the reference policy: PPO's start, frozen."""
        if REFERENCE in self.model.peft_config:
            self.model.set_adapter(REFERENCE, inference_mode=True)
            try:
                yield
            finally:
                self.model.set_adapter("default")
        else:
            with self.model.disable_adapter():
                yield

    def add_value_head(self) -> None:
        """A linear value head in float32, zero at the start, so that the first advantages are the rewards' own."""
        width = self.model.get_output_embeddings().weight.shape[1]
        self.value_head = nn.Linear(width, 1, device=self.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def save(self, folder: Path) -> None:
        """Write the adapter (loads with plain peft) and, beside it, the value head and the label bias."""
        for name, weight in self.named_trainable().items():
            if not bool(torch.isfinite(weight).all()):
                raise Diverged(f"{name} is not finite, so the adapter was not written")
        if not processes.is_main():
            return
        with files.folder_in_one_step(folder / "adapter") as part:
            self.model.save_pretrained(part, selected_adapters=["default"], safe_serialization=True)
            (part / "README.md").unlink(missing_ok=True)  # peft's has gaps to fill in; the run has a card of its own
        if self.value_head is not None:
            weights: dict[str, Tensor] = {k: v.contiguous() for k, v in self.value_head.state_dict().items()}
            files.replace(folder / VALUE_HEAD, bytes_of(weights))
        if self.label_bias:
            files.write_json(folder / LABEL_BIAS, self.label_bias)

    def load_value_head(self, folder: Path) -> bool:
        """Take over the value head of another PPO run, where it has one."""
        path = folder / VALUE_HEAD
        if self.value_head is not None and path.is_file():
            self.value_head.load_state_dict(load_file(path, device=str(self.device)), strict=True)
            return True
        return False


def context_of(config: Any, unknown: int = 2048) -> int:
    """Tokens that a model of this configuration can read; `unknown` where it does not say."""
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    return next((int(n) for name in names if (n := getattr(config, name, None)) and n > 0), unknown)


def load_policy(
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    lora: LoraSettings | None = None,
    adapter: Path | None = None,
    reference: bool = False,
    seed: int = 0,
    quantize: str | None = None,
) -> Policy:
    """Load a base model, and put LoRA on it.

    Args:
        name: `mini`, a folder in the Hugging Face layout, or a name on the hub.
        device: auto, cpu, cuda or cuda:N.
        dtype: of the base weights; auto is bfloat16 on a GPU, float32 elsewhere. LoRA weights are float32 always.
        lora: put a fresh adapter with these settings on the model (unless `adapter` is given).
        adapter: run folder whose adapter to load; trainable where `lora` is given too.
        reference: keep a second, frozen copy of `adapter` as the reference policy.
        seed: of the fresh adapter's weights.
        quantize: 8bit or 4bit: how the base weights are kept; None as none.

    Raises:
        UserError: there is no such model, no such adapter, or the settings do not fit the model or the machine.
    """
    keep_freed_pages()
    place = device_of(device)
    chosen = DTYPES[dtype] if dtype != "auto" else (torch.bfloat16 if place.type == "cuda" else torch.float32)
    if processes.sharded():
        from .sharing import load_share

        model, tokenizer = load_share(name, chosen, place, quantize or "none")
    else:
        model, tokenizer = load_base(name, chosen, place, quantize or "none")
    return around(name, model, tokenizer, lora, adapter, reference, seed)


def around(
    name: str,
    model: Any,
    tokenizer: Any,
    lora: LoraSettings | None = None,
    adapter: Path | None = None,
    reference: bool = False,
    seed: int = 0,
) -> Policy:
    """The policy of a base model that is in memory; the other arguments are as of `load_policy`.

    Raises:
        UserError: there is no such adapter, or the settings do not fit the model.
    """
    model = model.eval().requires_grad_(False)
    shared = shares_prefix(model)
    if not shared:
        say.line(
            f"note: {type(model).__name__} cannot share a prefix exactly; whole sequences are run, which is slower"
        )
    torch.manual_seed(seed)
    with quiet_peft():
        model = with_adapters(model, name, lora, adapter, reference)
    policy = Policy(name, model.eval(), tokenizer, shared)
    bias = None if adapter is None else adapter / LABEL_BIAS
    if bias is not None and bias.is_file():
        policy.label_bias = json.loads(bias.read_text(encoding="utf-8"))
    return policy


def with_adapters(
    model: Any, name: str, lora: LoraSettings | None, adapter: Path | None, reference: bool = False
) -> Any:
    """A base model with adapters put on it, fresh or from a run; the arguments are as of `load_policy`.

    Raises:
        UserError: there is no such adapter, or the settings do not fit the model.
    """
    if adapter is not None:
        folder = adapter_folder(adapter)
        try:
            model = PeftModel.from_pretrained(model, folder, is_trainable=lora is not None)
            if reference:
                model.load_adapter(folder, adapter_name=REFERENCE, is_trainable=False)
                model.set_adapter("default")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as wrong:
            reason = (str(wrong).strip() or type(wrong).__name__).splitlines()[0][:200]
            raise UserError(f"{folder}: this adapter cannot be loaded onto {name} ({reason}); train it again") from None
    elif lora is not None:
        try:
            model = get_peft_model(model, lora_config(lora))
        except ValueError as wrong:
            raise UserError(misfit(lora, name, model, wrong)) from None
    return model


def misfit(lora: LoraSettings, name: str, model: nn.Module, wrong: Exception) -> str:
    """One line on LoRA that cannot be put on a model, with the modules that could have it."""
    linear = dict.fromkeys(
        n.rpartition(".")[2] for n, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)
    )
    reason, known = str(wrong).splitlines()[0].split(". ")[0], ", ".join(linear)
    return f"lora.target {lora.target!r} does not fit {name} ({reason}); give all-linear, or some of {known}"


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """peft asks transformers for an attribute under its old name, mends a setting for GPT-2, and warns of what `merge`
    does right (tied weights of which an adapter is on one end): nothing of it is news."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model (has|with) `tie_word_embeddings=True`", category=UserWarning)
        warnings.filterwarnings("ignore", message="Input and output embeddings are no longer", category=UserWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to", category=UserWarning)
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


def lora_config(lora: LoraSettings, kind: str = "CAUSAL_LM", fresh: Sequence[str] = ()) -> LoraConfig:
    """peft's settings; `bias` stays "none", so that switching the adapter off gives the base model.

    Args:
        lora: rank, scale, targets.
        kind: peft's name of the task.
        fresh: modules without trained weights: they are trained whole, and saved with the adapter.
    """
    target: str | list[str] = (
        lora.target if lora.target == "all-linear" else [t.strip() for t in lora.target.split(",")]
    )
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        target_modules=target,
        bias="none",
        task_type=kind,
        # of heads by their usual names peft takes care itself
        modules_to_save=[name for name in fresh if not {"classifier", "score"} & set(name.split("."))] or None,
        exclude_modules=list(fresh) or None,
    )


def device_of(name: str) -> torch.device:
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())  # of several processes each has one of its own
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: no such device; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: this machine has no usable CUDA GPU; use --device cpu")
    return device
