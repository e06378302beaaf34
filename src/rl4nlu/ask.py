"""Ask a model: score the label words of every row, or generate an answer and parse it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from . import processes
from .forward import score, take_part
from .guards import check_finite
from .labels import closed_set_logp, distinguishing
from .metrics import Outcome, confidence_of
from .models import Policy
from .prepare import shots_of
from .prompts import Prompter, chat_wrapper
from .rollout import sample, think, uniforms
from .settings import PromptSettings
from .tasks import Example, Task
from .tokens import SPARE, Batch, Encoded, EncodedRows, Encoder

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
        return Outcome(self.example, self.label, confidence_of(task, self.scores))


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
    encoder = Encoder(policy.tokenizer, prompter, longest, settings.truncate, settings.generated)
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
    longest = answer_tokens or question.rows.encoder.longest_answer + SPARE

    def drawn(purpose: str, tokens: int, start: int, total: int, own: range) -> torch.Tensor | None:
        if decode != "sample":
            return None
        where = f"{purpose}/{question.task.name}"
        return uniforms(total, 1, tokens, settings.seed, where, start)[own.start : own.stop]

    def answers(start: int, total: int, own: range) -> list[Any]:
        """This process's, but for the examples."""
        chunk = question.rows[start + own.start : start + own.stop]
        written: list[str | None] = [None] * len(chunk)
        if question.prompter.reason:
            uniform = drawn("reason", question.prompter.reason, start, total, own)
            chunk, written = _with_thoughts(policy, question, chunk, settings, uniform)
        if decode == "score":
            return list(zip(_label_logp(policy, chunk, settings.max_tokens, advance), written, strict=True))
        prompts, uniform = [row.ids for row in chunk], drawn("decode", longest, start, total, own)
        found = sample(policy, prompts, question.prompter.finished, longest, settings.max_tokens, uniform)
        advance(len(chunk))
        return [(answer.text, before) for (answer,), before in zip(found, written, strict=True)]

    for start in range(first, len(question.rows), CHUNK):
        processes.poll()
        total = min(CHUNK, len(question.rows) - start)
        own = processes.share(total)
        found = processes.gathered(partial(answers, start, total, own))
        if total > len(own):
            advance(total - len(own))
        for example, (said, before) in zip(question.rows.examples[start : start + total], found, strict=True):
            if decode == "score":
                yield replace(scored(question.task, example, said), reasoning=before)
            else:
                yield Prediction(example, question.prompter.parse(said), text=said, reasoning=before)


def _with_thoughts(
    policy: Policy,
    question: Question,
    rows: Sequence[Encoded],
    settings: PromptSettings,
    uniform: torch.Tensor | None,
) -> tuple[list[Encoded], list[str | None]]:
    """The rows with what the model writes before its answers behind their prompts, and that text."""
    thoughts = [one for (one,) in think(policy, question.prompter, rows, settings.max_tokens, uniform)]
    texts: list[str | None] = [policy.tokenizer.decode(own, skip_special_tokens=True) for own, _ in thoughts]
    return [replace(row, ids=row.ids + own + bridge) for row, (own, bridge) in zip(rows, thoughts, strict=True)], texts


@torch.no_grad()
def label_logp(
    policy: Policy, rows: Sequence[Encoded], max_tokens: int, advance: Advance = lambda count: None
) -> list[list[float]]:
    """Log-probability of each label within the closed set, for every row."""
    own = processes.share(len(rows))
    mine = [rows[i] for i in own]
    found = processes.gathered(partial(_label_logp, policy, mine, max_tokens, advance))
    if len(rows) > len(mine):
        advance(len(rows) - len(mine))
    return found


def _label_logp(policy: Policy, rows: Sequence[Encoded], max_tokens: int, advance: Advance) -> list[list[float]]:
    """As `label_logp`, of this process's rows."""
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
    idle = partial(take_part, policy.model, policy.shared)
    policy.memory.each("scoring", pairs, max_tokens, work, policy.pad, policy.device, kinds, idle)
    return [found[i] for i in range(len(rows))]


def scored(task: Task, example: Example, logp: Sequence[float]) -> Prediction:
    """The prediction that goes with the labels' log-probabilities: the most likely one, or of numbers the mean."""
    scores = dict(zip(task.labels, logp, strict=True))
    if task.numeric:
        label = f"{sum(float(number) * math.exp(p) for number, p in scores.items()):.4f}"
    else:
        label = max(scores, key=lambda name: scores[name])
    return Prediction(example, label, scores)
