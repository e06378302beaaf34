"""Rows -> examples: from a folder in the official layout, the hub's parquet copies, the bundle, or a user's own table.

Every row is checked, and counted where it is a torn line that an official file is known to hold; what is wrong is named
by file and line, and nothing is guessed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from . import say
from .errors import UserError, did_you_mean, did_you_mean_path
from .rows import Located, Row, read_rows
from .seeding import generator
from .tasks import ID, LABEL, Example, Files, Table, Task, find
from .tasks.task import shared_text

SUITE_FOLDERS = {"glue": "glue", "superglue": "superglue"}
HUB = {
    "glue": ("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"),
    "super_glue": ("aps/super_glue", "3de24cf8022e94f4ee4b9d55a6f539891524d646"),
}
SPLITS = ("train", "dev", "test")


def load(
    task: Task, split: str, data: str | Path | None = None, limit: int | None = None, max_bad_rows: int = 0
) -> list[Example]:
    """The examples of a split, in file order.

    Args:
        task: the task.
        split: train, dev or test.
        data: folder that holds `glue/` and `superglue/` in the official layout; None: the hub (or the bundle). The
            files of a task of one's own are looked for here first, then beside the task's file.
        limit: at most this many examples.
        max_bad_rows: skip, and list, at most so many rows that are not what the task declares.

    Raises:
        UserError: split, file, column or label is not what the task declares.
    """
    if split not in SPLITS:
        raise UserError(f"no split is called {split!r}: choose train, dev or test")
    if task.generate is not None:
        if split == "test":
            raise UserError(f"{task.name} has the splits train and dev, not 'test': choose one of these")
        return task.generate(task.name, split)[:limit]
    if task.table is not None:
        rows, part = table_rows(task, task.table, split, data)
        examples = _checked(task, split, rows, None, max_bad_rows)
        kept = _part_of(task, task.table, part, examples)
        if not kept:
            source = task.table.splits["train" if part != "all" else split]
            apart = f": of its {len(examples)} all are kept apart for dev (dev_share)" if examples else ""
            raise UserError(f"{task.name} has no {split} row in {source}{apart}")
        return kept[:limit]
    files = task.files
    assert files is not None, f"{task.name} declares neither files nor a generator"
    if split not in files.splits:
        has = " and ".join(files.splits)
        other = f"; its training rows are those of {task.train_task}" if task.train_task else ""
        raise UserError(f"{task.name} has no {split} split: choose {has}{other}")
    rows = _hub_rows(task, files, split) if data is None else _file_rows(task, files, split, Path(data))
    examples = _checked(task, split, rows, limit, max_bad_rows, files.torn.get(split, 0))
    if not examples:
        raise UserError(f"{task.name} has no {split} row in {data or 'the hub copy'}; copy the files again")
    return examples


def _checked(
    task: Task, split: str, rows: Iterable[Located], limit: int | None, max_bad_rows: int, torn: int = 0
) -> list[Example]:
    """The examples of the rows; at most `torn` lines that are no rows at all are left out, and counted."""
    examples: list[Example] = []
    skipped, left_out = 0, 0
    first_at: dict[str, str] = {}  # by id, in tables that name their rows: methods are compared row by row
    for where, row in rows:
        if isinstance(row, UserError) and left_out < torn:
            left_out += 1
            continue
        try:
            found = _examples(task, split, where, row, str(len(examples)))
            if task.table is not None and ID in task.columns:
                earlier = first_at.setdefault(found[0].id, where)
                if earlier != where:
                    raise UserError(f"{where}: the id {found[0].id!r} stands at {earlier} too: give each its own")
            examples += found
        except UserError as wrong:
            skipped += 1
            if skipped > max_bad_rows:
                allowed = f" (this is bad row {skipped}; --max-bad-rows {max_bad_rows})"
                if not max_bad_rows:
                    told = "--max-bad-rows" in str(wrong)
                    allowed = "" if told else " (or leave such rows out: --max-bad-rows N)"
                raise UserError(f"{wrong}{allowed}") from None
            _say_once(f"skipped: {wrong}")
        if limit is not None and len(examples) >= limit:
            break
    if left_out:
        _say_once(f"{task.name}: {left_out} torn lines of the {split} file are left out, as other loaders do")
    return examples[:limit]


@cache
def _say_once(line: str) -> None:
    """A file that serves for train and dev is read twice; what is skipped in it is said once."""
    say.note(line)


def _examples(task: Task, split: str, where: str, row: Row | UserError, default_id: str) -> list[Example]:
    """The examples of one row.

    Raises:
        UserError: the row is not what the task declares.
    """
    if isinstance(row, UserError):
        raise row
    try:
        found = list(task.expand(task, row)) if task.expand else [_example(task, row, where, default_id)]
    except KeyError as missing:
        raise UserError(f"{where}: no column or key {missing} in this row; {task.name} needs it") from None
    except (AttributeError, TypeError, ValueError, IndexError) as wrong:
        raise UserError(f"{where}: {wrong}") from None
    for example in found:
        if odd := [name for name, text in example.fields.items() if not isinstance(text, str)]:
            raise UserError(f"{where}: {odd[0]!r} is not text")
    if split != "test" and any(example.label is None for example in found):
        _label_column_is_there(task, row, where)
        wanted = f"a number from {task.labels[0]} to {task.labels[-1]}" if task.numeric else ", ".join(task.labels)
        raise UserError(f"{where}: no label, and every row to train or to evaluate on needs one ({wanted})")
    return found


def _label_column_is_there(task: Task, row: Row, where: str) -> None:
    columns = task.columns.get(LABEL, ())
    if task.table is not None and not any(column in row for column in columns):
        near = did_you_mean(columns[0], row)
        raise UserError(f"{where}: no column {columns[0]!r} for the label{near}; the columns are {', '.join(row)}")


def _part_of(task: Task, table: Table, part: str, examples: list[Example]) -> list[Example]:
    """All rows; or, of a training file that has to serve for dev too, the share that is kept apart for dev, or the
    rest. Which rows they are is a function of their number and the task's name."""
    if part == "all":
        return examples
    order = generator(0, f"dev/{task.name}").permutation(len(examples))
    apart = set(order[: max(1, round(table.dev_share * len(examples)))].tolist())
    return [example for i, example in enumerate(examples) if (i in apart) == (part == "dev")]


