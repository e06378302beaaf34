"""The functions that a script or a notebook uses."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import rl4nlu
from rl4nlu import stop
from rl4nlu.run import Run

SHORT = {"max_steps": 2, "batch_size": 4, "eval_limit": 20}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_classifier_and_a_run_that_is_gone_on_with(here, tiny_model, monkeypatch):
    assert rl4nlu.classify("mini/question", tiny_model, **SHORT).results[0]["method"] == "classify"
    log = Run.log

    def logging(self, row):
        log(self, row)
        stop._State.asked = 2

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", logging)
        with pytest.raises(KeyboardInterrupt, match=r"go on: rl4nlu\.resume"):
            rl4nlu.sft("mini/question", tiny_model, **SHORT, out="stopped")
    steps = [json.loads(line)["step"] for line in Path("stopped/metrics.jsonl").read_text().splitlines()]
    assert steps == [1]
    assert rl4nlu.resume("stopped").results[0]["steps"] == 2


def test_five_lines(here, tiny_model):
    sft = rl4nlu.sft("mini/question", tiny_model, **SHORT)
    ppo = rl4nlu.ppo("mini/question", init=sft, estimator="rloo", **SHORT)
    again = rl4nlu.evaluate(adapter=ppo, limit=20)
    assert "mini/question" in str(ppo)
    assert rl4nlu.report([sft, ppo], "report.html", "t.csv") == [Path("report.html"), Path("t.csv")]
    # what it says is what the files say
    saved = json.loads((ppo.path / "results.json").read_text())["results"]
    assert ppo.results == saved == rl4nlu.load(ppo.path).results
    assert ppo.scores == {"mini/question": saved[0]["metrics"]}
    assert [row["prediction"] for row in again.predictions] == [row["prediction"] for row in ppo.predictions]
    assert again.scores == ppo.scores
    assert "| mini/question | accuracy | 20 |" in ppo._repr_markdown_()
    assert (here / "report.html").stat().st_size > 10_000


def test_predict_takes_rows_as_they_are(here, tiny_model):
    run = rl4nlu.sft("mini/question", tiny_model, **SHORT, lora={"r": 2})
    rows = [{"question": "Who wrote it?"}, {"question": 'Wo ist Köln? "a"\n'}]
    answers = rl4nlu.load(run.path).predict(rows)  # a run of before does as well
    assert [answer["prediction"] in run.predictions[0]["scores"] for answer in answers] == [True, True]
    assert rl4nlu.predict(str(run.path), rows) == answers


def test_rows_of_other_libraries(here, tiny_model):
    import numpy as np
    import pandas as pd

    run = rl4nlu.sft(["mini/question"], tiny_model, **SHORT)
    plain = run.predict([{"id": 3, "question": "Who?"}, {"id": 4, "question": "5"}])
    assert run.predict([{"id": np.int64(3), "question": "Who?"}, {"id": 4, "question": np.int32(5)}]) == plain
    assert run.predict(pd.DataFrame({"id": [3, 4], "question": ["Who?", "5"]})) == plain
    for rows, said in (
        ([{"question": float("nan")}], "row 0: question is missing"),
        ([{"question": "a"}, {"question": pd.NA}], "row 1: question is missing"),
        ({"question": "a"}, "this is a dict"),
        (["a"], "row 0: a mapping"),
        ("a", "this is a str"),
    ):
        with pytest.raises(rl4nlu.UserError, match=said):
            run.predict(rows)
    with pytest.raises(rl4nlu.UserError, match="input"):
        run.predict([], input="a.csv")


def test_reports_are_checked_before_anything_is_written(here, tiny_model):
    run = rl4nlu.evaluate("mini/question", tiny_model, limit=4)
    assert rl4nlu.report(run, "one.md") == [Path("one.md")]
    for runs, out, said in (
        ([run], ["two.html", "two.pdf"], "two.pdf"),
        ([], ["two.html"], "no run"),
        ([run], [["two.html"]], "list"),
    ):
        with pytest.raises(rl4nlu.UserError, match=said):
            rl4nlu.report(runs, *out)
    assert not (here / "two.html").exists()


def test_defaults_are_those_of_the_command_line(here, tiny_model):
    run = rl4nlu.sft("mini/question", tiny_model, **SHORT, seed=3)
    words = (run.path / "command.txt").read_text().split()
    assert words[:2] == ["rl4nlu", "sft"]
    assert set(words[2::2]) == {"--task", "--model", "--max-steps", "--batch-size", "--eval-limit", "--seed"}


def test_none_is_a_value_of_a_setting(here, tiny_model):
    run = rl4nlu.ppo("mini/question", tiny_model, **SHORT, preset=None, value_clip=None, kl_target=None)
    assert "--value-clip None" in (run.path / "command.txt").read_text()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: rl4nlu.sft("mini/question", lerning_rate=1e-3), "learning_rate"),
        (lambda: rl4nlu.sft("mini/queston"), "mini/question"),
        (lambda: rl4nlu.ppo("mini/question", preset="papr"), "paper"),
        (lambda: rl4nlu.ppo("mini/question", estimator="geo"), "estimator"),
        (lambda: rl4nlu.evaluate("mini/question", "no/such/folder"), "no/such/folder"),
        (lambda: rl4nlu.report(["nowhere"]), "nowhere"),
        (lambda: rl4nlu.predict(3, []), "int"),
        (lambda: rl4nlu.resume("nowhere"), "nowhere"),
        (lambda: rl4nlu.load("nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_said_in_one_line(here, call, said):
    with pytest.raises(rl4nlu.UserError, match=said) as wrong:
        call()
    assert "\n" not in str(wrong.value)
    assert list(here.iterdir()) == []


def test_in_a_thread_as_notebooks_and_servers_run_it(here, tiny_model):
    found = []
    thread = threading.Thread(target=lambda: found.append(rl4nlu.evaluate("mini/question", tiny_model, limit=4)))
    thread.start()
    thread.join()
    assert found[0].results[0]["n"] == 4


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(tmp_path, tiny_model):
    code = f"""
