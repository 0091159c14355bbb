"""YOLO label files: `class cx cy w h`, with keypoints after it, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon.

All numbers are fractions of the frame. What Ultralytics 8.4 takes is taken: a box whose centre and size lie within 1%
of the frame may reach outside it, and is clipped.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from deckbench.yolo.frame import Box

TOLERANCE = 0.01  # how far outside 0..1 a centre or a size may lie (Ultralytics 8.4, data/utils.py: verify_image_label)
ROUNDING = 6e-8  # Ultralytics compares in float32
SILENT_CLIP = 1e-6  # below this a box that reaches outside is rounding in the sixth decimal, not worth a word
SPOT = 1e-3  # side of what a label without area becomes
MAX_BYTES, MAX_LINES = 8 << 20, 100_000
# Python's float() also takes "1_0", "infinity" and other scripts' digits; a label file holds none of them.
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# A row without a fault: it is looked at cell by cell only where it is not this.
PLAIN_ROW = re.compile(r"\s*\d+(?:[ \t]+\d(?:\.\d{1,300})?)+\s*", re.ASCII)
# A file of nothing but boxes with plain numbers, one a line.
PLAIN_BOXES = re.compile(r"(?:\d{1,4}(?: \d(?:\.\d{1,300})?){4}(?:\r?\n|\Z))+", re.ASCII)
ALIKE = 2e-6  # boxes that start further apart than this are not the same in six decimals
NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)

Keypoints = tuple[int, int]  # kpt_shape: number of keypoints, values of each (2, or 3 with visibility)


@dataclass(frozen=True)
class Fault:
    """A problem in one row: kind as in frame.KINDS, text, line from 1."""

    kind: str
    text: str
    line: int


@dataclass(frozen=True)
class LabelFile:
    """What a label file holds. classes: number -> the first line with it, also of rows that are refused.

    long: rows with more than a box. poses: those of them that look like a box with keypoints and their visibility;
    points: their numbers of keypoints.
    """

    boxes: tuple[Box, ...]
    faults: tuple[Fault, ...]
    classes: dict[int, int]
    long: int = 0
    poses: int = 0
    points: frozenset[int] = frozenset()


class RowError(Exception):
    """Why a row cannot be used."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(text)


