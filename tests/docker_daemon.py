"""A docker daemon for tests: the one that runs, or one that is started; and a small image with this Python alone.

Where none can be had, tests that need one are skipped with the reason, but under CI they fail.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from deckbench.artifact import hash_json
from deckbench.containers.spec import Image
from deckbench.errors import OutsideError
from deckbench.machine.daemon import LABEL, connect

STARTS_WITHIN_S = 60.0
NOT_IN_THE_IMAGE = {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "idlelib",
    "ensurepip",
    "tkinter",
    "lib2to3",
}
# What compiled packages (numpy, torch) want besides what Python itself does.
LIBRARIES = (
    *("libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1", "libatomic.so.1", "libz.so.1"),
    *("libm.so.6", "libpthread.so.0", "librt.so.1", "libdl.so.2", "libutil.so.1"),
)

PROGRAMS = ("timeout",)  # of those that every image has, what a step is started with


def cannot(reason: str) -> NoReturn:
    """Skip; under CI, fail: there these tests have to run."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"no docker daemon: {reason}")
    pytest.skip(f"no docker daemon: {reason}")


@contextlib.contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Only one test process of this machine at a time goes on here."""
    with Path(tempfile.gettempdir(), f"deckbench-tests-{os.getuid()}-{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start(*options: str, log: Path) -> subprocess.Popen[bytes]:
    """A dockerd in a session of its own, so that it outlives the tests."""
    with log.open("ab") as file:
        return subprocess.Popen(["dockerd", *options], stdout=file, stderr=file, start_new_session=True)


def answering(process: subprocess.Popen[bytes], base_url: str | None = None) -> Any:
    """A client, as soon as the daemon answers; None when it ended instead or takes too long."""
    import docker

    give_up = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < give_up and process.poll() is None:
        try:
            client = connect(timeout=60) if base_url is None else docker.DockerClient(base_url=base_url, timeout=60)
            client.ping()
        except (OutsideError, docker.errors.DockerException, OSError):
            time.sleep(0.3)
            continue
        return client
    return None


def any_daemon() -> Any:
    """A client of the running daemon, or of one started for this."""
    with one_at_a_time("dockerd"):
        try:
            return connect(timeout=60)
        except OutsideError as error:
            reason = error.what
        if os.getuid() != 0 or shutil.which("dockerd") is None:
            cannot(f"{reason}; to start one takes root and dockerd")
        log = Path(tempfile.gettempdir(), "deckbench-tests-dockerd.log")
        # Some machines cannot make a bridge; these tests need no network but the loopback.
        for options in ((), ("--bridge=none", "--iptables=false", "--ip6tables=false")):
            client = answering(start(*options, log=log))
            if client is not None:
                return client
        cannot(f"dockerd does not start: {log.read_text(errors='replace')[-500:]}")


@pytest.fixture(scope="session")
def daemon() -> Iterator[Any]:
    """A client of a running docker daemon."""
    client = any_daemon()
    yield client
    client.close()


def python_image(client: Any) -> Image:
    """An image with the Python that runs the tests, its standard library and C libraries: enough for a probe.

    Mount a site-packages folder to run more.
    """
    made_of = hash_json([sys.version, sys.base_prefix, LIBRARIES, PROGRAMS, sorted(NOT_IN_THE_IMAGE)])
    image = Image(
        name=f"test-python-{made_of[:8]}",
        folder=Path("/nowhere"),
        platform="linux/arm64" if os.uname().machine == "aarch64" else "linux/amd64",
        python=f"3.{sys.version_info[1]}",
        base="none",
        gpu="none",
        serves=[],
        memory_gib=2,
        pids=256,
        minutes=10,
    )
    with one_at_a_time("image"):
        if not client.images.list(name=image.tag):
            repository, _, tag = image.tag.rpartition(":")
            client.api.import_image_from_data(
                archive(), repository=repository, tag=tag, changes=[f"LABEL {LABEL}=test"]
            )
    return image


def program() -> tuple[str, ...]:
    """How the image's Python is started."""
    return (str(Path(sys._base_executable).resolve()), "-B")  # type: ignore[attr-defined]


def archive() -> bytes:
    """The image's files as a tar."""
    paths = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_prefix})
    libraries = {Path(paths[name]) for name in ("stdlib", "platstdlib")}
    programs = [Path(program()[0]), *(Path(found) for name in PROGRAMS if (found := shutil.which(name)))]
    binaries = [*programs, *(found for folder in libraries for found in folder.glob("lib-dynload/*.so"))]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as tar:
        for name in ("tmp", "in", "out", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for folder in libraries:
            tar.add(folder, filter=lambda entry: None if Path(entry.name).name in NOT_IN_THE_IMAGE else entry)
        for file in sorted({*programs, *linked(binaries)}):
            tar.add(file)
    return buffer.getvalue()


def linked(binaries: list[Path]) -> set[Path]:
    """The shared libraries that programs and modules are linked with, and LIBRARIES."""
    said = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    found = re.findall(r"(?:=> |^\s+)(/\S+) \(0x", said, re.MULTILINE)
    found += [path for name in LIBRARIES for path in re.findall(rf"^\s+{re.escape(name)} .*=> (/\S+)$", cache, re.M)]
    return {Path(path) for path in found}
