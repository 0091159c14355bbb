"""Pools whose labels would be read as something else than was meant: read rightly, or refused in one message."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from deckbench.build import build_dataset
from deckbench.errors import InputError
from deckbench.pool.check import check_pool
from deckbench.yolo.frame import Pool
from deckbench.yolo.read import read_pool
from tests.yolo.pool_helpers import ROW, picture, write_pool

YAML = "train: images\nnames: [plate, spill]\n"
SPILL = ROW + "1 0.3 0.3 0.2 0.2\n"
ONTOLOGY = """
name: mine
about: {en: a deck, zh: 台面}
exhaustive: true
nouns: {plate: {en: plate, zh: 板}, deck: {en: deck, zh: 台}}
classes:
  plate: {name: {en: plate, zh: 板}, nouns: [plate], verdict: normal}
  spill: {name: {en: spill, zh: 漏}, nouns: [deck], verdict: anomaly}
"""


def labels_as(root: Path, picture_name: str, label_name: str) -> None:
    """Rename the label file of a picture."""
    (root / "labels" / picture_name).with_suffix(".txt").rename(root / "labels" / label_name)


def boxes(pool: Pool) -> dict[str, int]:
    return {frame.path.name: len(frame.boxes) for frame in pool.frames}


def kinds(root: Path) -> dict[str, int]:
    return check_pool(root).by_kind


# --- names of label files ----------------------------------------------------------------------------------------

NEARLY = {
    "percent-encoded": ("deck photo 3.png", "deck%20photo%203.txt"),
    "encoded-twice": ("deck photo 3.png", "deck%2520photo%25203.txt"),
    "umlauts-encoded": ("Größe 孔板.png", "Gr%C3%B6%C3%9Fe%20%E5%AD%94%E6%9D%BF.txt"),
    "the-image-is-encoded": ("deck%20photo.png", "deck photo.txt"),
    "blanks-became-underscores": ("deck photo.png", "deck_photo.txt"),
    "upload-prefix": ("deck photo.png", "1f0c2a9b-deck_photo.txt"),
    "with-the-images-ending": ("deck.png", "deck.png.txt"),
    "a-labellers-folder": ("deck.png", "7/deck.txt"),
}


@pytest.mark.parametrize("form", NEARLY)
def test_label_name_mismatch(tmp_path: Path, form: str) -> None:
    image, label = NEARLY[form]
    root = write_pool(tmp_path / "p", yaml=YAML, frames={"b.png": ROW, "c.png": "", image: SPILL})
    (root / "labels/7").mkdir()
    labels_as(root, image, label)
    pool = read_pool(root)
    assert boxes(pool)[image] == 2
    assert pool.notice_counts == {"label-name": 1}


def test_label_name_mismatch_reaches_the_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames: dict[str, str | None] = {"a.png": ROW, "deck photo 3.png": SPILL}
    root = write_pool(tmp_path / "p", yaml=YAML, frames=frames, files={"ontology.yaml": ONTOLOGY})
    labels_as(root, "deck photo 3.png", "deck%20photo%203.txt")
    made = build_dataset(
        "ot2-scene@1", pool=root, out=tmp_path / "d", ontology=root / "ontology.yaml", split="test-only"
    )
    assert made.observed["pool_notices"] == {"label-name": 1}
    assert "1 notice (1 label-name), such as labels/deck%20photo%203.txt" in capsys.readouterr().err
    text = (tmp_path / "d/samples.csv").read_text(encoding="utf-8")
    assert "anomaly.; " not in text and "spill" in text


@pytest.mark.parametrize("label", ["other.txt", "A.txt", "deck-photo.txt"])
def test_an_orphan_label_beside_an_unlabelled_picture_is_an_error(tmp_path: Path, label: str) -> None:
    root = write_pool(tmp_path / "p", yaml=YAML, frames={"a.png": SPILL, "b.png": ROW, "c.png": None})
    labels_as(root, "a.png", label)
    with pytest.raises(InputError, match="label-name-mismatch") as caught:
        read_pool(root)
    assert f"labels/{label}" in caught.value.what and "a.png" in caught.value.what
    pool = read_pool(root, skip_bad=True)
    assert boxes(pool) == {"b.png": 1}, "neither picture without labels may count as empty"


def test_an_orphan_label_that_misses_nowhere_is_a_notice(tmp_path: Path) -> None:
    lost = {"labels/lost.txt": ROW, "labels/empty.txt": ""}
    all_labelled = write_pool(tmp_path / "a", yaml=YAML, frames={"a.png": SPILL}, files=lost)
    assert read_pool(all_labelled).notice_counts == {"label-without-picture": 2}
    del lost["labels/lost.txt"]
    background = write_pool(tmp_path / "b", yaml=YAML, frames={"a.png": SPILL, "b.png": None}, files=lost)
    assert read_pool(background).notice_counts == {"label-without-picture": 1}


def test_labels_of_other_parts_are_no_labels_of_this_one(tmp_path: Path) -> None:
    frames: dict[str, str | None] = {"train/a.png": None, "val/b.png": ROW}
    root = write_pool(tmp_path / "p", yaml="train: images/train\nnames: [plate]\n", frames=frames)
    assert kinds(root) == {"no-labels": 1}


def test_labels_of_pictures_that_a_list_leaves_out_are_no_orphans(tmp_path: Path) -> None:
    yaml = "train: list.txt\nnames: [plate, spill]\n"
    frames: dict[str, str | None] = {"a.png": SPILL, "b.png": ROW, "c.png": None}
    root = write_pool(tmp_path / "p", yaml=yaml, frames=frames, files={"list.txt": "images/a.png\nimages/c.png\n"})
    assert read_pool(root).notices == ()


# --- class numbers -----------------------------------------------------------------------------------------------


def test_coco_offset(tmp_path: Path) -> None:
    rows = ["1 0.5 0.5 0.3 0.3\n", "1 0.5 0.5 0.3 0.3\n", "2 0.5 0.5 0.3 0.3\n"]
    root = write_pool(tmp_path / "p", yaml=YAML, frames={f"f{n}.png": row for n, row in enumerate(rows)})
    for skip_bad in (False, True):
        with pytest.raises(InputError, match="labels count from 1") as caught:
            read_pool(root, skip_bad=skip_bad)
        assert caught.value.what.startswith("the pool has 1 error ")
        assert "labels/f2.txt:1" in caught.value.what and "skip-bad" not in (caught.value.fix or "")
    report = check_pool(root)
    assert report.by_kind == {"labels-count-from-1": 1} and report.skipping_does_not_help


def test_coco_offset_where_the_last_class_never_occurs_is_a_notice(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p", yaml=YAML, frames={"a.png": "1 0.5 0.5 0.3 0.3\n"})
    assert read_pool(root).notice_counts == {"class-0-unused": 1}


def test_one_class_that_is_called_1(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p", yaml="train: images\nnames: [plate]\n", frames={"a.png": "1 0.5 0.5 0.3 0.3\n"})
    assert kinds(root) == {"labels-count-from-1": 1}


def test_names_that_count_from_1_say_so(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p", yaml="train: images\nnames: {1: plate, 2: spill}\n", frames={"a.png": ROW})
    with pytest.raises(InputError, match="do not start at 0"):
        read_pool(root)


def test_a_list_of_names_that_differs_from_the_yaml_is_noticed(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p", yaml=YAML, frames={"a.png": ROW}, files={"labels/classes.txt": "spill\nplate\n"})
    pool = read_pool(root)
    assert pool.notice_counts == {"names-differ": 1} and pool.names == ("plate", "spill")


# --- rows --------------------------------------------------------------------------------------------------------


def one_row(folder: Path, row: str, extra: str = "") -> Path:
    yaml = f"train: images\n{extra}names: [plate]\n"
    return write_pool(folder, yaml=yaml, frames={"a.png": f"{row}\n"})


POSES = {
    "hidden": ("kpt_shape: [4, 3]\n", "0 0.30 0.30 0.20 0.20 0.25 0.25 1 0.30 0.30 1 0.35 0.35 1 0.22 0.22 1"),
    "two-dim": ("kpt_shape: [2, 2]\n", "0 0.30 0.30 0.20 0.20 0.25 0.25 0.35 0.35"),
    "one-point": ("kpt_shape: [1, 3]\n", "0 0.30 0.30 0.20 0.20 0.25 0.25 2"),
    "unseen-points-outside": ("kpt_shape: [2, 3]\n", "0 0.30 0.30 0.20 0.20 -1 -1 0 0.25 0.25 2"),
    "even": ("kpt_shape: [2, 3]\n", "0 0.30 0.30 0.20 0.20 0.25 0.25 2 0.35 0.35 2"),
}


@pytest.mark.parametrize("form", POSES)
def test_pose_read_as_polygon(tmp_path: Path, form: str) -> None:
    extra, row = POSES[form]
    pool = read_pool(one_row(tmp_path / "p", row, extra))
    box = pool.frames[0].boxes[0]
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((0.2, 0.2, 0.4, 0.4))
    assert box.polygon is None and pool.notices == ()


def test_pose_rows_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"9 columns; with `kpt_shape: \[4, 3\]` a row has 5 or 17"):
        read_pool(one_row(tmp_path / "p", POSES["two-dim"][1], "kpt_shape: [4, 3]\n"))


def test_pose_rows_without_a_shape_in_the_yaml_are_refused(tmp_path: Path) -> None:
    root = one_row(tmp_path / "p", POSES["hidden"][1])
    for skip_bad in (False, True):
        with pytest.raises(InputError, match=r"kpt_shape: \[K, 3\]"):
            read_pool(root, skip_bad=skip_bad)


@pytest.mark.parametrize("shape", ["[4]", "[0, 3]", "[4, 5]", "17", "[a, 3]", "[4.5, 2]", "[true, 3]"])
def test_a_wrong_kpt_shape_is_refused_with_its_line(tmp_path: Path, shape: str) -> None:
    with pytest.raises(InputError, match="kpt_shape") as caught:
        read_pool(one_row(tmp_path / "p", ROW, f"kpt_shape: {shape}\n"))
    assert str(caught.value.where).endswith("dataset.yaml:2")


OUTSIDE = {
    "corner-outside": ("0 0.80 0.40 1.05 0.50 0.95 0.80 0.70 0.70", (0.7, 0.4, 1.0, 0.8), "label-clipped"),
    "box-reaches-out": ("0 0.95 0.5 0.2 0.2", (0.85, 0.4, 1.0, 0.6), "label-clipped"),
    "half-the-box": ("0 1.0 0.5 1.0 0.2", (0.5, 0.4, 1.0, 0.6), "label-clipped"),
    "centre-1-percent-out": ("0 1.01 0.5 0.1 0.2", (0.96, 0.4, 1.0, 0.6), "label-clipped"),
    "centre-1-percent-before": ("0 -0.01 0.5 0.1 0.2", (0.0, 0.4, 0.04, 0.6), "label-clipped"),
    "zero-size": ("0 0.5 0.5 0 0", (0.4995, 0.4995, 0.5005, 0.5005), "label-no-area"),
    "zero-width": ("0 0.5 0.5 0 0.2", (0.4995, 0.4, 0.5005, 0.6), "label-no-area"),
    "flat-polygon": ("0 0.1 0.2 0.3 0.2 0.5 0.2", (0.1, 0.1995, 0.5, 0.2005), "label-no-area"),
    "nothing-left-inside": ("0 1.005 0.5 0.008 0.2", (0.999, 0.4, 1.0, 0.6), "label-no-area"),
}


@pytest.mark.parametrize("form", OUTSIDE)
def test_obb_outside(tmp_path: Path, form: str) -> None:
    row, corners, kind = OUTSIDE[form]
    pool = read_pool(one_row(tmp_path / "p", row))
    box = pool.frames[0].boxes[0]
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(corners)
    assert pool.notice_counts == {kind: 1}


@pytest.mark.parametrize(
    "row", ["0 1.011 0.5 0.1 0.1", "0 -0.011 0.5 0.1 0.1", "0 0.5 0.5 1.02 0.1", "0 320 240 64 48"]
)
def test_what_ultralytics_refuses_is_refused(tmp_path: Path, row: str) -> None:
    with pytest.raises(InputError, match="label-outside"):
        read_pool(one_row(tmp_path / "p", row))


SIX = {
    "confidence": ("0 0.5 0.5 0.3 0.3 0.91", "its confidence"),
    "polygon-with-confidence": ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.91", "With a confidence at its end"),
    "tracker": ("0 0.5 0.5 0.3 0.3 0.91 7", "a tracker's confidence"),
}


@pytest.mark.parametrize("form", SIX)
def test_six_columns(tmp_path: Path, form: str) -> None:
    row, words = SIX[form]
    with pytest.raises(InputError) as caught:
        read_pool(one_row(tmp_path / "p", row))
    assert words in caught.value.what and "labels/a.txt:1" in caught.value.what
    if form == "confidence":
        assert "rule:FOLDER" in caught.value.what


# --- which of two pools ------------------------------------------------------------------------------------------


def two_pools(tmp_path: Path, yaml: str, listed: str = "") -> Path:
    """A pool v1, its yaml with {v1} filled in, and its copy v2 with one label corrected; returns v2."""
    files = {"list.txt": listed.format(v1=tmp_path / "v1")} if listed else {}
    write_pool(tmp_path / "v1", yaml=yaml.format(v1=tmp_path / "v1"), frames={"train/a.png": ROW}, files=files)
    shutil.copytree(tmp_path / "v1", tmp_path / "v2")
    (tmp_path / "v2/labels/train/a.txt").write_text("1 0.5 0.5 0.2 0.2\n" + ROW)
    return tmp_path / "v2"


STALE = {
    "path": "path: {v1}\ntrain: images/train\nnames: [plate, rack]\n",
    "fiftyone": "names:\n  0: plate\n  1: rack\npath: {v1}\ntrain: ./images/train/\n",
    "relative-path": "path: ../v1\ntrain: images/train\nnames: [plate, rack]\n",
    "whole-entry": "train: {v1}/images/train\nnames: [plate, rack]\n",
    "whole-entries": 'path: {v1}\ntrain: ["{v1}/images/train"]\nnames: [plate, rack]\n',
    "upwards": "train: ../v1/images/train\nnames: [plate, rack]\n",
    "list": "train: list.txt\nnames: [plate, rack]\n",
}


@pytest.mark.parametrize("form", STALE)
def test_stale_path(tmp_path: Path, form: str) -> None:
    v2 = two_pools(tmp_path, STALE[form], "{v1}/images/train/a.png\n" if form == "list" else "")
    pool = read_pool(v2)
    assert [box.cls for box in pool.frames[0].boxes] == [1, 0]
    assert set(pool.notice_counts) <= {"path-stale", "path-fallback"} and len(pool.notices) == 1
    assert [box.cls for box in read_pool(tmp_path / "v1").frames[0].boxes] == [0]
    (tmp_path / "v1").rename(tmp_path / "gone")
    assert [box.cls for box in read_pool(v2).frames[0].boxes] == [1, 0]


def test_a_roboflow_yaml_means_its_own_folder_not_its_neighbours(tmp_path: Path) -> None:
    yaml = "train: ../train/images\nnames: [plate, rack]\n"
    for root, row in ((tmp_path / "deck-1", "1 0.5 0.5 0.2 0.2\n"), (tmp_path, ROW)):
        (root / "train/images").mkdir(parents=True)
        (root / "train/labels").mkdir()
        (root / "train/labels/a.txt").write_text(row)
        picture(3).save(root / "train/images/a.png")
        (root / "data.yaml").write_text(yaml)
    pool = read_pool(tmp_path / "deck-1")
    assert [box.cls for box in pool.frames[0].boxes] == [1] and pool.frames[0].path.is_relative_to(tmp_path / "deck-1")
    assert "path-stale" in pool.notice_counts


def test_stale_path_with_a_part_that_only_the_other_folder_has_is_refused(tmp_path: Path) -> None:
    write_pool(tmp_path / "v1")
    shutil.copytree(tmp_path / "v1/images/train", tmp_path / "v2/images/train")
    (tmp_path / "v2/data.yaml").write_text(
        f"path: {tmp_path}/v1\ntrain: images/train\nval: images/val\nnames: [plate, rack]\n"
    )
    with pytest.raises(InputError, match="leads to another folder") as caught:
        read_pool(tmp_path / "v2")
    assert str(caught.value.where).endswith("data.yaml:1") and "which is meant" in (caught.value.fix or "")


@pytest.mark.parametrize("entry", ["~", "/", "..", "../..", "~/"])
def test_an_entry_that_holds_much_more_than_the_pool_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = write_pool(tmp_path / "x/p", yaml=f"names: [plate]\ntrain: '{entry}'\n", frames={"a.png": ROW})
    with pytest.raises(InputError, match="holds much more than a pool") as caught:
        read_pool(root)
    assert str(caught.value.where).endswith("dataset.yaml:2")


def test_a_yaml_below_the_pool_may_lead_up_to_it(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p", yaml="", frames={"a.png": ROW})
    (root / "cfg").mkdir()
    (root / "cfg/data.yaml").write_text("path: ..\ntrain: .\nnames: [plate]\n")
    assert boxes(read_pool(root / "cfg")) == {"a.png": 1}


# --- what is no plain file ---------------------------------------------------------------------------------------


def test_linked(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p", yaml=YAML, frames={"b.png": None}, files={"labels/a.txt": ROW})
    picture(7).save(tmp_path / "photo.png")
    (root / "images/a.png").symlink_to(tmp_path / "photo.png")
    report = check_pool(root)
    assert report.by_kind == {"link-leaves-pool": 1}
    assert "cp -rL" in report.problems[0].text and report.problems[0].file == "images/a.png"
    shutil.copytree(root, tmp_path / "copy", symlinks=False)
    assert boxes(read_pool(tmp_path / "copy")) == {"a.png": 1, "b.png": 0}


def test_many_links_are_one_problem(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p", yaml=YAML, frames={}, files={"frames.csv": "frame,group\na.png,1\nb.png,1\n"})
    (root / "images").mkdir()
    for name in ("a.png", "b.png"):
        picture(7).save(tmp_path / name)
        (root / "images" / name).symlink_to(tmp_path / name)
    with pytest.raises(InputError, match=r"2 images are links that lead out of the pool, such as a\.png; `cp -rL"):
        read_pool(root, skip_bad=True)


def test_a_circle_of_links_a_fifo_and_a_long_name_among_pictures(tmp_path: Path) -> None:
    files = {"list.txt": f"images/a.png\nimages/{'x' * 300}.png\nimages/{'y/' * 3000}z.png\n"}
    root = write_pool(
        tmp_path / "p",
        yaml="train: [images, list.txt]\nnames: [plate, spill]\n",
        frames={"a.png": ROW, "b.png": ROW, "c.png": ROW},
        files=files,
    )
    (root / "images/one.png").symlink_to(root / "images/two.png")
    (root / "images/two.png").symlink_to(root / "images/one.png")
    (root / "images/again").symlink_to(root / "images")
    (root / "images/gone.png").symlink_to(root / "images/nowhere.png")
    os.mkfifo(root / "images/pipe.png")
    for name in ("b", "c"):
        (root / f"labels/{name}.txt").unlink()
    os.mkfifo(root / "labels/b.txt")
    (root / "labels/c.txt").symlink_to(root / "labels/c.txt")
    report = check_pool(root)
    assert [frame.path.name for frame in report.scan.frames] == ["a.png"]
    assert report.by_kind == {
        "picture-unreadable": 4,
        "picture-missing": 2,
        "label-encoding": 2,
        "link-not-followed": 1,
    }
    with pytest.raises(InputError):
        read_pool(root)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p", yaml=YAML, frames={"a.png": ROW})
    shutil.copy(root / "images/a.png", os.fsdecode(os.fsencode(root / "images") + b"/b\xff.png"))
    assert kinds(root) == {"picture-name": 1}
    assert boxes(read_pool(root, skip_bad=True)) == {"a.png": 1}


def test_frames_csv_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Its groups would be lost, and frames of one session stand on both sides of a split."""
    root = write_pool(tmp_path / "p", yaml=YAML, frames={"a.png": ROW})
    (root / "frames.csv").symlink_to(root / "gone.csv")
    assert kinds(root) == {"frames-csv": 1}
    (root / "frames.csv").unlink()
    (root / "frames.csv").mkdir()
    assert kinds(root) == {"frames-csv": 1}


