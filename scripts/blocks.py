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
    first, last = f"<!-- {name}: made by `{command}` -->", f"<!-- end of {name} -->"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    block = "\n".join([first, "", *lines, "", last])
    if first in text:
        before, rest = text.split(first, 1)
        if last not in rest:
            raise UserError(f"{path}: the block {name!r} has no end; put `{last}` behind it")
        text = before + block + rest.split(last, 1)[1]
    else:
        text = f"{text.rstrip()}\n\n{block}\n" if text.strip() else f"{block}\n"
    path.write_text(text, encoding="utf-8")
