"""sha256 of files, cached by path, size, time and inode: 28 GB are read once, not before every run."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from deckbench import artifact
from deckbench.errors import InputError

WORTH_BYTES = 1 << 20  # a smaller file is hashed faster than it is looked up
SETTLED_NS = 2_000_000_000  # a file written more recently might change again with the same time stamp


def cache_file() -> Path:
    """The user's cache of hashes."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "deckbench" / "hashes.sqlite"


@contextlib.contextmanager
def open_cache() -> Iterator[sqlite3.Connection | None]:
    """The cache, None where it cannot be used: it only saves time."""
    connection = None
    with contextlib.suppress(OSError, sqlite3.Error):
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(cache_file(), timeout=10, isolation_level=None)
        connection.execute("CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, stamp TEXT, sha256 TEXT)")
    try:
        yield connection
    finally:
        if connection is not None:
            connection.close()


def hash_file(path: Path, cache: sqlite3.Connection | None) -> tuple[str, int]:
    """(sha256, bytes) of a file. Raises InputError when it cannot be read."""
    try:
        found = path.stat()
        if cache is None or found.st_size < WORTH_BYTES:
            return artifact.hash_file(path), found.st_size
        key = str(path.resolve())
        stamp = f"{found.st_size} {found.st_mtime_ns} {found.st_ino} {found.st_dev}"
        with contextlib.suppress(sqlite3.Error):
            row = cache.execute("SELECT sha256 FROM hashes WHERE path = ? AND stamp = ?", (key, stamp)).fetchone()
            if row is not None:
                return str(row[0]), found.st_size
        digest = artifact.hash_file(path)
        if time.time_ns() - found.st_mtime_ns > SETTLED_NS:
            with contextlib.suppress(sqlite3.Error):
                cache.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", (key, stamp, digest))
        return digest, found.st_size
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", path, "fix its permissions") from None
