"""Other data sets' own files become pools: every record is a check or is listed, whatever the files hold."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.pool.check import check_pool
from deckbench.pool.importing import formats
from deckbench.pool.importing.data import NoBox, box_in
from deckbench.pool.importing.run import import_pool, known_formats
from deckbench.yolo.read import read_pool
from tests.yolo.pool_helpers import picture

NORMAL = "A tube stands in the rack."
CHECK = "Check whether a tube is in the rack."
GLOSSARY = {"anomaly_types": ["Missing", "Tilted", "Normal"], "object_list": ["rack", "tube"]}
STEPS: dict[str, Any] = {
    "step1": {
        "subtask": "Move the tube.",
        "preCheckContent": CHECK,
        "preCheckRes": {
            "normal": [{"description": NORMAL, "caption": "A tube."}],
            "abnormal": [{"description": "No tube is in the rack.", "type": "Missing", "caption": "No tube."}],
        },
    },
    "step2": {
        "postCheckContent": "Check whether the rack is empty.",
        "postCheckRes": {
            "normal": [{"description": "No tube is in the rack."}, {"description": "The rack is empty."}],
            "abnormal": [{"description": NORMAL, "type": "Tilted"}],
        },
    },
}


def record(number: int, **fields: Any) -> dict[str, Any]:
    """A record about picture `number`: even ones are normal."""
    good = number % 2 == 0
    given = {
        "Image_Id": f"data/image/{number:04d}.jpg",
        "Stage_Description": "Move the tube.",
        "step": "step1",
        "phase": "pre",
        "Detection_Location": "station",
        "Detection_Content": CHECK,
        "Views": f"view {number // 2}",
        "Distance": "near",
        "Anomaly_Label": not good,
        "Anomaly_Type": None if good else "Missing",
        "Anomaly_Label_Description": NORMAL if good else "No tube is in the rack.",
        "Caption": "A tube." if good else "No tube.",
        "Grounding": [
            {"text_span": "rack", "bbox": [8, 4, 40, 28], "category": "object"},
            {"text_span": "a region", "bbox": [8, 4, 24, 20], "category": "Normal" if good else "Missing"},
        ],
    }
    return {key: value for key, value in {**given, **fields}.items() if value != "-"}


def second(number: int) -> dict[str, Any]:
    """The same picture at another step, with the opposite verdict."""
    good = number % 2 == 1
    return record(
        number,
        step="step2",
        phase="post",
        Stage_Description=None,
        Detection_Content="Check whether the rack is empty.",
        Anomaly_Label=not good,
        Anomaly_Type=None if good else "Tilted",
        Anomaly_Label_Description="No tube is in the rack." if good else NORMAL,
        Caption=None,
        Grounding=[{"text_span": "rack", "bbox": [8, 4, 40, 28], "category": "object"}],
    )


def source(root: Path, records: Any, **files: Any) -> Path:
    """The set's files with pictures 0 to 5."""
    (root / "image").mkdir(parents=True)
    for number in range(6):
        picture(number).save(root / "image" / f"{number:04d}.jpg")
    named = {"records_a.json": records, "metasteps_caption.json": STEPS, "glossary.json": GLOSSARY}
    for name, value in {**named, **{key.replace("_json", ".json"): value for key, value in files.items()}}.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (root / name).write_text(text, encoding="utf-8")
    (root / "license").write_text("CC BY 4.0\n", encoding="utf-8")
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sdls")
    folder = source(root / "sdls", [*(record(number) for number in range(4)), second(0), second(1)])
    counts = import_pool("sdls", folder, out=root / "pool")
    assert (counts["records"], counts["checks"], counts["refused"]) == (6, 6, 0)
    assert counts["frames_normal_and_anomaly"] == 2
    return root / "pool"


def test_pool_is_what_the_files_say(pool: Path) -> None:
    report = check_pool(pool)
    assert report.ok
    read = read_pool(pool)
    first = read.frames[0]
    assert [frame.id for frame in read.frames] == [f"images/{number:04d}" for number in range(4)]
    (rack,) = first.boxes
    assert rack.name == "rack"
    assert (rack.x0, rack.y0, rack.x1, rack.y1) == pytest.approx((0.125, 4 / 48, 0.625, 28 / 48), abs=1e-6)
    assert (first.group, first.view) == ("station, view 0", "view 0; near")
    before, after = first.checks
    assert (before.verdict, before.anomaly, before.expected and before.expected.en) == ("normal", (), NORMAL)
    assert before.step is not None
    assert before.step.en == "step1: Move the tube."
    (region,) = before.regions
    assert region == pytest.approx((0.125, 4 / 48, 0.375, 20 / 48), abs=1e-6)
    assert (after.verdict, after.anomaly) == ("anomaly", ("Tilted",))
    assert after.step is not None
    assert after.step.en == "step2"
    assert after.expected is not None
    assert after.expected.en == "No tube is in the rack. Or: The rack is empty."
    assert after.caption is None
    assert {text.zh for text in (before.step, before.check, before.expected) if text is not None} == {None}


