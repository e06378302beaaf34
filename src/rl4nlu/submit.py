"""The zip that the GLUE or the SuperGLUE test server takes, made of runs on the test splits."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError
from .metrics import Outcome, chosen, confidence_of
from .run import read_results
from .server import BY_TASK, FILES, HEADER, META, SHOWN, ServerFile, check_zip
from .tasks import TASKS, Example

ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""The same predictions give the same bytes."""


@dataclass(frozen=True)
class Submission:
    """What went into a zip."""

    tasks: dict[str, Path]
    """Task -> the run that its predictions are from."""
    missing: list[str]
    """Tasks of the suite without predictions."""
    filled: int
    """Answers that could not be parsed: the task's first label stands for them."""


def submit(runs: Sequence[Path], out: Path) -> Submission:
    """Write the zip for the server of the suite that these runs belong to.

    Args:
        runs: run folders with predictions of test splits; a folder of run folders stands for all of them.
        out: the zip to write.

    Raises:
        UserError: no test predictions, two runs of one task, tasks of both suites, rows missing, or `out` is there.
    """
    if out.exists():
        raise UserError(f"--out {out} is there already: name another file, or remove this one first")
    sources = _sources(runs)
    suites = {BY_TASK[task].suite for task in sources}
    if len(suites) > 1:
        raise UserError("these runs are of GLUE and of SuperGLUE, which have a server each: submit them apart")
    files = [file for file in FILES if file.suite in suites]
    texts, filled = {}, 0
    for file in files:
        if file.task in sources:
            rows = _predictions(sources[file.task], file.task)
            filled += sum(row["prediction"] is None for row in rows)
            texts[file.name] = "".join(f"{line}\n" for line in _lines(file, rows))
    _write_zip(texts, out)
    missing = [file.task for file in files if file.task not in sources]
    return Submission({file.task: sources[file.task] for file in files if file.task in sources}, missing, filled)


def _write_zip(texts: Mapping[str, str], out: Path) -> None:
    part = out.with_name(out.name + ".part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts.items():
                archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), text, zipfile.ZIP_DEFLATED)
        problems, _ = check_zip(part)
        if problems:
            raise UserError(f"{'; '.join(problems[:SHOWN])}; the server would refuse it, so nothing was written")
        os.replace(part, out)
    except OSError as wrong:
        raise UserError(f"--out {out}: cannot be written ({wrong.strerror})") from None
    finally:
        with contextlib.suppress(OSError):  # where the folder is none, there is nothing to remove
            part.unlink(missing_ok=True)


def _sources(runs: Sequence[Path]) -> dict[str, Path]:
    """Task -> the run that holds its test predictions."""
    folders: list[Path] = []
    for path in runs:
        inner = sorted(file.parent for file in path.glob("*/results.json"))
        folders += [path] if (path / "results.json").is_file() or not inner else inner
    found: dict[str, Path] = {}
    for folder in dict.fromkeys(folders):
        for result in read_results(folder):
            task = result["task"]
            if result.get("split") == "test" and task in BY_TASK:
                if task in found:
                    raise UserError(
                        f"{found[task]} and {folder} both hold test predictions of {task}: give one of them"
                    )
                found[task] = folder
    if not found:
        names = ", ".join(map(str, runs))
        raise UserError(f"{names}: no predictions of a test split; make them with rl4nlu evaluate --split test")
    return found


def _predictions(run: Path, task: str) -> list[dict[str, Any]]:
    path = run / "predictions.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, and the predictions should stand there") from None
    except UnicodeDecodeError as wrong:
        raise UserError(f"{path}: byte {wrong.start} is not UTF-8; make the predictions again") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line:
            try:
                row = json.loads(line)
                if row["task"] == task:
                    _usable(task, row)
                    rows.append(row)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                raise UserError(f"{path}:{number}: this line is not a prediction of this version of rl4nlu") from None
    return rows


def _usable(task: str, row: Mapping[str, Any]) -> None:
    """Raises KeyError, TypeError or ValueError where a row lacks what the server's file needs of it."""
    said = row["prediction"]
    if said is not None and TASKS[task].numeric:
        float(said)
    elif said is not None and said not in TASKS[task].labels:
        raise ValueError(f"{said!r} is no label of {task}")
    if not all(isinstance(row["meta"][name], str if name == "entity" else int) for name in META.get(task, ())):
        raise TypeError("meta")
    if task not in META:
        int(row["id"])
    elif row["id"] and row.get("scores"):
        _ = sum(row["scores"][name] + 0.0 for name in TASKS[task].labels)


def _lines(file: ServerFile, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of a server's file."""
    task = TASKS[file.task]

    def label(row: Mapping[str, Any]) -> Any:
        said = task.labels[0] if row["prediction"] is None else row["prediction"]
        return said if file.labels is None else file.labels[said]

    if file.suite == "glue":
        yield HEADER
        for row in rows:
            yield f"{row['id']}\t{float(label(row)):.3f}" if task.numeric else f"{row['id']}\t{label(row)}"
    elif file.task == "superglue/multirc":
        passages: dict[int, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            at = row["meta"]
            passages[at["paragraph"]][at["question"]].append({"idx": at["answer"], "label": label(row)})
        for passage, questions in passages.items():
            listed = [{"idx": question, "answers": answers} for question, answers in questions.items()]
            yield json.dumps({"idx": passage, "passage": {"questions": listed}})
    elif file.task == "superglue/record":
        queries: dict[int, list[Outcome]] = defaultdict(list)
        for row in rows:
            example = Example(row["id"], {}, None, meta=row["meta"])
            outcome = Outcome(example, row["prediction"], confidence_of(task, row.get("scores")))
            queries[row["meta"]["query"]].append(outcome)
        for query, candidates in queries.items():
            yield json.dumps({"idx": query, "label": chosen(task, candidates).example.meta["entity"]})
    else:
        yield from (json.dumps({"idx": int(row["id"]), "label": label(row)}) for row in rows)
