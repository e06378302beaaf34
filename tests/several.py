"""Commands carried out by several real processes on this machine, as torchrun would start them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(count: int, folder: Path, commands: list[list[str]], **more: str) -> list[subprocess.Popen]:
    """Begin the commands, one after the other, in so many processes; what each says is in folder/said-RANK.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commands.json").write_text(json.dumps(commands))
    port = str(free_port())
    found = []
    for rank in range(count):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **more}
        with (folder / f"said-{rank}.txt").open("w") as said:
            argv = [sys.executable, __file__, str(folder / "commands.json")]
            found.append(subprocess.Popen(argv, env=environment, cwd=folder, stdout=said, stderr=said))
    return found


SHARING = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""As `accelerate launch --use_fsdp --fsdp_version 2` says it."""


def carry_out(count: int, folder: Path, commands: list[list[str]], seconds: float = 300, **more: str) -> None:
    """The same, to their ends."""
    processes = start(count, folder, commands, **more)
    try:
        codes = [process.wait(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(codes):
        said = "\n".join((folder / f"said-{rank}.txt").read_text()[-4000:] for rank in range(count))
        pytest.fail(f"exit codes {codes}\n{said}")


def compare(folder: Path) -> dict[str, Any]:
    """What a model says whole, and with its layers shared out: differences, as shares of the largest number; and how
    many weights this process holds."""
    import torch

    from rl4nlu import processes
    from rl4nlu.forward import begin, score
    from rl4nlu.identity import fingerprint_of_model
    from rl4nlu.loading import load_base
    from rl4nlu.models import around, load_policy
    from rl4nlu.settings import LoraSettings
    from rl4nlu.tokens import micro_batches

    rows = [((*range(5, 30), 40 + i, 50), ((7, 8), (9,))) for i in range(4)]
    (batch,) = micro_batches(rows, 10_000, 0)

    def said(policy) -> list[torch.Tensor]:
        for name, weight in policy.named_trainable().items():
            torch.manual_seed(len(name))
            torch.nn.init.normal_(weight, std=0.1)
        begun = begin(policy.model, batch, goes_on=True) if policy.shared else None
        first = score(policy.model, batch, policy.shared, beginning=begun).logp_BKA
        with torch.no_grad(), policy.as_reference():  # a pass of its own between a pass and its gradient
            reference = score(policy.model, batch, policy.shared).logp_BKA
        again = score(policy.model, batch, policy.shared, entropy="gradient")
        (first.sum() + again.logp_BKA.sum() + again.entropy_BKA.sum()).backward()
        return [first.detach(), reference, *(weight.grad for weight in policy.trainable())]

    processes.join("cpu")
    whole = around(str(folder), *load_base(str(folder), torch.float32), lora=LoraSettings())
    share = load_policy(str(folder), "cpu", lora=LoraSettings())
    print_before = fingerprint_of_model(whole.model), fingerprint_of_model(share.model)
    one, two = said(whole), said(share)
    largest = max(float(x.abs().max()) for x in one)
    sizes = [
        sum(w.to_local().numel() if hasattr(w, "to_local") else w.numel() for w in policy.model.parameters())
        for policy in (whole, share)
    ]
    return {
        "difference": max(float((a - b).abs().max()) for a, b in zip(one, two, strict=True)) / largest,
        "same_fingerprint": len(set(print_before)) == 1,
        "sizes": sizes,
        "shared": [whole.shared, share.shared],
    }


def main() -> int:
    from rl4nlu.cli import main as command

    for argv in json.loads(Path(sys.argv[1]).read_text()):
        if argv[0] == "compare":
            found = compare(Path(argv[1]))
            Path(f"compared-{Path(argv[1]).name}-{os.environ['RANK']}.json").write_text(json.dumps(found))
        elif code := command(argv):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
