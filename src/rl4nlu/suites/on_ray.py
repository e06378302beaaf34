"""Runs of a suite as tasks on a Ray cluster: `OnRay` has the methods of `Workers`.

Ray carries a run's settings to a worker and its results back. All else goes through the suite's folder, which every
machine of the cluster has to see: logs, checkpoints, the runs that others start from. A run that stops or dies goes on
from there on any machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import say
from ..errors import UserError
from ..files import write_text
from ..run import status_of
from ..settings import Settings
from ..stop import SIGNALS, deferred, poll
from .work import Outcome, Work, one_line, perform
from .workers import PATIENCE, times

QUEUE = 1000
"""Runs that are handed over at a time: Ray sees what is needed (a cluster may grow by it), and starts what has room."""
LOOKS = 0.2
"""Seconds between two looks at what has come to its end."""
ANSWERS = 10.0
"""Seconds in which a cluster has to answer."""
STORE = 100 * 2**20
"""Bytes for Ray's own store on this machine: settings and results, and no tensors."""


@dataclass(frozen=True)
class Place:
    """How a worker tells that it sees what this process sees."""

    folder: Path
    """Where relative paths of settings begin."""
    token: Path
    """A file of this process."""
    content: str

    def complaint(self) -> str:
        """What is wrong where this is called, or an empty string."""
        here = socket.gethostname()
        try:
            os.chdir(self.folder)
            if self.token.read_text(encoding="utf-8") == self.content:
                return ""
        except OSError:
            pass
        return (
            f"{here} does not see the files in {self.token.parent}: begin the suite in a folder that all machines "
            "of the cluster share, under the same path"
        )


