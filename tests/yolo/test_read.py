"""Reading pools: every form users have, and every kind of wrong input."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from deckbench.errors import InputError
from deckbench.picture import MAX_PIXELS, PictureFacts, open_picture
from deckbench.pool.check import check_pool
from deckbench.yolo import facts
from deckbench.yolo.frame import ERROR, KINDS
from deckbench.yolo.read import read_pool, scan_pool
from tests.yolo.pool_helpers import ROW, YAML, picture, write_pool


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds one row's beginning."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10))[:-6])


def jpeg(image: Image.Image, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", **options)
    return data.getvalue()


# --- forms -------------------------------------------------------------------------------------------------------


def test_frames_have_boxes_sizes_and_splits(tmp_path: Path) -> None:
    pool = read_pool(write_pool(tmp_path / "p"))
    assert [frame.id for frame in pool.frames] == ["images/train/a", "images/train/b", "images/val/c"]
    assert [frame.split for frame in pool.frames] == ["train", "train", "val"]
    frame = pool.frames[0]
    assert (frame.width, frame.height) == (64, 48)
    box = frame.boxes[0]
    assert (box.cls, box.name, box.line) == (0, "plate", 1)
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((0.4, 0.4, 0.6, 0.6))
    assert pool.frames[2].boxes == () and pool.frames[2].labels is not None
    assert pool.names == ("plate", "rack") and pool.name == "p" and not pool.synthetic and pool.left_out == ()


@pytest.mark.parametrize(
    "yaml",
    [
        "path: .\ntrain: images/train\nnames: {0: plate, 1: rack}\n",
        "train: images/train\nnames: {'1': rack, '0': plate}\n",
        "\ufefftrain: images/train\r\nnames: [plate, rack]\r\nnc: 2\r\n",
        "train: ../images/train\nnames: [plate, rack]\n",  # Roboflow
        "train: ./images/train/\nnames: [plate, rack]\n",
        "path: /nowhere/at/all\ntrain: images/train\nnames: [plate, rack]\n",
        "path: datasets/elsewhere\ntrain: [images/train]\nnames: [plate, rack]\n",
        "train: list.txt\nnames: [plate, rack]\n",
        "train: [list.txt, images/train]\nnames: [plate, rack]\n",
    ],
)
def test_yaml_variants(tmp_path: Path, yaml: str) -> None:
    listed = "./images/train/a.png\r\n\r\nimages/train/b.png\n"
    root = write_pool(tmp_path / "p", yaml=yaml, files={"list.txt": listed})
    pool = read_pool(root)
    assert [frame.id for frame in pool.frames] == ["images/train/a", "images/train/b"]
    assert pool.names == ("plate", "rack")
    assert read_pool(root / "dataset.yaml").content_hash == pool.content_hash


def test_nc_without_names(tmp_path: Path) -> None:
    assert read_pool(write_pool(tmp_path, yaml="train: images/train\nnc: 3\n")).names == (
        "class_0",
        "class_1",
        "class_2",
    )


def test_data_yaml_is_found_and_a_second_yaml_is_reported(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p", yaml_name="data.yaml")
    assert read_pool(root).notices == ()
    (root / "dataset.yaml").write_text(YAML)
    assert [problem.kind for problem in read_pool(root).notices] == ["several-yamls"]


def test_wrong_path_falls_back_to_what_lies_below_the_yaml(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p" / "datasets")
    (root / "dataset.yaml").unlink()
    (tmp_path / "p" / "data.yaml").write_text(
        "path: /home/me/work/datasets\ntrain: images/train\nnames: [plate, rack]\n"
    )
    pool = read_pool(tmp_path / "p")
    assert pool.root == root and len(pool.frames) == 2
    assert [problem.kind for problem in pool.notices] == ["path-fallback"]


def test_an_absolute_path_is_used_and_reported(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "pictures")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "data.yaml").write_text(f"path: {root}\ntrain: images/train\nnames: [plate, rack]\n")
    pool = read_pool(tmp_path / "here")
    assert pool.root == root and [problem.kind for problem in pool.notices] == ["path-outside"]
    assert (
        pool.content_hash
        == read_pool(write_pool(tmp_path / "b", yaml=YAML.replace("val: images/val\n", ""))).content_hash
    )


def test_polygons_give_their_hull(tmp_path: Path) -> None:
    root = write_pool(tmp_path, frames={"train/a.png": "1 0.1 0.2 0.5 0.1 0.4 0.6 0.2 0.5\n"})
    box = read_pool(root).frames[0].boxes[0]
    assert (box.x0, box.y0, box.x1, box.y1) == (0.1, 0.1, 0.5, 0.6)
    assert box.polygon == ((0.1, 0.2), (0.5, 0.1), (0.4, 0.6), (0.2, 0.5))


def test_bom_crlf_tabs_and_blank_lines_in_labels(tmp_path: Path) -> None:
    root = write_pool(
        tmp_path, frames={"train/a.png": "\ufeff\r\n0 .5 0.5 2e-1 0.2\r\n\r\n1.0\t0.5\t0.5\t0.1\t0.1  \r\n"}
    )
    assert [(box.cls, box.line) for box in read_pool(root).frames[0].boxes] == [(0, 2), (1, 4)]


def test_a_missing_label_file_is_background(tmp_path: Path) -> None:
    pool = read_pool(write_pool(tmp_path, frames={"train/a.png": ROW, "train/b.png": None}))
    assert pool.frames[1].boxes == () and pool.frames[1].labels is None


def test_upper_case_extensions_and_unicode_names(tmp_path: Path) -> None:
    root = write_pool(tmp_path, frames={"train/Größe 孔板.JPG": ROW, "train/B.PNG": ROW})
    (root / "labels/train/B.txt").rename(root / "labels/train/B.TXT")
    # A zip made on another system decomposes umlauts in one of the two names.
    (root / "labels/train/Größe 孔板.txt").rename(root / "labels/train/Gro\u0308ße 孔板.txt")
    pool = read_pool(root)
    assert [frame.id for frame in pool.frames] == ["images/train/B", "images/train/Größe 孔板"]
    assert all(len(frame.boxes) == 1 for frame in pool.frames)


def test_only_the_last_images_folder_becomes_labels(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "images" / "p")
    assert all(frame.labels is not None and "p/labels" in frame.labels.as_posix() for frame in read_pool(root).frames)


def test_labels_may_stand_beside_the_pictures(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "p", yaml="train: frames\nnames: [plate]\n", frames={})
    (root / "frames").mkdir()
    picture(0).save(root / "frames/x.png")
    (root / "frames/x.txt").write_text(ROW)
    assert len(read_pool(root).frames[0].boxes) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (80, 48), "black")
    upright.paste("white", (0, 0, 40, 24))  # the upper left quarter
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that undoes the camera's turn
    stored = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    root = write_pool(tmp_path, frames={"train/a.jpg": ROW})
    (root / "images/train/a.jpg").write_bytes(jpeg(stored, quality=95, exif=exif))
    pool = read_pool(root)
    assert (pool.frames[0].width, pool.frames[0].height) == (80, 48)
    image = open_picture(pool.frames[0].path)
    assert image.size == (80, 48) and image.mode == "RGB"
    corners = [image.getpixel(at)[0] > 128 for at in ((5, 5), (75, 5), (5, 43), (75, 43))]
    assert corners == [True, False, False, False]
    from PIL import ImageOps

    assert ImageOps.exif_transpose(image).size == (80, 48), "nothing is left to turn a second time"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "I;16", "I;16B", "1"])
def test_every_picture_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = picture(0).convert("L")
    if mode.startswith("I;16"):
        order = 1 if mode == "I;16" else -1
        image = Image.frombytes(mode, grey.size, b"".join(bytes((0, value))[::order] for value in grey.tobytes()))
    else:
        image = grey.convert("RGB").convert(mode) if mode in {"CMYK", "P", "RGBA"} else grey.convert(mode)
    path = tmp_path / ("x.tif" if mode in {"CMYK", "I;16B"} else "x.png")
    image.save(path)
    opened = open_picture(path)
    assert opened.mode == "RGB"
    if mode.startswith("I;16"):
        difference = max(abs(a - b) for a, b in zip(opened.convert("L").tobytes(), grey.tobytes(), strict=True))
        assert difference <= 1, "16 bits are scaled, not clipped to white"


def test_frames_csv(tmp_path: Path) -> None:
    table = "\ufeffframe,group,time_s,step,anomalies\r\nimages/train/a,s1,1.5,setup,\r\n"
    table += "b.png,s1,2,transfer,spill;damaged_tip\r\nimages/val/c.png,s2,,,\r\n"
    root = write_pool(tmp_path, files={"frames.csv": table})
    a, b, c = read_pool(root).frames
    assert (a.group, a.time_s, a.step, a.anomalies) == ("s1", 1.5, "setup", ())
    assert (b.group, b.time_s, b.step, b.anomalies) == ("s1", 2.0, "transfer", ("damaged_tip", "spill"))
    assert (c.group, c.time_s, c.step) == ("s2", None, None)


def test_without_a_column_nothing_is_known(tmp_path: Path) -> None:
    root = write_pool(tmp_path, files={"frames.csv": "frame,step\na.png,setup\n"})
    frame = read_pool(root).frames[0]
    assert (frame.step, frame.group, frame.anomalies) == ("setup", None, None)


def test_content_hash_is_of_content_only(tmp_path: Path) -> None:
    first, second = (read_pool(write_pool(tmp_path / name)) for name in ("one", "two"))
    assert first.content_hash == second.content_hash
    (tmp_path / "two/labels/train/a.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    assert read_pool(tmp_path / "two").content_hash != first.content_hash
    (tmp_path / "two/labels/train/a.txt").write_text("\n" + ROW)
    assert read_pool(tmp_path / "two").content_hash == first.content_hash


# --- problems ----------------------------------------------------------------------------------------------------

ROWS = {
    "label-broken-row": ["0 0.5 half 0.2 0.2", "0,0.5,0.5,0.2,0.2", "plate 0.5 0.5 0.2 0.2", "0 0.5 0.5 0.2 1_0"],
    "label-columns": ["0 0.5 0.5 0.2", "0 0.5 0.5 0.2 0.2 0.9", "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "0"],
    "label-not-finite": ["0 nan 0.5 0.2 0.2", "0 0.5 inf 0.2 0.2", "0 0.5 1e999 0.2 0.2"],
    "label-negative-size": ["0 0.5 0.5 -0.2 0.2", "0 0.5 0.5 0.2 -0.1"],
    "label-class": ["2 0.5 0.5 0.2 0.2", "-1 0.5 0.5 0.2 0.2", "0.5 0.5 0.5 0.2 0.2", "99999999999 0.5 0.5 0.2 0.2"],
    "label-outside": ["0 1.02 0.5 0.2 0.2", "0 320 240 40 40", "1 -0.9 0.1 0.5 0.1 0.4 0.6", "0 -0.02 0.5 0.1 0.1"],
}


@pytest.mark.parametrize(("kind", "row"), [(kind, row) for kind, rows in ROWS.items() for row in rows])
def test_a_bad_row_stops_a_build_and_costs_its_whole_frame(tmp_path: Path, kind: str, row: str) -> None:
    root = write_pool(tmp_path, frames={"train/a.png": ROW + row + "\n", "train/b.png": ROW})
    with pytest.raises(InputError) as caught:
        read_pool(root)
    assert caught.value.exit_code == 2
    assert kind in caught.value.what and "labels/train/a.txt:2" in caught.value.what
    assert "--skip-bad" in (caught.value.fix or "")
    pool = read_pool(root, skip_bad=True)
    assert [frame.id for frame in pool.frames] == ["images/train/b"], "an unlabelled object would look normal"
    assert [(p.kind, p.file, p.line, p.frame) for p in pool.left_out] == [
        (kind, "labels/train/a.txt", 2, "images/train/a")
    ]


def broken_pictures() -> dict[str, tuple[str, bytes]]:
    good = jpeg(picture(0, (320, 240)), quality=90)
    others = {}
    for name in ("png", "webp", "bmp", "tiff"):
        data = io.BytesIO()
        picture(0, (320, 240)).save(data, name.upper())
        others[name] = data.getvalue()
    png = others["png"]
    return {
        "empty": ("picture-unreadable", b""),
        "text": ("picture-unreadable", b"<html>not found</html>"),
        "cut": ("picture-truncated", good[: len(good) // 2]),
        "last-bytes": ("picture-truncated", good[:-20]),
        "bomb": ("picture-too-large", png_header(60000, 60000)),
        "large": ("picture-too-large", png_header(MAX_PIXELS // 9000, 9100)),
        "tiny": ("picture-too-small", jpeg(picture(0, (9, 64)))),
        "no-pixels": ("picture-truncated", png_header(64, 48)),
        "png-cut": ("picture-truncated", png[: len(png) // 2]),
        "png-zeros": ("picture-truncated", png[:300] + bytes(len(png) - 300)),
        "png-bit": ("picture-truncated", png[:900] + bytes([png[900] ^ 1]) + png[901:]),
        "webp-cut": ("picture-unreadable", others["webp"][:200]),
        "bmp-cut": ("picture-truncated", others["bmp"][:2000]),
        "tiff-cut": ("picture-truncated", others["tiff"][:-2000]),
    }


@pytest.mark.parametrize("name", broken_pictures())
@pytest.mark.parametrize("full", [True, False])
def test_bad_pictures_are_found(tmp_path: Path, name: str, full: bool) -> None:
    kind, data = broken_pictures()[name]
    root = write_pool(tmp_path, frames={"train/a.jpg": ROW, "train/b.jpg": ROW}, files={"images/train/a.jpg": data})
    if full:
        report = check_pool(root)
        assert not report.ok and report.by_kind[kind] == 1
        assert [problem.file for problem in report.scan.errors] == ["images/train/a.jpg"]
    else:
        with pytest.raises(InputError, match=kind):
            read_pool(root)
        assert [frame.id for frame in read_pool(root, skip_bad=True).frames] == ["images/train/b"]
    with pytest.raises(InputError) as caught:
        open_picture(root / "images/train/a.jpg")
    assert "a.jpg" in str(caught.value)


@pytest.mark.parametrize("full", [True, False])
def test_processes_see_what_threads_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    broken = {f"images/train/{name}.jpg": data for name, (_, data) in broken_pictures().items()}
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = jpeg(picture(1), exif=exif)
    names = [Path(name).name for name in broken] + ["good.jpg", "turned.jpg"]
    root = write_pool(
        tmp_path, frames={f"train/{name}": ROW for name in names}, files={**broken, "images/train/turned.jpg": turned}
    )
    seen = []
    for least in (len(names) + 1, 1):
        monkeypatch.setattr("deckbench.yolo.facts.FOR_PROCESSES", least)
        seen.append(scan_pool(root, full=full, workers=2))
    assert seen[0] == seen[1]
    assert [frame.id for frame in seen[1].frames] == ["images/train/good", "images/train/turned"]
    assert {problem.kind for problem in seen[1].errors} == {kind for kind, _ in broken_pictures().values()}


FILES: dict[str, tuple[str, dict[str, str | bytes]]] = {
    "picture-format": ("images/train/x.heic", {"images/train/x.heic": b"?"}),
    "label-encoding": ("labels/train/a.txt", {"labels/train/a.txt": b"0 0.5 0.5 0.2 0.2\n\xff\xfe\n"}),
    "one-stem-two-pictures": ("images/train/a.tif", {"images/train/a.tif": b"II*\0"}),
    "label-without-picture": ("labels/train/lost.txt", {"labels/train/lost.txt": ROW}),
    "label-repeated": ("labels/train/a.txt", {"labels/train/a.txt": ROW + ROW}),
    "label-clipped": ("labels/train/a.txt", {"labels/train/a.txt": "0 0.905 0.5 0.2 0.2\n"}),
    "frames-csv": ("frames.csv", {"frames.csv": "name,group\na,1\n"}),
    "frames-csv-unknown-column": ("frames.csv", {"frames.csv": "frame,operator\na.png,me\n"}),
    "frames-csv-unknown-frame": ("frames.csv", {"frames.csv": "frame,step\nz.png,setup\n"}),
    "frames-csv-repeated-frame": ("frames.csv", {"frames.csv": "frame,step\na.png,setup\nimages/train/a,setup\n"}),
    "frames-csv-time": ("frames.csv", {"frames.csv": "frame,time_s\na.png,12:30\n"}),
    "frames-csv-no-group": ("frames.csv", {"frames.csv": "frame,group\na.png,\nb.png,1\nc.png,1\n"}),
    "split-list-missing": ("dataset.yaml", {"dataset.yaml": YAML.replace("images/val", "val.txt")}),
    "split-folder-missing": ("dataset.yaml", {"dataset.yaml": YAML.replace("images/val", "images/none")}),
    "val-is-train": ("dataset.yaml", {"dataset.yaml": YAML.replace("images/val", "images/train")}),
    "split-overlap": ("dataset.yaml", {"dataset.yaml": YAML.replace("images/val", "images")}),
    "names-repeated": ("dataset.yaml", {"dataset.yaml": YAML.replace("rack", "plate")}),
    "picture-missing": (
        "list.txt",
        {"list.txt": "images/train/a.png\nimages/gone.png\n", "dataset.yaml": YAML.replace("images/train", "list.txt")},
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_each_kind_of_problem_is_reported_with_its_place(tmp_path: Path, kind: str) -> None:
    file, files = FILES[kind]
    root = write_pool(tmp_path / "p", files=files)
    report = check_pool(root)
    assert kind in report.by_kind
    assert file in {problem.file for problem in report.problems if problem.kind == kind}
    assert report.ok == all(KINDS[found] != ERROR for found in report.by_kind)
    if KINDS[kind] == ERROR:
        with pytest.raises(InputError, match=kind):
            read_pool(root)
        assert kind in {problem.kind for problem in read_pool(root, skip_bad=True).left_out}
    else:
        assert kind in {problem.kind for problem in read_pool(root).notices}
    data = report.as_dict()
    assert data["by_kind"][kind] == sum(problem["kind"] == kind for problem in data["problems"])
    assert any(kind in line for line in report.lines())


def test_a_frame_name_that_fits_two_pictures(tmp_path: Path) -> None:
    root = write_pool(
        tmp_path, frames={"train/a.png": ROW, "val/a.png": ROW}, files={"frames.csv": "frame,step\na.png,setup\n"}
    )
    assert "frames-csv-ambiguous-frame" in check_pool(root).by_kind


def test_no_labels_at_all(tmp_path: Path) -> None:
    root = write_pool(tmp_path, frames={"train/a.png": None})
    with pytest.raises(InputError, match="no label file was found"):
        read_pool(root)


def test_identical_pictures_are_noticed(tmp_path: Path) -> None:
    root = write_pool(tmp_path)
    (root / "images/val/c.png").write_bytes((root / "images/train/a.png").read_bytes())
    assert [problem.kind for problem in read_pool(root).notices] == ["identical-pictures"]


def test_links_out_of_the_pool_are_refused(tmp_path: Path) -> None:
    picture(9).save(tmp_path / "secret.png")
    (tmp_path / "secret.txt").write_text("1 0.5 0.5 0.1 0.1\n")
    root = write_pool(tmp_path / "p", frames={"train/a.png": ROW, "train/b.png": None})
    (root / "images/train/link.png").symlink_to(tmp_path / "secret.png")
    (root / "labels/train/b.txt").symlink_to(tmp_path / "secret.txt")
    report = check_pool(root)
    assert report.by_kind == {"link-leaves-pool": 2, "split-folder-missing": 1}
    assert [frame.id for frame in read_pool(root, skip_bad=True).frames] == ["images/train/a"]


def test_a_folder_that_is_a_link_out_of_the_pool_is_refused(tmp_path: Path) -> None:
    other = write_pool(tmp_path / "other")
    root = write_pool(tmp_path / "p")
    (root / "images/more").symlink_to(other / "images/train")
    (root / "dataset.yaml").write_text(YAML.replace("images/val", "images/more"))
    report = check_pool(root)
    assert report.by_kind["link-leaves-pool"] == 1 and len(report.scan.frames) == 2


YAMLS = {
    "indentation": ("names: [plate\ntrain: x\n", "not valid YAML"),
    "list": ("- train\n- val\n", "a map of fields is expected"),
    "empty": ("", "a map of fields is expected"),
    "no-names": ("train: images/train\n", "names no classes"),
    "names-text": ("train: images/train\nnames: plate\n", "neither list nor map"),
    "names-gap": ("train: images/train\nnames: {0: plate, 2: rack}\n", "gap"),
    "names-words": ("train: images/train\nnames: {plate: 0}\n", "not a number"),
    "names-empty": ("train: images/train\nnames: []\n", "empty"),
    "names-nested": ("train: images/train\nnames: [[plate]]\n", "not a text"),
    "nc-other": ("train: images/train\nnc: 3\nnames: [plate, rack]\n", "`nc` is 3 but"),
    "nc-text": ("train: images/train\nnc: many\n", "not a positive number"),
    "nc-zero": ("train: images/train\nnc: 0\n", "not a positive number"),
    "part-number": ("train: 7\nnames: [plate]\n", "not a path"),
    "train-missing": ("train: images/nowhere\nval: images/val\nnames: [plate]\n", "does not exist"),
    "path-list": ("path: [a]\ntrain: images/train\nnames: [plate]\n", "not a text"),
    "object": ("!!python/object/apply:os.getcwd []\n", "not valid YAML"),
    "no-pictures": ("train: empty\nnames: [plate]\n", "no images"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_broken_yaml(tmp_path: Path, name: str) -> None:
    text, message = YAMLS[name]
    root = write_pool(tmp_path, yaml=text)
    (root / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        read_pool(root)
    assert message in caught.value.what and caught.value.fix and caught.value.exit_code == 2


def test_yaml_error_names_its_line(tmp_path: Path) -> None:
    root = write_pool(tmp_path, yaml="path: .\nnames: [a]\ntrain: 'x\n")
    with pytest.raises(InputError, match=r"dataset\.yaml:\d"):
        read_pool(root)


@pytest.mark.parametrize("place", ["missing", "file.txt", "."])
def test_what_is_no_pool(tmp_path: Path, place: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(InputError):
        read_pool(tmp_path / place)


def test_the_message_is_short_and_counts(tmp_path: Path) -> None:
    root = write_pool(tmp_path, frames={f"train/{number:03d}.png": "9 0.5 0.5 0.1 0.1\n" for number in range(30)})
    with pytest.raises(InputError) as caught:
        read_pool(root)
    lines = str(caught.value).splitlines()
    assert "30 errors" in lines[0] and "... and 22 more" in lines[-2] and len(lines) == 11
    with pytest.raises(InputError, match="no frame is left"):
        read_pool(root, skip_bad=True)


# --- read again ---------------------------------------------------------------------------------------------------


def test_what_did_not_change_is_decoded_once_and_what_changed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_pool(tmp_path / "p", frames={"train/a.png": ROW, "train/b.png": ROW, "val/c.png": ROW})
    decoded: list[str] = []
    inspect = facts.inspect_picture

    def spy(path: Path, *, full: bool) -> PictureFacts:
        decoded.append(path.name)
        return inspect(path, full=full)

    monkeypatch.setattr(facts, "inspect_picture", spy)
    time.sleep(0.15)  # what was written this moment is not kept: it may change within the clock's tick
    first = read_pool(root)
    assert read_pool(root) == first and sorted(decoded) == ["a.png", "b.png", "c.png"]
    scan_pool(root, full=True)
    assert len(decoded) == 6, "a look at every pixel is more than the first one was"
    scan_pool(root, full=True)
    read_pool(root)
    assert len(decoded) == 6

    picture, label = root / "images/train/a.png", root / "labels/train/b.txt"
    data, times = picture.read_bytes(), picture.stat()
    picture.write_bytes(data[:60] + bytes(len(data) - 60))  # as large as before, and broken
    os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns))  # and as old
    label.write_text(ROW.replace("0.5", "0.4"), encoding="utf-8")
    problems = scan_pool(root).errors
    assert [problem.frame for problem in problems] == ["images/train/a"]
    picture.write_bytes(data)
    again = read_pool(root)
    assert again.content_hash != first.content_hash and again.frames[0] == first.frames[0]
    assert again.frames[1].boxes[0].x0 == pytest.approx(0.3)


# --- real pools --------------------------------------------------------------------------------------------------


def test_the_real_deck_pool_reads(shared: Path) -> None:
    report = check_pool(shared / "data/deck-yolo")
    assert report.ok and report.by_kind == {"path-fallback": 1, "val-is-train": 1}
    data = report.as_dict()
    assert (data["frames"], data["boxes"], data["background_frames"]) == (120, 55, 65)
    assert data["classes"] == {"Deck": 55} and data["splits"] == {"test": 18, "train": 102}


def test_the_real_ot2_pool_reads(shared: Path) -> None:
    pool = read_pool(shared / "data/ot2eye")
    assert len(pool.frames) == 4 and sum(len(frame.boxes) for frame in pool.frames) == 44
    with pytest.raises(InputError, match="does not exist"):
        read_pool(shared / "data/ot2eye/dataset_labware.yaml")
