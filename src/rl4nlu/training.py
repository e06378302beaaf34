"""What every training command does around its loop: load and check all rows first, train, save, evaluate on dev."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from . import data
from .card import write_card
from .config import TrainSettings
from .evaluate import Question, continue_from, encode, measure
from .models import Policy, load_policy
from .run import Run, check_free
from .selection import hold_out
from .tasks import find

T = TypeVar("T", bound=TrainSettings)
Loop = Callable[[Policy, Question, Question, T, Run], tuple[int, dict[str, float]]]
"""(policy, training rows, held-out rows, settings, run) -> number of steps, and which of them was kept."""


def train_and_measure(
    method: str, settings: T, loop: Loop[T], critic: bool = False, extra: Mapping[str, Any] | None = None
) -> tuple[Run, list[dict[str, Any]]]:
    """Run a training command from its settings to its results.

    Args:
        method: sft or ppo.
        settings: of the command; what an adapter to start from brings along is added.
        loop: the training loop.
        critic: give the policy a value head, and keep the adapter to start from as the frozen reference.
        extra: more entries for results.json.

    Raises:
        UserError: something in settings, rows or model is not as it should be; nothing was written then.
    """
    check_free(settings.out)
    settings = continue_from(settings)
    task = find(settings.task or "")
    teacher = data.training_task(task)
    learnt, held = hold_out(data.load(teacher, "train", settings.data, settings.limit), settings)
    dev_rows = data.load(task, settings.split or task.eval_split, settings.data, settings.eval_limit)
    policy = load_policy(
        settings.model or "",
        settings.device,
        settings.dtype,
        settings.lora,
        settings.init,
        reference=critic and settings.init is not None,
        seed=settings.seed,
    )
    if critic:
        policy.add_value_head()
        if settings.init is not None:
            policy.load_value_head(settings.init)
    question = encode(policy, teacher, settings, learnt)
    held_out = encode(policy, teacher, settings, held)
    dev = encode(policy, task, settings, dev_rows)
    for name, rows in (("training", question.rows), ("evaluation", dev.rows)):
        if rows.cut:
            print(f"{task.name}: {rows.cut} of {len(rows)} {name} prompts were too long and were cut")
    run = Run.create(method, settings)
    steps, best = loop(policy, question, held_out, settings, run)
    policy.save(run.path)
    found = {**(extra or {}), "train_rows": len(learnt), "steps": steps, **best}
    result = measure(policy, dev, settings, method, run=run, extra=found)
    run.write_results([result])
    write_card(run, settings, [result])
    return run, [result]
