"""Write a commented file to start from: the settings of a command, a suite, or a task of one's own; and its schema
beside it, with which an editor completes names and tells mistakes."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import yaml

from . import files
from .errors import UserError
from .schema import KINDS, mark, text_of
from .settings import RUNS, SuiteFlags
from .settings.describe import Entry, grouped
from .tasks.own import METRICS

__all__ = ["KINDS", "write_new"]

COLUMN, WIDTH = 34, 112
"""Where the comment behind an entry begins, and where it ends."""
SUITE = """\
# Every method runs on every task with every seed; one report compares them. The same command goes on after a stop.
# The plan alone:   rl4nlu suite {path} --dry-run
# Is it right?      rl4nlu check {path}
# Flags win over this file. Take the # away from what you set.

# --- what to run with, and where to ---
{flags}

# --- settings of all runs whose command knows them (`rl4nlu ppo --help-all` tells them) ---
common:
  model: mini                     # mini (bundled), a folder, or a name on the hub
  max_steps: 20                   # so many batches every method learns from, unless it says otherwise
  limit: 2000                     # at most so many training rows
  eval_limit: 200                 # at most so many rows in the evaluation
  select_rows: 64                 # held-out training rows, by which the best state and the best values are chosen

# --- models: several in place of the one in common, with settings that go over those above ---
# models:
#   mini: {{}}
#   qwen: {{model: Qwen/Qwen2.5-0.5B-Instruct, template: verdict, chat: true}}

# --- tasks: a list of names, or names with settings that go over those above ---
tasks:
  mini/sentiment: {{}}
  mini/question: {{max_steps: 30}}

# --- methods: a name of yours, its command (evaluate, sft, ppo, classify) and settings that go over all above ---
methods:
  zero-shot: {{command: evaluate}}
  few-shot: {{command: evaluate, shots: 4}}
  sft:
    command: sft
    learning_rate: [5.0e-4, 1.0e-3]   # a list: for each task the best value is chosen by the held-out rows
    # learning_rate: {{low: 1.0e-4, high: 3.0e-3, log: true}}   # a range: searched, with search: {{trials: 12}} above
  sft-half:
    command: sft
    steps: 0.5                    # times max_steps
    learning_rate: =sft           # the value that was chosen for sft
  sft+ppo:
    command: ppo
    init: sft-half                # goes on from this method's run on the same task with the same seed
    steps: 0.5
    learning_rate: 3.0e-4
    inner_epochs: 1
"""
TASK = """\
# A task of your own. Is it right?       rl4nlu check {path}
# Then everything works on it, e.g.:     rl4nlu sft --task {path} --model mini

# --- rows: .csv, .tsv (quoted as spreadsheets do), .jsonl or .parquet, relative to this file ---
train: train.csv
# dev: dev.csv           # without it a share of the training rows is kept apart
# dev_share: 0.1
# test: test.csv         # labels may be missing there
# hub:                   # or a data set on the hub; then train, dev and test name its splits
#   dataset: owner/name
#   config: null
#   revision: null

# --- the prompt, with the columns of the file in braces; the answer follows its last line ---
template: |
  {{text}}
  What is this about?
# instruction: Decide what the customer writes about.   # for --template verdict
# fields: {{text: body}}   # name in the template: column, where they differ
label: label             # the column of the label
# id: id                 # the column of the row's id (default: its number)

# --- label in the file: the word that the model says for it; short, common words work best ---
labels:
  billing: money
  delivery: parcel
# Or numbers, judged by their distance:
# numbers: {{low: 0, high: 5, step: 0.5}}

# --- how it is judged ---
metrics: [accuracy, macro_f1]    # {metrics}; the first one stands in tables
# free: [text]           # what may be cut when a prompt is too long (default: all fields)
"""


def write_new(kind: str, path: Path) -> Path:
    """Write a file of a kind: task, suite, or a command with settings.

    Returns:
        Its schema, beside it.

    Raises:
        UserError: the file is there already, or its folder is not.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{path}: name it with .yaml at the end, so that it is known for what it is")
    if path.exists():
        raise UserError(f"{path} is there already: name another file, or remove this one first")
    schema = path.parent / f"{kind}.schema.json"
    if schema.exists() and not _is_ours(schema, kind):
        raise UserError(f"{schema} is there already, and the schema would stand there: choose another folder")
    head = f"# yaml-language-server: $schema={schema.name}\n"
    if kind != "task":
        head = f"# rl4nlu {kind} {path}\n{head}"  # `check` reads the command there
    try:
        files.write_text(schema, text_of(kind))
        files.write_text(path, head + _body(kind, path))
    except OSError as wrong:
        raise UserError(
            f"{path}: cannot be written ({wrong.strerror}); name another file, or make its folder"
        ) from None
    return schema


def _is_ours(schema: Path, kind: str) -> bool:
    try:
        return json.loads(schema.read_text(encoding="utf-8"))["$comment"] == mark(kind)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _body(kind: str, path: Path) -> str:
    if kind == "task":
        return TASK.format(path=path, metrics=", ".join(METRICS))
    if kind == "suite":
        known = [
            entry
            for members in grouped(SuiteFlags).values()
            for entry in members
            if entry.name != "dry_run" and not entry.name.startswith("search.")  # which stands beside a range
        ]
        return SUITE.format(path=path, flags="\n".join(line for entry in known for line in _entry(entry, {})))
    return _settings(path, kind)


def _settings(path: Path, command: str) -> str:
    """Every setting of a command with its meaning, in groups; those with a default stand behind a #."""
    lines = [f"# Is it right?   rl4nlu check {path}"]
    lines += ["# Flags win over this file, it wins over a preset. Take the # away from what you set."]
    shown = {"task": "mini/sentiment", "model": "mini"}
    for group, members in grouped(RUNS[command]).items():
        lines += ["", f"# --- {group} ---"]
        parent = ""
        for entry in members:
            within = entry.name.rpartition(".")[0]
            lines += [f"# {within}:"] if within != parent else []
            parent = within
            lines += _entry(entry, shown)
    return "\n".join(lines) + "\n"


def _entry(entry: Entry, shown: dict[str, str]) -> list[str]:
    """A line for a setting, and what of its meaning has no room there."""
    within, _, name = entry.name.rpartition(".")
    start = "" if entry.name in shown else "#   " if within else "# "
    value = list(entry.default) if entry.many else entry.default
    text = f"{start}{name}: {shown.get(entry.name, _yaml(value))}"
    also = entry.kind if entry.choices else entry.range
    about = textwrap.wrap(
        f"{entry.meaning} ({also})" if also else entry.meaning, WIDTH - COLUMN - 2, break_on_hyphens=False
    )
    first = f"{text.ljust(COLUMN - 2)}  # {about[0]}"
    return [first, *(f"{' ' * COLUMN}# {line}" for line in about[1:])]


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]
