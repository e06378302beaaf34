"""Write a commented file to start from: the settings of a command, or a task of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from .errors import UserError
from .settings import PRESETS, RUNS, Frozen

TASK = """\
# A task of your own. See whether it is right:  rl4nlu check {path}
# Then everything works on it, e.g.:            rl4nlu sft --task {path} --model mini

# Rows: .csv, .tsv (quoted as spreadsheets do), .jsonl or .parquet, relative to this file.
train: train.csv
# dev: dev.csv           # without it a share of the training rows is kept apart
# dev_share: 0.1
# test: test.csv         # labels may be missing there
# hub:                   # or a data set on the hub; then train, dev and test name its splits
#   dataset: owner/name
#   config: null
#   revision: null

# The prompt, with the columns of the file in braces. The answer follows the last line.
template: |
  {{text}}
  What is this about?
# instruction: Decide what the customer writes about.   # for --template verdict
# fields: {{text: body}}   # name in the template: column, where they differ
label: label             # the column of the label
# id: id                 # the column of the row's id (default: its number)

# Label in the file: the word that the model says for it. Short, common words work best.
labels:
  billing: money
  delivery: parcel
# Or numbers, judged by their distance:
# numbers: {{low: 0, high: 5, step: 0.5}}

# accuracy, macro_f1, f1 (of the last label), matthews; of numbers spearman, pearson. The first one stands in tables.
metrics: [accuracy, macro_f1]
# free: [text]           # what may be cut when a prompt is too long (default: all fields)
"""


def write_new(kind: str, path: Path) -> None:
    """Write a file of a kind: task, or a command with settings.

    Raises:
        UserError: the file is there already, or its folder is not.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{path}: name it with .yaml at the end, so that it is known for what it is")
    if path.exists():
        raise UserError(f"{path} is there already: name another file, or remove this one first")
    text = TASK.format(path=path) if kind == "task" else settings_file(kind, path, RUNS[kind])
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as wrong:
        raise UserError(
            f"{path}: cannot be written ({wrong.strerror}); name another file, or make its folder"
        ) from None


def settings_file(command: str, path: Path, kind: type[Frozen]) -> str:
    """Every setting of a command with its meaning; those with a default stand behind a #."""
    presets = ", ".join(PRESETS.get(kind, {}))
    lines = [f"# rl4nlu {command} {path}", "# Flags win over this file. Take the # away from what you set.", ""]
    lines += [f"# Presets: {presets}."] if presets else []
    shown = {"task": "glue/rte", "model": "mini"}
    return "\n".join([*lines, *_entries(kind, "", shown)]) + "\n"


def _entries(kind: type[BaseModel], indent: str, shown: dict[str, str]) -> list[str]:
    lines = []
    for name, info in kind.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            lines += [f"# {name}:", *_entries(inner, "#   ", {})]
            continue
        start = "" if name in shown else indent or "# "
        value = shown.get(name, _yaml(info.get_default()))
        lines.append(f"{start}{name}: {value}".ljust(34) + f"  # {info.description}")
    return lines


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value).splitlines()[0]
