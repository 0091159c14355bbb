"""Daemons that are no plain docker: podman, rootless, behind ssh, or failing; each with its reason."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("docker", reason="the `containers` extra is not installed")

import requests

from deckbench.containers.spec import load_images
from deckbench.doctor import assess
from deckbench.errors import InputError, OutsideError
from deckbench.machine.daemon import connect, failures
from deckbench.machine.facts import daemon_machine, reason_of
from deckbench.machine.local import local_machine
from deckbench.runners.local.container import check_daemon, check_user_ids
from deckbench.runners.select_image import image_for
from tests.runners.test_job import a_job

# As podman 4.3.1 answers, the rest left out.
PODMAN = {
    "Architecture": "amd64",
    "BuildahVersion": "1.28.2",
    "CgroupVersion": "2",
    "DockerRootDir": "/var/lib/containers/storage",
    "Driver": "overlay",
    "KernelVersion": "6.1.0",
    "MemoryLimit": True,
    "Name": "lab",
    "OSType": "linux",
    "PidsLimit": True,
    "Runtimes": {"crun": {}, "runc": {}},
    "SecurityOptions": ["name=seccomp,profile=default"],
    "ServerVersion": "4.3.1",
}
ROOTLESS = {**PODMAN, "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}


class Daemon(ThreadingHTTPServer):
    """A daemon on loopback. broken: what it answers 500 to: `status`, as podman does for `dead`, or `containers`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.info: dict[str, Any] = PODMAN
        self.broken = ""


class Handler(BaseHTTPRequestHandler):
    server: Daemon

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        filters = json.loads(parse_qs(parts.query).get("filters", ["{}"])[0])
        if parts.path.endswith("/info"):
            self.reply(200, self.server.info)
        elif parts.path.endswith("/version"):
            self.reply(200, {"ApiVersion": "1.41", "Version": "4.3.1"})
        elif parts.path.endswith("/images/json"):
            self.reply(200, [])
        elif parts.path.endswith("/containers/json"):
            if self.server.broken == "containers" or (self.server.broken and "status" in filters):
                self.reply(500, {"message": "unknown container state: dead: invalid argument"})
            else:
                labels = ("job", "exited"), ("job", "running"), ("far-job", "exited"), ("job", "dead")
                self.reply(200, [{"Labels": {"deckbench": kind}, "State": state} for kind, state in labels])
        else:
            self.reply(200, {})

    def reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    server = Daemon()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()
    server.server_close()


def test_a_daemon_that_cannot_filter_by_status_is_no_missing_daemon(answering: Daemon) -> None:
    answering.broken = "status"
    machine = local_machine()
    assert machine.docker is not None and machine.docker_fault == ""
    assert (machine.left_over, machine.waiting) == (2, 1)
    (found,) = [one for one in assess.daemon_findings(machine) if one.name == "docker daemon"]
    assert found.state == "good" and found.found.startswith("podman 4.3.1, storage overlay")


def test_a_daemon_that_fails_is_said_with_its_reason(answering: Daemon) -> None:
    answering.broken = "containers"
    machine = local_machine()
    assert machine.docker is not None
    said = {one.name: one for one in assess.daemon_findings(machine)}
    assert said["docker daemon"].state == "good"
    assert said["docker images"].state == "bad" and "unknown container state: dead" in said["docker images"].found


def test_no_reason_is_lost() -> None:
    assert reason_of(ValueError("x\ny")) == "x y"
    assert reason_of(ValueError()) == reason_of(ValueError("\n ")) == "ValueError"
    wrapped = RuntimeError()
    wrapped.__cause__ = OSError("the disk is full")
    assert reason_of(wrapped) == "the disk is full"
    with pytest.raises(OutsideError, match="doing: lost the connection"), failures("doing"):
        raise requests.exceptions.ConnectionError


@pytest.mark.parametrize("name", ["amd64", "x86_64", "AMD64", "x86-64", "x64"])
def test_an_architecture_in_every_daemon_s_words(name: str) -> None:
    machine = daemon_machine({**PODMAN, "Architecture": name})
    assert machine.architecture == "amd64" and image_for([], machine, None).name == "x86-cpu"
    check_daemon(a_job(), {**PODMAN, "Architecture": name})


@pytest.mark.parametrize(
    "info", [ROOTLESS, {**PODMAN, "Rootless": True}, {**PODMAN, "SecurityOptions": ["name=userns"]}]
)
def test_a_daemon_that_maps_user_ids_is_bad_before_anything_is_built(info: dict[str, Any], answering: Daemon) -> None:
    answering.info = info
    machine = local_machine()
    found = next(one for one in assess.daemon_findings(machine) if one.name == "docker daemon")
    assert found.state == "bad" and ("rootless" in found.found or "userns-remap" in found.found) and found.fix
    assert not assess.can_run(machine, load_images())
    with pytest.raises(OutsideError, match="maps user ids of containers"):
        check_user_ids(info)


def test_a_daemon_behind_ssh_is_pointed_to_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://lab:secret@orin:2222")
    with pytest.raises(InputError, match="--host ssh://lab@orin:2222") as caught:
        connect()
    assert "secret" not in str(caught.value) and "paramiko" not in str(caught.value) and caught.value.exit_code == 2
    said = assess.daemon_findings(local_machine())[0]
    assert said.state == "absent" and "--host ssh://lab@orin:2222" in said.found and said.fix == "unset DOCKER_HOST"
