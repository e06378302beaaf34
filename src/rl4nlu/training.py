"""What every training command does around its loop: load and check all rows first, train, save, evaluate on dev."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from . import data
from .ask import Question, encode
from .card import write_card
from .evaluate import continue_from, load_rows, measure, present
from .mixture import Mixture
from .models import Policy, load_policy
from .run import Run, check_free
from .selection import hold_out
from .settings import TrainSettings
from .tasks import find_all

T = TypeVar("T", bound=TrainSettings)
Loop = Callable[[Policy, Mixture, list[Question], T, Run], tuple[int, dict[str, Any]]]
"""(policy, training rows, held-out rows, settings, run) -> number of steps, and which of them was kept."""


def train_and_measure(
    method: str,
    settings: T,
    loop: Loop[T],
    reference: bool = False,
    critic: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> tuple[Run, list[dict[str, Any]]]:
    """Run a training command from its settings to its results.

    Args:
        method: sft or ppo.
        settings: of the command; what an adapter to start from brings along is added.
        loop: the training loop.
        reference: keep the adapter to start from as the frozen reference.
        critic: give the policy a value head.
        extra: more entries for results.json.

    Raises:
        UserError: something in settings, rows or model is not as it should be; nothing was written then.
    """
    check_free(settings.out)
    settings = continue_from(settings)
    tasks = present(find_all(settings.task or ""), settings.data, lambda task: [settings.split or task.eval_split])
    taught = present(
        list({data.training_task(task).name: data.training_task(task) for task in tasks}.values()),
        settings.data,
        lambda task: ["train"],
    )
    tasks = [task for task in tasks if data.training_task(task) in taught]
    learnt, held = {}, {}
    for task in taught:
        rows = load_rows(task, "train", settings, settings.limit)
        learnt[task.name], held[task.name] = hold_out(rows, settings, len(taught))
    dev_rows = {
        task.name: load_rows(task, settings.split or task.eval_split, settings, settings.eval_limit) for task in tasks
    }
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
    mixture = Mixture([encode(policy, task, settings, learnt[task.name]) for task in taught], settings, method)
    held_out = [encode(policy, task, settings, held[task.name]) for task in taught]
    dev = [encode(policy, task, settings, dev_rows[task.name]) for task in tasks]
    for name, questions in (("training", mixture.questions), ("evaluation", dev)):
        for question in questions:
            if question.rows.cut:
                cut = f"{question.rows.cut} of {len(question.rows)}"
                print(f"{question.task.name}: {cut} {name} prompts were too long and were cut")
    run = Run.create(method, settings)
    steps, best = loop(policy, mixture, held_out, settings, run)
    policy.save(run.path)
    found = {**(extra or {}), "train_rows": sum(map(len, learnt.values())), "steps": steps, **best}
    if len(taught) > 1:
        found["trained_on"] = list(learnt)
    results: list[dict[str, Any]] = []
    for question in dev:
        results.append(measure(policy, question, settings, method, run=run, extra=found))
        run.write_results(results)
    write_card(run, settings, results)
    return run, results
