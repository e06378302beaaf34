"""The main job on the bundle: four tasks, four methods, one table, one page; no network. The page is there after the
first task, and again at the end."""

from __future__ import annotations

import time
from pathlib import Path

from . import say
from .config import validate
from .methods.classify import classify
from .methods.evaluate import evaluate
from .methods.ppo import ppo
from .methods.sft import sft
from .reports import collect, differences, write
from .run import claim
from .settings import ClassifySettings, DemoSettings, EvaluateSettings, PpoSettings, SftSettings
from .sources import MINI, MINILM, encoder_at_hand
from .tables import print_table
from .tasks import find_all

SFT_STEPS, PPO_STEPS, HEAD_STEPS, SHOTS = 25, 25, 50, 4
PPO_RATE = 3e-4
"""Few steps want large ones; a state that is worse on held-out rows is not kept."""


def demo(settings: DemoSettings) -> None:
    """Run zero-shot, few-shot, SFT and PPO on every mini task, and an encoder where the extra `minilm` is installed;
    print the table and write report.html."""
    start = time.perf_counter()
    out = claim(settings.out, "demo")
    common = {"model": MINI, "seed": settings.seed}
    say.line(f"A 7M-parameter Llama on four small tasks, four ways. Everything goes to {out}.")
    say.line("all tasks: zero-shot and few-shot")
    evaluate(validate(EvaluateSettings, {**common, "task": "mini", "out": out / "zero-shot"}))
    evaluate(validate(EvaluateSettings, {**common, "task": "mini", "shots": SHOTS, "out": out / "few-shot"}))
    first, *_ = tasks = find_all("mini")
    for task in tasks:
        name = task.name.split("/")[1]
        say.line(f"{task.name}: supervised fine-tuning, then PPO")
        trained, _ = sft(
            validate(SftSettings, {**common, "task": task.name, "max_steps": SFT_STEPS, "out": out / f"sft-{name}"})
        )
        values = {
            **common,
            "task": task.name,
            "max_steps": PPO_STEPS,
            "learning_rate": PPO_RATE,
            "init": trained.path,
            "out": out / f"ppo-{name}",
        }
        ppo(validate(PpoSettings, values))
        if task is first:  # drawing it takes seconds, so that it is not done after every task
            page = write_page(out)
            say.line(f"the page so far, after {time.perf_counter() - start:.0f} s: {page}")
    if encoder_at_hand():
        say.line("all tasks: a classification head on MiniLM, an encoder")
        for task in find_all("mini"):
            values = {"model": MINILM, "task": task.name, "max_steps": HEAD_STEPS, "seed": settings.seed}
            classify(validate(ClassifySettings, {**values, "out": out / f"encoder-{task.name.split('/')[1]}"}))
    page, then = write_page(out), "rl4nlu sft --task glue/sst2 --model mini --data DIR"
    print_table([result for run in collect([out]) for result in run.results])
    say.end(
        {"run": out, "page": page, "next": then},
        f"{time.perf_counter() - start:.0f} s in all. The page with curves and examples: {page}",
        f"next, your own data: {then}   (or any model of the hub)",
    )


def write_page(out: Path) -> Path:
    """The report on all runs of the demo so far. Returns where it is."""
    runs = collect([out])
    write(runs, out / "report.html", differences(runs))
    return out / "report.html"
