"""The `suite` command: carry out a plan of runs, go on where it was left, and report on all of them.

`Study` knows what is done and what can be done next; `Workers` does it on this machine, `OnRay` on a cluster. Anything
else with their methods could take their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import NoSpace, UserError
from ..lock import BUSY
from ..plan import make_plan
from ..settings import SuiteSettings
from ..stop import Interrupted
from .board import Board
from .printed import print_plan, report
from .study import Study
from .times import Foresee
from .workers import Workers

__all__ = ["carry_out", "suite"]


def suite(settings: SuiteSettings, foresee: Foresee | None = None) -> int:
    """Plan, run, report. Returns the exit code: 1 if a run failed.

    Args:
        settings: the suite.
        foresee: tells how long a run takes that nothing like it was made of.

    Raises:
        UserError: the suite is not as it should be, or a finished run was made with other settings; nothing was
            started then.
    """
    out = settings.out or Path("runs/suite")
    plan = make_plan(settings)
    if "," in str(out):
        raise UserError(f"--out {out}: a comma stands between the names of tasks; name a folder without")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder")
    with contextlib.nullcontext() if settings.dry_run else _alone(out):
        study = Study(plan, out, settings.jobs)
        study.advance(strict=True, draw=not settings.dry_run)
        if foresee is not None:
            study.times.foresee(study.state, out, foresee)
        if settings.dry_run or "planned" not in study.state.values():
            print_plan(study)
        else:
            _run(study, settings, out)
        if settings.dry_run:
            return 0
        study.write()
        return report(study)


def _run(study: Study, settings: SuiteSettings, out: Path) -> None:
    """Print the plan and carry it out; whatever comes, nothing runs on afterwards."""
    workers = _workers(settings, out, list(study.state.values()).count("planned"))
    study.times.at_a_time = workers.at_a_time
    try:
        print_plan(study)
        with Board(study) as board:
            carry_out(study, workers, board)
    except Interrupted as stopped:
        study.stopped(workers.stop())
        saved = f"{study.killed} runs were killed and" if study.killed else "every run that was at work is saved;"
        stopped.kept = f"{saved} the same command goes on with all of them"
        raise
    except BaseException:
        study.stopped(workers.stop())
        raise
    study.stopped(workers.stop())


def carry_out(study: Study, workers: Any, board: Board) -> None:
    """Start every run as soon as what it needs is done and there is room for it, until nothing is left to start.

    Args:
        study: what is done.
        workers: `Workers`, or what has its methods.
        board: is told what happens.
    """
    while True:
        study.advance()
        for job in study.ready()[: workers.free]:
            workers.start(study.work(job))
        try:
            study.write()
        except (NoSpace, OSError) as wrong:  # it can be made anew from the runs, which save themselves
            workers.notes.append(f"suite.json could not be written ({wrong}); it is tried again")
        board.tell(workers.notes)
        if not workers.busy:
            return
        for name, outcome in workers.wait():
            study.note(name, outcome)


def _workers(settings: SuiteSettings, out: Path, runs: int) -> Any:
    if settings.ray is None:  # of fewer runs each has a larger share of the cores
        return Workers(min(settings.jobs, runs), settings.retries)
    from .on_ray import OnRay

    return OnRay(settings.ray, settings.jobs, out, settings.retries)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Nobody else may run the suite in this folder: leftovers of interrupted runs are removed."""
    import fcntl

    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / "suite.lock").open("w")
    except OSError as wrong:
        raise UserError(f"--out {out}: cannot be written to ({wrong.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as wrong:
            if wrong.errno in BUSY:  # else a file system without locks
                raise UserError(f"--out {out}: this suite is running already; wait for it, or stop it") from None
        yield
