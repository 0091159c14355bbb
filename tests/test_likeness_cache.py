"""Thumbnails that are kept: the same as those made anew, never of another file, and never in the way."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from deckbench.build.audit import audit
from deckbench.likeness import cache, fingerprint, thumbnails_of
from tests.build.test_audit import honest
from tests.yolo.pool_helpers import picture


@pytest.fixture
def frames(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        picture(number, (64, 36)).save(path)
    return paths


def no_decoding(path: Path, size: tuple[int, int]) -> None:
    raise AssertionError(f"{path} was opened again")


def test_an_image_is_decoded_once(frames: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "work" / "thumbnails.sqlite"
    plain = fingerprint(frames)
    assert np.array_equal(fingerprint(frames[:3], file), plain[:3])
    assert np.array_equal(fingerprint(frames, file), plain)
    monkeypatch.setattr("deckbench.likeness.thumbnails.grey_thumbnail", no_decoding)
    frames[1].rename(tmp_path / "renamed.png")
    frames[1] = tmp_path / "renamed.png"
    assert np.array_equal(fingerprint(frames, file), plain)
    assert np.array_equal(np.stack(list(thumbnails_of(frames, file).values())), plain)
    picture(9, (64, 36)).save(frames[0])
    with pytest.raises(AssertionError, match="opened again"):
        fingerprint(frames, file)


def test_a_damaged_row_is_made_again(frames: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "thumbnails.sqlite"
    plain = fingerprint(frames, file)
    with sqlite3.connect(file) as base:
        base.execute("UPDATE images SET value = zeroblob(length(value)) WHERE key = (SELECT min(key) FROM images)")
        base.execute("UPDATE images SET value = 'text' WHERE key = (SELECT max(key) FROM images)")
    assert np.array_equal(fingerprint(frames, file), plain)


@pytest.mark.parametrize("content", [b"no database" * 100, b""])
def test_a_file_that_is_no_database_is_no_obstacle(frames: list[Path], tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "thumbnails.sqlite"
    file.write_bytes(content)
    assert np.array_equal(fingerprint(frames, file), fingerprint(frames))
    (tmp_path / "folder").mkdir()
    assert np.array_equal(fingerprint(frames, tmp_path / "folder"), fingerprint(frames))


def test_what_is_kept_is_bounded(frames: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST", 3)
    file = tmp_path / "thumbnails.sqlite"
    for _ in range(2):
        assert np.array_equal(fingerprint(frames, file), fingerprint(frames))
    with sqlite3.connect(file) as base:
        assert base.execute("SELECT count(*) FROM images").fetchone() == (3,)


def test_an_audit_says_the_same_with_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, file = honest(tmp_path / "d", train=12, test=6).write(), tmp_path / "thumbnails.sqlite"
    plain = audit(dataset)
    assert audit(dataset, cache=file) == plain
    monkeypatch.setattr("deckbench.build.audit.open_picture", no_decoding)
    assert audit(dataset, cache=file) == plain
