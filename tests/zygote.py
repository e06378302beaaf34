"""A process that has all imports done and forks one real process a command: starting one takes no seconds of imports,
so that hundreds can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType


class Zygote:
    """Starts `rl4nlu` commands as processes, each in a folder, its output in files."""

    def __enter__(self) -> Zygote:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._read() == "ready"
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)

    def _read(self) -> str:
        return self.process.stdout.readline().strip()

    def start(self, folder: Path, *argv: str, log: str = "log.txt") -> int:
        """Begin a command; its process id."""
        self.process.stdin.write(json.dumps({"start": [str(a) for a in argv], "in": str(folder), "log": log}) + "\n")
        self.process.stdin.flush()
        return int(self._read())

    def wait(self, pid: int) -> int:
        """The exit code of a command; -9 if it was killed."""
        self.process.stdin.write(json.dumps({"wait": pid}) + "\n")
        self.process.stdin.flush()
        return int(self._read())

    def run(self, folder: Path, *argv: str, log: str = "log.txt") -> int:
        """A command from its start to its end; its exit code."""
        return self.wait(self.start(folder, *argv, log=log))


def until(what, seconds: float = 60.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.0002)


def _serve() -> None:
    import torch

    torch.set_num_threads(1)
    import peft  # noqa: F401

    import rl4nlu.cli
    import rl4nlu.demo
    import rl4nlu.methods.classify

    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        child = os.fork()
        if child:
            print(child, flush=True)
            continue
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored
        os.chdir(order["in"])
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        with contextlib.suppress(SystemExit):
            try:
                code = rl4nlu.cli.main(order["start"])
            except BaseException:
                import traceback

                traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
