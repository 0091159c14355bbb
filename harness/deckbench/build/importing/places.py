"""Where the pictures of old files lie now: an old prefix is replaced, and nothing outside the named folders is read."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from deckbench.artifact import inside
from deckbench.build.importing.refused import Refused
from deckbench.errors import InputError

_DRIVE = re.compile(r"^[A-Za-z]:/")
_SCHEME = re.compile(r"^(?:data:|[A-Za-z][A-Za-z0-9+.-]+://)")


def posix(text: str) -> str:
    """One spelling for paths: forward slashes, no `file://`, no doubled slashes, no `./` at the start."""
    text = text.strip()
    if text.lower().startswith("file://"):
        text = unquote(text[7:])
    if "\\" in text and ("/" not in text or re.match(r"^[A-Za-z]:\\", text)):
        text = text.replace("\\", "/")
    return re.sub(r"(?<!:)/{2,}", "/", text).removeprefix("./")


def is_absolute(text: str) -> bool:
    return text.startswith(("/", "~")) or bool(_DRIVE.match(text))


def parse_roots(pairs: Sequence[str]) -> list[tuple[str, Path]]:
    """`OLD=NEW` -> (old prefix, folder), the longest prefix first. Raises InputError."""
    roots = []
    for pair in pairs:
        old, equals, new = pair.rpartition("=")
        if not equals or not old.strip() or not new.strip():
            raise InputError(f"cannot read {pair!r}", "--image-root", "write OLD=NEW, such as /home/me/data=/mnt/data")
        if not Path(new).is_dir():
            raise InputError("not a folder", new, "--image-root OLD=NEW: NEW is where the images lie now")
        roots.append((posix(old).rstrip("/") or "/", Path(new)))
    return sorted(roots, key=lambda root: -len(root[0]))


class Places:
    """Finds pictures by what old files call them. root: the imported folder, in which relative paths must stay."""

    def __init__(self, root: Path, roots: Sequence[tuple[str, Path]]) -> None:
        self.root = root.resolve()
        self.roots = roots
        self.seen: dict[tuple[str, Path], Path] = {}
        self.strangers: Counter[str] = Counter()

    def find(self, text: str, beside: Path) -> Path:
        """The picture that a file in the folder `beside` calls `text`. Raises Refused."""
        key = (text, beside)
        if key not in self.seen:
            self.seen[key] = self._find(text, beside)
        return self.seen[key]

    def _find(self, text: str, beside: Path) -> Path:
        path = posix(text)
        if not path or "\0" in path:
            raise Refused("broken-row", f"the image's path is {text!r}")
        if _SCHEME.match(path):
            raise Refused("not-a-file", text[:80])
        for old, new in self.roots:
            rest = _below(path, old)
            if rest is not None:
                return self._file(new, rest, text)
        if is_absolute(path):
            self.strangers[str(PurePosixPath(path).parent)] += 1
            raise Refused("absolute-path", text)
        # Relative paths start at the file's own folder in one tool, at the folder it was called from in another.
        folder = beside.resolve()
        refused: Refused | None = None
        while folder.is_relative_to(self.root):
            try:
                return self._file(self.root, os.path.relpath(folder / path, self.root), text)
            except Refused as error:
                refused = refused or error
            folder = folder.parent
        raise refused or Refused("leaves-folder", text)

    def _file(self, base: Path, relative: str, text: str) -> Path:
        try:
            found = inside(base, relative, text)
            there = found.is_file()
        except InputError:
            raise Refused("leaves-folder", text) from None
        except OSError as error:
            raise Refused("missing-picture", f"{text} ({error.strerror})") from error
        if not there:
            raise Refused("missing-picture", text)
        return found


def _below(path: str, old: str) -> str | None:
    """What follows the prefix `old` in `path`, None when it does not start with it."""
    if _DRIVE.match(old) and path[:2].lower() == old[:2].lower():
        path = old[:2] + path[2:]  # Windows does not care how the drive is written
    if path == old:
        return "."
    start = old if old.endswith("/") else old + "/"
    return path[len(start) :] if path.startswith(start) else None
