"""What the GLUE and the SuperGLUE test servers take, and a checker that reads a zip back and trusts nothing.

Formats as nyu-mll's jiant wrote them for these servers: GLUE takes a TSV a task with the columns index and prediction,
SuperGLUE a JSONL a task with idx and label.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError, did_you_mean, did_you_mean_path
from .tasks import TASKS

HEADER = "index\tprediction"
LARGEST, SHOWN = 10**8, 5
"""Bytes of a zip's files (the largest submission has a twentieth of that); problems of one file that are told."""
MULTIRC = {"passage": 166, "question": 1820}
"""Passages and questions of MultiRC's test split; like its answers they are counted through the whole split."""
META = {"superglue/multirc": ("paragraph", "question", "answer"), "superglue/record": ("query", "entity")}
"""What the server's file needs of a row beyond its id."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class ServerFile:
    """What a server wants of one task."""

    task: str
    name: str
    rows: int
    """Rows of the official test split; of MultiRC answers, of ReCoRD queries."""
    labels: Mapping[str, Any] | None = None
    """Our label -> the server's; None: the same names, in STS-B and ReCoRD any number or entity."""
    dense: bool = True
    """Whether the ids are 0, 1, 2, ..."""

    @property
    def suite(self) -> str:
        return self.task.split("/")[0]

    @property
    def known(self) -> list[Any]:
        """The labels that the server knows."""
        if self.labels is not None:
            return list(self.labels.values())
        return [] if TASKS[self.task].numeric else list(TASKS[self.task].labels)


def _binary(task: str) -> dict[str, str]:
    """GLUE's own numbers, as its training files have them."""
    return {label: number for number, label in TASKS[task].aliases.items()}


LOWER, UPPER, NUMBER = {"False": "false", "True": "true"}, {"False": "False", "True": "True"}, {"False": 0, "True": 1}
FILES = (
    ServerFile("glue/cola", "CoLA.tsv", 1063, _binary("glue/cola")),
    ServerFile("glue/sst2", "SST-2.tsv", 1821, _binary("glue/sst2")),
    ServerFile("glue/mrpc", "MRPC.tsv", 1725, _binary("glue/mrpc")),
    ServerFile("glue/stsb", "STS-B.tsv", 1379),
    ServerFile("glue/qqp", "QQP.tsv", 390_965, _binary("glue/qqp")),
    ServerFile("glue/mnli", "MNLI-m.tsv", 9796),
    ServerFile("glue/mnli-mm", "MNLI-mm.tsv", 9847),
    ServerFile("glue/qnli", "QNLI.tsv", 5463),
    ServerFile("glue/rte", "RTE.tsv", 3000),
    ServerFile("glue/wnli", "WNLI.tsv", 146, _binary("glue/wnli")),
    ServerFile("glue/ax", "AX.tsv", 1104),
    ServerFile("superglue/boolq", "BoolQ.jsonl", 3245, LOWER),
    ServerFile("superglue/cb", "CB.jsonl", 250),
    ServerFile("superglue/copa", "COPA.jsonl", 500, {"0": 0, "1": 1}),
    ServerFile("superglue/multirc", "MultiRC.jsonl", 9693, NUMBER),
    ServerFile("superglue/record", "ReCoRD.jsonl", 10_000, dense=False),
    ServerFile("superglue/rte", "RTE.jsonl", 3000),
    ServerFile("superglue/wic", "WiC.jsonl", 1400, LOWER),
    ServerFile("superglue/wsc", "WSC.jsonl", 146, UPPER),
    ServerFile("superglue/axb", "AX-b.jsonl", 1104),
    ServerFile("superglue/axg", "AX-g.jsonl", 356),
)
BY_NAME = {file.name: file for file in FILES}
BY_TASK = {file.task: file for file in FILES}


def check_zip(path: Path) -> tuple[list[str], list[str]]:
    """What a server would refuse of a zip, one line each, and the tasks of its suite that are missing.

    Raises:
        UserError: it is no zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST:
                return [f"{path}: unpacked it is larger than any submission"], []
            if broken := archive.testzip():
                return [f"{path}: {broken} is damaged"], []
            names = [name for name in archive.namelist() if not name.endswith("/")]
            contents = {name: archive.read(name) for name in names}
    except FileNotFoundError:
        near = did_you_mean_path(path)
        raise UserError(f"{path}: no such file{near}; `rl4nlu submit RUN... --out {path}` writes one") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as wrong:
        raise UserError(f"{path}: not a zip that can be read ({wrong}); write it again with `rl4nlu submit`") from None
    problems = [f"{name}: stands there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    files = []
    for name, content in contents.items():
        if name not in BY_NAME:
            hint = "; files must not lie in a folder" if Path(name).name in BY_NAME else _meant(name)
            problems.append(f"{name}: the servers know no file of this name{hint}")
            continue
        files.append(BY_NAME[name])
        found = list(_check(BY_NAME[name], content))
        problems += [f"{name}{text}" for text in found[:SHOWN]]
        problems += [f"{name}: and {len(found) - SHOWN} more like these"] if len(found) > SHOWN else []
    suites = {file.suite for file in files}
    if len(suites) > 1:
        problems.append("files of GLUE and of SuperGLUE are in one zip, and each has a server of its own")
    if not files and not problems:
        problems.append("there is no file in it")
    have = {file.name for file in files}
    return problems, [file.task for file in FILES if file.suite in suites and file.name not in have]


def _meant(name: str) -> str:
    """The file that is meant; letters' case alone may be what is wrong."""
    alike = (known for known in BY_NAME if known.casefold() == name.casefold())
    return next((f" (did you mean {known!r}?)" for known in alike), did_you_mean(name, BY_NAME))


