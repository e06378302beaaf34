"""Numbers that are not finite: found before they reach the weights, with the rows that they come from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import Diverged
from .tasks import Example

NAMED = 8
"""Rows that are named in the message; all of them are in the run's diverged.json."""


Source = tuple[str, Example]
"""A row and the name of its task."""


def not_finite(what: str, rows: Sequence[Source]) -> Diverged:
    """The error that says what is not finite, and of which rows."""
    names = [f"{task} {example.id}" for task, example in rows]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    found = Diverged(f"{what} not finite (rows: {', '.join(names[:NAMED])}{more})")
    found.rows = [
        {"task": task, "id": example.id, "label": example.label, "fields": dict(example.fields)}
        for task, example in rows
    ]
    return found


@torch.no_grad()
def check_finite(what: str, rows: Sequence[Source], *of_rows: Tensor) -> None:
    """Check numbers that belong to rows.

    Args:
        what: what they are, with its verb: "the log-probabilities are".
        rows: R rows.
        of_rows: tensors whose first dimension is R, or a multiple of it: as many entries for each row.

    Raises:
        Diverged: some are not finite; it names the rows.
    """
    if not rows:  # of several processes one may have none
        return
    fine_R = torch.ones(len(rows), dtype=torch.bool)
    for x in of_rows:
        fine_R &= torch.isfinite(x).reshape(len(rows), -1).all(1).cpu()
    if not bool(fine_R.all()):
        raise not_finite(what, [row for row, fine in zip(rows, fine_R.tolist(), strict=True) if not fine])
