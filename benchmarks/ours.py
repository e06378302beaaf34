"""rl4nlu's side of the benchmarks; prints one line of JSON:  python benchmarks/ours.py WORK --model DIR --data DIR

WORK is one of ppo, ppo-short, rloo, sft (examples a second: the median over steps, the first left out) or zero-shot,
five-shot, multirc (seconds for all rows, tokenisation included).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import limit
import work
from torch.profiler import ProfilerActivity, profile

from rl4nlu.ask import Question, ask
from rl4nlu.config import validate
from rl4nlu.methods import ppo, sft
from rl4nlu.mixture import Mixture
from rl4nlu.models import Policy, load_policy
from rl4nlu.prompts import Prompt, Prompter
from rl4nlu.run import Run
from rl4nlu.settings import EvaluateSettings, PpoSettings, SftSettings
from rl4nlu.tasks import Example, find
from rl4nlu.tokens import EncodedRows, Encoder


@dataclass(frozen=True)
class Given(Prompter):
    """A prompter whose prompts are texts that are given."""

    endings: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        return self.endings

    def prompt(self, example: Example, fields: Any = None) -> Prompt:
        return Prompt(example, example.fields["text"], int(example.label or 0))

    def finished(self, text: str) -> bool:
        return work.CLOSE in text


def asked(policy: Any, texts: Sequence[tuple[str, int]], endings: Sequence[str]) -> Question:
    """Prompts and the numbers of their right answers, as a question to the policy."""
    prompter = Given(find("glue/rte"), endings=tuple(endings))
    examples = [Example(str(i), {"text": text}, str(label)) for i, (text, label) in enumerate(texts)]
    encoder = Encoder(policy.tokenizer, prompter, policy.context_length)
    return Question(prompter.task, prompter, EncodedRows(encoder, examples))


def settings_of(name: str, steps: int, target: str = "q_proj,v_proj") -> Any:
    """The settings of a training command."""
    given: dict[str, Any] = {
        "task": "glue/rte",
        "batch_size": work.BATCH,
        "max_steps": steps,
        "select_rows": 0,
        "lora": {"r": work.LORA_R, "alpha": work.LORA_ALPHA, "dropout": 0.0, "target": target},
    }
    if name == "sft":
        return validate(SftSettings, given)
    tokens = work.SHORT_TOKENS if name == "ppo-short" else work.ANSWER_TOKENS
    given |= {"answers": 1, "answer_tokens": tokens, "inner_epochs": work.INNER_EPOCHS, "optimizer": "adafactor"}
    given |= {"kl_coef": 0.2}
    if name == "rloo":  # the peer's batch is of answers, two a prompt
        given |= {
            "estimator": "rloo",
            "answers": 2,
            "batch_size": work.BATCH // 2,
            "skip_flat": False,
            "optimizer": "adamw",
        }
    return validate(PpoSettings, given)


def mixture_of(policy: Policy, rows: Sequence[tuple[str, str]], settings: Any) -> Mixture:
    """Prompts and right answers as the rows of a training."""
    answers = [f" {word}{work.CLOSE}" for word in ("Yes", "No")]
    texts = [(prompt, answers.index(gold)) for prompt, gold in rows]
    return Mixture([asked(policy, texts, answers)], settings, "benchmark")


def steps_of(policy: Policy, rows: Sequence[tuple[str, str]], settings: Any) -> list[dict[str, Any]]:
    """Train; what each step reported.

    Args:
        policy: with adapter, and for PPO a value head.
        rows: prompts and right answers, as many as are trained on.
        settings: from `settings_of`.
    """
    module: Any = ppo if isinstance(settings, PpoSettings) else sft
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        module.train(policy, mixture_of(policy, rows, settings), [], settings, Run(Path(folder)))
        lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def train(policy: Policy, rows: Sequence[tuple[str, str]], settings: Any) -> dict[str, Any]:
    """Examples a second of a training command, of at least two steps; arguments as of `steps_of`."""
    times = [settings.batch_size / one["examples_per_second"] for one in steps_of(policy, rows, settings)][1:]
    mixture = mixture_of(policy, rows, settings)
    trained_on = [row for step in range(1, settings.max_steps) for row in mixture.batch(step)]
    # of rloo an example is an answer, as it is for the peer
    return {
        "examples_per_s": work.BATCH / statistics.median(times),
        "gflop": limit.training(policy, trained_on, settings) / len(times),
        "seconds": statistics.median(times),
    }


def score(name: str, model: str, data: Path, device: str, dtype: str, most: int) -> dict[str, Any]:
    """Seconds for scoring all rows."""
    policy = load_policy(model, device, dtype)
    texts, endings = work.scoring(name, data, most)
    settings = validate(EvaluateSettings, {"task": "glue/rte", "model": model})
    list(ask(policy, asked(policy, texts[:8], endings), "score", settings))  # the first time is not counted
    start = time.perf_counter()
    found = list(ask(policy, asked(policy, texts, endings), "score", settings))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "rows": len(found),
        "gflop": limit.scoring(policy, list(asked(policy, texts, endings).rows)),
    }


def main() -> None:
    """One measurement."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("work", choices=work.NAMES)
    words.add_argument("--model", required=True)
    words.add_argument("--data", type=Path, required=True)
    words.add_argument("--device", default="cpu")
    words.add_argument("--dtype", default="float32")
    words.add_argument("--steps", type=int, default=6)
    words.add_argument("--limit", type=int, default=400)
    words.add_argument("--profile", action="store_true", help="of a training: also where the time goes")
    given = words.parse_args()
    with contextlib.redirect_stdout(io.StringIO()):
        if given.work in work.SCORING:
            found = score(given.work, given.model, given.data, given.device, given.dtype, given.limit)
        else:
            settings = settings_of(given.work, given.steps)
            policy = load_policy(given.model, given.device, given.dtype, settings.lora)
            if given.work.startswith("ppo"):
                policy.add_value_head()
            rows = [(work.prompt(row), work.gold(row)) for row in work.rte(given.data, "train")]
            with profile(activities=[ProfilerActivity.CPU]) if given.profile else contextlib.nullcontext() as seen:
                found = train(policy, rows[: work.BATCH * given.steps], settings)
            if seen is not None:
                sys.stderr.write(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=30) + "\n")
    print(json.dumps({"side": "rl4nlu", "work": given.work, **found}))


if __name__ == "__main__":
    main()
