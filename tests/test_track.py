"""Trackers: they get what is logged, and whatever they do the run is the same and ends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from outcomes import assert_same_outcome
from rl4nlu import track
from rl4nlu.cli import main
from rl4nlu.identity import identity_of
from rl4nlu.settings import SftSettings

SFT = "sft --task mini/question --batch-size 2 --limit 40 --eval-limit 8 --max-steps 6 --save-every 2"


class Fake:
    """A tracker that keeps what it gets."""

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.places: list[track.Place] = []
        self.threads: set[str] = set()
        self.finished = 0

    def begin(self, place: track.Place) -> tuple[Fake, str]:
        self.places.append(place)
        return self, place.known or "first"

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.threads.add(threading.current_thread().name)
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(track, "check", lambda name: None)
    monkeypatch.setattr(track, "_left_alone", [])
    return tmp_path


def use(fake: Fake, monkeypatch) -> None:
    monkeypatch.setitem(track.OPENERS, "tensorboard", fake.begin)


def test_a_tracker_gets_every_step_and_the_results(here, tiny_model, monkeypatch):
    fake = Fake()
    use(fake, monkeypatch)
    assert main([*SFT.split(), "--track", "tensorboard", "--model", str(tiny_model), "--out", "r"]) == 0
    logged = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    assert [(step, values["loss"]) for step, values in fake.rows[:-1]] == [(row["step"], row["loss"]) for row in logged]
    (result,) = json.loads(Path("r/results.json").read_text())["results"]
    step, values = fake.rows[-1]
    assert step == 6
    assert values["mini/question/accuracy"] == result["metrics"]["accuracy"]
    assert values["mini/question/accuracy_stderr"] == result["stderr"]["accuracy"]
    assert (fake.finished, fake.threads) == (1, {"track tensorboard"})
    assert fake.places[0].settings["lora.r"] == 16
    assert json.loads(Path("r/track.json").read_text()) == {"tracker": "tensorboard", "id": "first"}


def test_resume_goes_on_with_the_same_tracker_run_or_another(here, tiny_model, monkeypatch):
    from rl4nlu import stop
    from rl4nlu.run import Run

    fake, log = Fake(), Run.log
    use(fake, monkeypatch)

    def stopping(self, row):
        log(self, row)
        if row["step"] == 3:
            stop._State.asked = 15

    common = [*SFT.split(), "--model", str(tiny_model)]
    for out in ("r", "plain"):
        with monkeypatch.context() as patch:
            patch.setattr(Run, "log", stopping)
            assert main([*common, "--out", out, *(["--track", "tensorboard"] if out == "r" else [])]) == 143
        assert main(["resume", out, *(["--track", "tensorboard"] if out == "plain" else [])]) == 0
    assert [(place.known, place.step) for place in fake.places] == [("", 1), ("first", 4), ("", 4)]
    # the second run was begun without the tracker, which is told all of it
    assert [step for step, _ in fake.rows] == [1, 2, 3, 4, 5, 6, 6, 1, 2, 3, 4, 5, 6, 6]
    assert all("step" not in values for _, values in fake.rows)
    assert "track: none" in Path("plain/config.yaml").read_text()


class Raising(Fake):
    def log(self, values, step=None):
        raise SystemExit("no more\nof this")


class Unopened(Fake):
    def begin(self, place):
        raise ConnectionError("nobody is there")


class Hanging(Fake):
    def __init__(self):
        super().__init__()
        self.wake = threading.Event()

    def log(self, values, step=None):
        self.wake.wait(60)


class BlockedAtStart(Hanging):
    def begin(self, place):
        self.wake.wait(60)
        return self, "late"


class NeverFinishing(Hanging):
    def log(self, values, step=None):
        pass

    def finish(self):
        self.wake.wait(60)


@pytest.fixture(scope="module")
def untracked(tmp_path_factory, tiny_model):
    out = tmp_path_factory.mktemp("untracked") / "r"
    assert main([*SFT.split(), "--model", str(tiny_model), "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("kind", [Raising, Unopened, Hanging, BlockedAtStart, NeverFinishing])
def test_a_tracker_that_fails_changes_nothing(here, tiny_model, monkeypatch, capsys, untracked, kind):
    fake = kind()
    use(fake, monkeypatch)
    monkeypatch.setattr(track, "PATIENCE", 0.3)
    monkeypatch.setattr(track, "ROOM", 3)
    finish, waited = track.Mirror.finish, []

    def timed(self, seconds):
        start = time.monotonic()
        finish(self, seconds)
        waited.append(time.monotonic() - start)

    monkeypatch.setattr(track.Mirror, "finish", timed)
    assert main([*SFT.split(), "--track", "tensorboard", "--model", str(tiny_model), "--out", "r"]) == 0
    hangs = isinstance(fake, Hanging)
    assert track.any_left_alone() == hangs
    if hangs:
        fake.wake.set()
    assert_same_outcome(untracked, Path("r"))
    assert max(waited) < 5
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("warning: --track tensorboard:") == 1
    why = {Raising: "SystemExit: no more;", Unopened: "ConnectionError: nobody is there;"}
    assert why.get(kind, "no answer for") in said
    assert json.loads(Path("r/status.json").read_text())["state"] == "finished"


def test_a_process_does_not_wait_for_a_tracker_that_hangs(tmp_path, tiny_model):
    """Not even one whose threads would keep it from its end."""
    code = f"""
