"""What is told: a log file stays short and narrow, and with --json stdout holds objects and nothing else."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys

import pytest
from rich.console import Console

from rl4nlu import progress, say
from rl4nlu.cli import COMMANDS, main
from rl4nlu.progress import CELL, Meter, figure, plain_line

NOTES = {"reward": -0.53, "accuracy": 0.6125, "kl": -0.001234, "unparsable": 0.03125, "examples_per_second": 12345.6}
SFT = "--task mini/question --batch-size 2 --limit 40 --eval-limit 8"


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_a_log_file_of_a_thousand_steps(tmp_path, tiny_model):
    """The whole command as a process, held-out selection and evaluation too."""
    words = f"sft {SFT} --model {tiny_model} --max-steps 1000 --select-rows 4 --out run".split()
    with (tmp_path / "log.txt").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-m", "rl4nlu", *words], cwd=tmp_path, stdout=log, stderr=log, timeout=300
        )
    assert done.returncode == 0
    text = (tmp_path / "log.txt").read_bytes().decode()
    assert "1000/1000" in text
    assert "\r" not in text
    assert len(text.splitlines()) <= 150
    assert max(map(len, text.splitlines())) <= 100


def test_notes_of_ppo_are_wrapped(tmp_path, tiny_model, monkeypatch, capsys):
    """A random model says nothing that can be parsed: the warning with its cures is long."""
    monkeypatch.chdir(tmp_path)
    words = f"ppo {SFT} --model {tiny_model} --max-steps 8 --answers 2 --inner-epochs 1 --select-rows 0 --out run"
    assert main(words.split()) == 0
    said = capsys.readouterr().err
    assert "collapse (unparsable)" in said
    assert max(map(len, said.splitlines())) <= 100


@pytest.mark.parametrize("title", ["sft glue/rte", "ppo " + "a-long-name/" * 9])
def test_every_meter_keeps_to_its_lines(monkeypatch, capsys, title):
    """A training of 1,000 slow steps, then an evaluation of each of 21 tasks, as a mixture of both benchmarks has."""
    clock = iter(range(10**9))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(clock)))
    for total, lines in ((1000, 50), *((500, 5),) * 21):
        with Meter(title, total, lines=lines) as meter:
            for _ in range(total):
                meter.advance(1, **NOTES)
    said = capsys.readouterr().err.splitlines()
    assert sum("1000/1000" in line for line in said) == 1
    assert sum("500/500" in line for line in said) == 21
    assert len(said) <= 150 - 12  # there are notes and the table, too
    assert max(map(len, said)) <= 100


@pytest.mark.parametrize("width", [80, 140])
def test_the_bar_fits_a_terminal(width):
    """Two lines of bar and figures, whole, whatever the figures are."""
    for value in (0.0, -0.00123456, 123456.7, 1e-9, -1e-9, math.nan, -math.inf, 999.6):
        shown = io.StringIO()
        with Meter("ppo superglue/multirc", 1000, Console(file=shown, force_terminal=True, width=width)) as meter:
            meter.advance(7, **dict.fromkeys(NOTES, value))
            Console(file=(one := io.StringIO()), width=width).print(meter._panel())
        bar, figures = one.getvalue().splitlines()
        assert "   7/1000" in bar
        assert bar.rstrip().endswith("left")
        assert len(figures) <= width
        assert all(name in figures for name in ("reward", "accuracy", "KL", "unparsable", "ex/s"))
        assert "…" not in bar + figures


def test_figures_are_narrow_and_near():
    for exponent in range(-12, 13):
        for digits in (1.0, -1.23456, 9.9999, -9.9951):
            value = digits * 10.0**exponent
            assert len(figure(value)) <= CELL
            assert float(figure(value)) == pytest.approx(
                value, rel=0.5 if abs(value) < 1e-3 or abs(value) > 1e5 else 0.05
            )


def test_a_line_is_never_wider_than_it_may_be():
    notes = {f"quantity_{i}": 1.0 for i in range(12)}
    assert len(plain_line("t" * 200, 1, 10**6, notes, 1e6, 1e6)) == 100


@pytest.mark.parametrize("title", ["ppo mini/sentiment", "ppo superglue/multirc", "ppo 12 tasks, proportional"])
def test_a_line_keeps_its_title_and_the_figures_that_matter(title):
    line = plain_line(title, 1000, 1000, NOTES, 5000.0, 3022.0)
    assert line.startswith(f"{title}  1000/1000  reward -0.53  acc")
    assert line.endswith("50 min left")
    short = plain_line(title, 7, 10, {"loss": 0.25}, 3.0, 1.0)
    assert short == f"{title}  7/10  loss 0.25  3 s, 1 s left"


# -- for machines ------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_told_to_machines(here, tiny_model, capsys):
    assert main([*f"sft {SFT} --max-steps 4 --out run --json --model".split(), str(tiny_model)]) == 0
    told = objects(capsys.readouterr().out)
    assert told[0] == {"event": "note", "text": "run folder: run"}
    training = [one for one in told if one["event"] == "progress" and one["total"] == 4]
    assert training[-1]["done"] == 4
    assert {"title", "seconds", "left", "loss"} <= set(training[-1])
    result, end = told[-2:]
    (saved,) = json.loads((here / "run/results.json").read_text())["results"]
    assert result == {"event": "result", **saved}
    assert end == {
        "event": "end",
        "run": "run",
        "next": "rl4nlu ppo --task mini/question --init run",
        "exit_code": 0,
    }
    assert "json" not in (here / "run/config.yaml").read_text() + (here / "run/command.txt").read_text()
    assert main(["report", "run", "--out", "r.html", "--json"]) == 0
    *told, end = objects(capsys.readouterr().out)
    assert [(one["event"], one["metrics"]) for one in told] == [("result", saved["metrics"])]
    assert end["files"] == ["r.html"]
    rows = [{"id": "a", "question": "Where is it?"}]
    (here / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["predict", "run", "--input", "rows.jsonl", "--output", "a.jsonl", "--json"]) == 0
    assert objects(capsys.readouterr().out)[-1]["answers"] == 1


def test_stdout_of_a_process_holds_objects_only(tmp_path, tiny_model):
    """What others print, even past Python, goes to stderr."""
    code = f"""
