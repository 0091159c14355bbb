"""`frames.csv`: group, time, protocol step and anomalies of a pool's frames."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deckbench.disk import read_bytes
from deckbench.yolo.frame import Problem
from deckbench.yolo.labels import NUMBER

COLUMNS = ("frame", "group", "time_s", "step", "anomalies")
NAME = "frames.csv"
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class FrameInfo:
    """What frames.csv says about one frame; None where the column or the cell is missing."""

    group: str | None
    time_s: float | None
    step: str | None
    anomalies: tuple[str, ...] | None


def normal(text: str) -> str:
    """One spelling for names that an unzip on another system may have decomposed."""
    return unicodedata.normalize("NFC", text)


class FrameIndex:
    """Finds a frame by what a person writes: id, id with extension, file name, or stem."""

    def __init__(self, frames: Iterable[tuple[str, str]]) -> None:
        """frames: (frame id, file name)."""
        self.ids: set[str] = set()
        self.by_name: dict[str, list[str]] = {}
        for key, file_name in frames:
            self.ids.add(key)
            path = PurePosixPath(key)
            suffix = PurePosixPath(file_name).suffix
            for name in {normal(file_name), path.name, key + suffix}:
                self.by_name.setdefault(name, []).append(key)

    def find(self, text: str) -> list[str]:
        """Ids of the frames that `text` may mean: none, one, or several."""
        text = normal(text.strip().replace("\\", "/").removeprefix("./"))
        if text in self.ids:
            return [text]
        return self.by_name.get(text, [])


def read_frames_csv(
    path: Path, index: FrameIndex, *, shown: str = NAME
) -> tuple[dict[str, FrameInfo], frozenset[str], list[Problem]]:
    """frame id -> info, the columns present, and the problems. Never raises: a broken file is a problem."""
    try:
        text = read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        return {}, frozenset(), [Problem("frames-csv", "not UTF-8", shown)]
    except OSError as error:
        return {}, frozenset(), [Problem("frames-csv", f"cannot be read ({error.strerror})", shown)]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    problems: list[Problem] = []
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        return {}, frozenset(), [Problem("frames-csv", f"not a valid CSV ({error})", shown, 1)]
    if "frame" not in header:
        hint = "; cells are parted by commas" if len(header) == 1 and any(mark in header[0] for mark in ";\t") else ""
        return {}, frozenset(), [Problem("frames-csv", f"the column `frame` is missing{hint}", shown, 1)]
    for name in dict.fromkeys(header):
        if name not in COLUMNS:
            problems.append(Problem("frames-csv-unknown-column", f"the column {name!r} is not used", shown, 1))
        if header.count(name) > 1:
            problems.append(Problem("frames-csv", f"the column {name!r} occurs twice", shown, 1))
    infos: dict[str, FrameInfo] = {}
    first_line: dict[str, int] = {}
    try:
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                text = f"{len(cells)} cells where the header has {len(header)}"
                problems.append(Problem("frames-csv", text, shown, line))
                continue
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            found = index.find(row["frame"])
            if len(found) != 1:
                kind = "frames-csv-ambiguous-frame" if found else "frames-csv-unknown-frame"
                what = f"may be {' or '.join(found[:3])}" if found else "is not in the pool"
                problems.append(Problem(kind, f"the frame {row['frame']!r} {what}", shown, line))
                continue
            key = found[0]
            if key in infos:
                what = f"the frame {row['frame']!r} is already on line {first_line[key]}"
                problems.append(Problem("frames-csv-repeated-frame", what, shown, line, key))
                continue
            first_line[key] = line
            infos[key] = read_row(row, key, shown, line, problems)
    except csv.Error as error:
        problems.append(Problem("frames-csv", f"not a valid CSV ({error})", shown, reader.line_num))
    return infos, frozenset(header) & frozenset(COLUMNS), problems


def read_row(row: dict[str, str], key: str, shown: str, line: int, problems: list[Problem]) -> FrameInfo:
    time_s: float | None = None
    if text := row.get("time_s", ""):
        time_s = float(text) if NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(time_s):
            problems.append(
                Problem("frames-csv-time", f"the time {text!r} is not a number of seconds", shown, line, key)
            )
            time_s = None
    group = row.get("group") or None
    if "group" in row and group is None:
        problems.append(Problem("frames-csv-no-group", f"the frame {row['frame']!r} has no group", shown, line, key))
    anomalies = None
    if "anomalies" in row:
        anomalies = tuple(sorted({part.strip() for part in row["anomalies"].split(";")} - {""}))
    return FrameInfo(group, time_s, row.get("step") or None, anomalies)