class OnRay:
    """A Ray cluster that carries out runs."""

    def __init__(self, address: str, jobs: int, out: Path, retries: int = 1) -> None:
        """Connect, and see that every machine can do its work.

        Args:
            address: local: a cluster of this machine's own; auto, HOST:PORT or ray://HOST:PORT: one that is there.
            jobs: runs at a time on a machine, where nothing else is said.
            out: the suite's folder.
            retries: how often a run whose worker died is tried again.

        Raises:
            UserError: Ray is not installed, nothing answers, or a machine has not what it needs.
        """
        self._ray = _connect(address)
        self._jobs, self.retries, self._local = jobs, retries, address == "local"
        self._running: dict[Any, tuple[Work, int]] = {}
        self.notes: list[str] = []
        """What there is to tell."""
        self._told: set[str] = set()
        content = os.urandom(8).hex()
        self._place = Place(Path.cwd(), out.absolute() / f".ray-{content}", content)
        try:
            for old in out.glob(".ray-*"):  # of a program that was killed
                old.unlink()
            write_text(self._place.token, content)
            self._check_machines()
        except BaseException:
            self.stop()
            raise

    @property
    def free(self) -> int:
        """How many runs could be handed over now."""
        return max(0, QUEUE - len(self._running))

    @property
    def busy(self) -> bool:
        """Whether a run is at work, or waits for a machine."""
        return bool(self._running)

    @property
    def at_a_time(self) -> int:
        """How many runs there is room for at a time, of those that say nothing of what they need."""
        cpus, gpus = self.needs(Settings())
        nodes = [node["Resources"] for node in self._nodes()]
        return max(1, sum(int(_fits(node, cpus, gpus)) for node in nodes))

    def needs(self, settings: Settings, cpus: int | None = None, gpus: float | None = None) -> tuple[int, float]:
        """Cores and GPUs that are kept for a run.

        Args:
            settings: of the run.
            cpus, gpus: what the suite says of it.
        """
        nodes = [node["Resources"] for node in self._nodes()]
        with_gpus = [node for node in nodes if node.get("GPU")]
        if gpus is None:
            gpus = 1.0 if with_gpus and settings.device != "cpu" else 0.0
        if cpus is None and gpus and with_gpus:  # the machine's cores are shared out as its GPUs are
            cpus = int(min(node.get("CPU", 1) * min(1.0, gpus / node["GPU"]) for node in with_gpus))
        elif cpus is None:
            cpus = int(min((node["CPU"] for node in nodes if node.get("CPU")), default=1)) // self._jobs
        return max(1, cpus), gpus

    def start(self, work: Work, died: int = 0) -> None:
        """Hand a run to Ray; its worker has died so often already.

        Raises:
            UserError: this machine, which is the whole cluster, has less than the run needs.
        """
        cpus, gpus = self.needs(work.settings, work.resources.cpus, work.resources.gpus)
        self._check_room(work, cpus, gpus)
        known = replace(work, resources=work.resources.model_copy(update={"cpus": cpus, "gpus": gpus}))
        task = self._ray.remote(_make).options(num_cpus=cpus, num_gpus=gpus, max_retries=0, name=work.title)
        # tried again it asks for what it had, whatever the cluster has lost since
        self._running[task.remote(known, self._place, died)] = (known, died)

    def wait(self) -> list[tuple[str, Outcome]]:
        """Wait until a run has come to its end. A run whose worker died, or whose machine was lost, is tried again.

        Returns:
            The names of the runs that came to their ends, and their outcomes; none where one is tried again.
        """
        found = []
        for ref in self._ended():
            work, died = self._running.pop(ref)
            try:
                with deferred():
                    outcome = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as error:
                outcome = Outcome(0.0, error=one_line(error.cause or error))
            except self._ray.exceptions.RayError as error:
                if died < self.retries:
                    self.notes.append(f"{work.title}: {_reason(error)}; it goes on from its last checkpoint")
                    self.start(work, died + 1)
                    continue
                outcome = Outcome(0.0, error=f"its process died {times(died + 1)} ({_reason(error)}); out of memory?")
            found.append((work.name, outcome))
        poll()
        return found

    def stop(self) -> int:
        """End all runs, whatever they are at. How many did not save themselves in time and were killed."""
        killed, end = 0, time.monotonic() + PATIENCE
        with contextlib.suppress(Exception):  # the cluster may be what is gone
            for ref in self._running:
                self._ray.cancel(ref, force=False)  # a run that is at work saves a checkpoint
            left = list(self._running)
            while left and time.monotonic() < end:
                _, left = self._ray.wait(left, num_returns=len(left), timeout=LOOKS)
            for ref in left:
                self._ray.cancel(ref, force=True)
                killed += 1
        self._running.clear()
        with contextlib.suppress(OSError):
            self._place.token.unlink()
        with contextlib.suppress(Exception):
            self._ray.shutdown()
        return killed

    def _ended(self) -> list[Any]:
        while True:
            with deferred():  # within Ray a signal would become a KeyboardInterrupt
                ended, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
            poll()
            if ended:
                return ended
            time.sleep(LOOKS)

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _check_machines(self) -> None:
        """Ask every machine: the same files, the same version.

        Raises:
            UserError: one has not.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        asked = self._ray.remote(_complaint)
        where = {node["NodeID"]: node["NodeManagerAddress"] for node in self._nodes()}
        refs = {
            node: asked.options(num_cpus=0, scheduling_strategy=On(node, soft=False)).remote(
                self._place, version("rl4nlu")
            )
            for node in where
        }
        for node, ref in refs.items():
            try:
                with deferred():  # within Ray a signal would become a KeyboardInterrupt
                    complaint = self._ray.get(ref, timeout=6 * ANSWERS)
            except self._ray.exceptions.RayError as error:
                cause = one_line(getattr(error, "cause", None) or error).split(" Traceback")[0][:200]
                complaint = f"{where[node]}: no run could be made there ({cause}); is rl4nlu installed there?"
            poll()
            if complaint:
                raise UserError(f"--ray: {complaint}")

    def _check_room(self, work: Work, cpus: int, gpus: float) -> None:
        """A run that no machine can ever hold would wait for ever; a cluster may grow, and is only spoken of."""
        if any(_fits(node["Resources"], cpus, gpus) >= 1 for node in self._nodes()):
            return
        wants = f"{cpus} cores and {gpus:g} GPUs" if gpus else f"{cpus} cores"
        if self._local:
            raise UserError(f"{work.title} needs {wants}, and this machine has less: set resources to what there is")
        if wants not in self._told:
            self._told.add(wants)
            self.notes.append(
                f"{work.title} needs {wants}: no machine of the cluster has them now, so it waits for one"
            )


def _make(work: Work, place: Place, died: int) -> Outcome:
    """Make a run, in a worker."""
    if complaint := place.complaint():
        raise UserError(complaint)
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the program does for itself
    end = time.monotonic() + PATIENCE
    while died and status_of(work.settings.out or Path()) == "running" and time.monotonic() < end:
        time.sleep(1)  # on a lost machine it may still be ending
    return perform(work, signal.SIGINT)  # as which Ray's cancelling comes


def _complaint(place: Place, wanted: str) -> str:
    """What a worker lacks, or an empty string."""
    if (there := version("rl4nlu")) != wanted:
        return f"{socket.gethostname()} has rl4nlu {there}, and this is {wanted}: install the same on all machines"
    return place.complaint()


def _fits(node: dict[str, float], cpus: int, gpus: float) -> float:
    """How many such runs a machine has room for."""
    return min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // gpus if gpus else float("inf"))


def _reason(error: Exception) -> str:
    kinds = {
        "OutOfMemoryError": "it was stopped for want of memory",
        "NodeDiedError": "its machine was lost",
        "WorkerCrashedError": "its process died",
        "LocalRayletDiedError": "its machine was lost",
    }
    return kinds.get(type(error).__name__, f"it was lost ({type(error).__name__})")


def _connect(address: str) -> Any:
    """The library, connected.

    Raises:
        UserError: it is not there, or nothing answers.
    """
    # a program that tells nobody about its users; to be said before the library is there
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError("--ray: Ray is not installed: pip install 'rl4nlu[ray]'") from None
    if ":" in address:
        _check_answers(address)
    more: dict[str, Any] = {}
    if address == "local":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        more = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": STORE}
        say.note("starting a Ray cluster on this machine")
    else:
        say.note(f"connecting to the Ray cluster ({address})")
    with _own_signals():
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR", **more)
        except Exception as wrong:  # of many kinds
            said = " ".join(str(wrong).split())[:200]
            raise UserError(
                f"--ray {address}: no cluster could be used ({said}); one begins with: ray start --head"
            ) from None
    return ray


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWERS).close()
    except (OSError, OverflowError) as wrong:
        raise UserError(
            f"--ray {address}: nothing answers there ({wrong}); a cluster begins with: ray start --head"
        ) from None


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """What Ray's start makes of signals is undone: they are this program's."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
