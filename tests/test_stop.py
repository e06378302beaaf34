"""Signals: at once where nothing can be lost, at the next poll where something can; the second one leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from rl4nlu import stop


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_signal_waits_for_the_next_poll(number, code, monkeypatch):
    if signal.getsignal(number) is signal.SIG_IGN:  # as in a shell's background jobs
        monkeypatch.setattr(signal, "SIG_IGN", object())
    before = signal.getsignal(number)
    with pytest.raises(stop.Interrupted) as stopped, stop.heeded(), stop.deferred():
        stop.poll()
        os.kill(os.getpid(), number)
        time.sleep(0.01)  # nothing happens
        stop.poll()
        pytest.fail("poll should have raised")
    assert stopped.value.exit_code == code
    assert signal.getsignal(number) is before
    stop.poll()  # forgotten


def test_outside_of_deferred_it_acts_at_once():
    reached = False
    with pytest.raises(stop.Interrupted), stop.heeded():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        reached = True
    assert not reached


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop.heeded():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            stop.poll()
            assert stop._State.asked is None
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_second_signal_leaves_at_once():
    code = (
        "import os, signal, time\nfrom rl4nlu import stop\n"
        "with stop.heeded(), stop.deferred():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(1.1)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(5)\n    print('too late', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "still here\n")
    assert "left at once" in done.stderr
