"""Names that become part of a path: they stay inside their folder, on every file system."""

from __future__ import annotations

import hashlib
import re

LONGEST = 100
"""Bytes of a name; file systems take 255 bytes, and other names are put around it."""
_FORM = re.compile(r"\w[\w.+-]*")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
"""Names of devices on Windows, whatever their ending."""


def problem(name: str) -> str:
    """What keeps a name from being a folder's, or an empty string."""
    if len(name.encode(errors="replace")) > LONGEST:
        return f"it has at most {LONGEST} bytes"
    if not _FORM.fullmatch(name):
        return "it begins with a letter or a digit, and letters, digits, _ . + and - follow"
    if name.endswith("."):
        return "it may not end in a dot"
    if name.split(".")[0].casefold() in _RESERVED:
        return "Windows keeps this name for a device"
    return ""


def short(name: str) -> str:
    """The name itself; of a long one the beginning, and a mark that tells it from others that begin alike."""
    raw = name.encode(errors="replace")
    if len(raw) <= LONGEST:
        return name
    mark = hashlib.sha256(raw).hexdigest()[:8]
    return raw[: LONGEST - len(mark) - 1].decode(errors="ignore") + "-" + mark
