"""The baselines: a classification head on an encoder (all weights, or LoRA) or on a decoder (LoRA), trained with
transformers' own Trainer."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from .card import write_card
from .classifier import Classifier, ask, load_classifier, restore
from .evaluate import tally
from .prepare import ClassifyRows, EvaluationRows, prepare_classifier_evaluation, prepare_classify
from .run import Meter, Run
from .seeding import derive
from .settings import ClassifySettings, EvaluateSettings
from .tasks import Example
from .trained import trained_classifier

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
    run = Run.create("classify", settings)
    steps = train(classifier, rows, settings, run, lora)
    classifier.tokenizer.save_pretrained(run.path / ("adapter" if lora else "model"))
    classifier.model.save_pretrained(run.path / ("adapter" if lora else "model"), safe_serialization=True)
    extra = {"tune": "lora" if lora else "full", "train_rows": len(rows), "steps": steps}
    results = [measure(classifier, dev, settings.seed, settings.split or task.eval_split, run, extra)]
    run.write_results(results)
    write_card(run, settings, results)
    return run, results


def evaluate(settings: EvaluateSettings, prepared: EvaluationRows | None = None) -> tuple[Run, list[dict[str, Any]]]:
    """The `evaluate` command with a classifier: on its own task, or on others with the same labels (mnli -> ax).

    Raises:
        UserError: a prompting setting is given, or a task has other labels.
    """
    found = prepared or prepare_classifier_evaluation(settings)
    settings, source = found.settings, found.settings.adapter
    assert source is not None
    seed = trained_classifier(source).seed
    classifiers = [restore(source, task, settings.device, settings.dtype) for task in found.tasks]
    if not settings.truncate:
        for classifier in classifiers:
            classifier.refuse_long(found.rows[classifier.task.name])
    run, results = Run.create("evaluate", settings), []
    for classifier in classifiers:
        split = settings.split or classifier.task.eval_split
        results.append(measure(classifier, found.rows[classifier.task.name], seed, split, run, {}))
        run.write_results(results)
    return run, results


def measure(
    classifier: Classifier, rows: Sequence[Example], seed: int, split: str, run: Run, extra: dict[str, Any]
) -> dict[str, Any]:
    """Ask every row and compute the task's metrics: one entry of results.json."""
    task = classifier.task
    cut = sum(
        len(classifier.encode(text)["input_ids"]) >= classifier.max_length
        for row in rows
        for text in classifier.texts(row)
    )
    entry = {"task": task.name, "method": "classify", **extra, "model": classifier.name, "shots": 0}
    entry |= {"decode": "score", "seed": seed, "split": split, "cut_rows": cut}
    found = tally(f"classify {task.name}", task, len(rows), lambda advance: ask(classifier, rows, advance), run)
    return {**entry, **found}


# -- training ----------------------------------------------------------------------------------------------------------


def train(classifier: Classifier, rows: Sequence[Example], settings: ClassifySettings, run: Run, lora: bool) -> int:
    """Train with transformers' Trainer. Returns the number of steps."""
    inputs = []
    for row in rows:
        for text, target in zip(classifier.texts(row), classifier.targets(row), strict=True):
            inputs.append({**classifier.encode(text), "labels": target})
    steps = settings.max_steps or max(1, math.ceil(settings.epochs * len(inputs) / settings.batch_size))
    width = classifier.model.config.hidden_size
    usual = LORA_RATE * math.sqrt(256 / width) if lora else FULL_RATE * math.sqrt(384 / width)
    constant = "constant_with_warmup" if settings.warmup else "constant"
    place = classifier.model.device.type
    seed = derive(settings.seed, "classify") % 2**32
    arguments = TrainingArguments(
        output_dir=str(run.path / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate or usual,
        lr_scheduler_type=constant if settings.schedule == "constant" else "linear",
        warmup_steps=math.ceil(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=seed,
        data_seed=seed,
        bf16=place == "cuda" and settings.dtype == "auto",
        use_cpu=place == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=place == "cuda",
        remove_unused_columns=False,
    )
    with Meter(f"classify {classifier.task.name}", steps) as meter:
        trainer = Trainer(
            model=classifier.model,
            args=arguments,
            train_dataset=inputs,
            data_collator=lambda batch: _collate(classifier, batch),
            callbacks=[_Log(run, meter, settings.batch_size)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    with contextlib.suppress(OSError):
        (run.path / "checkpoints").rmdir()  # Trainer makes the folder, used or not
    return steps


def _collate(classifier: Classifier, batch: list[dict[str, Any]]) -> dict[str, Any]:
    labels = torch.tensor([row["labels"] for row in batch])
    inputs = [{name: value for name, value in row.items() if name != "labels"} for row in batch]
    return {**classifier.tokenizer.pad(inputs, return_tensors="pt"), "labels": labels}


class _Log(TrainerCallback):
    """Writes every step to metrics.jsonl and moves the bar."""

    def __init__(self, run: Run, meter: Meter, batch_size: int) -> None:
        self.run, self.meter, self.batch_size = run, meter, batch_size
        self.start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(f"the loss is {logs['loss']} at step {state.global_step}")
        speed = self.batch_size / (time.perf_counter() - self.start)
        known: dict[str, Any] = {name: logs[name] for name in ("loss", "grad_norm", "learning_rate") if name in logs}
        self.run.log({"step": state.global_step, **known, "examples_per_second": speed})
        self.meter.advance(1, loss=logs["loss"], examples_per_second=speed)
