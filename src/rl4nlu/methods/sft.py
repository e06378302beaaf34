"""Supervised fine-tuning: LoRA on the gold answers, loss on answer tokens only."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from .. import optim, processes
from ..ask import Question
from ..forward import score, take_part
from ..guards import check_finite, not_finite
from ..losses import sft_loss
from ..mixture import Mixture
from ..models import Policy
from ..prepare import TrainingRows, prepare_training
from ..progress import Meter
from ..run import Run
from ..seeding import derive
from ..selection import BestState
from ..session import Session
from ..settings import SftSettings
from ..tokens import Encoded, micro_batches
from .training import parts_of, train_and_measure

LEARNING_RATE = 1e-3
"""At width 256; see optim.base_rate."""


def sft(settings: SftSettings, prepared: TrainingRows[SftSettings] | None = None) -> tuple[Run, list[dict[str, Any]]]:
    """The `sft` command: train, save the adapter, evaluate on the dev split."""
    return train_and_measure("sft", prepared or prepare_training(settings), train)


def train(
    policy: Policy, mixture: Mixture, held: list[Question], settings: SftSettings, run: Run
) -> tuple[int, dict[str, Any]]:
    """The training loop. Returns the number of steps, and which of them was kept if that was chosen."""
    policy.label_bias = {}  # what a run over labels had taken out of its policy is learnt by this one
    base = optim.base_rate(settings, policy, LEARNING_RATE)
    weights = policy.trainable()
    optimizer = optim.make_optimizer(settings, weights)
    steps = optim.steps_of(settings, len(mixture))
    best = BestState(policy, held, settings, steps, untaught=settings.init is None)
    parts = {**parts_of(policy, optimizer), "best": best}
    session = Session(run, parts, steps, settings, policy.device)
    with Meter(f"sft {mixture.title}", steps, done=session.step) as meter, session:
        best.start()
        for step in session:
            start = time.perf_counter()
            chosen = mixture.batch(step)
            work = partial(gradient, policy, chosen, settings, step)
            sums = processes.added(partial(policy.memory.fitting, "update", settings.max_tokens, work), weights)
            loss = sums["loss"]
            rate = optim.rate_at(settings, base, step, steps)
            if best.is_due(step + 1):
                session.hold()
            norm = optim.apply(optimizer, weights, rate, settings.max_grad_norm, [row.source for row in chosen])
            speed = len(chosen) / (time.perf_counter() - start)
            record = {"step": step + 1, "loss": loss, "grad_norm": norm, "learning_rate": rate}
            run.log({**record, "examples_per_second": speed, **best.after(step + 1)})
            meter.advance(1, loss=loss, examples_per_second=speed)
    policy.model.eval()
    return steps, best.put_back()


def gradient(
    policy: Policy, chosen: Sequence[Encoded], settings: SftSettings, step: int, max_tokens: int
) -> dict[str, float]:
    """The gradient of this process's share of a step's loss, in the weights' `grad`; and of the loss."""
    optim.clear(policy.trainable())
    count = sum(len(row.answers[row.gold]) for row in chosen)
    chosen = [chosen[i] for i in processes.share(len(chosen))]
    pairs = [(row.ids, [row.answers[row.gold]]) for row in chosen]
    policy.model.train()  # LoRA's dropout, a function of (seed, step, process)
    torch.manual_seed(derive(settings.seed, processes.own("dropout"), step))
    loss = 0.0
    kinds = [row.prompter.task.name for row in chosen]
    batches = micro_batches(pairs, max_tokens, policy.pad, policy.device, kinds)
    for batch in processes.in_step(batches, partial(take_part, policy.model, policy.shared)):
        scores = score(policy.model, batch, policy.shared)
        part = sft_loss(scores.logp_BKA[:, 0], batch.answer_mask_BKA[:, 0], count)
        if not math.isfinite(part.parts["loss"]):
            rows = [chosen[i].source for i in batch.rows]
            check_finite("the log-probabilities are", rows, scores.logp_BKA)
            raise not_finite("the loss is", rows)
        part.total.backward()
        loss += part.parts["loss"]
    return {"loss": loss}
