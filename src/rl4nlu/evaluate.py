"""Ask the model every row of a split: score the label words, or generate an answer and parse it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from . import data
from .config import EvaluateSettings, LoraSettings, Settings, TrainSettings, validate
from .errors import UserError
from .forward import score
from .labels import closed_set_logp, distinguishing
from .metrics import Outcome, compute
from .models import MINI, Policy, adapter_folder, base_of, load_policy
from .prompts import Prompter, chat_wrapper, choose_shots
from .rollout import sample, uniforms
from .run import Meter, Run, check_free, read_config
from .tasks import Example, Task, find_all
from .tokens import Encoded, EncodedRows, Encoder, micro_batches

S = TypeVar("S", bound=Settings)
T = TypeVar("T", bound=TrainSettings)
CHUNK = 512
"""Rows that are put in order of length and worked on before their predictions are written."""


@dataclass(frozen=True)
class Prediction:
    """The model's answer to one row."""

    example: Example
    label: str | None
    """A label of the task, a number as text, or None where the text could not be parsed."""
    scores: dict[str, float] | None = None
    """Label -> log-probability within the closed set, where labels were scored."""
    text: str | None = None
    """Where an answer was generated."""

    @property
    def row(self) -> dict[str, Any]:
        """As it stands in predictions.jsonl: enough to compute every metric again and to write a server's file."""
        scores = None if self.scores is None else {label: round(value, 6) for label, value in self.scores.items()}
        row = {"id": self.example.id, "gold": self.example.label, "prediction": self.label}
        places = {"group": self.example.group, "document": self.example.document, "meta": self.example.meta}
        return {**row, "scores": scores, "text": self.text, **{name: v for name, v in places.items() if v}}

    def outcome(self, task: Task) -> Outcome:
        """What the metrics need of it."""
        confidence = self.scores[task.labels[-1]] if self.scores and not task.numeric else None
        return Outcome(self.example, self.label, confidence)


@dataclass(frozen=True)
class Question:
    """A task made ready for a model: prompts, their tokens, the rows."""

    task: Task
    prompter: Prompter
    rows: EncodedRows


def encode(policy: Policy, task: Task, settings: Settings, examples: Sequence[Example]) -> Question:
    """Write and encode the prompts of these examples, with the settings' few-shot examples."""
    chosen: tuple[Example, ...] = ()
    if settings.shots:
        teacher = data.training_task(task)
        chosen = choose_shots(task, data.load(teacher, "train", settings.data), settings.shots, settings.seed)
    chat = chat_wrapper(policy.tokenizer) if settings.chat else None
    prompter = Prompter(task, settings.template or "plain", chosen, chat)
    encoder = Encoder(
        policy.tokenizer, prompter, min(settings.max_length or policy.context_length, policy.context_length)
    )
    return Question(task, prompter, EncodedRows(encoder, examples))


