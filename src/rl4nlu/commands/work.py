"""The sub-commands that ask or train a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import say
from ..errors import UserError
from .common import Args, example_of, finish, make_run, need, quoted, run_folder, settings_of


def demo(args: Args) -> None:
    """Zero-shot, few-shot, SFT and PPO on the bundled model and tasks; no network.

    rl4nlu demo
    """
    from ..settings import DemoSettings

    settings = settings_of(demo, DemoSettings, args)
    from ..run import check_free

    check_free(settings.out)
    from ..demo import demo as run_it

    run_it(settings)


def evaluate(args: Args) -> None:
    """Ask a model every row: zero-shot, few-shot, or a trained run.

    rl4nlu evaluate --task glue/rte --model mini --data DIR --shots 5
    """
    from ..settings import EvaluateSettings

    settings = settings_of(evaluate, EvaluateSettings, args)
    need(settings, "task" if settings.adapter is None else None, "model" if settings.adapter is None else None)
    run, results = make_run("evaluate", settings)
    finish(run.path, results, f"rl4nlu report {quoted(run.path)} --out report.html")


def sft(args: Args) -> None:
    """Supervised fine-tuning with LoRA on the gold answers.

    rl4nlu sft --task glue/sst2 --model mini --data DIR --max-steps 600 --out runs/sst2-sft
    """
    from ..settings import SftSettings

    settings = settings_of(sft, SftSettings, args)
    need(settings, "task", "model" if settings.init is None else None)
    run, results = make_run("sft", settings)
    again = f" --data {quoted(settings.data)}" if settings.data else ""
    finish(run.path, results, f"rl4nlu ppo --task {quoted(settings.task)}{again} --init {quoted(run.path)}")


def ppo(args: Args) -> None:
    """PPO with LoRA, and its kin; answers are actions, the reward compares them with the gold one.

    rl4nlu ppo --task glue/sst2 --model mini --data DIR --init runs/sst2-sft --out runs/sst2-ppo
    """
    from ..settings import PpoSettings

    settings = settings_of(ppo, PpoSettings, args)
    need(settings, "task", "model" if settings.init is None else None)
    run, results = make_run("ppo", settings)
    before = f"{quoted(settings.init)} " if settings.init else ""
    finish(run.path, results, f"rl4nlu report {before}{quoted(run.path)} --out report.html")


def classify(args: Args) -> None:
    """A classification head on an encoder or a decoder: the baseline.

    rl4nlu classify --task glue/rte --model google-bert/bert-base-uncased --out runs/rte-bert
    """
    from ..settings import ClassifySettings

    settings = settings_of(classify, ClassifySettings, args)
    need(settings, "task", "model")
    run, results = make_run("classify", settings)
    finish(run.path, results, f"rl4nlu report {quoted(run.path)} --out report.html")


def predict(args: Args) -> None:
    """Answer new rows with a trained run.

    rl4nlu predict runs/sst2-ppo --input rows.jsonl --output answers.jsonl
    """
    from ..settings import PredictSettings

    run, rest = run_folder(predict, args)
    settings = settings_of(predict, PredictSettings, rest)
    for name in ("input", "output"):
        if getattr(settings, name) is None:
            raise UserError(f"--{name} is missing; see: rl4nlu predict --help")
    from .. import processes
    from ..prepare import prepare_prediction

    processes.join(settings.device)
    prepared = prepare_prediction(run, settings)
    from ..methods.predict import predict as run_it

    count = run_it(run, settings, prepared)
    facts = {"run": run, "output": settings.output, "answers": count}
    say.end(facts, f"{count} answers are in {settings.output}")


def resume(args: Args) -> None:
    """Go on with a run that was stopped or killed; it ends as if it had been left alone.

    rl4nlu resume runs/sst2-ppo
    """
    from ..settings import ResumeSettings

    path, rest = run_folder(resume, args)
    settings = settings_of(resume, ResumeSettings, rest)
    from ..reopen import resume as run_it

    results = run_it(path, settings)
    finish(path, results, f"rl4nlu report {quoted(path)} --out report.html")


def suite(args: Args) -> int:
    """Tasks x models x methods x seeds from one file: plan, runs, one report; the same command goes on after a stop.

    rl4nlu suite study.yaml --jobs 2
    """
    from ..settings import SuiteSettings

    settings = settings_of(suite, SuiteSettings, args)
    if not args or args[0].startswith("-"):
        raise UserError(f"suite needs a file: {example_of(suite)}")
    from ..suites import suite as run_it

    def foresee(name: str, of: Any) -> float:
        from ..timing import run_seconds

        return run_seconds(name, of)

    return run_it(settings.model_copy(update={"out": settings.out or Path("runs") / Path(args[0]).stem}), foresee)
