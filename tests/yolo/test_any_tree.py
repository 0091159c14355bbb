"""Whatever files stand in a folder, a pool is read, or refused in one message."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from deckbench.errors import InputError
from deckbench.pool.check import check_pool
from tests.yolo.pool_helpers import picture

PICTURE = "a picture"
TREE = """
data.yaml dataset.yml other.yaml classes.txt notes.json obj.names obj.data train.txt Train.txt images.txt frames.csv
_darknet.labels images/a.png images/train/a.png images/Val/b.png images/x/c.png labels/a.txt labels/train/a.txt
labels/classes.txt labels/a%20b.txt labels/a.png.txt Labels/a.txt train/images/a.png train/labels/a.txt valid/b.jpg
valid/b.txt obj_train_data/a.png obj_train_data/a.txt obj_X_data/a.png data/a.jpg data/a.txt a.png a.txt images labels
"""
NAMES = st.sampled_from(TREE.split())
LINES = st.sampled_from(
    [
        "train: images",
        "train: [images, train.txt]",
        "val: images/Val",
        "path: ..",
        "path: /nowhere/x",
        "Test: ../..",
        "names: [plate, spill]",
        "names: {1: a}",
        "nc: 2",
        "nc: 2.0",
        "kpt_shape: [2, 3]",
        "kpt_shape: [.nan, 2]",
        "plate",
        "spill",
        "",
        "classes = 2",
        "train = data/train.txt",
        "names = data/obj.names",
        "valid = ../../x",
        "data/obj_train_data/a.png",
        "./images/a.png",
        "/abs/images/train/a.png",
        "images/" + "y" * 300 + ".png",
        "\\x\\a.png",
        "0 0.5 0.5 0.2 0.2",
        "1 0.5 0.5 0.2 0.2",
        "2 .5 .5 .2 .2",
        "0 .3 .3 .2 .2 .3 .3 1 .3 .3 2",
        "0 1 1 1 1 1 1",
        "x",
        '{"categories": [{"id": 0, "name": "plate"}]}',
        '{"categories": 1}',
        "frame,group",
        "images/a,1",
        "\0",
        "\ud800",
    ]
)
TEXTS = st.lists(LINES, max_size=4).map("\n".join) | st.just(PICTURE)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, TEXTS, max_size=9))
def test_any_tree_is_read_or_refused(files: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "p"
        root.mkdir()
        for name, text in files.items():
            path = root / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix in {".png", ".jpg"}:
                    picture(len(name)).save(path)
                else:
                    path.write_bytes(text.encode("utf-8", "surrogatepass"))
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                continue
        try:
            report = check_pool(root)
        except InputError as error:
            assert error.what and error.fix
        else:
            assert report.scan.found and len(report.scan.frames) <= report.scan.found
