"""Artifacts appear whole or not at all, and say what they are."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deckbench import artifact
from deckbench.errors import InputError


def make(out: Path, text: str = "hello", seed: int = 0) -> artifact.Manifest:
    with artifact.writing(out, "thing", params={"p": 1}, seed=seed) as draft:
        (draft.path / "a.txt").write_text(text)
        draft.observed["seconds"] = os.getpid()
    return artifact.read(out, "thing", verify=True)


def test_same_content_same_hash_whatever_was_observed(tmp_path: Path) -> None:
    first, second = make(tmp_path / "one"), make(tmp_path / "two" / "deep")
    assert first.content_hash == second.content_hash
    assert make(tmp_path / "three", "other").content_hash != first.content_hash
    assert make(tmp_path / "four", seed=1).content_hash != first.content_hash


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="midway"), artifact.writing(tmp_path / "out", "thing") as draft:
        (draft.path / "a.txt").write_text("half")
        raise RuntimeError("midway")
    assert list(tmp_path.iterdir()) == []


def killed_while_writing(out: Path) -> None:
    with artifact.writing(out, "thing") as draft:
        (draft.path / "a.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_sigkill_leaves_no_output_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = multiprocessing.get_context("spawn").Process(target=killed_while_writing, args=(out,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    assert len(list(tmp_path.glob(".out.*"))) == 1
    make(out)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_taken_place_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "out")
    with pytest.raises(InputError, match="already holds a finished artifact"):
        make(tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="existing file"):
        make(tmp_path / "file")


@pytest.mark.parametrize("name", ["a" * 201, "a" * 300, "é" * 101, f"{'a' * 256}/x", "/".join(["a" * 200] * 21)])
def test_a_name_that_is_too_long_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="too long"), artifact.writing(tmp_path / name, "x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_name_is_too_long_is_refused(tmp_path: Path) -> None:
    for name in ("a" * 252, f"{'a' * 256}/x"):
        with pytest.raises(InputError, match="too long"):
            artifact.atomic_write(tmp_path / name, "x")
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        artifact.read(tmp_path / "none", "thing")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"no manifest\.json"):
        artifact.read(tmp_path / "bare", "thing")
    make(tmp_path / "out")
    with pytest.raises(InputError, match="this is a thing, not a dataset"):
        artifact.read(tmp_path / "out", "dataset")
    (tmp_path / "out" / "a.txt").write_text("tampered")
    artifact.read(tmp_path / "out", "thing")
    with pytest.raises(InputError, match="changed since") as caught:
        artifact.read(tmp_path / "out", "thing", verify=True)
    assert caught.value.where is not None
    assert caught.value.where.endswith("a.txt")
    manifest = tmp_path / "out" / "manifest.json"
    data = json.loads(manifest.read_text())
    data["content"]["params"]["p"] = 2
    manifest.write_text(json.dumps(data))
    with pytest.raises(InputError, match="does not fit its content"):
        artifact.read(tmp_path / "out", "thing")
    manifest.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        artifact.read(tmp_path / "out", "thing")


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/passwd", "a/../../x", "link/x"])
def test_paths_stay_inside(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leaves the folder"):
        artifact.inside(folder, name, "train.jsonl:3")
    assert artifact.inside(folder, "images/x.jpg", "train.jsonl:3") == folder / "images" / "x.jpg"


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.booleans(), max_size=5))
def test_canonical_json_ignores_order(value: dict[str, object]) -> None:
    again = dict(reversed(list(value.items())))
    assert artifact.hash_json(value) == artifact.hash_json(again)


def test_atomic_write_replaces_whole(tmp_path: Path) -> None:
    artifact.atomic_write(tmp_path / "a" / "f.txt", "one")
    artifact.atomic_write(tmp_path / "a" / "f.txt", b"two")
    assert (tmp_path / "a" / "f.txt").read_text() == "two"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["f.txt"]


def test_a_place_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="a file exists where a directory is expected"):
        artifact.atomic_write(tmp_path / "file" / "out.json", "x")
    with pytest.raises(InputError, match="a file exists where a directory is expected"):
        make(tmp_path / "file" / "deep" / "out")
    with pytest.raises(InputError, match="the output is a directory"):
        artifact.atomic_write(tmp_path, "x")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_drafts_of_writers_that_are_gone_are_removed(tmp_path: Path) -> None:
    """Whatever number the writer had: in a container every first process has the same."""
    with artifact.writing(tmp_path / "out", "thing") as draft:
        for name in (f".out.{os.getpid()}-aa.draft", ".out.999999999-bb.draft"):
            (tmp_path / name).mkdir()
        old = tmp_path / ".out.1-cc.draft"  # process 1 is always there
        old.mkdir()
        (tmp_path / ".out.1-dd.draft").mkdir()
        os.utime(old, (1, 1))
        artifact.remove_dead_drafts(tmp_path, "out")
        assert draft.path.is_dir()
        assert {path.name for path in tmp_path.iterdir()} == {draft.path.name, ".out.1-dd.draft"}
