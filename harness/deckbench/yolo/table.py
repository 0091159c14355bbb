"""A CSV table about a pool's frames: its header, its rows with line numbers, and everything that is wrong with it."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from deckbench.disk import read_bytes
from deckbench.yolo.frame import Problem

MAX_BYTES = 64 << 20
MAX_PROBLEMS = 20_000  # a file that is wrong throughout is not read to its end


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


@dataclass(frozen=True)
class Row:
    """A row about one frame. cells: column -> text without blanks around it."""

    frame: str
    line: int
    cells: dict[str, str]


@dataclass
class Table:
    """A table while it is read. kind: begins the kind of each problem. shown: the file as problems name it."""

    kind: str
    shown: str
    columns: frozenset[str] = frozenset()
    problems: list[Problem] = field(default_factory=list)

    def say(self, what: str, text: str, line: int | None = None, frame: str | None = None) -> None:
        """Note a problem of the kind `<table>-<what>`; without `what` the file itself is broken."""
        kind = f"{self.kind}-{what}" if what else self.kind
        self.problems.append(Problem(kind, text, self.shown, line, frame))

    def rows(self, path: Path, index: FrameIndex, known: tuple[str, ...], needed: tuple[str, ...]) -> Iterator[Row]:
        """The rows whose frame is in the pool. Never raises: a broken file is a problem, and ends the rows.

        Args:
            path: The file.
            index: The pool's frames.
            known: The columns that are used.
            needed: The columns that must be there.
        """
        try:
            text = read_bytes(path, MAX_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError:
            return self.say("", "not UTF-8")
        except OSError as error:
            return self.say("", f"cannot be read ({error.strerror})")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        del text
        try:
            header = [cell.strip() for cell in next(reader, [])]
        except csv.Error as error:
            return self.say("", f"not a valid CSV ({error})", 1)
        for name in needed:
            if name not in header:
                apart = len(header) == 1 and any(mark in header[0] for mark in ";\t")
                hint = "; cells are parted by commas" if apart else ""
                return self.say("", f"the column `{name}` is missing{hint}", 1)
        for name in dict.fromkeys(header):
            if name not in known:
                self.say("unknown-column", f"the column {name!r} is not used", 1)
            if header.count(name) > 1:
                self.say("", f"the column {name!r} occurs twice", 1)
        self.columns = frozenset(header) & frozenset(known)
        try:
            yield from self.body(reader, header, index)
        except csv.Error as error:
            self.say("", f"not a valid CSV ({error})", reader.line_num)
        return None

    def body(self, reader: Iterator[list[str]], header: list[str], index: FrameIndex) -> Iterator[Row]:
        """The rows below the header."""
        for cells in reader:
            line = reader.line_num  # type: ignore[attr-defined]
            if len(self.problems) >= MAX_PROBLEMS:
                return self.say("", f"more than {MAX_PROBLEMS:,} problems; the rest of the file is not read", line)
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                self.say("", f"{len(cells)} cells where the header has {len(header)}", line)
                continue
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            found = index.find(row["frame"])
            if len(found) == 1:
                yield Row(found[0], line, row)
                continue
            what = f"may be {' or '.join(found[:3])}" if found else "is not in the pool"
            kind = "ambiguous-frame" if found else "unknown-frame"
            self.say(kind, f"the frame {row['frame'][:200]!r} {what}", line)
        return None
