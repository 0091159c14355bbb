"""x86-cpu, as a user makes it: locked, fetched, built without a network, run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deckbench.containers.resolve import uv
from deckbench.containers.spec import image_named
from deckbench.containers.wheels import wheels_folder
from tests.real_images import CHECKOUT, deckbench

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def test_x86_built_again_from_another_checkout_is_the_same(
    x86_cpu: str, definitions: Path, other_checkout: Path
) -> None:
    """All of it made again: the Debian base, too."""
    words = ("containers", "verify", "x86-cpu", "--base", "bootstrap", "--folder", definitions, "--json")
    found = json.loads(deckbench(*words, checkout=other_checkout))[0]
    assert found["same"] and found["identity"] == x86_cpu


def test_a_base_that_moved_since_it_was_locked_is_refused(
    x86_cpu: str, definitions: Path, kept_bases: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "containers"
    shutil.copytree(definitions, folder)
    lock = folder / "x86-cpu/debian.lock"
    lines = lock.read_text().splitlines()
    moved = [f"{line}-older" if line.startswith("libc6=") else line for line in lines]
    moved = [f"rootfs sha256:{'0' * 64}" if line.startswith("rootfs") else line for line in moved]
    lock.write_text("\n".join(moved) + "\n")
    words = ("containers", "build", "x86-cpu", "--base", "bootstrap", "--folder", folder)
    deckbench(*words, bases=kept_bases, fails=True)


def contents(work: Path) -> dict[str, str]:
    """The content hash of every artifact below a work folder, but the page, which shows times, and the records.

    What binds a score to its predictions is no artifact: all of it.
    """
    found = {}
    for place in sorted(work.rglob("*manifest.json")):
        name = place.relative_to(work)
        if name.parts[0] not in {"site", "current", "records"}:
            manifest = json.loads(place.read_text())
            found[str(name)] = manifest.get("content_hash") or json.dumps(manifest)
    return found


def records(work: Path) -> dict[str, dict[str, Any]]:
    """The records below a work folder by name, without the hash that ends it."""
    found = sorted((work / "records").glob("*/record.json"))
    return {place.parent.name.rpartition("-")[0]: json.loads(place.read_text()) for place in found}


def test_the_smoke_suite_gives_the_same_content_inside_and_outside(
    x86_cpu: str, definitions: Path, tmp_path: Path
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    deckbench("run", "smoke", "--work", inside, "--runner", "docker")
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
        one.pop("lineage")  # the manifests of the predictions say where they were made, too
    assert len(told) >= 12 and told == again