@torch.no_grad()
def ask(
    policy: Policy,
    question: Question,
    decode: str,
    settings: Settings,
    answer_tokens: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Iterator[Prediction]:
    """The model's answer to every row, chunk by chunk in the order of the rows."""
    policy.model.eval()
    longest = answer_tokens or question.rows.encoder.longest_answer + 4
    for start in range(0, len(question.rows), CHUNK):
        chunk = question.rows[start : start + CHUNK]
        if decode == "score":
            yield from _scored(policy, question, chunk, settings.max_tokens, advance)
        else:
            uniform = None
            if decode == "sample":
                uniform = uniforms(len(chunk), 1, longest, settings.seed, f"decode/{question.task.name}", start)
            prompts = [row.ids for row in chunk]
            answers = sample(policy, prompts, question.prompter.finished, longest, settings.max_tokens, uniform)
            for row, (answer,) in zip(chunk, answers, strict=True):
                label = question.prompter.parse(answer.text)
                yield Prediction(row.prompt.example, label, text=answer.text)
            advance(len(chunk))


def _scored(policy: Policy, question: Question, chunk: list[Encoded], max_tokens: int, advance) -> Iterator[Prediction]:
    task = question.task
    cut = [distinguishing(row.answers) for row in chunk]
    found: dict[int, Prediction] = {}
    rows = [(row.ids, answers) for row, answers in zip(chunk, cut, strict=True)]
    for batch in micro_batches(rows, max_tokens, policy.pad, policy.device):
        logp_BKA = score(policy.model, batch, policy.shared).logp_BKA
        for i, row in enumerate(batch.rows):
            logp_K = closed_set_logp(logp_BKA[i : i + 1].double(), cut[row])[0]
            scores = dict(zip(task.labels, logp_K.tolist(), strict=True))
            if task.numeric:
                label = f"{sum(float(v) * p for v, p in zip(task.labels, logp_K.exp().tolist(), strict=True)):.4f}"
            else:
                label = max(scores, key=lambda name: scores[name])
            found[row] = Prediction(chunk[row].prompt.example, label, scores)
        advance(len(batch.rows))
    yield from (found[i] for i in range(len(chunk)))


def measure(
    policy: Policy,
    question: Question,
    settings: Settings,
    method: str,
    decode: str = "score",
    answer_tokens: int | None = None,
    run: Run | None = None,
    split: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask every row and compute the task's metrics: one entry of results.json."""
    task, start = question.task, time.perf_counter()
    outcomes, unparsable = [], 0
    with Meter(f"{method} {task.name}", len(question.rows)) as meter:
        for prediction in ask(policy, question, decode, settings, answer_tokens, meter.advance):
            outcomes.append(prediction.outcome(task))
            unparsable += prediction.label is None
            if run is not None:
                run.predict({"task": task.name, **prediction.row})
    values, errors = compute(task, outcomes)
    return {
        "task": task.name,
        "method": method,
        **(extra or {}),
        "model": policy.name,
        "template": question.prompter.template,
        "shots": len(question.prompter.shots),
        "decode": decode,
        "seed": settings.seed,
        "split": split or settings.split or task.eval_split,
        "n": len(outcomes),
        "metrics": values,
        "stderr": errors,
        "unparsable": unparsable,
        "cut_rows": question.rows.cut,
        "seconds": round(time.perf_counter() - start, 2),
    }


def evaluate(settings: EvaluateSettings) -> tuple[Run, list[dict[str, Any]]]:
    """The `evaluate` command: zero-shot or few-shot, or a trained adapter, on one task or several."""
    check_free(settings.out)
    if settings.adapter is not None:
        settings = follow(settings.adapter, settings)
    tasks = find_all(settings.task or "")
    several = len(tasks) > 1
    absent = [t for t in tasks if several and not data.available(t, settings.split or t.eval_split, settings.data)]
    for task in absent:
        print(f"{task.name}: no {settings.split or task.eval_split} rows in {settings.data}, left out")
    tasks = [task for task in tasks if task not in absent]
    if not tasks:
        raise UserError(f"none of these tasks has rows in {settings.data}")
    loaded = {
        task.name: data.load(task, settings.split or task.eval_split, settings.data, settings.limit) for task in tasks
    }
    policy = load_policy(settings.model or MINI, settings.device, settings.dtype, adapter=settings.adapter)
    questions = [encode(policy, task, settings, loaded[task.name]) for task in tasks]
    run = Run.create("evaluate", settings)
    method = (
        ("few-shot" if settings.shots else "zero-shot")
        if settings.adapter is None
        else trained_method(settings.adapter)
    )
    results: list[dict[str, Any]] = []
    for question in questions:
        if question.rows.cut:
            print(
                f"{question.task.name}: {question.rows.cut} of {len(question.rows)} prompts were too long and were cut"
            )
        results.append(measure(policy, question, settings, method, settings.decode, settings.answer_tokens, run))
        run.write_results(results)
    return run, results


def follow(run: Path, settings: S) -> S:
    """Use a trained adapter as it was trained: its base model, template and few-shot examples; and where none is given
    its task and data.

    Raises:
        UserError: there is no adapter, or the given model is another one.
    """
    adapter_folder(run)
    trained = trained_settings(run)
    base = trained.model or base_of(run)
    if settings.model not in (None, base):
        raise UserError(f"--model {settings.model}: the adapter in {run} was trained on {base}; leave --model out")
    changes: dict[str, Any] = {"model": base, "template": settings.template or trained.template}
    changes |= {"chat": settings.chat or trained.chat, "max_length": settings.max_length or trained.max_length}
    changes |= {"task": settings.task or trained.task, "data": settings.data or trained.data}
    if trained.shots and not settings.shots:  # the very examples it was trained with
        changes |= {"shots": trained.shots, "seed": trained.seed}
    return settings.model_copy(update=changes)


def continue_from(settings: T) -> T:
    """Settings of a training run, with what an adapter to start from (`--init`) brings along.

    Raises:
        UserError: as `follow`; or LoRA settings are given that are not the adapter's.
    """
    if settings.init is None:
        return settings
    lora = trained_settings(settings.init).lora if adapter_folder(settings.init) else settings.lora
    if settings.lora not in (LoraSettings(), lora):
        raise UserError(f"lora: the adapter in {settings.init} has {lora}; leave the lora settings out")
    return follow(settings.init, settings).model_copy(update={"lora": lora})


def trained_settings(run: Path) -> TrainSettings:
    """What every training loop shares of the settings with which a run was made."""
    values = read_config(run)
    return validate(TrainSettings, {k: v for k, v in values.items() if k in TrainSettings.model_fields})


def trained_method(adapter: Path | None) -> str:
    """sft or ppo: how the adapter in a run folder was trained."""
    assert adapter is not None
    return "ppo" if "inner_epochs" in read_config(adapter) else "sft"
