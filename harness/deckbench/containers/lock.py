"""Locks: which wheels and which base an image is made of, each by its hash.

requirements.in says what an image holds; a line `deckbench[extra]` stands for what DeckBench itself depends on.
requirements.lock, resolved by uv for the image's own platform and Python, has one wheel a line: name, version, sha256,
file name; for a package that is published as source alone, also what its wheel was built from. base.lock has the base's
digest in its registry. What could not be resolved is not written.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from deckbench.artifact import hash_file
from deckbench.containers import bootstrap
from deckbench.containers.resolve import MACHINE, build_wheel, download, platforms, resolve
from deckbench.containers.spec import Image
from deckbench.errors import InputError, OutsideError
from deckbench.progress import say
from deckbench.yamlfile import read_text

if TYPE_CHECKING:
    from docker import DockerClient

BASES = ("registry", "bootstrap")
WANTED, WHEELS, BASE = "requirements.in", "requirements.lock", "base.lock"
LINE = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})  # (?P<file>\S+)"
    r"(?: built from (?P<source>\S+) sha256:(?P<source_sha256>[0-9a-f]{64}))?"
)
OWN = re.compile(r"deckbench(?:\[(?P<extras>[a-z, -]+)\])?")


@dataclass(frozen=True)
class Wheel:
    """One line of requirements.lock. sha256 is hex. source: what it is built from, where no index has a wheel."""

    name: str
    version: str
    sha256: str
    file: str
    source: str | None = None
    source_sha256: str | None = None

    def line(self) -> str:
        """As it stands in the lock; pip and uv read it too."""
        built = f" built from {self.source} sha256:{self.source_sha256}" if self.source else ""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}  # {self.file}{built}"


def read_wheels(image: Image) -> list[Wheel]:
    """The wheels of an image, in the lock's order. Raises InputError: no lock, or a line that cannot be read."""
    place = image.folder / WHEELS
    if not place.is_file():
        fix = f"`deckbench containers lock {image.name}`, where its package indexes can be reached"
        raise InputError(f"{image.name} has no lock file", place, fix)
    found = []
    for number, line in enumerate(read_text(place).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = LINE.fullmatch(line)
        files = [] if parts is None else [parts["file"], parts["source"] or parts["file"]]
        if parts is None or any(PurePosixPath(file).name != file for file in files):
            raise InputError("not a line of a lock", f"{place}:{number}", "make it with `deckbench containers lock`")
        found.append(Wheel(**parts.groupdict()))
    return found


def missing_locks(image: Image, base: str) -> list[str]:
    """The locks that an image lacks, as text; empty where it is locked. base: registry or bootstrap."""
    needed = {WHEELS: "its packages", bootstrap.LOCK if base == "bootstrap" else BASE: f"its base ({base})"}
    return [what for file, what in needed.items() if not (image.folder / file).is_file()]


def expand(image: Image) -> list[str]:
    """requirements.in with DeckBench's own line replaced by what DeckBench depends on. Raises InputError."""
    from packaging.requirements import InvalidRequirement, Requirement

    place = image.folder / WANTED
    if not place.is_file():
        raise InputError(f"{image.name} has no {WANTED}", place, "write what the image holds, a requirement a line")
    found = []
    for number, raw in enumerate(read_text(place).splitlines(), 1):
        line = raw.partition("#")[0].strip()
        own = OWN.fullmatch(line)
        try:
            found += own_requirements(own["extras"] or "", image) if own else [str(Requirement(line))] if line else []
        except InvalidRequirement as error:
            fix = "write a requirement, such as torch==2.13.0"
            raise InputError(f"not a requirement: {str(error).splitlines()[0]}", f"{place}:{number}", fix) from None
    return found


def own_requirements(extras: str, image: Image) -> list[str]:
    """What the installed DeckBench depends on in the image, with some of its extras (comma-separated)."""
    from packaging.requirements import Requirement

    chosen = ["", *(extra.strip() for extra in extras.split(",") if extra.strip())]
    environment = {"python_version": image.python, "python_full_version": f"{image.python}.0", "sys_platform": "linux"}
    environment["platform_machine"] = MACHINE[image.architecture]
    found = list[str]()
    for text in metadata.requires("deckbench") or []:
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({**environment, "extra": extra}) for extra in chosen):
            need.marker = None
            # An extra may name other extras: `train` holds `models`.
            found += own_requirements(",".join(need.extras), image) if need.name == "deckbench" else [str(need)]
    return list(dict.fromkeys(found))


