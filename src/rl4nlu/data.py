"""Rows -> examples: from a folder in the official layout, from the hub's parquet copies, or from the bundle.

Files are read exactly: UTF-8 with or without a byte-order mark, lines ended by LF or CRLF and by nothing else, no
quoting in TSV. Every row is checked; what is wrong is named by file and line, and nothing is guessed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError
from .tasks import Example, Files, Task, find

SUITE_FOLDERS = {"glue": "glue", "superglue": "superglue"}
HUB = {
    "glue": ("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"),
    "super_glue": ("aps/super_glue", "3de24cf8022e94f4ee4b9d55a6f539891524d646"),
}
SPLITS = ("train", "dev", "test")


def load(task: Task, split: str, data: str | Path | None = None, limit: int | None = None) -> list[Example]:
    """The examples of a split, in file order.

    Args:
        task: the task.
        split: train, dev or test.
        data: folder that holds `glue/` and `superglue/` in the official layout; None: the hub (or the bundle).
        limit: at most this many examples.

    Raises:
        UserError: split, file, column or label is not what the task declares.
    """
    if split not in SPLITS:
        raise UserError(f"no split is called {split!r}: choose train, dev or test")
    if task.generate is not None:
        if split == "test":
            raise UserError(f"{task.name} has the splits train and dev, not 'test'")
        return task.generate(task.name, split)[:limit]
    files = task.files
    assert files is not None, f"{task.name} declares neither files nor a generator"
    if split not in files.splits:
        has = " and ".join(files.splits)
        other = f"; its training rows are those of {task.train_task}" if task.train_task else ""
        raise UserError(f"{task.name} has no {split} split, only {has}{other}")
    if data is None:
        rows = _hub_rows(task, files, split)
    else:
        rows = _file_rows(task, files, split, Path(data))
    examples: list[Example] = []
    for where, row in rows:
        try:
            found = list(task.expand(task, row)) if task.expand else [_example(task, row, where, str(len(examples)))]
        except KeyError as missing:
            raise UserError(f"{where}: no column or key {missing} in this row; {task.name} needs it") from None
        except (AttributeError, TypeError, ValueError, IndexError) as wrong:
            raise UserError(f"{where}: {wrong}") from None
        for example in found:
            if odd := [name for name, text in example.fields.items() if not isinstance(text, str)]:
                raise UserError(f"{where}: {odd[0]!r} is not text")
        if split != "test" and any(example.label is None for example in found):
            raise UserError(f"{where}: no label, and every {split} row needs one ({', '.join(task.labels)})")
        examples += found
        if limit is not None and len(examples) >= limit:
            break
    if not examples:
        raise UserError(f"{task.name} has no {split} row in {data or 'the hub copy'}")
    return examples[:limit]


def training_task(task: Task) -> Task:
    """The task whose training rows teach `task`: itself, but for the diagnostic sets."""
    return find(task.train_task) if task.train_task else task


def available(task: Task, split: str, data: str | Path | None) -> bool:
    """Whether the split has a file in `data` (always true of the bundle and, unseen, of the hub)."""
    if task.files is None:
        return split != "test"
    if split not in task.files.splits:
        return False
    return data is None or any(path.is_file() for path in _paths(task, task.files, split, Path(data)))


def read_rows(path: Path, headerless: tuple[str, ...] | None = None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a .tsv or .jsonl file, each with its place ("file:line") for messages.

    Raises:
        UserError: the file is missing, empty, not UTF-8, or a line is not what the format asks for.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, and a file is needed") from None
    except UnicodeDecodeError as wrong:
        raise UserError(f"{path}: byte {wrong.start} is not UTF-8; save the file as UTF-8") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise UserError(f"{path}: the file is empty")
    return _json_rows(path, lines) if path.suffix == ".jsonl" else _tsv_rows(path, lines, headerless)


def _json_rows(path: Path, lines: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as wrong:
            raise UserError(f"{where}: not a JSON object ({wrong.msg} at column {wrong.colno})") from None
        except (ValueError, RecursionError) as wrong:  # numbers of thousands of digits, brackets without end
            raise UserError(f"{where}: this JSON cannot be read ({wrong})") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: a JSON {type(row).__name__} stands here, and an object is needed")
        yield where, row


def _tsv_rows(
    path: Path, lines: list[str], headerless: tuple[str, ...] | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    names = headerless or tuple(lines[0].split("\t"))
    for number, line in enumerate(lines, 1):
        if number == 1 and headerless is None:
            continue
        cells = line.split("\t")
        if len(cells) != len(names):
            raise UserError(
                f"{path}:{number}: {len(cells)} columns, and {len(names)} are needed ({', '.join(names)}); "
                "mend or remove this line"
            )
        yield f"{path}:{number}", dict(zip(names, cells, strict=True))


def _paths(task: Task, files: Files, split: str, data: Path) -> list[Path]:
    names = files.splits[split]
    folder = data / SUITE_FOLDERS[task.suite] / files.folder
    return [folder / name for name in ((names,) if isinstance(names, str) else names)]


def _file_rows(task: Task, files: Files, split: str, data: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if not data.is_dir():
        raise UserError(f"--data {data}: no such folder; it should hold {task.suite}/{files.folder}/")
    paths = _paths(task, files, split, data)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{paths[0]}: no such file; {task.name} needs it for split {split} "
            "(leave --data out to load the rows from the hub)"
        )
    return read_rows(path, files.headerless.get(split))


def _hub_rows(task: Task, files: Files, split: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    import datasets

    suite, config = files.hub
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are no news to the user
    repository, revision = HUB[suite]
    if split not in files.hub_splits:
        raise UserError(f"{task.name} has no {split} split on the hub")
    try:
        rows = datasets.load_dataset(repository, config, split=files.hub_splits[split], revision=revision)
    except Exception as wrong:  # the hub client raises many kinds; the user needs one line and the other way in
        raise UserError(
            f"{task.name} could not be loaded from the hub ({repository}): {_first_line(wrong)}; "
            "with the official files at hand give --data DIR"
        ) from None
    return ((f"{repository}/{config}:{i}", row) for i, row in enumerate(rows))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _example(task: Task, row: Mapping[str, Any], where: str, default_id: str) -> Example:
    cells: dict[str, Any] = {}
    for name, columns in task.columns.items():
        column = next((column for column in columns if column in row), None)
        if column is None and name not in ("label", "id"):  # test files have no label, some files no id
            raise UserError(f"{where}: no column {' or '.join(map(repr, columns))}; the columns are {', '.join(row)}")
        cells[name] = None if column is None else row[column]
    label = task.label_of(cells.pop("label", None))
    row_id = cells.pop("id", None)
    for name, cell in cells.items():
        if not isinstance(cell, str) or not cell.strip():
            raise UserError(f"{where}: column {name!r} is empty; every row needs it")
    return Example(default_id if row_id is None else str(row_id), cells, label)


def example_from_fields(task: Task, row: Mapping[str, Any], where: str) -> Example:
    """An unlabelled row that names the template's own fields, as `predict` reads them.

    Raises:
        UserError: a field is missing or empty.
    """
    missing = [name for name in task.fields if row.get(name) is None or not str(row[name]).strip()]
    if missing:
        raise UserError(f"{where}: {task.name} needs the field {missing[0]!r}; this row has {', '.join(row) or 'none'}")
    row_id = row.get("id", row.get("idx", where.rsplit(":", 1)[-1]))
    return Example(str(row_id), {name: str(row[name]) for name in task.fields}, None)
