"""The suite: what a file means as a plan, how values are chosen, and that a stopped study goes on where it was."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from rl4nlu import suites as room
from rl4nlu.cli import main
from rl4nlu.config import validate
from rl4nlu.errors import NoSpace, UserError
from rl4nlu.plan import make_plan
from rl4nlu.run import Run
from rl4nlu.settings import SuiteSettings
from rl4nlu.suites import work as works
from rl4nlu.suites import workers
from rl4nlu.suites.study import Study, choose
from rl4nlu.tables import grid, heads

STUDY = {
    "seeds": [0, 1],
    "common": {"model": "mini", "select_rows": 64, "max_steps": 10, "batch_size": 8, "limit": 200, "eval_limit": 40},
    "tasks": {"mini/sentiment": {"max_steps": 7, "eval_limit": 30}, "mini/question": None},
    "methods": {
        "zero-shot": {"command": "evaluate"},
        "few-shot": {"command": "evaluate", "shots": 4},
        "ppo": {"command": "ppo", "init": "sft-half", "steps": 0.5},
        "sft": {"command": "sft", "learning_rate": ["3e-4", 1e-3], "lora": {"r": [8, 16]}},
        "sft-half": {"command": "sft", "steps": 0.5, "learning_rate": "=sft", "batch_size": 4},
    },
}


def study(**changes) -> SuiteSettings:
    return validate(SuiteSettings, {**STUDY, **changes})


def methods(**given) -> SuiteSettings:
    return study(methods=given)


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_the_plan_has_every_run_once():
    plan = make_plan(study())
    runs = [name for name in plan.jobs if name.startswith("runs/")]
    assert len(runs) == 2 * (1 + 4 * 2)  # zero-shot draws nothing: one seed
    assert "runs/zero-shot/mini-question-s0" in runs
    assert "runs/zero-shot/mini-question-s1" not in runs
    trials = [name for name in plan.jobs if name.startswith("tuning/sft/mini-sentiment")]
    assert trials == [
        f"tuning/sft/mini-sentiment-learning_rate={rate}-lora.r={r}" for rate in ("0.0003", "0.001") for r in (8, 16)
    ]
    assert plan.jobs["runs/ppo/mini-question-s1"].source == "runs/sft-half/mini-question-s1"


def test_method_beats_task_beats_common_and_commands_get_what_they_know(tmp_path):
    plan = make_plan(study())
    chosen = {("sft", task): {"learning_rate": 1e-3, "lora.r": 8} for task in STUDY["tasks"]}

    def settings(name):
        return plan.settings(plan.jobs[name], tmp_path, chosen)

    sft = settings("runs/sft/mini-sentiment-s1")
    assert (sft.max_steps, sft.batch_size, sft.limit, sft.eval_limit, sft.seed) == (7, 8, 200, 30, 1)
    assert (sft.learning_rate, sft.lora.r, sft.lora.alpha) == (1e-3, 8, 32)
    half = settings("runs/sft-half/mini-sentiment-s0")
    assert (half.max_steps, half.batch_size, half.learning_rate, half.lora.r) == (4, 4, 1e-3, 16)  # 3.5 is rounded
    assert settings("runs/sft-half/mini-question-s0").max_steps == 5
    zero = settings("runs/zero-shot/mini-sentiment-s0")
    assert zero.limit == 30  # its rows are those that the others evaluate on
    ppo = settings("runs/ppo/mini-sentiment-s0")
    assert (ppo.init, ppo.out) == (
        tmp_path / "runs/sft-half/mini-sentiment-s0",
        tmp_path / ppo.out.relative_to(tmp_path),
    )
    trial = settings("tuning/sft/mini-sentiment-learning_rate=0.0003-lora.r=16")
    assert (trial.seed, trial.learning_rate, trial.lora.r, trial.eval_limit) == (0, 3e-4, 16, 32)


def test_the_best_on_held_out_rows_is_chosen():
    grid = [({"learning_rate": 1e-4}, 0.6), ({"learning_rate": 1e-3}, 0.8), ({"learning_rate": 3e-3}, 0.8)]
    assert choose(grid) == {"learning_rate": 1e-3}
    assert choose([({"a": 1}, None), ({"a": 2}, -0.1)]) == {"a": 2}
    with pytest.raises(UserError, match="no candidate has a score"):
        choose([({"a": 1}, None)])


SFT = {"command": "sft"}
MISTAKES = [
    (study(seeds=[]), "seeds: name one at least"),
    (study(seeds=[1, 1]), "one stands there twice"),
    (study(methods={}), "methods: name one at least"),
    (study(tasks=[]), "tasks: name one at least"),
    (study(tasks=["mini/sentimnt"]), "did you mean 'mini/sentiment'"),
    (study(tasks={"mini/question": {"max_stepz": 1}}), "tasks.mini/question.max_stepz: no such setting"),
    (study(common={"lerning_rate": 1}), "did you mean 'learning_rate'"),
    (study(common={"seed": 1}), "common.seed: no such setting"),
    (methods(a={"command": "evaluate"}), "common.select_rows: no such setting for all runs of evaluate"),
    (
        methods(a={"command": "stf"}),
        "methods.a.command: give evaluate, sft, ppo, classify (got 'stf') (did you mean 'sft'",
    ),
    (methods(a={}), "methods.a.command: give"),
    (methods(**{"a/b": SFT}), "name a method with letters"),
    (methods(a={**SFT, "shotz": 1}), "methods.a.shotz: sft has no such setting (did you mean 'shots'?)"),
    (methods(a={**SFT, "out": "x"}), "methods.a.out: every run of a suite gets its own"),
    (methods(a={**SFT, "init": "b"}), "methods.a: no method of this suite is called 'b'"),
    (methods(a={**SFT, "init": ["b"]}), "no method of this suite is called"),
    (methods(a={**SFT, "init": "b"}, b={"command": "evaluate"}), "b is evaluate, which gives no adapter"),
    (methods(a={**SFT, "init": "b"}, b={**SFT, "init": "a"}), "they wait for each other"),
    (methods(a={**SFT, "init": "a"}), "they wait for each other"),
    (methods(a={**SFT, "warmup": "=b"}, b={**SFT, "init": "a", "warmup": [0.1, 0.2]}), "they wait for each other"),
    (methods(a={**SFT, "warmup": "=b"}, b={**SFT, "warmup": "=a"}), "goes round in a circle"),
    (methods(a={**SFT, "warmup": "=a"}), "goes round in a circle"),
    (methods(a={**SFT, "warmup": "=b"}, b=SFT), "b sets no warmup"),
    (methods(a={**SFT, "warmup": "=c"}, bc=SFT), "no method of this suite is called 'c'"),
    (methods(a={**SFT, "warmup": 7}), "methods.a on mini/sentiment: warmup: input should be less than 1 (got 7)"),
    (methods(a={**SFT, "warmup": [0.1, 7]}), "warmup: input should be less than 1 (got 7"),
    (methods(a={**SFT, "warmup": []}), "warmup is a list with no value in it"),
    (methods(a={**SFT, "warmup": [0.1, 0.1]}), "is one there twice?"),
    (methods(a={**SFT, "select_rows": 0, "warmup": [0.1, 0.2]}), "there are none: give select_rows"),
    (methods(a={"command": "classify", "warmup": [0.1]}, b=SFT), "classify holds out no training rows"),
    (methods(a={**SFT, "preset": "papper"}), "did you mean 'paper'"),
    (methods(a={**SFT, "steps": "many"}), "methods.a.steps: a factor on max_steps, so a number"),
    (methods(a={**SFT, "steps": 2, "max_steps": 5}), "max_steps is given too"),
    (methods(a={"command": "evaluate", "steps": 2}, b=SFT), "evaluate takes no steps"),
    (
        study(common={"model": "mini"}, tasks=["mini/question"], methods={"a": {**SFT, "steps": 2}}),
        "which is not set here",
    ),
    (study(common={}, tasks=["mini/question"], methods={"a": SFT}), "model is missing"),
]


@pytest.mark.parametrize(("wrong", "says"), MISTAKES, ids=[says for _, says in MISTAKES])
def test_a_mistake_in_the_suite_is_one_line(wrong, says):
    with pytest.raises(UserError) as error:
        make_plan(wrong)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistake_in_the_file_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cases = [
        ({**STUDY, "method": {}}, "method: no such setting (did you mean 'methods'?)"),
        ({**STUDY, "tasks": {"mini/question": 5}}, "tasks.mini/question: input should be a valid dictionary (got 5)"),
        ({**STUDY, "seeds": [-1]}, "seeds.0"),
        ({**STUDY, "jobs": 0}, "jobs: input should be greater than or equal to 1"),
    ]
    for content, says in cases:
        Path("study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        assert main(["suite", "study.yaml"]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert main(["suite"]) == 2
    assert main(["suite", "study.yaml", "--common", "x"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


# -- carrying it out, with runs that take no time ----------------------------------------------------------------------


class Here:
    """In place of processes: runs are made one after another, right here."""

    def __init__(self, count: int, retries: int = 1) -> None:
        self.queue, self.count, self.at_a_time, self.notes = [], count, count, []

    free = property(lambda self: self.count - len(self.queue))
    busy = property(lambda self: bool(self.queue))

    def start(self, work):
        self.queue.append(work)

    def wait(self):
        work = self.queue.pop(0)
        return [(work.name, works.perform(work))]

    def stop(self):
        return 0


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Commands that only write results, a list of the runs that were made, and what shall go wrong."""
    made, wrong = [], {}

    def make_run(work):
        settings = work.settings
        works.clear(settings.out)
        made.append(work.name)
        if work.name in wrong:
            raise wrong[work.name]
        assert work.source is None or (work.source / "results.json").is_file()
        with Run.begin(work.command, settings, reopened=False) as run:
            held = {0.0003: 0.5, 0.001: 0.9}.get(getattr(settings, "learning_rate", None), 0.1)
            gold, right = "positive", settings.seed + len(work.method)
            for i in range(40):
                said = gold if i < right else "negative"
                run.predict({"task": settings.task, "id": str(i), "gold": gold, "prediction": said, "scores": None})
            entry = {"task": settings.task, "method": work.command, "model": "mini", "shots": 0, "decode": "score"}
            entry |= {"seed": settings.seed, "split": "dev", "cut_rows": 0, "n": 40, "held_out": held, "unparsable": 0}
            entry |= {"metrics": {"accuracy": right / 40}, "stderr": {"accuracy": 0.03}, "seconds": 1.0}
            run.write_results([entry])
            return run, [entry]

    monkeypatch.setattr(works, "make_run", make_run)
    monkeypatch.setattr(room, "Workers", Here)
    monkeypatch.chdir(tmp_path)
    return made, wrong