def lock_wheels(image: Image, find_links: Sequence[str] = ()) -> list[Wheel]:
    """Resolve an image's packages for its own platform and Python; returns the lines of the lock, sorted by name.

    find_links: folders with more wheels. What containers.toml says comes from an index is taken from there (or such a
    folder) and from nowhere else: PyPI has files of the same name and version for other hardware. Raises InputError
    where the requirements cannot be met by wheels, OutsideError where an index cannot be reached.
    """
    from packaging.requirements import Requirement

    links = [*find_links, *os.environ.get("PIP_FIND_LINKS", "").split()]
    wanted, chosen, direct, where = expand(image), [], [], image.folder / WANTED
    for index, names in image.index.items():
        theirs = [line for line in wanted if Requirement(line).name in names]
        wanted = [line for line in wanted if line not in theirs]
        try:
            listed = resolve(image, theirs, ["--no-deps", "--default-index", index], links, where)
        except OutsideError as unreachable:
            try:
                listed = resolve(image, theirs, ["--no-deps", "--no-index"], links, where)
            except InputError:
                raise unreachable from None
        for package in listed:
            wheel, address = best_wheel(package, image)
            chosen.append(wheel)
            direct.append(f"{wheel.name} @ {address}")
    listed = resolve(image, [*wanted, *direct], [], links, where)
    versions = {package["name"]: package["version"] for package in listed}
    named = {wheel.name for wheel in chosen}
    for package in listed:
        if package["name"] in image.built:
            chosen.append(lock_built_wheel(package, image, versions, find_links))
        elif package["name"] not in named:
            chosen.append(best_wheel(package, image)[0])
    return sorted(chosen, key=lambda wheel: wheel.name)


def lock_built_wheel(
    package: dict[str, Any], image: Image, versions: Mapping[str, str], find_links: Sequence[str]
) -> Wheel:
    """The wheel of a package that is published as source, built here once. package: as in pylock.toml.

    Raises InputError where it does not build, or only for this machine; OutsideError where its source cannot be had.
    """
    source, name, version = package.get("sdist"), package["name"], package["version"]
    if source is None:
        what = f"{name} {version} is named under `built`, but has wheels alone"
        raise InputError(what, image.folder / WANTED, "remove it from `built` in containers.toml")
    address = source.get("url") or source["path"]
    archive = source.get("name") or unquote(PurePosixPath(urlsplit(address).path).name)
    found = Wheel(name, version, "", "", archive, source["hashes"]["sha256"])
    with tempfile.TemporaryDirectory(prefix="deckbench-lock-") as folder:
        file = wheel_from_source(found, image, versions, Path(folder), find_links)
        sha256 = hash_file(file)
        entry = {"url": f"file:///{quote(file.name)}", "hashes": {"sha256": sha256}}
        best_wheel({**package, "wheels": [entry]}, image)  # refuses one that only fits this machine
    return replace(found, sha256=sha256, file=file.name)


def wheel_from_source(
    wheel: Wheel, image: Image, versions: Mapping[str, str], folder: Path, find_links: Sequence[str]
) -> Path:
    """Fetch the source of a `built` package by its hash, build its wheel below `folder`; returns it.

    versions: of all packages of the image. Raises as `download` and `build_wheel`.
    """
    assert wheel.source is not None
    say(f"{image.name}: building the wheel of {wheel.name} {wheel.version} from its source")
    line = f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.source_sha256}"
    options = ["--no-binary", wheel.name, *(part for place in find_links for part in ("--find-links", place))]
    download([line], options, folder, image, image.folder / WHEELS)
    return build_wheel(folder / wheel.source, versions, folder)


