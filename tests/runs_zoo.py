"""Small finished runs, of the tiny models that stand in for what users bring."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as tf

from rl4nlu.config import validate
from rl4nlu.methods import sft
from rl4nlu.run import Run
from rl4nlu.settings import SftSettings
from rl4nlu.sources import mini_folder


def folder_of(config: tf.PretrainedConfig, folder: Path) -> Path:
    """A random model of a configuration, with the bundled model's tokenizer."""
    torch.manual_seed(0)
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tf.AutoTokenizer.from_pretrained(mini_folder()).save_pretrained(folder)
    return folder


def train(model: str | Path, out: Path, **values) -> Run:
    """Some steps of SFT, so large that the adapter matters."""
    usual = {"task": "mini/question", "max_steps": 3, "batch_size": 8, "eval_limit": 24, "learning_rate": 0.02}
    usual["select_rows"] = 0  # the last state, which is farthest from the base
    return sft.sft(validate(SftSettings, {**usual, "model": str(model), **values, "out": out}))[0]
