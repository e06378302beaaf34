"""Out of memory: half as much at a time, all rows exactly once, and an end where halving cannot help."""

from __future__ import annotations

import pytest
import torch

from rl4nlu.errors import OutOfMemory
from rl4nlu.memory import Memory, is_out_of_memory

CPU_SAYS = (
    "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


def test_which_errors_are_for_want_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError(CPU_SAYS))
    for words in (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory",
    ):
        assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_the_cpu_really_says_so():
    with pytest.raises(RuntimeError) as wrong:
        torch.empty(2**55)
    assert is_out_of_memory(wrong.value)


def test_halved_until_it_fits_and_remembered_by_phase(capsys):
    memory, tried = Memory(), []

    def work(tokens):
        tried.append(tokens)
        if tokens > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert memory.fitting("update", 1000, work) == "done"
    assert tried == [1000, 500, 250]
    assert memory.fitting("update", 1000, work) == "done"
    assert tried == [1000, 500, 250, 250]
    assert memory.fitting("rollout", 200, work) == "done"
    assert memory.most == {"update": 250}
    assert "update: out of memory, 500 instead of 1000" in capsys.readouterr().err


def test_an_end_where_halving_cannot_help():
    def work(_):
        raise RuntimeError(CPU_SAYS)

    with pytest.raises(OutOfMemory, match="update: out of memory with one row at a time"):
        Memory().fitting("update", 1000, work)


def test_other_errors_pass():
    def work(_):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes"):
        Memory().fitting("update", 1000, work)


def test_every_row_exactly_once_wherever_memory_runs_out():
    rows = [(list(range(1, 4 + n % 5)), [[1]]) for n in range(17)]
    for fails_at in range(1, 12):
        seen, calls = [], []

        def work(batch, fails_at=fails_at, calls=calls, seen=seen):
            calls.append(batch.rows)
            if len(calls) == fails_at:
                raise torch.OutOfMemoryError("CUDA out of memory")
            for i, row in enumerate(batch.rows):  # the batch holds the rows that it says
                assert list(batch.prompts[i]) == rows[row][0]
            seen.extend(batch.rows)

        Memory().each("scoring", rows, 40, work, 0, torch.device("cpu"))
        assert sorted(seen) == list(range(17))
