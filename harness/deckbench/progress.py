"""Messages and progress for people: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
PLAIN_EVERY_S = 10.0


def say(text: str) -> None:
    """One line on stderr; stdout is kept for results."""
    print(text, file=sys.stderr, flush=True)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` and report progress: a rich bar on a terminal, else a line every PLAIN_EVERY_S seconds."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, what, total=total, console=Console(stderr=True), transient=True)
        return
    last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S:
            say(f"{what}: {count}" + (f"/{total}" if total else ""))
            last = now


def format_bytes(size: float | None) -> str:
    """Bytes for people: `27.9 GB`, `64.0 MB`, `1 byte`; `unknown` for None. Units are decimal."""
    if size is None:
        return "unknown"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} byte" + ("" if round(size) == 1 else "s")


@dataclass
class Progress:
    """A line now and then while bytes are copied."""

    last: float = field(default_factory=time.monotonic)

    def say(self, done: int, total: int) -> None:
        if time.monotonic() - self.last >= PLAIN_EVERY_S:
            self.last = time.monotonic()
            say(f"copied {format_bytes(done)} of {format_bytes(total)}")
