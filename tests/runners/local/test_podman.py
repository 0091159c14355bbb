"""A step on podman, where the machine has it and it starts containers: the same step as on docker."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deckbench.errors import OutsideError
from deckbench.machine.daemon import connect
from deckbench.runners.local.container import run_job
from tests.docker_daemon import python_image
from tests.runners.local.caller import job

pytestmark = [pytest.mark.docker, pytest.mark.slow]
PROBE = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
open("/tmp/scratch", "w").write("x")
try:
    open("/new", "w")
except OSError as error:
    root = error.errno
found = {"uid": os.getuid(), "caps": status["CapBnd"].strip(), "no_new": status["NoNewPrivs"].strip(), "root": root}
open("/out/found.json", "w").write(json.dumps({**found, "net": os.listdir("/sys/class/net")}))
"""


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of podman's service, started for this. Skips where podman is missing or starts no container."""
    if os.getuid() != 0 or shutil.which("podman") is None:
        pytest.skip("podman is not installed, or this is not root")
    limits = [f"nofile={most}:{most}" for _, most in [resource.getrlimit(resource.RLIMIT_NOFILE)]]
    engine = '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    engine += 'runtime = "runc"\n' if shutil.which("runc") else ""
    config = tmp_path / "containers.conf"
    config.write_text(f"[containers]\ndefault_ulimits = {json.dumps([*limits, 'nproc=4096:4096'])}\n{engine}")
    monkeypatch.setenv("CONTAINERS_CONF", str(config))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/podman.sock")
    with (tmp_path / "log").open("wb") as log:
        service = subprocess.Popen(
            ["podman", "system", "service", "--time=0", f"unix://{tmp_path}/podman.sock"], stdout=log, stderr=log
        )
    try:
        give_up = time.monotonic() + 30
        while True:
            try:
                client = connect(timeout=120)
                break
            except OutsideError as error:
                if time.monotonic() > give_up or service.poll() is not None:
                    pytest.skip(f"podman's service does not answer: {error.what}")
                time.sleep(0.3)
        image = python_image(client)
        if not client.images.list(name=image.tag):  # podman's import forgets the tag
            repository, _, tag = image.tag.rpartition(":")
            client.images.get(f"{repository}:latest").tag(repository, tag)
        yield client
        client.close()
    finally:
        service.terminate()
        service.wait(30)


def test_a_step_runs_on_podman(podman: Any, tmp_path: Path) -> None:
    out = tmp_path / "work"
    out.mkdir()
    code = PROBE.replace("/out/found.json", "/out/work/found.json")
    try:
        assert run_job(job(out, code, in_place=True), podman) == 0
    except OutsideError as error:
        if "rlimit" in error.what or "cgroup" in error.what:
            pytest.skip(f"podman starts no container here: {error.what}")
        raise
    found = json.loads((out / "found.json").read_text())
    assert found == {"uid": 65534, "caps": "0" * 16, "no_new": "1", "root": 30, "net": ["lo"]}
    assert (out / "found.json").stat().st_uid == 0
    assert run_job(job(out, "raise SystemExit(4)", in_place=True), podman) == 4