def training_task(task: Task) -> Task:
    """The task whose training rows teach `task`: itself, but for the diagnostic sets."""
    return find(task.train_task) if task.train_task else task


def available(task: Task, split: str, data: str | Path | None) -> bool:
    """Whether the split has a file in `data` (always true of the bundle and, unseen, of the hub)."""
    if task.table is not None:
        return split in task.table.splits or (split == "dev" and "train" in task.table.splits)
    if task.files is None:
        return split != "test"
    if split not in task.files.splits:
        return False
    return data is None or any(path.is_file() for path in _paths(task, task.files, split, Path(data)))


def table_rows(task: Task, table: Table, split: str, data: str | Path | None) -> tuple[Iterable[Located], str]:
    """Rows of a user's own table, and which part of them the split is: all, or train or dev of a file for both.

    Raises:
        UserError: the task names no such split, or the file is missing or of an unknown kind.
    """
    both = split in ("train", "dev") and "dev" not in table.splits
    source = "train" if both else split
    if source not in table.splits:
        raise UserError(f"{task.name} has no {split} rows: name a file at {split}: in the task's file")
    name = table.splits[source]
    part = split if both else "all"
    if table.hub is not None:
        return hub_table(task, *table.hub, name), part
    # --data is where the benchmarks' files are too, so that it need not be where these are
    moved = Path(data) / name if data is not None else None
    path = moved if moved is not None and moved.is_file() else table.folder / name
    if not path.is_file():
        near = did_you_mean_path(path)
        raise UserError(f"{path}: no such file{near}; the task's file names it at {source}: mend it there")
    return read_rows(path, quoted=True), part


def _paths(task: Task, files: Files, split: str, data: Path) -> list[Path]:
    names = files.splits[split]
    folder = data / SUITE_FOLDERS[task.suite] / files.folder
    return [Path(os.path.normpath(folder / name)) for name in ((names,) if isinstance(names, str) else names)]


def _file_rows(task: Task, files: Files, split: str, data: Path) -> Iterable[Located]:
    if not data.is_dir():
        raise UserError(
            f"--data {data}: no such folder{did_you_mean_path(data)}; it should hold {task.suite}/{files.folder}/"
        )
    paths = _paths(task, files, split, data)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{paths[0]}: no such file; {task.name} needs it for split {split} "
            "(leave --data out to load the rows from the hub)"
        )
    return read_rows(path, files.headerless.get(split))


