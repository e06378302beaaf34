"""Writing so that nothing is lost: a file is the old or the new one, a log holds whole lines, a full disk is named."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import NoSpace

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota on this disk is used up",
    errno.EFBIG: "a limit of the size of files is reached (ulimit -f)",
}


@contextlib.contextmanager
def room_for(path: Path, size: int) -> Iterator[None]:
    """A full disk while this block writes `size` bytes to `path` becomes one line.

    Raises:
        NoSpace: the disk is full, or the user's share of it.
    """
    try:
        yield
    except Exception as wrong:
        # what is written by libraries in Rust says it in words only
        said = re.search(r"os error (\d+)", str(wrong))
        number = getattr(wrong, "errno", None) or (int(said[1]) if said else 0)
        if number not in FULL:
            raise
        raise NoSpace(
            f"{path}: {FULL[number]}; {size:,} bytes are needed there and {free_bytes(path):,} are free on the disk"
        ) from None


def free_bytes(path: Path) -> int:
    """Free bytes where a path is, or where it would be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def write(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with room_for(path, len(content)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _write_all(handle, content)
            os.fsync(handle)
        finally:
            os.close(handle)


def replace(path: Path, content: bytes) -> None:
    """Write a file in one step: whatever happens, it is the old one or the new one."""
    part = path.with_name(path.name + ".part")
    try:
        with room_for(path, len(content)):
            write(part, content)
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`replace` with text in UTF-8."""
    replace(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """`replace` with a JSON file."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


@contextlib.contextmanager
def folder_in_one_step(path: Path, size: int = 0) -> Iterator[Path]:
    """A folder to fill, which takes its place at the end of the block: the old one or the new one (a mount point is
    filled file by file), and who may read it may read its files.

    Args:
        path: where the folder shall be; what is there is replaced.
        size: bytes that will be written, for the message of a full disk.
    """
    path = path.resolve()  # beside what a link means, on the disk where there has to be room
    mounted = path.is_mount()  # what lies elsewhere can be filled, and not put in another's place
    part = path / f".tmp-{os.getpid()}" if mounted else path.with_name(f"{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with room_for(path, size):
            part.mkdir(parents=True)
            yield part
            mode = part.stat().st_mode & 0o444  # safetensors writes for its owner's eyes only, whatever the umask
            for file in sorted(part.rglob("*")):
                if file.is_file():
                    if mode & ~file.stat().st_mode:
                        with contextlib.suppress(OSError):  # where all files are another user's, as on some mounts
                            file.chmod(file.stat().st_mode | mode)
                    sync(file)
            sync_folder(part)
            if mounted:
                for entry in part.iterdir():
                    os.replace(entry, path / entry.name)
                part.rmdir()
            else:
                old = path.with_name(f"{path.name}.old-{os.getpid()}")
                if path.exists():
                    os.rename(path, old)
                os.rename(part, path)
                shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_folder(path.parent)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path) -> None:
    """Remove what interrupted writes have left in a folder that nobody else works in."""
    for pattern in ("*.tmp-*", "*.old-*"):
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)
    for left in folder.glob("*.part"):
        left.unlink(missing_ok=True)


def sync(file: Path) -> None:
    """Wait until a file is on the disk."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        sync(folder)


class Log:
    """A file of lines, JSON objects, that only grows, or is cut back to a size that it had."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, row: Any) -> None:
        """Add a line; it is there whole, or not at all."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        before = self.size
        with room_for(self.path, len(line)):
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                _write_all(handle, line)
            except OSError:
                os.ftruncate(handle, before)
                raise
            finally:
                os.close(handle)

    def ends_at(self, size: int) -> bool:
        """Whether a line ends there."""
        if size == 0:
            return True
        if self.size < size:
            return False
        with self.path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1) == b"\n"

    def cut(self, size: int) -> None:
        """Cut what was added since the file had this size.

        Raises:
            ValueError: it is shorter already.
        """
        if self.size < size:
            raise ValueError(f"{self.path} has {self.size} bytes and had {size} once")
        if self.size > size:
            os.truncate(self.path, size)

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        if self.path.exists():
            sync(self.path)

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The whole lines from the start on, each with the size of the file up to its end; a torn or foreign line ends
        them."""
        if not self.path.exists():
            return
        end = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:
                    return
                if not line.endswith(b"\n") or not isinstance(row, dict):
                    return
                end += len(line)
                yield end, row


def _write_all(handle: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]
