"""What a suite prints before and after its runs: the plan, and the report."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from .. import say
from ..progress import lasting
from ..reports import collect, differences, write
from ..tables import print_differences, print_table
from .study import Study


def print_plan(study: Study) -> None:
    """How many runs there are, and a table of tasks x methods: how many seeds are done, and candidates of tuning."""
    jobs = list(study.plan.jobs.values())
    done = sum(state == "done" for state in study.state.values())
    left = study.left if done < len(jobs) else None
    time = f", about {lasting(left)}" if left else ""
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(job.seed for job in jobs))
    say.line(f"{len(jobs)} runs in {study.out}: {done} done already, {len(jobs) - done} to do{time}; seeds {seeds}")
    methods = list(dict.fromkeys(job.method for job in jobs))
    table = _table("done / runs", *methods)
    for task in dict.fromkeys(job.task for job in jobs):
        cells = []
        for method in methods:
            here = [job for job in jobs if (job.method, job.task) == (method, task)]
            kinds = [[job for job in here if job.is_trial is trial] for trial in (False, True)]
            counts = [f"{sum(study.state[job.name] == 'done' for job in kind)}/{len(kind)}" for kind in kinds]
            cells.append(f"{counts[0]} + {counts[1]} tuning" if kinds[1] else counts[0])
            say.event(
                "plan",
                {"task": task, "method": method, "done": counts[0], "tuning_done": counts[1] if kinds[1] else None},
            )
        table.add_row(task, *cells)
    if not say.machines_read():
        (Console() if Console().is_terminal else Console(width=160)).print(table)
    for note in study.notes:
        say.line(note)
    study.notes.clear()


def _table(*heads: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for head in heads:
        table.add_column(head.replace(" (", "\n("), no_wrap=True, overflow="fold")
    return table


def report(study: Study) -> int:
    """The page and the table over all runs that are done; then what is missing, and why. Returns the exit code."""
    jobs = study.plan.jobs.values()
    folders = [study.out / job.name for job in jobs if study.state[job.name] == "done" and not job.is_trial]
    if folders:
        runs = collect(folders)
        found = differences(runs)
        write(runs, study.out / "report.html", found)
        print_table([result for run in runs for result in run.results])
        print_differences(found)
        say.line(f"the report is in {study.out / 'report.html'}")
    failed = [job for job in jobs if study.state[job.name] == "failed"]
    skipped = sum(state == "skipped" for state in study.state.values())
    if failed or skipped:
        say.line(f"{len(failed)} runs failed, {skipped} were skipped for that; the same command tries them again:")
        for job in failed:
            facts = {"run": study.out / job.name, "message": study.error[job.name], "log": study.log(job)}
            say.line(f"  {job.title}: {facts['message']} (log: {facts['log']})", "failed", facts)
    say.end({"run": study.out, "page": study.out / "report.html" if folders else None})
    return 1 if failed or skipped else 0
