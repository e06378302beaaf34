"""What a process does once another one of its run is gone."""

from __future__ import annotations

import io
import threading
import time

import pytest
import torch

from rl4nlu.errors import PeerLost
from rl4nlu.processes import together, watch, world


@pytest.fixture
def alone(monkeypatch):
    """The watch of rank 1 of 2, who hears that the main process is gone; and the thread that hears it."""
    ended = threading.Event()

    def leave(code):
        assert code == PeerLost.exit_code
        ended.set()

    monkeypatch.setattr(watch.os, "_exit", leave)
    monkeypatch.setattr(watch, "PATIENCE", 0.35)
    made = watch.Watch.__new__(watch.Watch)
    made.rank, made.count, made.first_lost, made._lost = 1, 2, None, ""
    made._known, made._leaving, made._peers = threading.Event(), False, {}
    monkeypatch.setattr(world.World, "watch", made)
    thread = threading.Thread(target=made._listen_to, args=(0, io.StringIO("")), daemon=True)
    thread.start()
    assert "process 0 of 2 is gone" in made.lost(5)
    yield made, ended
    made._leaving = True
    made.waiting = 1
    thread.join(5)
    assert not thread.is_alive()


def test_who_computes_is_left_to_come_to_where_it_is_told(alone):
    _, ended = alone
    assert not ended.wait(1.2)


def test_who_waits_is_ended(alone):
    _, ended = alone
    with world.talking():
        assert ended.wait(5)


def test_who_saves_is_not_ended_while_it_does(alone):
    _, ended = alone
    with world.talking():
        with world.writing():
            assert not ended.wait(1.2)
        assert ended.wait(5)


def test_computing_takes_an_end(alone, monkeypatch):
    made, ended = alone
    assert not ended.is_set()
    monkeypatch.setattr(watch, "LONGEST", 0.3)
    another = threading.Thread(target=made._listen_to, args=(0, io.StringIO("")), daemon=True)
    made._known.clear()
    begun = time.monotonic()
    another.start()
    assert ended.wait(5)
    assert time.monotonic() - begun >= 0.3


def test_gradients_keep_their_types(monkeypatch):
    """Of weights of several types the sum goes through float32."""
    weights = [torch.nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32)]
    weights.append(torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)))
    for weight in weights[:2]:
        weight.grad = torch.full_like(weight, 2.0)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda flat: flat.mul_(2))
    together._add_gradients(weights)
    assert [weight.grad.dtype for weight in weights[:2]] == [torch.bfloat16, torch.float32]
    assert all((weight.grad == 4).all() for weight in weights[:2])
    assert weights[2].grad is None
