"""Settings of the commands that train: `sft`, `ppo` and `classify`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from .base import LoraSettings, PromptSettings, Settings

PAPER_ANSWER_TOKENS = 32
"""Tokens that an answer may have, by the preset `paper`."""


class TrainSettings(PromptSettings):
    """What every training loop needs."""

    init: Path | None = None
    """Run folder whose adapter to start from."""
    preset: Literal["default", "paper"] = "default"
    """paper: the settings of arXiv 2410.11020."""
    epochs: float = Field(3.0, gt=0)
    """Passes over the training rows."""
    max_steps: int | None = Field(None, gt=0)
    """Stop after N steps, whatever the epochs."""
    batch_size: int = Field(32, gt=0)
    """Prompts a step."""
    learning_rate: float | None = Field(None, gt=0)
    """Highest rate; default: 1e-3 (sft), 1e-4 (ppo) at a width of 256, falling with its root: a quarter at 4,096."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """Adafactor with a fixed rate, or AdamW."""
    schedule: Literal["linear", "constant"] = "linear"
    """Decay to zero, or none."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the steps that warm up."""
    weight_decay: float = Field(0.0, ge=0)
    """Of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    select_rows: int = Field(256, ge=0)
    """Keep the best state by N held-out training rows, at most a tenth, or those that --init held out; 0: the last."""
    save_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; default: as often as costs a hundredth of the time."""
    eval_limit: int | None = Field(None, gt=0)
    """At most N rows in the final evaluation."""
    track: Literal["none", "tensorboard", "wandb", "trackio", "mlflow"] = "none"
    """Hand every logged step and the results to a tracker, too; it cannot stop or change the run, nor make it wait."""
    mixing: Literal["proportional", "sqrt", "equal"] = "proportional"
    """Of several tasks: how many rows of each, by its number of training rows, the root of it, or all alike."""
    mixture_cap: int | None = Field(None, gt=0)
    """Count a task in the mixture as if it had at most N training rows."""
    lora: LoraSettings = LoraSettings()
    """The adapter: rank, scale, dropout, modules."""


class SftSettings(TrainSettings):
    """Supervised fine-tuning."""

    @model_validator(mode="after")
    def _no_reasons_to_learn(self) -> SftSettings:
        if self.reason:
            raise ValueError("--reason: the rows hold no reasoning to learn from; it is for ppo and evaluate")
        return self


