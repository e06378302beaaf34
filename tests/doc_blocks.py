"""What a page of the documentation holds: its fenced blocks, the commands in them, and its spans of code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = re.compile(r"(rl4nlu|make|pip|python|git|accelerate|lm_eval|tensorboard|sbatch|huggingface-cli|hf) ")
"""How a command's line begins in a block that may hold output too."""
_FENCE = re.compile(r"^```([\w-]*)(.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    title: str
    """The file that it shows; empty if it shows none."""
    text: str
    line: int
    """Of its first line in the page."""

    @property
    def commands(self) -> Iterator[tuple[int, str]]:
        """Lines that a reader types, each with its number: in a block of `sh` all of them, in one of no language those
        that begin with a program's name; comments, continued lines and what follows || or && taken care of."""
        if self.language not in ("", "sh", "bash") or (self.title and not self.title.endswith(".sh")):
            return
        begun, begun_at = "", 0
        for number, line in enumerate(self.text.splitlines(), self.line):
            begun_at = begun_at if begun else number
            begun += line.strip() if begun else line.rstrip()
            if begun.endswith("\\"):
                begun = begun[:-1]
                continue
            words, begun = begun, ""
            if PROGRAMS.match(words) or (self.language and words.strip() and not words.lstrip().startswith("#")):
                yield begun_at, words.strip()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    found: list[Block] = []
    opened: tuple[str, str, int] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            title = re.search(r'title="([^"]+)"', fence[2])
            opened, lines = (fence[1], title[1] if title else "", number + 1), []
        elif opened is not None and line == "```":
            language, name, begin = opened
            found.append(Block(language, name, "".join(f"{one}\n" for one in lines), begin))
            opened = None
        elif opened is not None:
            lines.append(line)
    assert opened is None, f"{page.name}:{opened and opened[2]}: a block that does not end"
    return found


def spans(page: Path) -> list[str]:
    """Spans of code outside the blocks; one that goes over a line's end is joined."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def words_of(command: str) -> list[str]:
    """A command's words, as a shell would make them, up to what follows it in the same line."""
    words = shlex.split(command, comments=True)
    ends = [i for i, word in enumerate(words) if word in ("||", "&&", "|", ">", "&")]
    return words[: ends[0]] if ends else words
