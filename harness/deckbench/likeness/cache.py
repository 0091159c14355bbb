"""What was made of an image file once, kept by the hash of the file, so that a suite does not make it again.

A single SQLite file: writes are atomic, and several commands may use it at once. Every row is sealed by a hash of key
and content; a damaged one counts as missing. Whatever fails (a full disk, a file that is no database), nothing is kept,
and the step goes on.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import PIL

from deckbench.progress import say

VERSION = 1  # of what is made of an image
MOST = 20_000  # rows of 21 kB; more are not kept
SEAL = 16
TOGETHER = 500  # keys in one query


class ImageCache:
    """Bytes by the sha256 of an image file. kind: what they are.

    file: is made where it is missing; None: nothing is kept.
    """

    def __init__(self, file: Path | None, kind: str) -> None:
        self.file = file
        self.kind = f"{kind} {VERSION} {PIL.__version__}"

    def read(self, hashes: Iterable[str]) -> dict[str, bytes]:
        """sha256 -> what is kept of those files."""
        keys = {f"{self.kind} {sha256}": sha256 for sha256 in hashes}
        if self.file is None or not self.file.is_file():
            return {}
        found: dict[str, bytes] = {}
        names = list(keys)
        try:
            with closing(self._open(self.file)) as base:
                for start in range(0, len(names), TOGETHER):
                    part = names[start : start + TOGETHER]
                    asked = f"SELECT key, value FROM images WHERE key IN ({','.join('?' * len(part))})"
                    for key, value in base.execute(asked, part):
                        if isinstance(value, bytes) and value[:SEAL] == seal(key, value[SEAL:]):
                            found[keys[key]] = value[SEAL:]
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
        return found

    def write(self, values: Mapping[str, bytes]) -> None:
        """Keep what was made of files: sha256 -> bytes."""
        if self.file is None or not values:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open(self.file)) as base, base:
                (held,) = base.execute("SELECT count(*) FROM images").fetchone()
                rows = [(f"{self.kind} {sha256}", value) for sha256, value in values.items()][: max(0, MOST - held)]
                sealed = [(key, seal(key, value) + value) for key, value in rows]
                base.executemany("INSERT OR REPLACE INTO images VALUES (?, ?)", sealed)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _open(self, file: Path) -> sqlite3.Connection:
        base = sqlite3.connect(file, timeout=10)
        base.execute("CREATE TABLE IF NOT EXISTS images (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        return base

    def _give_up(self, error: Exception) -> None:
        say(f"{self.file}: thumbnails are not kept ({error}); remove the file to start anew")
        self.file = None


def seal(key: str, value: bytes) -> bytes:
    """A hash of a row."""
    return hashlib.sha256(key.encode() + value).digest()[:SEAL]
