"""Archives depend on their files alone."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from deckbench.containers.archive import EPOCH, pack, repack, tar_stream, unpacked
from deckbench.errors import OutsideError


def make_tree(root: Path, names: list[str], time: int) -> None:
    """The same files, made in some order and at some time."""
    for name in names:
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"text of {name}\n" * 50)
        os.utime(place, (time, time))


def test_the_same_files_give_the_same_bytes_whenever_and_in_whichever_order_they_were_made(tmp_path: Path) -> None:
    names = ["b/two", "a/one", "a/deep/er/three", "z", "a-b/c", f"long/{'x' * 120}/name"]
    make_tree(tmp_path / "first", names, 1000)
    make_tree(tmp_path / "second", names[::-1], 2_000_000_000)
    (tmp_path / "second/a/one").chmod(0o640)  # rights become 644 or 755
    (tmp_path / "second/a/__pycache__").mkdir()
    (tmp_path / "second/a/__pycache__/one.pyc").write_bytes(b"code")
    first, second = pack(tmp_path / "first", tmp_path / "1.tar"), pack(tmp_path / "second", tmp_path / "2.tar")
    assert first.sha256 == second.sha256
    (tmp_path / "second/z").chmod(0o755)
    assert pack(tmp_path / "second", tmp_path / "3.tar").sha256 != first.sha256


def test_two_names_of_one_file_are_packed_as_two_files(tmp_path: Path) -> None:
    make_tree(tmp_path / "linked", ["a"], 1000)
    (tmp_path / "linked/b").hardlink_to(tmp_path / "linked/a")
    make_tree(tmp_path / "copied", ["a"], 1000)
    (tmp_path / "copied/b").write_text((tmp_path / "copied/a").read_text())
    assert pack(tmp_path / "linked", tmp_path / "1.tar").sha256 == pack(tmp_path / "copied", tmp_path / "2.tar").sha256


def test_a_root_file_system_loses_what_the_building_machine_left(tmp_path: Path) -> None:
    tree = tmp_path / "root"
    make_tree(tree, ["etc/hostname", "etc/passwd", "var/log/apt/term.log", "var/log/old", "usr/bin/perl"], 1000)
    (tree / "usr/bin/a-link").symlink_to("perl")
    with tarfile.open(tmp_path / "raw.tar", "w") as tar:
        tar.add(tree, ".")
        link = tarfile.TarInfo("./usr/bin/aaa")  # its name sorts before the file that it is
        link.type, link.linkname = tarfile.LNKTYPE, "./usr/bin/perl"
        tar.addfile(link)
    layer = repack(tmp_path / "raw.tar", tmp_path / "out.tar", ("etc/hostname", "var/log/"))
    with tarfile.open(layer.tar) as tar:
        entries = tar.getmembers()
        tar.extractall(tmp_path / "again", filter="tar")
    names = [entry.name for entry in entries]
    assert "etc/passwd" in names and "var/log" in names
    assert not {"etc/hostname", "var/log/old", "var/log/apt"} & set(names)
    assert {entry.mtime for entry in entries} == {EPOCH}
    assert (tmp_path / "again/usr/bin/aaa").read_text() == "text of usr/bin/perl\n" * 50


def test_a_streamed_tar_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    (tmp_path / "whole.tar").write_bytes(b"".join(tar_stream([("a", b"text"), ("b/c", tmp_path / "file")])))
    with tarfile.open(tmp_path / "whole.tar") as tar:
        texts = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    assert texts == {"a": b"text", "b/c": b"x" * 1000}


def test_a_layer_that_was_saved_compressed_is_unpacked() -> None:
    text = b"a tar " * 1000
    for saved in (text, gzip.compress(text)):
        with unpacked(io.BytesIO(saved), "sha256:1") as layer:
            assert layer.read() == text
    with pytest.raises(OutsideError, match="zstd"):
        unpacked(io.BytesIO(b"\x28\xb5\x2f\xfd" + text), "sha256:1")
