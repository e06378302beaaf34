"""Answer new rows with a trained run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .. import files, processes
from ..ask import Advance, Prediction, ask, encode
from ..classifier import ask as ask_classifier
from ..classifier import restore
from ..models import load_policy
from ..prepare import PredictionRows, prepare_prediction
from ..progress import Meter
from ..settings import PredictSettings


def predict(run: Path, settings: PredictSettings, prepared: PredictionRows | None = None) -> int:
    """Read rows that hold the task's fields, write one object a row in the same order. Returns how many.

    Raises:
        UserError: a row lacks a field, or the output file is there already.
    """
    found = prepared or prepare_prediction(run, settings)
    assert settings.output is not None
    part = settings.output.with_name(settings.output.name + ".part")
    log, writes = files.Log(part), processes.is_main()
    try:
        if writes:
            part.unlink(missing_ok=True)
        with Meter(f"predict {found.task.name}", len(found.rows)) as meter:
            for prediction in _answers(run, settings, found, meter.advance):
                answer = {"task": found.task.name, **prediction.row}
                del answer["gold"]
                if writes:
                    log.append(answer)
        if writes:
            os.replace(part, settings.output)
    except BaseException:
        if writes:
            part.unlink(missing_ok=True)
        raise
    return len(found.rows)


def _answers(run: Path, settings: PredictSettings, found: PredictionRows, advance: Advance) -> Iterator[Prediction]:
    """What the run says of the rows. The model is loaded before the first one."""
    if found.asked is None:
        classifier = restore(run, found.task, settings.device, settings.dtype, model=settings.model)
        return ask_classifier(classifier, found.rows, advance)
    asked = found.asked
    policy = load_policy(asked.model or "", settings.device, settings.dtype, adapter=run, quantize=asked.quantize)
    question = encode(policy, found.task, found.asked, found.rows, found.shots)
    return ask(policy, question, settings.decode, found.asked, advance=advance)