def test_pictures_are_copied_as_they_are_and_credited(pool: Path, tmp_path: Path) -> None:
    picture(2).save(tmp_path / "a.jpg")
    assert (pool / "images" / "0002.jpg").read_bytes() == (tmp_path / "a.jpg").read_bytes()
    credit = read_pool(pool).credit
    assert credit is not None
    assert "CC BY 4.0" in credit.text
    assert "letsgo-2/sdls-abnormaldetect" in (pool / "README.md").read_text()
    assert (pool / "LICENSE").read_text() == "CC BY 4.0\n"


def test_a_group_is_a_pose_and_tells_no_verdict(pool: Path) -> None:
    groups: dict[str, set[str]] = {}
    for frame in read_pool(pool).frames:
        groups.setdefault(frame.group or "", set()).update(check.verdict for check in frame.checks)
    assert groups == {"station, view 0": {"normal", "anomaly"}, "station, view 1": {"normal", "anomaly"}}


def test_same_bytes_wherever_the_files_lie(pool: Path, tmp_path: Path) -> None:
    folder = source(tmp_path / "else" / "data", [*(record(number) for number in range(4)), second(0), second(1)])
    import_pool("sdls", folder, out=tmp_path / "pool")
    assert artifact.read(pool).content_hash == artifact.read(tmp_path / "pool").content_hash
    assert artifact.list_files(pool) == artifact.list_files(tmp_path / "pool")


BAD: dict[str, tuple[Any, str]] = {
    "no object": (["x"], "broken-record"),
    "null": (None, "broken-record"),
    "no picture named": (record(0, Image_Id="-"), "broken-record"),
    "surrogate": (record(0, Image_Id="data/image/\ud800.jpg"), "broken-record"),
    "surrogate in a text": (record(0, Caption="a \udfff"), "broken-record"),
    "newline is a blank, a bell is none": (record(0, Detection_Location="a\x07"), "broken-record"),
    "leaves the folder": (record(0, Image_Id="../../etc/0000.jpg"), "picture-path"),
    "absolute": (record(0, Image_Id="/image/0000.jpg"), "picture-path"),
    "drive": (record(0, Image_Id="C:\\image\\0000.jpg"), "picture-path"),
    "null byte": (record(0, Image_Id="image/\0.jpg"), "broken-record"),
    "unknown picture": (record(0, Image_Id="image/9999.jpg"), "picture-missing"),
    "no picture": (record(0, Image_Id="glossary.json"), "picture-name"),
    "unreadable": (record(0, Image_Id="image/broken.jpg"), "picture-unreadable"),
    "link out": (record(0, Image_Id="image/link.jpg"), "picture-path"),
    "unknown step": (record(0, step="step9"), "unknown-step"),
    "no such phase": (record(0, phase="post"), "unknown-step"),
    "step is a list": (record(0, step=["step1"]), "broken-record"),
    "label is a number": (record(0, Anomaly_Label=0), "broken-record"),
    "label without a kind": (record(0, Anomaly_Label=True), "verdict-and-kind"),
    "kind without a label": (record(1, Anomaly_Label=False), "verdict-and-kind"),
    "unknown kind": (record(1, Anomaly_Type="Melted"), "unknown-anomaly"),
    "kind is a map": (record(1, Anomaly_Type={}), "unknown-anomaly"),
    "state of the other verdict": (record(1, Anomaly_Label_Description=NORMAL), "verdict-and-steps"),
    "another kind in the steps": (record(1, Anomaly_Type="Tilted"), "verdict-and-steps"),
    "another check": (record(0, Detection_Content="Check the weather."), "check-and-steps"),
    "grounding is a map": (record(0, Grounding={}), "broken-record"),
    "too many boxes": (record(0, Grounding=[{}] * 501), "broken-record"),
    "too long": (record(0, Caption="a" * 2001), "broken-record"),
}


