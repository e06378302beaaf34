"""Checkpoints are whole or not there; whatever is altered is found; older ones go only when a newer one is verified."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rl4nlu import checkpoint, files
from rl4nlu.checkpoint import Broken, OptimizerState, Snapshot, Weights, give, newest, save, take
from rl4nlu.errors import Diverged, NoSpace, UserError
from rl4nlu.state import Numbers, State

IDENTITY = {"settings": {"seed": 1}, "rows": "abc"}
ENVIRONMENT = {"torch": "2"}
LOG = files.Log(Path("there is none"))


def snapshot(step: int, log_bytes: int = 0) -> Snapshot:
    tensors = {"a": torch.full((3, 2), float(step)), "b": torch.tensor(step)}
    values = {"coef": 0.1 + step / 3, "names": ["x"], "nested": {"n": step}}
    return Snapshot(step, {"adapter": State(tensors), "rest": State(values=values)}, log_bytes)


def assert_same(one: Snapshot, other: Snapshot) -> None:
    assert (one.step, one.log_bytes, set(one.parts)) == (other.step, other.log_bytes, set(other.parts))
    for name, part in one.parts.items():
        assert part.values == other.parts[name].values
        assert set(part.tensors) == set(other.parts[name].tensors)
        for key, x in part.tensors.items():
            assert torch.equal(x, other.parts[name].tensors[key])


def test_there_and_back(tmp_path):
    path = save(tmp_path, snapshot(7, 0), IDENTITY, ENVIRONMENT)
    assert path.name == "step-000007"
    found, wrong = newest(tmp_path, IDENTITY, LOG)
    assert not wrong
    assert found.environment == ENVIRONMENT
    assert_same(found, snapshot(7, 0))
    assert {p.suffix for p in path.iterdir()} == {".json", ".safetensors"}


def test_the_last_two_are_kept_in_the_order_of_numbers(tmp_path):
    for step in (999_998, 999_999, 1_000_000):
        save(tmp_path, snapshot(step), IDENTITY, ENVIRONMENT)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1000000", "step-999999"]
    (tmp_path / "step-000005.tmp-99").mkdir()
    save(tmp_path, snapshot(1_000_001), IDENTITY, ENVIRONMENT)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1000000", "step-1000001"]


def test_nothing_there(tmp_path):
    assert newest(tmp_path / "nowhere", IDENTITY, LOG) == (None, {})


def test_of_another_run(tmp_path):
    save(tmp_path, snapshot(7), IDENTITY, ENVIRONMENT)
    with pytest.raises(UserError, match="seed was 1 and is 2"):
        newest(tmp_path, {**IDENTITY, "settings": {"seed": 2}}, LOG)
    with pytest.raises(UserError, match="rows that the run works on have changed"):
        newest(tmp_path, {**IDENTITY, "rows": "abd"}, LOG)


def test_a_log_without_that_line_counts_as_broken(tmp_path):
    log = files.Log(tmp_path / "metrics.jsonl")
    log.append({"step": 1})
    save(tmp_path, snapshot(1, log.size), IDENTITY, ENVIRONMENT)
    log.append({"step": 2})
    save(tmp_path, snapshot(2, log.size), IDENTITY, ENVIRONMENT)
    assert newest(tmp_path, IDENTITY, log)[0].step == 2
    size = log.size
    log.cut(size - 1)
    found, wrong = newest(tmp_path, IDENTITY, log)
    assert found.step == 1
    assert f"metrics.jsonl had {size} bytes then, and has no such line now" in wrong[tmp_path / "step-000002"]
    log.cut(found.log_bytes)
    log.append({"step": 20})  # as long as it was, but for one byte
    assert newest(tmp_path, IDENTITY, log)[0].step == 1
    save(tmp_path, snapshot(2, log.size), IDENTITY, ENVIRONMENT)  # the step comes again and takes its place
    assert newest(tmp_path, IDENTITY, log)[0].log_bytes == log.size


def test_what_is_not_finite_is_not_written(tmp_path):
    save(tmp_path, snapshot(1), IDENTITY, ENVIRONMENT)
    bad = Snapshot(2, {"adapter": State({"a": torch.tensor([1.0, float("nan")])})}, 0)
    with pytest.raises(Diverged, match="adapter: a is not finite at step 2"):
        save(tmp_path, bad, IDENTITY, ENVIRONMENT)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def alter(folder, draw: np.random.Generator) -> str:
    """Truncate, flip a bit, remove or swap files of the newest checkpoint, or take another's place."""
    new, old = folder / "step-000009", folder / "step-000006"
    names = sorted(p.name for p in new.iterdir())
    name = names[draw.integers(len(names))]
    kind = ("truncate", "flip", "remove", "swap", "swap names", "swap folders")[draw.integers(6)]
    content = (new / name).read_bytes()
    if kind == "truncate":
        (new / name).write_bytes(content[: draw.integers(len(content))])
    elif kind == "flip":
        at, bit = draw.integers(len(content)), 1 << int(draw.integers(8))
        (new / name).write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
    elif kind == "remove":
        (new / name).unlink()
    elif kind == "swap":  # the file of another checkpoint
        (new / name).write_bytes((old / name).read_bytes())
    elif kind == "swap names":  # two files of this one
        other = names[(names.index(name) + 1 + draw.integers(len(names) - 1)) % len(names)]
        (new / name).write_bytes((new / other).read_bytes())
        (new / other).write_bytes(content)
    else:  # a whole older checkpoint under the newer one's name
        shutil.rmtree(new)
        shutil.copytree(old, new)
    return f"{kind} {name}"