SMALL = {
    **STUDY,
    "tasks": ["mini/sentiment"],
    "methods": {
        "ppo": {"command": "ppo", "init": "half"},
        "sft": {"command": "sft", "learning_rate": ["3e-4", 1e-3]},
        "half": {"command": "sft", "steps": 0.5, "learning_rate": "=sft"},
    },
}
ALL = {f"runs/{method}/mini-sentiment-s{seed}" for method in ("ppo", "sft", "half") for seed in (0, 1)}
TRIALS = {f"tuning/sft/mini-sentiment-learning_rate={rate}" for rate in ("0.0003", "0.001")}


def is_there(pid: str) -> bool:
    """Whether a process is alive; one that has ended and that nobody has asked about is not."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run(content: dict = SMALL, *flags: str) -> int:
    Path("study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return main(["suite", "study.yaml", "--out", "s", *flags])


def state() -> dict[str, str]:
    return {one["name"]: one["state"] for one in json.loads(Path("s/suite.json").read_text())["runs"]}


def test_dry_run_prints_the_plan_and_writes_nothing(world, capsys):
    assert run(SMALL, "--dry-run", "--seeds", "0", "1", "2") == 0
    out = capsys.readouterr().out
    assert re.search(
        r"11 runs in s: 0 done already, 11 to do, about \d+ (s|min); seeds 0, 1, 2", out
    )  # timing.py tells
    assert "0/3 + 0/2 tuning" in out
    assert world[0] == []
    assert not Path("s").exists()


def test_everything_in_its_order_then_nothing_more(world, capsys):
    made, _ = world
    assert run(SMALL, "--jobs", "2") == 0
    assert set(made) == ALL | TRIALS
    assert len(made) == len(ALL | TRIALS)
    assert set(made[:2]) == TRIALS
    assert made.index("runs/half/mini-sentiment-s1") < made.index("runs/ppo/mini-sentiment-s1")
    out = capsys.readouterr().out
    assert "sft mini/sentiment: chosen learning_rate 0.001 by held-out rows" in out
    assert re.search(r"/8\] ppo mini/sentiment seed 1: accuracy 10\.0 ± 3\.0  \d+ s", out)
    assert [word for word in out.split() if word in ("ppo", "sft", "half")][:3] == ["ppo", "sft", "half"]
    saved = json.loads(Path("s/suite.json").read_text())
    assert saved["chosen"]["sft"]["mini/sentiment"]["settings"] == {"learning_rate": 1e-3}
    assert [one["held_out"] for one in saved["chosen"]["sft"]["mini/sentiment"]["candidates"]] == [0.5, 0.9]
    assert set(state().values()) == {"done"}
    assert "half/mini-sentiment-s0" in Path("s/report.html").read_text()
    half = yaml.safe_load(Path("s/runs/half/mini-sentiment-s0/config.yaml").read_text())
    assert (half["learning_rate"], half["max_steps"]) == (1e-3, 5)

    made.clear()
    assert run() == 0
    assert made == []
    for name in ("runs/half/mini-sentiment-s1", next(iter(TRIALS))):
        Path("s", name, "results.json").unlink()
        assert run() == 0
        assert made == [name]
        made.clear()


def test_results_without_the_methods_name_are_of_an_interrupted_run(world):
    made, _ = world
    assert run() == 0
    file = Path("s/runs/half/mini-sentiment-s1/results.json")
    file.write_text(file.read_text().replace('"name": "half",', ""))
    made.clear()
    assert run() == 0
    assert made == ["runs/half/mini-sentiment-s1"]


def test_other_settings_than_those_of_a_finished_run_are_refused(world, capsys):
    made, _ = world
    assert run() == 0
    made.clear()
    assert run({**SMALL, "common": {**SMALL["common"], "batch_size": 16}}) == 2
    error = capsys.readouterr().err
    for part in ("batch_size 8", "the suite now says 16", "put the setting back, or remove this folder"):
        assert part in error
    assert error.count("\n") == 1
    changed = {
        **SMALL,
        "methods": {**SMALL["methods"], "half": {"command": "sft", "steps": 0.8, "learning_rate": "=sft"}},
    }
    for seed in (0, 1):  # what was started from the old runs is out of date too
        Path(f"s/runs/half/mini-sentiment-s{seed}/results.json").unlink()
    assert run(changed) == 2
    assert (
        "s/runs/ppo/mini-sentiment-s0: started from runs/half/mini-sentiment-s0, which was made with max_steps 5"
        in (capsys.readouterr().err)
    )
    assert made == []


def test_a_failure_is_recorded_and_what_hangs_on_it_is_skipped(world, capsys):
    made, wrong = world
    wrong["runs/half/mini-sentiment-s0"] = UserError("no such row")
    wrong["runs/sft/mini-sentiment-s1"] = ValueError("odd\nthing")
    assert run() == 1
    out = capsys.readouterr().out
    assert "half mini/sentiment seed 0: failed: no such row (log: s/logs/half-mini-sentiment-s0.txt)" in out
    assert "ValueError: odd thing" in out
    assert "2 runs failed, 1 were skipped" in out
    assert "Traceback" in Path("s/logs/sft-mini-sentiment-s1.txt").read_text()
    found = state()
    assert found["runs/ppo/mini-sentiment-s0"] == "skipped"
    assert found["runs/ppo/mini-sentiment-s1"] == "done"
    wrong.clear()
    made.clear()
    assert run() == 0
    assert set(made) == {
        f"runs/{name}" for name in ("half/mini-sentiment-s0", "sft/mini-sentiment-s1", "ppo/mini-sentiment-s0")
    }


def test_a_candidate_that_diverges_loses_one_that_fails_stops_the_choice(world):
    made, wrong = world
    best = "tuning/sft/mini-sentiment-learning_rate=0.001"
    wrong[best] = FloatingPointError("the loss is nan")
    assert run() == 1
    chosen = json.loads(Path("s/suite.json").read_text())["chosen"]["sft"]["mini/sentiment"]
    assert chosen["settings"] == {"learning_rate": 3e-4}
    assert state()["runs/ppo/mini-sentiment-s0"] == "done"
    wrong[best] = OSError("disk full")
    made.clear()
    assert run({**SMALL, "methods": {"other": SMALL["methods"]["sft"]}}) == 0
    assert main(["suite", "study.yaml", "--out", "t"]) == 0
    wrong["tuning/other/mini-sentiment-learning_rate=0.001"] = OSError("disk full")
    assert main(["suite", "study.yaml", "--out", "u"]) == 1
    found = {one["name"]: one["state"] for one in json.loads(Path("u/suite.json").read_text())["runs"]}
    assert found["runs/other/mini-sentiment-s0"] == "skipped"


def test_models_stand_beside_each_other_in_the_report(world, capsys):
    made, _ = world
    common = {key: value for key, value in SMALL["common"].items() if key != "model"}
    several = {**SMALL, "common": common, "models": {"mini": {}, "big": {"model": "some/model"}}, "seeds": [0]}
    assert run(several, "--jobs", "3") == 0
    assert len(made) == 2 * (3 + 2)
    out = capsys.readouterr().out
    assert "ppo (big) mini/sentiment seed 0: accuracy" in out
    chosen = json.loads(Path("s/suite.json").read_text())["chosen"]
    assert set(chosen) == {"sft (mini)", "sft (big)"}
    page = Path("s/report.html").read_text()
    assert all(head in page for head in ("ppo (mini)", "ppo (big)", "half (mini)", "half (big)"))
    config = yaml.safe_load(Path("s/runs/big/half/mini-sentiment-s0/config.yaml").read_text())
    assert (config["model"], config["max_steps"]) == ("some/model", 5)
    assert run(several) == 0
    assert len(made) == 10


def test_only_leftovers_of_runs_are_removed(world, capsys):
    folder = Path("s/runs/sft/mini-sentiment-s0")
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    assert run() == 1
    assert "does not look like a run: move it elsewhere" in capsys.readouterr().out
    assert (folder / "thesis.txt").read_text() == "mine"
    (folder / "thesis.txt").unlink()
    for name in ("run.lock", "config.yaml.part"):  # of a run that was killed in its first moments
        (folder / name).touch()
    assert run() == 0


def test_another_command_under_the_same_name_is_no_finished_run(world, capsys):
    """Its settings may be the same, for one command knows all that another does."""
    made, _ = world
    common = {"model": "mini", "max_steps": 5, "epochs": 1.0}
    small = {"seeds": [0], "common": common, "tasks": ["mini/sentiment"], "methods": {"ppo": {"command": "sft"}}}
    assert run(small) == 0
    made.clear()
    assert run({**small, "methods": {"ppo": {"command": "ppo"}}}) == 2
    assert "was made by sft, and the suite now says ppo" in capsys.readouterr().err
    assert made == []


def test_a_full_disk_under_suite_json_does_not_end_the_runs(world, monkeypatch, capsys):
    """It can be made anew; runs at work save themselves where they can."""
    write, left = Study.write, [2]

    def full(study):
        if left[0]:
            left[0] -= 1
            raise NoSpace("suite.json: the disk is full")
        write(study)

    monkeypatch.setattr(Study, "write", full)
    assert run() == 0
    assert set(state().values()) == {"done"}
    assert "suite.json could not be written" in capsys.readouterr().out


def test_no_more_processes_than_runs(world, monkeypatch):
    counts = []
    monkeypatch.setattr(room, "Workers", lambda count, retries: counts.append(count) or Here(count))
    assert run(SMALL, "--jobs", "64") == 0
    assert counts == [len(ALL | TRIALS)]


def test_a_folder_with_a_comma_is_refused_at_once(world, capsys):
    made, _ = world
    Path("study.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False))
    assert main(["suite", "study.yaml", "--out", "a,b"]) == 2
    assert "name a folder without" in capsys.readouterr().err
    assert made == []


def test_two_models_of_one_name_are_told_apart():
    with pytest.raises(UserError, match=r"models: .*two are called merged: give names"):
        study(common={}, models=["runs/a/merged", "runs/b/merged"])


def test_what_is_left_is_estimated_by_what_is_alike(tmp_path):
    plan = make_plan(validate(SuiteSettings, SMALL))
    seen = Study(plan, tmp_path, at_a_time=2)
    assert seen.left is None
    for name, seconds in (("runs/sft/mini-sentiment-s0", 10.0), ("runs/ppo/mini-sentiment-s0", 100.0)):
        seen.state[name], seen.times.seconds[name] = "done", seconds
    # sft 10, its two trials like it, two halves (sft too) 10 each, ppo 100
    assert seen.left == pytest.approx((10 + 2 * 10 + 2 * 10 + 100) / 2)


def test_columns_are_the_methods_of_the_suite_in_its_order():
    def result(name, method, seed=0):
        entry = {
            "task": "mini/question",
            "method": method,
            "model": "mini",
            "shots": 0,
            "decode": "score",
            "seed": seed,
        }
        return {**entry, "name": name, "metrics": {"accuracy": 0.5}, "stderr": {"accuracy": 0.1}, "n": 9}

    rows = [result("z", "sft"), result("a", "ppo"), result("a", "ppo", 1), result("sft", "sft")]
    plain = {key: value for key, value in result("", "zero-shot").items() if key != "name"}
    assert heads(rows) == ["z", "a", "a", "sft"]
    assert grid([*rows, plain])[0] == ["zero-shot", "z", "a", "sft"]


# -- real processes ----------------------------------------------------------------------------------------------------

REAL = {
    "seeds": [3],
    "jobs": 2,
    "common": {"model": "mini", "select_rows": 16, "max_steps": 2, "batch_size": 4, "limit": 200, "eval_limit": 16},
    "tasks": ["mini/sentiment"],
    "methods": {
        "sft": {"command": "sft", "learning_rate": ["1e-3", 3e-3]},
        "ppo": {"command": "ppo", "init": "sft", "answers": 2},
        "greedy": {"command": "evaluate", "adapter": "ppo", "decode": "greedy"},
        "wrong": {"command": "sft", "lora": {"target": "q_prog"}},
    },
}


def test_a_study_with_real_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(REAL) == 1
    out = capsys.readouterr().out
    found = state()
    assert len(found) == 2 + 4
    assert [name for name, what in found.items() if what != "done"] == ["runs/wrong/mini-sentiment-s3"]
    assert "lora.target" in out
    assert "Traceback" not in out
    assert "sft mini/sentiment  2/2" in Path("s/logs/sft-mini-sentiment-s3.txt").read_text()
    (result,) = json.loads(Path("s/runs/greedy/mini-sentiment-s3/results.json").read_text())["results"]
    assert (result["name"], result["method"], result["seed"], result["n"]) == ("greedy", "ppo", 3, 16)
    times = {path: path.stat().st_mtime for path in Path("s/runs").glob("*/*/results.json")}
    assert len(times) == 3
    assert run({**REAL, "methods": {k: v for k, v in REAL["methods"].items() if k != "wrong"}}) == 0
    assert {path: path.stat().st_mtime for path in times} == times


@pytest.mark.parametrize(("gpus", "taken"), [(0, []), (1, []), (2, [0, 1, 0, 1]), (8, [0, 1, 2, 3])])
def test_each_process_of_a_suite_has_a_gpu_of_its_own(monkeypatch, gpus, taken):
    """As it begins, with nothing but the machine and its parent made up."""
    found = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(workers.signal, "signal", lambda *_: None)
    monkeypatch.setattr(workers.multiprocessing, "parent_process", lambda: SimpleNamespace(join=hang))
    for number in range(4):
        workers._begin(1, number)
    assert found == taken


def hang() -> None:
    """A parent that does not end."""
    threading.Event().wait()


def test_a_process_that_dies_is_tried_once_more_and_ctrl_c_ends_all(tmp_path):
    """A run that kills its own process, and one that never ends, as the program itself sees them."""
    Path(tmp_path / "study.yaml").write_text(
        yaml.safe_dump({**REAL, "methods": {"dies": {"command": "sft"}, "sleeps": {"command": "ppo"}}}, sort_keys=False)
    )
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time, types\n"
        "def dies(settings, rows):\n"
        "    open('died', 'a').write('x')\n"
        "    os.kill(os.getpid(), 9)\n"
        "def sleeps(settings, rows):\n"
        "    open('asleep', 'a').write(f'{os.getpid()}\\n')\n"
        "    time.sleep(600)\n"
        "def stand_in(module, name, function):\n"
        "    sys.modules[module] = types.ModuleType(module)\n"
        "    setattr(sys.modules[module], name, function)\n"
        "if '--multiprocessing-fork' in sys.orig_argv:\n"
        "    stand_in('rl4nlu.methods.sft', 'sft', dies)\n"
        "    stand_in('rl4nlu.methods.ppo', 'ppo', sleeps)\n"
        "    stand_in('torch', 'set_num_threads', lambda count: None)\n"
        "    sys.modules['torch'].cuda = types.SimpleNamespace(device_count=lambda: 0, is_initialized=lambda: False)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-m", "rl4nlu", "suite", "study.yaml", "--out", "s"]
    with subprocess.Popen(
        words,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs have it ignored
    ) as process:
        asleep, died, until = tmp_path / "asleep", tmp_path / "died", time.monotonic() + 60
        while time.monotonic() < until and not (asleep.is_file() and died.is_file() and died.read_text() == "xx"):
            time.sleep(0.1)
        second = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert second.returncode == 2
        assert "this suite is running already" in second.stderr
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert error.strip().startswith("stopped by SIGINT; every run that was at work is saved; the same command goes on")
    assert out.count("its process died twice") == 1
    assert (tmp_path / "died").read_text() == "xx"
    states = [one["state"] for one in json.loads((tmp_path / "s/suite.json").read_text())["runs"]]
    assert states == ["failed", "planned"]
    gone = time.monotonic() + 20
    while (there := [pid for pid in asleep.read_text().split() if is_there(pid)]) and time.monotonic() < gone:
        time.sleep(0.1)
    assert not there
