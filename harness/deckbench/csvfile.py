"""The one reader of CSV files with a header, and the one writer of tables that are files of an artifact."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

from deckbench.disk import open_regular
from deckbench.errors import InputError

MAX_CELL = 16 << 20  # characters
ROWS = 200  # read at once: what fits into the caches of a processor is read twice as fast


def open_input(path: Path) -> IO[bytes]:
    """Open a file of samples or a table. Raises InputError where it cannot be read."""
    try:
        return open_regular(path)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path, "check the path and its permissions") from error


def csv_records(path: Path, *, required: tuple[str, ...] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, record) of a CSV with a header; BOM and CRLF allowed.

    Raises InputError when the file is missing, not UTF-8, lacks a required column or has a row with too many cells.
    """
    if not path.is_file():
        raise InputError("not found; a CSV file is expected here", path, "check the path")
    csv.field_size_limit(MAX_CELL)
    try:
        with open_input(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or []
            for name in required:
                if name not in header:
                    raise InputError(f"the column {name!r} is missing", f"{path}:1", f"needed: {', '.join(required)}")
            for record in reader:
                if None in record or None in record.values():
                    raise InputError(
                        "the row's cells do not fit the header", f"{path}:{reader.line_num}", "fix this row"
                    )
                yield reader.line_num, record
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8", path, "save the file as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"not a valid CSV ({error})", path, "quotes must be closed; cells part at commas") from error


def csv_columns(path: Path, names: Sequence[str], *, required: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Whole columns of a CSV: what `csv_records` reads of them, without a dictionary for each row.

    Args:
        path: of the file.
        names: The wanted columns; those that the header lacks are left out.
        required: Columns that must be there.

    Returns:
        Name -> its cells. Equal cells of a column are one string, unless most of them differ.

    Raises:
        InputError: As `csv_records`.
    """
    columns = _csv_columns(path, names, required)
    if columns is None:
        for _ in csv_records(path, required=required):  # says what is wrong, and where
            pass
        raise InputError("the file was changed while it was read", path, "run again")
    return columns


def _csv_columns(path: Path, names: Sequence[str], required: tuple[str, ...]) -> dict[str, list[str]] | None:
    """The columns; None where something is wrong with the file."""
    csv.field_size_limit(MAX_CELL)
    if not path.is_file():
        return None
    try:
        with open_input(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if not {*required} <= {*header}:
                return None
            places = {name: place for place, name in enumerate(header) if name in names}  # of a name twice, the last
            columns: dict[int, list[str]] = {place: [] for place in places.values()}
            shared: dict[int, dict[str, str]] = {place: {} for place in columns}
            count = 0
            while rows := list(islice(reader, ROWS)):
                lengths = {*map(len, rows)}
                if 0 in lengths:  # blank lines
                    rows = [row for row in rows if row]
                if lengths - {0, len(header)}:
                    return None
                count += len(rows)
                for place, cells in enumerate(zip(*rows, strict=True)):
                    if place not in columns:
                        continue
                    if (known := shared.get(place)) is not None and 2 * len(known) > max(count, 50 * ROWS):
                        del shared[place]
                    columns[place].extend(cells if known is None else map(known.setdefault, cells, cells))
    except (UnicodeDecodeError, csv.Error):
        return None
    return {name: columns[place] for name, place in places.items()}


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as the text of a CSV with line feeds."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return table.getvalue()
