"""x86-cpu and the arm64 packaging image, as a user makes them: locked, fetched, built without a network.

Each is made once in a run, whichever test process needs it first; the others wait. So is a base of Debian packages,
but where a test wants one made anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docker_daemon import cannot

CHECKOUT = Path(__file__).resolve().parents[1]
PARTS = ("harness", "tasks", "containers", "pyproject.toml")

# Stands before mmdebstrap on PATH: for the same words it gives out what the real one made, under its last argument.
KEPT_BASES = """#!{python}
import fcntl, hashlib, os, shutil, subprocess, sys
*words, out = sys.argv[1:]
kept = os.path.join({folder!r}, hashlib.sha256("\\n".join(words).encode()).hexdigest()[:16] + ".tar")
with open(kept + ".lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not os.path.exists(kept):
        subprocess.run([{real!r}, *words, kept + ".part.tar"], check=True)
        os.rename(kept + ".part.tar", kept)
shutil.copyfile(kept, out)
"""


def once(folder: Path, name: str, make: Callable[[], str]) -> str:
    """What `make` returns, called in the first test process that comes here; a failure holds for all, too."""
    kept = folder / f"{name}.json"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            try:
                said = {"made": make()}
            except AssertionError as error:
                said = {"failed": str(error)}
            kept.write_text(json.dumps(said))
    said = json.loads(kept.read_text())
    if "failed" in said:
        pytest.fail(f"{name}: {said['failed']}")
    return str(said["made"])


def deckbench(*words: str | Path, checkout: Path = CHECKOUT, bases: Path | None = None, fails: bool = False) -> str:
    """Run `deckbench WORDS` of a checkout; what it printed. Fails the test unless it ends well.

    bases: the folder of `kept_bases`, to take those that were made before.
    """
    command = [sys.executable, "-m", "deckbench", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(checkout / "harness")}
    if bases is not None:
        env["PATH"] = os.pathsep.join([str(bases), env["PATH"]])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert (done.returncode != 0) == fails, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def needs_bootstrap(architecture: str) -> None:
    """Skip with the reason (under CI: fail) where mmdebstrap or the emulation is missing."""
    if shutil.which("mmdebstrap") is None or os.getuid() != 0:
        cannot("a base of Debian packages takes root and mmdebstrap")
    native = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if architecture != native and not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        cannot("qemu for arm64 is not registered (binfmt_misc)")


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run see."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def kept_bases(common: Path) -> Path:
    """A folder with an `mmdebstrap` that makes each base once."""

    def make() -> str:
        folder, real = common / "bases", shutil.which("mmdebstrap")
        folder.mkdir()
        (folder / "mmdebstrap").write_text(KEPT_BASES.format(python=sys.executable, folder=str(folder), real=real))
        (folder / "mmdebstrap").chmod(0o755)
        return str(folder)

    return Path(once(common, "kept-bases", make))


@pytest.fixture(scope="session")
def definitions(common: Path) -> Path:
    """containers/ with today's Debian packages in place of the locked ones, which Debian takes away after a while."""

    def make() -> str:
        folder = common / "containers"
        shutil.copytree(CHECKOUT / "containers", folder)
        for lock in folder.glob("*/debian.lock"):
            lock.unlink()
        return str(folder)

    return Path(once(common, "definitions", make))


@pytest.fixture(scope="session")
def x86_cpu(daemon: Any, common: Path, definitions: Path, kept_bases: Path) -> str:
    """x86-cpu, locked and built; its identity."""
    if platform.machine() != "x86_64":
        pytest.skip("x86-cpu is for x86")
    needs_bootstrap("amd64")

    def make() -> str:
        words = ("x86-cpu", "--folder", definitions)
        deckbench("containers", "lock", *words, "--base", "bootstrap", "--only", "base", bases=kept_bases)
        deckbench("containers", "wheels", *words)
        made = json.loads(deckbench("containers", "build", *words, "--base", "bootstrap", "--json", bases=kept_bases))
        assert made[0]["locked"]
        return str(made[0]["identity"])

    return once(common, "x86-cpu", make)


@pytest.fixture(scope="session")
def arm64_cpu(daemon: Any, common: Path, definitions: Path, kept_bases: Path) -> str:
    """arm64-cpu, built with real aarch64 wheels; its identity. The base is not locked: that would make it once more."""
    needs_bootstrap("arm64")

    def make() -> str:
        words = ("arm64-cpu", "--base", "bootstrap", "--unlocked", "--folder", definitions, "--json")
        deckbench("containers", "wheels", "arm64-cpu", "--folder", definitions)
        return str(json.loads(deckbench("containers", "build", *words, bases=kept_bases))[0]["identity"])

    return once(common, "arm64-cpu", make)


@pytest.fixture(scope="session")
def other_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second checkout: the same files in another place, made at another time."""
    folder = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        if (CHECKOUT / part).is_dir():
            shutil.copytree(CHECKOUT / part, folder / part, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(CHECKOUT / part, folder / part)
    return folder
