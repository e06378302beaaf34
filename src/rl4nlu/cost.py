"""What a run will take of memory at its peak, before it is begun and without its weights: a training or an evaluation
of a language model; of classifiers see head_cost.py.

The model is built from its configuration on the device "meta", where tensors have sizes and nothing else, and is run
there, forward and backward, over micro-batches of the task's own rows; every tensor is counted while it is
alive (shapes.py).

    peak = program + weights + adapter + work

* program: what this process has with the same libraries, tokenizer and rows in it, and WORKING; on a GPU nothing;
* weights: of the base model, each parameter in the type of the run, or in as many bits as it is quantised to;
* adapter: LoRA weights, their gradients, the optimizer's moments, and the copies of them that are held (`copies`);
* work: the most that is alive at a time in the first steps: activations kept for the backward pass, logits (a chunk at
  a time), keys and values of answers being sampled, the largest of the quantised matrices written out for its product,
  and what is there for a moment only. On a CPU:

    work = HOLES x (tensors below MAPPED bytes) + (larger ones)
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
from .loading import quantised_layers, size_of
from .mixture import Mixture
from .models import DTYPES, Policy, device_of, lora_config, quiet_peft
from .prepare import EvaluationRows, Rows, TrainingRows
from .rollout import RUN
from .room import resident
from .settings import EvaluateSettings, LoraSettings, PpoSettings, PromptSettings, TrainSettings
from .shapes import META, Counting, StepShapes, TreeShapes, read, whole
from .sources import source_of
from .tasks import Task
from .tokens import SPARE, Batch, Encoded, micro_batches
from .trained import trained_settings

STEPS = 3
"""Steps that are looked at: their micro-batches differ in size, so that some holes are left in the heap."""
MOST = 6
"""Micro-batches of a step that are looked at; they come with the largest first, which is all that counts on a GPU."""
WORKING = 48 << 20
"""What the libraries take once they work: the code of the kernels that are used, the backward pass, files being
written. Measured with `benchmarks/memory.py`."""

Pairs = list[tuple[Sequence[int], Sequence[Sequence[int]]]]


@dataclass(frozen=True)
class Cost:
    """Bytes at the peak of a run, by what they are for."""

    program: int
    weights: int
    adapter: int
    work: int
    tokens: int
    """Of the largest micro-batch."""
    gpu: bool
    doing: str = "training"
    lever: str = "--max-tokens"
    """The setting with which it takes less."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.program + self.weights + self.adapter + self.work

    def __str__(self) -> str:
        where = "of the GPU" if self.gpu else "of this machine"
        parts = {"the program": self.program, "weights": self.weights, "adapter and optimizer": self.adapter}
        told = ", ".join(f"{_size(size)} {name}" for name, size in parts.items() if size)
        return (
            f"memory {where} in {self.doing}: about {_size(self.total)} at the peak ({told}, {_size(self.work)} for "
            f"{self.tokens:,} tokens at a time; less with a smaller {self.lever})"
        )


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def on_gpu(device: str) -> bool:
    """Whether a run on this device, as set, is one on a GPU."""
    return device_of(device).type != "cpu"


def dtype_of(name: str, gpu: bool) -> torch.dtype:
    """The type of the base weights, as set."""
    return DTYPES[name] if name != "auto" else (torch.bfloat16 if gpu else torch.float32)


def training_cost(settings: TrainSettings, rows: TrainingRows, gpu: bool | None = None) -> Cost:
    """The estimate for `sft` or `ppo`.

    Args:
        settings: of the run.
        rows: what it works on (`prepare.prepare_training`).
        gpu: whether it is on a GPU, which need not be here; None: as its `device` says.

    Raises:
        Exception: of whatever kind the libraries raise where there is no such model, or it cannot be built or run
            without weights.
    """
    gpu = on_gpu(settings.device) if gpu is None else gpu
    policy, weights, more = _policy(settings, dtype_of(settings.dtype, gpu), settings.lora)
    policy.model.train(_method(settings) == "sft")
    adapter = sum(_bytes(weight) for weight in policy.trainable())
    if isinstance(settings, PpoSettings) and settings.estimator == "gae":
        policy.value_head = nn.Linear(policy.model.get_output_embeddings().weight.shape[1], 1, device=META)
    mixture = Mixture(_encoded(policy, rows, rows.taught, rows.learnt), settings, _method(settings))
    dev = _encoded(policy, rows, rows.tasks, rows.dev)
    program = 0 if gpu else resident() + WORKING
    look = _Look(policy, settings, mixture, dev, gpu)
    look.run()
    return Cost(program, weights, copies(settings) * adapter, look.most + more, look.tokens, gpu)


def evaluation_cost(settings: EvaluateSettings, rows: EvaluationRows, gpu: bool | None = None) -> Cost:
    """The estimate for `evaluate` of a language model; arguments and errors as of `training_cost`."""
    gpu = on_gpu(settings.device) if gpu is None else gpu
    lora = None if settings.adapter is None else trained_settings(settings.adapter).lora
    policy, weights, more = _policy(settings, dtype_of(settings.dtype, gpu), lora)
    adapter = sum(_bytes(weight) for weight in policy.trainable())
    dev = _encoded(policy, rows, rows.tasks, rows.rows)
    program = 0 if gpu else resident() + WORKING
    look = _Look(policy, settings, None, dev, gpu)
    look.run()
    return Cost(program, weights, adapter, look.most + more, look.tokens, gpu, "evaluation")


