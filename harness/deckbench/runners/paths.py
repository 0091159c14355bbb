"""Which files of this machine a step reads, and where they are mounted in a container.

An input is mounted at `/in` plus its absolute path on this machine, and the working directory is mapped likewise:
relative paths, on the command line as in a suite's yaml, lead to the same files inside as outside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from deckbench.errors import InputError
from deckbench.runners.job import IN, step_user

# Nothing of this machine is mounted there: it would hide the image's own files.
TAKEN = ("/bin", "/boot", "/dev", "/etc", "/in", "/lib", "/lib64", "/opt/deckbench", "/out", "/proc", "/root", "/run",
         "/sbin", "/sys", "/usr")  # fmt: skip
MOST_LINKS = 100


def container_path(path: Path) -> str:
    """The path in the container; links are followed."""
    return f"{IN}{path.resolve()}".rstrip("/")


def absolute(path: Path) -> str:
    """The absolute path without `..`, links not followed."""
    return os.path.normpath(Path.cwd() / path)


class Inputs:
    """The inputs of a step: path in the container -> path on this machine."""

    def __init__(self) -> None:
        self.places: dict[str, Path] = {}

    def add(self, path: Path, place: str | None = None) -> str:
        """Mount an existing path, and what its links lead to; returns where. place: default, `container_path`.

        Raises InputError where the step's user may not read it, or it lies where the image's own files are.
        """
        place = place or container_path(path)
        self.place(place, path)
        real = path.resolve()
        check_permissions(real, path)
        for number, link in enumerate(outward_links(real) if real.is_dir() else ()):
            if number == MOST_LINKS:
                what = "more than a hundred links lead out of this folder; their targets are not mounted"
                raise InputError(what, path, "make a copy with the files themselves: cp -rL")
            here = PurePosixPath(place, link.relative_to(real)).parent / link.readlink()
            self.place(os.path.normpath(here), link.resolve())
        return place

    def add_as_written(self, path: Path) -> None:
        """Mount a path where a file that names it will look for it: an absolute one at its own place."""
        if path.is_absolute():
            self.add(path, absolute(path))
        else:
            self.add(path, f"{IN}{absolute(path)}")

    def place(self, place: str, path: Path) -> None:
        """Note a mount. Raises InputError for a place of the image's own files."""
        if place == "/" or any(place == taken or place.startswith(f"{taken}/") for taken in TAKEN if taken != IN):
            what = f"this cannot be mounted in a container: it would be at {place}, where the image has its own files"
            raise InputError(what, path, "copy it to another folder, or write its path relative to this one")
        self.places[place] = path

    def mounts(self) -> tuple[tuple[str, Path], ...]:
        """(path in the container, path on this machine), outer folders first; without those below one of them."""
        found: list[tuple[str, Path]] = []
        for place, path in sorted(self.places.items()):
            real = path.resolve()
            if not any(place.startswith(f"{o}/") and real == p.resolve() / place[len(o) + 1 :] for o, p in found):
                found.append((place, path))
        return tuple(found)


def outward_links(folder: Path) -> Iterator[Path]:
    """Links below a folder whose targets are outside it, such as in a cache of downloaded models."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and path.exists() and not path.resolve().is_relative_to(folder):
                yield path


def check_permissions(real: Path, named: Path) -> None:
    """Raises InputError for what the step's user may not read. Only root's steps run as another user."""
    if os.getuid() != 0:
        return
    uid, gid = step_user()
    for path in [real, *(Path(parent, name) for parent, f, n in os.walk(real) for name in (*f, *n))]:
        if path.is_symlink():
            continue
        state = path.stat()
        shift = 6 if state.st_uid == uid else 3 if state.st_gid == gid else 0
        needed = 5 if path.is_dir() else 4
        if (state.st_mode >> shift) & needed != needed:
            what = "a step in a container does not run as root, and others may not read this"
            raise InputError(what, path, f"make it readable: chmod -R o+rX {named}")


def split_weight(text: str) -> tuple[Path, str]:
    """`data/S1:0.3` -> (data/S1, ":0.3"); no weight where a folder has that very name, or there is no colon."""
    path, colon, weight = text.rpartition(":")
    return (Path(path), colon + weight) if colon and not Path(text).exists() else (Path(text), "")


def server_access(ref: str, environ: Mapping[str, str] = os.environ) -> tuple[dict[str, str], bool]:
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
    """Mount a data file and the images that it names, but nothing else next to it; returns where.

    Raises InputError where the file cannot be read.
    """
    from deckbench.artifact import MANIFEST
    from deckbench.dataset import named_pictures

    folder = file.parent
    place = f"{container_path(folder)}/{file.name}"
    images = [PurePosixPath(name) for name in named_pictures(file)]
    flat = [path for path in images if path.parent == PurePosixPath()]
    if (folder / MANIFEST).is_file() or len(flat) > MOST_LINKS:  # the folder is a dataset, or one of images
        inputs.add(folder)
        return place
    inputs.add(file, place)
    for path in {*flat, *(path.parent for path in images if path not in flat)}:
        # What leaves the folder is refused by the step itself.
        if not path.is_absolute() and ".." not in path.parts and (folder / path).exists():
            inputs.add(folder / path, f"{container_path(folder)}/{path}")
    return place


def add_pool(inputs: Inputs, pool: Path) -> str:
    """Mount a pool (folder or yaml) and what its yaml names; returns where."""
    from deckbench.errors import DeckBenchError
    from deckbench.yolo.dataset_yaml import read_yaml
    from deckbench.yolo.find import Finder

    base = pool if pool.is_dir() else pool.parent
    place = container_path(base) if pool.is_dir() else f"{container_path(base)}/{pool.name}"
    inputs.add(pool, place)
    try:
        found = read_yaml(pool)
        finder = Finder(found)
        finder.run()
    except DeckBenchError:  # the step reports it
        return place
    for folder in [found.root, *finder.allowed, *(path.parent for path in entry_paths(found.entries))]:
        if not folder.is_dir():
            continue
        if folder.is_relative_to(absolute(base)):
            inputs.add(folder, f"{container_path(base)}/{folder.relative_to(absolute(base))}".removesuffix("/."))
        elif not (pool.is_dir() and folder.resolve().is_relative_to(base.resolve())):
            inputs.add(folder)
            inputs.add(folder, absolute(folder))  # where a yaml that names whole paths looks for it
    return place


def entry_paths(entries: Mapping[str, tuple[Path, ...]]) -> list[Path]:
    """All folders and lists that a pool's yaml names."""
    return [path for paths in entries.values() for path in paths]