import os, sys
from rl4nlu import cli
from rl4nlu.methods import evaluate
real = evaluate.load_policy
def loud(*args, **kwargs):
    print("loud")
    os.system("echo louder")
    return real(*args, **kwargs)
evaluate.load_policy = loud
sys.argv[1:] = "evaluate --task mini/question --limit 4 --out e --json --model {tiny_model}".split()
sys.exit(cli.main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [one["event"] for one in objects(done.stdout)][-2:] == ["result", "end"]
    assert {"loud", "louder"} <= set(done.stderr.split())


def test_mistakes_and_crashes_told_to_machines(here, monkeypatch, capsys):
    assert main(["tsks", "--json"]) == 2
    caught = capsys.readouterr()
    (told,) = objects(caught.out)
    assert (told["event"], told["exit_code"]) == ("error", 2)
    assert caught.err == f"error: {told['message']}\n"

    def crash(_):
        raise RuntimeError("of our own\nmaking")

    monkeypatch.setitem(COMMANDS, "tasks", crash)
    with pytest.raises(RuntimeError):
        main(["tasks", "--json"])
    assert objects(capsys.readouterr().out) == [
        {"event": "error", "message": "RuntimeError: of our own making", "exit_code": 1}
    ]
    assert not say.machines_read()


def test_tables_told_to_machines(here, capsys):
    assert main(["tasks", "--json"]) == 0
    told = objects(capsys.readouterr().out)
    rte = next(one for one in told if one.get("task") == "glue/rte")
    assert rte["words"] == {"entailment": "Yes", "not_entailment": "No"}
    assert main(["new", "task", "my.yaml", "--json"]) == 0
    assert objects(capsys.readouterr().out)[-1]["next"] == "rl4nlu check my.yaml"
    (here / "s.yaml").write_text(
        "tasks: [mini/question]\ncommon: {model: mini}\nmethods: {sft: {command: sft, max_steps: 2}}\n"
    )
    assert main(["suite", "s.yaml", "--dry-run", "--json"]) == 0
    told = objects(capsys.readouterr().out)
    assert {"event": "plan", "task": "mini/question", "method": "sft", "done": "0/1", "tuning_done": None} in told


def test_numbers_that_json_does_not_know_and_tokens(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    with say.to_machines():
        say.event("result", {"a": math.nan, "b": [math.inf, (1.5,)], "event": "other", "c": "x\ny hf_abcdefghijklmnop"})
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert json.loads(line) == {"event": "result", "a": None, "b": [None, [1.5]], "c": "x\ny ***"}
