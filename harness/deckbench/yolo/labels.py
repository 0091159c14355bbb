"""YOLO label files: `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon, all fractions of the frame."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from deckbench.yolo.frame import Box

TOLERANCE = 0.01  # how far outside the frame a box may reach before it is an error instead of rounding
# Python's float() also takes "1_0", "infinity" and other scripts' digits; a label file holds none of them.
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
SILENT_CLIP = 1e-6  # below this a box that reaches outside is rounding in the sixth decimal, not worth a word


@dataclass(frozen=True)
class Fault:
    """A problem in one row: kind as in frame.KINDS, text, line from 1."""

    kind: str
    text: str
    line: int


class RowError(Exception):
    """Why a row cannot be used."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(text)


def parse_labels(data: bytes, names: tuple[str, ...]) -> tuple[tuple[Box, ...], list[Fault]]:
    """Boxes and faults of one label file's bytes. BOM, CRLF, blank lines, tabs and empty files are fine.

    A row that is an exact repetition is kept once and reported.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return (), [
            Fault("label-encoding", f"not UTF-8 text (byte {error.start})", data.count(b"\n", 0, error.start) + 1)
        ]
    boxes: list[Box] = []
    faults: list[Fault] = []
    seen: dict[tuple[object, ...], int] = {}
    for line, row in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if not row.strip():
            continue
        try:
            box, reach = parse_row(row, names, line)
        except RowError as error:
            faults.append(Fault(error.kind, str(error), line))
            continue
        if reach > SILENT_CLIP:
            faults.append(Fault("label-clipped", f"reaches {reach:.4f} outside the frame; clipped to it", line))
        key = (box.cls, *(round(value, 6) for value in (box.x0, box.y0, box.x1, box.y1)), box.polygon)
        if key in seen:
            faults.append(Fault("label-repeated", f"the same box as line {seen[key]}; kept once", line))
            continue
        seen[key] = line
        boxes.append(box)
    return tuple(boxes), faults


def parse_row(row: str, names: tuple[str, ...], line: int) -> tuple[Box, float]:
    """One row -> (box, how far it reached outside the frame before it was clipped). Raises RowError."""
    cells = row.split()
    for cell in cells:
        if NOT_FINITE.fullmatch(cell):
            raise RowError("label-not-finite", f"{cell!r} is not a finite number")
        if not NUMBER.fullmatch(cell):
            hint = "; cells are parted by spaces" if "," in row or ";" in row else ""
            raise RowError("label-broken-row", f"{cell[:40]!r} is not a number{hint}")
    if len(cells) != 5 and (len(cells) < 7 or len(cells) % 2 == 0):
        raise RowError(
            "label-columns",
            f"{len(cells)} columns; a box has 5 (class cx cy w h), a polygon has 1 and at least 3 pairs",
        )
    values = [float(cell) for cell in cells]
    if not all(math.isfinite(value) for value in values):
        raise RowError("label-not-finite", "a number is too large")
    cls = class_id(values[0], cells[0], names)
    if len(cells) == 5:
        _, cx, cy, w, h = values
        if w < 0 or h < 0:
            raise RowError("label-negative-size", f"negative size {w:g} x {h:g}")
        corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        polygon = None
    else:
        xs, ys = values[1::2], values[2::2]
        corners = (min(xs), min(ys), max(xs), max(ys))
        polygon = tuple((clip(x), clip(y)) for x, y in zip(xs, ys, strict=True))
    reach = max(-corners[0], -corners[1], corners[2] - 1, corners[3] - 1, 0.0)
    if reach > TOLERANCE:
        raise RowError("label-outside", f"reaches {reach:.3f} outside the frame (at most {TOLERANCE} is clipped)")
    x0, y0, x1, y1 = (clip(value) for value in corners)
    if x1 <= x0 or y1 <= y0:
        raise RowError("label-no-area", "the box has no area inside the frame")
    return Box(cls, names[cls], x0, y0, x1, y1, polygon, line), reach


def clip(value: float) -> float:
    return min(1.0, max(0.0, value))


def class_id(value: float, cell: str, names: tuple[str, ...]) -> int:
    """A class number. Raises RowError when it is not an integer or stands outside `names`."""
    if value != int(value):
        raise RowError("label-class", f"the class {cell!r} is not an integer")
    if not 0 <= value < len(names):
        raise RowError(
            "label-class", f"class {cell} does not exist; the yaml names {len(names)} (0 to {len(names) - 1})"
        )
    return int(value)
