"""Columns of a CSV are those of its rows, and equal tables are equal bytes however they are given."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deckbench import csvfile
from deckbench.csvfile import csv_columns, csv_records
from deckbench.errors import InputError
from deckbench.predictions import csv_blocks, csv_bytes

CELL = st.text(st.sampled_from('ab,"\n\r é异\t '), max_size=4)
TABLE = st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), min_size=1))


def outcome(read: Callable[[], object]) -> object:
    """What a reader gives, or the message it is refused with."""
    try:
        return read()
    except InputError as error:
        return error.message()


def by_rows(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    rows = [record for _, record in csv_records(path, required=("a",))]
    return {name: [row[name] for row in rows] for name in names}


@settings(max_examples=150, deadline=None)
@given(TABLE, st.sampled_from(["\n", "\r\n"]), st.lists(st.sampled_from(["\n", '"', "x,y\n", "b\n"]), max_size=2))
def test_columns_are_those_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]], end: str, more: list[str]
) -> None:
    """Also for broken files: the same message with the same line."""
    path = tmp_path_factory.getbasetemp() / "table.csv"
    names = ["a", "b", "c", "a"][: len(cells[0])]  # a name that occurs twice: its last column counts
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerows([list(names), *cells])
    path.write_text(text.getvalue() + "".join(more), encoding="utf-8", newline="")
    wanted = [name for name in ("a", "b", "c", "missing") if name in names]
    read = outcome(lambda: csv_columns(path, ("a", "b", "c", "missing"), required=("a",)))
    assert read == outcome(lambda: by_rows(path, wanted))


def test_a_file_of_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csvfile, "ROWS", 3)
    path = tmp_path / "table.csv"
    path.write_text("id,kind,other\n" + "".join(f"q{i},{'ab'[i % 2]},\n\n" for i in range(1000)), encoding="utf-8")
    columns = csv_columns(path, ("id", "kind"))
    assert columns == {"id": [f"q{i}" for i in range(1000)], "kind": ["a", "b"] * 500}
    path.write_text(path.read_text(encoding="utf-8") + "q\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"table\.csv:2002.*do not fit"):
        csv_columns(path, ("id",))


@settings(deadline=None)
@given(TABLE)
def test_a_table_by_columns_is_the_table_by_rows(cells: list[list[str]]) -> None:
    names = [f"c{i}" for i in range(len(cells[0]))]
    assert b"".join(csv_blocks(names, list(zip(*cells, strict=True)))) == csv_bytes(names, cells)
