"""The paper's whole plan, foreseen: hours and memory of GPUs -> blocks of docs/scale.md.

    python scripts/paper_plan.py [--write docs/scale.md]
    python scripts/paper_plan.py --tokens TOKENIZER --data DIR      # prints TOKENS anew

18 tasks x 3 models x 4 methods x 5 seeds of arXiv 2410.11020, with the settings of `--preset paper`. The work is
counted by rl4nlu.timing as for any run, from rows of made-up tokens that are as long as the tasks' own; the machines
are those of rl4nlu.timing.GPUS, whose utilisation is assumed, not measured. Two minutes on a quiet processor.
"""

from __future__ import annotations

import argparse
import heapq
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blocks import replace_block
from paper import PUBLISHED
from transformers import AutoTokenizer, LlamaConfig, PretrainedConfig

from rl4nlu import data, optim
from rl4nlu.config import validate, with_preset
from rl4nlu.cost import copies, work_bytes
from rl4nlu.prompts import Prompter
from rl4nlu.settings import EvaluateSettings, LoraSettings, PpoSettings, SftSettings, TrainSettings
from rl4nlu.tasks import find
from rl4nlu.timing import GPUS, Machine, Plan, Sizes, Work, of_gpu
from rl4nlu.timing.methods import Counter, Row
from rl4nlu.timing.sizes import of_config
from rl4nlu.tokens import Encoder

COMMAND = "python scripts/paper_plan.py --write docs/scale.md"
SEEDS, SHOTS, LOOKED = 5, 5, 4
METHODS = ("zero-shot", "few-shot", "SFT", "PPO")
FARMS = (1, 8, 64)
CARDS = ("H100", "A100-80")


@dataclass(frozen=True)
class Asked:
    """A task as a model reads it with the template `verdict`."""

    train: int
    dev: int
    shared: int
    """Tokens that all prompts begin with."""
    own: tuple[int, ...]
    """Deciles of the tokens of a prompt's own: the 5th, 15th, ... 95th of a hundred."""
    answer: int
    """Tokens of the longest answer."""
    together: int = 1
    """Rows of the dev split that are about one passage."""


ROWS = {
    "glue/cola": (8551, 1043), "glue/sst2": (67349, 872), "glue/mrpc": (3668, 408), "glue/stsb": (5749, 1500),
    "glue/qqp": (363846, 40430), "glue/mnli": (392702, 9815), "glue/mnli-mm": (392702, 9832),
    "glue/qnli": (104743, 5463), "glue/rte": (2490, 277), "glue/wnli": (635, 71), "superglue/boolq": (9427, 3270),
    "superglue/cb": (250, 56), "superglue/copa": (400, 100), "superglue/multirc": (27243, 4848),
    "superglue/record": (201460, 115312), "superglue/rte": (2490, 277), "superglue/wic": (5428, 638),
    "superglue/wsc": (554, 104),
}  # fmt: skip
"""Training and dev rows of the official files. glue/mnli-mm is trained as glue/mnli, and its dev split is another. Of
ReCoRD's 100,730 training queries each gives a right and a wrong name, as in the paper's code; of its 10,000 dev queries
every name is asked, 11.5 a query in the rows at hand."""
TOKENS: dict[str, tuple[int, tuple[int, ...], int, int]] = {
    "glue/cola": (55, (10, 11, 12, 13, 14, 15, 16, 18, 20, 24), 5, 1),
    "glue/sst2": (52, (7, 9, 10, 11, 13, 15, 19, 24, 29, 41), 5, 1),
    "glue/mrpc": (49, (41, 49, 56, 60, 65, 70, 74, 79, 85, 95), 5, 1),
    "glue/stsb": (71, (22, 25, 27, 29, 31, 33, 36, 42, 55, 77), 8, 1),
    "glue/qqp": (52, (24, 27, 29, 31, 33, 36, 39, 44, 52, 69), 5, 1),
    "glue/mnli": (61, (23, 30, 34, 40, 44, 49, 54, 60, 68, 86), 5, 1),
    "glue/mnli-mm": (61, (23, 30, 34, 40, 44, 49, 54, 60, 68, 86), 5, 1),
    "glue/qnli": (45, (38, 47, 51, 56, 60, 65, 69, 75, 84, 105), 5, 1),
    "glue/rte": (50, (40, 49, 57, 63, 68, 74, 84, 103, 144, 189), 5, 1),
    "glue/wnli": (54, (29, 33, 35, 37, 41, 43, 46, 51, 66, 84), 5, 1),
    "superglue/boolq": (44, (78, 95, 111, 128, 142, 158, 178, 197, 235, 317), 5, 1),
    "superglue/cb": (57, (46, 58, 66, 75, 81, 89, 99, 114, 136, 197), 5, 1),
    "superglue/copa": (58, (36, 38, 39, 41, 42, 43, 44, 45, 47, 51), 6, 1),
    "superglue/multirc": (49, (195, 228, 271, 340, 398, 434, 490, 550, 594, 658), 5, 58),
    "superglue/record": (56, (233, 248, 262, 271, 288, 304, 314, 322, 350, 404), 5, 12),
    "superglue/rte": (50, (40, 49, 57, 63, 68, 74, 84, 102, 144, 189), 5, 1),
    "superglue/wic": (47, (23, 25, 27, 28, 29, 31, 32, 35, 38, 43), 5, 1),
    "superglue/wsc": (58, (34, 37, 39, 41, 44, 47, 51, 57, 71, 93), 5, 1),
}
"""`shared`, `own`, `answer` and `together` of Asked, with Llama-2's tokenizer, made by --tokens."""
TASKS = {
    task: Asked(train, dev, shared, own, answer, together)
    for (task, (train, dev)), (shared, own, answer, together) in zip(ROWS.items(), TOKENS.values(), strict=True)
}

