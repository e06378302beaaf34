"""A task of the user's own, declared in a YAML file: where its rows lie, how they are asked, which words answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .. import files, yamls
from ..errors import UserError, did_you_mean, did_you_mean_path
from ..names import problem, short
from .task import ID, LABEL, Table, Task, template_fields

SUITE = "own"
SUFFIXES = (".yaml", ".yml")
FOR_NUMBERS = ("pearson", "spearman")
METRICS = ("accuracy", "f1", "macro_f1", "matthews", *FOR_NUMBERS)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Numbers(_Strict):
    low: float
    """Lowest label."""
    high: float
    """Highest label."""
    step: float = Field(1.0, gt=0)
    """Between two labels that the model may say."""


class Hub(_Strict):
    dataset: str
    """Data set on the hub, e.g. fancyzhx/ag_news."""
    config: str | None = None
    """Its configuration."""
    revision: str | None = None
    """Commit, tag or branch."""


class TaskFile(_Strict):
    """What a task file may say. `rl4nlu new task my.yaml` writes one with comments."""

    model_config = ConfigDict(
        # for the schema, what `_problems` tells: some rows, and one kind of answers
        json_schema_extra={
            "anyOf": [{"required": [split]} for split in ("train", "dev", "test")],
            "oneOf": [{"required": [answers]} for answers in ("labels", "numbers")],
        }
    )

    name: str | None = None
    """Name in results (default: the file's)."""
    train: str | None = None
    """Training rows: a .csv, .tsv, .jsonl or .parquet file, relative to this file; or the split's name on the hub."""
    dev: str | None = None
    """Rows to evaluate on; without them, a share of the training rows is kept apart."""
    test: str | None = None
    """Rows to predict, with or without labels."""
    dev_share: float = Field(0.1, gt=0, lt=1)
    """Share of the training rows that is kept apart where there is no dev."""
    hub: Hub | None = None
    """Where the splits are, if not in files."""
    template: str
    """The prompt, with columns in braces; the answer follows its last line."""
    instruction: str | None = None
    """What the `verdict` template asks (default: the template's last line; a general question if that has a column)."""
    label: str = "label"
    """Column of the label."""
    id: str | None = None
    """Column of the row's id (default: its number)."""
    fields: dict[str, str] = {}
    """Name in the template -> column, where they differ."""
    labels: dict[str, str] | list[str] | None = None
    """Label -> the word that the model says for it; or a list, where both are the same."""
    numbers: Numbers | None = None
    """Instead of labels: numbers, judged by their distance."""
    metrics: list[str] = Field(["accuracy"], json_schema_extra={"items": {"type": "string", "enum": list(METRICS)}})
    """The first one stands in tables. Of f1, the last label is the positive one."""
    free: list[str] | None = None
    """Fields that may be cut when a prompt is too long (default: all)."""


def is_file(name: str) -> bool:
    """Whether a task is named by its file."""
    return name.endswith(SUFFIXES)


def read_task(path: Path) -> Task:
    """The task that a file declares.

    Raises:
        UserError: all that is wrong with the file, each with its line.
    """
    values, line = _read(path)
    try:
        said = TaskFile.model_validate(values)
    except ValidationError as wrong:
        # labels may be a dictionary or a list: pydantic tells what is wrong with either
        other = "list[" if isinstance(values.get("labels"), dict) else "dict["
        errors = [error for error in wrong.errors() if not any(other in str(part) for part in error["loc"])]
        problems = [f"{path}:{_line_of(line, error['loc'])}: {_explain(error)}" for error in errors]
        raise UserError("; ".join(problems)) from None
    problems = [f"{path}:{_line_of(line, (key,))}: {text}" for key, text in _problems(said)]
    if problems:
        raise UserError("; ".join(problems))
    return _task(said, path)


def dump(task_file: Path, into: Path) -> None:
    """Write a copy of a task file that means the same from any folder."""
    values, _ = _read(task_file)
    said = TaskFile.model_validate(values)
    changes: dict[str, Any] = {"name": said.name or _stem(task_file)}
    if said.hub is None:
        for split in ("train", "dev", "test"):
            name = getattr(said, split)
            changes[split] = str((task_file.parent / name).resolve()) if name else None
    into.parent.mkdir(parents=True, exist_ok=True)
    kept = said.model_copy(update=changes).model_dump(exclude_defaults=True)
    into.write_text(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True), encoding="utf-8")


