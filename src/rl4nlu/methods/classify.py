"""The baselines: a classification head on an encoder (all weights, or LoRA) or on a decoder (LoRA)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import files, optim, processes, stop
from ..ask import Advance, Prediction
from ..card import write_card
from ..checkpoint import OptimizerState, Weights
from ..classifier import CHUNK, Classifier, ask, computing, load_classifier, restore
from ..guards import Source, check_finite, not_finite
from ..identity import PROMPTS, identity_of
from ..prepare import ClassifyRows, EvaluationRows, prepare_classifier_evaluation, prepare_classify
from ..progress import FEW, LINES, Meter
from ..run import Run
from ..seeding import derive, generator
from ..session import Session
from ..settings import ClassifySettings, EvaluateSettings
from ..state import Numbers, Stateful
from ..tasks import Example
from ..trained import trained_classifier
from .evaluate import tally
from .training import check_space

FULL_RATE, LORA_RATE = 5e-5, 1e-3
"""Learning rates at width 384 (all weights) and at width 256 (LoRA); both fall with the root of the width."""


def classify(settings: ClassifySettings, prepared: ClassifyRows | None = None) -> tuple[Run, list[dict[str, Any]]]:
    """The `classify` command: train, save, evaluate on the dev split.

    Raises:
        UserError: something in settings, rows or model is not as it should be; nothing was written then.
    """
    found = prepared or prepare_classify(settings)
    settings, task, rows, dev = found.settings, found.task, found.train, found.dev
    classifier, lora = load_classifier(settings, task)
    if not settings.truncate:
        classifier.refuse_long([*rows, *dev])
    learnt = [weight for weight in classifier.model.parameters() if weight.requires_grad]
    if not found.reopened:
        processes.from_main(lambda: check_space(settings.out, learnt, copies=3))
    with Run.begin("classify", settings, found.reopened) as run:
        run.about(identity_of(settings, [rows, dev], _texts(classifier, dev), classifier.model))
        steps = train(classifier, rows, settings, run, lora)
        with stop.deferred():
            if run.writes:
                _save(classifier, run.path / ("adapter" if lora else "model"))
            extra = {"tune": "lora" if lora else "full", "train_rows": len(rows), "steps": steps}
            split = settings.split or task.eval_split
            results = run.each([task.name], lambda _: measure(classifier, dev, settings.seed, split, run, extra))
            if run.writes:
                write_card(run, settings, results)
    return run, results


def _save(classifier: Classifier, path: Path) -> None:
    with files.folder_in_one_step(path) as folder:
        classifier.tokenizer.save_pretrained(folder)
        classifier.model.save_pretrained(folder, safe_serialization=True)
        (folder / "README.md").unlink(missing_ok=True)  # peft's has gaps to fill in


def evaluate(settings: EvaluateSettings, prepared: EvaluationRows | None = None) -> tuple[Run, list[dict[str, Any]]]:
    """The `evaluate` command with a classifier: on its own task, or on others with the same labels (mnli -> ax).

    Raises:
        UserError: a prompting setting is given, or a task has other labels.
    """
    found = prepared or prepare_classifier_evaluation(settings)
    settings, source = found.settings, found.settings.adapter
    assert source is not None
    trained = trained_classifier(source)
    moved = None if settings.model == trained.model else settings.model
    how = (settings.device, settings.dtype, settings.quantize, moved, settings.max_length)
    classifiers = [restore(source, task, *how) for task in found.tasks]
    if not settings.truncate:
        for classifier in classifiers:
            classifier.refuse_long(found.rows[classifier.task.name])
    names = [task.name for task in found.tasks]

    def work(number: int) -> dict[str, Any]:
        classifier, task = classifiers[number], found.tasks[number]
        return measure(
            classifier, found.rows[task.name], trained.seed, settings.split or task.eval_split, run, {}, LINES
        )

    with Run.begin("evaluate", settings, found.reopened) as run, stop.deferred():
        texts = [text for one in classifiers for text in _texts(one, found.rows[one.task.name])]
        run.about(identity_of(settings, found.rows.values(), texts, classifiers[0].model))
        results = run.each(names, work)
    return run, results


def measure(
    classifier: Classifier,
    rows: Sequence[Example],
    seed: int,
    split: str,
    run: Run,
    extra: dict[str, Any],
    lines: int = FEW,
) -> dict[str, Any]:
    """Ask every row and compute the task's metrics: one entry of results.json."""
    task = classifier.task
    cut = sum(classifier.excess(text) > 0 for row in rows for text in classifier.texts(row))
    entry = {"task": task.name, "method": "classify", **extra, "model": classifier.name, "shots": 0}
    entry |= {"decode": "score", "seed": seed, "split": split, "cut_rows": cut}

    def answers(first: int, advance: Advance) -> Iterator[Prediction]:
        return ask(classifier, rows, advance, first)

    def texts(numbers: Sequence[int]) -> list[str]:
        return ["\n".join("\n".join(text) for text in classifier.texts(rows[i])) for i in numbers]

    found = tally(f"classify {task.name}", task, rows, answers, CHUNK, run, prompts=texts, lines=lines)
    return {**entry, **found}