def test_every_record_is_a_check_or_is_listed_with_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = source(tmp_path / "sdls", [record(2), *(bad for bad, _ in BAD.values()), record(3)])
    (folder / "image" / "broken.jpg").write_bytes(b"no picture")
    shutil.copy(folder / "image" / "0000.jpg", tmp_path / "out.jpg")
    (folder / "image" / "link.jpg").symlink_to(tmp_path / "out.jpg")
    counts = import_pool("sdls", folder, out=tmp_path / "pool")
    listed = rows(tmp_path / "pool" / "refused.csv")
    assert [(row["file"], row["record"], row["reason"]) for row in listed] == [
        ("records_a.json", str(number), reason) for number, (_, reason) in enumerate(BAD.values(), 2)
    ]
    assert all(row["what"] and row["meaning"] for row in listed)
    assert counts["records"] == counts["checks"] + counts["refused"] == len(BAD) + 2
    assert check_pool(tmp_path / "pool").ok
    assert f"{len(BAD) + 2} records: 2 checks, {len(BAD)} refused" in capsys.readouterr().err


def test_records_of_one_inspection(tmp_path: Path) -> None:
    """Two verdicts: neither is known to be right. The same twice: one. Other texts: the first."""
    flipped = record(0, Anomaly_Label=True, Anomaly_Type="Missing", Anomaly_Label_Description="unknown")
    records = [record(0), flipped, record(1), record(1), record(2), record(2, Caption="Else."), second(0)]
    counts = import_pool("sdls", source(tmp_path / "sdls", records), out=tmp_path / "pool")
    assert [(row["record"], row["reason"]) for row in rows(tmp_path / "pool" / "refused.csv")] == [
        *(("1", "two-verdicts"), ("2", "two-verdicts"), ("4", "repeated"), ("6", "differs"))
    ]
    assert counts["checks"] == 3
    assert [row["frame"] for row in rows(tmp_path / "pool" / "checks.csv")] == [f"images/000{n}" for n in range(3)]


def test_what_is_odd_is_used_or_left_out_and_listed(tmp_path: Path) -> None:
    def box(values: Any, category: Any = "object", cls: Any = "rack") -> dict[str, Any]:
        return {"text_span": cls, "bbox": values, "category": category}

    good = box([0, 0, 64, 48])
    boxes = [
        *(good, box([40, 4, 8, 28]), box([8, 4, 8, 28]), box([70, 4, 90, 28]), box([-3, 4, 8, 50])),
        *(box([1, 2, 3]), box("1 2 3 4"), box([1, 2, 3, 10**400]), box([1, 2, True, 9]), box([1, 2, float("nan"), 9])),
        *(box([1, 2, 30, 40], cls="weather"), box([1, 2, 30, 40], "Missing", "r"), box([9, 9, 1, 1], "Normal"), None),
    ]
    records = [record(0, Grounding=boxes), record(1), second(1)]
    records[2] |= {"Grounding": [], "Views": "another view"}
    folder = source(tmp_path / "sdls", records)
    shutil.copy(folder / "image" / "0000.jpg", folder / "image" / "0001.jpg")
    import_pool("sdls", folder, out=tmp_path / "pool")
    notices = rows(tmp_path / "pool" / "notices.csv")
    reasons = [row["reason"] for row in notices if row["record"] == "1"]
    assert sorted(reasons) == [
        *("box-class", "box-cut", *["box-unusable"] * 8, "region-tag", "region-unusable", "region-unusable"),
    ]
    assert {row["reason"] for row in notices if row["record"] == "3"} == {
        *("objects-differ", "place-differs", "step-without-text")
    }
    assert {row["reason"] for row in notices if row["file"] == "image"} == {"pictures-alike", "picture-unused"}
    assert check_pool(tmp_path / "pool").ok
    first = read_pool(tmp_path / "pool").frames[0]
    assert [(box.x0, box.x1, box.y1) for box in first.boxes] == [(0, 1, 1), (0, 0.125, 1)]
    assert len(first.checks[0].regions) == 1


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"records_a_json": "{}"}, "a list of at most"),
        ({"records_a_json": "[" * 100_000}, "not JSON"),
        ({"records_a_json": '[{"step": 1' + "0" * 5000 + "}]"}, "not JSON"),
        ({"records_a_json": "\ufeff[]"}, "none of 0 records"),
        ({"records_a_json": [record(0, step="x")]}, "none of 1 records can be used; the first: records_a.json, record"),
        ({"metasteps_caption_json": []}, "a map of steps"),
        ({"metasteps_caption_json": {"step1": []}}, "a map of steps"),
        ({"glossary_json": {"anomaly_types": ["Missing"], "object_list": "x"}}, "lists of names"),
        ({"glossary_json": {"anomaly_types": ["a;b"], "object_list": ["x"]}}, "lists of names"),
    ],
)
def test_files_that_are_not_the_sets_give_one_message(tmp_path: Path, files: dict[str, Any], what: str) -> None:
    folder = source(tmp_path / "sdls", [record(0)], **files)
    with pytest.raises(InputError, match=what) as raised:
        import_pool("sdls", folder, out=tmp_path / "pool")
    assert raised.value.fix
    assert not list(tmp_path.glob("*pool*"))


