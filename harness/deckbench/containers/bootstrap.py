"""Bootstrap a base image from Debian packages with mmdebstrap(1), for either architecture, without a registry."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from deckbench.containers.archive import EPOCH, Layer, repack
from deckbench.containers.spec import Image
from deckbench.errors import InputError, OutsideError
from deckbench.progress import say
from deckbench.yamlfile import read_text

# Files that depend on the building machine: its name, its mirror, its logs.
DROPPED = (
    "etc/apt/sources.list",
    "etc/apt/apt.conf.d/01autoremove",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/machine-id",
    "var/cache/",
    "var/lib/apt/",
    "var/lib/dpkg/status-old",
    "var/log/",
    "dev/",
)
LOCK = "debian.lock"
LINE = re.compile(r"#.*|rootfs sha256:[0-9a-f]{64}|snapshot \d{8}T\d{6}Z|[a-z0-9][a-z0-9.+-]+=\S+|")
# Debian's archive of every day's packages; signed as any mirror is. A copy of it may be named instead.
ARCHIVE, ARCHIVE_VARIABLE = "http://snapshot.debian.org", "DECKBENCH_DEBIAN_ARCHIVE"
PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+=\S+")
STAMP = "%Y%m%dT%H%M%SZ"
AFTER = (timedelta(), timedelta(days=1))  # the archive takes in a mirror's state some hours later
ANSWER_S = 10.0
UNKNOWN = re.compile(r"Unable to locate package (\S+)")


@dataclass(frozen=True)
class Rootfs:
    """A bootstrapped base: its one layer and the packages in it, `name=version`, sorted."""

    layer: Layer
    packages: tuple[str, ...]


def locked_base(image: Image, folder: Path) -> Rootfs:
    """The base of an image in `folder`: as Debian's mirror has it today where that is the locked one, or where there is
    no lock; else as Debian's dated archive had it when it was locked.

    Raises as `bootstrap` and `check_lock`.
    """
    found = bootstrap(image, folder)
    if not (image.folder / LOCK).is_file():
        return found
    try:
        check_lock(image, found)
        return found
    except InputError as moved:
        if moved.where != str(image.folder / LOCK):  # a line of the lock, not the base
            raise
        for stamp in stamps_of(image):
            if not is_reachable(stamp):
                fix = f"{moved.fix}; or name a copy of Debian's dated archive in {ARCHIVE_VARIABLE}"
                raise InputError(f"{moved.what}; {archive()} does not answer", moved.where, fix) from None
            say(f"{image.name}: Debian's packages are not the locked ones any more; base from its archive of {stamp}")
            found.layer.tar.unlink(missing_ok=True)
            found = bootstrap(image, folder, stamp)
            if f"rootfs sha256:{found.layer.sha256}" in lock_lines(image):
                return found
        raise


def archive() -> str:
    """The address of Debian's dated archive."""
    return (os.environ.get(ARCHIVE_VARIABLE, "").strip() or ARCHIVE).rstrip("/")


def is_reachable(stamp: str) -> bool:
    """Whether the dated archive answers for a moment."""
    try:
        with urllib.request.urlopen(f"{archive()}/archive/debian/{stamp}/", timeout=ANSWER_S):
            return True
    except (OSError, ValueError):
        return False


def stamps_of(image: Image) -> list[str]:
    """The moments whose archive may hold the locked base; none for a lock that does not say when it was made."""
    named = [line.removeprefix("snapshot ") for line in lock_lines(image) if line.startswith("snapshot ")]
    if not named:
        return []
    try:
        made = datetime.strptime(named[0], STAMP).replace(tzinfo=timezone.utc)
    except ValueError:
        return []
    return [(made + after).strftime(STAMP) for after in AFTER if made + after <= datetime.now(timezone.utc)]


def lock_lines(image: Image) -> list[str]:
    """The lines of debian.lock."""
    return read_text(image.folder / LOCK).splitlines()


def mirrors_at(release: str, stamp: str) -> list[str]:
    """Debian's sources as its archive had them at a moment. Its signatures have an end, which has passed by now."""
    place = f"{archive()}/archive"
    return [
        f"deb [check-valid-until=no] {place}/debian/{stamp} {release} main",
        f"deb [check-valid-until=no] {place}/debian/{stamp} {release}-updates main",
        f"deb [check-valid-until=no] {place}/debian-security/{stamp} {release}-security main",
    ]


