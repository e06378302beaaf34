"""The sub-commands that make something for others."""

from __future__ import annotations

from .. import say
from ..errors import UserError
from .common import Args, example_of, paths, settings_of


def submit(args: Args) -> None:
    """The zip for the GLUE or SuperGLUE server, from runs on the test splits.

    rl4nlu submit runs/cola-test runs/sst2-test --out glue.zip
    """
    from ..settings import SubmitSettings

    runs, rest = paths(args)
    settings = settings_of(submit, SubmitSettings, rest)
    if not runs:
        raise UserError(f"submit needs run folders: {example_of(submit)}")
    if settings.out is None:
        raise UserError(f"--out is missing: {example_of(submit)}")
    from ..submit import submit as run_it

    made = run_it(runs, settings.out)
    for name, run in made.tasks.items():
        say.line(f"{name}: from {run}", "task", {"task": name, "run": run})
    if made.missing:
        say.line(f"missing, the server will want them: {', '.join(made.missing)}")
    if made.filled:
        say.line(f"{made.filled} answers could not be parsed; each task's first label stands for them")
    facts = {"output": settings.out, "missing": made.missing, "unparsable": made.filled}
    say.end(facts, f"{settings.out} is written and checked")
