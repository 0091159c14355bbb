"""A journal keeps what was appended, whatever happens while it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deckbench.journal import open_journal, read_journal

ENTRIES = st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), max_size=5)


@given(ENTRIES, st.integers(0, 400))
def test_a_torn_tail_is_cut_and_the_rest_kept(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any], cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "answers.jsonl"
    with open_journal(path) as journal:
        for entry in entries:
            journal.append(entry)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    with open_journal(path) as journal:
        assert journal.entries == entries[:kept]
        for entry in entries[kept:]:
            journal.append(entry)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("tail", [b'{"a": ', b"\0" * 40, b"[" * 100_000 + b"\n", b'{"other": 1}\n', b'{"a": 2}'])
def test_what_is_not_whole_is_cut(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"a": 1}\n' + tail)
    assert read_journal(path, lambda entry: entry["a"] > 0) == ([{"a": 1}], 9)


def test_an_error_in_between_keeps_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(RuntimeError), open_journal(path) as journal:
        journal.append({"a": 1})
        raise RuntimeError
    assert read_journal(path)[0] == [{"a": 1}]
    assert read_journal(tmp_path / "none") == ([], 0)