def bootstrap(image: Image, folder: Path, stamp: str | None = None) -> Rootfs:
    """Make the base of `image` in `folder`. stamp: as Debian's archive had it at that moment; default: as it is today.

    Raises InputError where the image has no Debian base or mmdebstrap is missing, OutsideError when it fails (mirror
    unreachable, no rights, no emulation for the other architecture).
    """
    if image.debian is None:
        fix = "its base comes from a registry: build without --base bootstrap, where that registry can be reached"
        raise InputError(f"{image.name} has no base made of Debian packages", "--base", fix)
    if shutil.which("mmdebstrap") is None:
        needs = "mmdebstrap" + (" arch-test qemu-user-static binfmt-support" if image.architecture == "arm64" else "")
        raise InputError("mmdebstrap is not installed", "--base", f"apt-get install {needs}")
    raw, out = folder / "raw.tar", folder / "rootfs.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--architectures={image.architecture}"]
    command += ["--dpkgopt=force-unsafe-io"]  # the folder is packed right away: no need to flush each file
    command += [f"--include={','.join(image.debian.packages)}", image.debian.release, str(raw)]
    command += mirrors_at(image.debian.release, stamp) if stamp is not None else []
    done = subprocess.run(
        command,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        if unknown := UNKNOWN.findall(done.stdout):
            what = f"Debian {image.debian.release} has no such package: {', '.join(sorted(set(unknown)))}"
            raise InputError(what, image.name, "fix `debian` in containers.toml")
        output = [line for line in done.stdout.splitlines() if line.startswith("E:")] or done.stdout.splitlines()[-1:]
        fix = "is the Debian mirror reachable" if stamp is None else f"is {archive()} reachable"
        fix += (
            ", and qemu for arm64 registered (update-binfmts --enable qemu-aarch64)?"
            if image.architecture == "arm64"
            else "?"
        )
        raise OutsideError(f"mmdebstrap failed: {' '.join(output)[:300]}", image.name, fix)
    found = repack(raw, out, DROPPED)
    raw.unlink()
    return Rootfs(found, packages_of(out))


def packages_of(tar: Path) -> tuple[str, ...]:
    """The packages installed in a root file system according to dpkg: `name=version`, sorted."""
    with tarfile.open(tar) as archive:
        file = archive.extractfile("var/lib/dpkg/status")
        assert file is not None
        text = file.read().decode("utf-8", errors="replace")
    found = re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$", text, re.MULTILINE)
    return tuple(sorted(f"{name}={version}" for name, version in found))


def lock_text(image: Image, rootfs: Rootfs, when: datetime | None = None) -> str:
    """The text of debian.lock. when: the moment at which the mirror had these packages (UTC)."""
    assert image.debian is not None
    head = f"# {image.name}: Debian {image.debian.release} {image.architecture}, made by `deckbench containers lock`."
    dated = [] if when is None else [f"snapshot {when.strftime(STAMP)}"]
    return "\n".join([head, f"rootfs sha256:{rootfs.layer.sha256}", *dated, *rootfs.packages, ""])


def changes(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """What changed between two lists of `name=version`: `apt 2.6.1 -> 2.6.2`, `+ name=version`, `- name=version`."""
    before, after = (dict(line.split("=", 1) for line in lines) for lines in (old, new))
    names = sorted({*before, *after})
    both = [name for name in names if name in before and name in after]
    moved = [f"{name} {before[name]} -> {after[name]}" for name in both if before[name] != after[name]]
    added = [f"+ {name}={after[name]}" for name in names if name not in before]
    return [*moved, *added, *(f"- {name}={before[name]}" for name in names if name not in after)]


def check_lock(image: Image, rootfs: Rootfs) -> None:
    """Raises InputError for a base that is not the locked one, naming the packages that changed."""
    place = image.folder / LOCK
    lines = lock_lines(image)
    for number, line in enumerate(lines, 1):
        if not LINE.fullmatch(line):
            fix = f"make it with `deckbench containers lock {image.name} --base bootstrap`"
            raise InputError("not a line of a lock", f"{place}:{number}", fix)
    if f"rootfs sha256:{rootfs.layer.sha256}" in lines:
        return
    moved = changes([line for line in lines if PACKAGE.fullmatch(line)], rootfs.packages)
    what = f"the base is not the locked one: {len(moved)} packages changed{': ' if moved else ''}{', '.join(moved[:5])}"
    command = f"deckbench containers lock {image.name} --only base --base bootstrap"
    fix = f"`{command}` locks today's packages and lists what changed; then build again"
    raise InputError(what, place, fix)
