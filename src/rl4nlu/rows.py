"""Files -> rows, each with its place for messages: the benchmarks' TSV and JSONL; CSV, TSV, JSONL, parquet of users.

UTF-8 with or without a byte-order mark. A row that cannot be read is handed on as its error, so that the caller may
go on with the next one; where a CSV file is broken there is no next one, and reading ends.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError, did_you_mean_path

Row = Mapping[str, Any]
Located = tuple[str, Row | UserError]
"""("file:line", the row or what is wrong with it)."""
_HALF = re.compile("[\ud800-\udfff]")
"""Of a surrogate pair one; what cuts strings by UTF-16 units leaves such, and no tokenizer and no file takes them."""
SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")


def read_rows(path: Path, headerless: tuple[str, ...] | None = None, quoted: bool = False) -> Iterator[Located]:
    """Rows of a .jsonl, .csv, .tsv or .parquet file.

    Args:
        path: the file.
        headerless: names of the columns, for a TSV file without a header line.
        quoted: whether a .tsv file quotes cells as .csv files do; the benchmarks' own files do not.

    Raises:
        UserError: the file is missing, empty, of another kind, not UTF-8, its header cannot be read, or (while its
            rows are read) it is no valid CSV from some line on.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, and a file is needed")
    if not path.is_file():
        raise UserError(f"{path}: no such file{did_you_mean_path(path)}; check the path")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: files of this kind cannot be read; give one of {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    _check_text(path)
    if path.suffix == ".csv" or (quoted and path.suffix == ".tsv"):
        return _csv_rows(path, path.read_bytes().decode("utf-8-sig"))
    return _json_rows(path) if path.suffix == ".jsonl" else _tsv_rows(path, headerless)


def _check_text(path: Path) -> None:
    """Before any row is read; line by line, because the benchmarks' largest files take their size several times over in
    memory if they are read as a whole.

    Raises:
        UserError: the file is empty or not UTF-8.
    """
    empty, place = True, 0
    with path.open("rb") as file:
        for line in file:
            try:
                # no byte of a longer character is a line feed, so that lines may be decoded one by one
                text = line.decode("utf-8")
            except UnicodeDecodeError as wrong:
                where = place + wrong.start
                raise UserError(f"{path}: byte {where} is not UTF-8; save the file as UTF-8") from None
            empty = empty and not text.removeprefix("" if place else "\ufeff").strip()
            place += len(line)
    if empty:
        raise UserError(f"{path}: the file is empty; put rows there, or copy it again")


def _lines(path: Path) -> Iterator[str]:
    """Lines end by LF or CRLF and by nothing else."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for line in file:
            if line != "\r":  # at the end of the file, where no line begins any more
                yield line.removesuffix("\n").removesuffix("\r")


def _json_rows(path: Path) -> Iterator[Located]:
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as wrong:
            yield where, UserError(f"{where}: not a JSON object ({wrong.msg} at column {wrong.colno})")
        except (ValueError, RecursionError) as wrong:  # numbers of thousands of digits, brackets without end
            yield where, UserError(f"{where}: this JSON cannot be read ({wrong})")
        else:
            if not isinstance(row, dict):
                row = UserError(f"{where}: a JSON {type(row).__name__} stands here, and an object is needed")
            elif "\\ud" in line.lower() and _HALF.search(json.dumps(row, ensure_ascii=False)):
                row = UserError(f"{where}: half a character stands here (a lone \\ud800 to \\udfff), which is no text")
            yield where, row


def _tsv_rows(path: Path, headerless: tuple[str, ...] | None) -> Iterator[Located]:
    """Cells end by tabs, and a quote is a letter like any other."""
    names = headerless
    for number, line in enumerate(_lines(path), 1):
        cells = line.split("\t")
        if names is None:
            names = tuple(cells)
        else:
            yield _row(f"{path}:{number}", names, cells)


def _csv_rows(path: Path, text: str) -> Iterator[Located]:
    """Cells may be quoted and then hold separators, quotes and line breaks; a row is named by its first line."""
    header = re.split("[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    delimiter = "\t" if path.suffix == ".tsv" else ";" if header.count(";") > header.count(",") else ","
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: tuple[str, ...] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as wrong:
            # where the next row begins is not known, so that no row behind it can be read
            raise UserError(f"{path}:{line}: not valid CSV ({wrong}); is a quote missing?") from None
        if not cells:  # an empty line is no row
            continue
        if names is None:
            names = tuple(cell.strip() for cell in cells)
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise UserError(f"{path}:{line}: the column {twice!r} stands there twice; rename one")
        else:
            yield _row(f"{path}:{line}", names, cells)


def _row(where: str, names: tuple[str, ...], cells: list[str]) -> Located:
    if len(cells) == len(names):
        return where, dict(zip(names, cells, strict=True))
    counts = f"{len(cells)} columns, and {len(names)} are needed ({', '.join(names)})"
    return where, UserError(f"{where}: {counts}; mend or remove this line")


def _parquet_rows(path: Path) -> Iterator[Located]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as wrong:
        raise UserError(f"{path}: not a parquet file ({str(wrong).splitlines()[0][:200]})") from None
    return ((f"{path}:{i}", row) for i, row in enumerate(table.to_pylist()))
