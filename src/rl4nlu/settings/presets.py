"""Presets: settings that differ from the defaults, by name."""

from __future__ import annotations

from typing import Any

from .ask import EvaluateSettings
from .base import Frozen
from .train import PAPER_ANSWER_TOKENS, ClassifySettings, PpoSettings, SftSettings

BERT = {"epochs": 3, "batch_size": 32, "learning_rate": 2e-5, "warmup": 0.1, "weight_decay": 0.01, "tune": "full"}
PRESETS: dict[type[Frozen], dict[str, dict[str, Any]]] = {
    EvaluateSettings: {"paper": {"template": "verdict", "decode": "sample", "unparsable": "random"}},
    ClassifySettings: {
        "bert-base": {"model": "google-bert/bert-base-uncased", **BERT},
        "bert-large": {"model": "google-bert/bert-large-uncased", **BERT},
    },
    SftSettings: {
        "paper": {
            "template": "verdict",
            "epochs": 1,
            "batch_size": 24,
            "learning_rate": 9e-6,
            "schedule": "constant",
            "warmup": 0.0,
            "select_rows": 0,
            "lora": {"dropout": 0.05},
        },
    },
    PpoSettings: {
        "paper": {
            "template": "verdict",
            "epochs": 3,
            "batch_size": 16,
            "learning_rate": 9e-6,
            "optimizer": "adafactor",
            "schedule": "constant",
            "warmup": 0.0,
            "kl_coef": 0.2,
            "kl_target": 6.0,
            "answers": 1,
            "select_rows": 0,
            "answer_tokens": PAPER_ANSWER_TOKENS,
        },
    },
}
"""Preset -> settings that differ from the defaults (arXiv 2410.11020 and its released code; for BERT, Devlin et al.
2019, arXiv 1810.04805, appendix A.3)."""
