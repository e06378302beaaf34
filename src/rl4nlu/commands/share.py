"""The sub-commands that make something for others."""

from __future__ import annotations

from .. import say
from ..errors import UserError
from .common import Args, example_of, paths, run_folder, settings_of


def submit(args: Args) -> None:
    """The zip for the GLUE or SuperGLUE server; from runs on the test splits.

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


def merge(args: Args) -> None:
    """Base model and LoRA adapter of a run as one plain model; nothing but transformers is needed to load it.

    rl4nlu merge runs/sst2-ppo --out sst2-model
    """
    from ..settings import MergeSettings

    run, rest = run_folder(merge, args)
    settings = settings_of(merge, MergeSettings, rest)
    if settings.out is None:
        raise UserError(f"--out is missing: {example_of(merge)}")
    from ..finished import mergeable
    from ..run import check_free

    check_free(settings.out)
    mergeable(run)
    from ..merge import merge as run_it
    from ..merge import notes

    made = run_it(run, settings.out, settings.dtype, model=settings.model)
    for note in notes(made):
        say.line(note)
    facts = {"output": made.path, "bytes": made.size, "dtype": made.dtype, "difference": made.difference}
    size = f"{made.size / 1e6:,.1f} MB in {made.dtype}; off the adapter by {made.difference:.1e}"
    say.end({**facts, "next": made.ask}, f"{made.path} is written: {size}", f"next: {made.ask}")


def push(args: Args) -> None:
    """A finished run to the Hugging Face hub; adapter, classifier or merged model, with card, settings, results.

    rl4nlu push runs/sst2-ppo my-name/sst2-ppo --private
    """
    from ..settings import PushSettings

    names, rest = paths(args)
    settings = settings_of(push, PushSettings, rest)
    if len(names) != 2:
        raise UserError(f"push needs the folder of a finished run, and OWNER/NAME on the hub: {example_of(push)}")
    from ..push import check_push, packed
    from ..push import push as run_it

    run, repo = names[0], names[1].as_posix()
    found = check_push(run, repo, settings)
    with packed(found, repo, settings) as parcel:
        for path in parcel.files:
            say.line(f"  {path:<32}{parcel.size(path):>14,} bytes")
        files = {path: parcel.size(path) for path in parcel.files}
        if settings.dry_run:
            say.end({"files": files}, f"nothing was sent to {repo}; leave out --dry-run to send this")
            return
        where = run_it(parcel, settings)
        say.end({"files": files, "url": where}, f"{run} is at {where}", "", *parcel.code)
