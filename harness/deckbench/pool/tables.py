"""What a pool that this package writes has in its checks.csv and label files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from deckbench.language import Text
from deckbench.yolo.frame import Box4

ENGLISH_COLUMNS = ("frame", "step", "phase", "check", "expected", "verdict", "anomaly", "region", "caption")
CHECK_COLUMNS = (*ENGLISH_COLUMNS, "step_zh", "check_zh", "expected_zh", "anomaly_zh", "caption_zh")


@dataclass(frozen=True)
class CheckRow:
    """A row of checks.csv."""

    frame: str
    step: Text
    phase: str
    check: Text
    expected: Text
    verdict: str
    anomaly: Text | None = None
    regions: tuple[Box4, ...] = ()
    caption: Text | None = None

    def cells(self) -> tuple[str, ...]:
        """In the order of CHECK_COLUMNS."""
        anomaly, caption = ((text.en, text.zh) if text else ("", "") for text in (self.anomaly, self.caption))
        return (
            self.frame, self.step.en, self.phase, self.check.en, self.expected.en, self.verdict, anomaly[0],
            region_cell(self.regions),
            caption[0], self.step.zh, self.check.zh, self.expected.zh, anomaly[1], caption[1],
        )  # fmt: skip


def region_cell(regions: Iterable[Box4]) -> str:
    """Regions of a check as their cell: `x0 y0 x1 y1;...` in fractions of the frame."""
    return ";".join(" ".join(f"{value:.6f}" for value in box) for box in regions)


def label_line(number: int, box: Box4) -> str:
    """A YOLO label `class cx cy w h` of a box x0 y0 x1 y1, all in fractions of the frame."""
    x0, y0, x1, y1 = box
    numbers = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
    return f"{number} {' '.join(f'{value:.6f}' for value in numbers)}\n"
