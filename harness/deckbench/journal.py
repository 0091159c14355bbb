"""An append-only JSONL file that survives a crash: what was answered is never asked, or paid for, twice.

Each entry is one line of canonical JSON. A process that is killed loses nothing that was appended; a power failure
loses at most the entries of the last FSYNC_EVERY_S seconds. A last line that was torn is cut off when it is opened.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from deckbench.artifact import canonical
from deckbench.disk import read_bytes

FSYNC_EVERY_S = 1.0
MAX_BYTES = 1 << 30


class Journal:
    """An open journal. entries: what it holds, in the order it was appended."""

    def __init__(self, file: IO[bytes], entries: list[Any]) -> None:
        self.entries = entries
        self._file = file
        self._synced = time.monotonic()

    def append(self, entry: Any, *, sync: bool = False) -> None:
        """Append one entry of plain JSON types. Raises OSError when the disk fails.

        sync: it is on the disk before this returns, so that not even a power failure loses it.
        """
        self._file.write(canonical(entry) + b"\n")
        self._file.flush()
        if sync or time.monotonic() - self._synced >= FSYNC_EVERY_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()
        self.entries.append(entry)


@contextmanager
def open_journal(path: Path, valid: Callable[[Any], bool] = lambda entry: True) -> Iterator[Journal]:
    """Open or create the journal `path` for appending; on leaving it is forced to disk.

    Args:
        path: the file; its folder exists.
        valid: whether an entry is whole. The first that is not, and all after it, are cut off.

    Raises:
        OSError: the disk fails.
    """
    entries, length = read_journal(path, valid)
    with path.open("ab") as file:
        file.truncate(length)
        yield Journal(file, entries)
        file.flush()
        os.fsync(file.fileno())


def read_journal(path: Path, valid: Callable[[Any], bool] = lambda entry: True) -> tuple[list[Any], int]:
    """The entries of a journal up to its first torn line, and the length in bytes of that good part."""
    entries: list[Any] = []
    length = 0
    for line in read_bytes(path, MAX_BYTES).splitlines(keepends=True) if path.is_file() else ():
        try:
            entry = json.loads(line)
            if not line.endswith(b"\n") or not valid(entry):
                break
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        entries.append(entry)
        length += len(line)
    return entries, length
