"""Access tokens and passwords are never printed, logged or kept in a run folder."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

MASK = "***"
SHORTEST = 8
"""A token in the environment that is shorter than this is none, and would be found in ordinary words."""
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_LOGIN = re.compile(r"(?<=://)[^\s/]+@")


def redact(text: str) -> str:
    """The text without the user's tokens, anything of their form, and logins in addresses."""
    for secret in _secrets():
        text = text.replace(secret, MASK)
    return _LOGIN.sub(f"{MASK}@", _TOKEN.sub(MASK, text))


def _secrets() -> Iterator[str]:
    """The tokens that huggingface_hub would send: of the environment, and of its file."""
    found = [os.environ.get(name, "") for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")]
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # most users have no such file
        found.append(Path(os.environ.get("HF_TOKEN_PATH", f"{home}/token")).expanduser().read_text(encoding="utf-8"))
    yield from (secret.strip() for secret in found if len(secret.strip()) >= SHORTEST)


class Redacted:
    """A text stream that takes secrets out of whole lines before it hands them on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line = stream, ""

    def write(self, text: str) -> int:
        """Keep what has no end yet: a secret may come in two pieces."""
        *whole, self._line = (self._line + text).split("\n")
        if whole:
            self._stream.write(redact("\n".join(whole)) + "\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def finish(self) -> None:
        """Hand on the last line, which has no end."""
        self._stream.write(redact(self._line))
        self._line = ""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def scrub(path: Path) -> None:
    """Take secrets out of a file to which libraries have written past `Redacted`."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if (clean := redact(text)) != text:
        path.write_text(clean, encoding="utf-8")