@pytest.mark.parametrize("seed", range(200))
def test_200_altered_checkpoints(tmp_path, seed):
    for step in (6, 9):
        save(tmp_path, snapshot(step), IDENTITY, ENVIRONMENT)
    before = {p.name: p.read_bytes() for p in (tmp_path / "step-000009").iterdir()}
    what = alter(tmp_path, np.random.default_rng(seed))
    after = {p.name: p.read_bytes() for p in (tmp_path / "step-000009").iterdir()}
    assert after != before, what
    found, wrong = newest(tmp_path, IDENTITY, LOG)
    assert len(wrong) == 1, what
    assert set(wrong) == {tmp_path / "step-000009"}
    assert_same(found, snapshot(6))
    # the run comes to step 9 again and puts a whole one in its place
    save(tmp_path, snapshot(9), IDENTITY, ENVIRONMENT)
    assert_same(newest(tmp_path, IDENTITY, LOG)[0], snapshot(9))


def test_a_white_space_that_means_nothing_is_no_alteration(tmp_path):
    path = save(tmp_path, snapshot(3), IDENTITY, ENVIRONMENT)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert_same(newest(tmp_path, IDENTITY, LOG)[0], snapshot(3))


CALLS = ("open", "write", "fsync", "rename")


def test_a_full_disk_at_every_call(tmp_path, monkeypatch):
    """Whichever call says that the disk is full: the checkpoint before loads, and no half one is left."""
    counts = {}

    def counting(call, real):
        def counted(*args, **more):
            counts[call] = counts.get(call, 0) + 1
            return real(*args, **more)

        return counted

    def failing(number, real):
        seen = []

        def fails(*args, **more):
            seen.append(1)
            if len(seen) == number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **more)

        return fails

    for call in CALLS:
        monkeypatch.setattr(files.os, call, counting(call, getattr(os, call)))
    save(tmp_path / "counted", snapshot(3), IDENTITY, ENVIRONMENT)
    monkeypatch.undo()
    assert counts["write"] == 3
    for call in CALLS:
        for number in range(1, counts[call] + 1):
            folder = tmp_path / f"{call}-{number}"
            save(folder, snapshot(3), IDENTITY, ENVIRONMENT)
            with monkeypatch.context() as patch:
                patch.setattr(files.os, call, failing(number, getattr(os, call)))
                try:
                    save(folder, snapshot(6), IDENTITY, ENVIRONMENT)
                    last = 6  # it was the flushing of a folder's names, which not every system can do
                    assert call in ("open", "fsync")
                except NoSpace as wrong:
                    last = 3
                    assert str(folder) in str(wrong)
                    assert "bytes are needed" in str(wrong)
            found, wrong = newest(folder, IDENTITY, LOG)
            assert not wrong
            assert_same(found, snapshot(last))
            assert not list(folder.glob("*.tmp-*"))


