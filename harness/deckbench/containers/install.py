"""The content of /opt/deckbench in an image: the locked packages, and DeckBench itself.

Wheels are unpacked by uv for the image's platform and Python: nothing of them is executed, so neither a container nor
an emulated processor is needed to build for another architecture.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from deckbench import __version__
from deckbench.containers.archive import Layer, pack
from deckbench.containers.lock import WHEELS, read_wheels
from deckbench.containers.resolve import platform_tag, uv
from deckbench.containers.spec import Image
from deckbench.containers.wheels import check_wheels
from deckbench.errors import InputError
from deckbench.resources import PACKAGE, data_folder

PLACE = Path("opt/deckbench")  # in the image
LIBRARY = PLACE / "lib"  # on PYTHONPATH
STARTER = """#!/usr/bin/env python3
from deckbench.cli import main

if __name__ == "__main__":  # worker processes import this file too
    main()
"""
IGNORED = ("*.pyc", "__pycache__", ".*")


def install_packages(image: Image, root: Path, wheels: Path) -> None:
    """Unpack the locked wheels below `root`/opt/deckbench/lib. Raises InputError for a missing or other wheel."""
    check_wheels(read_wheels(image), wheels)
    library = root / LIBRARY
    library.mkdir(parents=True)
    command = [*uv(), "pip", "install", "--quiet", "--target", str(library), "--no-config", "--offline", "--no-index"]
    command += ["--find-links", str(wheels.absolute()), "--no-deps", "--no-build", "--require-hashes"]
    command += ["--link-mode", "copy"]
    command += ["--python-version", image.python, "--no-compile-bytecode", "--no-cache"]
    command += ["--python-platform", platform_tag(image)]
    done = subprocess.run(
        [*command, "-r", str((image.folder / WHEELS).absolute())], capture_output=True, text=True, check=False, cwd=root
    )
    if done.returncode != 0:
        raise InputError(f"the wheels do not install: {' '.join(done.stderr.split())[-400:]}", image.folder / WHEELS)
    # Console scripts name the Python of the machine that builds. What is needed is started as `python3 -m`.
    shutil.rmtree(library / "bin", ignore_errors=True)
    (library / ".lock").unlink(missing_ok=True)
    for record in library.glob("*.dist-info/RECORD"):
        kept = [
            line for line in record.read_text(encoding="utf-8").splitlines() if not line.startswith(("bin/", "../"))
        ]
        record.write_text("\n".join(sorted(kept)) + "\n", encoding="utf-8")


def deckbench_layer(folder: Path) -> Layer:
    """The layer of an image that holds the running DeckBench, made in `folder`."""
    install_deckbench(folder / "own")
    return pack(folder / "own", folder / "own.tar")


def has_this_version(attrs: Mapping[str, Any]) -> bool:
    """Whether an image holds exactly the DeckBench that runs here. attrs: `docker image inspect`."""
    with tempfile.TemporaryDirectory(prefix="deckbench-own-") as folder:
        return bool(attrs["RootFS"]["Layers"][-1:] == [f"sha256:{deckbench_layer(Path(folder)).sha256}"])


def install_deckbench(root: Path) -> None:
    """Copy the running DeckBench below `root`: package, data, metadata and console script."""
    library = root / LIBRARY
    ignored = shutil.ignore_patterns(*IGNORED)
    shutil.copytree(PACKAGE, library / "deckbench", ignore=shutil.ignore_patterns(*IGNORED, "_data"))
    shutil.copytree(data_folder("tasks"), library / "deckbench/_data/tasks", ignore=ignored)
    shutil.copytree(data_folder("containers"), library / "deckbench/_data/containers", ignore=ignored)
    about = library / f"deckbench-{__version__}.dist-info"
    about.mkdir()
    needs = "".join(f"Requires-Dist: {need}\n" for need in metadata.requires("deckbench") or [])
    text = f"Metadata-Version: 2.1\nName: deckbench\nVersion: {__version__}\n{needs}"
    (about / "METADATA").write_text(text, encoding="utf-8")
    starter = root / PLACE / "bin" / "deckbench"
    starter.parent.mkdir(parents=True)
    starter.write_text(STARTER, encoding="utf-8")
    starter.chmod(0o755)