def parse_labels(data: bytes, names: tuple[str, ...], keypoints: Keypoints | None = None) -> LabelFile:
    """Boxes and faults of one label file's bytes. BOM, CRLF, blank lines, tabs and empty files are fine.

    A row that is an exact repetition is kept once and reported. keypoints: the yaml's `kpt_shape`.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = Fault("label-encoding", f"not UTF-8 text (byte {error.start})", data.count(b"\n", 0, error.start) + 1)
        return LabelFile((), (fault,), {})
    if data.count(b"\n") + data.count(b"\r") > MAX_LINES:
        return LabelFile((), (Fault("label-broken-row", f"more than {MAX_LINES} lines", 1),), {})
    if (plain := plain_boxes(text, names)) is not None:
        return plain
    boxes: list[Box] = []
    faults: list[Fault] = []
    seen: dict[tuple[object, ...], int] = {}
    classes: dict[int, int] = {}
    long = poses = 0
    points: set[int] = set()
    for line, row in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if not row.strip():
            continue
        try:
            values = numbers(row)
            if values[0] == int(values[0]):
                classes.setdefault(int(values[0]), line)
            if len(values) > 5:
                long += 1
                if looks_like_pose(values):
                    poses += 1
                    points.add((len(values) - 5) // 3)
            box, reach, flat = to_box(values, names, line, keypoints)
        except RowError as error:
            faults.append(Fault(error.kind, str(error), line))
            continue
        if flat:
            faults.append(Fault("label-no-area", "the box has no area; it is read as a spot", line))
        elif reach > SILENT_CLIP:
            faults.append(Fault("label-clipped", f"reaches {reach:.4f} outside the frame; clipped to it", line))
        key = (box.cls, round(box.x0, 6), round(box.y0, 6), round(box.x1, 6), round(box.y1, 6), box.polygon)
        if key in seen:
            faults.append(Fault("label-repeated", f"the same box as line {seen[key]}; kept once", line))
            continue
        seen[key] = line
        boxes.append(box)
    return LabelFile(tuple(boxes), tuple(faults), classes, long, poses, frozenset(points))


def plain_boxes(text: str, names: tuple[str, ...]) -> LabelFile | None:
    """What `parse_labels` gives for a file without any fault or rarity, read at once; None for all others."""
    if not PLAIN_BOXES.fullmatch(text):
        return None
    cells = map(float, text.split())
    boxes: list[Box] = []
    classes: dict[int, int] = {}
    for line, (number, cx, cy, w, h) in enumerate(zip(cells, cells, cells, cells, cells, strict=True), 1):
        cls, x0, y0, x1, y1 = int(number), cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 and cls < len(names)):
            return None
        classes.setdefault(cls, line)
        boxes.append(Box(cls, names[cls], x0, y0, x1, y1, None, line))
    starts = sorted(box.x0 for box in boxes)
    if any(after - before < ALIKE for before, after in pairwise(starts)):
        return None
    return LabelFile(tuple(boxes), (), classes)


def parse_row(row: str, names: tuple[str, ...], line: int, keypoints: Keypoints | None = None) -> Box:
    """The box of one row, clipped to the frame. Raises RowError."""
    return to_box(numbers(row), names, line, keypoints)[0]


def numbers(row: str) -> list[float]:
    """The finite numbers of a row that is not blank. Raises RowError."""
    cells = row.split()
    for cell in () if PLAIN_ROW.fullmatch(row) else cells:
        if NOT_FINITE.fullmatch(cell):
            raise RowError("label-not-finite", f"{cell!r} is not a finite number")
        if not NUMBER.fullmatch(cell):
            hint = "; cells are parted by spaces" if "," in row or ";" in row else ""
            raise RowError("label-broken-row", f"{cell[:40]!r} is not a number{hint}")
    values = list(map(float, cells))
    if not math.isfinite(sum(values)) and not all(map(math.isfinite, values)):
        raise RowError("label-not-finite", "a number is too large")
    return values


def check_columns(count: int, keypoints: Keypoints | None) -> None:
    """Raises RowError when a row has a number of columns that no kind of label has."""
    if count == 5:
        return
    if keypoints is not None:
        points, values = keypoints
        text = f"{count} columns; with `kpt_shape: [{points}, {values}]` a row has 5 or {5 + points * values}"
        raise RowError("label-columns", text)
    if count == 6:
        text = (
            "6 columns: a box and its confidence, as detectors write it; a label has 5 (class cx cy w h). "
            "Remove the last column, or ask the detector as a model: `rule:FOLDER`"
        )
        raise RowError("label-columns", text)
    if count < 7 or count % 2 == 0:
        text = f"{count} columns; a box has 5 (class cx cy w h), a polygon has 1 and at least 3 pairs"
        if count > 7:
            text += ". With a confidence at its end: remove it. With keypoints: the yaml needs `kpt_shape`"
        raise RowError("label-columns", text)


def to_box(
    values: list[float], names: tuple[str, ...], line: int, keypoints: Keypoints | None
) -> tuple[Box, float, bool]:
    """(box, how far it reached outside the frame before it was clipped, whether it has no area). Raises RowError."""
    if keypoints is not None and len(values) == 5 + keypoints[0] * keypoints[1]:
        values = values[:5]
    check_columns(len(values), keypoints)
    cls = class_id(values[0], names)
    polygon = None
    if len(values) == 5:
        cx, cy, w, h = values[1:]
        if w < 0 or h < 0:
            raise RowError("label-negative-size", f"negative size {w:g} x {h:g}")
        corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    else:
        xs, ys = values[1::2], values[2::2]
        corners = (min(xs), min(ys), max(xs), max(ys))
        w, h = corners[2] - corners[0], corners[3] - corners[1]
        cx, cy = corners[0] + w / 2, corners[1] + h / 2
        polygon = tuple((clip(x), clip(y)) for x, y in zip(xs, ys, strict=True))
    most, least = max(cx, cy, w, h), min(cx, cy)
    if most > 1 + TOLERANCE + ROUNDING or least < -TOLERANCE - ROUNDING:
        text = f"centre {cx:.4g} {cy:.4g} and size {w:.4g} x {h:.4g} do not lie in the frame (fractions, 0 to 1)"
        if polygon is not None and len(values) == 7:
            text += "; a tracker's confidence and number after a box are no label"
        elif most > 2:
            text += "; are these pixels?"
        raise RowError("label-outside", text)
    x0, y0, x1, y1 = corners
    reach = max(-x0, -y0, x1 - 1, y1 - 1, 0.0)
    if reach > 0:
        x0, y0, x1, y1 = clip(x0), clip(y0), clip(x1), clip(y1)
    else:
        x0, y0 = x0 + 0.0, y0 + 0.0  # no -0.0, as clipping has it
    flat = x1 <= x0 or y1 <= y0
    if flat:
        (x0, x1), (y0, y1) = spread(x0, x1), spread(y0, y1)
    return Box(cls, names[cls], x0, y0, x1, y1, polygon, line), reach, flat


def looks_like_pose(values: list[float]) -> bool:
    """Whether a row reads as a box with keypoints `x y visibility`: 5 + 3 K columns.

    A visibility of 2 (seen, as COCO and Label Studio have it) is no coordinate; else the points must lie in the box.
    """
    if len(values) < 8 or (len(values) - 5) % 3:
        return False
    cx, cy, w, h = values[1:5]
    points = list(zip(values[5::3], values[6::3], values[7::3], strict=True))
    if any(flag not in {0.0, 1.0, 2.0} for *_, flag in points):
        return False
    seen = [(x, y) for x, y, flag in points if flag]
    if not seen:
        return not any(value for point in points for value in point)
    inside = all(abs(x - cx) <= 0.55 * w and abs(y - cy) <= 0.55 * h for x, y in seen)
    return inside or any(flag == 2.0 for *_, flag in points)


def clip(value: float) -> float:
    return min(1.0, max(0.0, value))


def spread(low: float, high: float) -> tuple[float, float]:
    """A stretch that has a length, inside 0..1."""
    if high > low:
        return low, high
    low = min(max(low - SPOT / 2, 0.0), 1.0 - SPOT)
    return low, low + SPOT


def class_id(value: float, names: tuple[str, ...]) -> int:
    """A class number. Raises RowError when it is not an integer or stands outside `names`."""
    if value != int(value):
        raise RowError("label-class", f"the class {value:g} is not an integer")
    if not 0 <= value < len(names):
        text = f"class {value:.17g} does not exist; {len(names)} are named (0 to {len(names) - 1})"
        raise RowError("label-class", text)
    return int(value)
