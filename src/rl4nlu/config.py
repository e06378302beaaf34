"""Settings: defaults, then a preset, then a YAML file, then flags. Unknown names and bad values end in one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import UserError, did_you_mean


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


class PpoSettings(TrainSettings):
    """Proximal policy optimisation."""

    batch_size: int = Field(32, gt=0)
    """Prompts a step."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the training rows."""
    select_rows: int = Field(256, ge=0)
    """Keep the best state by N held-out training rows (at most a tenth of them); 0: keep the last."""
    answers: int = Field(4, ge=1, le=64)
    """Sampled answers a prompt."""
    answer_tokens: int | None = Field(None, gt=0)
    """Longest sampled answer (default: the longest label's, and 4)."""
    reward: Literal["paper", "exact"] = "paper"
    """paper: +1 right, -1 wrong, -3 not parsable; exact: 1 or 0."""
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
    """Folder of the task's files (default: the task file's own)."""
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

S = TypeVar("S", bound=Frozen)


def parse(kind: type[S], args: Sequence[str], prog: str, description: str) -> S:
    """Settings from `[FILE.yaml] --flag value ...`: flags over file over preset over defaults.

    Raises:
        UserError: the file or a flag is not what the settings take.
        SystemExit: after `--help` (code 0).
    """
    rest = list(args)
    values: dict[str, Any] = {}
    if rest and not rest[0].startswith("-"):
        values = read_yaml(Path(rest.pop(0)))
    preset = _flag(rest, "preset") or values.get("preset", "default")
    presets = {"default": {}, **PRESETS.get(kind, {})}
    if preset not in presets:
        raise UserError(
            f"preset: no such preset {preset!r}{did_you_mean(str(preset), presets)}; choose {' or '.join(presets)}"
        )
    base = validate(kind, _merge(presets[preset], values))
    return _flags_over(kind, base, rest, prog, description)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file. Numbers such as 1e-5, which YAML takes for text, are read by the settings' types."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such settings file; flags start with --, e.g. --task glue/rte") from None
    except (OSError, UnicodeDecodeError) as wrong:
        raise UserError(f"{path}: cannot be read as a settings file ({wrong})") from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as wrong:
        mark = getattr(wrong, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(
            f"{path}{line}: not valid YAML ({getattr(wrong, 'problem', None) or 'cannot be parsed'})"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: settings are lines of `name: value`, and a {type(values).__name__} stands here")
    return {str(name): value for name, value in values.items()}


def validate(kind: type[S], values: dict[str, Any]) -> S:
    """Settings from plain values; all that is wrong in one message."""
    try:
        return kind.model_validate(values)
    except ValidationError as wrong:
        raise UserError("; ".join(_explain(kind, error) for error in wrong.errors())) from None


def save(settings: Settings, path: Path) -> None:
    """Write settings as YAML that `parse` reads back."""
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def command_line(command: str, settings: Frozen) -> str:
    """The command that gives these settings: every flag that differs from its default."""
    return shlex.join(["rl4nlu", command, *_changed(settings, type(settings)(), "--")])


def _changed(settings: BaseModel, default: BaseModel, prefix: str) -> list[str]:
    words: list[str] = []
    for name in type(settings).model_fields:
        value, usual = getattr(settings, name), getattr(default, name)
        flag = prefix + name.replace("_", "-")
        if isinstance(value, BaseModel):
            words += _changed(value, usual, f"{flag}.")
        elif value != usual:
            negated = prefix + "no-" + name.replace("_", "-")
            words += [flag if value else negated] if isinstance(value, bool) else [flag, str(value)]
    return words


def names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """All setting names, nested ones with a dot."""
    found: list[str] = []
    for name, info in kind.model_fields.items():
        inner = info.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        found += names(inner, f"{prefix}{name}.") if nested else [prefix + name]  # type: ignore[arg-type]
    return found


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`, group by group."""
    both = {name: _merge(under[name], value) for name, value in over.items() if _are_dicts(under.get(name), value)}
    return {**under, **over, **both}


def _are_dicts(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def _explain(kind: type[BaseModel], error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    if not where:  # a rule over several settings says all itself
        return error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{where}: no such setting{did_you_mean(where, names(kind))}"
    return f"{where}: {error['msg'][0].lower() + error['msg'][1:]} (got {error['input']!r})"


def _flag(args: Sequence[str], name: str) -> str | None:
    for i, arg in enumerate(args):
        if arg == f"--{name}" and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"--{name}="):
            return arg.split("=", 1)[1]
    return None


def _flags_over(kind: type[S], base: S, args: list[str], prog: str, description: str) -> S:
    known = {name for flat in names(kind) for name in (flat, flat.replace("_", "-"))}
    for arg in args:
        name = arg[2:].split("=")[0]
        if arg.startswith("--") and name not in known and not _negates(name, known) and name != "help":
            hint = did_you_mean(name, sorted(known - {n for n in known if "_" in n}))
            raise UserError(f"--{name}: no such flag{hint}; see: {prog} --help")
    said = io.StringIO()
    width, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100" if {"-h", "--help"} & set(args) else "2000"
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, default=base, args=args, prog=prog, description=description)
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise UserError(f"{_condense(said.getvalue())}; see: {prog} --help") from None
    finally:
        if width is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = width


def _negates(name: str, known: set[str]) -> bool:
    group, _, last = name.rpartition(".")
    return last.startswith("no-") and ".".join(filter(None, (group, last[3:]))) in known


def _condense(box: str) -> str:
    """The parser's framed, many-line message as one line: its first paragraph, without frame and jargon."""
    lines = [re.sub(r"^[│╭╰|+]+|[│╮╯|+]+$", "", line).strip() for line in box.splitlines()]
    lines = [line for line in lines if line.strip("─- ")][1:]  # the first line is the frame's title
    text = " ".join(line for line in lines if "For full helptext" not in line)
    text = text.split("Argument helptext:")[0].split("Got errors:")[0]
    pydantic = re.search(r"validation error[s]? for \w+ (\S+) (.*?) \[type=\w+, input_value=(.*?), input_type", text)
    if pydantic:
        name, message, given = pydantic.groups()
        text = f"--{name.replace('_', '-')}: {message[0].lower() + message[1:]} (got {given})"
    text = re.sub(r"no type matching (\S+) could be instantiated from \['?(.*?)'?\]", r"\2 is not a \1", text)
    text = text.replace("{None}|", "").replace("Error parsing ", "").strip(" .")
    return text[0].lower() + text[1:] if text else "the flags cannot be read"
