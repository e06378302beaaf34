"""The `evaluate` command: tasks x rows -> predictions, metrics, results."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import say, stop
from ..ask import CHUNK, Advance, Prediction, Question, ask, encode
from ..calibrate import ask_calibrated
from ..identity import PROMPTS, identity_of
from ..metrics import compute
from ..models import Policy, load_policy
from ..prepare import EvaluationRows, prepare_evaluation
from ..progress import FEW, LINES, Meter
from ..run import Run
from ..seeding import generator
from ..settings import EvaluateSettings, PromptSettings
from ..sources import MINI
from ..tasks import Example, Task
from ..trained import trained_as

PROMPTS_KEPT, LETTERS = 200, 6000
"""Rows of a task whose prompts are kept, and how much of each: its end, where the row's own texts stand."""


def to_look_at(rows: Sequence[Example]) -> list[int]:
    """Numbers of some rows: the same ones in every run on these rows, so that methods can be read side by side."""
    drawn = sorted(range(len(rows)), key=lambda i: hashlib.sha256(rows[i].id.encode()).digest())
    return sorted(drawn[:PROMPTS_KEPT])


def tally(
    title: str,
    task: Task,
    rows: Sequence[Example],
    answers: Callable[[int, Advance], Iterator[Prediction]],
    multiple: int,
    run: Run | None = None,
    guess: Callable[[int], str] | None = None,
    prompts: Callable[[Sequence[int]], list[str]] | None = None,
    lines: int = FEW,
) -> dict[str, Any]:
    """Take note of every prediction and compute the task's metrics: the figures of one entry of results.json.

    Args:
        title: what the progress line says.
        task: the task.
        rows: what is asked.
        answers: given the first row to ask and what to tell of the progress, yields the predictions from there on.
        multiple: that first row is a multiple of so many.
        run: where each prediction is written as it comes; of one that is reopened those that are there are kept.
        guess: row number -> label, for answers that could not be parsed; None: they count as wrong.
        prompts: numbers of rows -> what the model is shown of them; the run keeps some.
        lines: of progress in a file, at most.
    """
    start = time.perf_counter()
    if run is not None and prompts is not None:
        looked_at = to_look_at(rows)
        texts = zip(looked_at, prompts(looked_at), strict=True)
        run.keep_prompts(task.name, {rows[i].id: text[-LETTERS:] for i, text in texts})
    kept = run.predicted(task.name, multiple) if run is not None else []
    found = [Prediction.read(row, there) for row, there in zip(rows, kept, strict=False)]
    with Meter(title, len(rows), done=len(found), lines=lines) as meter:
        for prediction in answers(len(found), meter.advance) if len(found) < len(rows) else ():
            if prediction.label is None and guess is not None:
                prediction = replace(prediction, label=guess(len(found)), guessed=True)
            found.append(prediction)
            if run is not None:
                run.predict({"task": task.name, **prediction.row})
    values, errors = compute(task, [prediction.outcome(task) for prediction in found])
    return {
        "n": len(found),
        "metrics": values,
        "stderr": errors,
        "unparsable": sum(prediction.label is None or prediction.guessed for prediction in found),
        "seconds": round(time.perf_counter() - start, 2),
    }


def measure(
    policy: Policy,
    question: Question,
    settings: PromptSettings,
    method: str,
    run: Run | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask every row, in the way that the settings of `evaluate` say, else with labels scored: one entry of
    results.json."""
    task = question.task
    how = settings if isinstance(settings, EvaluateSettings) else EvaluateSettings()

    def answers(first: int, advance: Advance) -> Iterator[Prediction]:
        if how.calibrate != "none":
            return ask_calibrated(policy, question, how.calibrate, settings, advance)
        return ask(policy, question, how.decode, settings, how.answer_tokens, advance, first)

    def prompts(numbers: Sequence[int]) -> list[str]:
        return [row.prompt.text for row in question.rows.take(numbers)]

    def guess(row: int) -> str:
        drawn = generator(settings.seed, f"unparsable/{task.name}", row).integers(len(task.labels))
        return task.labels[drawn]

    entry = {
        "task": task.name,
        "method": method,
        **(extra or {}),
        "model": policy.name,
        "template": question.prompter.template,
        "shots": len(question.prompter.shots),
        **({"reason": question.prompter.reason} if question.prompter.reason else {}),
        "decode": how.decode,
        **({"calibrate": how.calibrate} if how.calibrate != "none" else {}),
        **({"unparsable_as": how.unparsable} if how.unparsable != "wrong" else {}),
        "seed": settings.seed,
        "split": settings.split or task.eval_split,
        "cut_rows": question.rows.cut,
    }
    drawing = guess if how.unparsable == "random" else None
    rows = question.rows.examples
    multiple = CHUNK if how.calibrate == "none" else max(1, len(rows))  # calibration may need all rows at once
    lines = LINES if isinstance(settings, EvaluateSettings) else FEW
    found = tally(f"{method} {task.name}", task, rows, answers, multiple, run, drawing, prompts, lines)
    return {**entry, **found}


def evaluate(settings: EvaluateSettings, prepared: EvaluationRows | None = None) -> tuple[Run, list[dict[str, Any]]]:
    """The `evaluate` command: zero-shot or few-shot, or a trained adapter, on one task or several."""
    found = prepared or prepare_evaluation(settings)
    settings = found.settings
    policy = load_policy(
        settings.model or MINI, settings.device, settings.dtype, adapter=settings.adapter, quantize=settings.quantize
    )
    if policy.label_bias and settings.decode != "score":
        say.line("note: this policy was trained over labels, with their bias taken out; generated text has it in again")
    questions = [encode(policy, task, settings, found.rows[task.name], found.shots[task.name]) for task in found.tasks]
    for question in questions:
        if question.rows.cut:
            say.line(
                f"{question.task.name}: {question.rows.cut} of {len(question.rows)} prompts were too long and were cut"
            )
    method = "few-shot" if settings.shots else "zero-shot"
    extra: dict[str, Any] = {}
    if settings.adapter is not None:
        method, extra = trained_as(settings.adapter)
    prompts = [row.prompt.text for question in questions for row in question.rows[:PROMPTS]]
    with Run.begin("evaluate", settings, found.reopened) as run, stop.deferred():
        run.about(identity_of(settings, found.rows.values(), prompts, policy.model, policy.label_bias))
        names = [task.name for task in found.tasks]
        results = run.each(names, lambda i: measure(policy, questions[i], settings, method, run, extra))
    return run, results
