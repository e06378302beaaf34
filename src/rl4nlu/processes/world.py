"""Which of the processes of a run this one is, and how they exchange what they know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

from .. import say
from ..errors import PeerLost
from .watch import Watch


class World:
    """This process's place among those of the run."""

    rank = 0
    count = 1
    sharded = False
    """The base model's layers are shared out."""
    group: Any = None
    """For what is no tensor of the model: on the CPU."""
    watch: Watch | None = None


def rank() -> int:
    """Number of this process; 0 is the main one."""
    return World.rank


def count() -> int:
    """How many processes make the run."""
    return World.count


def is_main() -> bool:
    """Whether this process writes and talks."""
    return World.rank == 0


def sharded() -> bool:
    """Whether the layers of the base model are shared out among the processes."""
    return World.sharded


@contextmanager
def talking() -> Iterator[None]:
    """What is said to the other processes within this block fails where one of them is gone.

    Raises:
        PeerLost: one is.
    """
    try:
        with _during("waiting"):
            yield
    except (RuntimeError, OSError) as wrong:
        first = (str(wrong).strip() or type(wrong).__name__).splitlines()[0][:200]
        raise PeerLost(_lost() or f"another process of this run cannot be reached ({first})") from None


@contextmanager
def passing() -> Iterator[None]:
    """Passes through a model whose layers are shared out, of which the other processes do their part within this block:
    what fails because one of them is gone is told so.

    Raises:
        PeerLost: one is.
    """
    try:
        with _during("waiting") if World.sharded else nullcontext():
            yield
    except RuntimeError:
        if World.sharded and (lost := _lost()):
            raise PeerLost(lost) from None
        raise


@contextmanager
def _during(what: Literal["waiting", "writing"]) -> Iterator[None]:
    """Within this block the watch knows what this process is at."""
    watch = World.watch
    if watch is None:
        yield
        return
    setattr(watch, what, getattr(watch, what) + 1)
    try:
        yield
    finally:
        setattr(watch, what, getattr(watch, what) - 1)


def _lost() -> str:
    """Who is lost, in words; it may take a moment until that is known."""
    watch = World.watch
    lost = watch.lost(5.0) if watch is not None else ""
    if watch is not None and watch.first_lost == 0 and World.rank == 1:
        say.speak()  # who else would
    return lost


def writing() -> AbstractContextManager[None]:
    """Within this block this process saves: it is not ended because another is gone."""
    return _during("writing")


def exchange(mine: Any) -> list[Any]:
    """What every process gives here, in their order."""
    import torch
    import torch.distributed as dist

    said = torch.frombuffer(bytearray(json.dumps(mine).encode()), dtype=torch.uint8)
    with talking():
        size = torch.tensor([len(said)])
        sizes = [torch.zeros_like(size) for _ in range(World.count)]
        dist.all_gather(sizes, size, group=World.group)
        longest = int(max(sizes))
        padded = torch.nn.functional.pad(said, (0, longest - len(said)))
        parts = [torch.empty_like(padded) for _ in range(World.count)]
        dist.all_gather(parts, padded, group=World.group)
    return [json.loads(part[: int(n)].numpy().tobytes()) for part, n in zip(parts, sizes, strict=True)]
