"""Label files: whatever bytes come, the parser answers with boxes inside the frame and faults with a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deckbench.yolo import labels
from deckbench.yolo.frame import KINDS
from deckbench.yolo.framescsv import read_frames_csv
from deckbench.yolo.labels import parse_labels
from deckbench.yolo.table import FrameIndex

NAMES = ("plate", "rack", "tip")
UNIT = st.floats(0, 1, allow_nan=False)
CELLS = st.sampled_from(["0", "1", "2", "7", "-1", "0.5", "nan", "inf", "1e400", "x", "", "٣", "1_0", "0x1", "½"])


@given(st.one_of(st.binary(max_size=200), st.lists(st.lists(CELLS, max_size=9), max_size=6).map(
    lambda rows: "\n".join(" ".join(row) for row in rows).encode()
)))  # fmt: skip
def test_any_bytes_give_boxes_and_faults(data: bytes) -> None:
    read = parse_labels(data, NAMES)
    boxes, faults = read.boxes, read.faults
    for box in boxes:
        assert 0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 and box.name == NAMES[box.cls]
    assert all(fault.kind in KINDS and fault.line >= 1 for fault in faults)
    # Nothing is dropped silently: each non-empty row is a box or a fault.
    if not any(fault.kind == "label-encoding" for fault in faults):
        rows = [
            row for row in data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n") if row.strip()
        ]
        spoiling = [fault for fault in faults if fault.kind not in {"label-clipped", "label-no-area"}]
        assert len(boxes) + len(spoiling) == len(rows)


@given(st.lists(st.tuples(st.integers(0, 2), UNIT, UNIT, UNIT, UNIT), max_size=8, unique=True))
def test_written_boxes_come_back(rows: list[tuple[int, float, float, float, float]]) -> None:
    text, wanted = "", []
    for cls, xa, ya, xb, yb in rows:
        x0, x1, y0, y1 = min(xa, xb), max(xa, xb), min(ya, yb), max(ya, yb)
        if x1 - x0 < 1e-3 or y1 - y0 < 1e-3:
            continue
        text += f"{cls} {(x0 + x1) / 2!r} {(y0 + y1) / 2!r} {x1 - x0!r} {y1 - y0!r}\n"
        wanted.append((cls, x0, y0, x1, y1))
    read = parse_labels(text.encode(), NAMES)
    boxes, faults = read.boxes, read.faults
    assert all(fault.kind == "label-repeated" for fault in faults)
    assert len(boxes) + len(faults) == len(wanted)
    if not faults:
        for box, (cls, *corners) in zip(boxes, wanted, strict=True):
            assert box.cls == cls
            assert max(abs(a - b) for a, b in zip((box.x0, box.y0, box.x1, box.y1), corners, strict=True)) < 1e-9


PLAIN = st.sampled_from(
    ["0.5", "0.25", "0.500001", "0.5000004", "0.1", "1", "0", "1.0", "0.9999999", "0.0", "2.5", "x"]
)
ROWS = st.lists(
    st.tuples(st.sampled_from(["0", "1", "2", "3", "12"]), PLAIN, PLAIN, PLAIN, PLAIN), min_size=1, max_size=5
)


@given(ROWS, st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \n"]), st.booleans())
def test_a_file_read_at_once_is_as_read_by_rows(rows: list[tuple[str, ...]], end: str, ended: bool) -> None:
    text = end.join(" ".join(row) for row in rows) + (end if ended else "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, "plain_boxes", lambda text, names: None)
        by_rows = parse_labels(text.encode(), NAMES)
    assert parse_labels(text.encode(), NAMES) == by_rows


def test_a_plain_file_is_read_at_once() -> None:
    for text in ("0 0.5 0.5 0.25 0.25\n2 0.25 0.5 0.5 1\n", "1 0.5 0.5 1 1", "0 0.5 0.5 0.25 0.25\r\n"):
        read = labels.plain_boxes(text, NAMES)
        assert read is not None and len(read.boxes) == len(text.splitlines())


@given(st.binary(max_size=200))
def test_any_frames_csv_is_read_or_reported(data: bytes) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.csv"
        path.write_bytes(b"frame,group,time_s\n" + data)
        infos, _, problems = read_frames_csv(path, FrameIndex([("images/a", "a.png"), ("images/b", "b.png")]))
    assert set(infos) <= {"images/a", "images/b"}
    assert all(problem.kind in KINDS for problem in problems)