def work_bytes(config: Any, dtype: torch.dtype, settings: TrainSettings, rows: Pairs) -> int:
    """The most bytes on a GPU that are alive at a time while rows are read and their gradients taken.

    Args:
        config: the model's.
        dtype: of its weights.
        settings: of the run.
        rows: of a step, (prompt, answers) in tokens.
    """
    policy, _, _ = _around(config, None, settings, dtype, settings.lora)
    policy.model.train(_method(settings) == "sft")
    look = _Look(policy, settings, None, (), gpu=True)
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


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _method(settings: TrainSettings) -> str:
    return "ppo" if isinstance(settings, PpoSettings) else "sft"


def _policy(settings: PromptSettings, dtype: torch.dtype, lora: LoraSettings | None) -> tuple[Policy, int, int]:
    """The policy without its weights; their bytes; those of the largest quantised matrix, once it is written out."""
    source = source_of(settings.model or "")
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    return _around(config, tokenizer, settings, dtype, lora)


def _around(
    config: Any, tokenizer: Any, settings: PromptSettings, dtype: torch.dtype, lora: LoraSettings | None
) -> tuple[Policy, int, int]:
    """As `_policy`, of a configuration."""
    quantize = settings.quantize or "none"
    with META, quiet_peft():
        base: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        base.requires_grad_(False)
        size = size_of(base, None, quantize)
        layers = quantised_layers(base) if quantize != "none" else []
        model: Any = base if lora is None else get_peft_model(base, lora_config(lora))
    shared = bool(getattr(base, "_supports_attention_backend", False)) or is_mpt(base)
    more = max((_bytes(matrix) for layer in layers for matrix in layer.parameters()), default=0)
    return Policy(settings.model or "", model.eval(), tokenizer, shared), size, more


def _encoded(policy: Policy, rows: TrainingRows | EvaluationRows, tasks: Sequence[Task], of: Rows) -> list[Question]:
    return [encode(policy, task, rows.settings, of[task.name], rows.shots[task.name]) for task in tasks]


@dataclass
class _Look:
    """Runs the first steps of a training, and the first rows of an evaluation, and counts."""

    policy: Policy
    settings: TrainSettings | EvaluateSettings
    mixture: Mixture | None
    """None: nothing is trained."""
    dev: Sequence[Question]
    gpu: bool
    tokens: int = 0

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

    @property
    def most(self) -> int:
        """The most bytes that the work has had."""
        return self.counting.peak if self.gpu else self.counting.most

    def run(self) -> None:
        """A few steps, and the first rows of the evaluation."""
        gc.collect()
        settings = self.settings
        with self.counting:
            if self.mixture is not None:
                assert isinstance(settings, TrainSettings)
                for step in range(min(STEPS, optim.steps_of(settings, len(self.mixture)))):
                    self.step(settings, self.mixture, self.mixture.batch(step))
            for question in self.dev:
                self.ask(question)

    def ask(self, question: Question) -> None:
        """The first rows of a task's evaluation."""
        settings = self.settings
        chunk = question.rows[:ROWS]
        if not isinstance(settings, EvaluateSettings) or settings.decode == "score":
            self.passes([(row.ids, distinguishing(row.answers)) for row in chunk], grad=False, closed=True)
            return
        room = settings.answer_tokens or question.rows.encoder.longest_answer + SPARE
        self.sample(chunk, 1, settings.reason + room)

    def step(self, settings: TrainSettings, mixture: Mixture, chosen: Sequence[Encoded]) -> None:
        """One step of the training."""
        if not isinstance(settings, PpoSettings):
            self.passes([(row.ids, [row.answers[row.gold]]) for row in chosen], grad=True)
        elif settings.over_labels:
            rows: Pairs = [(row.ids, distinguishing(row.answers)) for row in chosen]
            for grad in (False, True):  # old and reference scores take the same
                self.passes(rows, grad, closed=True)
        else:
            bridge = max(len(row.bridge) for row in chosen)
            room = settings.answer_tokens or mixture.longest_answer + SPARE
            if settings.reason:
                self.sample(chosen, settings.answers, settings.reason)
            self.sample(chosen, settings.answers, room + settings.reason + bridge)
            # answers as different and as long as can be
            length = room + settings.reason + bridge
            written = [[k, *range(length - 1)] for k in range(settings.answers)]
            rows = [(row.ids, written) for row in chosen]
            for grad in (False, True):  # old and reference scores take the same
                with_gold = grad and settings.sft_coef > 0
                now: Pairs = [(row.ids, [*written, row.answers[row.gold]]) for row in chosen] if with_gold else rows
                self.passes(now, grad, entropy=("gradient" if settings.entropy_coef else "value") if grad else "none")

    def passes(self, rows: Pairs, grad: bool, closed: bool = False, entropy: Entropy = "none") -> None:
        """The forward pass of all rows, and the backward pass."""
        size = getattr(self.settings, "minibatch", None) if grad else None
        batches = micro_batches(rows[: size or len(rows)], self.settings.max_tokens, 0, "cpu")
        with torch.set_grad_enabled(grad):
            for _, batch in zip(range(1 if self.gpu else MOST), batches, strict=False):
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
            words = part_of_vocabulary(states, vocabulary, torch.device("cuda" if self.gpu else "cpu"))
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
        rows: Pairs = [(row.ids, [[0] * room] * K) for row in chosen]
        for _, batch in zip(
            range(1 if self.gpu else MOST), micro_batches(rows, self.settings.max_tokens, 0, "cpu"), strict=False
        ):
            B = len(batch.rows)
            self.tokens = max(self.tokens, len(batch.prompt_tree.ids_N))
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
