"""What settings of several commands have in common."""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

ELSEWHERE = {"out", "data", "init", "adapter", "model", "task"}
"""Settings that say where something lies: what lies there has a fingerprint."""
MEMORY = {"device", "max_tokens", "save_every"}
"""Settings that change the last bits of what comes out at most, but for the masks of dropout."""
SOURCES = ("init", "adapter")
"""Settings that name the run to start from."""
BROUGHT = ("chat", "shots", "reason", "seed")
"""Settings that come with that run where they are not given, and of which no value means "not given"."""
BESIDE = {"track"}
"""Settings that change nothing of what comes out."""


@cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Class -> attribute -> the text that stands below it, of a module. One parse of the file: pydantic's own
    `use_attribute_docstrings` reads it once a class, which help would have to wait for."""
    file = sys.modules[module].__file__
    tree = ast.parse(Path(file).read_text(encoding="utf-8")) if file else ast.Module([], [])
    found: dict[str, dict[str, str]] = {}
    for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, text in pairwise(node.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                told = inspect.cleandoc(str(text.value.value))
                found.setdefault(node.name, {})[ast.unparse(field.target)] = told
    return found


def _kinds(annotation: Any) -> set[Any]:
    """The types that a value may have."""
    return set(get_args(annotation)) or {annotation}


class Frozen(BaseModel):
    """Settings: what is not known is refused; a field's meaning stands below it."""

    # deferred: help needs names and meanings, and no validator of any command
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's on and yes would be taken for 1 where a number belongs."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and bool not in kinds and {int, float} & kinds:
            raise ValueError("a number stands here, and no yes or no")
        return value

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for name, text in _docstrings(cls.__module__).get(cls.__name__, {}).items():
            cls.model_fields[name].description = text


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
    """Task (glue/rte), suite (glue) or file (my.yaml); several with commas between."""
    model: str | None = None
    """mini (bundled), a folder, or a name on the hub."""
    data: Path | None = None
    """Folder in the official layout, else the hub; rows are in DIR/glue/RTE/train.tsv and so on."""
    limit: int | None = Field(None, gt=0)
    """At most N rows of the split to work on."""
    max_bad_rows: int = Field(0, ge=0)
    """Skip at most N rows that cannot be read, and list them."""
    seed: int = Field(0, ge=0)
    """All randomness is derived from it."""
    split: Literal["dev", "train", "test"] | None = None
    """Split to evaluate on; default: the task's, mostly dev."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the base weights; auto: bfloat16 on a GPU, else float32."""
    quantize: Literal["none", "8bit", "4bit"] | None = None
    """Keep the base's linear layers in 8 or 4 bits, which is for LoRA; default: as the adapter's base, else none."""
    max_length: int | None = Field(None, ge=32)
    """Cut texts at fewer tokens than the model's context."""
    truncate: bool = True
    """Cut what is too long for the model, in the fields that may be cut; --no-truncate refuses such rows instead."""
    out: Path | None = None
    """Run folder to make (default: runs/COMMAND-TASK-N)."""


class PromptSettings(Settings):
    """What every command that prompts a language model needs."""

    template: Literal["plain", "verdict"] | None = None
    """plain (for base models) or verdict; that is an instruction, and the answer between tags (default: the adapter's,
    else plain)."""
    chat: bool = False
    """Wrap prompts in the tokenizer's chat template."""
    shots: int = Field(0, ge=0, le=64)
    """Few-shot examples in every prompt."""
    shots_seed: int | None = Field(None, ge=0)
    """Seed by which they are chosen (default: the adapter's, else `seed`)."""
    reason: int = Field(0, ge=0, le=1024)
    """Tokens of free text that the model may write before its verdict; the verdict alone is judged."""
    max_tokens: int = Field(4096, ge=16)
    """Tokens in a micro-batch; what rows share counts once: memory, not the result (but rounding, LoRA's dropout)."""

    @property
    def generated(self) -> int | None:
        """Tokens that an answer may have where it is generated: None: a few more than the longest of the closed set; 0:
        answers are scored only."""
        return 0
