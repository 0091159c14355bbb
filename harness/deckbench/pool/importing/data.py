"""What a data set's own files hold: pictures with boxes and checks, and every record that gives none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deckbench.yolo.credit import Credit
from deckbench.yolo.frame import Box4

LEAST = 0.5  # pixels: less is no area


@dataclass(frozen=True)
class Source:
    """Where a record stands: `record` counts from 1; 0 is the file as a whole."""

    file: str
    record: int = 0
    picture: str = ""
    step: str = ""
    phase: str = ""


@dataclass(frozen=True)
class ListedRecord:
    """A record that gives no check (in refused.csv), or what was left out of one that does (in notices.csv)."""

    source: Source
    reason: str
    what: str


@dataclass(frozen=True)
class ImportedCheck:
    """One row of checks.csv; English texts, empty where the set says nothing. regions: fractions of the frame."""

    source: Source
    step: str
    phase: str
    check: str
    expected: str
    verdict: str
    anomaly: str
    caption: str
    regions: tuple[Box4, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What a frame has one verdict for."""
        return self.step, self.phase, self.check


@dataclass
class ImportedFrame:
    """A picture that is copied as it is. name: file name in the pool. boxes: class and corners, in fractions."""

    path: Path
    name: str
    sha256: str
    width: int
    height: int
    group: str
    view: str
    boxes: tuple[tuple[str, Box4], ...]
    checks: list[ImportedCheck] = field(default_factory=list)


@dataclass
class ImportedData:
    """What a format's `read` gives. records: how many were read, one check or one refusal each.

    classes: names in the order of their ids. files: name -> sha256 of what was read beside the pictures. licence_file:
    copied beside the pool. reasons: what the reasons of `refused` and `notices` mean.
    """

    credit: Credit
    records: int
    frames: list[ImportedFrame]
    classes: tuple[str, ...]
    refused: list[ListedRecord]
    notices: list[ListedRecord]
    files: dict[str, str]
    reasons: dict[str, str]
    licence_file: Path | None = None


class Refused(Exception):
    """One record gives no check."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason, self.what = reason, what


class NoBox(ValueError):
    """Why four numbers are no box."""


def box_in(values: object, width: int, height: int) -> tuple[Box4, bool]:
    """A box in pixels as fractions of a frame, and whether it was cut at the frame's border. Raises NoBox."""
    if not isinstance(values, list) or len(values) != 4:
        raise NoBox("is not four numbers x0, y0, x1, y1")
    numbers = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1e9 < value < 1e9:
            raise NoBox("is not four numbers x0, y0, x1, y1")  # NaN and infinity fail the comparison too
        numbers.append(float(value))
    x0, y0, x1, y1 = numbers
    if x1 < x0 or y1 < y0:
        raise NoBox("has its corners swapped")
    inside = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if x1 - x0 < LEAST or y1 - y0 < LEAST:
        raise NoBox("has no area")
    if inside[2] - inside[0] < LEAST or inside[3] - inside[1] < LEAST:
        raise NoBox(f"lies outside the picture of {width}x{height}")
    box = inside[0] / width, inside[1] / height, inside[2] / width, inside[3] / height
    return box, list(inside) != numbers
