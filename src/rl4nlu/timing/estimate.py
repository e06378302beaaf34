"""A run's settings -> its seconds, part by part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from .. import optim, say
from ..ask import CHUNK, Question, encode
from ..classifier import EVAL_ROWS, is_decoder
from ..forward.mpt import is_mpt
from ..mixture import shares
from ..models import DTYPES, Policy, context_of, device_of
from ..prepare import (
    ClassifyRows,
    EvaluationRows,
    TrainingRows,
    prepare_classify,
    prepare_evaluation,
    prepare_training,
)
from ..settings import ClassifySettings, EvaluateSettings, LoraSettings, PpoSettings, Settings, TrainSettings
from ..shapes import META
from ..sources import MINI, source_of
from ..tasks import Example, Task
from ..tokens import Encoded
from .machine import Machine
from .methods import Counter, Row
from .probe import probe
from .sizes import Sizes, of_classifier, of_model
from .work import Work, total

STEPS, ROWS = 6, CHUNK
"""Steps of a training, and rows of each task in evaluation, that are looked at; the others are taken to be alike."""
KNOWN = 2048
"""Training rows of a task among which those steps are drawn."""
READ = 5e-5
"""Seconds for a row to be read from its file and looked at, before anything begins."""
SAVING = 1.01
"""Checkpoints cost a hundredth of the time (session.py)."""
SAVED = 7
"""Times that what is trained is written beside them: a checkpoint before the first step and one behind the last, each
with two moments, and the weights at the end."""
Prepared = TrainingRows[Any] | EvaluationRows | ClassifyRows


@dataclass(frozen=True)
class Plan:
    """The work of a run, part by part."""

    sizes: Sizes
    steps: int
    training: Work
    held: Work
    """Held-out rows are scored, to keep the best state."""
    evaluation: Work
    rows: int
    """That are read from files."""
    processes: int = 1

    def on(self, machine: Machine) -> Estimate:
        """How long it takes there."""
        kept = SAVED * 4.0 * self.sizes.trained if self.steps else 0.0
        start = machine.start + (self.sizes.weights * self.sizes.bytes + kept) / machine.disk + self.rows * READ
        return Estimate(
            start=start,
            training=machine.seconds(self.training, self.processes) * SAVING,
            held=machine.seconds(self.held, self.processes),
            evaluation=machine.seconds(self.evaluation, self.processes),
            steps=self.steps,
            machine=machine.name,
        )


@dataclass(frozen=True)
class Estimate:
    """Seconds of a run."""

    start: float
    """Libraries and weights are loaded, rows are read; and what is trained is saved at both ends."""
    training: float
    held: float
    """Held-out rows are scored, to keep the best state."""
    evaluation: float
    steps: int
    machine: str

    @property
    def total(self) -> float:
        """All of them."""
        return self.start + self.training + self.held + self.evaluation

    def __str__(self) -> str:
        parts = [(self.start, "to start"), (self.training, f"for {self.steps:,} steps"), (self.held, "held-out rows")]
        told = ", ".join(f"{_span(part)} {name}" for part, name in [*parts, (self.evaluation, "evaluation")] if part)
        return f"time on {self.machine}: about {_span(self.total)} ({told})"


def _span(seconds: float) -> str:
    """As one says it."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def run_seconds(command: str, settings: Settings) -> float:
    """How long a run will take on this machine.

    Args:
        command: evaluate, sft, ppo or classify.
        settings: of the run. An adapter to start from that is not there yet is taken for one that will be.

    Raises:
        UserError: something in settings or rows is not as it should be.
        Exception: of whatever kind the libraries raise where there is no such model, or it cannot be built.
    """
    return estimate(command, settings).total


def estimate(
    command: str,
    settings: Settings,
    prepared: Prepared | None = None,
    machine: Machine | None = None,
    processes: int = 1,
    sharded: bool = False,
    follows: bool = False,
) -> Estimate:
    """As `run_seconds`, part by part.

    Args:
        command: evaluate, sft, ppo or classify.
        settings: of the run.
        prepared: its rows, if they are read already.
        machine: where it is to run; default: here.
        processes: that share the rows of every step.
        sharded: weights are shared out among them (FSDP).
        follows: it starts from an adapter that `settings` does not name, since it is not there yet.

    Raises:
        Exception: as `run_seconds`.
    """
    plan = plan_of(command, settings, prepared, processes, sharded, follows)
    return plan.on(machine or here(plan, settings))