CONFIGS: dict[str, PretrainedConfig] = {
    "LLAMA2-7B": PUBLISHED["meta-llama/Llama-2-7b"](),
    "Qwen2.5-7B": PUBLISHED["Qwen/Qwen2.5-7B"](),
    "MPT-7B": PUBLISHED["mosaicml/mpt-7b"](),
}
LARGE = LlamaConfig(
    vocab_size=32_000,
    hidden_size=8192,
    intermediate_size=28_672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    max_position_embeddings=4096,
)
"""Llama-2-70B."""


@cache
def settings_of(method: str) -> Any:
    """The settings of a method, as docs/howto/reproduce-the-paper.md gives them."""
    kind: Any = {"SFT": SftSettings, "PPO": PpoSettings}.get(method, EvaluateSettings)
    values: dict[str, Any] = {"task": "glue/rte", "model": "mini", "preset": "paper"}
    return validate(kind, with_preset(kind, {**values, **({"shots": SHOTS} if method == "few-shot" else {})}))


@cache
def sizes_of(model: str, trained: bool) -> Sizes:
    """Of a model in bfloat16, with LoRA where it is trained."""
    config = LARGE if model == "70B" else CONFIGS[model]
    return of_config(config, LoraSettings() if trained else None, torch.bfloat16)


