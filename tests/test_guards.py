"""What is not finite stops before the step; too little memory changes nothing; a full disk loses nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
import torch

from outcomes import assert_same_outcome, logged
from rl4nlu import actions, files, forward
from rl4nlu.checkpoint import newest
from rl4nlu.cli import main
from rl4nlu.memory import Memory
from rl4nlu.methods import classify, ppo, sft
from rl4nlu.run import Run
from zygote import Zygote, until

COMMON = "--task mini/question --batch-size 8 --limit 100 --eval-limit 20 --max-steps 6 --save-every 1"
COMMANDS = {
    "sft": f"sft {COMMON}",
    "ppo": f"ppo {COMMON} --answers 2 --select-rows 10 --inner-epochs 1",
    "expected": f"ppo {COMMON} --estimator expected --select-rows 10 --inner-epochs 1",
    "classify": f"classify {COMMON}",
}
BAD_STEP = 4


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_model):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Run, "HOME", tmp_path)
    return tmp_path


def run(name: str, model: Path, out: str) -> int:
    return main([*COMMANDS[name].split(), "--model", str(model), "--out", out])


def poison(place: str, name: str, monkeypatch, request, value: float) -> None:
    """Put `value` into loss, gradient, reward, logits or weights at step BAD_STEP."""
    step = {"now": 0}
    apply = sft.optim.apply

    def counted(optimizer, weights, *more):
        if place == "gradient" and step["now"] == BAD_STEP - 1:
            weights[0].grad.view(-1)[3] = value
        found = apply(optimizer, weights, *more)
        step["now"] += 1
        if place == "weights" and step["now"] == BAD_STEP - 1:
            with torch.no_grad():
                weights[0].view(-1)[3] = value
        return found

    monkeypatch.setattr(sft.optim, "apply", counted)
    if place == "loss":
        room, function = {
            "sft": (sft, "sft_loss"),
            "ppo": (ppo, "ppo_loss"),
            "expected": (ppo, "expected_loss"),
            "classify": (classify, "loss_of"),
        }[name]
        real = getattr(room, function)

        def broken(*args, **more):
            found = real(*args, **more)
            if step["now"] != BAD_STEP - 1:
                return found
            if name == "classify":
                return found * value
            return type(found)(found.total * value, {**found.parts, "loss": value})

        monkeypatch.setattr(room, function, broken)
    if place == "reward":
        real = actions.Reward._ask
        monkeypatch.setattr(actions.Reward, "_ask", lambda *args: value if step["now"] == BAD_STEP - 1 else real(*args))
    if place == "logits":

        def bad(module, _, out):
            if step["now"] == BAD_STEP - 1 and isinstance(module, torch.nn.Linear) and is_head(module):
                out = out.clone()
                out[...] = value
            return out

        request.addfinalizer(torch.nn.modules.module.register_module_forward_hook(bad).remove)
        token_logp = forward.token_logp  # does the output embedding's work, where it is a plain one

        def no_number(*args, **more):
            logp_I, entropy_M = token_logp(*args, **more)
            return (logp_I * value if step["now"] == BAD_STEP - 1 else logp_I), entropy_M

        monkeypatch.setattr(forward, "token_logp", no_number)


def is_head(module: torch.nn.Linear) -> bool:
    """The output embedding, or the classification head of four labels; LoRA has other widths."""
    return module.in_features == 32 and (module.out_features == 4 or module.out_features > 1000)


PLACES = ("loss", "gradient", "reward", "logits", "weights")
CASES = [(name, place) for name in COMMANDS for place in PLACES if place != "reward" or name in ("ppo", "expected")]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("name", "place"), CASES)
def test_what_is_not_finite_stops_before_the_step(here, tiny_model, monkeypatch, request, capsys, name, place, value):
    poison(place, name, monkeypatch, request, value)
    code = run(name, tiny_model, "r")
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == (2 if place == "reward" else 3), error
    assert error.startswith("error: ")
    # a weight belongs to no row, and a checkpoint finds it before the forward pass does
    assert "(rows: mini/question" in error or "on row" in error or (place == "weights" and "finite at step" in error)
    assert not (here / "r" / "adapter").exists()
    # the scoring of held-out rows after a step comes before its line in the log
    assert len(logged(here / "r")) in ((BAD_STEP - 1,) if name == "classify" else (BAD_STEP - 2, BAD_STEP - 1))
    if place != "reward":
        rows = json.loads((here / "r/diverged.json").read_text())["rows"]
        assert rows or place == "weights"
        assert all(row["task"] == "mini/question" for row in rows)
        assert json.loads((here / "r/status.json").read_text())["state"] == "diverged"
    identity = json.loads((here / "r/identity.json").read_text())
    found, broken = newest(here / "r/checkpoints", identity, files.Log(here / "r/metrics.jsonl"))
    assert not broken
    assert found.step in (BAD_STEP - 2, BAD_STEP - 1)
    tensors = [x for part in found.parts.values() for x in part.tensors.values()]
    assert all(bool(torch.isfinite(x).all()) for x in tensors if x.is_floating_point())


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("sft", "update"),
        ("sft", "scoring"),
        ("ppo", "rollout"),
        ("ppo", "update"),
        ("ppo", "scoring"),
        ("expected", "rollout"),
        ("expected", "update"),
        ("classify", "update"),
        ("classify", "scoring"),
    ],
)
def test_out_of_memory_changes_nothing(here, tiny_model, monkeypatch, capsys, name, phase):
    assert run(name, tiny_model, "whole") == 0
    now, fitting, failed = {"phase": ""}, Memory.fitting, []
    most = 2 if name == "classify" else 120

    def fit(self, of, tokens, work, *more):
        now["phase"] = of
        return fitting(self, of, tokens, work, *more)

    def narrow(real, size_of):
        def read(*args, **more):
            if now["phase"] == phase and size_of(*args, **more) > most:
                failed.append(phase)
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return real(*args, **more)

        return read

    monkeypatch.setattr(
        Memory, "fitting", lambda self, of, tokens, work, smallest=16: fit(self, of, tokens, work, smallest)
    )
    if name == "classify":
        forward_of = torch.nn.Module.__call__

        def called(module, *args, **more):
            whole = type(module).__name__ == "PeftModelForSequenceClassification"
            if whole and now["phase"] == phase and len(more["input_ids"]) > most:
                failed.append(phase)
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return forward_of(module, *args, **more)

        monkeypatch.setattr(torch.nn.Module, "__call__", called)
    else:
        size = lambda model, ids_1N, *_: ids_1N.numel()  # noqa: E731
        monkeypatch.setattr(forward, "run", narrow(forward.run, size))
    assert run(name, tiny_model, "narrow") == 0
    assert failed
    assert f"note: {phase}: out of memory" in capsys.readouterr().err
    for one, other in zip(logged(here / "whole"), logged(here / "narrow"), strict=True):
        assert set(one) == set(other)
        for key, value in one.items():
            named = isinstance(value, list)  # a collapse
            assert other[key] == (value if named else pytest.approx(value, rel=1e-6, abs=1e-6)), key
    a, b = (json.loads(Path(f, "results.json").read_text())["results"][0]["metrics"] for f in ("whole", "narrow"))
    assert a == b


def test_one_row_that_does_not_fit_is_said(here, tiny_model, monkeypatch, capsys):
    def never(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sft, "score", never)
    assert run("sft", tiny_model, "r") == 5
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "update: out of memory with one row at a time" in error
    assert "go on: rl4nlu resume r" in error


# -- disk --------------------------------------------------------------------------------------------------------------


def test_room_is_looked_for_before_anything_is_written(here, tiny_model, monkeypatch, capsys):
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    assert run("sft", tiny_model, "r") == 2
    error = " ".join(capsys.readouterr().err.split())  # notes are wrapped
    assert "--out r: checkpoints need about" in error
    assert "0 MB are free" in error
    assert not Path("r").exists()


def disk_full_at(number: int, monkeypatch) -> list[int]:
    """From now on the call of os.write of this number fails, as on a full disk."""
    seen: list[int] = []
    real = os.write

    def write(handle, content):
        seen.append(1)
        if len(seen) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, content)

    monkeypatch.setattr(files.os, "write", write)
    return seen


def writes_of(here, tiny_model, monkeypatch) -> int:
    with monkeypatch.context() as patch:
        seen = disk_full_at(0, patch)
        assert run("sft", tiny_model, "whole") == 0
    return len(seen)


def check_full_disk_at(number: int, here, tiny_model, monkeypatch, capsys) -> None:
    out = f"full-{number}"
    with monkeypatch.context() as patch:
        seen = disk_full_at(number, patch)
        code = run("sft", tiny_model, out)
    error = " ".join(capsys.readouterr().err.split())  # notes are wrapped
    if len(seen) < number:  # a line of the log may take one call or two
        assert code == 0
        return
    assert code in (0, 4), error
    assert "the disk is full" in error
    assert "bytes are needed there" in error
    assert "Traceback" not in error
    if code == 4:
        begun = (here / out / "config.yaml").exists() and (here / out / "command.txt").exists()
        assert main(["resume", out]) == (0 if begun else 2)
        if not begun:
            assert "remove it and make the run again" in capsys.readouterr().err
            return
    # where a checkpoint could not be written, an older one than usual is left
    assert_same_outcome(here / "whole", here / out, but=("checkpoints/",))


def test_a_full_disk_at_some_writes(here, tiny_model, monkeypatch, capsys):
    count = writes_of(here, tiny_model, monkeypatch)
    assert count > 60
    for number in (*range(1, 6), *range(6, count + 1, 9)):
        check_full_disk_at(number, here, tiny_model, monkeypatch, capsys)


@pytest.mark.slow
def test_a_full_disk_at_every_write(here, tiny_model, monkeypatch, capsys):
    for number in range(1, writes_of(here, tiny_model, monkeypatch) + 1):
        check_full_disk_at(number, here, tiny_model, monkeypatch, capsys)


def test_a_small_disk_that_fills_up(tmp_path, tiny_model):
    """A real file system of a few megabytes, which something else fills while the run is at work."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    command = f"{COMMANDS['sft'].replace('--max-steps 6', '--max-steps 60')} --model {tiny_model}"
    try:
        with Zygote() as zygote:
            assert zygote.run(tmp_path, *command.split(), "--out", "whole") == 0
            pid = zygote.start(tmp_path, *command.split(), "--out", disk / "r", log="full.txt")
            until((disk / "r/checkpoints/step-000003").exists)
            ended = threading.Event()

            def fill():
                """What the run gives up, as an older checkpoint, is taken at once."""
                with (disk / "ballast").open("wb", buffering=0) as ballast:
                    while not ended.is_set():
                        try:
                            ballast.write(b"x" * 4096)
                        except OSError:
                            ended.wait(0.001)

            filling = threading.Thread(target=fill, daemon=True)
            filling.start()
            try:
                code = zygote.wait(pid)
            finally:
                ended.set()
                filling.join()
            said = (tmp_path / "full.txt").read_text()
            assert code == 4, said
            assert "the disk is full" in said
            assert f"go on: rl4nlu resume {disk / 'r'}" in said
            identity = json.loads((disk / "r/identity.json").read_text())
            found, broken = newest(disk / "r/checkpoints", identity, files.Log(disk / "r/metrics.jsonl"))
            assert not broken
            assert found.step >= 2
            del found  # its tensors are maps of files on this disk
            (disk / "ballast").unlink()
            assert zygote.run(tmp_path, "resume", disk / "r", log="full.txt") == 0, (tmp_path / "full.txt").read_text()
        assert_same_outcome(tmp_path / "whole", disk / "r")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)  # also if a failing test holds a file there
