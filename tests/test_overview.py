"""`rl4nlu runs` and `rl4nlu show`: what is true of runs in every state, in few lines, without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rl4nlu.cli import main
from rl4nlu.overview import MARKS, curves, spark
from rl4nlu.run import Run
from rl4nlu.settings import EvaluateSettings, PpoSettings

RESULT = {
    **{"task": "glue/rte", "method": "ppo", "model": "mini", "seed": 3, "n": 277, "shots": 0, "decode": "score"},
    **{"metrics": {"accuracy": 0.7256}, "stderr": {"accuracy": 0.0268}, "unparsable": 0, "cut_rows": 0, "seconds": 1.0},
}


def ppo(path: Path, state: str, why: str = "", steps: int = 30, tasks: int = 0) -> Path:
    """A run of 40 steps that got so far."""
    settings = PpoSettings(task="glue/rte", model="mini", seed=3, init=Path("runs/rte-sft"), out=path)
    run = Run.create("ppo", settings)
    run.steps = 40
    for step in range(1, steps + 1):
        row = {"step": step, "loss": 1 / step, "reward": step / 40, "accuracy": 0.5, "kl": 0.01, "entropy": None}
        run.log({**row, "unparsable": 0.0, **({"collapse": ["kl-runaway"]} if step == 20 else {})})
    (path / "checkpoints" / "step-000030").mkdir(parents=True)
    if tasks:
        run.write_results([{**RESULT, "task": f"glue/task-{i}"} for i in range(tasks)] if tasks > 1 else [RESULT])
    run.note(state, why)
    run.close()
    return path


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Runs in every state, some of them in a suite, with broken folders between them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    ppo(Path("runs/done"), "finished", steps=40, tasks=1)
    ppo(Path("runs/stopped"), "stopped", "SIGTERM")
    ppo(Path("runs/killed"), "running")
    ppo(Path("runs/diverged"), "diverged", "the loss is nan")
    ppo(Path("runs/study/runs/failed"), "failed", "RuntimeError: of others")
    (tmp_path / "runs/study/suite.json").write_text("{}")
    Run.create("evaluate", EvaluateSettings(task="glue/rte", model="mini", out=Path("runs/zero"))).note("finished")
    for number, path in enumerate(["done", "stopped", "killed", "diverged", "study/runs/failed", "zero"]):
        for file in ("status.json", "metrics.jsonl"):
            if (file := tmp_path / "runs" / path / file).is_file():
                os.utime(file, (10**9 + number,) * 2)
    return tmp_path


def shown(capsys, *args: str) -> str:
    assert main(list(args)) == 0
    return capsys.readouterr().out


def test_runs_in_every_state_newest_last(world, capsys):
    lines = shown(capsys, "runs").splitlines()
    assert lines[0].split() == ["run", "state", "method", "task", "model", "step", "score", "age"]
    cells = [line.split() for line in lines[1:7]]
    assert [(row[0], row[1], row[2]) for row in cells] == [
        ("runs/done", "finished", "ppo"),
        ("runs/stopped", "stopped", "ppo"),
        ("runs/killed", "killed", "ppo"),
        ("runs/diverged", "diverged", "ppo"),
        ("runs/study/runs/failed", "failed", "ppo"),
        ("runs/zero", "finished", "evaluate"),
    ]
    assert "40/40 72.6 ± 2.7" in lines[1]
    assert "30/40" in lines[2]
    assert lines[-1] == "next: rl4nlu show runs/zero"


def test_a_run_at_work_is_running(world, capsys):
    run = Run(Path("runs/killed"), reopened=True)
    run.note("running")
    assert "running" in shown(capsys, "runs", "runs").split("runs/killed")[1].splitlines()[0]
    assert "next: tail -f runs/killed/metrics.jsonl" in shown(capsys, "show", "runs/killed")
    run.close()


def test_broken_folders_do_not_stop_the_table(world, capsys):
    bad = {
        "status": ("status.json", b'{"state": "fin\\u001b[31mished"}'),
        "why": ("status.json", b'{"state": "failed", "why": "\\u001b]0;owned\\u0007"}'),
        "config": ("config.yaml", b"a: [1"),
        "results": ("results.json", b'{"schema": 1, "results": [{"task": "\\u009b31m"}]}'),
        "key": (
            "results.json",
            b'{"schema": 1, "results": [{"task": "a", "\\u001b[31m": 1, "metrics": {"\\u001b[2J": 0}}]}',
        ),
        "bytes": ("command.txt", b"\xff\xfe \x1b[2J"),
    }
    for name, (file, content) in bad.items():
        shutil.copytree("runs/done", f"runs/{name}")
        Path(f"runs/{name}/{file}").write_bytes(content)
    out = shown(capsys, "runs")
    assert out.count("cannot be read: ") == len(bad)
    assert "runs/done" in out
    assert not any(letter in out for letter in "\x1b\x07\x9b")
    for name in bad:
        assert main(["show", f"runs/{name}"]) == 2
        caught = capsys.readouterr()
        assert caught.out == ""
        assert caught.err.count("\n") == 1
        assert not any(letter in caught.err for letter in "\x1b\x07\x9b")


@pytest.mark.parametrize(
    ("name", "why", "then"),
    [
        ("done", "", "next: rl4nlu predict runs/done --input rows.jsonl --output answers.jsonl"),
        ("stopped", "stopped by SIGTERM; saved up to step-000030", "next: rl4nlu resume runs/stopped"),
        ("killed", "its process is gone", "next: rl4nlu resume runs/killed"),
        ("diverged", "the loss is nan; the rows are in runs/diverged/diverged.json", "--learning-rate LOWER"),
        ("study/runs/failed", "RuntimeError: of others", "next: rl4nlu resume runs/study/runs/failed --debug"),
        ("zero", "", "next: rl4nlu report runs/zero --out report.html"),
    ],
)
def test_one_run_in_one_screen(world, capsys, name, why, then):
    out = shown(capsys, "show", f"runs/{name}")
    assert why in out
    assert out.splitlines()[-1].endswith(then)
    assert screen_lines(out) <= 24
    if name != "zero":
        assert "ppo (gae): task glue/rte, model mini, seed 3, from runs/rte-sft" in out
        assert "collapses seen: kl-runaway (step 20)" in out
        assert f"reward      {MARKS[0]}" in out
        assert "entropy" not in out


def screen_lines(out: str, columns: int = 80) -> int:
    return sum(max(1, -(-len(line) // columns)) for line in out.splitlines())


def test_many_tasks_and_all_curves_still_fit(world, capsys):
    path = ppo(Path("runs/many"), "stopped", "the disk is full " * 40, tasks=21)
    with (path / "metrics.jsonl").open("a") as log:
        for step in range(31, 400):
            log.write(json.dumps({"step": step, "entropy": 1.0, "collapse": ["stuck", "unparsable"]}) + "\n")
    out = shown(capsys, "show", "runs/many")
    assert "entropy" in out
    assert "and 16 more: rl4nlu report runs/many" in out
    assert screen_lines(out) <= 24


def test_told_to_machines(world, capsys):
    told = [json.loads(line) for line in shown(capsys, "runs", "--json").splitlines()]
    assert [one["state"] for one in told[:-1]] == ["finished", "stopped", "killed", "diverged", "failed", "finished"]
    assert told[0]["scores"] == [{name: RESULT[name] for name in ("task", "metrics", "stderr", "n")}]
    run, end = (json.loads(line) for line in shown(capsys, "show", "runs/stopped", "--json").splitlines())
    assert (run["step"], run["steps"], run["last"]["loss"]) == (30, 40, pytest.approx(1 / 30))
    assert end["next"] == "rl4nlu resume runs/stopped"


def test_what_is_no_run(world, capsys):
    for words, told in {
        "show runs/study": "rl4nlu runs runs/study",
        "show runs/dome": "did you mean 'done'?",
        "show": "show needs the folder",
        "runs runz": "did you mean 'runs'?",
        "runs --all": "folders only",
    }.items():
        assert main(words.split()) == 2
        assert told in capsys.readouterr().err
    shutil.rmtree("runs")
    assert "rl4nlu demo" in shown(capsys, "runs")


def test_without_torch(world):
    for words in (["runs"], ["show", "runs/done"]):
        code = f"import sys; from rl4nlu.cli import main; main({words!r}); assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_curves():
    assert spark([0, 1, 2, 3, 4, 5, 6, 7]) == MARKS
    assert spark([5.0] * 3) == MARKS[0] * 3
    assert spark([0, 0, 2, 2], width=2) == MARKS[0] + MARKS[-1]
    assert len(spark(range(1000))) == 40
    assert spark([]) == ""
    rows = [{"loss": 1}, {"loss": float("nan")}, {"loss": "x"}, {"loss": True}, {"kl": None}, {"loss": 2.0}]
    assert curves(rows) == {"loss": [1, 2.0]}