def _texts(classifier: Classifier, rows: Sequence[Example]) -> list[str]:
    return ["\n".join(text) for row in rows[:PROMPTS] for text in classifier.texts(row)]


# -- training ----------------------------------------------------------------------------------------------------------


def train(classifier: Classifier, rows: Sequence[Example], settings: ClassifySettings, run: Run, lora: bool) -> int:
    """The training loop. Returns the number of steps."""
    inputs = [
        (row, classifier.encode(text), target)
        for row in rows
        for text, target in zip(classifier.texts(row), classifier.targets(row), strict=True)
    ]
    steps = settings.max_steps or max(1, optim.rounded_up(settings.epochs * len(inputs) / settings.batch_size))
    width = classifier.model.config.hidden_size
    usual = LORA_RATE * math.sqrt(256 / width) if lora else FULL_RATE * math.sqrt(384 / width)
    base = settings.learning_rate or usual
    named = {name: weight for name, weight in classifier.model.named_parameters() if weight.requires_grad}
    processes.alike(named)
    weights = list(named.values())
    optimizer = torch.optim.AdamW(_with_decay(weights, settings.weight_decay), lr=0.0)
    # of a whole model also what is no weight and changes all the same, such as running means
    buffers = {} if lora else dict(classifier.model.named_buffers())
    parts: dict[str, Stateful] = {
        "adapter" if lora else "model": Weights({**named, **buffers}),
        "optimizer": OptimizerState(optimizer, named),
        "memory": Numbers(classifier.memory, "most"),
    }
    session = Session(run, parts, steps, settings, classifier.model.device)
    with Meter(f"classify {classifier.task.name}", steps, done=session.step) as meter, session:
        for step in session:
            start = time.perf_counter()
            chosen = [inputs[i] for i in batch_of(len(inputs), settings.batch_size, settings.seed, step)]
            work = partial(gradient, classifier, chosen, settings.seed, step)
            fitting = partial(classifier.memory.fitting, "update", len(chosen), work, smallest=1)
            loss = processes.added(fitting, weights)["loss"]
            rate = optim.rate_at(settings, base, step, steps)
            norm = optim.apply(optimizer, weights, rate, settings.max_grad_norm, _sources(classifier, chosen))
            speed = len(chosen) / (time.perf_counter() - start)
            record = {"step": step + 1, "loss": loss, "grad_norm": norm, "learning_rate": rate}
            run.log({**record, "examples_per_second": speed})
            meter.advance(1, loss=loss, examples_per_second=speed)
    return steps


Input = tuple[Example, dict[str, Any], float | int]
"""A row, one of its texts in tokens, and what the head should say of it."""


def batch_of(count: int, size: int, seed: int, step: int) -> list[int]:
    """Which inputs a step sees: each comes once an epoch, in a fresh order; a batch may span two epochs."""
    places = range(step * size, (step + 1) * size)
    return [int(_order(count, seed, place // count)[place % count]) for place in places]


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return generator(seed, "order/classify", epoch).permutation(count)


def gradient(classifier: Classifier, chosen: Sequence[Input], seed: int, step: int, most: int) -> dict[str, float]:
    """This process's share of the gradient of a step's loss, in the weights' `grad`; and of the loss, the mean over the
    inputs.

    Args:
        classifier: model and head.
        chosen: the step's inputs.
        seed: of dropout, with the step.
        step: number of the step.
        most: inputs that go through the model at a time.
    """
    model = classifier.model
    optim.clear(list(model.parameters()))
    model.train()
    torch.manual_seed(derive(seed, processes.own("dropout"), step))
    total = 0.0
    mine = [chosen[i] for i in processes.share(len(chosen))]
    for start in range(0, len(mine), most):
        stop.poll()
        part = mine[start : start + most]
        batch = classifier.tokenizer.pad([inputs for _, inputs, _ in part], return_tensors="pt").to(model.device)
        targets = torch.tensor([target for _, _, target in part], device=model.device)
        with computing(model):
            logits = model(**batch).logits.float()
        loss = loss_of(logits, targets) / len(chosen)
        if not math.isfinite(loss.item()):
            check_finite("the logits are", _sources(classifier, part), logits)
            raise not_finite("the loss is", _sources(classifier, part))
        loss.backward()
        total += loss.item()
    return {"loss": total}


def loss_of(logits_BC: Tensor, target_B: Tensor) -> Tensor:
    """Sum over the inputs: cross-entropy, or of numbers the squared error."""
    if target_B.is_floating_point():
        return F.mse_loss(logits_BC.squeeze(-1), target_B, reduction="sum")
    return F.cross_entropy(logits_BC, target_B, reduction="sum")


def _with_decay(weights: Sequence[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Biases and the scales of normalisations do not decay: they are vectors, what decays are matrices."""
    return [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]


def _sources(classifier: Classifier, inputs: Sequence[Input]) -> list[Source]:
    return [(classifier.task.name, row) for row, _, _ in inputs]
