"""Bootstrap a base image from Debian packages with mmdebstrap(1), for either architecture, without a registry."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from deckbench.containers.archive import EPOCH, Layer, repack
from deckbench.containers.spec import Image
from deckbench.errors import InputError, OutsideError
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
LINE = re.compile(r"#.*|rootfs sha256:[0-9a-f]{64}|[a-z0-9][a-z0-9.+-]+=\S+|")
UNKNOWN = re.compile(r"Unable to locate package (\S+)")


@dataclass(frozen=True)
class Rootfs:
    """A bootstrapped base: its one layer and the packages in it, `name=version`, sorted."""

    layer: Layer
    packages: tuple[str, ...]


def bootstrap(image: Image, folder: Path) -> Rootfs:
    """Make the base of `image` in `folder`.

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
        fix = "is the Debian mirror reachable"
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


def lock_text(image: Image, rootfs: Rootfs) -> str:
    """The text of debian.lock."""
    assert image.debian is not None
    head = f"# {image.name}: Debian {image.debian.release} {image.architecture}, made by `deckbench containers lock`."
    return "\n".join([head, f"rootfs sha256:{rootfs.layer.sha256}", *rootfs.packages, ""])


def check_lock(image: Image, rootfs: Rootfs) -> None:
    """Raises InputError for a base that is not the locked one, naming the packages that changed."""
    place = image.folder / LOCK
    lines = read_text(place).splitlines()
    for number, line in enumerate(lines, 1):
        if not LINE.fullmatch(line):
            fix = f"make it with `deckbench containers lock {image.name} --base bootstrap`"
            raise InputError("not a line of a lock", f"{place}:{number}", fix)
    if f"rootfs sha256:{rootfs.layer.sha256}" in lines:
        return
    moved = sorted(set(rootfs.packages) - set(lines))
    what = f"the base is not the locked one: {len(moved)} packages changed{': ' if moved else ''}{', '.join(moved[:5])}"
    fix = f"`deckbench containers lock {image.name} --base bootstrap`, review the change, then build again"
    raise InputError(what, place, fix)