def digests(task_file: Path) -> dict[str, str]:
    """Split -> SHA-256 of the table that a task file names for it."""
    said = TaskFile.model_validate(_read(task_file)[0])
    named = {} if said.hub is not None else {split: getattr(said, split) for split in ("train", "dev", "test")}
    tables = {split: task_file.parent / name for split, name in named.items() if name}
    found = {split: (path, path.stat()) for split, path in tables.items() if path.is_file()}
    return {split: _digest(path, stat.st_size, stat.st_mtime_ns) for split, (path, stat) in found.items()}


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, changed: int) -> str:
    """Of a table as it was then: a suite asks for it once for every finished run."""
    return files.digest(path)


def changed_since(task_file: Path, run: Path) -> str:
    """What a run was not made with any more: the task's file, or a table that it names. Empty if nothing has changed.
    Where files lie does not count."""
    kept = run / "tasks" / task_file.name
    if not kept.is_file():
        return ""

    def meaning(path: Path) -> dict[str, Any]:
        said = TaskFile.model_validate(_read(path)[0])
        tables = {split: Path(name).name for split in ("train", "dev", "test") if (name := getattr(said, split))}
        return {**said.model_dump(), **tables, "name": said.name or _stem(path)}

    if meaning(kept) != meaning(task_file):
        return str(task_file)
    was = files.read_json(run / "environment.json").get("tables", {}).get(task_file.name, {})
    now = digests(task_file)
    return next((f"the {split} table of {task_file}" for split in was if was[split] != now.get(split)), "")


def _stem(path: Path) -> str:
    name = short(re.sub(r"[^\w.-]", "-", path.stem))
    return f"task-{name}" if problem(name) else name