def here(plan: Plan, settings: Settings) -> Machine:
    """This machine, measured for what a run asks of it."""
    place = device_of(settings.device)
    count = plan.training if plan.steps else plan.evaluation
    usual = int(count.tokens / max(count.passes - count.decode_calls / plan.sizes.layers, 1))
    return probe(plan.sizes, str(place), _dtype(settings), 1 << max(usual, 1).bit_length())


def plan_of(
    command: str,
    settings: Settings,
    prepared: Prepared | None = None,
    processes: int = 1,
    sharded: bool = False,
    follows: bool = False,
) -> Plan:
    """The work of a run; arguments and errors as of `estimate`."""
    if isinstance(settings, ClassifySettings):
        found = prepared if isinstance(prepared, ClassifyRows) else _quietly(prepare_classify, settings)
        return _classify(found, processes, sharded)
    if isinstance(settings, EvaluateSettings):
        rows = prepared if isinstance(prepared, EvaluationRows) else _quietly(prepare_evaluation, settings)
        return _evaluate(rows, follows or settings.adapter is not None, processes, sharded)
    if not isinstance(settings, TrainSettings):
        raise TypeError(f"{command} has no settings whose time can be told")
    taught = follows or settings.init is not None
    if settings.init is not None and not Path(settings.init).exists():
        settings = settings.model_copy(update={"init": None})
    learnt = prepared if isinstance(prepared, TrainingRows) else _quietly(prepare_training, settings)
    return _training(learnt, taught, processes, sharded)


def _quietly(prepare: Any, settings: Settings) -> Any:
    with say.hushed():
        return prepare(settings, reopened=True)


def _dtype(settings: Settings) -> torch.dtype:
    if settings.dtype != "auto":
        return DTYPES[settings.dtype]
    return torch.float32 if device_of(settings.device).type == "cpu" else torch.bfloat16


@lru_cache(maxsize=8)
def _blank(name: str, dtype: torch.dtype) -> Policy:
    """The policy without weights and without an adapter."""
    source = source_of(name)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    with META:
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    shared = bool(getattr(model, "_supports_attention_backend", False)) or is_mpt(model)
    return Policy(name, model, tokenizer, shared)


