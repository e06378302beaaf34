"""The sub-commands that make something for others."""

from __future__ import annotations

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
        print(f"{name}: from {run}")
    if made.missing:
        print(f"missing, the server will want them: {', '.join(made.missing)}")
    if made.filled:
        print(f"{made.filled} answers could not be parsed; each task's first label stands for them")
    print(f"{settings.out} is written and checked")
