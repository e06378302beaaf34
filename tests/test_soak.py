"""Twenty thousand steps: the process does not grow, and neither does the run folder but for its log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rl4nlu.cli import main
from rl4nlu.run import Run

STEPS = int(os.environ.get("RL4NLU_SOAK", "20000"))
COMMON = "--task mini/question --batch-size 2 --limit 40 --eval-limit 4 --save-every 25"
SHARES = {
    f"sft {COMMON}": 0.5,
    f"ppo {COMMON} --estimator expected --inner-epochs 1 --select-rows 0": 0.2,
    f"ppo {COMMON} --answers 2 --inner-epochs 1 --select-rows 0": 0.1,
    f"classify {COMMON}": 0.2,
}


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def folder_size(run: Path) -> int:
    """Bytes of a run folder, without its log."""
    return sum(path.stat().st_size for path in run.rglob("*") if path.is_file() and path.name != "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("command", SHARES, ids=["sft", "expected", "gae", "classify"])
def test_nothing_grows(tmp_path, monkeypatch, tiny_model, command):
    steps = int(STEPS * SHARES[command])
    memory, folder, log = {}, {}, Run.log

    def watching(self, row):
        log(self, row)
        if row["step"] % (steps // 20) == 0:
            memory[row["step"]], folder[row["step"]] = resident(), folder_size(self.path)

    monkeypatch.setattr(Run, "log", watching)
    out = tmp_path / "run"
    assert main([*command.split(), "--model", str(tiny_model), "--max-steps", str(steps), "--out", str(out)]) == 0
    first, last = memory[steps // 20 * 4], memory[steps]
    print(f"\n{command.split()[0]}: {steps} steps, {first / 1e6:.1f} MB after a fifth, {last / 1e6:.1f} MB at the end")
    assert last <= 1.01 * first
    assert max(folder.values()) <= 1.02 * folder[steps // 20 * 4]
    assert len(list((out / "checkpoints").iterdir())) == 2
