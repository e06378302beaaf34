"""Generated blocks in hand-written pages: each between its own two marks."""

from __future__ import annotations

from pathlib import Path

from rl4nlu.errors import UserError


def replace_block(path: Path, name: str, command: str, lines: list[str]) -> None:
    """Put lines between the marks of a block; behind the page's end where it has no such block yet.

    Args:
        path: the page.
        name: of the block.
        command: what makes it, told to whoever opens the page.
        lines: its new content.

    Raises:
        UserError: the mark at its end is not there; the page stays as it is.
    """
    before, behind = around(path, name, command)
    first, last = marks(name, command)
    path.write_text(before + "\n".join([first, "", *lines, "", last]) + behind, encoding="utf-8")


def marks(name: str, command: str) -> tuple[str, str]:
    """The lines before and behind a block."""
    return f"<!-- {name}: made by `{command}` -->", f"<!-- end of {name} -->"


def around(path: Path, name: str, command: str) -> tuple[str, str]:
    """The page before and behind a block; arguments and errors as of `replace_block`."""
    first, last = marks(name, command)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if first not in text:
        return (f"{text.rstrip()}\n\n" if text.strip() else ""), "\n"
    before, rest = text.split(first, 1)
    if last not in rest:
        raise UserError(f"{path}: the block {name!r} has no end; put `{last}` behind it")
    return before, rest.split(last, 1)[1]
