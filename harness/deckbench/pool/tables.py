"""The tables of a pool that this package writes: frames.csv and checks.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deckbench.language import Text
from deckbench.yolo.frame import Box4

CHECK_COLUMNS = (
    "frame", "step", "phase", "check", "expected", "verdict", "anomaly", "region", "caption",
    "step_zh", "check_zh", "expected_zh", "anomaly_zh", "caption_zh",
)  # fmt: skip


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
        region = ";".join(" ".join(f"{value:.4f}" for value in box) for box in self.regions)
        anomaly, caption = ((text.en, text.zh) if text else ("", "") for text in (self.anomaly, self.caption))
        return (
            self.frame, self.step.en, self.phase, self.check.en, self.expected.en, self.verdict, anomaly[0], region,
            caption[0], self.step.zh, self.check.zh, self.expected.zh, anomaly[1], caption[1],
        )  # fmt: skip


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as the text of a csv."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return table.getvalue()
