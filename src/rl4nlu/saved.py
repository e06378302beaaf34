"""What run folders say, checked: they may come from others, or a run may have been stopped in the middle of a line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from .errors import UserError
from .run import read_results
from .tasks import Task

Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=500)]
"""Text that stands in a table, in the terminal too, where control characters would give orders."""
Count = Annotated[int, Field(ge=0, le=10**12)]
_HALF = re.compile("[\ud800-\udfff]")


class _Read(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Result(_Read):
    task: Line
    method: Line
    model: Line
    seed: Count
    n: Count
    shots: Count
    decode: Line
    metrics: dict[Line, Annotated[float, Field(ge=-1.001, le=1.001)]]
    stderr: dict[Line, Annotated[float, Field(ge=0, le=1e3)]]
    unparsable: Count
    cut_rows: Count
    seconds: float
    name: Line = ""
    estimator: Line = ""
    actions: Line = ""
    template: Line = ""
    split: Line = ""
    calibrate: Line = ""
    unparsable_as: Line = ""


class _Row(_Read):
    id: str
    gold: str | None
    prediction: str | None
    task: Line = ""
    scores: dict[str, Annotated[float, Field(le=0.001)]] | None = None
    text: str | None = None
    group: str | None = None
    document: str | None = None
    meta: dict[str, Any] = {}


class _Step(_Read):
    step: Annotated[float, Field(ge=0, le=1e12)]


_PROMPTS: TypeAdapter[Any] = TypeAdapter(dict[str, dict[str, str]])
_VERSIONS: TypeAdapter[Any] = TypeAdapter(dict[Line, Any])
_RESULTS, _ROW, _STEP = TypeAdapter(list[_Result]), TypeAdapter(_Row), TypeAdapter(_Step)
_LINE: TypeAdapter[str] = TypeAdapter(Line)


def results(folder: Path) -> list[dict[str, Any]]:
    """The results of a run, with all that a table needs.

    Raises:
        UserError: they lack something, or something in them is of the wrong kind.
    """
    found = read_results(folder)
    _validate(_RESULTS, found, f"{folder / 'results.json'}")
    for result in found:
        if set(result["metrics"]) != set(result["stderr"]):
            raise UserError(f"{folder / 'results.json'}: {result['task']} has not one standard error for each metric")
    return found


def predictions(folder: Path, tasks: Mapping[str, Task]) -> list[dict[str, Any]]:
    """The rows of predictions.jsonl; those of the given tasks can be judged.

    Raises:
        UserError: one is no prediction.
    """
    rows = lines(folder / "predictions.jsonl", _ROW)
    for number, row in enumerate(rows, 1):
        for task in [tasks[row["task"]]] if row.get("task") in tasks else tasks.values() if "task" not in row else []:
            if not _can_be_judged(task, row):
                where = f"{folder / 'predictions.jsonl'}: row {number}"
                raise UserError(f"{where}: gold, prediction or scores are none of {task.name}")
    return rows


def steps(folder: Path) -> list[dict[str, Any]]:
    """The logged steps of a run.

    Raises:
        UserError: a line is no step.
    """
    return lines(folder / "metrics.jsonl", _STEP)


def prompts(folder: Path) -> dict[str, dict[str, str]]:
    """Task -> id of a row -> its prompt, of the rows whose prompts a run has kept; none in those of older versions.

    Raises:
        UserError: the file is not what it should be.
    """
    return _object(folder / "prompts.json", _PROMPTS)


def versions(folder: Path) -> dict[str, Any]:
    """What a run says of the libraries it was made with.

    Raises:
        UserError: the file is not what it should be.
    """
    found = _object(folder / "environment.json", _VERSIONS)
    return {name: value for name, value in found.items() if name not in ("folder", "weights")}


def _object(path: Path, kind: TypeAdapter[Any]) -> dict[str, Any]:
    """The object in a JSON file; an empty one where it is not there."""
    found = _parsed(text(path) or "{}", f"{path}")
    _validate(kind, found, f"{path}")
    return found


def lines(path: Path, kind: TypeAdapter[Any]) -> list[dict[str, Any]]:
    """The objects in a JSONL file, none where it is not there.

    Raises:
        UserError: a line is not what it should be.
    """
    found = []
    for number, line in enumerate(text(path).split("\n"), 1):
        if line.strip():
            row = _parsed(line, f"{path}:{number}")
            _validate(kind, row, f"{path}:{number}")
            found.append(row)
    return found


def _parsed(line: str, where: str) -> Any:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as wrong:
        raise UserError(f"{where}: not a JSON object ({str(wrong)[:100]}); run it again") from None
    if "\\ud" in line.lower() and _HALF.search(json.dumps(found, ensure_ascii=False)):
        raise UserError(f"{where}: half a character stands here (a lone \\ud800 to \\udfff)")
    return found


def text(path: Path) -> str:
    """What stands in a file of a run; nothing where it is not there.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as wrong:
        raise UserError(f"{path}: cannot be read ({wrong})") from None


def line(value: str, where: str) -> str:
    """The text, if it can stand in a line of the terminal.

    Raises:
        UserError: it cannot.
    """
    _validate(_LINE, value, where)
    return value


def same_metrics(found: Sequence[Mapping[str, Any]]) -> None:
    """Every two results of a task are told by the same metric first.

    Raises:
        UserError: they are not.
    """
    first: dict[str, str] = {}
    for result in found:
        main = next(iter(result["metrics"]), None)
        if main is not None and first.setdefault(result["task"], main) != main:
            raise UserError(f"{result['task']}: one run has {first[result['task']]}, and one {main}: report them apart")


def _validate(kind: TypeAdapter[Any], values: Any, where: str) -> None:
    try:
        kind.validate_python(values)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        at = ".".join(str(part)[:50] for part in first["loc"])
        raise UserError(f"{where}: not written by this version of rl4nlu ({at}: {first['msg'][:100]})") from None


def _can_be_judged(task: Task, row: Mapping[str, Any]) -> bool:
    said = [value for value in (row["gold"], row["prediction"]) if value is not None]
    if task.numeric:
        return all(_in_range(task, value) for value in said)
    if not all(value in task.labels for value in said) or (
        row.get("scores") and not set(task.labels) <= set(row["scores"])
    ):
        return False
    if "record_f1" in task.metrics:
        meta = row.get("meta", {})
        texts = [meta.get("entity"), *(meta["answers"] if isinstance(meta.get("answers"), list) else [None])]
        return len(texts) > 1 and all(isinstance(one, str) for one in texts)
    return True


def _in_range(task: Task, value: str) -> bool:
    try:
        low, high = float(task.labels[0]), float(task.labels[-1])
        return math.isfinite(float(value)) and low - 1 <= float(value) <= high + 1
    except ValueError:
        return False
