"""Images built by a real daemon: the same bits each time, and nothing that is not what its lock says."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deckbench.cli import containers as containers_verbs
from deckbench.containers.archive import add_layers, pack
from deckbench.containers.build import build, packages_image, verify
from deckbench.containers.install import has_this_version
from deckbench.containers.lock import base_digest, default_base, wheels_text
from deckbench.containers.spec import Debian, Image
from deckbench.errors import DeckBenchError, InputError, OutsideError
from deckbench.runners.job import Job
from deckbench.runners.local.container import find_image, warn_other_version
from tests.containers.test_lock import a_wheel, an_image

pytestmark = pytest.mark.docker
DOCKERFILE = 'ARG LAYERS\nFROM ${LAYERS}\nENV PYTHONPATH=/opt/deckbench/lib\nUSER 65534:65534\nENTRYPOINT ["x"]\n'


def a_base(client: Any, folder: Path, tag: str, text: str) -> str:
    """A base image of one file; returns its id."""
    (folder / "files").mkdir(parents=True, exist_ok=True)
    (folder / "files/base.txt").write_text(text)
    layer = pack(folder / "files", folder / "base.tar")
    return add_layers(client, None, [layer], tag, architecture="amd64", settings={"Env": ["PATH=/bin"]})


def remove_named(client: Any, name: str) -> None:
    """Remove every image one of whose tags holds `name`."""
    import docker.errors

    for image in client.images.list():
        for tag in image.tags:
            if name in tag:
                with contextlib.suppress(docker.errors.APIError):
                    client.images.remove(tag)


@pytest.fixture
def probe(daemon: Any, tmp_path: Path) -> Iterator[Image]:
    """An image of one wheel on a base of one file, with a name of its own; all of it is removed afterwards."""
    name = f"probe-{secrets.token_hex(4)}"
    base = f"deckbench-test/{name}:1"
    image = an_image(tmp_path / "image", base=base).model_copy(update={"name": name})
    (image.folder / "Dockerfile").write_text(DOCKERFILE)
    (image.folder / "requirements.lock").write_text(wheels_text(image, [a_wheel(tmp_path / "shelf")]))
    a_base(daemon, tmp_path / "base", base, "one")
    try:
        yield image
    finally:
        remove_named(daemon, name)


def test_twice_the_same_bits_and_another_wheel_gives_others(daemon: Any, probe: Image, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    first = build(daemon, probe, wheels=shelf, unlocked=True)
    time.sleep(1.1)  # whatever notes the second would show
    assert verify(daemon, probe, base="registry", wheels=shelf, unlocked=True)["same"]
    attrs = daemon.images.get(probe.tag).attrs
    assert len(attrs["RootFS"]["Layers"]) == 3 and attrs["Config"]["User"] == "65534:65534"
    assert attrs["Config"]["Labels"]["deckbench.locked"] == "false" and first.unlocked == ("its base (registry)",)

    (probe.folder / "requirements.lock").write_text(wheels_text(probe, [a_wheel(shelf, text="VALUE = 2\n")]))
    found = verify(daemon, probe, base="registry", wheels=shelf, unlocked=True)
    assert not found["same"] and found["differs"] == ["layer 2 of 3"]


def test_what_is_in_the_image_is_what_the_lock_and_this_checkout_say(daemon: Any, probe: Image, tmp_path: Path) -> None:
    import io
    import tarfile

    build(daemon, probe, wheels=tmp_path / "shelf", unlocked=True)
    container = daemon.containers.create(probe.tag)
    try:
        data = b"".join(container.get_archive("/opt/deckbench")[0])
    finally:
        container.remove()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        entries = {entry.name: entry for entry in tar}
    assert "deckbench/lib/probe_pkg.py" in entries and "deckbench/lib/deckbench/cli/__init__.py" in entries
    assert entries["deckbench/bin/deckbench"].mode & 0o111
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}
    assert not [name for name in entries if "__pycache__" in name or name.endswith(".pyc")]


def test_an_image_is_known_by_the_deckbench_it_holds(
    daemon: Any, probe: Image, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build(daemon, probe, wheels=tmp_path / "shelf", unlocked=True)
    attrs = daemon.images.get(probe.tag).attrs
    assert has_this_version(attrs)
    job = Job(image=probe, command=("x",), inputs=(), output=tmp_path / "out", inside="/out/out")
    capfd.readouterr()
    find_image(job, daemon)
    assert capfd.readouterr().err == ""

    attrs["RootFS"]["Layers"].append("sha256:" + "0" * 64)
    warn_other_version(attrs, job)
    assert (
        f"holds another version of DeckBench than this one; `deckbench containers build {probe.name}`"
        in capfd.readouterr().err
    )


def test_the_base_is_the_one_that_is_locked(probe: Image) -> None:
    debian = probe.model_copy(update={"debian": Debian(release="bookworm", packages=["python3"])})
    assert default_base(probe) == "registry" and default_base(debian) == "bootstrap"
    (probe.folder / "debian.lock").write_text("rootfs sha256:0\n")
    assert default_base(debian) == "bootstrap"
    (probe.folder / "base.lock").write_text("some/base@sha256:0\n")
    assert default_base(debian) == "registry"


def test_a_dockerfile_beside_containers_toml_is_for_all(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    image = an_image(tmp_path / "image")
    assert image.dockerfile == tmp_path / "Dockerfile"
    (image.folder / "Dockerfile").write_text(DOCKERFILE)
    assert image.dockerfile == image.folder / "Dockerfile"


def test_without_its_locks_an_image_is_not_built(daemon: Any, probe: Image, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no lock file for its base"):
        build(daemon, probe, wheels=tmp_path / "shelf")
    with pytest.raises(InputError, match="no base made of Debian packages"):
        build(daemon, probe, base="bootstrap", wheels=tmp_path / "shelf", unlocked=True)


def test_a_dockerfile_that_is_more_than_settings_is_refused_and_the_good_image_stays(
    daemon: Any, probe: Image, tmp_path: Path
) -> None:
    build(daemon, probe, wheels=tmp_path / "shelf", unlocked=True)
    good, place = daemon.images.get(probe.tag).id, probe.folder / "Dockerfile"
    for text, said in (
        (DOCKERFILE + "COPY Dockerfile /added\n", r"Dockerfile:6: COPY in a Dockerfile"),
        (DOCKERFILE + "RUN touch \\\n  /x\n", r"Dockerfile:6: RUN"),
        (DOCKERFILE.replace("${LAYERS}", "debian:bookworm"), r"Dockerfile:2: FROM debian:bookworm"),
        ("ARG LAYERS\nFROM ${LAYERS}\nWORKDIR /new/folder\n", "adds layers"),
        ("ARG LAYERS\nFROM ${LAYERS}\nENV\n", "."),
    ):
        place.write_text(text)
        with pytest.raises(DeckBenchError, match=said):
            build(daemon, probe, wheels=tmp_path / "shelf", unlocked=True)
        assert daemon.images.get(probe.tag).id == good
    assert [
        tag for image in daemon.images.list() for tag in image.tags if tag.startswith(f"deckbench/{probe.name}:")
    ] == [probe.tag]


def test_locks_and_wheels_are_looked_at_before_a_base_is_made(probe: Image, tmp_path: Path) -> None:
    import docker

    nobody = docker.DockerClient(base_url="unix:///nowhere.sock", version="1.41")
    lock = probe.folder / "requirements.lock"
    good = lock.read_text()
    lock.write_text("numpy\n")
    with pytest.raises(InputError, match=r"requirements\.lock:1: not a line"):
        packages_image(nobody, probe, "registry", tmp_path, tmp_path / "shelf", cache=False, unlocked=True)
    lock.write_text(good)
    with pytest.raises(InputError, match="a locked wheel is missing"):
        packages_image(nobody, probe, "registry", tmp_path, tmp_path / "empty", cache=False, unlocked=True)
    lock.unlink()
    with pytest.raises(InputError, match="has no lock file for its packages, its base"):
        build(nobody, probe, unlocked=True)


def test_a_relative_folder_is_as_good_as_a_whole_path(
    daemon: Any, probe: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = probe.model_copy(update={"folder": Path("image")})
    assert build(daemon, here, wheels=Path("shelf"), unlocked=True, cache=False).identity


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry on loopback: `127.0.0.1:PORT`."""
    import shutil

    if shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry (Debian: docker-registry)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = tmp_path / "registry.yml"
    store = tmp_path / "registry"
    parts = {"log": {"level": "error"}, "storage": {"filesystem": {"rootdirectory": str(store)}}}
    config.write_text(json.dumps({"version": 0.1, **parts, "http": {"addr": address}}))  # JSON is YAML
    process = subprocess.Popen(["docker-registry", "serve", str(config)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(address.split(":"), timeout=1):  # type: ignore[arg-type]
                break
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def test_a_base_is_locked_by_digest_and_a_moved_tag_is_refused(
    daemon: Any, probe: Image, registry: str, tmp_path: Path
) -> None:
    base = f"{registry}/{probe.name}/base:1"
    image = probe.model_copy(update={"base": base})
    shelf, lock = tmp_path / "shelf", image.folder / "base.lock"
    a_base(daemon, tmp_path / "base", base, "one")
    daemon.images.push(base)
    lock.write_text(base_digest(daemon, image) + "\n")
    assert f"{registry}/{probe.name}/base@sha256:" in lock.read_text()
    first = build(daemon, image, wheels=shelf)
    assert first.unlocked == () and daemon.images.get(image.tag).attrs["Config"]["Labels"]["deckbench.locked"] == "true"

    # The tag moves: the locked digest is still what is taken.
    a_base(daemon, tmp_path / "base", base, "two")
    daemon.images.push(base)
    assert base_digest(daemon, image) not in lock.read_text()
    assert build(daemon, image, wheels=shelf, cache=False).identity == first.identity

    # And where the locked one is nowhere to be had, nothing else is taken for it.
    lock.write_text(f"{base.rpartition(':')[0]}@sha256:{'0' * 64}\n")
    with pytest.raises(InputError, match=r"(?s)has moved: locked is .*@sha256:0000"):
        build(daemon, image, wheels=shelf)
    assert daemon.images.get(image.tag).id  # the image that was there is untouched


def test_a_registry_that_does_not_answer_leaves_the_image_unlocked(daemon: Any, probe: Image) -> None:
    image = probe.model_copy(update={"base": "127.0.0.1:9/nothing/base:1"})
    with pytest.raises(OutsideError, match="does not answer"):
        base_digest(daemon, image)
    assert not (image.folder / "base.lock").exists()


@pytest.mark.parametrize("verb", ["build", "verify"])
def test_a_daemon_that_breaks_off_while_it_builds_is_an_outside_failure(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    def broken(*given: object, **named: object) -> None:
        raise requests.exceptions.ConnectionError("gone")

    monkeypatch.setattr("deckbench.machine.daemon.connect", lambda: None)
    monkeypatch.setattr(containers_verbs, "warn_user_ids", lambda client: None)
    monkeypatch.setattr(f"deckbench.containers.build.{verb}", broken)
    with pytest.raises(OutsideError, match="lost the connection to the Docker daemon"):
        getattr(containers_verbs, verb)(["x86-cpu"])