def spread(rows: Sequence[Example], most: int) -> Sequence[Example]:
    """So many of the rows, evenly spaced."""
    return rows if len(rows) <= most else [rows[i * len(rows) // most] for i in range(most)]


def _rows_of(rows: Sequence[Encoded]) -> list[Row]:
    return [Row(r.ids, r.answers, r.prompt.gold or 0, len(r.bridge), r.prompter.task.name) for r in rows]


# -- commands ----------------------------------------------------------------------------------------------------------


def _asked(counter: Counter, question: Question, count: int, decode: str, room: int | None, reason: int) -> Work:
    """All rows of a task, of which some are looked at."""
    some = _rows_of(list(question.rows))
    return counter.ask(some, decode, room, reason) * (count / len(some)) if some else Work()


def _evaluate(found: EvaluationRows, taught: bool, processes: int, sharded: bool) -> Plan:
    settings = found.settings
    policy = _blank(settings.model or MINI, _dtype(settings))
    sizes = of_model(policy.model, LoraSettings() if taught else None)
    counter = Counter(sizes, settings.max_tokens, policy.shared, taught, processes, sharded)
    parts = []
    for task in found.tasks:
        rows = found.rows[task.name]
        question = encode(policy, task, settings, spread(rows, ROWS), found.shots[task.name])
        parts.append(_asked(counter, question, len(rows), settings.decode, settings.answer_tokens, settings.reason))
    return Plan(sizes, 0, Work(), Work(), total(parts), sum(map(len, found.rows.values())), processes)


def _training(found: TrainingRows[Any], taught: bool, processes: int, sharded: bool) -> Plan:
    settings = found.settings
    policy = _blank(settings.model or MINI, _dtype(settings))
    sizes = of_model(policy.model, settings.lora)
    counter = Counter(sizes, settings.max_tokens, policy.shared, taught, processes, sharded)

    def encoded(task: Task, rows: Sequence[Example], most: int) -> Question:
        return encode(policy, task, settings, spread(rows, most), found.shots[task.name])

    counts = [len(found.learnt[task.name]) for task in found.taught]
    quotas = shares(counts, settings.mixing, settings.mixture_cap)
    steps = optim.steps_of(settings, sum(quotas))
    questions = [encoded(task, found.learnt[task.name], KNOWN) for task in found.taught]
    drawn = np.random.default_rng(0)
    looked = min(STEPS, steps)
    size = settings.batch_size * getattr(settings, "oversample", 1)
    training = total(counter.step(_draw(questions, quotas, size, drawn), settings) for _ in range(looked))
    held = Work()
    for task in found.taught:
        rows = found.held[task.name]
        if rows:
            question = encoded(task, rows, ROWS)
            held += _asked(counter, question, len(rows), "score", None, settings.reason)
    every = max(1, steps // 5)
    dev = Work()
    for task in found.tasks:
        question = encoded(task, found.dev[task.name], ROWS)
        dev += _asked(counter, question, len(found.dev[task.name]), "score", None, settings.reason)
    read = sum(sum(map(len, part.values())) for part in (found.learnt, found.held, found.dev))
    looks = math.ceil(steps / every) + (isinstance(settings, PpoSettings) or settings.init is not None)  # at the start
    return Plan(sizes, steps, training * (steps / looked), held * looks, dev, read, processes)


def _draw(questions: Sequence[Question], quotas: Sequence[int], size: int, drawn: np.random.Generator) -> list[Row]:
    """The rows of a step: those of a task together, no row twice while there are others."""
    share = np.array(quotas) / sum(quotas)
    found: list[Row] = []
    for question, count in zip(questions, np.bincount(drawn.choice(len(share), size, p=share)), strict=False):
        order = drawn.permutation(len(question.rows)).tolist()
        places = [order[i % len(order)] for i in range(count)]
        found += _rows_of(question.rows.take(places))
    return found


def _classify(found: ClassifyRows, processes: int, sharded: bool) -> Plan:
    settings, task = found.settings, found.task
    name = settings.model or ""
    decoder = is_decoder(name)
    lora = settings.lora if settings.tune == "lora" or (settings.tune == "auto" and decoder) else None
    labels = 2 if task.candidates else 1 if task.numeric else len(task.labels)
    sizes = of_classifier(name, labels, lora)
    tokenizer = AutoTokenizer.from_pretrained(source_of(name), trust_remote_code=False)
    config = AutoConfig.from_pretrained(source_of(name), trust_remote_code=False)
    longest = min(settings.max_length or 1 << 30, context_of(config, 512), tokenizer.model_max_length)

    def lengths(rows: Sequence[Example]) -> list[int]:
        each = task.candidates or ("",)
        fields = [{k: v.strip() for k, v in row.fields.items()} | {"candidate": c} for row in rows for c in each]
        texts = ["\n".join(segment.format_map(one) for segment in task.segments) for one in fields]
        ids = tokenizer(texts, verbose=False)["input_ids"]
        return [min(len(one), longest) for one in ids]

    counter = Counter(sizes, 0, shared=False, processes=processes, sharded=sharded)
    per_row = max(1, len(task.candidates))
    inputs = len(found.train) * per_row
    steps = settings.max_steps or max(1, optim.rounded_up(settings.epochs * inputs / settings.batch_size))
    known = lengths(spread(found.train, KNOWN))
    drawn = np.random.default_rng(0)
    looked = min(STEPS, steps)
    training = total(
        counter.classify([known[i] for i in drawn.integers(0, len(known), settings.batch_size)], back=True)
        for _ in range(looked)
    )
    some = lengths(spread(found.dev, ROWS))
    dev = counter.classify(some, back=False, at_once=EVAL_ROWS) * (len(found.dev) * per_row / max(1, len(some)))
    return Plan(sizes, steps, training * (steps / looked), Work(), dev, len(found.train) + len(found.dev), processes)
