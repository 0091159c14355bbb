"""uv and pip: resolve for an image's platform, download by hash, build a wheel from its source."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deckbench.containers.archive import EPOCH
from deckbench.containers.spec import Image
from deckbench.errors import InputError, OutsideError
from deckbench.extras import require

GLIBC = {"3.10": 35, "3.11": 28, "3.12": 39}  # of Ubuntu 22.04, of manylinux's usual floor, of Ubuntu 24.04
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}
UNREACHABLE = re.compile(r"failed to fetch|connect|dns|timed? ?out|request failed|status (4|5)\d\d", re.IGNORECASE)


def platform_tag(image: Image) -> str:
    """The newest platform tag of wheels that run in the image, such as `x86_64-manylinux_2_28` (as uv writes it)."""
    return f"{MACHINE[image.architecture]}-manylinux_2_{GLIBC.get(image.python, 28)}"


def platforms(image: Image) -> list[str]:
    """Platform tags of wheels that run in the image, the newest first (PEP 600)."""
    machine, _, newest = platform_tag(image).partition("-")
    newer = [f"manylinux_2_{minor}_{machine}" for minor in range(int(newest.rpartition("_")[2]), 16, -1)]
    old = ["manylinux2014"] if machine == "aarch64" else ["manylinux2014", "manylinux2010", "manylinux1"]
    return [*newer, *(f"{name}_{machine}" for name in old), f"linux_{machine}"]


def uv() -> list[str]:
    """The command that starts uv. Raises InputError where it is not installed."""
    require("uv", "resolving packages")
    from uv import find_uv_bin

    return [find_uv_bin()]


def resolve(
    image: Image, wanted: Sequence[str], options: Sequence[str], links: Sequence[str], where: Path
) -> list[dict[str, Any]]:
    """uv's choice for the requirements `wanted` in an image: packages as in pylock.toml (PEP 751).

    Wheels alone, but for what the image names as built from source. links: folders with more files. where: the file of
    the requirements, for messages. Raises InputError where they cannot be met, OutsideError where no index answers.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    command = [*uv(), "pip", "compile", "--quiet", "--format", "pylock.toml", "--only-binary", ":all:", "--no-header"]
    command += [part for name in image.built for part in ("--no-binary", name)]
    command += [*options, "--python-version", image.python, "--python-platform", platform_tag(image)]
    command += [part for place in links for part in ("--find-links", place)]
    with tempfile.TemporaryDirectory() as folder:
        requirements, out = Path(folder) / where.name, Path(folder) / "pylock.toml"
        requirements.write_text("\n".join(wanted) + "\n", encoding="utf-8")
        done = subprocess.run(
            [*command, str(requirements), "--output-file", str(out)],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
        if done.returncode != 0:
            output = " ".join(done.stderr.split())[-400:]
            if UNREACHABLE.search(done.stderr):
                raise OutsideError(f"a package index cannot be reached: {output}", where, "try again where it can be")
            fix = "require other versions; packages published only as source belong under `built` in containers.toml"
            raise InputError(f"the requirements cannot be met: {output}", where, fix)
        packages: list[dict[str, Any]] = tomllib.loads(out.read_text(encoding="utf-8"))["packages"]
        return packages


def download(lines: Sequence[str], options: Sequence[str], folder: Path, image: Image, where: Path) -> None:
    """`pip download` of requirement lines that name their hashes into `folder`, without what they depend on.

    where: the lock, for messages. Raises InputError where an index offers another file than the locked one,
    OutsideError where none can be reached.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", *options]
    done = subprocess.run(
        [*command, "--dest", str(folder), "-r", str(requirements)],
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        refused = [line for line in done.stderr.splitlines() if line.startswith(("ERROR", "    ", "     "))]
        output = " ".join(" ".join(refused or done.stderr.splitlines()[-3:]).split())[:400]
        if "HASHES" in done.stderr.upper():
            raise InputError(
                f"a file is not the locked one: {output}", where, "find out why; do not use the downloaded file"
            )
        raise OutsideError(f"files of {image.name} cannot be fetched: {output}", where, "try again where they can be")


def build_wheel(source: Path, versions: Mapping[str, str], folder: Path) -> Path:
    """Build the wheel of a source archive in `folder`; returns it. Runs the package's own build code on this machine.

    versions: of every package in the image; build tools among them are taken in these. With them, the time, the seed of
    hashes and the umask given, the same source makes the same file. Raises InputError where it does not build,
    OutsideError where its build tools cannot be fetched.
    """
    limits = folder / "versions.txt"
    limits.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()), encoding="utf-8")
    command = [*uv(), "build", "--quiet", "--wheel", "--no-config", "--python", sys.executable]
    command += ["--build-constraints", str(limits), "--out-dir", str(folder / "built"), str(source)]
    # DeepSpeed's DS_BUILD_* would compile kernels for this machine's own GPU.
    env = {name: value for name, value in os.environ.items() if not name.startswith("DS_")}
    env |= {"SOURCE_DATE_EPOCH": str(EPOCH), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env, umask=0o022)
    found = sorted((folder / "built").glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        output = " ".join(done.stderr.split())[-400:]
        if UNREACHABLE.search(done.stderr):
            raise OutsideError(
                f"the tools that build {source.name} cannot be fetched: {output}", source.name, "try again"
            )
        raise InputError(f"no wheel can be built from it: {output}", source.name, "require another version")
    return found[0]
