"""Stream a container's output line by line, with its paths replaced by those of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

ENDS = re.compile(rb"[\r\n]+")  # of lines; a pattern of whole lines would look at a long one once for every byte
FILE = b"file://"


def translator(places: Mapping[str, Path]) -> Callable[[bytes], bytes]:
    """A function that replaces the keys of `places` in a line, wherever a path begins with one.

    places: absolute folder in the container -> local folder, as the user wrote it; `.` is left out: `/out/a.csv`
    becomes `a.csv`. Addresses (`file:///out/...`) get the full path.
    """
    known = {key.encode(): path for key, path in places.items()}
    if not known:
        return lambda line: line
    keys = b"|".join(re.escape(key) for key in sorted(known, key=len, reverse=True))
    pattern = re.compile(rb"(file://|(?<![\w./-]))(" + keys + rb")(/|(?![\w-]))")

    def replace(found: re.Match[bytes]) -> bytes:
        path = known[found[2]]
        if found[1] == FILE:
            return path.resolve().as_uri().encode() + found[3]
        if path == Path() and found[3]:
            return b""
        return os.fsencode(path).rstrip(b"/") + found[3]  # `/in` stands for `/` itself

    return lambda line: pattern.sub(replace, line)


class Pump(threading.Thread):
    """Writes a container's output to stdout and stderr, in a thread of its own, until the stream ends.

    frames: (bytes of stdout or None, bytes of stderr or None), as docker's attach gives them. change: applied to every
    line. failed: the error of reading or writing; later output is read and dropped. suppressed: lines of stderr that
    begin so are left out.
    """

    def __init__(self, frames: Iterable[tuple[bytes | None, bytes | None]], change: Callable[[bytes], bytes]) -> None:
        super().__init__(daemon=True, name="container output")
        self.frames, self.change = frames, change
        self.failed: BaseException | None = None
        self.suppressed: bytes | None = None
        self.rests = [b"", b""]

    def run(self) -> None:
        try:
            for pair in self.frames:
                for number, data in enumerate(pair):
                    if data:
                        self.take(number, data)
            for number, rest in enumerate(self.rests):
                self.write(number, rest)
        except Exception as error:  # the connection was lost, or nobody reads our stdout any more: the caller decides
            self.failed = error
            # A container whose output nobody reads blocks, and so does every request to the daemon about it.
            with contextlib.suppress(Exception):
                for _ in self.frames:
                    pass

    def take(self, number: int, data: bytes) -> None:
        """Write the complete lines; buffer the rest, up to a limit."""
        text = self.rests[number] + data
        end = 0
        for found in ENDS.finditer(text):
            self.write(number, text[end : found.end()])
            end = found.end()
        self.rests[number] = text[end:]
        if len(self.rests[number]) > 1 << 20:
            self.write(number, self.rests[number])
            self.rests[number] = b""

    def write(self, number: int, line: bytes) -> None:
        if not line or (number == 1 and self.suppressed and line.startswith(self.suppressed)):
            return
        stream: IO[str] = (sys.stdout, sys.stderr)[number]
        raw: Any = getattr(stream, "buffer", None)
        try:
            if raw is None:
                stream.write(self.change(line).decode(errors="replace"))
            else:
                raw.write(self.change(line))
            stream.flush()
        except OSError:
            silence(stream)
            raise


def silence(stream: IO[str]) -> None:
    """Redirect a failed stream to /dev/null: flushing its buffer would fail again when Python exits, and
    change the exit code."""
    with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("w") as devnull:
        os.dup2(devnull.fileno(), stream.fileno())
