"""Locks: which wheels and which base an image is made of, each by its hash.

requirements.in says what an image holds; a line `deckbench[extra]` stands for what DeckBench itself depends on.
requirements.lock, resolved by uv for the image's own platform and Python, has one wheel a line: name, version, sha256,
file name. base.lock has the base's digest in its registry. What nobody could resolve is not written.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement

from deckbench.containers import bootstrap
from deckbench.containers.spec import Image
from deckbench.errors import InputError, OutsideError

if TYPE_CHECKING:
    from docker import DockerClient

WANTED, WHEELS, BASE = "requirements.in", "requirements.lock", "base.lock"
GLIBC = {"3.10": 35, "3.11": 28, "3.12": 39}  # of Ubuntu 22.04, of manylinux's usual floor, of Ubuntu 24.04
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}
LINE = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})  # (?P<file>\S+)"
)
OWN = re.compile(r"deckbench(?:\[(?P<extras>[a-z, -]+)\])?")


@dataclass(frozen=True)
class Wheel:
    """One line of requirements.lock. sha256 is hex."""

    name: str
    version: str
    sha256: str
    file: str

    def line(self) -> str:
        """As it stands in the lock; pip and uv read it too."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}  # {self.file}"


def platforms(image: Image) -> list[str]:
    """Platform tags of wheels that run in the image, the newest first (PEP 600)."""
    machine = MACHINE[image.architecture]
    newer = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC[image.python], 16, -1)]
    old = ["manylinux2014"] if machine == "aarch64" else ["manylinux2014", "manylinux2010", "manylinux1"]
    return [*newer, *(f"{name}_{machine}" for name in old), f"linux_{machine}"]


def read_wheels(image: Image) -> list[Wheel]:
    """The wheels of an image, in the lock's order. Raises InputError: no lock, or a line that cannot be read."""
    place = image.folder / WHEELS
    if not place.is_file():
        mend = f"`deckbench containers lock {image.name}`, where its package indexes can be reached"
        raise InputError(f"{image.name} is unlocked: nobody has resolved its packages", place, mend)
    found = []
    for number, line in enumerate(place.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = LINE.fullmatch(line)
        if parts is None or PurePosixPath(parts["file"]).name != parts["file"]:
            raise InputError("not a line of a lock", f"{place}:{number}", "make it with `deckbench containers lock`")
        found.append(Wheel(**parts.groupdict()))
    return found


def missing_locks(image: Image, base: str) -> list[str]:
    """Which locks an image lacks, in words; empty where it is locked. base: registry or bootstrap."""
    needed = {WHEELS: "its packages", bootstrap.LOCK if base == "bootstrap" else BASE: f"its base ({base})"}
    return [what for file, what in needed.items() if not (image.folder / file).is_file()]


def expand(image: Image) -> list[str]:
    """requirements.in with DeckBench's own line replaced by what DeckBench depends on. Raises InputError."""
    place = image.folder / WANTED
    if not place.is_file():
        raise InputError(f"{image.name} has no {WANTED}", place, "write what the image holds, a requirement a line")
    found = []
    for raw in place.read_text(encoding="utf-8").splitlines():
        line = raw.partition("#")[0].strip()
        own = OWN.fullmatch(line)
        found += own_requirements(own["extras"] or "", image) if own else [line] if line else []
    return found


def own_requirements(extras: str, image: Image) -> list[str]:
    """What the installed DeckBench depends on in the image, with some of its extras (comma-separated)."""
    chosen = ["", *(extra.strip() for extra in extras.split(",") if extra.strip())]
    there = {"python_version": image.python, "python_full_version": f"{image.python}.0", "sys_platform": "linux"}
    there["platform_machine"] = MACHINE[image.architecture]
    found = []
    for text in metadata.requires("deckbench") or []:
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({**there, "extra": extra}) for extra in chosen):
            need.marker = None
            found.append(str(need))
    return found


def lock_wheels(image: Image, find_links: Sequence[str] = ()) -> list[Wheel]:
    """Resolve an image's packages for its own platform and Python; returns the lines of the lock, sorted by name.

    find_links: folders with more wheels. What containers.toml says comes from an index is taken from there (or such a
    folder) and from nowhere else: PyPI has files of the same name and version for other hardware. Raises InputError
    where the requirements cannot be met by wheels, OutsideError where an index cannot be reached.
    """
    links = [*find_links, *os.environ.get("PIP_FIND_LINKS", "").split()]
    wanted, chosen, direct = expand(image), [], []
    for index, names in image.index.items():
        theirs = [line for line in wanted if Requirement(line).name in names]
        wanted = [line for line in wanted if line not in theirs]
        try:
            listed = compile_wheels(image, theirs, ["--no-deps", "--default-index", index], links)
        except OutsideError as unreachable:
            try:
                listed = compile_wheels(image, theirs, ["--no-deps", "--no-index"], links)
            except InputError:
                raise unreachable from None
        for package in listed:
            wheel, address = best_wheel(package, image)
            chosen.append(wheel)
            direct.append(f"{wheel.name} @ {address}")
    listed = compile_wheels(image, [*wanted, *direct], [], links)
    named = {wheel.name for wheel in chosen}
    chosen += [best_wheel(package, image)[0] for package in listed if package["name"] not in named]
    return sorted(chosen, key=lambda wheel: wheel.name)


