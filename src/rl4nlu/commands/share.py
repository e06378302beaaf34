"""The sub-commands that make something for others."""

from __future__ import annotations

from ..errors import UserError
from .common import Args, example_of, paths, run_folder, settings_of


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


def merge(args: Args) -> None:
    """A model of its own from a run's base model and LoRA adapter, in a folder that needs no peft.

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

    made = run_it(run, settings.out, settings.dtype)
    print(
        f"{made.path} is written: {made.size / 1e6:,.1f} MB in {made.dtype}; off the adapter by {made.difference:.1e}"
    )
    for note in notes(made):
        print(note)
    print(f"next: {made.ask}")


def push(args: Args) -> None:
    """A finished run to the Hugging Face hub: adapter, classifier or merged model, with card, settings, results.

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
            print(f"  {path:<32}{parcel.size(path):>14,} bytes")
        if settings.dry_run:
            print(f"nothing was sent to {repo}; leave out --dry-run to send this")
            return
        print(f"{run} is at {run_it(parcel, settings)}")
        print("\n".join(["", *parcel.code]))
