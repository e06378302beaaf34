"""Real processes, killed for real: whatever moment it is, the run that goes on ends as the one that was left alone.

`make test` kills a few; `make faults` sets RL4NLU_KILLS=50 and RL4NLU_TERMS=20.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models_zoo import tiny_folder
from outcomes import assert_same_outcome
from zygote import Zygote, until

KILLS = int(os.environ.get("RL4NLU_KILLS", "4"))
TERMS = int(os.environ.get("RL4NLU_TERMS", "3"))
COMMON = (
    "--task mini/question --model model --batch-size 8 --limit 200 --eval-limit 600 --select-rows 20 --save-every 2"
)
RUNS = {
    "sft": f"sft {COMMON} --max-steps 24 --lora.dropout 0.1",
    "ppo": f"ppo {COMMON} --max-steps 8 --answers 2 --kl-target 6 --kl-horizon 100 --init start --minibatch 4",
    "sft-adafactor": f"sft {COMMON} --max-steps 24 --optimizer adafactor --template verdict",
    "ppo-expected": f"ppo {COMMON} --max-steps 10 --estimator expected --debias --oversample 2",
    "ppo-rloo": f"ppo {COMMON} --max-steps 8 --estimator rloo --actions labels --reward metric --answers 3",
    "ppo-critic": f"ppo {COMMON} --max-steps 8 --answers 2 --critic-warmup 3 --max-grad-norm 0.5",
}
OTHERS = {
    "evaluate": "evaluate --task mini --model model --decode greedy --template verdict",
    "classify": "classify --task mini/question --model model --batch-size 8 --limit 200 --max-steps 24 --save-every 2",
}


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as process:
        yield process


@pytest.fixture(scope="module")
def world(zygote: Zygote, tmp_path_factory) -> Path:
    """A folder with a tiny model, an adapter to start from, and every run as it is when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("kill")
    tiny_folder(folder / "model")
    start = f"sft {COMMON} --max-steps 4 --out start"
    assert zygote.run(folder, *start.split()) == 0, (folder / "log.txt").read_text()
    return folder


def reference(zygote: Zygote, world: Path, name: str) -> tuple[Path, float]:
    """The undisturbed run, and how long it worked in its folder."""
    folder = world / name
    if not folder.exists():
        command = {**RUNS, **OTHERS}[name].split()
        pid = zygote.start(world, *command, "--out", name, log=f"{name}.txt")
        until((folder / "status.json").exists)
        begun = time.monotonic()
        assert zygote.wait(pid) == 0, (world / f"{name}.txt").read_text()
        (world / f"{name}.seconds").write_text(str(time.monotonic() - begun))
    return folder, float((world / f"{name}.seconds").read_text())


def torn(run: Path) -> bool:
    """Whether a save has been cut short."""
    return any((run / "checkpoints").glob("*.tmp-*"))


def kill_once(zygote: Zygote, world: Path, name: str, out: str, how: int, draw: random.Random, in_save: bool) -> int:
    """Begin a run and send a signal at a random moment; its exit code, None if it was through before."""
    _, seconds = reference(zygote, world, name)
    command = {**RUNS, **OTHERS}[name].split()
    pid = zygote.start(world, *command, "--out", out, log=f"{out}.txt")
    until((world / out / "status.json").exists)
    if in_save:
        for _ in range(draw.randrange(1, 4)):
            until(lambda: torn(world / out))
            until(lambda: not torn(world / out))
        until(lambda: torn(world / out))
        time.sleep(draw.random() * 0.004)
    else:
        time.sleep(draw.random() * seconds * 0.9)
    begun = time.monotonic()
    os.kill(pid, how)
    code = zygote.wait(pid)
    assert time.monotonic() - begun < 30
    return code


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_a_random_moment(zygote, world, number):
    draw = random.Random(f"kill {number}")
    name, in_save = list(RUNS)[number % len(RUNS)], number % 3 == 0
    whole, _ = reference(zygote, world, name)
    for attempt in range(20):
        out = f"killed-{number}-{attempt}"
        code = kill_once(zygote, world, name, out, signal.SIGKILL, draw, in_save)
        if code == -signal.SIGKILL and (torn(world / out) or not in_save):
            break
    else:
        pytest.fail("it was never killed at such a moment")
    if draw.random() < 0.3:  # and the rest once more
        pid = zygote.start(world, "resume", out, log=f"{out}.txt")
        time.sleep(draw.random())
        os.kill(pid, signal.SIGKILL)
        zygote.wait(pid)
    assert zygote.run(world, "resume", out, log=f"{out}.txt") == 0, (world / f"{out}.txt").read_text()
    assert_same_outcome(whole, world / out)
    assert not torn(world / out)


