"""A file is the old or the new one; a log holds whole lines; a full disk is named with path and bytes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rl4nlu import files
from rl4nlu.errors import NoSpace


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_replace_keeps_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    files.write_json(path, {"a": 1})
    before = path.read_bytes()
    for call in ("write", "fsync", "open", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, call, full)
            with pytest.raises(NoSpace) as wrong:
                files.write_json(path, {"a": 2})
        assert str(path) in str(wrong.value)
        assert "12 bytes are needed" in str(wrong.value)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["results.json"]


def test_a_short_write_is_gone_on_with(tmp_path, monkeypatch):
    """os.write may write less than it is given."""
    real = os.write
    monkeypatch.setattr(files.os, "write", lambda handle, rest: real(handle, bytes(rest)[:3]))
    files.write(tmp_path / "f", b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


def test_a_log_has_no_half_line_when_the_disk_is_full(tmp_path, monkeypatch):
    log = files.Log(tmp_path / "metrics.jsonl")
    log.append({"step": 1})
    size, real = log.size, os.write
    calls = []

    def half(handle, rest):
        calls.append(1)
        if len(calls) == 2:
            full()
        return real(handle, bytes(rest)[:4])

    monkeypatch.setattr(files.os, "write", half)
    with pytest.raises(NoSpace, match=r"metrics\.jsonl: the disk is full; 12 bytes are needed"):
        log.append({"step": 2})
    assert log.size == size
    assert [row for _, row in log.lines()] == [{"step": 1}]


def test_lines_end_at_a_torn_one(tmp_path):
    log = files.Log(tmp_path / "p.jsonl")
    for i in range(3):
        log.append({"id": i})
    whole = log.size
    with log.path.open("ab") as file:
        file.write(b'{"id": 3')
    assert [(row["id"]) for _, row in log.lines()] == [0, 1, 2]
    assert [end for end, _ in log.lines()][-1] == whole
    log.cut(whole)
    log.append({"id": 3})
    assert [row["id"] for _, row in log.lines()] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="bytes"):
        log.cut(10_000)


def test_a_folder_comes_in_one_step_or_not_at_all(tmp_path):
    place = tmp_path / "adapter"
    with files.folder_in_one_step(place) as part:
        (part / "a").write_text("old")
        assert not place.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]
    with pytest.raises(RuntimeError), files.folder_in_one_step(place) as part:
        (part / "a").write_text("new")
        raise RuntimeError
    assert (place / "a").read_text() == "old"
    with files.folder_in_one_step(place) as part:
        (part / "b").write_text("new")
    assert [p.name for p in place.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_whoever_may_read_the_folder_may_read_its_weights(tmp_path, mask, mode):
    """safetensors writes for its owner alone: a merged model could not be used by the group it was made for."""
    before = os.umask(mask)
    try:
        with files.folder_in_one_step(tmp_path / "model") as part:
            save_file({"weight": torch.zeros(2)}, part / "model.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "model" / "model.safetensors").stat().st_mode & 0o777 == mode


def test_other_errors_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(PermissionError), files.room_for(tmp_path, 5):
        raise PermissionError(errno.EACCES, "no")
    for number, what in ((28, "the disk is full"), (122, "your quota"), (27, "ulimit")):
        with pytest.raises(NoSpace, match=what), files.room_for(tmp_path, 5):
            raise RuntimeError(f"Error while serializing: I/O error: (os error {number})")


def test_a_link_stays_a_link_and_a_mount_is_filled(tmp_path, monkeypatch):
    real, link = tmp_path / "disk" / "model", tmp_path / "model"
    real.mkdir(parents=True)
    link.symlink_to(real)
    with files.folder_in_one_step(link) as part:
        assert part.parent == tmp_path / "disk"
        (part / "a").write_text("new")
    assert link.is_symlink()
    assert [p.name for p in real.iterdir()] == ["a"]
    assert [p.name for p in real.parent.iterdir()] == ["model"]
    monkeypatch.setattr(Path, "is_mount", lambda path: path == real)
    monkeypatch.setattr(files.os, "rename", full)  # what lies on another disk cannot be renamed
    with files.folder_in_one_step(link) as part:
        assert part.parent == real
        (part / "b").write_text("new")
    assert sorted(p.name for p in real.iterdir()) == ["a", "b"]


def test_files_of_another_user_are_left_as_they_are(tmp_path, monkeypatch):
    def refused(self, mode):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    with files.folder_in_one_step(tmp_path / "model") as part:
        save_file({"weight": torch.zeros(2)}, part / "model.safetensors")
    assert (tmp_path / "model" / "model.safetensors").exists()
