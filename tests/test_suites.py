"""The parts of a suite: how long runs may take, what is shown meanwhile, and a stand-in for Ray that fails."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import types
from pathlib import Path

import pytest
from rich.console import Console

from rl4nlu import say
from rl4nlu.config import validate
from rl4nlu.errors import UserError
from rl4nlu.plan import make_plan
from rl4nlu.settings import Resources, SftSettings, SuiteSettings
from rl4nlu.stop import Interrupted, heeded
from rl4nlu.suites import on_ray
from rl4nlu.suites.board import Board
from rl4nlu.suites.study import Study
from rl4nlu.suites.times import Times
from rl4nlu.suites.work import Outcome, Work

SUITE = {
    "seeds": [0, 1],
    "common": {"select_rows": 64, "max_steps": 10},
    "models": {"mini": {}, "big": {"model": "some/model"}},
    "tasks": ["mini/question"],
    "methods": {
        "sft": {"command": "sft", "learning_rate": [1e-4, 1e-3]},
        "half": {"command": "sft", "steps": 0.5},
        "ppo": {"command": "ppo", "init": "half"},
    },
}


def plan_of(**changes):
    return make_plan(validate(SuiteSettings, {**SUITE, **changes}))


# -- times -------------------------------------------------------------------------------------------------------------


def test_what_is_foreseen_is_asked_once_a_kind_and_grows_with_the_steps(tmp_path):
    plan, asked = plan_of(), []
    state = dict.fromkeys(plan.jobs, "planned")

    def ask(command, settings):
        asked.append((command, settings.task, settings.model))
        if settings.model == "some/model" and command == "ppo":
            raise ValueError("no such model")
        return {"sft": 100.0, "ppo": 1000.0}[command] * (10 if settings.model == "some/model" else 1)

    times = Times(plan, at_a_time=2)
    assert times.left(state) is None
    times.foresee(state, tmp_path, ask)
    assert sorted(asked) == sorted((c, "mini/question", m) for c in ("sft", "ppo") for m in ("mini", "some/model"))
    assert times.foreseen["runs/mini/sft/mini-question-s1"] == 100
    assert times.foreseen["runs/big/half/mini-question-s0"] == 500
    assert times.foreseen["runs/mini/ppo/mini-question-s0"] == 1000
    assert times.left(state) is None  # of ppo on the big model nothing is known
    known = {name: s for name, s in state.items() if "big/ppo" not in name}
    only = Times(plan_of(methods={"sft": SUITE["methods"]["sft"]}), at_a_time=2)
    few = dict.fromkeys(only.plan.jobs, "planned")
    only.foresee(few, tmp_path, ask)
    assert only.left(few) == pytest.approx((4 * 100 + 4 * 1000) / 2)  # two seeds and two candidates on each model
    assert len(known) == len(state) - 2


def test_finished_runs_tell_more_than_what_is_foreseen(tmp_path):
    plan = plan_of(methods={"sft": SUITE["methods"]["sft"]})
    state, times = dict.fromkeys(plan.jobs, "planned"), Times(plan)
    state["runs/mini/sft/mini-question-s0"], times.seconds["runs/mini/sft/mini-question-s0"] = "done", 7.0
    models = []
    times.foresee(state, tmp_path, lambda command, settings: models.append(settings.model) or 1000.0)
    assert models == ["some/model"]  # the small one has been run
    assert times.left(state) == pytest.approx(3 * 7 + 4 * 1000)


# -- the board ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path) -> Study:
    found = Study(plan_of(models={}, common={**SUITE["common"], "model": "mini"}), tmp_path / "s")
    found.state["runs/half/mini-question-s0"] = "running"
    found.state["runs/half/mini-question-s1"] = "running"
    found.state["runs/ppo/mini-question-s0"] = "failed"
    return found


def test_the_table_shows_what_is_at_work_and_what_waits(study):
    run = study.out / "runs/half/mini-question-s0"
    run.mkdir(parents=True)
    (run / "status.json").write_text(json.dumps({"state": "running", "steps": 10}))
    (run / "metrics.jsonl").write_text('{"step": 3}\n{"step": 4}\n{"st')
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Board(study, console) as board:
        console.print(board.panel())
    shown = console.file.getvalue()
    assert "1/8 runs" in shown
    assert "2 running, 1 failed" in shown
    assert "half mini/question seed 0" in shown
    assert "4/10" in shown
    assert "half mini/question seed 1" not in shown
    assert "1 about to begin, or waiting for room" in shown


def test_in_a_file_there_are_lines_and_for_machines_objects(study, capsys):
    study.notes.append("something happened")
    board = Board(study, Console(file=io.StringIO()))
    board.tell(["and more"])
    assert capsys.readouterr().out == "something happened\nand more\n"
    study.state["runs/half/mini-question-s0"] = "done"
    with say.to_machines():
        board.tell([])
        board.tell([])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["event"], one.get("state"), one.get("done")) for one in told] == [
        ("run", "done", None),
        ("progress", None, 2),
    ]
    assert told[0]["run"] == str(study.out / "runs/half/mini-question-s0")
    assert told[1]["total"] == 8


# -- Ray ---------------------------------------------------------------------------------------------------------------


class FakeRay:
    """In place of the library: what is handed over ends as `ends` says, one after the other."""

    def __init__(self, nodes: list[dict[str, float]]) -> None:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            cause = None

        class WorkerCrashedError(RayError):
            pass

        self.exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.crashed = WorkerCrashedError
        self.machines, self.ends, self.options_given, self.cancelled, self.shut = nodes, [], [], [], False
        self.handed: list = []

    def nodes(self):
        return [{"NodeID": f"{i:056}", "NodeManagerAddress": f"10.0.0.{i}", "Alive": True, "Resources": one}
                for i, one in enumerate(self.machines)]  # fmt: skip

    def remote(self, function):
        ray = self

        class Task:
            def options(self, **given):
                ray.options_given.append(given)
                return self

            def remote(self, *args):
                ray.handed.append((function, args))
                return len(ray.handed) - 1

        return Task()

    def wait(self, refs, num_returns, timeout):
        return refs[:1], refs[1:]

    def get(self, ref, timeout=None):
        function, args = self.handed[ref]
        if function is on_ray._complaint:
            return function(*args)
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    def cancel(self, ref, force):
        self.cancelled.append((ref, force))

    def shutdown(self):
        self.shut = True


@pytest.fixture
def ray(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = FakeRay([{"CPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}])
    monkeypatch.setattr(on_ray, "_connect", lambda address: found)
    util = types.ModuleType("ray.util.scheduling_strategies")
    util.NodeAffinitySchedulingStrategy = lambda node, soft: node
    for name in ("ray", "ray.util"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, util.__name__, util)
    return found


def work(**given) -> Work:
    resources = Resources(**given)
    settings = validate(SftSettings, {"task": "mini/question", "model": "mini"})
    return Work("r", "a run", "sft", "sft", settings, None, Path("log.txt"), resources)


def cluster(ray, address="auto", jobs=2, retries=1) -> on_ray.OnRay:
    Path("s").mkdir(exist_ok=True)
    return on_ray.OnRay(address, jobs, Path("s"), retries)


@pytest.mark.parametrize(
    ("given", "cpus", "gpus"),
    [
        ({}, 4, 1),  # one of four GPUs, and so a quarter of that machine's cores
        ({"gpus": 0}, 4, 0),  # two at a time on the smaller machine
        ({"gpus": 0, "cpus": 3}, 3, 0),
        ({"gpus": 0.5}, 2, 0.5),
        ({"gpus": 4}, 16, 4),
        ({"cpus": 1}, 1, 1),
    ],
)
def test_what_a_run_gets(ray, given, cpus, gpus):
    cluster(ray).start(work(**given))
    asked = ray.options_given[-1]
    assert (asked["num_cpus"], asked["num_gpus"], asked["max_retries"]) == (cpus, gpus, 0)
    assert ray.handed[-1][1][0].resources == Resources(cpus=cpus, gpus=gpus)  # so many threads it computes with


def test_how_many_there_is_room_for(ray):
    assert cluster(ray).at_a_time == 4
    ray.machines = [{"CPU": 8.0}, {"CPU": 9.0}]
    assert cluster(ray, jobs=4).at_a_time == 8
    ray.machines = [{"memory": 1.0}, {"CPU": 2.0}]  # a head that does no work
    assert cluster(ray, jobs=1).at_a_time == 1


def test_a_worker_that_dies_is_replaced_as_often_as_was_said(ray):
    workers = cluster(ray, retries=2)
    done = Outcome(1.0, [{}])
    ray.ends = [ray.crashed(), ray.crashed(), done]
    workers.start(work())
    assert workers.wait() == []
    assert workers.wait() == []
    assert workers.busy
    assert workers.wait() == [("r", done)]
    assert not workers.busy
    assert workers.notes == ["a run: its process died; it goes on from its last checkpoint"] * 2
    assert [args[2] for function, args in ray.handed if function is on_ray._make] == [0, 1, 2]
    ray.ends = [ray.crashed()] * 3
    workers.start(work())
    found = [workers.wait() for _ in range(3)]
    assert found[:2] == [[], []]
    assert "its process died 3 times" in found[2][0][1].error


def test_an_error_is_no_death(ray):
    error = ray.exceptions.RayTaskError("x")
    error.cause = UserError("node-7 does not see the files")
    ray.ends = [error]
    workers = cluster(ray)
    workers.start(work())
    assert workers.wait() == [("r", Outcome(0.0, error="node-7 does not see the files"))]


def test_at_the_end_nothing_is_left(ray):
    workers = cluster(ray)
    (token,) = Path("s").glob(".ray-*")
    workers.start(work())
    assert workers.stop() == 0
    assert ray.cancelled == [(len(ray.handed) - 1, False)]
    assert ray.shut
    assert not token.exists()


def test_more_than_there_is(ray):
    workers = cluster(ray)
    workers.start(work(gpus=8))  # a cluster may grow
    workers.start(work(gpus=8))
    assert workers.notes == [
        "a run needs 16 cores and 8 GPUs: no machine of the cluster has them now, so it waits for one"
    ]
    with pytest.raises(UserError, match="a run needs 99 cores and 1 GPUs, and this machine has less: set resources"):
        cluster(ray, "local").start(work(cpus=99))


def test_a_machine_that_sees_other_files_or_has_another_version_is_named(ray, monkeypatch, tmp_path):
    place = on_ray.Place(tmp_path, tmp_path / "token", "mine")
    assert "does not see the files in" in place.complaint()
    place.token.write_text("of another")
    assert "share, under the same path" in place.complaint()
    place.token.write_text("mine")
    assert place.complaint() == ""
    assert on_ray.Place(tmp_path / "not here", place.token, "mine").complaint()
    assert "has rl4nlu" in on_ray._complaint(place, "99.0")
    monkeypatch.setattr(on_ray, "_complaint", lambda *_: "node-7 has rl4nlu 0.0")
    monkeypatch.setattr(ray, "get", lambda *_, **__: "node-7 has rl4nlu 0.0")
    with pytest.raises(UserError, match="--ray: node-7 has"):
        cluster(ray)
    assert ray.shut


def test_a_signal_that_comes_while_ray_is_asked_is_acted_on_afterwards(ray, monkeypatch):
    workers = cluster(ray)
    workers.start(work())
    monkeypatch.setattr(ray, "wait", lambda *_, **__: (os.kill(os.getpid(), signal.SIGTERM), ([], []))[1])
    with heeded(), pytest.raises(Interrupted):
        workers.wait()


def test_nothing_answers_or_nothing_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'rl4nlu\[ray\]'"):
        on_ray._connect("local")
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    with pytest.raises(UserError, match="nothing answers there"):
        on_ray._connect("127.0.0.1:9")
