"""A suite on a real Ray cluster: workers and a whole machine are killed at work, and what comes out is the same as
without Ray."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from models_zoo import tiny_folder
from outcomes import assert_same_outcome

ray = pytest.importorskip("ray", reason="needs: pip install 'rl4nlu[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STUDY = {
    "seeds": [0, 1],
    "common": {
        **{"model": "model", "select_rows": 16, "max_steps": 24, "batch_size": 8, "limit": 200, "eval_limit": 40},
        "save_every": 2,
    },
    "tasks": ["mini/sentiment", "mini/question"],
    "methods": {
        "zero-shot": {"command": "evaluate"},
        "few-shot": {"command": "evaluate", "shots": 4},
        "sft": {"command": "sft", "learning_rate": [1.0e-3, 3.0e-3]},
        "ppo": {"command": "ppo", "init": "sft", "answers": 2},
        "rloo": {"command": "ppo", "init": "sft", "answers": 2, "estimator": "rloo"},
        "greedy": {"command": "evaluate", "adapter": "ppo", "decode": "greedy"},
    },
}
RUNS = 2 * (1 + 5 * 2 + 2)


class Suite:
    """A suite's process, in a folder of its own."""

    def __init__(self, folder: Path, out: str, *flags: str) -> None:
        self.out = folder / out
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-m", "rl4nlu", "suite", "study.yaml", "--out", out, *flags]
        self.process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def at_work(self) -> dict[Path, int]:
        """Runs that are training, and their processes."""
        found = {}
        for file in self.out.glob("*/*/*/status.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                status = json.loads(file.read_text())
                log = file.parent / "metrics.jsonl"
                if status["state"] == "running" and log.is_file() and log.stat().st_size and _lives(status["process"]):
                    found[file.parent] = status["process"]
        return found

    def wait_for_work(self) -> dict[Path, int]:
        until = time.monotonic() + 120
        while not (found := self.at_work()):
            assert time.monotonic() < until, "nothing begins"
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        return found

    def end(self, seconds: float = 600) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, error

    @property
    def states(self) -> dict[str, str]:
        return {one["name"]: one["state"] for one in json.loads((self.out / "suite.json").read_text())["runs"]}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The suite's file, its model, and all of its runs without Ray."""
    found = tmp_path_factory.mktemp("suites")
    tiny_folder(found / "model")
    (found / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    code, _, error = Suite(found, "here", "--jobs", "2").end()
    assert code == 0, error
    return found


def assert_same_suites(one: Path, other: Path) -> None:
    """Weights, logs, answers, results, what was chosen, and the tables of the report."""
    names = [json.loads((path / "suite.json").read_text()) for path in (one, other)]
    assert [run["name"] for run in names[0]["runs"]] == [run["name"] for run in names[1]["runs"]]
    assert len(names[0]["runs"]) == RUNS
    assert names[0]["chosen"] == names[1]["chosen"]
    for run in names[0]["runs"]:
        assert_same_outcome(one / run["name"], other / run["name"])
    tables = [_tables(path) for path in (one, other)]
    assert tables[0] == tables[1]


def _tables(suite: Path) -> object:
    """What `report` makes of it, without how long it took."""
    out = suite.parent / f"{suite.name}.json"
    words = [sys.executable, "-m", "rl4nlu", "report", str(suite), "--out", str(out)]
    subprocess.run(words, check=True, capture_output=True)
    return _without(json.loads(out.read_text().replace(suite.name, "suite")), "cost", "seconds")


def _without(value: object, *names: str) -> object:
    if isinstance(value, dict):
        return {key: _without(inner, *names) for key, inner in value.items() if key not in names}
    return [_without(one, *names) for one in value] if isinstance(value, list) else value


def test_killed_workers_lose_nothing(folder):
    suite = Suite(folder, "killed", "--jobs", "2", "--ray", "--retries", "3")
    killed: set[Path] = set()
    while suite.process.poll() is None and len(killed) < 6:
        for run, pid in suite.at_work().items():
            if run not in killed:
                killed.add(run)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    code, out, error = suite.end()
    assert code == 0, out + error
    assert len(killed) == 6
    assert out.count("its process died; it goes on from its last checkpoint") == 6
    assert set(suite.states.values()) == {"done"}
    assert not list(suite.out.glob(".ray-*"))
    assert_same_suites(folder / "here", suite.out)


def test_a_lost_machine_loses_nothing(folder):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        lost, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
        suite = Suite(folder, "lost", "--ray", cluster.address)
        while len(suite.wait_for_work()) < 2:
            time.sleep(0.02)
        cluster.remove_node(lost, allow_graceful=False)
        code, out, error = suite.end()
    finally:
        cluster.shutdown()
    assert code == 0, out + error
    assert re.search(r"its (machine was lost|process died); it goes on", out)
    assert_same_suites(folder / "here", suite.out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_when_the_program_ends_its_workers_do_and_the_same_command_goes_on(folder, number):
    name = f"ended-{number}"
    suite = Suite(folder, name, "--jobs", "2", "--ray")
    pids = suite.wait_for_work().values()
    suite.process.send_signal(number)
    code, _, error = suite.end(60)
    if number == signal.SIGINT:
        assert code == 130
        assert "stopped by SIGINT; every run that was at work is saved; the same command goes on" in error
    until = time.monotonic() + 30
    while any(map(_lives, pids)):
        assert time.monotonic() < until, "a worker works on"
        time.sleep(0.1)
    again = Suite(folder, name, "--jobs", "2")
    code, out, error = again.end()
    assert code == 0, out + error
    assert_same_suites(folder / "here", again.out)


def test_what_a_cluster_lacks_is_one_line(folder):
    cases = [
        (("--ray", "127.0.0.1:9"), "--ray 127.0.0.1:9: nothing answers there"),
        (("--ray", "somewhere"), "--ray: string should match"),
    ]
    for flags, says in cases:
        code, out, error = Suite(folder, "never", *flags).end()
        assert code == 2, out
        assert says in error
        assert "Traceback" not in error


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process of Ray's is left behind by a test."""
    yield
    until = time.monotonic() + 30
    while subprocess.run(["pgrep", "-f", "raylet/raylet"], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < until, "Ray is still there"
        time.sleep(0.5)
