"""Result files of other tools: a CSV with any column names, of which the user says which is which."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from deckbench.csvfile import MAX_CELL, open_input
from deckbench.disk import MAX_TEXT_BYTES
from deckbench.errors import InputError
from deckbench.grade import options_of
from deckbench.parse import clean, narrow, parse_scene
from deckbench.predictions import COLUMNS
from deckbench.predictions.read import check_row

NEEDED = ("question", "gold", "prediction")
# What a result file may say beside them; all else is unknown.
OPTIONAL = ("id", "pair_id", "kind", "p_a", "p_b", "p_anomaly", "tokens_in", "tokens_out")
SAMPLE_FIELDS = ("option_a", "option_b", "class", "step", "group", "frame", "lang")
KNOWN = (*NEEDED, *OPTIONAL, *SAMPLE_FIELDS)
DELIMITERS = (",", ";", "\t")
_PARTS = re.compile(r",(?=\s*\w+\s*=)")
EXAMPLE = "question=Question,gold=Answer,prediction=Output"


def parse_columns(text: str) -> dict[str, str]:
    """`question=Q,gold=Answer,prediction=Output` -> our name: the file's. Raises InputError naming what is wrong."""
    where, found = "--columns", dict[str, str]()
    for part in _PARTS.split(text) if text.strip() else ():  # a column's own name may hold a comma
        name, sign, column = (piece.strip() for piece in part.partition("="))
        if not sign or not column:
            raise InputError(f"{part!r} is not NAME=COLUMN", where, f"write them like {EXAMPLE}")
        if name not in KNOWN:
            raise InputError(f"{name!r} is no name of ours", where, f"one of: {', '.join(KNOWN)}")
        if name in found:
            raise InputError(f"{name!r} is given twice", where, "name each once")
        found[name] = column
    if missing := [name for name in NEEDED if name not in found]:
        raise InputError(f"{' and '.join(missing)} must be named", where, f"write them like {EXAMPLE}")
    return found


def read_columns(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """A result file as predictions.

    Args:
        path: a CSV with a header, in UTF-8; cells part at commas, or at semicolons or tabs where only these make the
            header hold the columns.
        columns: `parse_columns`.

    Returns:
        As `read_predictions`, with those SAMPLE_FIELDS that are named. Without `id` a row is `rowN`, N from 1. Without
        `kind` a row is a choice where its gold is a letter, a scene where its gold ends in a verdict, else open.

    Raises:
        InputError: with `file:line`, or with the columns that the file has.
    """
    path = Path(path)
    text = _read(path)
    csv.field_size_limit(MAX_CELL)
    delimiter = _delimiter(text, path, list(columns.values()))
    rows: list[dict[str, str | int]] = []
    seen: dict[str, int] = {}
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for record in reader:
            where = f"{path}:{reader.line_num}"
            if None in record or None in record.values():
                raise InputError("the row's cells do not fit the header", where, "fix this row")
            row = _row({name: record[column] for name, column in columns.items()}, len(rows) + 1, where)
            if row["id"] in seen:
                what = f"the id {row['id']!r} occurs twice (first at line {seen[row['id']]})"
                raise InputError(what, where, "ids are unique; leave `id` out of --columns to number the rows")
            seen[row["id"]] = reader.line_num
            rows.append({**row, "line": reader.line_num})
    except csv.Error as error:
        raise InputError(f"not a valid CSV ({error})", path, "quotes must be closed") from error
    if not rows:
        raise InputError("the file holds no rows", path, "give a file with results")
    table: pd.DataFrame = pd.DataFrame(
        rows, columns=[*COLUMNS, *(name for name in SAMPLE_FIELDS if name in columns), "line"], dtype=object
    )
    return table


def _read(path: Path) -> str:
    """The text of a file. Raises InputError where it is no UTF-8 text."""
    if path.is_dir() or not path.exists():
        what = "a CSV file is expected, this is a folder" if path.is_dir() else "not found; a CSV file is expected here"
        raise InputError(what, path, "give the result file")
    with open_input(path) as file:
        data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise InputError(f"the file is larger than {MAX_TEXT_BYTES >> 20} MiB", path, "split it into smaller files")
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise InputError("this is a spreadsheet, not a CSV file", path, "save it as CSV in UTF-8")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4096]:
        raise InputError("not UTF-8 (it looks like UTF-16)", path, "save it as UTF-8: iconv -f UTF-16 -t UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        fix = "save it as UTF-8; of a Chinese Excel: iconv -f GB18030 -t UTF-8"
        raise InputError("not UTF-8", f"{path}:{line}", fix) from error


def _delimiter(text: str, path: Path, columns: Sequence[str]) -> str:
    """What parts the cells. Raises InputError naming the columns that there are."""
    heads = {}
    for delimiter in DELIMITERS:
        try:
            heads[delimiter] = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            raise InputError(f"not a valid CSV ({error})", f"{path}:1", "quotes must be closed") from error
        head = heads[delimiter]
        if all(column in head for column in columns):
            if twice := sorted({column for column in columns if head.count(column) > 1}):
                raise InputError(f"the column {twice[0]!r} occurs twice", f"{path}:1", "rename one of them")
            return delimiter
    head = max(heads.values(), key=len)
    if not any(name.strip() for name in head):
        raise InputError("the file has no header", f"{path}:1", "the first line names the columns")
    missing = next(column for column in columns if column not in head)
    shown = ", ".join(repr(name[:40]) for name in head[:30]) + (", ..." if len(head) > 30 else "")
    raise InputError(f"no column {missing!r}", f"{path}:1", f"the columns are: {shown}")


def _row(given: Mapping[str, str], number: int, where: str) -> dict[str, str]:
    """One row of the prediction table."""
    row = {**dict.fromkeys(COLUMNS, ""), **{name: clean(text) for name, text in given.items()}}
    row["gold"] = row["gold"].strip()
    row["id"] = row["id"].strip() or ("" if "id" in given else f"row{number}")
    row["pair_id"] = row["pair_id"] or row["id"]
    letter = narrow(row["gold"]).upper().strip("().").strip()
    options = bool(row.get("option_a") and row.get("option_b")) or options_of(row["question"]) is not None
    if not row["kind"].strip():
        alone = row["gold"] in {"A", "B"}
        is_choice = alone or (options and letter in {"A", "B"})
        row["kind"] = "choice" if is_choice else "open" if parse_scene(row["gold"]) is None else "scene"
    if row["kind"] == "choice" and letter in {"A", "B"}:
        row["gold"] = letter
    check_row(row, where)
    return row
