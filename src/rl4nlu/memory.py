"""Out of memory: the work is done again with half as many tokens at a time, so that the result is the same, but for
rounding and for the masks of dropout, which are drawn for each micro-batch."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from . import processes, say
from .errors import OutOfMemory
from .tokens import Batch, micro_batches

SMALLEST = 16
"""Tokens at a time, below which every row goes alone anyway."""
T = TypeVar("T")


@dataclass
class Memory:
    """How many tokens may go through the model at a time, in each phase: as set, less once memory has run out."""

    most: dict[str, int] = field(default_factory=dict)
    """Phase -> tokens."""

    def fitting(self, phase: str, tokens: int, work: Callable[[int], T], smallest: int = SMALLEST) -> T:
        """`work(tokens)`; again with half as many, whenever memory runs out. The work must be one that can be begun
        anew.

        Args:
            phase: rollout, update or scoring: what one of them needs says nothing of the others.
            tokens: at a time, as set.
            work: is given the number.
            smallest: where there is no use in halving any more.

        Raises:
            OutOfMemory: nothing smaller is left to try.
        """
        while True:
            now = min(tokens, self.most.get(phase, tokens))
            try:
                return work(now)
            except (RuntimeError, MemoryError) as wrong:
                if not is_out_of_memory(wrong):
                    raise
                if processes.sharded():  # the others are in the middle of the same pass
                    raise OutOfMemory(
                        f"{phase}: out of memory with {now} tokens at a time; go on with a smaller --max-tokens"
                    ) from None
                said = (str(wrong).strip() or "out of memory").splitlines()[0][:200]
            # here, where the traceback does not hold the tensors any more
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if now <= smallest:
                raise OutOfMemory(
                    f"{phase}: out of memory with one row at a time ({said}); begin a new run with a smaller model, "
                    "fewer --answers or --shots, or a smaller --max-length"
                )
            self.most[phase] = max(smallest, now // 2)
            say.note(f"note: {phase}: out of memory, {self.most[phase]} instead of {now} at a time")

    def each(
        self,
        phase: str,
        rows: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
        tokens: int,
        work: Callable[[Batch], None],
        pad: int,
        device: torch.device,
        kinds: Sequence[Hashable] | None = None,
        idle: Callable[[], object] = lambda: None,
    ) -> None:
        """`work` on micro-batches of all rows (`tokens.micro_batches`); a row whose micro-batch went through is not
        worked on again. `idle` takes part in what other processes work on (`processes.in_step`)."""
        left = dict.fromkeys(range(len(rows)))

        def go(most: int) -> None:
            now = list(left)
            of_kind = None if kinds is None else [kinds[i] for i in now]
            batches = micro_batches([rows[i] for i in now], most, pad, device, of_kind)
            for batch in processes.in_step(batches, idle):
                whole = replace(batch, rows=tuple(now[i] for i in batch.rows))
                work(whole)
                for row in whole.rows:
                    del left[row]

        self.fitting(phase, tokens, go)


def keep_freed_pages() -> None:
    """Let the C library keep the memory of freed tensors for the next ones, rather than hand it back to the system,
    which has to clear every page of it again: a tenth of a training step on a CPU. Does nothing but on glibc."""
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_threshold, largest = -1, -3, 32 << 20  # malloc.h; no larger threshold is taken
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, largest)
        mallopt(trim_threshold, 2**31 - 1)


NO_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What stands in the errors of torch's allocator on a CPU, and of libraries that take a GPU's memory beside it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is for want of memory that torch gave up: on a GPU, or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    )
