"""What every training command does around its loop: encode and check all rows first, train, save, evaluate on dev."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .ask import Question, encode
from .card import write_card
from .evaluate import measure
from .mixture import Mixture
from .models import Policy, load_policy
from .prepare import Rows, TrainingRows
from .run import Run
from .settings import TrainSettings
from .tasks import Task

T = TypeVar("T", bound=TrainSettings)
Loop = Callable[[Policy, Mixture, list[Question], T, Run], tuple[int, dict[str, Any]]]
"""(policy, training rows, held-out rows, settings, run) -> number of steps, and which of them was kept."""


def train_and_measure(
    method: str,
    rows: TrainingRows[T],
    loop: Loop[T],
    reference: bool = False,
    critic: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> tuple[Run, list[dict[str, Any]]]:
    """Run a training command from its rows to its results.

    Args:
        method: sft or ppo.
        rows: what to work on, and the settings, with what an adapter to start from brings along.
        loop: the training loop.
        reference: keep the adapter to start from as the frozen reference.
        critic: give the policy a value head.
        extra: more entries for results.json.

    Raises:
        UserError: something in rows or model is not as it should be; nothing was written then.
    """
    settings = rows.settings
    policy = load_policy(
        settings.model or "",
        settings.device,
        settings.dtype,
        settings.lora,
        settings.init,
        reference=reference and settings.init is not None,
        seed=settings.seed,
    )
    if critic:
        policy.add_value_head()
        if settings.init is not None:
            policy.load_value_head(settings.init)

    def encoded(tasks: list[Task], of: Rows) -> list[Question]:
        return [encode(policy, task, settings, of[task.name], rows.shots[task.name]) for task in tasks]

    mixture = Mixture(encoded(rows.taught, rows.learnt), settings, method)
    held_out, dev = encoded(rows.taught, rows.held), encoded(rows.tasks, rows.dev)
    for name, questions in (("training", mixture.questions), ("evaluation", dev)):
        for question in questions:
            if question.rows.cut:
                cut = f"{question.rows.cut} of {len(question.rows)}"
                print(f"{question.task.name}: {cut} {name} prompts were too long and were cut")
    run = Run.create(method, settings)
    steps, best = loop(policy, mixture, held_out, settings, run)
    policy.save(run.path)
    found = {**(extra or {}), "train_rows": sum(map(len, rows.learnt.values())), "steps": steps, **best}
    if len(rows.taught) > 1:
        found["trained_on"] = list(rows.learnt)
    results: list[dict[str, Any]] = []
    for question in dev:
        results.append(measure(policy, question, settings, method, run=run, extra=found))
        run.write_results(results)
    write_card(run, settings, results)
    return run, results
