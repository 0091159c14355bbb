"""The wheels of an image: fetched by pip, each checked against its lock, kept in one folder for every image."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deckbench.artifact import hash_file
from deckbench.containers.lock import Wheel, platforms, read_wheels
from deckbench.containers.spec import Image
from deckbench.errors import InputError, OutsideError
from deckbench.progress import say


def wheels_folder() -> Path:
    """Where fetched wheels are kept: `$XDG_CACHE_HOME/deckbench/wheels`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deckbench" / "wheels"


def fetch_wheels(image: Image, *, folder: Path | None = None, find_links: Sequence[str] = ()) -> Path:
    """Fetch every wheel of an image's lock that is not there yet; returns the folder with them.

    Works for another architecture too. A file with another hash than the lock's is never kept. Raises InputError where
    there is no lock or an index offers another file than the locked one, OutsideError where none can be reached.
    """
    folder = folder or wheels_folder()
    wheels = read_wheels(image)
    absent = [wheel for wheel in wheels if not (folder / wheel.file).is_file()]
    check_wheels([wheel for wheel in wheels if wheel not in absent], folder)
    if absent:
        say(f"{image.name}: {len(absent)} of {len(wheels)} wheels to fetch")
        folder.mkdir(parents=True, exist_ok=True)
        own = {name for names in image.index.values() for name in names}
        for index, names in [(None, {wheel.name for wheel in wheels} - own), *image.index.items()]:
            download(image, [wheel for wheel in absent if wheel.name in names], folder, index, find_links)
    check_wheels(wheels, folder)
    return folder


def check_wheels(wheels: Sequence[Wheel], folder: Path) -> None:
    """Hold wheels against their lock. Raises InputError for the first that is missing or another file."""
    for wheel in wheels:
        place = folder / wheel.file
        if not place.is_file():
            raise InputError("a locked wheel is missing", place, "`deckbench containers wheels`")
        if (found := hash_file(place)) != wheel.sha256:
            what = f"the wheel's hash is {found[:12]}..., the lock says {wheel.sha256[:12]}..."
            raise InputError(what, place, "remove the file and fetch it again; do not use what came")


def download(image: Image, wheels: Sequence[Wheel], folder: Path, index: str | None, find_links: Sequence[str]) -> None:
    """`pip download` of some wheels from one index (None: pip's own) into `folder`. Raises as `fetch_wheels`."""
    if not wheels:
        return
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", image.python]
    command += [part for abi in (f"cp{image.python.replace('.', '')}", "abi3", "none") for part in ("--abi", abi)]
    command += [part for tag in (*platforms(image), "any") for part in ("--platform", tag)]
    command += [part for place in find_links for part in ("--find-links", place)]
    command += [] if index is None else ["--index-url", index]
    with tempfile.TemporaryDirectory(dir=folder) as fetched:
        asked = Path(fetched) / "asked.txt"
        asked.write_text("\n".join(wheel.line() for wheel in wheels), encoding="utf-8")
        done = subprocess.run(
            [*command, "--dest", fetched, "-r", str(asked)],
            stdout=sys.stderr,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            refused = [line for line in done.stderr.splitlines() if line.startswith(("ERROR", "    ", "     "))]
            said = " ".join(" ".join(refused or done.stderr.splitlines()[-3:]).split())[:400]
            if "HASHES" in done.stderr.upper():
                raise InputError(f"a file is not the locked one: {said}", image.folder / "requirements.lock", "ask why")
            raise OutsideError(f"wheels of {image.name} cannot be fetched: {said}", index, "try again where it can be")
        for wheel in wheels:
            place = Path(fetched) / wheel.file
            if place.is_file():  # else check_wheels says which is missing
                place.replace(folder / wheel.file)