def rows_of(asked: Asked, count: int, seed: int, shots: int = 0, together: int = 1) -> list[Row]:
    """Made-up rows as long as a task's."""
    drawn = np.random.default_rng(seed)
    mean = int(np.mean(asked.own))
    head = tuple(np.random.default_rng(0).integers(3, 30_000, asked.shared + shots * (mean + asked.answer)).tolist())
    answers = tuple((word, *range(1, asked.answer)) for word in (5, 6))
    found: list[Row] = []
    while len(found) < count:
        own = int(drawn.choice(asked.own))
        passage = tuple(drawn.integers(3, 30_000, own * 9 // 10 if together > 1 else 0).tolist())
        for _ in range(min(together, count - len(found))):
            rest = tuple(drawn.integers(3, 30_000, max(1, own - len(passage))).tolist())
            found.append(Row(head + passage + rest, answers))
    return found


def plan_of(model: str, task: str, method: str) -> Plan:
    """The work of one run; of glue/mnli-mm that of asking its dev rows, since it is trained with glue/mnli."""
    asked, settings = TASKS[task], settings_of(method)
    trained = method in ("SFT", "PPO")
    sizes = sizes_of(model, trained)
    counter = Counter(sizes, settings.max_tokens, taught=trained)
    some = min(asked.dev, 512)
    dev = rows_of(asked, some, 1, settings.shots, asked.together)
    decode = "score" if trained else settings.decode
    evaluation = counter.ask(dev, decode) * (asked.dev / some)
    if not trained or task == "glue/mnli-mm":
        return Plan(sizes, 0, Work(), Work(), evaluation, asked.dev)
    steps = optim.steps_of(settings, asked.train)
    training = Work()
    for step in range(LOOKED):
        training += counter.step(rows_of(asked, settings.batch_size, 2 + step), settings)
    return Plan(sizes, steps, training * (steps / LOOKED), Work(), evaluation, asked.train + asked.dev)


@dataclass(frozen=True)
class Job:
    """One run of the plan."""

    model: str
    task: str
    method: str
    seed: int


def jobs() -> list[Job]:
    """All runs of the paper, as its tables have them."""
    return [
        Job(model, task, method, seed)
        for model in CONFIGS
        for task in TASKS
        for method in METHODS
        for seed in range(SEEDS)
    ]


def before(job: Job) -> Job | None:
    """The run that must be done first: PPO starts from SFT; what asks MNLI's second dev split, from its training."""
    if job.task == "glue/mnli-mm" and job.method in ("SFT", "PPO"):
        return replace(job, task="glue/mnli")
    return replace(job, method="SFT") if job.method == "PPO" else None


def wall_clock(hours: dict[Any, float], after: dict[Any, Any], machines: int) -> float:
    """How long runs take on several machines, one at a time on each: whenever one is free it takes, of the runs whose
    predecessor is done, the one with the most work still hanging on it.

    Args:
        hours: of each run.
        after: run -> the one before it, or None.
        machines: how many.
    """
    chain = dict(hours)
    for run in sorted(hours, key=lambda run: -_depth(run, after)):
        if after[run] is not None:
            chain[after[run]] = max(chain[after[run]], hours[after[run]] + chain[run])
    followers: dict[Any, list[Any]] = {}
    for run, one in after.items():
        followers.setdefault(one, []).append(run)
    order = {run: place for place, run in enumerate(hours)}
    ready = [(-chain[run], order[run], run) for run in followers.get(None, [])]
    heapq.heapify(ready)
    working: list[tuple[float, int, Any]] = []
    now = 0.0
    while ready or working:
        while ready and len(working) < machines:
            _, place, run = heapq.heappop(ready)
            heapq.heappush(working, (now + hours[run], place, run))
        now, _, done = heapq.heappop(working)
        for run in followers.get(done, []):
            heapq.heappush(ready, (-chain[run], order[run], run))
    return now


def _depth(run: Any, after: dict[Any, Any]) -> int:
    return 0 if after[run] is None else 1 + _depth(after[run], after)


def hours_of(machine: Machine, plans: dict[tuple[str, str, str], Plan]) -> dict[Job, float]:
    """Hours of every run on one GPU."""
    each = {key: plan.on(machine).total / 3600 for key, plan in plans.items()}
    return {job: each[job.model, job.task, job.method] for job in jobs()}


def row(*cells: object) -> str:
    """A line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def head(*cells: str) -> list[str]:
    """The first two lines of a table."""
    return [row(*cells), "|" + "---|" * len(cells)]


def whole_plan(plans: dict[tuple[str, str, str], Plan]) -> list[str]:
    """GPU hours, and days on several GPUs."""
    farms = [f"{n} GPU{'s' * (n > 1)}" for n in FARMS]
    lines = head(
        "GPU", "model", "runs", *(f"{m}, GPU hours" for m in METHODS), "all, GPU hours", *farms, "longest chain"
    )
    for card in CARDS:
        hours = hours_of(of_gpu(card), plans)
        for model in (*CONFIGS, "all three"):
            mine = {job: h for job, h in hours.items() if model in (job.model, "all three")}
            after = {job: before(job) for job in mine}
            by_method = [sum(h for job, h in mine.items() if job.method == m) for m in METHODS]
            walls = [wall_clock(mine, after, n) for n in FARMS]
            chain = wall_clock(mine, after, len(mine))
            lines.append(
                row(
                    card,
                    model,
                    len(mine),
                    *(f"{h:,.0f}" for h in (*by_method, sum(by_method))),
                    *map(days, [*walls, chain]),
                )
            )
    return lines


def days(hours: float) -> str:
    """As one says it."""
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h"


def each_task(plans: dict[tuple[str, str, str], Plan]) -> list[str]:
    """Hours of one run on each task."""
    machine = of_gpu("H100")
    lines = head("task", "training rows", "dev rows", "tokens a prompt", *(f"{m}, h" for m in METHODS))
    for task, asked in TASKS.items():
        hours = [plans["LLAMA2-7B", task, method].on(machine).total / 3600 for method in METHODS]
        tokens = asked.shared + round(float(np.mean(asked.own)))
        lines.append(row(task, f"{asked.train:,}", f"{asked.dev:,}", tokens, *(f"{h:.2f}" for h in hours)))
    return lines


def memory() -> list[str]:
    """The peak of a GPU in training."""
    lines = head("model", "method", "max_tokens", "weights, GB", "adapter and optimizer, GB", "work, GB", "peak, GB")
    for model, config in CONFIGS.items():
        for method in ("SFT", "PPO"):
            for tokens in (4096, 1024):
                settings = settings_of(method).model_copy(update={"max_tokens": tokens})
                parts = peak(config, sizes_of(model, True), settings)
                lines.append(row(model, method, f"{tokens:,}", *(f"{x / 1e9:.1f}" for x in (*parts, sum(parts)))))
    return lines


def peak(
    config: PretrainedConfig, sizes: Sizes, settings: TrainSettings, processes: int = 1
) -> tuple[float, float, float]:
    """Bytes of weights, of adapter and optimizer, and of work on one process's rows of a step, as long as BoolQ's."""
    asked = TASKS["superglue/boolq"]
    answers = [tuple(range(asked.answer))]
    rows: list[Any] = [(one.ids, answers) for one in rows_of(asked, settings.batch_size, 2)[::processes]]
    from_sft = settings.model_copy(update={"init": Path("sft")}) if isinstance(settings, PpoSettings) else settings
    work = work_bytes(config, torch.bfloat16, from_sft, rows)
    return float(sizes.weights * sizes.bytes), 4.0 * sizes.adapter * copies(from_sft), float(work)


def at_70b() -> list[str]:
    """What a model ten times as large needs."""
    sizes = sizes_of("70B", True)
    weights, fitted = float(sizes.weights * sizes.bytes), sizes.layer * sizes.bytes
    lines = head(
        "GPUs of 80 GB",
        "max_tokens",
        "weights, GB",
        "two layers fetched, GB",
        "adapter, GB",
        "work, GB",
        "peak, GB",
        "fits",
    )
    for tokens in (4096, 512):
        settings = settings_of("PPO").model_copy(update={"max_tokens": tokens})
        for n in (1, 2, 4, 8, 16):
            _, adapter, work = peak(LARGE, sizes, settings, n)
            parts = (weights / n, 2.0 * fitted if n > 1 else 0.0, adapter, work)
            fits = "yes" if sum(parts) < 0.95 * GPUS["H100"].capacity else "no"
            lines.append(row(n, f"{tokens:,}", *(f"{x / 1e9:.1f}" for x in (*parts, sum(parts))), fits))
    kept = sizes.layers * sizes.kept * sizes.bytes
    lines += [
        "",
        *head("what", "size"),
        row("weights in bfloat16", f"{weights / 1e9:.0f} GB"),
        row("weights in 4 bits (0.56 bytes a number, with the blocks' scales)", f"{0.56 * sizes.weights / 1e9:.0f} GB"),
        row("adapter (LoRA r 16 on all linear layers), float32", f"{4 * sizes.adapter / 1e9:.2f} GB"),
        row("a checkpoint of SFT: adapter and two moments", f"{12 * sizes.adapter / 1e9:.2f} GB"),
        row("a checkpoint of PPO by Adafactor: adapter (its moments are vectors)", f"{4 * sizes.adapter / 1e9:.2f} GB"),
        row("keys and values of a token", f"{kept / 1e3:.0f} kB"),
        row(
            "keys and values of 16 prompts of 300 tokens with one answer of 32 each", f"{kept * 16 * 332 / 1e9:.2f} GB"
        ),
    ]
    return lines


def at_70b_speed() -> list[str]:
    """Seconds of a step and hours of a run on RTE at 70B, by GPUs."""
    machine, asked, settings = of_gpu("H100"), TASKS["glue/rte"], settings_of("PPO")
    lines = head("H100s", "SFT step, s", "PPO step, s", "of it decoding, s", "PPO on RTE, h")
    for n in (2, 4, 8, 16):
        spans = []
        for method in ("SFT", "PPO"):
            settings = settings_of(method)
            counter = Counter(sizes_of("70B", True), settings.max_tokens, processes=n, sharded=True)
            work = counter.step(rows_of(asked, settings.batch_size, 2), settings)
            spans.append(machine.seconds(work, n))
        share = counter.sizes.layer * counter.sizes.bytes * (n - 1) / n
        decoding = max(work.decode_calls * share / machine.link, work.decode_calls * machine.decode_call)
        steps = optim.steps_of(settings, asked.train)
        lines.append(row(n, f"{spans[0]:.1f}", f"{spans[1]:.1f}", f"{decoding:.1f}", f"{spans[1] * steps / 3600:.1f}"))
    return lines


def machines() -> list[str]:
    """The GPUs that are known."""
    lines = head("GPU", "bfloat16, TFLOP/s", "memory, TB/s", "memory, GB", "link, GB/s")
    for name, gpu in GPUS.items():
        cells = (
            f"{gpu.flops / 1e12:.0f}",
            f"{gpu.memory / 1e12:.2f}",
            f"{gpu.capacity / 1e9:.0f}",
            f"{gpu.link / 1e9:.0f}",
        )
        lines.append(row(name, *cells))
    return lines


# -- the tasks' tokens -------------------------------------------------------------------------------------------------


def measure(tokenizer: Any, folder: Path, task: str) -> tuple[int, tuple[int, ...], int, int]:
    """An entry of TOKENS, from the task's rows in a folder."""
    declared = find("glue/mnli" if task == "glue/mnli-mm" else task)
    encoder = Encoder(tokenizer, Prompter(declared, "verdict"), 4096)
    rows = data.load(declared, "train", folder)
    dev = data.load(declared, "dev", folder)
    if len(rows) < 500:
        rows = [*rows, *dev]
    some = encoder.encode_all([rows[i * len(rows) // 500] for i in range(500)] if len(rows) > 500 else rows)
    ids = [one.ids for one in some]
    shared = next((k for k in range(min(map(len, ids))) if len({one[k] for one in ids}) > 1), 0)
    own = np.quantile([len(one) - shared for one in ids], np.arange(0.05, 1, 0.1)).round().astype(int)
    groups = {one.document for one in dev if one.document}
    together = round(len(dev) / len(groups)) if groups else 1
    longest = max(len(answer) for one in some for answer in one.answers)
    return shared, tuple(own.tolist()), longest, together


def main() -> None:
    """Foresee and write, or measure the tasks' tokens."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--write", type=Path, help="page into which the blocks go")
    words.add_argument("--tokens", help="a tokenizer: print TOKENS anew")
    words.add_argument("--data", type=Path, help="folder with the official files, for --tokens")
    given = words.parse_args()
    if given.tokens:
        tokenizer = AutoTokenizer.from_pretrained(given.tokens, trust_remote_code=False)
        for task in ROWS:
            print(f'    "{task}": {measure(tokenizer, given.data, task)},')
        return
    plans = {(m, t, how): plan_of(m, t, how) for m in CONFIGS for t in TASKS for how in METHODS}
    blocks = {
        "GPUs": machines(),
        "the whole plan": whole_plan(plans),
        "one run": each_task(plans),
        "memory of the paper's runs": memory(),
        "70B, memory": at_70b(),
        "70B, time": at_70b_speed(),
    }
    for name, lines in blocks.items():
        if given.write:
            replace_block(given.write, name, COMMAND, lines)
        else:
            print(f"\n{name}\n", *lines, sep="\n")


if __name__ == "__main__":
    main()
