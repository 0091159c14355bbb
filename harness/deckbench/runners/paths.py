"""Which files of this machine a step reads, and where a container sees them.

A container sees an input at `/in` and its whole path here, and stands in the folder that the caller stands in: relative
paths, in the command line as in a suite's yaml, lead to the same files inside as outside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from deckbench.errors import InputError
from deckbench.runners.job import IN, user

# Nothing of this machine is put there: it would stand before the image's own files.
TAKEN = ("/bin", "/boot", "/dev", "/etc", "/in", "/lib", "/lib64", "/opt/deckbench", "/out", "/proc", "/root", "/run",
         "/sbin", "/sys", "/usr")  # fmt: skip
MOST_LINKS = 100


def inside(path: Path) -> str:
    """Where a container sees a path; links are followed."""
    return f"{IN}{path.resolve()}".rstrip("/")


def plain(path: Path) -> str:
    """An absolute path without `..`, links not followed."""
    return os.path.normpath(Path.cwd() / path)


class Inputs:
    """What a container is to see: path there -> path here. Files below one that is seen already are left out."""

    def __init__(self) -> None:
        self.seen: dict[str, Path] = {}

    def add(self, path: Path, place: str | None = None) -> str:
        """See an existing path, and what its links lead to; returns where. place: default, `inside`.

        Raises InputError where the step's user may not read it, or it lies where the image's own files are.
        """
        place = place or inside(path)
        self.put(place, path)
        real = path.resolve()
        check_rights(real, path)
        for number, link in enumerate(leaving(real) if real.is_dir() else ()):
            if number == MOST_LINKS:
                what = "more than a hundred links lead out of this folder; a container does not see where they lead"
                raise InputError(what, path, "make a copy with the files themselves: cp -rL")
            here = PurePosixPath(place, link.relative_to(real)).parent / link.readlink()
            self.put(os.path.normpath(here), link.resolve())
        return place

    def as_written(self, path: Path) -> None:
        """See a path where a file that names it will look for it: an absolute one at its own place."""
        if path.is_absolute():
            self.add(path, plain(path))
        else:
            self.add(path, f"{IN}{plain(path)}")

    def put(self, place: str, path: Path) -> None:
        """Remember one; refuse a place of the image's own. Raises InputError."""
        if place == "/" or any(place == taken or place.startswith(f"{taken}/") for taken in TAKEN if taken != IN):
            what = f"a container cannot see this: its place there would be {place}, where the image has its own files"
            raise InputError(what, path, "copy it to another folder, or write its path relative to this one")
        self.seen[place] = path

    def mounts(self) -> tuple[tuple[str, Path], ...]:
        """(path in the container, path here), outer folders first."""
        found: list[tuple[str, Path]] = []
        for place, path in sorted(self.seen.items()):
            real = path.resolve()
            if not any(place.startswith(f"{o}/") and real == p.resolve() / place[len(o) + 1 :] for o, p in found):
                found.append((place, path))
        return tuple(found)


def leaving(folder: Path) -> Iterator[Path]:
    """The links below a folder that lead to something outside it, such as in a cache of downloaded models."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and path.exists() and not path.resolve().is_relative_to(folder):
                yield path


def check_rights(real: Path, named: Path) -> None:
    """Raises InputError for what the step's user may not read. Only root's steps run as somebody else."""
    if os.getuid() != 0:
        return
    uid, gid = user()
    for path in [real, *(Path(parent, name) for parent, f, n in os.walk(real) for name in (*f, *n))]:
        if path.is_symlink():
            continue
        state = path.stat()
        shift = 6 if state.st_uid == uid else 3 if state.st_gid == gid else 0
        needed = 5 if path.is_dir() else 4
        if (state.st_mode >> shift) & needed != needed:
            what = "a step in a container does not run as root, and others may not read this"
            raise InputError(what, path, f"let them: chmod -R o+rX {named}")


def split_weight(text: str) -> tuple[Path, str]:
    """`data/S1:0.3` -> (data/S1, ":0.3"); no weight where a folder has that very name, or there is no colon."""
    path, colon, weight = text.rpartition(":")
    return (Path(path), colon + weight) if colon and not Path(text).exists() else (Path(text), "")


def server(ref: str, environ: Mapping[str, str] = os.environ) -> tuple[dict[str, str], bool]:
    """For `endpoint:...`: (the variables that the step needs, whether the server is on this machine).

    Raises InputError where the settings are wrong or a key is missing.
    """
    from urllib.parse import urlsplit

    from deckbench.endpoint.spec import ADDRESS, KEY, find_server, read_spec

    spec = read_spec(ref)
    host = urlsplit(find_server(spec, environ).address).hostname or ""
    proxies = [name for word in ("http_proxy", "https_proxy", "no_proxy") for name in (word, word.upper())]
    names = [ADDRESS, *([spec.key_env] if spec.key_env else [KEY]), *proxies]
    given = {name: environ[name] for name in names if name in environ}
    return given, host in {"localhost", "::1"} or host.startswith("127.")


def add_data(inputs: Inputs, file: Path) -> str:
    """See a data file and the pictures that it names, but nothing else that lies beside it; returns where it is seen.

    Raises InputError where the file cannot be read.
    """
    from deckbench.artifact import MANIFEST
    from deckbench.dataset import named_pictures

    folder = file.parent
    place = f"{inside(folder)}/{file.name}"
    pictures = [PurePosixPath(name) for name in named_pictures(file)]
    flat = [path for path in pictures if path.parent == PurePosixPath()]
    if (folder / MANIFEST).is_file() or len(flat) > MOST_LINKS:  # the folder is a dataset, or one of pictures
        inputs.add(folder)
        return place
    inputs.add(file, place)
    for path in {*flat, *(path.parent for path in pictures if path not in flat)}:
        # What leaves the folder is refused by the step itself.
        if not path.is_absolute() and ".." not in path.parts and (folder / path).exists():
            inputs.add(folder / path, f"{inside(folder)}/{path}")
    return place


def add_pool(inputs: Inputs, pool: Path) -> str:
    """See a pool (folder or yaml) and what its yaml names; returns where it is seen."""
    from deckbench.errors import DeckBenchError
    from deckbench.yolo.dataset_yaml import read_yaml
    from deckbench.yolo.read import Finder

    base = pool if pool.is_dir() else pool.parent
    place = inside(base) if pool.is_dir() else f"{inside(base)}/{pool.name}"
    inputs.add(pool, place)
    try:
        found = read_yaml(pool)
        finder = Finder(found)
        finder.run()
    except DeckBenchError:  # the step says what is wrong with it
        return place
    for folder in [found.root, *finder.allowed, *(path.parent for path in entries_of(found.entries))]:
        if not folder.is_dir():
            continue
        if folder.is_relative_to(plain(base)):
            inputs.add(folder, f"{inside(base)}/{folder.relative_to(plain(base))}".removesuffix("/."))
        elif not (pool.is_dir() and folder.resolve().is_relative_to(base.resolve())):
            inputs.add(folder)
            inputs.add(folder, plain(folder))  # where a yaml that names whole paths looks for it
    return place


def entries_of(entries: Mapping[str, tuple[Path, ...]]) -> list[Path]:
    """All folders and lists that a pool's yaml names."""
    return [path for paths in entries.values() for path in paths]
