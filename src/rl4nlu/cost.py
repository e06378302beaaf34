"""What a training will take of memory at its peak, before it is begun and without its weights.

The model is built from its configuration on the device "meta", where tensors have sizes and nothing else, and is run
there, forward and backward, over micro-batches of the task's own rows; every tensor is counted while it is
alive (shapes.py).

    peak = program + weights + adapter + work

* program: what this process has with the same libraries, tokenizer and rows in it, and WORKING; on a GPU nothing;
* weights: of the base model, each parameter in the type of the run;
* adapter: LoRA weights, their gradients, the optimizer's moments, and the copies of them that are held (`copies`);
* work: the most that is alive at a time in the first steps: activations kept for the backward pass, logits (a chunk at
  a time), keys and values of answers being sampled, and what is there for a moment only. On a CPU:

    work = HOLES x (tensors below MAPPED bytes) + (larger ones)
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from . import optim
from .ask import CHUNK as ROWS
from .ask import Question, encode
from .forward import Entropy
from .forward.last_layer import wanted_only
from .forward.mpt import is_mpt
from .forward.projection import part_of_vocabulary, projecting
from .labels import distinguishing
from .mixture import Mixture
from .models import DTYPES, Policy, device_of, lora_config, quiet_peft
from .prepare import TrainingRows
from .rollout import RUN
from .settings import PpoSettings, TrainSettings
from .shapes import META, Counting, StepShapes, TreeShapes, read, whole
from .sources import source_of
from .tokens import Batch, Encoded, micro_batches

STEPS = 3
"""Steps that are looked at: their micro-batches differ in size, so that some holes are left in the heap."""
MOST = 6
"""Micro-batches of a step that are looked at; they come with the largest first."""
WORKING = 48 << 20
"""What the libraries take once they work: the code of the kernels that are used, the backward pass, files being
written. Measured with `benchmarks/memory.py`."""

Rows = list[tuple[Sequence[int], Sequence[Sequence[int]]]]


@dataclass(frozen=True)
class Cost:
    """Bytes at the peak of a training, by what they are for."""

    program: int
    weights: int
    adapter: int
    work: int
    tokens: int
    """Of the largest micro-batch."""
    gpu: bool

    @property
    def total(self) -> int:
        """All of them."""
        return self.program + self.weights + self.adapter + self.work

    def __str__(self) -> str:
        where = "of the GPU" if self.gpu else "of this machine"
        parts = {"the program": self.program, "weights": self.weights, "adapter and optimizer": self.adapter}
        told = ", ".join(f"{_size(size)} {name}" for name, size in parts.items() if size)
        return (
            f"memory {where} in training: about {_size(self.total)} at the peak ({told}, {_size(self.work)} for "
            f"{self.tokens:,} tokens at a time; less with a smaller --max-tokens)"
        )


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def training_cost(settings: TrainSettings, rows: TrainingRows) -> Cost:
    """The estimate for `sft` or `ppo`.

    Args:
        settings: of the run.
        rows: what it works on (`prepare.prepare_training`).

    Raises:
        Exception: of whatever kind the libraries raise where there is no such model, or it cannot be built or run
            without weights.
    """
    place = device_of(settings.device)
    gpu = place.type != "cpu"
    dtype = DTYPES[settings.dtype] if settings.dtype != "auto" else (torch.bfloat16 if gpu else torch.float32)
    policy = _policy(settings, dtype)
    adapter = sum(_bytes(weight) for weight in policy.trainable())
    weights = sum(_bytes(weight) for weight in policy.model.parameters()) - adapter
    if isinstance(settings, PpoSettings) and settings.estimator == "gae":
        policy.value_head = nn.Linear(policy.model.get_output_embeddings().weight.shape[1], 1, device=META)
    mixture = Mixture(_encoded(policy, rows, rows.taught, rows.learnt), settings, _method(settings))
    dev = _encoded(policy, rows, rows.tasks, rows.dev)
    program = 0 if gpu else resident() + WORKING
    look = _Look(policy, settings, mixture, dev)
    look.run()
    work = look.counting.peak if gpu else look.counting.most
    return Cost(program, weights, copies(settings) * adapter, work, look.tokens, gpu)


def work_bytes(config: Any, dtype: torch.dtype, settings: TrainSettings, rows: Rows) -> int:
    """The most bytes on a GPU that are alive at a time while rows are read and their gradients taken.

    Args:
        config: the model's.
        dtype: of its weights.
        settings: of the run.
        rows: of a step, (prompt, answers) in tokens.
    """
    policy = _around(config, None, settings, dtype)
    policy.shared = policy.shared or is_mpt(policy.model)
    look = _Look(policy, settings, None, (), place=torch.device("cuda"))
    gc.collect()
    with look.counting:
        look.passes(rows, grad=True, entropy="value" if isinstance(settings, PpoSettings) else "none")
    return look.counting.peak


def copies(settings: TrainSettings) -> int:
    """Tensors of the adapter's size that are there at a time: weights, gradients, moments; the best state; of PPO the
    state before the step, and the reference."""
    moments = 2 if settings.optimizer == "adamw" else 0
    held = (1 + moments + (settings.init is not None)) if isinstance(settings, PpoSettings) else 0
    return 2 + moments + bool(settings.select_rows) + held


def resident() -> int:
    """Bytes of this process that are in memory."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _method(settings: TrainSettings) -> str:
    return "ppo" if isinstance(settings, PpoSettings) else "sft"


