"""Write a report: what the file's name ends in says what it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .. import files
from ..compare import Difference
from ..errors import UserError, did_you_mean
from .export import comma_separated, json_text, latex, markdown
from .page import page
from .views import RunView

KINDS: dict[str, Callable[[Sequence[RunView], Sequence[Difference]], str]] = {
    ".html": page,
    ".md": markdown,
    ".tex": latex,
    ".csv": comma_separated,
    ".json": json_text,
}


def kind_of(out: Path) -> Callable[[Sequence[RunView], Sequence[Difference]], str]:
    """What makes a file of this name.

    Raises:
        UserError: nothing does.
    """
    if out.suffix.lower() not in KINDS:
        near = did_you_mean(out.suffix.lower(), KINDS)
        raise UserError(f"--out {out}: a report is written as {', '.join(KINDS)}{near}: name the file so")
    return KINDS[out.suffix.lower()]


def write(runs: Sequence[RunView], out: Path, found: Sequence[Difference]) -> None:
    """Write one file of a report.

    Args:
        runs: what to show.
        out: the file to write: .html, .md, .tex, .csv or .json.
        found: the differences between the methods.

    Raises:
        UserError: the file cannot be written.
    """
    text = kind_of(out)(runs, found)
    try:
        files.write_text(out, text)
    except OSError as wrong:
        raise UserError(f"--out {out}: cannot be written ({wrong.strerror}); name another place") from None