import sys, threading, time
from rl4nlu import cli, track
def begin(place):
    threading.Thread(target=time.sleep, args=(300,)).start()
    time.sleep(300)
track.check, track.PATIENCE = (lambda name: None), 0.5
track.OPENERS["wandb"] = begin
sys.argv[1:] = "{SFT} --track wandb --model {tiny_model} --out r".split()
sys.exit(cli.main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "no answer for" in done.stderr
    assert "next: rl4nlu ppo" in done.stdout


def test_what_does_not_fit_is_dropped_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(track, "ROOM", 2)
    fake, wake = Fake(), threading.Event()

    def late(place):
        wake.wait(30)
        return fake, "a"

    monkeypatch.setitem(track.OPENERS, "mlflow", late)
    mirror = track.Mirror("mlflow", tmp_path, {})
    start = time.monotonic()
    for step in range(1, 10):
        mirror.log({"step": step, "loss": 1.0, "held_out": float("nan"), "collapse": ["stuck"]})
    assert time.monotonic() - start < 5
    wake.set()
    mirror.finish(10)
    assert fake.rows == [(1, {"loss": 1.0}), (2, {"loss": 1.0})]
    assert "7 steps were not handed on" in " ".join(capsys.readouterr().err.split())


def test_a_missing_tracker_is_told_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(track.importlib.util, "find_spec", lambda name: None)
    for command in ("sft", "ppo", "classify"):
        assert main([command, *["--task", "mini/question", "--model", "mini", "--track", "wandb", "--out", "r"]]) == 2
        assert "pip install 'rl4nlu[wandb]'" in capsys.readouterr().err
    assert not Path("r").exists()


def test_tracking_is_no_part_of_what_a_run_is_about():
    import torch

    one, other = (
        identity_of(SftSettings(track=name), [], [], torch.nn.Linear(1, 1, bias=False).requires_grad_(False))[
            "settings"
        ]
        for name in ("none", "wandb")
    )
    assert one == other


def test_wandb_is_online_only_with_a_key(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert not track._has_wandb_key()
    (tmp_path / ".netrc").write_text("machine example.org login a password b\n")
    assert not track._has_wandb_key()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password b\n")
    assert track._has_wandb_key()


def test_tensorboard_for_real(tmp_path, tiny_model, monkeypatch):
    """Its own reader finds every step once, after a run that was stopped and resumed."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from rl4nlu import stop
    from rl4nlu.run import Run

    monkeypatch.chdir(tmp_path)
    log = Run.log

    def stopping(self, row):
        log(self, row)
        if row["step"] == 3:
            stop._State.asked = 15

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", stopping)
        assert main([*SFT.split(), "--track", "tensorboard", "--model", str(tiny_model), "--out", "r"]) == 143
    assert main(["resume", "r"]) == 0
    found = accumulator.EventAccumulator("r/tensorboard")
    found.Reload()
    logged = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    told = [(event.step, event.value) for event in found.Scalars("loss")]
    assert told == [(row["step"], pytest.approx(row["loss"])) for row in logged]
    assert [event.step for event in found.Scalars("mini/question/accuracy")] == [6]
