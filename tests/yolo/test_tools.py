"""Pools as labelling tools leave them, with and without a yaml: class names and parts by the files that are there.

The forms are those that the exporters of label-studio-sdk 2.1, CVAT (YOLO 1.1 and Ultralytics YOLO Detection 1.0),
datumaro 1.13, supervision 0.31 and FiftyOne 1.22 write, of Roboflow's downloads, labelImg and Yolo_mark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from deckbench.errors import InputError
from deckbench.models.baselines.labels import LabelFolder
from deckbench.pool.check import check_pool
from deckbench.yolo.read import read_pool
from tests.yolo.pool_helpers import picture

NOTES = json.dumps({"categories": [{"id": 1, "name": "spill"}, {"id": 0, "name": "plate"}], "info": {"year": 2026}})
NAMES = "plate\nspill\n"
ROW = "1 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n"
OBB = "1 0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6\n0 0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6\n"
KEYPOINTS = "1 0.5 0.5 0.2 0.2 0.45 0.5 2 0.9 0.5 2\n0 0.5 0.5 0.2 0.2 0.0 0.0 0 0.0 0.0 0"
CVAT = "classes = 2\n{parts}names = data/obj.names\nbackup = backup/\n"


def tree(root: Path, files: Mapping[str, str]) -> Path:
    """Files by path; an empty text for a picture draws it."""
    for number, (name, text) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in {".png", ".jpg"}:
            picture(number).save(path)
        else:
            path.write_text(text, encoding="utf-8")
    return root


# tool -> (files, picture -> part)
FORMS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "label-studio": (
        {"classes.txt": NAMES, "notes.json": NOTES, "images/a.png": "", "labels/a.txt": ROW},
        {"a": "train"},
    ),
    "label-studio-classes-only": (
        {"classes.txt": NAMES, "images/a.png": "", "labels/a.txt": ROW},
        {"a": "train"},
    ),
    "label-studio-notes-only": (
        {"notes.json": NOTES, "images/a.png": "", "labels/a.txt": ROW},
        {"a": "train"},
    ),
    "label-studio-encoded-names": (
        {"classes.txt": NAMES, "notes.json": NOTES, "images/a b.png": "", "labels/a%20b.txt": ROW},
        {"a b": "train"},
    ),
    "label-studio-own-images": (  # "YOLO" without images: the lab puts its own beside the labels
        {"classes.txt": NAMES, "notes.json": NOTES, "images/a b.png": "", "labels/0a1b2c3d-a_b.txt": ROW},
        {"a b": "train"},
    ),
    "label-studio-by-labeller": (
        {"classes.txt": NAMES, "notes.json": NOTES, "images/a.png": "", "labels/1/a.txt": ROW},
        {"a": "train"},
    ),
    "label-studio-obb": (
        {"classes.txt": NAMES, "notes.json": NOTES, "images/a.png": "", "labels/a.txt": OBB},
        {"a": "train"},
    ),
    "label-studio-keypoints": (
        {"classes.txt": NAMES, "notes.json": NOTES, "images/a.png": "", "labels/a.txt": KEYPOINTS},
        {"a": "train"},
    ),
    "cvat-yolo-1.1": (
        {
            "obj.data": CVAT.format(parts="train = data/train.txt\n"),
            "obj.names": NAMES,
            "train.txt": "data/obj_train_data/x/a.png\n",
            "obj_train_data/x/a.png": "",
            "obj_train_data/x/a.txt": ROW,
        },
        {"a": "train"},
    ),
    "cvat-yolo-1.1-subsets": (
        {
            "obj.data": CVAT.format(parts="Train = data/Train.txt\nValidation = data/Validation.txt\n"),
            "obj.names": NAMES,
            "Train.txt": "data/obj_Train_data/a.png\n",
            "Validation.txt": "data/obj_Validation_data/b.png\n",
            "obj_Train_data/a.png": "",
            "obj_Train_data/a.txt": ROW,
            "obj_Validation_data/b.png": "",
            "obj_Validation_data/b.txt": ROW,
        },
        {"a": "train", "b": "val"},
    ),
    "cvat-without-lists": (
        {"obj.names": NAMES, "obj_Test_data/a.png": "", "obj_Test_data/a.txt": ROW},
        {"a": "test"},
    ),
    "cvat-ultralytics-1.0": (
        {
            "data.yaml": "names:\n  0: plate\n  1: spill\npath: .\ntrain: train.txt\n",
            "train.txt": "data/images/train/a.png\n",
            "images/train/a.png": "",
            "labels/train/a.txt": ROW,
        },
        {"a": "train"},
    ),
    "datumaro-yolo": (
        {
            "obj.data": CVAT.format(parts="train = data/train.txt\nvalid = data/valid.txt\n"),
            "obj.names": NAMES,
            "train.txt": "data/obj_train_data/a.jpg\n",
            "valid.txt": "data/obj_valid_data/b.jpg\n",
            "obj_train_data/a.jpg": "",
            "obj_train_data/a.txt": ROW,
            "obj_valid_data/b.jpg": "",
            "obj_valid_data/b.txt": ROW,
        },
        {"a": "train", "b": "val"},
    ),
    "datumaro-yolo-loose": (
        {"obj.names": NAMES, "images/train/a.png": "", "annotations/train/a.txt": ROW},
        {"a": "train"},
    ),
    "datumaro-yolo-ultralytics": (
        {
            "data.yaml": "train: train.txt\nval: val.txt\nnames:\n  0: plate\n  1: spill\n",
            "train.txt": "./images/train/a.jpg\n",
            "val.txt": "./images/val/b.jpg\n",
            "images/train/a.jpg": "",
            "images/val/b.jpg": "",
            "labels/train/a.txt": ROW,
            "labels/val/b.txt": ROW,
        },
        {"a": "train", "b": "val"},
    ),
    "supervision": (
        {
            "data.yaml": "nc: 2\nnames:\n- plate\n- spill\n",
            "train/images/a.png": "",
            "train/labels/a.txt": ROW,
            "valid/images/b.png": "",
            "valid/labels/b.txt": ROW,
        },
        {"a": "train", "b": "val"},
    ),
    "supervision-one-part": (
        {"data.yaml": "nc: 2\nnames: [plate, spill]\n", "images/a.png": "", "labels/a.txt": ROW},
        {"a": "train"},
    ),
    "fiftyone-v4": (
        {"obj.names": "plate\nspill", "images.txt": "data/a.jpg", "data/a.jpg": "", "data/a.txt": ROW},
        {"a": "train"},
    ),
    "fiftyone-v4-without-list": (
        {"obj.names": "plate\nspill", "data/a.jpg": "", "data/a.txt": ROW},
        {"a": "train"},
    ),
    "fiftyone-v5": (
        {
            "dataset.yaml": "names:\n  0: plate\n  1: spill\npath: /home/me/export\ntrain: ./images/train/\n"
            "validation: ./images/validation/\n",
            "images/train/a.jpg": "",
            "images/validation/b.jpg": "",
            "labels/train/a.txt": ROW,
            "labels/validation/b.txt": ROW,
        },
        {"a": "train", "b": "val"},
    ),
    "capitalised-subsets": (
        {
            "classes.txt": NAMES,
            "Train/Images/a.png": "",
            "Train/Labels/a.txt": ROW,
            "Valid/Images/b.png": "",
            "Valid/Labels/b.txt": ROW,
            "TEST/images/c.png": "",
            "TEST/labels/c.txt": ROW,
        },
        {"a": "train", "b": "val", "c": "test"},
    ),
    "capitalised-below-images": (
        {
            "classes.txt": NAMES,
            "images/Train/a.png": "",
            "images/Val/b.png": "",
            "labels/Train/a.txt": ROW,
            "labels/Val/b.txt": ROW,
        },
        {"a": "train", "b": "val"},
    ),
    "capitalised-in-the-yaml": (
        {
            "data.yaml": "Train: train/images\nvalid: valid/images\nnames: [plate, spill]\n",
            "Train/images/a.png": "",
            "Train/labels/a.txt": ROW,
            "Valid/images/b.png": "",
            "Valid/labels/b.txt": ROW,
        },
        {"a": "train", "b": "val"},
    ),
    "roboflow": (
        {
            "data.yaml": "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\n"
            "names: ['plate', 'spill']\nroboflow:\n  workspace: lab\n",
            "README.roboflow.txt": "deck - v1\n",
            "train/images/a.jpg": "",
            "train/labels/a.txt": ROW,
            "valid/images/b.jpg": "",
            "valid/labels/b.txt": ROW,
        },
        {"a": "train", "b": "val"},
    ),
    "roboflow-darknet": (
        {
            "train/_darknet.labels": NAMES,
            "train/a.jpg": "",
            "train/a.txt": ROW,
            "valid/_darknet.labels": NAMES,
            "valid/b.jpg": "",
            "valid/b.txt": ROW,
            "README.roboflow.txt": "deck - v1\n",
        },
        {"a": "train", "b": "val"},
    ),
    "labelimg": (
        {"classes.txt": NAMES, "a.jpg": "", "a.txt": ROW},
        {"a": "train"},
    ),
    "labelimg-beside-labels": (
        {"labels/classes.txt": NAMES, "images/a.jpg": "", "labels/a.txt": ROW},
        {"a": "train"},
    ),
    "yolo-mark": (
        {
            "obj.data": "classes= 2\ntrain  = data/train.txt\nvalid  = data/train.txt\nnames = data/obj.names\n",
            "obj.names": NAMES,
            "train.txt": "data/img/a.jpg\n",
            "img/a.jpg": "",
            "img/a.txt": ROW,
        },
        {"a": "train"},
    ),
    "no-names-in-the-yaml": (
        {"data.yaml": "train: images\n", "classes.txt": NAMES, "images/a.png": "", "labels/a.txt": ROW},
        {"a": "train"},
    ),
    "an-ontology-is-no-pool-yaml": (
        {"classes.txt": NAMES, "ontology.yaml": "name: mine\n", "images/a.png": "", "labels/a.txt": ROW},
        {"a": "train"},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_no_yaml_labelstudio_darknet_and_relatives(tmp_path: Path, form: str) -> None:
    files, parts = FORMS[form]
    pool = read_pool(tree(tmp_path / "p", files))
    assert pool.names == ("plate", "spill") and pool.name == "p"
    assert {frame.path.stem: frame.split for frame in pool.frames} == parts
    for frame in pool.frames:
        assert [box.name for box in frame.boxes] == ["spill", "plate"], "labels belong to their picture"
        corners = {(round(box.x0, 6), round(box.y0, 6), round(box.x1, 6), round(box.y1, 6)) for box in frame.boxes}
        assert corners == {(0.4, 0.4, 0.6, 0.6)}
    if not {"data.yaml", "dataset.yaml"} & files.keys():
        assert pool.notice_counts["no-yaml"] == 1
    assert check_pool(tmp_path / "p").ok


@pytest.mark.parametrize("form", ["label-studio", "cvat-yolo-1.1", "fiftyone-v4", "supervision", "roboflow-darknet"])
def test_the_hash_of_a_pool_is_that_of_the_same_with_a_yaml(tmp_path: Path, form: str) -> None:
    files, _ = FORMS[form]
    pool = read_pool(tree(tmp_path / "p", files))
    entries: dict[str, list[str]] = {}
    for frame in pool.frames:
        entries.setdefault(str(frame.split), []).append(frame.path.relative_to(pool.root).as_posix())
    lines = [f"{part}: {json.dumps(listed)}" for part, listed in entries.items()]
    (tmp_path / "p/dataset.yaml").write_text("\n".join([*lines, "names: [plate, spill]"]))
    assert read_pool(tmp_path / "p").content_hash == pool.content_hash


REFUSED: dict[str, tuple[dict[str, str], str, str]] = {
    "nothing": ({"images/a.png": ""}, "no classes.txt", "write a data.yaml"),
    "labels-without-images": (
        {"classes.txt": NAMES, "notes.json": NOTES, "labels/a.txt": ROW},
        "labels, but no image",
        "YOLO with Images",
    ),
    "cvat-without-images": (
        {"obj.data": CVAT.format(parts=""), "obj.names": NAMES, "obj_train_data/a.txt": ROW},
        "labels, but no image",
        "Save images",
    ),
    "names-disagree": (
        {"classes.txt": "spill\nplate\n", "notes.json": NOTES, "images/a.png": "", "labels/a.txt": ROW},
        "name the classes differently",
        "remove the wrong one",
    ),
    "an-empty-line": (
        {"classes.txt": "plate\n\nspill\n", "images/a.png": "", "labels/a.txt": ROW},
        "an empty line",
        "write a name on every line",
    ),
    "no-names": ({"classes.txt": "\n", "images/a.png": ""}, "names no class", "one class name a line"),
    "broken-notes": ({"notes.json": "{", "images/a.png": ""}, "no list of categories", "export the project again"),
    "gap-in-notes": (
        {"notes.json": '{"categories": [{"id": 0, "name": "a"}, {"id": 2, "name": "b"}]}', "images/a.png": ""},
        "are not 0, 1, 2",
        "export the project again",
    ),
    "deep-notes": ({"notes.json": "[" * 100_000, "images/a.png": ""}, "no list of categories", "export"),
    "one-folder-deeper": (
        {"project-1/classes.txt": NAMES, "project-1/images/a.png": "", "project-1/labels/a.txt": ROW},
        "project-1 below it looks like a pool",
        "project-1",
    ),
    "two-yamls": (
        {"one.yaml": "train: images\nnc: 1\n", "two.yaml": "train: images\nnc: 2\n", "images/a.png": ""},
        "found one.yaml, two.yaml",
        "the pool's yaml itself",
    ),
    "a-yaml-without-parts-or-images": ({"data.yaml": "names: [plate]\n"}, "no train, val or test", "name at least one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_is_no_pool_says_what_is_missing(tmp_path: Path, case: str) -> None:
    files, what, fix = REFUSED[case]
    with pytest.raises(InputError) as caught:
        read_pool(tree(tmp_path / "p", files))
    assert what in caught.value.what and fix in (caught.value.fix or "") and caught.value.exit_code == 2


def test_a_detectors_folder_has_its_names_from_the_same_files(tmp_path: Path) -> None:
    root = tree(tmp_path / "p", {"obj.names": NAMES, "labels/a.txt": ROW})
    assert LabelFolder(root).names == LabelFolder(root / "labels").names == ("plate", "spill")
