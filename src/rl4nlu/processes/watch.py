"""Who of several processes is still there: each holds a connection to the main one, which the system closes when a
process ends, however it ends; the main one tells the others. Nothing is asked for regularly, and nothing waits."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from typing import Any, TextIO

from ..errors import PeerLost

MEETING = 120.0
"""Seconds for all to connect."""
PATIENCE = 20.0
"""Seconds that this process may wait for another that is lost: where nothing wakes it, it is ended."""
LONGEST = 1800.0
"""Seconds that it may go on without waiting for anybody."""
IDLE, BETWEEN, TIMES = 5, 3, 3
"""A machine that is gone says nothing: after so many seconds of silence it is asked, with so many between, so often."""


class Watch:
    """This process's end of the connections."""

    writing = 0
    """Blocks within which it saves."""
    waiting = 0
    """Blocks within which it waits for others."""
    _listening: socket.socket | None = None

    def __init__(self, rank: int, count: int, host: str, port: int, token: str) -> None:
        """
        Args:
            rank: of this process.
            count: of all.
            host: of the main process.
            port: on which it listens (`listen`).
            token: that all of them know, and nobody else.
        """
        self.rank, self.count = rank, count
        self.first_lost: int | None = None
        """Rank of the process that is lost."""
        self._lost = ""
        self._known = threading.Event()
        self._leaving = False
        self._peers: dict[int, socket.socket] = {}
        if rank == 0:
            assert self._listening is not None
            self._listening.settimeout(MEETING)
            while len(self._peers) < count - 1:
                peer, _ = self._listening.accept()
                peer.settimeout(MEETING)
                with contextlib.suppress(OSError, ValueError):  # a stranger
                    number, said = _read_hello(peer, token)
                    self._begin(number, peer, said)
            self._listening.close()
            type(self)._listening = None
        else:
            peer = socket.create_connection((host, port), timeout=MEETING)
            peer.sendall(f"{token} {rank}\n".encode())
            self._begin(0, peer, peer.makefile("r", encoding="utf-8", errors="replace"))

    @classmethod
    def listen(cls, host: str) -> int:
        """Begin to listen, in the main process. The port."""
        family = socket.getaddrinfo(host, None)[0][0]
        cls._listening = socket.create_server(("", 0), family=family)
        return int(cls._listening.getsockname()[1])

    def _begin(self, number: int, peer: socket.socket, said: TextIO) -> None:
        peer.settimeout(None)
        _keep_alive(peer)
        self._peers[number] = peer
        threading.Thread(target=self._listen_to, args=(number, said), daemon=True).start()

    def lost(self, seconds: float = 0.0) -> str:
        """Who is lost, in words; empty if nobody is known to be after so many seconds."""
        self._known.wait(seconds)
        return self._lost

    def leave(self, why: str) -> None:
        """Say that this process ends.

        Args:
            why: what went wrong; empty: nothing did.
        """
        self._leaving = True
        for peer in self._peers.values():
            self._tell(peer, {"rank": self.rank, "why": why})
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_WR)

    def _tell(self, peer: socket.socket, what: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it is gone itself
            peer.sendall((json.dumps(what) + "\n").encode())

    def _listen_to(self, number: int, said: TextIO) -> None:
        told: dict[str, Any] = {"rank": number, "why": None}
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(said.readline())
        if self._leaving or told["why"] == "" or self._known.is_set():
            return
        gone = f"process {told['rank']} of {self.count}"
        self.first_lost = told["rank"]
        self._lost = (
            f"{gone} has ended: {told['why']}" if told["why"] else f"{gone} is gone; it, or its machine, was killed"
        )
        self._known.set()
        if self.rank == 0:
            for other, peer in self._peers.items():
                if other != number:
                    self._tell(peer, told)
        waited, end = 0.0, time.monotonic() + LONGEST
        while self.writing or (waited < PATIENCE and time.monotonic() < end):
            time.sleep(0.1)  # who computes will come to where it is told, and saves then
            waited = waited + 0.1 if self.waiting and not self.writing else 0.0
        if not self._leaving:  # it waits for the one that is gone, and nothing wakes it
            with contextlib.suppress(OSError):
                os.write(2, f"error: {self._lost}; what was saved is whole: rl4nlu resume RUN\n".encode())
            os._exit(PeerLost.exit_code)


def _read_hello(peer: socket.socket, token: str) -> tuple[int, TextIO]:
    """The rank of a process that connects, and what it will say.

    Raises:
        ValueError: it is none of the run's.
        OSError: it says nothing.
    """
    said = peer.makefile("r", encoding="utf-8", errors="replace")
    known, rank = said.readline(100).split()
    if known != token:
        peer.close()
        raise ValueError("a stranger")
    return int(rank), said


def _keep_alive(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":  # elsewhere the system's own times hold
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, BETWEEN)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, TIMES)
