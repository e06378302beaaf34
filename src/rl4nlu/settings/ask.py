"""Settings of the commands that ask a model: `evaluate` and `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from .base import Frozen, PromptSettings


class EvaluateSettings(PromptSettings):
    """Settings of `evaluate`."""

    preset: Literal["default", "paper"] = "default"
    """paper: verdict template, sampled answers, a random label for what cannot be parsed (arXiv 2410.11020)."""
    adapter: Path | None = None
    """Run folder whose adapter, or classifier, to evaluate."""
    decode: Literal["score", "greedy", "sample"] = "score"
    """score labels, or generate: greedy, sample; what is generated is parsed."""
    answer_tokens: int | None = Field(None, gt=0)
    """Tokens of the longest generated answer; default: those of the longest label, and 4."""
    unparsable: Literal["wrong", "random"] = "wrong"
    """What a generated answer that cannot be parsed counts as: wrong, or a label drawn at random."""
    calibrate: Literal["none", "contextual", "batch", "domain"] = "none"
    """Take out the model's bias: contextual, batch, domain; by content-free prompts, by all rows, by the cue."""

    @property
    def generated(self) -> int | None:
        return 0 if self.decode == "score" else self.answer_tokens

    @model_validator(mode="after")
    def _only_scores_are_calibrated(self) -> EvaluateSettings:
        if self.calibrate != "none" and self.decode != "score":
            raise ValueError(f"--calibrate works on scored labels: leave out --decode {self.decode}")
        if self.calibrate != "none" and self.reason:
            raise ValueError("--calibrate corrects labels that follow the prompt at once: leave out --reason")
        if self.unparsable == "random" and self.decode == "score":
            raise ValueError("--unparsable random is for generated answers: add --decode sample or greedy")
        return self


class PredictSettings(Frozen):
    """Settings of `predict`."""

    task: str | None = None
    """Which task's question to ask, where the run was trained on several."""
    model: str | None = None
    """The folder of the base model, where it was moved since."""
    input: Path | None = None
    """Rows: a .jsonl, .csv, .tsv or .parquet file; with the task's fields (or the columns of its files) by name."""
    output: Path | None = None
    """File to write, one JSON object a row."""
    decode: Literal["score", "greedy", "sample"] = "score"
    """score labels, or generate: greedy, sample; what is generated is parsed."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the base weights; auto: bfloat16 on a GPU, else float32."""
    max_tokens: int = Field(4096, ge=16)
    """Tokens in a micro-batch; memory, not the result (but for rounding, and the masks of LoRA's dropout)."""
    seed: int = Field(0, ge=0)
    """Of sampled answers (default: that of the run)."""
