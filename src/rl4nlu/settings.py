"""All settings: names, types, ranges, meanings, and the presets. `config.py` reads them from files and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LoraSettings(Frozen):
    """Settings of the adapter."""

    r: int = Field(16, gt=0)
    """Rank."""
    alpha: int = Field(32, gt=0)
    """Scale: alpha / sqrt(r) where rank-stabilised, else alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in front of LoRA (SFT only; PPO trains without)."""
    rslora: bool = True
    """Rank-stabilised scaling."""
    target: str = "all-linear"
    """Modules that get LoRA: all-linear, or names with commas between (q_proj,v_proj)."""


class Settings(Frozen):
    """What every command with a model needs."""

    task: str | None = None
    """Task, e.g. glue/rte, or a file of your own (my.yaml); several with commas between; glue: the whole suite."""
    model: str | None = None
    """mini (bundled), a folder, or a name on the hub."""
    data: Path | None = None
    """Folder in the official layout (DIR/glue/RTE/train.tsv); without it, the hub."""
    limit: int | None = Field(None, gt=0)
    """At most N rows of the split to work on."""
    max_bad_rows: int = Field(0, ge=0)
    """Skip at most N rows that cannot be read, and list them."""
    seed: int = Field(0, ge=0)
    """All randomness is derived from it."""
    split: Literal["dev", "train", "test"] | None = None
    """Split to evaluate on (default: the task's, mostly dev)."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the base weights; auto: bfloat16 on a GPU, else float32."""
    max_length: int | None = Field(None, ge=32)
    """Cut texts at fewer tokens than the model's context."""
    out: Path | None = None
    """Run folder to make (default: runs/COMMAND-TASK-N)."""


class PromptSettings(Settings):
    """What every command that prompts a language model needs."""

    template: Literal["plain", "verdict"] | None = None
    """plain: short, for base models; verdict: instruction, answer between tags (default: the adapter's, else plain)."""
    chat: bool = False
    """Wrap prompts in the tokenizer's chat template."""
    shots: int = Field(0, ge=0, le=64)
    """Few-shot examples in every prompt."""
    reason: int = Field(0, ge=0, le=1024)
    """Tokens of free text that the model may write before its verdict; the verdict alone is judged."""
    max_tokens: int = Field(4096, ge=16)
    """Tokens in a micro-batch: memory, never the result."""


class EvaluateSettings(PromptSettings):
    """Settings of `evaluate`."""

    preset: Literal["default", "paper"] = "default"
    """paper: verdict template, sampled answers, a random label for what cannot be parsed (arXiv 2410.11020)."""
    adapter: Path | None = None
    """Run folder whose adapter, or classifier, to evaluate."""
    decode: Literal["score", "greedy", "sample"] = "score"
    """Score the label words, or generate and parse."""
    answer_tokens: int | None = Field(None, gt=0)
    """Longest generated answer (default: the longest label's, and 4)."""
    unparsable: Literal["wrong", "random"] = "wrong"
    """What a generated answer that cannot be parsed counts as: wrong, or a label drawn at random."""
    calibrate: Literal["none", "contextual", "batch", "domain"] = "none"
    """Take the model's bias out of scored labels: by content-free prompts, by the mean over the rows, by the cue."""

    @model_validator(mode="after")
    def _only_scores_are_calibrated(self) -> EvaluateSettings:
        if self.calibrate != "none" and self.decode != "score":
            raise ValueError(f"--calibrate works on scored labels: leave out --decode {self.decode}")
        if self.calibrate != "none" and self.reason:
            raise ValueError("--calibrate corrects labels that follow the prompt at once: leave out --reason")
        if self.unparsable == "random" and self.decode == "score":
            raise ValueError("--unparsable random is for generated answers: add --decode sample or greedy")
        return self


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
    """Default: by the model's width."""
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
    select_rows: int = Field(0, ge=0)
    """Keep the best state by N held-out training rows (at most a tenth of them); 0: keep the last."""
    eval_limit: int | None = Field(None, gt=0)
    """At most N rows in the final evaluation."""
    mixing: Literal["proportional", "sqrt", "equal"] = "proportional"
    """Of several tasks: how many rows of each, by its number of training rows, the root of it, or all alike."""
    mixture_cap: int | None = Field(None, gt=0)
    """Count a task in the mixture as if it had at most N training rows."""
    lora: LoraSettings = LoraSettings()


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
    select_rows: int = Field(256, ge=0)
    """Keep the best state by N held-out training rows (at most a tenth of them); 0: keep the last."""
    estimator: Literal["gae", "rloo", "grpo", "reinforce++", "expected"] = "gae"
    """Of the advantage: gae (PPO, with a critic), rloo, grpo, reinforce++, or expected: the exact sum over labels."""
    actions: Literal["free", "labels"] | None = None
    """What the policy may say: any text, or the label words only (default: labels for expected, else free)."""
    group_std: bool = True
    """grpo: divide by the standard deviation of a prompt's rewards."""
    answers: int = Field(4, ge=1, le=64)
    """Sampled answers a prompt."""
    answer_tokens: int | None = Field(None, gt=0)
    """Longest sampled answer (default: the longest label's, and 4)."""
    reward: str = "paper"
    """paper: +1, -1, unparsable -3; exact: 1 or 0; metric, matthews, f1, ...: its derivative; or a package's name."""
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
    """Weight of an SFT term on the gold answers (hybrid)."""
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
        for name in ("format_penalty", "answer_tokens"):
            if self.over_labels and getattr(self, name) is not None:
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
    """All weights or LoRA; auto: LoRA for decoders, all weights for encoders."""
    epochs: float = Field(3.0, gt=0)
    """Passes over the training rows."""
    max_steps: int | None = Field(None, gt=0)
    """Stop after N steps, whatever the epochs."""
    batch_size: int = Field(32, gt=0)
    """Rows a step."""
    learning_rate: float | None = Field(None, gt=0)
    """Default: by the model's width, from 5e-5 for all weights (at 384) or 1e-3 for LoRA (at 256)."""
    schedule: Literal["linear", "constant"] = "linear"
    """Decay to zero, or none."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps that warm up."""
    weight_decay: float = Field(0.01, ge=0)
    """Of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    eval_limit: int | None = Field(None, gt=0)
    """At most N rows in the final evaluation."""
    lora: LoraSettings = LoraSettings()


class PredictSettings(Frozen):
    """Settings of `predict`."""

    task: str | None = None
    """Which task's question to ask, where the run was trained on several."""
    input: Path | None = None
    """Rows: .jsonl, .csv, .tsv or .parquet with the task's fields (or the columns of its files) by name."""
    output: Path | None = None
    """File to write, one JSON object a row."""
    decode: Literal["score", "greedy", "sample"] = "score"
    """Score the label words, or generate and parse."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the base weights; auto: bfloat16 on a GPU, else float32."""
    max_tokens: int = Field(4096, ge=16)
    """Tokens in a micro-batch: memory, never the result."""
    seed: int = Field(0, ge=0)
    """Of sampled answers."""


class SubmitSettings(Frozen):
    out: Path | None = None
    """The zip to write."""


class CheckSettings(Frozen):
    data: Path | None = None
    """Folder in the official layout; files of your own are looked for here first, then beside the task file."""
    max_bad_rows: int = Field(0, ge=0)
    """Skip at most N rows that cannot be read, and list them."""


class ReportSettings(Frozen):
    out: Path = Path("report.html")
    """The page to write."""


class DemoSettings(Frozen):
    out: Path | None = None
    """Run folder to make (default: runs/demo-N)."""
    seed: int = Field(0, ge=0)
    """All randomness is derived from it."""


class SuiteSettings(Frozen):
    """Tasks x methods x seeds. What stands in the file alone, without flags: common, tasks, methods."""

    out: Path | None = None
    """Folder of all runs (default: runs/ and the name of the file)."""
    jobs: int = Field(1, ge=1, le=256)
    """Runs at a time."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    """Every method is run with each, if anything in it is random."""
    data: Path | None = None
    """Folder in the official layout, over that of common."""
    dry_run: bool = False
    """Print the plan and stop."""
    common: Annotated[dict[str, Any], tyro.conf.Suppress, tyro.conf.Fixed] = {}
    """In the file: settings of all runs whose command knows them; limit is of training rows, eval_limit of others."""
    tasks: Annotated[dict[str, dict[str, Any]], tyro.conf.Suppress, tyro.conf.Fixed] = {}
    """In the file: names, or name: settings of the runs on it, over those of common."""
    methods: Annotated[dict[str, dict[str, Any]], tyro.conf.Suppress, tyro.conf.Fixed] = {}
    """In the file: name: command, settings; [A, B]: tuned; =METHOD: as there; init: METHOD; steps: times max_steps."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _names_alone(cls, tasks: Any) -> Any:
        if isinstance(tasks, list) and all(isinstance(name, str) for name in tasks):
            return {name: {} for name in tasks}
        return {k: {} if v is None else v for k, v in tasks.items()} if isinstance(tasks, dict) else tasks


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
            "answer_tokens": 32,
        },
    },
}
"""Preset -> settings that differ from the defaults (arXiv 2410.11020 and its released code; for BERT, Devlin et al.
2019, arXiv 1810.04805, appendix A.3)."""

COMMANDS: dict[str, type[Frozen]] = {
    "demo": DemoSettings,
    "evaluate": EvaluateSettings,
    "sft": SftSettings,
    "ppo": PpoSettings,
    "classify": ClassifySettings,
    "predict": PredictSettings,
    "submit": SubmitSettings,
    "report": ReportSettings,
    "check": CheckSettings,
    "suite": SuiteSettings,
}
"""Commands that have settings."""
RUNS: dict[str, type[Settings]] = {name: kind for name, kind in COMMANDS.items() if issubclass(kind, Settings)}
"""Commands that make a run, and take a settings file."""