def test_what_is_read_back_is_compared(tmp_path, monkeypatch):
    save(tmp_path, snapshot(3), IDENTITY, ENVIRONMENT)
    real = files.write

    def faulty(path, content):  # a disk that loses a byte
        real(path, content[:-1] + b"\x00" if path.suffix == ".safetensors" else content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", faulty)
        with pytest.raises(Broken, match="SHA-256"):
            save(tmp_path, snapshot(6), IDENTITY, ENVIRONMENT)
    assert_same(newest(tmp_path, IDENTITY, LOG)[0], snapshot(3))


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_a_training_goes_on_to_the_bit(tmp_path, kind):
    """Weights, both optimizers' moments and plain numbers come back as they were."""

    def fresh():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
        named = dict(model.named_parameters())
        if kind == "adamw":
            optimizer = torch.optim.AdamW(named.values(), lr=0.01)
        else:
            from transformers import Adafactor

            optimizer = Adafactor(
                named.values(), lr=0.01, scale_parameter=False, relative_step=False, warmup_init=False
            )
        box = type("Box", (), {"coef": 0.1})()
        return (
            model,
            optimizer,
            box,
            {"adapter": Weights(named), "optimizer": OptimizerState(optimizer, named), "box": Numbers(box, "coef")},
        )

    def train(model, optimizer, box, steps):
        for step in steps:
            x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
            loss = (model(x) - 1).square().mean()
            optimizer.zero_grad(set_to_none=True)
            if step == 0:
                loss = loss + 0 * model[2].bias.sum()
                model[2].bias.requires_grad_(False)  # a weight that has no moments yet
            loss.backward()
            model[2].bias.requires_grad_(True)
            optimizer.step()
            box.coef *= 1.1

    whole = fresh()
    train(*whole[:3], range(6))
    first = fresh()
    train(*first[:3], range(3))
    save(tmp_path, take(3, first[3], 0), IDENTITY, ENVIRONMENT)
    second = fresh()
    give(newest(tmp_path, IDENTITY, LOG)[0], second[3])
    train(*second[:3], range(3, 6))
    for a, b in zip(whole[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole[2].coef == second[2].coef
    one, other = take(6, whole[3], 0), take(6, second[3], 0)
    assert_same(one, other)


def test_a_held_snapshot_does_not_move_with_the_training():
    weight = nn.Parameter(torch.zeros(3))
    box = type("Box", (), {"seen": [1]})()
    held = take(1, {"w": Weights({"w": weight}), "b": Numbers(box, "seen")}, 0, copy=True)
    with torch.no_grad():
        weight.add_(1)
    box.seen.append(2)
    assert held.parts["w"].tensors["w"].tolist() == [0, 0, 0]
    assert held.parts["b"].values == {"seen": [1]}


def test_parts_that_do_not_fit_are_refused():
    weight = nn.Parameter(torch.zeros(3))
    for state in (State({"other": torch.zeros(3)}), State({"w": torch.zeros(4)}), State()):
        with pytest.raises(UserError, match="does not fit this version"):
            give(Snapshot(1, {"w": state}, 0), {"w": Weights({"w": weight})})
    with pytest.raises(UserError, match="does not fit this version"):
        give(Snapshot(1, {}, 0), {"w": Weights({"w": weight})})


def test_the_name_says_the_step():
    assert checkpoint.NAME.fullmatch("step-000120")
    assert not checkpoint.NAME.fullmatch("step-000120.tmp-7")
