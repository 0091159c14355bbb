"""Reading a table of predictions: every fault has a file, a line and a fix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from deckbench.csvfile import csv_columns, csv_records
from deckbench.errors import InputError
from deckbench.grade import Kind
from deckbench.predictions import COLUMNS, PROBABILITIES, PredictionFiles

KINDS = get_args(Kind)


def read_predictions(path: Path) -> pd.DataFrame:
    """The rows of a prediction file, checked.

    Args:
        path: FILE.csv. BOM and CRLF are accepted, more columns are ignored.

    Returns:
        COLUMNS as text (object), `p_*` and `tokens_*` empty or a number. Equal cells are one string.

    Raises:
        InputError: with `file:line`.
    """
    path = Path(path)
    if not path.exists() and PredictionFiles(path).partial.exists():
        raise InputError(
            "the predictions are not finished: only the partial folder is there",
            path,
            "run `deckbench infer` with the same arguments again; it resumes",
        )
    if path.is_dir():
        raise InputError("a prediction file is expected, this is a folder", path, "give FILE.csv")
    try:
        columns = csv_columns(path, COLUMNS, required=COLUMNS)
    except InputError:
        check_rows(path)  # a row above may be at fault too
        raise
    if not columns["id"]:
        raise InputError("the file holds no predictions", path, "run `deckbench infer` on a dataset with a test part")
    if not _fit(columns):
        check_rows(path)
    table: pd.DataFrame = pd.DataFrame({name: columns.pop(name) for name in COLUMNS}, dtype=object)
    return table


def line_of(table: pd.DataFrame, path: Path, row: int) -> int:
    """The line where a row of a table that was read from a file ends there: in its column `line`, or looked for."""
    if "line" in table:
        return int(table["line"].iloc[row])
    return next(line for at, (line, _) in enumerate(csv_records(path)) if at == row)


def check_rows(path: Path) -> None:
    """Raises InputError for the first row of a file that is at fault."""
    seen: dict[str, int] = {}
    for line, record in csv_records(path, required=COLUMNS):
        where = f"{path}:{line}"
        check_row(record, where)
        if record["id"] in seen:
            raise InputError(
                f"the id {record['id']!r} occurs twice (first at line {seen[record['id']]})", where, "ids are unique"
            )
        seen[record["id"]] = line


def _fit(columns: Mapping[str, list[str]]) -> bool:
    """Whether `check_row` would take every row and no id stands twice; False where that is not certain."""
    ids = {*columns["id"]}
    if "" in ids or len(ids) < len(columns["id"]) or not {*columns["kind"]} <= {*KINDS}:
        return False
    golds = {gold for kind, gold in zip(columns["kind"], columns["gold"], strict=True) if kind == "choice"}
    if not golds <= {"A", "B"}:
        return False
    try:
        chances = [np.array([*map(float, filter(None, columns[name]))]) for name in PROBABILITIES]
        counts = [[*map(float, filter(None, {*columns[name]}))] for name in ("tokens_in", "tokens_out")]
    except ValueError:
        return False
    within = all(((values >= 0) & (values <= 1)).all() for values in chances)
    return within and all(value >= 0 and value.is_integer() for values in counts for value in values)


def check_row(row: Mapping[str, str], where: str) -> None:
    """Refuse a row whose cells do not fit the columns. Raises InputError."""
    if not row["id"]:
        raise InputError("the row has no id", where, "every prediction names its sample")
    if row["kind"] not in KINDS:
        raise InputError(f"the kind is {row['kind']!r}", where, f"one of: {', '.join(KINDS)}")
    if row["kind"] == "choice" and row["gold"] not in {"A", "B"}:
        raise InputError(f"the gold of a choice is {row['gold']!r}, not A or B", where, "fix the row")
    for name in PROBABILITIES:
        value = _number(row[name], name, where)
        if not math.isnan(value) and not 0 <= value <= 1:
            raise InputError(f"{name} is {row[name]}, outside 0 to 1", where, "a probability is expected")
    for name in ("tokens_in", "tokens_out"):
        count = _number(row[name], name, where)
        if not math.isnan(count) and (count < 0 or count != int(count)):
            raise InputError(f"{name} is {row[name]!r}, not a count", where, "a whole number is expected")


def _number(cell: str, name: str, where: str) -> float:
    if not cell.strip():
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        raise InputError(f"{name} is {cell!r}, not a number", where, "fix the row, or leave the cell empty") from None
    if not math.isfinite(value):
        raise InputError(f"{name} is {cell!r}, not a finite number", where, "leave the cell empty if it is unknown")
    return value