def _hub_rows(task: Task, files: Files, split: str) -> Iterable[Located]:
    suite, config = files.hub
    repository, revision = HUB[suite]
    if split not in files.hub_splits:
        raise UserError(f"{task.name} has no {split} split on the hub")
    rows = _from_hub(task, repository, config, revision, files.hub_splits[split])
    return ((f"{repository}/{config}:{i}", row) for i, row in enumerate(rows))


def hub_table(task: Task, repository: str, config: str | None, revision: str | None, split: str) -> Iterable[Located]:
    """Rows of a data set on the hub, with the names of its labels in place of their numbers."""
    import datasets

    rows = _from_hub(task, repository, config, revision, split)
    named = {name: kind for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
    for i, row in enumerate(rows):
        names = {name: kind.int2str(row[name]) for name, kind in named.items() if row[name] not in (None, -1)}
        yield f"{repository}:{i}", {**row, **names}


def _from_hub(task: Task, repository: str, config: str | None, revision: str | None, split: str) -> Any:
    import datasets

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are no news to the user
    try:
        return datasets.load_dataset(repository, config, split=split, revision=revision)
    except Exception as wrong:  # the hub client raises many kinds; the user needs one line and the other way in
        raise UserError(
            f"{task.name} could not be loaded from the hub ({repository}): {_first_line(wrong)}; "
            "with the files at hand give --data DIR"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _example(task: Task, row: Row, where: str, default_id: str) -> Example:
    cells: dict[str, Any] = {}
    for name, columns in task.columns.items():
        column = next((column for column in columns if column in row), None)
        # test files have no label, some of the benchmarks' files no id
        if column is None and name != LABEL and (name != ID or task.table is not None):
            near = did_you_mean(columns[0], row) if task.table is not None else ""
            wanted = " or ".join(map(repr, columns))
            raise UserError(f"{where}: no column {wanted}{near}; the columns are {', '.join(row)}")
        cells[name] = None if column is None else row[column]
    label = task.label_of(cells.pop(LABEL, None))
    row_id = cells.pop(ID, None)
    fields = {name: as_text(cell) for name, cell in cells.items()} if task.table is not None else cells
    for name, cell in cells.items():
        empty = not isinstance(cell, str) or not (cell.strip() or name in task.may_be_empty)
        if task.table is None and empty:
            raise UserError(f"{where}: column {name!r} is empty; every row needs it")
    if not any(text.strip() for text in fields.values()):
        raise UserError(f"{where}: all that the template shows of this row is empty ({', '.join(fields)})")
    document = shared_text(fields[task.shared]) if task.shared else None
    return Example(default_id if row_id is None else str(row_id), fields, label, document=document)


def as_text(cell: Any) -> str:
    """A cell of a user's own table as it is shown to the model; an empty one is an empty text."""
    if isinstance(cell, bytes):  # how some parquet files keep text
        cell = cell.decode()
    if isinstance(cell, list | dict):
        raise ValueError(f"a {type(cell).__name__} stands where a text or a number belongs: {str(cell)[:60]}")
    if cell is None or cell != cell:  # NaN: how tables write nothing
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def example_from_fields(task: Task, row: Row | UserError, where: str) -> Example:
    """An unlabelled row that names the template's own fields or the columns of the task's files, as `predict` reads
    them.

    Raises:
        UserError: a field is missing or empty.
    """
    if isinstance(row, UserError):
        raise row
    fields: dict[str, str] = {}
    for name in task.fields:
        known = task.columns.get(name, ())
        # of a user's own table the column that training has read, whatever else is there
        columns = (*known, name) if task.table is not None else (name, *known)
        cell = next((row[column] for column in columns if column in row), None)
        try:
            text = as_text(cell)
        except ValueError as wrong:
            raise UserError(f"{where}: {name}: {wrong}") from None
        if not any(column in row for column in columns) or (task.table is None and not text.strip()):
            raise UserError(
                f"{where}: {task.name} needs the field {name!r}; this row has {', '.join(row) or 'none'}; add it"
            )
        fields[name] = text
    if not any(text.strip() for text in fields.values()):
        raise UserError(f"{where}: all that the template shows of this row is empty ({', '.join(fields)})")
    cells = [row[column] for column in (*task.columns.get(ID, ()), "id", "idx") if column in row]
    row_id = next((cell for cell in cells if cell is not None and cell == cell), where.rsplit(":", 1)[-1])
    return Example(str(row_id), fields, None)