def _check(file: ServerFile, content: bytes) -> Iterator[str]:
    """What is wrong with a file; each text begins with ":line: " or ": "."""
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as wrong:
        yield f": byte {wrong.start} is not UTF-8"
        return
    if lines[-1] == "":
        lines.pop()
    read = _read_tsv if file.suite == "glue" else _read_multirc if file.name == "MultiRC.jsonl" else _read_jsonl
    seen: dict[Any, int] = {}
    for number, (row_id, label, problem) in read(lines):
        if problem:
            yield f":{number}: {problem}"
            continue
        if row_id in seen:
            yield f":{number}: the row {row_id} stands at line {seen[row_id]} already"
        seen[row_id] = number
        if wrong_label := _wrong(file, label):
            yield f":{number}: {wrong_label}"
    if len(seen) != file.rows:
        yield f": {len(seen)} rows, and the test split has {file.rows}"
    if file.dense:
        ids = {row_id[-1] if isinstance(row_id, tuple) else row_id for row_id in seen}
        yield from (f": the row {i} is missing" for i in range(file.rows) if i not in ids)
        yield from (f":{seen[i]}: there is no row {i} in the test split" for i in seen if _outside(i, file.rows))
    if read is _read_multirc:
        for place, (what, count) in enumerate(MULTIRC.items()):
            have = {ids[place] for ids in seen}
            yield from (f": the {what} {i} is missing" for i in range(count) if i not in have)
            yield from (f": there is no {what} {i} in the test split" for i in sorted(have) if not 0 <= i < count)


def _outside(row_id: Any, rows: int) -> bool:
    last = row_id[-1] if isinstance(row_id, tuple) else row_id
    return not 0 <= last < rows


def _wrong(file: ServerFile, label: Any) -> str:
    if file.task == "superglue/record":
        return "" if isinstance(label, str) and label.strip() else f"the label {label!r} is not the text of an entity"
    if not file.known:
        # not all that float() takes: the servers know no 1_0, no other script's digits and no spaces
        fits = isinstance(label, str) and _NUMBER.fullmatch(label) is not None and 0 <= float(label) <= 5
        return "" if fits else f"the prediction {label!r} is not a number from 0 to 5"
    # True == 1 in Python, and not for the server
    fits = any(label == known and type(label) is type(known) for known in file.known)
    return "" if fits else f"the label {label!r} is none of {', '.join(map(repr, file.known))}"


Read = Iterator[tuple[int, tuple[Any, Any, str]]]
"""Line number, (row id, label, what is wrong with the line)."""


def _read_tsv(lines: Sequence[str]) -> Read:
    if not lines or lines[0] != HEADER:
        yield 1, (None, None, f"the header is {lines[0] if lines else ''!r}, and {HEADER!r} is needed")
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        if len(cells) != 2:
            yield number, (None, None, f"{len(cells)} columns, and 2 are needed")
        elif not (cells[0].isascii() and cells[0].isdecimal() and len(cells[0]) < 10):
            yield number, (None, None, f"the index {cells[0]!r} is not a whole number")
        else:
            yield number, (int(cells[0]), cells[1], "")


def _read_jsonl(lines: Sequence[str]) -> Read:
    for number, row in _objects(lines):
        if isinstance(row, str):
            yield number, (None, None, row)
        elif set(row) != {"idx", "label"}:
            yield number, (None, None, f"the keys are {', '.join(row)}, and idx and label are needed")
        elif not _whole(row["idx"]):
            yield number, (None, None, f"idx {row['idx']!r} is not a whole number")
        else:
            yield number, (row["idx"], row["label"], "")


def _read_multirc(lines: Sequence[str]) -> Read:
    first: dict[int, int] = {}
    for number, row in _objects(lines):
        if isinstance(row, str):
            yield number, (None, None, row)
            continue
        try:
            if _whole(row["idx"]) and first.setdefault(row["idx"], number) != number:
                problem = f"the passage {row['idx']} stands at line {first[row['idx']]} already; it needs one line"
                yield number, (None, None, problem)
            for question in row["passage"]["questions"]:
                for answer in question["answers"]:
                    ids = (row["idx"], question["idx"], answer["idx"])
                    problem = "" if all(map(_whole, ids)) else f"idx {ids} are not whole numbers"
                    yield number, (ids, answer["label"], problem)
        except (KeyError, TypeError):
            yield number, (None, None, "not of the form idx, passage: questions: idx, answers: idx, label")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _objects(lines: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line number, and the object in it or what is wrong."""
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            yield number, "not a JSON object"
        else:
            yield number, row if isinstance(row, dict) else "not a JSON object"