def best_wheel(package: dict[str, Any], image: Image) -> tuple[Wheel, str]:
    """The wheel of a package that an installer in the image would choose (PEP 425), and its address.

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
        raise InputError(what, image.folder / WANTED, "require another version")
    _, file, sha256, address = min(found)
    return Wheel(package["name"], package["version"], sha256, file), address


def wheels_text(image: Image, wheels: list[Wheel]) -> str:
    """The text of requirements.lock."""
    head = f"# {image.name}: {image.platform}, Python {image.python}. Made by `deckbench containers lock`; do not edit."
    return "\n".join([head, *(wheel.line() for wheel in wheels), ""])


def base_digest(client: DockerClient, image: Image) -> str:
    """`repository@sha256:...` of an image's base, asked of its registry through the daemon.

    Raises OutsideError where the registry does not answer, InputError where the base has nothing for the platform.
    """
    from deckbench.machine.daemon import failures

    with failures(f"the registry of {image.base} does not answer", image.name):
        found = client.images.get_registry_data(image.base)
    offered = {f"{entry['os']}/{entry['architecture']}" for entry in found.attrs.get("Platforms") or []}
    if offered and image.platform not in offered:
        raise InputError(f"{image.base} has nothing for {image.platform}", image.name, f"it has {', '.join(offered)}")
    return f"{image.base.rpartition(':')[0]}@{found.id}"


def default_base(image: Image) -> str:
    """The default kind of an image's base: the locked one; of both, the registry."""
    return "registry" if (image.folder / BASE).is_file() or image.debian is None else "bootstrap"


def check_base(base: str) -> str:
    """The kind of base, checked. Raises InputError."""
    if base not in BASES:
        raise InputError(f"{base!r} is not a kind of base", "--base", " or ".join(BASES))
    return base


def lock_image(image: Image, part: str, *, base: str | None, find_links: Sequence[str]) -> str:
    """Resolve and write one lock of an image; returns a message.

    part: packages, or base. base: default, `default_base`. Raises InputError for other values, OutsideError where an
    index, a registry or a mirror cannot be reached; the lock then stays as it was.
    """
    from deckbench.artifact import atomic_write
    from deckbench.machine.daemon import connect

    if part not in {"packages", "base"}:
        raise InputError(f"{part!r} is not a part of an image", "--only", "packages or base")
    base = check_base(base or default_base(image))
    if part == "packages":
        found = lock_wheels(image, find_links)
        atomic_write(image.folder / WHEELS, wheels_text(image, found))
        return f"{len(found)} wheels locked"
    if base == "bootstrap":
        now = datetime.now(timezone.utc)
        old = bootstrap.lock_lines(image) if (image.folder / bootstrap.LOCK).is_file() else []
        with tempfile.TemporaryDirectory(prefix="deckbench-lock-") as folder:
            rootfs = bootstrap.bootstrap(image, Path(folder))
        if f"rootfs sha256:{rootfs.layer.sha256}" in old:
            return f"base as locked, {len(rootfs.packages)} Debian packages"
        atomic_write(image.folder / bootstrap.LOCK, bootstrap.lock_text(image, rootfs, now))
        moved = bootstrap.changes([line for line in old if bootstrap.PACKAGE.fullmatch(line)], rootfs.packages)
        said = f"; {len(moved)} changed: {', '.join(moved)}" if old and moved else ""
        return f"base locked, {len(rootfs.packages)} Debian packages{said}"
    named = base_digest(connect(), image)
    atomic_write(image.folder / BASE, f"{named}\n")
    return f"base locked, {named}"
