"""A lock on a folder: one process at a time works in it. The system gives it up when the process ends, in any way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from .errors import UserError

LOCK = "run.lock"
BUSY = (errno.EAGAIN, errno.EACCES)
"""How a lock is refused that somebody else holds."""


def lock(path: Path, who: str = "") -> int | None:
    """Nobody else may work in this folder as long as this file descriptor is open. None where the system has no such
    locks.

    Args:
        path: the folder.
        who: who works there, if somebody does, in words.

    Raises:
        UserError: another process does.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        held = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as wrong:
        raise UserError(f"{path} cannot be written to ({wrong.strerror}); name another folder (--out)") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as wrong:
        if wrong.errno not in BUSY:
            return held  # a file system without locks
        os.close(held)
        who = who or "another process"
        raise UserError(f"{path} is in use by {who}: wait for it or stop it, or name another folder (--out)") from None
    return held


def is_locked(path: Path) -> bool:
    """Whether a process works in this folder, which need not be this user's to write to."""
    try:
        import fcntl

        held = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except (ImportError, OSError):  # not known: what it says of itself stands
        return True
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as wrong:
        return wrong.errno in BUSY
    finally:
        os.close(held)
    return False
