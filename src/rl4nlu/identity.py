"""What a run is about: settings, rows, prompts, weights, as fingerprints. Work is gone on with only where they are the
same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .settings import BESIDE, ELSEWHERE, MEMORY, Settings
from .tasks import Example

PROMPTS = 4
"""Prompts of each task whose texts go into the fingerprint."""
SAMPLED = 65_536
"""Elements of each weight that go into the fingerprint, evenly spaced; of LoRA's all."""


def identity_of(
    settings: Settings,
    rows: Iterable[Sequence[Example]],
    prompts: Iterable[str],
    model: nn.Module,
    beside: Any = None,
) -> dict[str, Any]:
    """What a run is about.

    Args:
        settings: of the run.
        rows: to train on and to evaluate on, part by part.
        prompts: a few texts as the model reads them: they tell templates apart.
        model: base model and adapter at the start.
        beside: what belongs to it and is no part of it, as JSON can hold it.
    """
    values = settings.model_dump(mode="json")
    return {
        "settings": {name: value for name, value in values.items() if name not in ELSEWHERE | MEMORY | BESIDE},
        "rows": fingerprint_of_rows(rows),
        "prompts": _digest(prompts),
        "type of numbers (dtype)": str(next(model.parameters()).dtype),
        "model": _digest([fingerprint_of_model(model), json.dumps(beside)]),
    }


def fingerprint_of_rows(parts: Iterable[Sequence[Example]]) -> str:
    """SHA-256 of ids, fields and labels, in their order."""
    return _digest(
        line
        for rows in parts
        for line in (
            f"{len(rows)} rows",
            *(json.dumps([row.id, dict(row.fields), row.label], ensure_ascii=False) for row in rows),
        )
    )


@torch.no_grad()
def fingerprint_of_model(model: nn.Module) -> str:
    """SHA-256 of names, shapes, types and evenly spaced elements of all weights and buffers."""
    found = hashlib.sha256()
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        share = weight.detach()
        flat = (share.full_tensor() if hasattr(share, "full_tensor") else share).flatten()  # see sharing.py
        every = 1 if "lora_" in name else max(1, len(flat) // SAMPLED)
        sample = flat[::every].cpu().contiguous()
        found.update(sample.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _digest(lines: Iterable[str]) -> str:
    found = hashlib.sha256()
    for line in lines:
        found.update(f"{line}\n".encode(errors="surrogatepass"))
    return found.hexdigest()
