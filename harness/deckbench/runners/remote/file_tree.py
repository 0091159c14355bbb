"""Trees of files on this machine, each file with its hash: what is uploaded to a remote machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deckbench.errors import InputError
from deckbench.progress import PLAIN_EVERY_S, say
from deckbench.runners.remote import file_hashes


@dataclass(frozen=True)
class Source:
    """A file of this machine and its sha256 (hex)."""

    path: Path
    sha256: str
    size: int


@dataclass
class Tree:
    """Files by their path in the tree, and its folders (empty ones too)."""

    files: dict[str, Source] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        """What makes two trees the same; plain JSON."""
        return {"files": {path: found.sha256 for path, found in self.files.items()}, "folders": sorted(self.folders)}


def read_tree(places: Iterable[tuple[str, Path]]) -> Tree:
    """One tree of several files and folders, each at its place in it (`0/model`). Links are followed.

    Raises InputError for what is missing, cannot be read, or is neither file nor folder.
    """
    tree = Tree()
    began = last = time.monotonic()
    with file_hashes.open_cache() as cache:
        for place, path in places:
            for found, inside in walk(path, place, tree.folders):
                tree.files[inside] = Source(found, *file_hashes.hash_file(found, cache))
                if (now := time.monotonic()) - last >= PLAIN_EVERY_S:
                    say(f"hashing: {len(tree.files)} files, {now - began:.0f} s")
                    last = now
    return tree


def walk(path: Path, place: str, folders: list[str]) -> Iterator[tuple[Path, str]]:
    """(file, its place in the tree) of a file or folder; adds the folders' places to `folders`."""
    if path.is_file():
        yield path, place
        return
    if not path.is_dir():
        raise InputError("not found; a file or a folder is expected here", path, "check the path")
    above = {path.resolve()}
    for parent, names, leaves in os.walk(path, followlinks=True):
        here = place if Path(parent) == path else f"{place}/{Path(parent).relative_to(path).as_posix()}"
        folders.append(here)
        for name in list(names):
            if Path(parent, name).is_symlink():
                target = Path(parent, name).resolve()
                if target in above or Path(parent).resolve().is_relative_to(target):
                    names.remove(name)  # a cycle
                above.add(target)
        names.sort()
        for name in sorted(leaves):
            if not Path(parent, name).is_file():
                fix = "remove it, or fix the link"
                raise InputError("neither a file nor a folder, or a link to nothing", Path(parent, name), fix)
            yield Path(parent, name), f"{here}/{name}"