import os, signal, threading, rl4nlu
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored
def watch():
    import pathlib, time
    log = pathlib.Path("run/metrics.jsonl")
    while not log.exists() or log.stat().st_size < 300: time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=watch, daemon=True).start()
try:
    rl4nlu.sft("mini/question", {str(tiny_model)!r}, max_steps=3000, batch_size=4, eval_limit=8, out="run")
except KeyboardInterrupt as stop:
    print(stop)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "stopped by SIGINT; go on: rl4nlu.resume('run')" in done.stdout
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def test_public_names_are_documented_and_cheap():
    code = "import sys, rl4nlu; assert not {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(rl4nlu.__all__) <= set(dir(rl4nlu))
    for name in rl4nlu.__all__:
        one = getattr(rl4nlu, name)
        assert inspect.getdoc(one), name
        for part, member in inspect.getmembers(one if inspect.isclass(one) else None, inspect.isfunction):
            assert part.startswith("_") or inspect.getdoc(member), f"{name}.{part}"


def test_a_function_stays_one_after_its_module_is_imported(here, tiny_model):
    """`rl4nlu.sft` must never become the module of that name."""
    rl4nlu.evaluate("mini/question", tiny_model, limit=2)
    for name in ("evaluate", "sft", "ppo", "classify", "predict", "resume", "report"):
        assert inspect.isfunction(getattr(rl4nlu, name))


def test_lines_end_by_line_feeds_alone(here, tiny_model):
    """Other letters that some take for the end of a line stand in answers and names of rows."""
    run = rl4nlu.sft("mini/question", tiny_model, **SHORT)
    names = ["a\u2028b", "c\u2029", "d\x85e"]
    answers = run.predict([{"id": name, "question": f"Who is {name}?"} for name in names])
    assert [answer["id"] for answer in answers] == names
    lines = [json.dumps({**row, "text": "\u2028"}, ensure_ascii=False) for row in run.predictions]
    (run.path / "predictions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert [row["text"] for row in run.predictions] == ["\u2028"] * len(lines)
