"""The wheels of an image: downloaded or built, each checked against its lock, cached in one folder for all images."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deckbench.artifact import hash_file
from deckbench.containers.lock import WHEELS, Wheel, read_wheels, wheel_from_source
from deckbench.containers.resolve import download, platforms
from deckbench.containers.spec import Image
from deckbench.errors import InputError
from deckbench.progress import say


def wheels_folder() -> Path:
    """The wheel cache: `$XDG_CACHE_HOME/deckbench/wheels`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deckbench" / "wheels"


def fetch_wheels(image: Image, *, folder: Path | None = None, find_links: Sequence[str] = ()) -> Path:
    """Download every wheel of an image's lock that is not cached yet; returns the folder with them.

    Works for another architecture too. A file with another hash than the lock's is never kept. Raises InputError where
    there is no lock or an index offers another file than the locked one, OutsideError where none can be reached.
    """
    folder = folder or wheels_folder()
    wheels = read_wheels(image)
    absent = [wheel for wheel in wheels if not (folder / wheel.file).is_file()]
    check_wheels([wheel for wheel in wheels if wheel not in absent], folder)
    if absent:
        say(f"{image.name}: {len(absent)} of {len(wheels)} wheels to fetch")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write the wheel cache: {error.strerror}", folder, "choose another folder: --wheels"
            ) from None
        own = {name for names in image.index.values() for name in names}
        for index, names in [(None, {wheel.name for wheel in wheels} - own), *image.index.items()]:
            listed = [wheel for wheel in absent if wheel.name in names and wheel.source is None]
            fetch(image, listed, folder, index, find_links)
        for wheel in absent:
            if wheel.source is not None:
                build(image, wheels, wheel, folder, find_links)
    check_wheels(wheels, folder)
    return folder


def check_wheels(wheels: Sequence[Wheel], folder: Path) -> None:
    """Check wheels against their lock. Raises InputError for the first that is missing or has another hash."""
    for wheel in wheels:
        place = folder / wheel.file
        if not place.is_file():
            fix = "`deckbench containers wheels NAME`, with the same --wheels"
            raise InputError("a locked wheel is missing", place, fix)
        if (found := hash_file(place)) != wheel.sha256:
            what = f"the wheel's hash is {found[:12]}..., the lock says {wheel.sha256[:12]}..."
            raise InputError(what, place, "delete the file and download it again; do not use it")


def fetch(image: Image, wheels: Sequence[Wheel], folder: Path, index: str | None, find_links: Sequence[str]) -> None:
    """Download some wheels from one index (None: pip's default) into `folder`. Raises as `fetch_wheels`."""
    if not wheels:
        return
    options = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", image.python]
    options += [part for abi in (f"cp{image.python.replace('.', '')}", "abi3", "none") for part in ("--abi", abi)]
    options += [part for tag in (*platforms(image), "any") for part in ("--platform", tag)]
    options += [part for place in find_links for part in ("--find-links", place)]
    options += [] if index is None else ["--index-url", index]
    with tempfile.TemporaryDirectory(dir=folder) as fetched:
        download([wheel.line() for wheel in wheels], options, Path(fetched), image, image.folder / WHEELS)
        for wheel in wheels:
            place = Path(fetched) / wheel.file
            if place.is_file():  # else check_wheels reports which is missing
                place.replace(folder / wheel.file)


def build(image: Image, wheels: Sequence[Wheel], wheel: Wheel, folder: Path, find_links: Sequence[str]) -> None:
    """Provide a wheel that no index has: from a folder of `find_links`, else built from its locked source.

    wheels: all of the image. Raises InputError where another file comes out than the locked one.
    """
    for place in find_links:
        if (Path(place) / wheel.file).is_file():
            shutil.copyfile(Path(place) / wheel.file, folder / wheel.file)
            return
    versions = {one.name: one.version for one in wheels}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        built = wheel_from_source(wheel, image, versions, Path(scratch), find_links)
        if (found := hash_file(built)) != wheel.sha256:
            what = f"the wheel built here has the hash {found[:12]}..., the lock says {wheel.sha256[:12]}..."
            fix = "copy the file from where it was locked: --find-links FOLDER; or lock the packages again"
            raise InputError(what, image.folder / WHEELS, fix)
        built.replace(folder / wheel.file)