@pytest.mark.parametrize("number", range(TERMS))
def test_terminated_at_a_random_moment(zygote, world, number):
    """It saves within a micro-batch, says how to go on, and no step that was logged is lost."""
    draw = random.Random(f"term {number}")
    name = list(RUNS)[(number + 1) % len(RUNS)]
    how = (signal.SIGTERM, signal.SIGINT)[number % 2]
    whole, _ = reference(zygote, world, name)
    for attempt in range(20):
        out = f"ended-{number}-{attempt}"
        if kill_once(zygote, world, name, out, how, draw, number % 4 == 3) == 128 + how:
            break
    else:
        pytest.fail("it was never stopped")
    said = (world / f"{out}.txt").read_text()
    assert f"stopped by {signal.Signals(how).name}" in said
    assert f"go on: rl4nlu resume {out}" in said
    assert "Traceback" not in said
    run = world / out
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    logged = len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0
    # stopped while it still loads, it has neither logged nor saved
    saved = max((int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")), default=0)
    assert saved == logged, "a logged step is lost"
    assert zygote.run(world, "resume", out, log=f"{out}.txt") == 0, (world / f"{out}.txt").read_text()
    assert_same_outcome(whole, run)


@pytest.mark.parametrize("name", OTHERS)
def test_evaluation_and_classifier_killed(zygote, world, name):
    draw = random.Random(name)
    whole, _ = reference(zygote, world, name)
    for number in range(max(1, KILLS // 10)):
        out = f"{name}-{number}"
        while kill_once(zygote, world, name, out, signal.SIGKILL, draw, in_save=False) != -signal.SIGKILL:
            out += "x"
        assert zygote.run(world, "resume", out, log=f"{out}.txt") == 0, (world / f"{out}.txt").read_text()
        assert_same_outcome(whole, world / out)


def test_a_run_at_work_is_not_touched(zygote, world):
    """A second process into the same folder is refused, with the ways out; a finished run is told so."""
    pid = zygote.start(world, *RUNS["sft"].split(), "--out", "busy", log="busy.txt")
    until((world / "busy" / "status.json").exists)
    try:
        os.kill(pid, signal.SIGSTOP)
        assert zygote.run(world, *RUNS["sft"].split(), "--out", "busy", log="second.txt") == 2
        assert zygote.run(world, "resume", "busy", log="third.txt") == 2
    finally:
        os.kill(pid, signal.SIGCONT)
    assert zygote.wait(pid) == 0
    assert "busy is not empty: name another folder" in (world / "second.txt").read_text()
    assert "wait for it, or stop it" in (world / "third.txt").read_text()
    assert zygote.run(world, "resume", "busy", log="fourth.txt") == 0
    assert "busy is finished" in (world / "fourth.txt").read_text()


def test_what_has_changed_since_is_named(zygote, world):
    """Settings, rows and models that are others than they were end in one line, and the run stays as it is."""
    kill_once(zygote, world, "ppo", "changed", signal.SIGTERM, random.Random(5), in_save=True)
    config = world / "changed/config.yaml"
    text = config.read_text()

    def refused(what: str) -> None:
        log = world / "refused.txt"
        log.unlink(missing_ok=True)
        assert zygote.run(world, "resume", "changed", log="refused.txt") == 2
        said = log.read_text().strip().splitlines()[-1]
        assert what in said

    config.write_text(text.replace("gamma: 1.0", "gamma: 0.9"))
    refused("gamma was 1.0 and is 0.9")
    config.write_text(text.replace("limit: 200", "limit: 150"))
    refused("limit was 200 and is 150")
    config.write_text(text)
    weights = world / "start/adapter/adapter_model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-4] + b"\x00\x00\x80\x3f")
    refused("the model that the run works on have changed")
    weights.write_bytes(before)
    whole, _ = reference(zygote, world, "ppo")
    assert zygote.run(world, "resume", "changed", log="changed.txt") == 0
    assert_same_outcome(whole, world / "changed")
