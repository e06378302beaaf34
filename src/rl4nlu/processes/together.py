"""What the processes of a run work on and decide together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .. import stop
from ..errors import Diverged, Halted, OutOfMemory, UserError
from .world import World, exchange, is_main, passing, talking

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
KINDS: Mapping[str, type[Exception]] = {kind.__name__: kind for kind in (UserError, Diverged, OutOfMemory)}
"""Errors that all processes end with alike, whichever has found them."""


def share(total: int) -> range:
    """Which of so many rows this process works on: a run of them, so that those that are alike stay together."""
    return range(World.rank * total // World.count, (World.rank + 1) * total // World.count)


def own(purpose: str) -> str:
    """What randomness of this process alone is for: masks of dropout of different rows are to differ."""
    return purpose if World.rank == 0 else f"{purpose}/{World.rank}"


def gathered(work: Callable[[], Sequence[T]]) -> list[T]:
    """What every process has found of its share, one behind the other.

    Args:
        work: gives this process's. JSON can hold it (tuples become lists); numbers come back to the bit.

    Raises:
        Exception: what the work has raised in any of them.
        PeerLost: one of them is gone.
    """
    if World.count == 1:
        return list(work())
    return [one for part in _all(lambda: list(work())) for one in part]


def gathered_rows(x_NA: Tensor) -> Tensor:
    """Rows of numbers of all processes, one behind the other.

    Args:
        x_NA: this process's; all have the same number of columns, and each any number of rows.
    """
    if World.count == 1:
        return x_NA
    rows = gathered(x_NA.double().tolist)
    return x_NA.new_tensor(rows).view(len(rows), *x_NA.shape[1:])


def added(work: Callable[[], dict[str, float]], weights: Sequence[Any]) -> dict[str, float]:
    """Let every process do its share of a step, and add up what came out.

    Args:
        work: puts its share of the gradient into the weights' `grad` and gives its share of some sums.
        weights: those that are trained; they hold the whole gradient afterwards.

    Returns:
        The sums over all processes.

    Raises:
        Exception: what the work has raised in any of them.
        PeerLost: one of them is gone.
    """
    if World.count == 1:
        return work()
    parts = _all(work)
    _add_gradients(weights)
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _all(work: Callable[[], T]) -> list[T]:
    """What the work gives in every process, in their order; what it raises in one is raised in all."""
    found: T | None = None
    error: Exception | None = None
    try:
        with passing():
            found = work()
    except tuple(KINDS.values()) as wrong:
        if World.sharded:  # the others wait for this one in the middle of a pass
            raise
        error = wrong
    parts = exchange([found, None if error is None else _described(error)])
    for number, (_, failed) in enumerate(parts):
        if failed:
            raise (error if number == World.rank and error else _error(failed))
    return [part for part, _ in parts]


def _add_gradients(weights: Sequence[Any]) -> None:
    """Replace every gradient by the sum over all processes; where none has one there is none afterwards."""
    import torch
    import torch.distributed as dist

    has = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.float32)
    flat = torch.cat(
        [
            *(weight.new_zeros(weight.numel()) if weight.grad is None else weight.grad.flatten() for weight in weights),
            has.to(weights[0].device),
        ]
    )
    with talking():
        dist.all_reduce(flat)
        there = flat[-len(weights) :].tolist()  # on a GPU it is here that this process waits
    at = 0
    for weight, some in zip(weights, there, strict=True):
        weight.grad = flat[at : at + weight.numel()].view_as(weight).to(weight.dtype, copy=True) if some else None
        at += weight.numel()


def any_of(flag: bool) -> bool:
    """Whether it is so in any process."""
    return flag if World.count == 1 else any(exchange(flag))


def in_step(batches: Iterable[T], idle: Callable[[], object]) -> Iterator[T]:
    """This process's micro-batches. Where a forward pass is one of all processes it takes part in those of the one with
    the most of them, too.

    Args:
        batches: of this process.
        idle: a pass without rows.
    """
    if not World.sharded:
        yield from batches
        return
    mine = list(batches)
    most = max(exchange(len(mine)))
    yield from mine
    for _ in range(most - len(mine)):
        idle()


def go_on(flag: bool) -> bool:
    """Whether this process has to take part in one more pass: as it says, or where passes are those of all, as any
    does."""
    return any_of(flag) if World.sharded else flag


def from_main(work: Callable[[], T]) -> T:
    """What the work gives in the main process, which alone does it, and not before all have come here: what it changes
    on the disk nobody reads before. JSON can hold it.

    Raises:
        Exception: what it raised there.
    """
    if World.count == 1:
        return work()
    exchange(None)
    told: list[Any] = [None, None]
    error: Exception | None = None
    if World.rank == 0:
        try:
            told[0] = work()
        except (UserError, Halted) as wrong:
            error, told[1] = wrong, _described(wrong)
    value, failed = exchange(told)[0]
    if failed:
        raise error or _error(failed)
    return told[0] if World.rank == 0 else value


def tensors_from_main(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the main process, in main memory.

    Args:
        tensors: in the main process these, elsewhere anything.
    """
    import torch
    import torch.distributed as dist
    from safetensors.torch import load, save

    if World.count == 1:
        return dict(tensors)
    found: dict[str, Tensor] = {}
    for name in from_main(lambda: list(tensors)):  # one after the other: no more than one is in memory twice
        content = save({name: tensors[name].detach().cpu().contiguous()}) if is_main() else b""
        size = torch.tensor([len(content)])
        with talking():
            dist.broadcast(size, 0, group=World.group)
            said = (
                torch.frombuffer(bytearray(content), dtype=torch.uint8)
                if content
                else torch.empty(int(size), dtype=torch.uint8)
            )
            dist.broadcast(said, 0, group=World.group)
        found |= load(said.numpy().tobytes())
    return found


def alike(weights: Mapping[str, Tensor]) -> None:
    """Give every process the main one's weights: what each has made of its own should be the same, and now it is."""
    import torch

    if World.count == 1:
        return
    found = tensors_from_main(weights)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(found[name])


def poll() -> None:
    """A safe point that all processes come to.

    Raises:
        Interrupted: a signal has come, to any of them.
    """
    if World.count == 1:
        stop.poll()
        return
    asked = [number for number in exchange(stop.asked()) if number]
    if asked:
        found = stop.Interrupted(asked[0])
        found.agreed = True
        raise found


def _described(error: Exception) -> dict[str, Any]:
    return {"kind": type(error).__name__, "text": str(error), "rows": list(getattr(error, "rows", ()))}


def _error(told: Mapping[str, Any]) -> Exception:
    """The error of another process."""
    error = KINDS.get(told["kind"], Halted)(told["text"])
    if isinstance(error, Diverged):
        error.rows = told["rows"]
    return error
