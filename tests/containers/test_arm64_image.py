"""The arm64 packaging image, as a user makes it; and what runs in it under emulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deckbench.containers.spec import image_named
from tests.real_images import CHECKOUT, deckbench

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def test_arm64_built_again_from_another_checkout_is_the_same(
    arm64_cpu: str, definitions: Path, other_checkout: Path, kept_bases: Path
) -> None:
    """Its packages and DeckBench are; an arm64 base takes minutes under emulation, and is made as the x86 one is."""
    words = ("containers", "verify", "arm64-cpu", "--base", "bootstrap", "--unlocked", "--folder", definitions)
    found = json.loads(deckbench(*words, "--json", checkout=other_checkout, bases=kept_bases))[0]
    assert found["same"] and found["identity"] == arm64_cpu


def test_the_arm64_image_runs_doctor_pool_check_and_report_under_emulation(
    arm64_cpu: str, daemon: Any, tmp_path: Path
) -> None:
    tag = image_named("arm64-cpu").tag
    pool, records = tmp_path / "pool", CHECKOUT / "results/records"
    deckbench("pool", "synth", pool, "--frames", "12")
    folders = {str(place): {"bind": f"/{place.name}", "mode": "ro"} for place in (pool, records)}

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


def test_a_bench_under_emulation_says_so(arm64_cpu: str, tmp_path: Path) -> None:
    """It runs, and what it wrote is labelled."""
    pool, data, out = tmp_path / "pool", tmp_path / "S3", tmp_path / "bench"
    for folder in (tmp_path, tmp_path.parent):  # a step in a container is nobody
        folder.chmod(0o755)
    deckbench("pool", "synth", pool, "--frames", "60", "--seed", "3")
    deckbench("build", "ot2-scene@1", "--pool", pool, "--out", data)
    words = ("--model", "tiny-glm4v", "--data", data, "--out", out, "--min-seconds", "1", "--warmup", "1")
    deckbench("bench-orin", "--emulate", *words)
    hardware = json.loads((out / "manifest.json").read_text())["observed"]["results"]["hardware"]
    assert hardware["emulated"] is True and hardware["architecture"] == "aarch64"