def _policy(settings: TrainSettings, dtype: torch.dtype) -> Policy:
    """The policy without its weights."""
    source = source_of(settings.model or "")
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    return _around(config, tokenizer, settings, dtype)


def _around(config: Any, tokenizer: Any, settings: TrainSettings, dtype: torch.dtype) -> Policy:
    """The policy of a configuration."""
    with META, quiet_peft():
        base: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        base.requires_grad_(False)
        model: Any = get_peft_model(base, lora_config(settings.lora))
    shared = bool(getattr(base, "_supports_attention_backend", False))
    model.train(_method(settings) == "sft")
    return Policy(settings.model or "", model, tokenizer, shared)


def _encoded(policy: Policy, rows: TrainingRows, tasks: Sequence[Any], of: Any) -> list[Question]:
    return [encode(policy, task, rows.settings, of[task.name], rows.shots[task.name]) for task in tasks]


@dataclass
class _Look:
    """Runs the first steps of a training, and counts."""

    policy: Policy
    settings: TrainSettings
    mixture: Mixture | None
    dev: Sequence[Question]
    tokens: int = 0
    place: torch.device | None = None
    """Where it will be run; default: where the settings say."""

    def __post_init__(self) -> None:
        model = self.policy.model
        self.counting = Counting([*model.parameters(), *model.buffers()])
        self.bare = True
        with torch.no_grad():  # before counting: are the logits those of the output embedding?
            head, seen = model.get_output_embeddings(), []
            handle = head.register_forward_hook(lambda _, args, out: seen.append(out))
            logits = whole(model, 1, 2)
            handle.remove()
            self.bare = type(head) is nn.Linear and logits.untyped_storage()._cdata == seen[0].untyped_storage()._cdata

    def run(self) -> None:
        """A few steps, and the first rows of the evaluation."""
        gc.collect()
        assert self.mixture is not None
        with self.counting:
            for step in range(min(STEPS, optim.steps_of(self.settings, len(self.mixture)))):
                self.step(self.mixture.batch(step))
            for question in self.dev:
                chunk = question.rows[:ROWS]
                self.passes([(row.ids, distinguishing(row.answers)) for row in chunk], grad=False, closed=True)
                del chunk

    def step(self, chosen: Sequence[Encoded]) -> None:
        """One step of the training."""
        settings = self.settings
        if not isinstance(settings, PpoSettings):
            self.passes([(row.ids, [row.answers[row.gold]]) for row in chosen], grad=True)
        elif settings.over_labels:
            rows: Rows = [(row.ids, distinguishing(row.answers)) for row in chosen]
            for grad in (False, True):  # old and reference scores take the same
                self.passes(rows, grad, closed=True)
        else:
            assert self.mixture is not None
            bridge = max(len(row.bridge) for row in chosen)
            room = settings.answer_tokens or self.mixture.longest_answer + 4
            if settings.reason:
                self.sample(chosen, settings.answers, settings.reason)
            self.sample(chosen, settings.answers, room + settings.reason + bridge)
            # answers as different and as long as can be
            length = room + settings.reason + bridge
            written = [[k, *range(length - 1)] for k in range(settings.answers)]
            rows = [(row.ids, written) for row in chosen]
            for grad in (False, True):  # old and reference scores take the same
                with_gold = grad and settings.sft_coef > 0
                now: Rows = [(row.ids, [*written, row.answers[row.gold]]) for row in chosen] if with_gold else rows
                self.passes(now, grad, entropy=("gradient" if settings.entropy_coef else "value") if grad else "none")

    def passes(self, rows: Rows, grad: bool, closed: bool = False, entropy: Entropy = "none") -> None:
        """The forward pass of all rows, and the backward pass."""
        size = getattr(self.settings, "minibatch", None) if grad else None
        batches = micro_batches(rows[: size or len(rows)], self.settings.max_tokens, 0, "cpu")
        with torch.set_grad_enabled(grad):
            for _, batch in zip(range(MOST), batches, strict=False):
                self.one(batch, grad, closed, entropy)

    def one(self, batch: Batch, grad: bool, closed: bool, entropy: Entropy) -> None:
        """One micro-batch."""
        kept: list[Any] = []
        tree = batch.tree
        wanted = len(tree.source_BKA[batch.answer_mask_BKA].unique())
        model = self.policy.model

        def project(hidden: Tensor) -> Tensor:
            hidden_MD = hidden.flatten(0, -2)
            if len(hidden_MD) != wanted:
                hidden_MD = hidden_MD.index_select(0, torch.zeros(wanted, dtype=torch.long, device=META))
            kept.append(hidden_MD)
            self.logits(hidden_MD, grad, closed, entropy, kept)
            return hidden_MD.new_empty((1, 0, 1))

        if self.policy.shared:
            self.tokens = max(self.tokens, len(tree.ids_N))
            context = TreeShapes(tree, wanted, model.dtype)
            with wanted_only(model), projecting(model, project):
                read(model, len(tree.ids_N), context)
        else:
            rows, K, _ = batch.answer_BKA.shape
            longest = max(map(len, batch.prompts)) + max((len(a) for row in batch.answers for a in row), default=0)
            self.tokens = max(self.tokens, rows * K * longest)
            with projecting(model, project):
                whole(model, rows * K, longest)
        if grad:
            kept[0].backward(torch.empty_like(kept[0]))

    def logits(self, hidden_MD: Tensor, grad: bool, closed: bool, entropy: Entropy, kept: list[Any]) -> None:
        """What the projection takes: some logits for a moment, and what its gradient is made of."""
        vocabulary = self.policy.model.get_output_embeddings().weight.shape[0]
        if closed:
            return
        states, words, sums = len(hidden_MD), vocabulary, 0
        if not self.bare:
            kept += [torch.empty((states, vocabulary), device=META) for _ in range(3)] if grad else []
        else:
            words = part_of_vocabulary(states, vocabulary, self.place or device_of(self.settings.device))
            sums = 1 + (entropy == "gradient") if grad else 0
        kept += [torch.empty_like(hidden_MD) for _ in range(sums)]
        here = [torch.empty((states, words), device=META) for _ in range(1 if entropy == "none" else 2)]
        here += [torch.empty(hidden_MD.shape, device=META) for _ in range(sums)]
        if hidden_MD.dtype != torch.float32:
            here.append(hidden_MD.new_empty((states, words)))

    @torch.no_grad()
    def sample(self, chosen: Sequence[Encoded], K: int, room: int) -> None:
        """Answers being sampled: the prompts' keys and values, and the logits behind every answer so far."""
        model = self.policy.model
        head = model.get_output_embeddings()
        rows: Rows = [(row.ids, [[0] * room] * K) for row in chosen]
        for _, batch in zip(range(MOST), micro_batches(rows, self.settings.max_tokens, 0, "cpu"), strict=False):
            B = len(batch.rows)
            made_up = partial(_logits, vocabulary=len(head.weight), rows=B)
            if not self.policy.shared:
                with projecting(model, partial(made_up, rows=B * K)):
                    whole(model, B * K, max(map(len, batch.prompts)) + room)
                continue
            tree = batch.prompt_tree
            context = TreeShapes(tree, B, model.dtype, (K, room))
            with wanted_only(model), projecting(model, made_up):
                logits_BV = read(model, len(tree.ids_N), context)[0]
            self.draw(logits_BV.repeat_interleave(K, 0))
            with projecting(model, partial(made_up, rows=B * K)):
                logits_MV = read(model, B * K, StepShapes(B, K, tree.deepest + 1 + room))[0]
            self.draw(logits_MV)

    def draw(self, logits_MV: Tensor) -> None:
        """As `rollout.draw`."""
        logp_MV = logits_MV.float().log_softmax(-1)
        p_MV = logp_MV.exp()
        torch.nn.functional.pad(p_MV, (0, -p_MV.shape[1] % RUN))


def _logits(hidden: Tensor, vocabulary: int, rows: int) -> Tensor:
    return hidden.new_empty((1, rows, vocabulary))
