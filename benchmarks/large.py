"""Models of 7 billion parameters on a GPU, in under ten minutes:

    python benchmarks/large.py --tokenizer DIR --data DIR [--models llama2,qwen2.5,mpt] [--peer PYTHON] [--out FILE]

The weights are random, from the published configurations: neither speed nor memory depends on their values. First the
first step's loss on the GPU is held against the CPU's, with two layers of each model, in float32 and in bfloat16. Then
SFT and PPO run for a few steps on rows as long as RTE's and BoolQ's, with a bfloat16 base, and the examples a second,
the peak memory and the share of the card's measured bfloat16 rate are told; `--peer` is the Python of an environment
from environments.sh, in which PPO of TRL 0.11.4 runs on the same RTE rows. DIR of --tokenizer is a model that models.py
has made. Every line of the table is a line of JSON in FILE as soon as it is known.

`--device cpu --scale 64` goes through all of it on a small machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import limit
import ours
import torch
import work
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MptConfig, PretrainedConfig, Qwen2Config

from rl4nlu.models import DTYPES, Policy, around
from rl4nlu.settings import PpoSettings

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""How far the first loss may be from the CPU's in float32."""
STEPS = 4
CONSOLE = Console()


def configuration(name: str, scale: int, layers: int | None = None) -> PretrainedConfig:
    """The published one; with a `scale` of its width, and of four layers."""
    layers = layers or (4 if scale > 1 else None)
    if name == "llama2":
        return LlamaConfig(
            vocab_size=32_000,
            hidden_size=4096 // scale,
            intermediate_size=11008 // scale,
            num_hidden_layers=layers or 32,
            num_attention_heads=32,
            max_position_embeddings=4096,
        )
    if name == "qwen2.5":
        return Qwen2Config(
            vocab_size=152_064,
            hidden_size=3584 // scale,
            intermediate_size=18944 // scale,
            num_hidden_layers=layers or 28,
            num_attention_heads=28,
            num_key_value_heads=4,
            max_position_embeddings=32_768,
            tie_word_embeddings=False,
        )
    if name == "mpt":
        return MptConfig(d_model=4096 // scale, n_heads=32, n_layers=layers or 32, max_seq_len=2048, vocab_size=50_432)
    raise SystemExit(f"--models: there is no {name}; give some of llama2,qwen2.5,mpt")


def with_adapter(model: Any, tokenizer: Any, settings: Any) -> Policy:
    """The policy of a model in memory."""
    policy = around("random", model, tokenizer, settings.lora)
    if isinstance(settings, PpoSettings):
        policy.add_value_head()
    return policy


def target(name: str) -> str:
    """Where LoRA goes: queries and values, or what is as near."""
    return "Wqkv" if name == "mpt" else "q_proj,v_proj"


def rows_of(length: str, data: Path, count: int) -> list[tuple[str, str]]:
    """Prompts and right answers as long as the rows of a task."""
    if length == "rte":
        return [(work.prompt(row), work.gold(row)) for row in work.rte(data, "train")[:count]]
    with open(data / "superglue" / "BoolQ" / "train.jsonl", encoding="utf-8") as file:
        found = [json.loads(line) for line in islice(file, count)]
    as_rte = [
        {
            "sentence1": row["passage"],
            "sentence2": row["question"],
            "label": ("not_entailment", "entailment")[row["label"]],
        }
        for row in found
    ]
    return [(work.prompt(row), work.gold(row)) for row in as_rte]


def agreement(name: str, tokenizer: Any, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The first step's loss, against the CPU's in float32: the same weights and rows."""
    rows = rows_of("rte", given.data, work.BATCH)
    config = configuration(name, max(16, given.scale), layers=2)
    found = []
    for kind in ("sft", "ppo"):
        settings = ours.settings_of(kind, 1, target(name))

        def first_loss(device: str, dtype: str, settings: Any = settings) -> float:
            torch.manual_seed(0)
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # the same numbers everywhere
            policy = with_adapter(model.to(device=device, dtype=DTYPES[dtype]), tokenizer, settings)
            loss: float = ours.steps_of(policy, rows, settings)[0]["loss"]
            return loss

        reference = first_loss("cpu", "float32")
        for dtype, tolerance in TOLERANCE.items():
            loss = first_loss(given.device, dtype)
            off = abs(loss - reference)
            found.append({"model": name, "work": kind, "dtype": dtype, "loss": loss, "on_cpu": reference})
            verdict = f"equal within {tolerance}" if off <= tolerance else f"DIFFERS by {off:.2g}"
            CONSOLE.print(f"{name} {kind} {dtype}: first loss {loss:.6f}, on the CPU {reference:.6f}: {verdict}")
    return found


def speeds(name: str, tokenizer: Any, rate: float, given: argparse.Namespace) -> list[dict[str, Any]]:
    """SFT and PPO steps on one model in memory."""
    gpu = given.device != "cpu"
    dtype = "bfloat16" if gpu else "float32"
    found = []
    with torch.device(given.device):
        model: Any = AutoModelForCausalLM.from_config(configuration(name, given.scale), dtype=DTYPES[dtype])
    for kind in ("sft", "ppo"):
        settings = ours.settings_of(kind, STEPS, target(name))
        policy = with_adapter(model, tokenizer, settings)
        for length in ("rte", "boolq"):
            if gpu:
                torch.cuda.reset_peak_memory_stats()
            one = ours.train(policy, rows_of(length, given.data, work.BATCH * STEPS), settings)
            peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else None
            share = one["gflop"] / one["seconds"] / rate
            line = {"model": name, "work": kind, "rows": length, "peak_gib": peak, "share": share}
            found.append({**line, "examples_per_s": one["examples_per_s"]})
            CONSOLE.print(f"{name} {kind} {length}: {one['examples_per_s']:.2f} examples/s, {share:.0%} of the rate")
        model = policy.model.unload()
    return found


def peer(name: str, tokenizer: Any, given: argparse.Namespace) -> dict[str, Any]:
    """PPO of TRL 0.11.4 on the RTE rows, in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        configuration(name, given.scale).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        settings = Path(folder) / "tokenizer_config.json"
        text = settings.read_text(encoding="utf-8").replace("TokenizersBackend", "PreTrainedTokenizerFast")
        settings.write_text(text, encoding="utf-8")
        script = str(Path(__file__).with_name("peers.py"))
        command = [given.peer, script, "ppo", "--model", folder, "--data", str(given.data), "--device", given.device]
        done = subprocess.run([*command, "--steps", "3"], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        CONSOLE.print(f"{name}: the peer failed: {done.stderr[-500:]}")
        return {"model": name, "work": "ppo", "rows": "rte", "side": "peer", "failed": done.stderr[-500:]}
    one = json.loads(done.stdout.strip().splitlines()[-1])
    CONSOLE.print(f"{name} ppo rte, TRL 0.11.4: {one['examples_per_s']:.2f} examples/s")
    return {"model": name, "rows": "rte", **one}


def shown(lines: list[dict[str, Any]]) -> Table:
    """The speeds as a table."""
    table = Table("model", "work", "rows", "examples/s", "share of the rate", "peak, GiB", "TRL 0.11.4, examples/s")
    theirs = {(one["model"], one["work"], one["rows"]): one for one in lines if one.get("side") == "peer"}
    for one in lines:
        if "share" not in one:
            continue
        other = theirs.get((one["model"], one["work"], one["rows"]), {})
        peak = "" if one["peak_gib"] is None else f"{one['peak_gib']:.1f}"
        cells = [f"{one['examples_per_s']:.2f}", f"{one['share']:.0%}", peak]
        peers = f"{other['examples_per_s']:.2f}" if "examples_per_s" in other else ""
        table.add_row(one["model"], one["work"], one["rows"], *cells, peers)
    return table


def main() -> None:
    """All of it, model by model."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--tokenizer", required=True)
    words.add_argument("--data", type=Path, required=True)
    words.add_argument("--models", default="llama2,qwen2.5,mpt")
    words.add_argument("--peer")
    words.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    words.add_argument("--scale", type=int, default=1)
    words.add_argument("--out", type=Path, default=Path("build/large.jsonl"))
    given = words.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no usable GPU here; --device cpu --scale 64 tries the script out")
    tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
    rate = limit.matrix_rate(given.device)
    CONSOLE.print(f"matrix product: {rate:.0f} GFLOP/s")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    with open(given.out, "w", encoding="utf-8") as file:

        def note(more: list[dict[str, Any]]) -> None:
            lines.extend(more)
            for one in more:
                file.write(json.dumps(one) + "\n")
            file.flush()

        for name in given.models.split(","):
            note(agreement(name, tokenizer, given))
            note(speeds(name, tokenizer, rate, given))
            gc.collect()
            if given.device == "cuda":
                torch.cuda.empty_cache()
            if given.peer:
                note([peer(name, tokenizer, given)])
    CONSOLE.print(shown(lines))


if __name__ == "__main__":
    main()