def _read(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The values in a YAML file, and the line of every key."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = did_you_mean_path(path)
        raise UserError(f"{path}: no such task file{near}; `rl4nlu new task {path}` writes one to fill in") from None
    except (OSError, UnicodeDecodeError) as wrong:
        raise UserError(f"{path}: cannot be read as a task file ({wrong})") from None
    node = yamls.nodes(path, text)
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:1: a task file holds lines of `name: value`; `rl4nlu new task FILE` writes one")
    line: dict[tuple[str, ...], int] = {}
    return _value(node, (), line, path), line


def _value(node: Any, at: tuple[str, ...], line: dict[tuple[str, ...], int], path: Path) -> Any:
    """What a node says, in the letters of the file: YAML would read a column called no as false, a label 1 as a number.
    pydantic makes numbers where numbers are wanted."""
    if isinstance(node, yaml.MappingNode):
        found = {}
        for key, value in node.value:
            here = (*at, str(key.value))
            if here in line:
                raise UserError(f"{path}:{key.start_mark.line + 1}: {'.'.join(here)} stands there twice; remove one")
            line[here] = key.start_mark.line + 1
            found[here[-1]] = _value(value, here, line, path)
        return found
    if isinstance(node, yaml.SequenceNode):
        line.update({(*at, str(i)): item.start_mark.line + 1 for i, item in enumerate(node.value)})
        return [_value(item, (*at, str(i)), line, path) for i, item in enumerate(node.value)]
    return None if node.tag == "tag:yaml.org,2002:null" else str(node.value)


def _line_of(line: Mapping[tuple[str, ...], int], loc: tuple[Any, ...]) -> int:
    """The line of a key, else of the nearest thing around it."""
    names = tuple(str(part) for part in loc if "[" not in str(part))
    while names and names not in line:
        names = names[:-1]
    return line.get(names, 1)


def _explain(error: Any) -> str:
    # of labels pydantic tells the kind too: labels.dict[str,str].x
    where = ".".join(str(part) for part in error["loc"] if "[" not in str(part))
    if error["type"] == "extra_forbidden":
        return f"{where}: no such entry{did_you_mean(where, _entries())}"
    if error["type"] == "missing":
        return f"{where} is missing: {_entries()[where]}"
    return f"{where}: {error['msg'][0].lower() + error['msg'][1:]} (got {error['input']!r})"


def _entries() -> dict[str, str]:
    """All entries that a task file may have, with their meanings."""
    groups: dict[str, type[BaseModel]] = {"": TaskFile, "hub.": Hub, "numbers.": Numbers}
    return {
        prefix + name: info.description or ""
        for prefix, group in groups.items()
        for name, info in group.model_fields.items()
    }


def _problems(said: TaskFile) -> list[tuple[str, str]]:
    """(entry, what is wrong with it)."""
    found: list[tuple[str, str]] = []
    if said.name is not None and (wrong_name := problem(said.name)):
        found.append(("name", f"name: {wrong_name} (got {said.name[:80]!r})"))
    if said.train is None and said.test is None and said.dev is None:
        found.append(("train", "no rows: name a file at train (and dev, test)"))
    if (said.labels is None) == (said.numbers is None):
        found.append(("labels", "give either labels (a list, or label: word) or numbers (low, high, step)"))
    for entry in ("template", "instruction"):
        try:
            names = template_fields(getattr(said, entry) or "")
        except ValueError as wrong:
            found.append((entry, f"{entry}: {wrong}; a literal brace is written twice"))
            continue
        if entry == "template" and not names:
            found.append((entry, "template: it names no column in braces, so every row would be asked the same"))
        if entry == "instruction" and names:
            found.append((entry, "instruction: it is the same for every row, so it cannot hold a column in braces"))
        if said.label in [said.fields.get(name, name) for name in names]:
            found.append((entry, f"template: it shows the label ({said.label}), which is what the model should find"))
    try:
        shown = template_fields(said.template)
    except ValueError:  # told above
        shown = (*said.fields, *(said.free or ()))
    for entry, names in (("fields", tuple(said.fields)), ("free", tuple(said.free or ()))):
        if odd := [name for name in names if name not in shown]:
            found.append((entry, f"{entry}: the template shows no {{{odd[0]}}}{did_you_mean(odd[0], shown)}"))
    words = _words(said)
    if said.labels is not None:
        if len(words) < 2:
            found.append(("labels", "at least two labels are needed"))
        seen: dict[str, str] = {}
        for label, word in words.items():
            if not word.strip() or "\n" in word:
                found.append(("labels", f"labels: the word of {label!r} is empty or has more than one line"))
            elif word.casefold() in seen:
                found.append(("labels", f"labels: {seen[word.casefold()]!r} and {label!r} have the same word {word!r}"))
            seen[word.casefold()] = label
        if len({label.casefold() for label in words}) < len(words):
            found.append(("labels", "labels: two labels differ in nothing but upper and lower case"))
    if said.numbers is not None:
        steps = (said.numbers.high - said.numbers.low) / said.numbers.step
        if not 0.5 < steps < 200.5 or abs(steps - round(steps)) > 1e-6:
            found.append(("numbers", "numbers: from low to high there must be 1 to 200 whole steps"))
    return found + _metric_problems(said)


def _metric_problems(said: TaskFile) -> list[tuple[str, str]]:
    found = []
    if not said.metrics:
        found.append(("metrics", f"metrics: name at least one of {', '.join(METRICS)}"))
    for name in said.metrics:
        if name not in METRICS:
            near = did_you_mean(name, METRICS)
            found.append(("metrics", f"metrics: no metric is called {name!r}{near}; there are {', '.join(METRICS)}"))
        elif name in FOR_NUMBERS and said.numbers is None:
            found.append(("metrics", f"metrics: {name} is for numbers, and this task has labels"))
        elif name not in (*FOR_NUMBERS, "accuracy") and said.numbers is not None:
            found.append(("metrics", f"metrics: {name} is for labels, and this task has numbers"))
        elif name == "f1" and len(_words(said)) > 2:
            found.append(("metrics", "metrics: f1 is for two labels; with more take macro_f1"))
    return found


def _words(said: TaskFile) -> dict[str, str]:
    if isinstance(said.labels, dict):
        return {label: word.strip() for label, word in said.labels.items()}  # an answer is read so, too
    return {label: label for label in said.labels or []}


def _task(said: TaskFile, path: Path) -> Task:
    if said.numbers is not None:
        low, step = said.numbers.low, said.numbers.step
        count = round((said.numbers.high - low) / step) + 1
        places = max(len(f"{x:.10f}".rstrip("0").split(".")[1]) for x in (low, step))
        labels = tuple(f"{low + i * step:.{places}f}" for i in range(count))
        words = {label: label for label in labels}
    else:
        words = _words(said)
        labels = tuple(words)
    template = said.template.rstrip("\n")
    body, _, cue = template.rpartition("\n")
    names = dict.fromkeys(template_fields(template))
    columns = {name: (said.fields.get(name, name),) for name in names}
    columns |= {LABEL: (said.label,)} | ({ID: (said.id,)} if said.id else {})
    splits = {split: name for split in ("train", "dev", "test") if (name := getattr(said, split)) is not None}
    hub = (said.hub.dataset, said.hub.config, said.hub.revision) if said.hub else None
    return Task(
        name=f"{SUITE}/{said.name or _stem(path)}",
        files=None,
        columns=columns,
        labels=labels,
        words=words,
        plain=template,
        ask=said.instruction or (cue if not template_fields(cue) else "Answer the question about the text."),
        # a cue that holds data of the row cannot be left out
        body=body if template_fields(body) and not template_fields(cue) else template,
        metrics=tuple(said.metrics),
        free=tuple(said.free if said.free is not None else names),
        numeric=said.numbers is not None,
        table=Table(path.parent, splits, said.dev_share, hub),
        eval_split="dev" if "train" in splits or "dev" in splits else "test",
    )