class PpoSettings(TrainSettings):
    """Proximal policy optimisation."""

    batch_size: int = Field(32, gt=0)
    """Prompts a step."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the training rows."""
    estimator: Literal["gae", "rloo", "grpo", "reinforce++", "expected"] = "gae"
    """gae (PPO), rloo, grpo, reinforce++, expected; gae has a critic, expected sums exactly over all labels."""
    actions: Literal["free", "labels"] | None = None
    """What the policy may say: free text, or labels; default: labels for expected, else free."""
    group_std: bool = True
    """grpo: divide by the standard deviation of a prompt's rewards."""
    answers: int = Field(4, ge=1, le=64)
    """Sampled answers a prompt."""
    answer_tokens: int | None = Field(None, gt=0)
    """Longest sampled answer (default: the longest label's, and 4)."""
    reward: str = "paper"
    """paper, exact, metric, matthews, f1, ...; paper: +1, -1, unparsable -3; exact: 1 or 0; metric, ...: its
    derivative; or a name that a package offers."""
    format_penalty: float | None = Field(None, ge=0)
    """What an answer that cannot be parsed costs beside being wrong (default: the reward's own; paper: 2)."""
    metric_window: int = Field(8, ge=1)
    """metric: over about so many steps the table is averaged of which the derivative is taken."""
    inner_epochs: int = Field(4, ge=1)
    """Passes over each step's rollouts."""
    minibatch: int | None = Field(None, gt=0)
    """Prompts an optimizer step (default: all of the step's)."""
    clip: float = Field(0.2, gt=0)
    """Range of the policy's ratio."""
    value_clip: float | None = Field(0.2, gt=0)
    """Range of the value's change."""
    value_coef: float = Field(0.1, ge=0)
    """Weight of the value loss."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of the entropy bonus."""
    sft_coef: float = Field(0.0, ge=0)
    """Weight of an SFT term on the gold answers; hybrid."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount."""
    lam: float = Field(0.95, ge=0, le=1)
    """Lambda of GAE."""
    kl_coef: float = Field(0.05, ge=0)
    """Per-token KL penalty at the start."""
    kl_target: float | None = Field(None, gt=0)
    """Adapt the penalty to this KL, in nats an answer; none: fixed."""
    kl_horizon: int = Field(10_000, gt=0)
    """Answers over which the penalty adapts."""
    stop_kl: float | None = Field(None, gt=0)
    """End a step's inner epochs once the policy is this far (nats a token) from where the step began."""
    whiten: Literal["batch", "task", "none"] = "batch"
    """gae, reinforce++: normalise advantages over the batch, over each task's share of it, or not."""
    skip_flat: bool = True
    """rloo, grpo: leave out prompts whose answers all earn the same; only their KL penalty would move the policy."""
    critic_warmup: int = Field(0, ge=0)
    """gae: steps at the start that train the critic alone."""
    oversample: int = Field(1, ge=1, le=64)
    """Draw each step's prompts from N times as many, those of which the policy is unsure (p (1 - p)) more often."""
    debias: bool = False
    """labels: measure how likely each label is at the start whatever the row, and take that out of the policy."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """When the policy collapses (one answer for all, KL runaway, ...): say so, or also end the training."""

    @property
    def over_labels(self) -> bool:
        """Whether labels are the actions: as set, else for `expected`."""
        return self.actions == "labels" or (self.actions is None and self.estimator == "expected")

    @property
    def generated(self) -> int | None:
        return 0 if self.over_labels else self.answer_tokens

    @model_validator(mode="after")
    def _estimator_fits(self) -> PpoSettings:
        if self.estimator == "expected" and self.actions == "free":
            raise ValueError("--estimator expected sums over the labels: leave out --actions free")
        if self.debias and not self.over_labels:
            raise ValueError("--debias corrects the policy over labels: add --actions labels")
        if self.reason and self.over_labels:
            raise ValueError("--reason needs free text: leave out --actions labels and --estimator expected")
        if self.reason and self.sft_coef:
            raise ValueError("--sft-coef: the rows hold no reasoning to learn from: leave out --reason")
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError("--kl-target adapts --kl-coef, which is 0 and would stay so: give it a value above 0")
        of_preset = {"answer_tokens": PAPER_ANSWER_TOKENS} if self.preset == "paper" else {}
        for name in ("format_penalty", "answer_tokens"):
            if self.over_labels and getattr(self, name) not in (None, of_preset.get(name)):
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} is about free text, and the actions are labels: leave it out")
        if self.whiten != "batch" and self.estimator not in ("gae", "reinforce++"):
            raise ValueError(f"--estimator {self.estimator} does not whiten: leave out --whiten")
        if self.stop_kl is not None and self.inner_epochs == 1:
            raise ValueError("--stop-kl ends inner epochs early, and there is only one: give --inner-epochs 2 or more")
        if self.critic_warmup and not self.value_coef:
            raise ValueError("--critic-warmup trains the critic, whose weight --value-coef is 0")
        if self.reason and self.oversample > 1:
            raise ValueError("--oversample scores labels that follow the prompt at once: leave out --reason")
        if self.critic_warmup and self.critic_warmup >= (self.max_steps or self.critic_warmup + 1):
            raise ValueError(f"--critic-warmup: in {self.max_steps} steps the policy would learn in none: give fewer")
        if self.critic_warmup and self.estimator != "gae":
            raise ValueError(f"--estimator {self.estimator} has no critic: leave out --critic-warmup")
        if self.estimator in ("rloo", "grpo") and self.answers < 2:
            raise ValueError(f"--estimator {self.estimator} compares the answers to a prompt: give --answers 2 or more")
        return self


class ClassifySettings(Settings):
    """A classification head: on an encoder, or on a decoder."""

    preset: Literal["default", "bert-base", "bert-large"] = "default"
    """bert-base, bert-large: model and usual settings of these baselines."""
    tune: Literal["auto", "full", "lora"] = "auto"
    """full (all weights) or lora; auto: LoRA for decoders, all weights for encoders."""
    epochs: float = Field(3.0, gt=0)
    """Passes over the training rows."""
    max_steps: int | None = Field(None, gt=0)
    """Stop after N steps, whatever the epochs."""
    batch_size: int = Field(32, gt=0)
    """Rows a step."""
    learning_rate: float | None = Field(None, gt=0)
    """Highest rate; default: by the model's width, from 5e-5 for all weights (at 384) or 1e-3 for LoRA (at 256)."""
    schedule: Literal["linear", "constant"] = "linear"
    """Decay to zero, or none."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps that warm up."""
    weight_decay: float = Field(0.01, ge=0)
    """Of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    save_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; default: as often as costs a hundredth of the time."""
    eval_limit: int | None = Field(None, gt=0)
    """At most N rows in the final evaluation."""
    track: Literal["none", "tensorboard", "wandb", "trackio", "mlflow"] = "none"
    """Hand every logged step and the results to a tracker, too; it cannot stop or change the run, nor make it wait."""
    lora: LoraSettings = LoraSettings()
    """The adapter: rank, scale, dropout, modules."""

    @model_validator(mode="after")
    def _frozen_is_quantised(self) -> ClassifySettings:
        if self.quantize in ("8bit", "4bit") and self.tune == "full":
            raise ValueError(f"--quantize {self.quantize}: weights that are trained stay whole; add --tune lora")
        return self
