"""`frames.csv`: group, time, protocol step, anomalies and view of a pool's frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from deckbench.yolo.frame import Problem
from deckbench.yolo.labels import NUMBER
from deckbench.yolo.table import FrameIndex, Row, Table

COLUMNS = ("frame", "group", "time_s", "step", "anomalies", "view")
NAME = "frames.csv"


@dataclass(frozen=True)
class FrameInfo:
    """What frames.csv says about one frame; None where the column or the cell is missing."""

    group: str | None
    time_s: float | None
    step: str | None
    anomalies: tuple[str, ...] | None
    view: str | None = None


def read_frames_csv(
    path: Path, index: FrameIndex, *, shown: str = NAME
) -> tuple[dict[str, FrameInfo], frozenset[str], list[Problem]]:
    """frame id -> info, the columns present, and the problems. Never raises: a broken file is a problem."""
    table = Table("frames-csv", shown)
    infos: dict[str, FrameInfo] = {}
    first_line: dict[str, int] = {}
    for row in table.rows(path, index, COLUMNS, ("frame",)):
        if row.frame in infos:
            what = f"the frame {row.cells['frame']!r} is already on line {first_line[row.frame]}"
            table.say("repeated-frame", what, row.line, row.frame)
            continue
        first_line[row.frame] = row.line
        infos[row.frame] = read_row(row, table)
    return infos, table.columns, table.problems


def read_row(row: Row, table: Table) -> FrameInfo:
    """One row; what cannot be read is a problem and None."""
    cells = row.cells
    time_s: float | None = None
    if text := cells.get("time_s", ""):
        time_s = float(text) if NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(time_s):
            table.say("time", f"the time {text!r} is not a number of seconds", row.line, row.frame)
            time_s = None
    group = cells.get("group") or None
    if "group" in cells and group is None:
        table.say("no-group", f"the frame {cells['frame']!r} has no group", row.line, row.frame)
    anomalies = None
    if "anomalies" in cells:
        anomalies = tuple(sorted({part.strip() for part in cells["anomalies"].split(";")} - {""}))
    return FrameInfo(group, time_s, cells.get("step") or None, anomalies, cells.get("view") or None)
