"""How much memory is free where weights are to go."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

SYSTEM = Path("/")
"""Where proc/ and sys/ are."""


def free_memory(place: torch.device) -> int | None:
    """Bytes that are free on a device; None where that is not known."""
    if place.type == "cuda":
        free, _ = torch.cuda.mem_get_info(place)
        return int(free) + torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
    if place.type != "cpu":
        return None
    return min((bound for bound in (_of_machine(), *_of_groups()) if bound is not None), default=None)


def _of_machine() -> int | None:
    """What Linux could hand out without swapping."""
    path = SYSTEM / "proc" / "meminfo"
    if not path.is_file():
        return None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_groups() -> Iterator[int]:
    """What is left of the limit of each control group above this process (a container's, a batch system's): of version
    2, or of version 1, whose files have other names."""
    own = SYSTEM / "proc" / "self" / "cgroup"
    if not own.is_file():
        return
    for line in own.read_text(encoding="utf-8").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            root, limit, used, cache = SYSTEM / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in kinds.split(","):
            root, cache = SYSTEM / "sys/fs/cgroup/memory", "total_inactive_file"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = root / path.lstrip("/")
        for group in (folder, *(above for above in folder.parents if root in (above, *above.parents))):
            most, now = _number(group / limit), _number(group / used)
            if most is not None and now is not None:
                # cached files are handed back when memory is wanted
                yield max(0, most - max(0, now - _entry(group / "memory.stat", cache)))


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none ("max": no limit)."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _entry(path: Path, name: str) -> int:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)


def resident() -> int:
    """Bytes of this process that are in memory."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
