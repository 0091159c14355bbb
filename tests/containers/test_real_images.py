"""x86-cpu and the arm64 packaging image, as a user makes them: locked, fetched, built without a network, run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deckbench.containers.resolve import uv
from deckbench.containers.spec import image_named
from deckbench.containers.wheels import wheels_folder
from tests.docker_daemon import cannot

pytestmark = [pytest.mark.docker, pytest.mark.slow]
CHECKOUT = Path(__file__).resolve().parents[2]
PARTS = ("harness", "tasks", "containers", "pyproject.toml")


def deckbench(*words: str | Path, checkout: Path = CHECKOUT, fails: bool = False) -> str:
    """Run `deckbench WORDS` of a checkout; what it printed. Fails the test unless it ends well."""
    command = [sys.executable, "-m", "deckbench", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(checkout / "harness")}
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


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """containers/ with today's Debian packages in place of the locked ones, which Debian takes away after a while."""
    folder = tmp_path_factory.mktemp("containers") / "containers"
    shutil.copytree(CHECKOUT / "containers", folder)
    for lock in folder.glob("*/debian.lock"):
        lock.unlink()
    return folder


@pytest.fixture(scope="module")
def other_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second checkout: the same files in another place, made at another time."""
    folder = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        if (CHECKOUT / part).is_dir():
            shutil.copytree(CHECKOUT / part, folder / part, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(CHECKOUT / part, folder / part)
    return folder


@pytest.fixture(scope="module")
def x86_cpu(daemon: Any, definitions: Path) -> str:
    """x86-cpu, locked and built; its identity."""
    if platform.machine() != "x86_64":
        pytest.skip("x86-cpu is for x86")
    needs_bootstrap("amd64")
    deckbench("containers", "lock", "x86-cpu", "--base", "bootstrap", "--only", "base", "--folder", definitions)
    deckbench("containers", "wheels", "x86-cpu", "--folder", definitions)
    said = deckbench("containers", "build", "x86-cpu", "--base", "bootstrap", "--folder", definitions, "--json")
    made = json.loads(said)[0]
    assert made["locked"]
    return str(made["identity"])


@pytest.fixture(scope="module")
def arm64_cpu(daemon: Any, definitions: Path) -> str:
    """arm64-cpu, built with real aarch64 wheels; its identity. The base is not locked: that would make it once more."""
    needs_bootstrap("arm64")
    deckbench("containers", "wheels", "arm64-cpu", "--folder", definitions)
    said = deckbench(
        "containers", "build", "arm64-cpu", "--base", "bootstrap", "--unlocked", "--folder", definitions, "--json"
    )
    return str(json.loads(said)[0]["identity"])


def test_x86_built_again_from_another_checkout_is_the_same(
    x86_cpu: str, definitions: Path, other_checkout: Path
) -> None:
    words = ("containers", "verify", "x86-cpu", "--base", "bootstrap", "--folder", definitions, "--json")
    found = json.loads(deckbench(*words, checkout=other_checkout))[0]
    assert found["same"] and found["identity"] == x86_cpu


def test_arm64_built_again_from_another_checkout_is_the_same(
    arm64_cpu: str, definitions: Path, other_checkout: Path
) -> None:
    words = (
        "containers",
        "verify",
        "arm64-cpu",
        "--base",
        "bootstrap",
        "--unlocked",
        "--folder",
        definitions,
        "--json",
    )
    found = json.loads(deckbench(*words, checkout=other_checkout))[0]
    assert found["same"] and found["identity"] == arm64_cpu


def test_a_base_that_moved_since_it_was_locked_is_refused(x86_cpu: str, definitions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "containers"
    shutil.copytree(definitions, folder)
    lock = folder / "x86-cpu/debian.lock"
    lines = lock.read_text().splitlines()
    moved = [f"{line}-older" if line.startswith("libc6=") else line for line in lines]
    moved = [f"rootfs sha256:{'0' * 64}" if line.startswith("rootfs") else line for line in moved]
    lock.write_text("\n".join(moved) + "\n")
    deckbench("containers", "build", "x86-cpu", "--base", "bootstrap", "--folder", folder, fails=True)


def contents(work: Path) -> dict[str, str]:
    """The content hash of every artifact below a work folder, but the page, which shows times, and the records."""
    found = {}
    for place in sorted(work.rglob("*manifest.json")):
        name = place.relative_to(work)
        if name.parts[0] not in {"site", "current", "records"}:
            found[str(name)] = json.loads(place.read_text())["content_hash"]
    return found


def records(work: Path) -> dict[str, dict[str, Any]]:
    """The records below a work folder by name, without the hash that ends it."""
    found = sorted((work / "records").glob("*/record.json"))
    return {place.parent.name.rpartition("-")[0]: json.loads(place.read_text()) for place in found}


@pytest.fixture(scope="module")
def inside(x86_cpu: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of the smoke suite, run in the container."""
    work = tmp_path_factory.mktemp("smoke") / "inside"
    deckbench("run", "smoke", "--work", work, "--runner", "docker")
    return work


def test_the_smoke_suite_gives_the_same_content_inside_and_outside(
    x86_cpu: str, inside: Path, definitions: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    python = next(
        (path for path in ("/usr/bin/python3.11", shutil.which("python3.11")) if path and Path(path).is_file()), None
    )
    if python is None:
        pytest.skip("needs Python 3.11, the image's own, outside too")
    venv = tmp_path / "venv"
    lock = image_named("x86-cpu", definitions).folder / "requirements.lock"
    subprocess.run([*uv(), "venv", "--quiet", "--python", python, str(venv)], check=True)
    install = [*uv(), "pip", "install", "--quiet", "--python", str(venv / "bin/python"), "--no-deps", "--no-index"]
    install += ["--find-links", str(wheels_folder()), "--require-hashes", "-r", str(lock)]
    subprocess.run(install, check=True)
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT / "harness")}
    command = [str(venv / "bin/python"), "-m", "deckbench", "run", "smoke", "--work", str(outside)]
    subprocess.run(command, check=True, env=env, capture_output=True)

    assert len(contents(outside)) > 20
    assert contents(inside) == contents(outside)
    # A record says where it was measured; that apart it is the same, whichever side it comes from.
    told, again = records(inside), records(outside)
    assert {one.pop("container")["identity"] for one in told.values()} == {x86_cpu}
    assert {one.pop("container") for one in again.values()} == {None}
    for one in (*told.values(), *again.values()):
        one["packages"].pop("deckbench", None)  # outside it runs from the checkout, without being installed
    assert len(told) >= 12 and told == again


def test_the_arm64_image_runs_doctor_pool_check_and_report_under_emulation(
    arm64_cpu: str, daemon: Any, inside: Path
) -> None:
    tag = image_named("arm64-cpu").tag
    pool = next((inside / "pools").glob("deck-*"))
    folders = {str(pool): {"bind": "/pool", "mode": "ro"}, str(inside / "records"): {"bind": "/records", "mode": "ro"}}

    def run(*words: str) -> str:
        out: bytes = daemon.containers.run(
            tag,
            list(words),
            remove=True,
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            tmpfs={"/tmp": "size=1g,mode=1777"},
            environment={"HOME": "/tmp", "PYTHONPYCACHEPREFIX": "/tmp/pycache"},
            volumes=folders,
            init=True,
        )
        return out.decode()

    said = run("doctor")
    assert "aarch64" in said and "emulated" in said
    assert json.loads(run("pool", "check", "/pool", "--json"))["errors"] == 0
    assert "page: file:///tmp/site/index.html" in run("report", "--records", "/records", "--out", "/tmp/site")
