"""Commands carried out by several real processes on this machine, as torchrun would start them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

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


def main() -> int:
    from rl4nlu.cli import main as command

    for argv in json.loads(Path(sys.argv[1]).read_text()):
        if code := command(argv):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
