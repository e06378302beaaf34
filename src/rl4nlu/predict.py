"""Answer new rows with a trained run."""

from __future__ import annotations

import json
import os
from pathlib import Path

from . import data
from .config import EvaluateSettings, PredictSettings, validate
from .errors import UserError
from .evaluate import ask, encode, follow
from .models import load_policy
from .run import Meter
from .tasks import find


def predict(run: Path, settings: PredictSettings) -> int:
    """Read rows that hold the task's fields, write one object a row in the same order. Returns how many.

    Raises:
        UserError: a row lacks a field, or the output file is there already.
    """
    assert settings.input is not None
    assert settings.output is not None
    values = {name: getattr(settings, name) for name in ("decode", "device", "dtype", "max_tokens", "seed")}
    asked = follow(run, validate(EvaluateSettings, {**values, "adapter": run}))
    task = find(asked.task or "")
    if settings.output.exists():
        raise UserError(f"--output {settings.output} is there already: name another file, or remove this one first")
    if not settings.output.absolute().parent.is_dir():
        raise UserError(f"--output {settings.output}: its folder does not exist; make it first")
    rows = [data.example_from_fields(task, row, where) for where, row in data.read_rows(settings.input)]
    if not rows:
        raise UserError(f"{settings.input}: the file has a header and no row")
    policy = load_policy(asked.model or "", settings.device, settings.dtype, adapter=run)
    question = encode(policy, task, asked, rows)
    part = settings.output.with_name(settings.output.name + ".part")
    with part.open("w", encoding="utf-8") as file, Meter(f"predict {task.name}", len(rows)) as meter:
        for prediction in ask(policy, question, settings.decode, asked, advance=meter.advance):
            answer = prediction.row
            del answer["gold"]
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")
    os.replace(part, settings.output)
    return len(rows)
