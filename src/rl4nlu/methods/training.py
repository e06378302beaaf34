"""What every training command does around its loop: encode and check all rows first, train, save, evaluate on dev."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from .. import files, processes, say, stop
from ..ask import Question, encode
from ..card import write_card
from ..checkpoint import KEEP, OptimizerState, Weights
from ..errors import UserError
from ..identity import PROMPTS, fingerprint_of_model, identity_of
from ..mixture import Mixture
from ..models import Policy, load_policy
from ..prepare import HELD_OUT, Rows, TrainingRows
from ..run import Run
from ..settings import TrainSettings
from ..state import Numbers, Stateful
from ..tasks import Task
from .evaluate import measure

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
    """Run a training command from its rows to its results, or go on with one that was stopped.

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
        quantize=settings.quantize,
    )
    if critic:
        policy.add_value_head()
        if settings.init is not None:
            policy.load_value_head(settings.init)

    processes.alike(policy.named_trainable())

    def encoded(tasks: list[Task], of: Rows) -> list[Question]:
        return [encode(policy, task, settings, of[task.name], rows.shots[task.name]) for task in tasks]

    mixture = Mixture(encoded(rows.taught, rows.learnt), settings, method)
    held_out, dev = encoded(rows.taught, rows.held), encoded(rows.tasks, rows.dev)
    for name, questions in (("training", mixture.questions), ("evaluation", dev)):
        for question in questions:
            if question.rows.cut:
                cut = f"{question.rows.cut} of {len(question.rows)}"
                say.line(f"{question.task.name}: {cut} {name} prompts were too long and were cut")
    if not rows.reopened:
        processes.from_main(lambda: check_space(settings.out, policy.trainable()))
    examples = [*rows.learnt.values(), *rows.held.values(), *rows.dev.values()]
    prompts = [row.prompt.text for one in (*mixture.questions, *dev) for row in one.rows[:PROMPTS]]
    head = policy.value_head
    beside = [policy.label_bias, None if head is None else fingerprint_of_model(head)]
    with Run.begin(method, settings, rows.reopened) as run:
        run.about(identity_of(settings, examples, prompts, policy.model, beside))
        if any(rows.held.values()):
            ids = {name: [example.id for example in held] for name, held in rows.held.items() if held}
            processes.from_main(lambda: files.write_json(run.path / HELD_OUT, ids))
        steps, best = loop(policy, mixture, held_out, settings, run)
        with stop.deferred():
            policy.save(run.path)
            found = {**(extra or {}), "train_rows": sum(map(len, rows.learnt.values())), "steps": steps, **best}
            if len(rows.taught) > 1:
                found["trained_on"] = list(rows.learnt)
            names = [question.task.name for question in dev]
            results = run.each(names, lambda i: measure(policy, dev[i], settings, method, run, found))
            if run.writes:
                write_card(run, settings, results)
    return run, results


def parts_of(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Stateful]:
    """What every training of a policy has to remember."""
    named = policy.named_trainable()
    head = {name: weight for name, weight in named.items() if name.startswith("value_head.")}
    return {
        "adapter": Weights({name: weight for name, weight in named.items() if name not in head}),
        **({"value_head": Weights(head)} if head else {}),
        "optimizer": OptimizerState(optimizer, named),
        "policy": Numbers(policy, "label_bias"),
        "memory": Numbers(policy.memory, "most"),
    }


def check_space(out: Path | None, weights: Sequence[torch.nn.Parameter], copies: int = 4) -> None:
    """Whether the disk has room for the run's checkpoints: those that are kept, one that is being written, and what
    is trained at the end.

    Args:
        out: the run's folder, as set.
        weights: those that are trained.
        copies: tensors of their size in a checkpoint: themselves, the optimizer's two moments, the best state.

    Raises:
        UserError: it has not.
    """
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    needed, free = size * (copies * (KEEP + 1) + 1), files.free_bytes(out or Run.HOME)
    if free < needed:
        where = f"--out {out}" if out else "the disk"
        raise UserError(
            f"{where}: checkpoints need about {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; free some, or "
            "name a folder on another disk with --out"
        )
