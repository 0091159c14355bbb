"""checks.csv: what is read, what is refused and where, and what a pool with checks says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deckbench.errors import InputError
from deckbench.language import AnyText
from deckbench.pool.check import check_pool
from deckbench.yolo.checkscsv import read_checks_csv
from deckbench.yolo.frame import ERROR, KINDS, Check
from deckbench.yolo.read import read_pool
from deckbench.yolo.table import FrameIndex
from tests.yolo.pool_helpers import ROW, write_pool

HEADER = "frame,step,phase,check,check_zh,verdict,anomaly,region,caption\n"
INDEX = FrameIndex([("images/a", "a.png"), ("images/b", "b.png")])


def table(tmp_path: Path, text: str) -> tuple[dict[str, tuple[Check, ...]], list[tuple[str, int | None]]]:
    path = tmp_path / "checks.csv"
    path.write_text(text, encoding="utf-8")
    checks, problems = read_checks_csv(path, INDEX)
    return checks, [(problem.kind.removeprefix("checks-csv-"), problem.line) for problem in problems]


def test_a_row_with_everything(tmp_path: Path) -> None:
    row = (
        'a.png,Load,pre,"Is it, really,\n there?",在吗,Anomaly,missing; tilted ;missing,0 0 0.5 1;0.1 .2 .3 0.4,gone\n'
    )
    checks, problems = table(tmp_path, HEADER + row)
    assert problems == []
    assert checks == {
        "images/a": (
            Check(
                step=AnyText("Load"),
                phase=AnyText("pre"),
                check=AnyText("Is it, really, there?", "在吗"),
                expected=None,
                verdict="anomaly",
                anomaly=("missing", "tilted"),
                regions=((0, 0, 0.5, 1), (0.1, 0.2, 0.3, 0.4)),
                caption=AnyText("gone"),
                line=3,
            ),
        )
    }


def test_three_columns_do(tmp_path: Path) -> None:
    checks, problems = table(tmp_path, "verdict,frame,check\nunknown,a,{{ check }}\nnormal,b,x\n")
    assert problems == []
    assert {key: [check.verdict for check in found] for key, found in checks.items()} == {
        "images/a": ["unknown"],
        "images/b": ["normal"],
    }
    assert checks["images/a"][0].check == AnyText("{{ check }}")


@pytest.mark.parametrize(
    ("rows", "expected"),
    {
        "an unknown frame": ("z,,,c,,normal,,,", "unknown-frame"),
        "a verdict that is none": ("a,,,c,,ok,,,", "verdict"),
        "no verdict": ("a,,,c,,,,,", "verdict"),
        "no check": ("a,,,,,normal,,,", "text"),
        "a control character": ("a,,,c\x07,,normal,,,", "text"),
        "a text without end": (f"a,,,{'c' * 2001},,normal,,,", "text"),
        "an anomaly that is normal": ("a,,,c,,normal,missing,,", "anomaly"),
        "an anomaly that is unknown": ("a,,,c,,unknown,missing,,", "anomaly"),
        "pixels": ("a,,,c,,normal,,10 10 20 20,", "region"),
        "turned round": ("a,,,c,,normal,,0.5 0.1 0.2 0.4,", "region"),
        "no area": ("a,,,c,,normal,,0.1 0.1 0.1 0.4,", "region"),
        "three numbers": ("a,,,c,,normal,,0.1 0.1 0.2,", "region"),
        "words": ("a,,,c,,normal,,left,", "region"),
        "not finite": ("a,,,c,,normal,,0 0 nan 1,", "region"),
        "regions without end": ("a,,,c,,normal,," + ";".join(f"0 0 1 0.{n}" for n in range(100, 250)) + ",", "region"),
        "a cell too many": ("a,,,c,,normal,,,,", ""),
    }.values(),
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, rows: str, expected: str) -> None:
    checks, problems = table(tmp_path, f"{HEADER}b,,,c,,normal,,,\n{rows}\n")
    assert [line for _, line in problems] == [3]
    assert problems[0][0] == (expected or "checks-csv")
    assert list(checks) == ["images/b"]


@pytest.mark.parametrize(
    ("second", "kind"),
    [
        ("images/a.png,s,pre,c,,anomaly,,,", "two-verdicts"),
        ("a,s,pre,c,,normal,,,", "repeated"),
        ("a,s,pre,c,,normal,,0 0 1 1,", "differs"),
        ("a,s,pre,c,,normal,,,other", "differs"),
    ],
)
def test_a_frame_checked_twice_for_the_same(tmp_path: Path, second: str, kind: str) -> None:
    _, problems = table(tmp_path, f"{HEADER}a,s,pre,c,,normal,,,\n{second}\na,s,post,c,,anomaly,,,\n")
    assert problems == [(kind, 3)]


@pytest.mark.parametrize(
    "text", ["", "\n", "frame;check;verdict\n", "check,verdict\nc,normal\n", "frame,verdict\na,normal\n", '"\n']
)
def test_a_file_that_is_no_table_is_a_problem(tmp_path: Path, text: str) -> None:
    checks, problems = table(tmp_path, text)
    assert checks == {}
    assert problems == [("checks-csv", 1)]


def test_a_file_that_is_wrong_throughout_is_not_read_to_its_end(tmp_path: Path) -> None:
    _, problems = table(tmp_path, "frame,check,verdict\n" + "a,b\n" * 50_000)
    assert len(problems) == 20_001
    assert problems[-1] == ("checks-csv", 20_002)


@given(st.binary(max_size=200))
def test_any_checks_csv_is_read_or_reported(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checks.csv"
        path.write_bytes(b"frame,check,verdict,region\n" + data)
        checks, problems = read_checks_csv(path, INDEX)
    assert set(checks) <= {"images/a", "images/b"}
    assert all(problem.kind in KINDS for problem in problems)


# --- in a pool ---------------------------------------------------------------------------------------------------

CHECKS = "frame,step,check,verdict,anomaly\na.png,one,c,normal,\na.png,two,c,anomaly,missing\nb.png,one,c,unknown,\n"


def test_pool_check_counts_checks_and_frames_with_both_answers(tmp_path: Path) -> None:
    report = check_pool(write_pool(tmp_path, files={"checks.csv": CHECKS}))
    assert report.ok
    assert report.as_dict()["checks"] == {
        "checks": 3,
        "frames": 2,
        "steps": 2,
        "verdicts": {"normal": 1, "anomaly": 1, "unknown": 1},
        "anomalies": {"missing": 1},
        "normal_and_anomaly": 1,
    }
    assert any("1 frames are normal in one check" in line for line in report.lines())


def test_order_and_place_of_rows_are_no_part_of_the_content(tmp_path: Path) -> None:
    header, *rows = CHECKS.splitlines(keepends=True)
    plain, one, two, other, view = (
        read_pool(write_pool(tmp_path / str(number), files=files)).content_hash
        for number, files in enumerate(
            (
                {},
                {"checks.csv": CHECKS},
                {"checks.csv": header + "\n" + "".join(reversed(rows))},
                {"checks.csv": CHECKS.replace("missing", "tilted")},
                {"frames.csv": "frame,view\na.png,top\n"},
            )
        )
    )
    assert one == two
    assert len({plain, one, other, view}) == 4


def test_a_frame_with_a_broken_check_is_left_out_whole(tmp_path: Path) -> None:
    root = write_pool(tmp_path, files={"checks.csv": CHECKS + "a.png,three,c,maybe,\n"})
    with pytest.raises(InputError, match=r"checks\.csv:5: the verdict 'maybe'"):
        read_pool(root)
    pool = read_pool(root, skip_bad=True)
    assert [frame.id for frame in pool.frames] == ["images/train/b", "images/val/c"]


def test_a_pool_with_checks_needs_no_labels(tmp_path: Path) -> None:
    frames = {"train/a.png": None, "train/b.png": None}
    yaml = "train: images/train\nnames: [plate]\n"
    assert not check_pool(write_pool(tmp_path / "without", yaml=yaml, frames=frames)).ok
    assert check_pool(write_pool(tmp_path / "with", yaml=yaml, frames=frames, files={"checks.csv": CHECKS})).ok


def test_the_view_of_a_frame(tmp_path: Path) -> None:
    root = write_pool(tmp_path, files={"frames.csv": "frame,view\na.png,top-down view\nb.png,\n"})
    assert [frame.view for frame in read_pool(root).frames] == ["top-down view", None, None]


def test_a_link_is_no_table(tmp_path: Path) -> None:
    root = write_pool(tmp_path, frames={"train/a.png": ROW, "val/c.png": ROW})
    (root / "checks.csv").symlink_to("/dev/zero")
    report = check_pool(root)
    assert report.by_kind == {"checks-csv": 1}
    assert KINDS["checks-csv"] == ERROR


def test_labels_only_opens_no_image(tmp_path: Path) -> None:
    root = write_pool(tmp_path, files={"checks.csv": CHECKS, "labels/train/a.txt": ROW + "7 0.5 0.5 0.1 0.1\n"})
    (root / "images/train/b.png").write_bytes(b"no image")
    full, quick = check_pool(root).as_dict(), check_pool(root, labels_only=True).as_dict()
    assert set(full["by_kind"]) == {"label-class", "picture-unreadable"}
    assert set(quick["by_kind"]) == {"label-class"}
    assert (quick["content_hash"], quick["sizes"], quick["labels_only"]) == (None, {}, True)
    assert quick["checks"]["checks"] == 1 and quick["boxes"] == 1
    assert any("images were not opened" in line for line in check_pool(root, labels_only=True).lines())
