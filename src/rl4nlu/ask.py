"""Ask a model: score the label words of every row, or generate an answer and parse it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .forward import score
from .guards import check_finite
from .labels import closed_set_logp, distinguishing
from .metrics import Outcome
from .models import Policy
from .prepare import shots_of
from .prompts import Prompter, chat_wrapper
from .rollout import sample, think, uniforms
from .settings import PromptSettings
from .tasks import Example, Task
from .tokens import Batch, Encoded, EncodedRows, Encoder

CHUNK = 512
"""Rows that are put in order of length and worked on before their predictions are written."""
Advance = Callable[[int], None]
"""Is told how many more rows are done."""


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
    reasoning: str | None = None
    """What the model wrote before."""
    guessed: bool = False
    """The text could not be parsed, and the label was drawn."""

    @property
    def row(self) -> dict[str, Any]:
        """As it stands in predictions.jsonl: enough to compute every metric again and to write a server's file."""
        scores = None if self.scores is None else {label: round(value, 6) for label, value in self.scores.items()}
        row: dict[str, Any] = {"id": self.example.id, "gold": self.example.label, "prediction": self.label}
        if self.guessed:
            row["guessed"] = True
        if self.reasoning is not None:
            row["reasoning"] = self.reasoning
        places = {"group": self.example.group, "document": self.example.document, "meta": self.example.meta}
        return {**row, "scores": scores, "text": self.text, **{name: v for name, v in places.items() if v}}

    @classmethod
    def read(cls, example: Example, row: Mapping[str, Any]) -> Prediction:
        """From its row in predictions.jsonl."""
        return cls(
            example, row["prediction"], row["scores"], row["text"], row.get("reasoning"), row.get("guessed", False)
        )

    def outcome(self, task: Task) -> Outcome:
        """What the metrics need of it; of its scores what stands in predictions.jsonl."""
        confidence = round(self.scores[task.labels[-1]], 6) if self.scores and not task.numeric else None
        return Outcome(self.example, self.label, confidence)


@dataclass(frozen=True)
class Question:
    """A task made ready for a model: prompts, their tokens, the rows."""

    task: Task
    prompter: Prompter
    rows: EncodedRows


def encode(
    policy: Policy,
    task: Task,
    settings: PromptSettings,
    examples: Sequence[Example],
    shots: tuple[Example, ...] | None = None,
) -> Question:
    """Write and encode the prompts of these examples, with the settings' few-shot examples: `shots`, if they are loaded
    already."""
    chosen = shots_of(task, settings) if shots is None else shots
    chat = chat_wrapper(policy.tokenizer) if settings.chat else None
    prompter = Prompter(task, settings.template or "plain", chosen, chat, settings.reason)
    longest = min(settings.max_length or policy.context_length, policy.context_length)
    encoder = Encoder(policy.tokenizer, prompter, longest, settings.truncate)
    return Question(task, prompter, EncodedRows(encoder, examples))


@torch.no_grad()
def ask(
    policy: Policy,
    question: Question,
    decode: str,
    settings: PromptSettings,
    answer_tokens: int | None = None,
    advance: Advance = lambda count: None,
    first: int = 0,
) -> Iterator[Prediction]:
    """The model's answer to every row from the `first` on, a multiple of CHUNK, chunk by chunk in their order."""
    policy.model.eval()
    longest = answer_tokens or question.rows.encoder.longest_answer + 4
    for start in range(first, len(question.rows), CHUNK):
        chunk = question.rows[start : start + CHUNK]
        written: list[str | None] = [None] * len(chunk)
        if question.prompter.reason:
            chunk, written = _with_thoughts(policy, question, chunk, decode, settings, start)
        if decode == "score":
            for row, logp, before in zip(
                chunk, label_logp(policy, chunk, settings.max_tokens, advance), written, strict=True
            ):
                yield replace(scored(question.task, row.prompt.example, logp), reasoning=before)
        else:
            uniform = None
            if decode == "sample":
                uniform = uniforms(len(chunk), 1, longest, settings.seed, f"decode/{question.task.name}", start)
            prompts = [row.ids for row in chunk]
            answers = sample(policy, prompts, question.prompter.finished, longest, settings.max_tokens, uniform)
            for row, (answer,), before in zip(chunk, answers, written, strict=True):
                label = question.prompter.parse(answer.text)
                yield Prediction(row.prompt.example, label, text=answer.text, reasoning=before)
            advance(len(chunk))


def _with_thoughts(
    policy: Policy, question: Question, rows: Sequence[Encoded], decode: str, settings: PromptSettings, start: int
) -> tuple[list[Encoded], list[str | None]]:
    """The rows with what the model writes before its answers behind their prompts, and that text."""
    uniform = None
    if decode == "sample":
        purpose = f"reason/{question.task.name}"
        uniform = uniforms(len(rows), 1, question.prompter.reason, settings.seed, purpose, start)
    thoughts = [one for (one,) in think(policy, rows, settings.max_tokens, uniform)]
    texts: list[str | None] = [policy.tokenizer.decode(own, skip_special_tokens=True) for own, _ in thoughts]
    return [replace(row, ids=row.ids + own + bridge) for row, (own, bridge) in zip(rows, thoughts, strict=True)], texts


@torch.no_grad()
def label_logp(
    policy: Policy, rows: Sequence[Encoded], max_tokens: int, advance: Advance = lambda count: None
) -> list[list[float]]:
    """Log-probability of each label within the closed set, for every row."""
    cut = [distinguishing(row.answers) for row in rows]
    found: dict[int, list[float]] = {}

    def work(batch: Batch) -> None:
        logp_BKA = score(policy.model, batch, policy.shared, closed=True).logp_BKA
        for i, row in enumerate(batch.rows):
            bias_K = policy.bias_of(rows[row].prompter.task)
            found[row] = closed_set_logp(logp_BKA[i : i + 1].double(), cut[row], bias_K)[0].tolist()
        logp_BK = torch.tensor([found[row] for row in batch.rows])
        check_finite("the labels' log-probabilities are", [rows[i].source for i in batch.rows], logp_BK)
        advance(len(batch.rows))

    pairs = [(row.ids, answers) for row, answers in zip(rows, cut, strict=True)]
    kinds = [row.prompter.task.name for row in rows]
    policy.memory.each("scoring", pairs, max_tokens, work, policy.pad, policy.device, kinds)
    return [found[i] for i in range(len(rows))]


def scored(task: Task, example: Example, logp: Sequence[float]) -> Prediction:
    """The prediction that goes with the labels' log-probabilities: the most likely one, or of numbers the mean."""
    scores = dict(zip(task.labels, logp, strict=True))
    if task.numeric:
        label = f"{sum(float(number) * math.exp(p) for number, p in scores.items()):.4f}"
    else:
        label = max(scores, key=lambda name: scores[name])
    return Prediction(example, label, scores)
