"""Proposing groups: by name, by time, by likeness; wrong ways are refused and leave nothing behind."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from deckbench.errors import InputError
from deckbench.pool.group import group_pool
from deckbench.yolo.read import read_pool
from tests.yolo.pool_helpers import ROW, picture, write_pool

FLAT_YAML = "train: images\nnames: [plate, rack]\n"


def pool_of(root: Path, names: list[str], files: dict[str, str | bytes] | None = None) -> Path:
    return write_pool(root, yaml=FLAT_YAML, frames=dict.fromkeys(names, ROW), files=files)


def test_by_name(tmp_path: Path) -> None:
    root = pool_of(tmp_path / "p", ["run1_a.png", "run1_b.png", "run22_a.png"])
    groups = group_pool(root, by=r"regex:(run\d+)_", out=tmp_path / "f.csv")
    assert groups == {"images/run1_a": "run1", "images/run1_b": "run1", "images/run22_a": "run22"}
    assert group_pool(root, by=r"regex:run\d", out=tmp_path / "g.csv")["images/run22_a"] == "run2"
    (tmp_path / "f.csv").rename(root / "frames.csv")
    assert [frame.group for frame in read_pool(root).frames] == ["run1", "run1", "run22"]


def test_by_time_of_frames_csv_keeps_what_is_known(tmp_path: Path) -> None:
    table = "frame,time_s,step,anomalies\na.png,0,setup,\nb.png,50,setup,spill\nc.png,200,transfer,\n"
    root = pool_of(tmp_path / "p", ["a.png", "b.png", "c.png"], {"frames.csv": table})
    groups = group_pool(root, by="time:60s", out=tmp_path / "f.csv")
    assert list(groups.values()) == ["t0001", "t0001", "t0002"]
    assert len(set(group_pool(root, by="time:5m", out=tmp_path / "g.csv").values())) == 1
    rows = list(csv.DictReader((tmp_path / "f.csv").read_text().splitlines()))
    assert rows[1] == {"frame": "images/b", "group": "t0001", "time_s": "50.0", "step": "setup", "anomalies": "spill"}


def test_by_time_of_exif(tmp_path: Path) -> None:
    root = pool_of(tmp_path / "p", ["a.jpg", "b.jpg", "c.jpg"])
    for name, moment in (("a", "2024:05:01 10:00:00"), ("b", "2024:05:01 10:00:40"), ("c", "2024:05:01 12:00:00")):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = moment
        picture(ord(name)).save(root / f"images/{name}.jpg", exif=exif)
    assert list(group_pool(root, by="time:60s", out=tmp_path / "f.csv").values()) == ["t0001", "t0001", "t0002"]


def test_by_time_in_names(tmp_path: Path) -> None:
    names = ["cam_20240501_100000.png", "cam_20240501_100030.png", "cam_20240501_110000.png"]
    groups = group_pool(pool_of(tmp_path / "p", names), by="time:1min", out=tmp_path / "f.csv")
    assert list(groups.values()) == ["t0001", "t0001", "t0002"]


def test_by_likeness(tmp_path: Path) -> None:
    root = pool_of(tmp_path / "p", ["a.png", "b.png", "c.png", "d.png"])
    for name, seed in (("a", 1), ("b", 2), ("c", 1), ("d", 3)):
        picture(seed, (320, 180)).save(root / f"images/{name}.png")
    with Image.open(root / "images/c.png") as image:
        image.resize((200, 112)).save(root / "images/c.png")
    groups = group_pool(root, by="phash", out=tmp_path / "f.csv")
    assert groups == {"images/a": "g0001", "images/b": "g0002", "images/c": "g0001", "images/d": "g0003"}


@pytest.mark.slow
def test_real_frames_of_one_camera_are_one_group(tmp_path: Path, shared: Path) -> None:
    assert set(group_pool(shared / "data/deck-yolo", by="phash", out=tmp_path / "d.csv").values()) == {"g0001"}


BAD = {
    "unknown": ("colour", "is not a way to group"),
    "empty pattern": ("regex:", "is not a way to group"),
    "bad pattern": ("regex:(run", "not valid"),
    "no match": (r"regex:(run\d+)", "finds nothing in 2 of 3"),
    "empty match": (r"regex:^(x*)", "finds nothing"),
    "bad time": ("time:soon", "not a length of time"),
    "no time at all": ("time:60s", "have none"),
    "zero time": ("time:0s", "not a length of time"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_ways_leave_nothing(tmp_path: Path, name: str) -> None:
    by, message = BAD[name]
    root = pool_of(tmp_path / "p", ["run1.png", "b.png", "c.png"])
    with pytest.raises(InputError) as caught:
        group_pool(root, by=by, out=tmp_path / "out/f.csv")
    assert message in caught.value.what and caught.value.exit_code == 2 and caught.value.fix
    assert not (tmp_path / "out").exists()


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    root = pool_of(tmp_path / "p", ["a.png"])
    (tmp_path / "f.csv").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        group_pool(root, by="phash", out=tmp_path / "f.csv")
    assert (tmp_path / "f.csv").read_text() == "mine"


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too long"):
        group_pool(tmp_path, by="phash", out=tmp_path / ("a" * 300))


def test_a_pool_with_errors_is_refused(tmp_path: Path) -> None:
    root = pool_of(tmp_path / "p", ["a.png"], {"labels/a.txt": "broken\n"})
    with pytest.raises(InputError, match="label-broken-row"):
        group_pool(root, by="phash", out=tmp_path / "f.csv")