def test_a_key_that_stands_twice_decides_nothing(tmp_path: Path) -> None:
    text = json.dumps([record(0), record(1)])
    folder = source(
        tmp_path / "sdls", text.replace('"Anomaly_Label": false', '"Anomaly_Label": true, "Anomaly_Label": false')
    )
    assert import_pool("sdls", folder, out=tmp_path / "pool")["refused_by_reason"] == {"key-twice": 1}


def test_large_files_and_missing_ones_are_refused(tmp_path: Path) -> None:
    folder = source(tmp_path / "sdls", [record(0)])
    with (folder / "records_b.json").open("wb") as file:
        os.truncate(file.fileno(), 17 << 20)
    with pytest.raises(InputError, match="larger than 16 MiB"):
        import_pool("sdls", folder, out=tmp_path / "pool")
    with pytest.raises(InputError, match=r"no records_\*\.json"):
        import_pool("sdls", tmp_path, out=tmp_path / "pool")
    with pytest.raises(InputError, match="not found"):
        import_pool("sdls", tmp_path / "none", out=tmp_path / "pool")
    with pytest.raises(InputError, match="no data set") as raised:
        import_pool("found", folder, out=tmp_path / "pool")
    assert "one of: sdls" in str(raised.value.fix)


LAB = '''
"""Another data set: one picture, one check."""
from deckbench.picture import inspect_picture
from deckbench.pool.importing.data import ImportedData, ImportedCheck, ImportedFrame, Source
from deckbench.yolo.credit import Credit


def read(folder):
    facts = inspect_picture(folder / "a.jpg")
    check = ImportedCheck(Source("notes.txt", 1), "Load", "", "Is the lid shut?", "The lid is shut.", "unknown", "", "")
    boxes = (("lid", (0.1, 0.1, 0.5, 0.5)),)
    sides = facts.width, facts.height
    frame = ImportedFrame(folder / "a.jpg", "a.jpg", facts.sha256, *sides, "g", "", boxes, [check])
    credit = Credit(title="Our lab", source="the shelf", licence="CC0")
    return ImportedData(credit, 1, [frame], ("lid",), [], [], {"notes.txt": "0" * 64}, {})
'''


def test_another_set_takes_one_module_and_no_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "lab.py").write_text(LAB)
    (tmp_path / "data").mkdir()
    picture(1).save(tmp_path / "data" / "a.jpg")
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "formats")])
    assert known_formats() == ["lab", "sdls"]
    try:
        import_pool("lab", tmp_path / "data", out=tmp_path / "pool")
    finally:
        sys.modules.pop(f"{formats.__name__}.lab", None)
    frame = read_pool(tmp_path / "pool").frames[0]
    assert (frame.checks[0].check.en, frame.boxes[0].name) == ("Is the lid shut?", "lid")


@pytest.mark.parametrize(
    "values", [[0, 0, 0, 5], [5, 0, 1, 5], [10, 10, 20, 20], [0, 0, 1e-9, 5], [0, 0, "1", 5], None]
)
def test_no_box(values: Any) -> None:
    with pytest.raises(NoBox):
        box_in(values, 10, 10)


@pytest.mark.slow
def test_the_real_set(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "sdls"
    if not folder.is_dir():
        pytest.skip("shared/data/sdls is not there")
    counts = import_pool("sdls", folder, out=tmp_path / "pool")
    assert (counts["records"], counts["checks"], counts["refused"], counts["frames"]) == (2042, 2042, 0, 1205)
    assert counts["frames_normal_and_anomaly"] == 52
    report = check_pool(tmp_path / "pool")
    assert report.ok
    verdicts: dict[str | None, set[str]] = {}
    for frame in report.scan.frames:
        verdicts.setdefault(frame.group, set()).update(check.verdict for check in frame.checks)
    assert len(verdicts) == 80
    assert all(found == {"normal", "anomaly"} for found in verdicts.values())