def test_folders_that_are_nested_without_end(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p", yaml=YAML, frames={"a.png": ROW})
    here = os.open(root / "images", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        assert boxes(read_pool(root)) == {"a.png": 1}
    except InputError as error:
        assert "nested too deeply" in error.what
    finally:
        subprocess.run(["rm", "-rf", str(root)], check=True)  # shutil.rmtree cannot go so deep


def test_a_label_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p", yaml=YAML, frames={"a.png": "0 .5 .5 .1 .1\n" * 200_000, "b.png": ROW})
    assert kinds(root) == {"label-broken-row": 1}
    (root / "labels/a.txt").write_text("0 " + "0.5 0.25 " * 1_000_000)
    assert kinds(root) == {"label-encoding": 1}


@pytest.mark.parametrize("name", ["dataset.yaml", "frames.csv", "list.txt", "labels/classes.txt"])
def test_a_fifo_where_a_text_is_expected_does_not_hang(tmp_path: Path, name: str) -> None:
    root = write_pool(
        tmp_path / "p", yaml="train: [images, list.txt]\nnames: [plate]\n", frames={"a.png": ROW}, files={name: ""}
    )
    (root / name).unlink()
    os.mkfifo(root / name)
    try:
        check_pool(root)
    except InputError as error:
        assert error.fix


# --- the folders that were found -----------------------------------------------------------------------------------

FOUND = {
    "label-name-mismatch": {"label-name": 1},
    "coco-offset": {"labels-count-from-1": 1},
    "obb-outside": {"label-clipped": 1},
    "six-columns": {"label-columns": 1},
    "pose-read-as-polygon": {"label-columns": 1},
    "no-yaml-labelstudio": {"no-yaml": 1},
    "no-yaml-darknet": {"no-yaml": 1},
}


@pytest.mark.parametrize("name", FOUND)
def test_the_folders_that_were_found(shared: Path, name: str) -> None:
    assert kinds(shared / "faults" / name) == FOUND[name]
