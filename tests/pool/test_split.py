"""`pool split`: one split for all datasets of a pool, the same bytes as a build that splits by itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deckbench import split as split_module
from deckbench.build.dataset import build_dataset
from deckbench.csvfile import csv_records
from deckbench.errors import InputError
from deckbench.pool.split import split_pool
from deckbench.split import Split, read_or_split
from deckbench.split import split_pool as split_now
from deckbench.yolo.read import read_pool
from tests.build.build_helpers import write_pool

HOWS = ("group", "pool", "blocks=6,gap=2", "test-only")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("pools") / "hand")


def build(pool: Path, out: Path, split: str, **more: Any) -> str:
    return build_dataset("ot2-scene@1", pool=pool, out=out, split=split, workers=1, **more).content_hash


@pytest.mark.parametrize("how", HOWS)
def test_a_build_with_it_is_the_build_without_it(pool: Path, tmp_path: Path, how: str) -> None:
    split_pool(pool, out=tmp_path / "split", split=how, seed=3)
    alone = build(pool, tmp_path / "alone", how, seed=3)
    assert build(pool, tmp_path / "folder", str(tmp_path / "split"), seed=3) == alone
    assert build(pool, tmp_path / "file", str(tmp_path / "split" / "split.csv"), seed=3) == alone


def test_the_search_runs_once(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    search = split_module.cluster
    monkeypatch.setattr(split_module, "cluster", lambda *args, **more: searches.append(1) or search(*args, **more))
    split_pool(pool, out=tmp_path / "split")
    for task in ("ot2-concept@1", "ot2-guided@1", "ot2-scene@1"):
        build_dataset(task, pool=pool, out=tmp_path / task, split=str(tmp_path / "split"), workers=1)
    assert len(searches) == 1


@pytest.mark.parametrize("how", HOWS)
def test_what_is_read_is_what_was_split(pool: Path, tmp_path: Path, how: str) -> None:
    made = split_pool(pool, out=tmp_path / "split", split=how, seed=4)
    frames = read_pool(pool)
    expected = split_now(frames, how, 4)
    found, params = read_or_split(frames, str(tmp_path / "split"), 4)
    assert (found.parts, found.groups, set(found.dropped)) == (expected.parts, expected.groups, set(expected.dropped))
    assert params == {"split": how}
    counts = Counter(expected.parts.values())
    parts = {part: counts[part] for part in ("train", "val", "test")}
    assert made.content["params"] == {"split": how, "frames": {**parts, "dropped": len(expected.dropped)}}
    rows = [row for _, row in csv_records(tmp_path / "split" / "split.csv")]
    assert [row["frame"] for row in rows] == [frame.id for frame in frames.frames]


def test_its_own_seed_decides_and_is_named(pool: Path, tmp_path: Path) -> None:
    split_pool(pool, out=tmp_path / "split", seed=3)
    frames = read_pool(pool)
    found, params = read_or_split(frames, str(tmp_path / "split"), 0)
    assert found == Split(*_parts(split_now(frames, "group", 3))) != split_now(frames, "group", 0)
    assert params == {"split": "group", "split_seed": 3}
    split_pool(pool, out=tmp_path / "whole", split="test-only", seed=3)  # draws nothing
    assert read_or_split(frames, str(tmp_path / "whole"), 0)[1] == {"split": "test-only"}


def _parts(split: Split) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    return split.parts, split.groups, split.dropped


def test_another_pool_is_refused(pool: Path, tmp_path: Path) -> None:
    split_pool(pool, out=tmp_path / "split")
    other = write_pool(tmp_path / "other")
    (other / "labels" / "s00f0.txt").write_text("")
    with pytest.raises(InputError, match="of another pool") as caught:
        build(other, tmp_path / "data", str(tmp_path / "split"))
    assert caught.value.where == str(tmp_path / "split") and "deckbench pool split" in str(caught.value.fix)
    assert not (tmp_path / "data").exists()


def test_what_is_no_split_is_refused(pool: Path, tmp_path: Path) -> None:
    split_pool(pool, out=tmp_path / "split")
    table = tmp_path / "split" / "split.csv"
    table.write_text(table.read_text().replace(",train,", ",test,"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "split.csv").write_text("frame,split,group\n")
    build(pool, tmp_path / "dataset", "pool")
    for given, what in (
        ("split", "was changed since"),
        ("folder", "no manifest.json"),
        ("loose/split.csv", "no manifest.json"),
        ("dataset", "this is a dataset, not a split"),
        ("dataset/train.jsonl", "no manifest.json|not a split"),
        ("nowhere", "not a way to split"),
    ):
        with pytest.raises(InputError, match=what):
            build(pool, tmp_path / "data", str(tmp_path / given))
    assert not (tmp_path / "data").exists()


def test_a_split_is_not_made_from_another(pool: Path, tmp_path: Path) -> None:
    split_pool(pool, out=tmp_path / "first", split="group")
    with pytest.raises(InputError, match="made from words"):
        split_pool(pool, out=tmp_path / "second", split=str(tmp_path / "first"))
    assert not (tmp_path / "second").exists()


def test_a_word_is_never_a_folder(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool").mkdir()
    assert read_or_split(read_pool(pool), "pool", 0)[1] == {"split": "pool"}


def test_a_pool_that_cannot_be_split_leaves_nothing(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be cut"):
        split_pool(pool, out=tmp_path / "split", split="blocks=50,gap=9")
    assert list(tmp_path.iterdir()) == []
