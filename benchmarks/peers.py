"""The peers' side of the benchmarks; prints one line of JSON:  python benchmarks/peers.py WORK --model DIR --data DIR

ppo and ppo-short: PPOTrainer of TRL 0.11.4, with the settings of the paper; rloo and sft: RLOOTrainer and SFTTrainer of
TRL 1.16; zero-shot, five-shot and multirc: lm-evaluation-harness 0.4.13. Each runs in the environment that
`benchmarks/environments.sh` makes for it; rows and prompts are those of ours.py.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import work

os.environ["HF_HUB_OFFLINE"] = "1"


def ppo(model: str, data: Path, steps: int, device: str) -> dict[str, Any]:
    """Sample, reward, four inner epochs. A folder without weights stands for random ones."""
    import torch
    from peft import LoraConfig
    from transformers import Adafactor, AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.eos_token
    lora = LoraConfig(r=work.LORA_R, lora_alpha=work.LORA_ALPHA, use_rslora=True, task_type="CAUSAL_LM")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    if any(Path(model).glob("*.safetensors")):
        base = AutoModelForCausalLM.from_pretrained(model, torch_dtype=dtype)
    else:
        with torch.device(device):
            base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), torch_dtype=dtype)
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(base, peft_config=lora).to(device)
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = Adafactor(weights, lr=9e-6, scale_parameter=False, relative_step=False, warmup_init=False)
    config = PPOConfig(
        batch_size=work.BATCH,
        mini_batch_size=work.BATCH // 2,
        gradient_accumulation_steps=2,
        ppo_epochs=work.INNER_EPOCHS,
        learning_rate=9e-6,
        init_kl_coef=0.2,
        adap_kl_ctrl=True,
    )
    trainer = PPOTrainer(config, policy, None, tokenizer, optimizer=optimizer)
    sampling = {"do_sample": True, "top_k": 0.0, "top_p": 1.0, "pad_token_id": tokenizer.eos_token_id}
    sampling["max_new_tokens"] = work.ANSWER_TOKENS  # of ppo-short too: it cannot stop at a tag
    rows, spans = work.rte(data, "train"), []
    for step in range(steps):
        chosen = rows[step * work.BATCH : (step + 1) * work.BATCH]
        queries = [torch.tensor(tokenizer(work.prompt(row)).input_ids, device=device) for row in chosen]
        start = time.perf_counter()
        answers = trainer.generate(queries, return_prompt=False, batch_size=work.BATCH, **sampling)
        rewards = [torch.tensor(1.0 if i % 2 else -1.0) for i in range(work.BATCH)]
        trainer.step(queries, answers, rewards)
        if device == "cuda":
            torch.cuda.synchronize()
        spans.append(time.perf_counter() - start)
    if device == "cuda":
        print(f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", file=sys.stderr)
    return {"examples_per_s": work.BATCH / statistics.median(spans[1:])}


def with_trainer(name: str, model: str, data: Path, steps: int, device: str) -> dict[str, Any]:
    """A trainer of TRL 1.16, timed by a callback."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_args: Any, **_more: Any) -> None:
            ends.append(time.perf_counter())

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.eos_token
    rows = work.rte(data, "train")[: work.BATCH * (steps + 2)]
    folder = tempfile.mkdtemp()
    common: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": work.BATCH,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1000,
        "disable_tqdm": True,
        "bf16": device == "cuda",
        "use_cpu": device == "cpu",
        "model_init_kwargs": {"dtype": "bfloat16" if device == "cuda" else "float32"},
        "gradient_checkpointing": False,
    }
    lora = LoraConfig(r=work.LORA_R, lora_alpha=work.LORA_ALPHA, use_rslora=True, task_type="CAUSAL_LM")
    shared: dict[str, Any] = {
        "model": model,
        "processing_class": tokenizer,
        "callbacks": [Clock()],
        "peft_config": lora,
    }
    every = 1
    if name == "sft":
        pairs = [{"prompt": work.prompt(row), "completion": work.gold(row)} for row in rows]
        config = SFTConfig(max_steps=steps, learning_rate=1e-4, completion_only_loss=True, **common)
        trainer: Any = SFTTrainer(args=config, train_dataset=Dataset.from_list(pairs), **shared)
    else:
        every = work.INNER_EPOCHS
        config = RLOOConfig(
            num_generations=2,
            num_iterations=every,
            steps_per_generation=1,
            max_completion_length=work.ANSWER_TOKENS,
            max_steps=every * steps,
            learning_rate=9e-6,
            beta=0.2,
            **common,
        )
        trainer = RLOOTrainer(
            args=config,
            train_dataset=Dataset.from_list([{"prompt": work.prompt(row)} for row in rows]),
            reward_funcs=lambda completions, **_: [1.0 if i % 2 else -1.0 for i in range(len(completions))],
            **shared,
        )
    trainer.train()
    marks = ends[every - 1 :: every]
    return {"examples_per_s": work.BATCH / statistics.median(b - a for a, b in pairwise(marks))}


def harness(name: str, model: str, data: Path, limit: int, device: str) -> dict[str, Any]:
    """Log-likelihoods of the label words, one request a row and word."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder = Path(tempfile.mkdtemp())
    texts, endings = work.scoring(name, data, limit)
    rows = [{"text": text, "choices": list(endings), "label": label} for text, label in texts]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    spec = {
        "task": "rows",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(folder / "rows.jsonl")}, "cache_dir": str(folder)},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "doc_to_text": "text",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "rows.yaml").write_text(json.dumps(spec), encoding="utf-8")
    tasks = TaskManager(include_path=str(folder))
    dtype = "bfloat16" if device == "cuda" else "float32"
    peer = HFLM(pretrained=model, batch_size=16, dtype=dtype, device=device)
    start = time.perf_counter()
    lm_eval.simple_evaluate(peer, tasks=["rows"], num_fewshot=0, task_manager=tasks, bootstrap_iters=0)
    return {"seconds": time.perf_counter() - start, "rows": len(rows)}


def main() -> None:
    """One measurement."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("work", choices=work.NAMES)
    words.add_argument("--model", required=True)
    words.add_argument("--data", type=Path, required=True)
    words.add_argument("--device", default="cpu")
    words.add_argument("--steps", type=int, default=3)
    words.add_argument("--limit", type=int, default=400)
    given = words.parse_args()
    with contextlib.redirect_stdout(io.StringIO()):
        if given.work in work.SCORING:
            found = harness(given.work, given.model, given.data, given.limit, given.device)
        else:
            if given.work.startswith("ppo"):
                found = ppo(given.model, given.data, given.steps, given.device)
            else:
                found = with_trainer(given.work, given.model, given.data, given.steps, given.device)
    print(json.dumps({"side": "peer", "work": given.work, **found}), file=sys.__stdout__)


if __name__ == "__main__":
    main()