def compile_wheels(image: Image, wanted: list[str], options: list[str], links: list[str]) -> list[dict[str, Any]]:
    """uv's answer: packages as in pylock.toml (PEP 751)."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    command = [*uv(), "pip", "compile", "--quiet", "--format", "pylock.toml", "--no-build", "--no-header", *options]
    command += ["--python-version", image.python, "--python-platform"]
    command += [f"{MACHINE[image.architecture]}-manylinux_2_{GLIBC[image.python]}"]
    command += [part for place in links for part in ("--find-links", place)]
    with tempfile.TemporaryDirectory() as folder:
        asked, out = Path(folder) / WANTED, Path(folder) / "pylock.toml"
        asked.write_text("\n".join(wanted) + "\n", encoding="utf-8")
        done = subprocess.run(
            [*command, str(asked), "--output-file", str(out)], capture_output=True, text=True, check=False, cwd=folder
        )
        if done.returncode != 0:
            said = " ".join(done.stderr.split())[-400:]
            where = image.folder / WANTED
            if re.search(r"(?i)failed to fetch|connect|dns|timed? ?out|request failed|status (4|5)\d\d", done.stderr):
                raise OutsideError(f"a package index cannot be reached: {said}", where, "try again where it can be")
            raise InputError(f"the requirements cannot be met: {said}", where, "see containers.toml for the platform")
        packages: list[dict[str, Any]] = tomllib.loads(out.read_text(encoding="utf-8"))["packages"]
        return packages


def best_wheel(package: dict[str, Any], image: Image) -> tuple[Wheel, str]:
    """The one wheel of a package that an installer in the image would take (PEP 425), and its address now.

    Raises InputError where none fits.
    """
    from packaging.tags import compatible_tags, cpython_tags
    from packaging.utils import parse_wheel_filename

    version = tuple(int(part) for part in image.python.split("."))
    there = platforms(image)
    ranks: dict[Any, int] = {}
    for tags in (
        cpython_tags(version, platforms=there),
        compatible_tags(version, f"cp{''.join(image.python.split('.'))}", there),
    ):
        for tag in tags:
            ranks.setdefault(tag, len(ranks))
    found = []
    for entry in package.get("wheels", []):
        address = entry.get("url") or entry["path"]
        file = entry.get("name") or unquote(PurePosixPath(urlsplit(address).path).name)
        able = [ranks[tag] for tag in parse_wheel_filename(file)[3] if tag in ranks]
        if able:
            found.append((min(able), file, entry["hashes"]["sha256"], address))
    if not found:
        what = f"{package['name']} {package['version']} has no wheel for {image.platform}, Python {image.python}"
        raise InputError(what, image.folder / WANTED, "ask for another version")
    _, file, sha256, address = min(found)
    return Wheel(package["name"], package["version"], sha256, file), address


def uv() -> list[str]:
    """The command that starts uv. Raises InputError where it is not installed."""
    try:
        from uv import find_uv_bin
    except ImportError:
        raise InputError("the package uv is not installed", None, "pip install 'deckbench[containers]'") from None
    return [find_uv_bin()]


def wheels_text(image: Image, wheels: list[Wheel]) -> str:
    """The text of requirements.lock."""
    head = f"# {image.name}: {image.platform}, Python {image.python}. Made by `deckbench containers lock`; do not edit."
    return "\n".join([head, *(wheel.line() for wheel in wheels), ""])


def base_digest(client: DockerClient, image: Image) -> str:
    """`repository@sha256:...` of an image's base, asked of its registry through the daemon.

    Raises OutsideError where the registry does not answer, InputError where the base has nothing for the platform.
    """
    from deckbench.daemon import failures

    with failures(f"the registry of {image.base} does not answer", image.name):
        found = client.images.get_registry_data(image.base)
    offered = {f"{entry['os']}/{entry['architecture']}" for entry in found.attrs.get("Platforms") or []}
    if offered and image.platform not in offered:
        raise InputError(f"{image.base} has nothing for {image.platform}", image.name, f"it has {', '.join(offered)}")
    return f"{image.base.rpartition(':')[0]}@{found.id}"


def lock_image(image: Image, part: str, *, base: str, find_links: Sequence[str]) -> str:
    """Resolve and write one lock of an image; returns a line for the user.

    part: packages, or base. Raises OutsideError where an index, a registry or a mirror cannot be reached; the lock then
    stays as it was.
    """
    from deckbench.artifact import atomic_write
    from deckbench.daemon import connect

    if part not in {"packages", "base"}:
        raise InputError(f"{part!r} is no part of an image", "--only", "packages or base")
    if part == "packages":
        found = lock_wheels(image, find_links)
        atomic_write(image.folder / WHEELS, wheels_text(image, found))
        return f"{len(found)} wheels locked"
    if base == "bootstrap":
        with tempfile.TemporaryDirectory(prefix="deckbench-lock-") as folder:
            rootfs = bootstrap.bootstrap(image, Path(folder))
            atomic_write(image.folder / bootstrap.LOCK, bootstrap.lock_text(image, rootfs))
        return f"base locked, {len(rootfs.packages)} Debian packages"
    named = base_digest(connect(), image)
    atomic_write(image.folder / BASE, f"{named}\n")
    return f"base locked, {named}"
