"""Whether a remote machine has what a job needs: memory, disk, the image."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench.containers.identity import identity
from deckbench.errors import DeckBenchError, OutsideError
from deckbench.machine.daemon import connect, failures
from deckbench.machine.facts import Machine, daemon_machine
from deckbench.machine.remote import probe_resources
from deckbench.progress import format_bytes, say
from deckbench.runners.job import Job
from deckbench.runners.remote.connection import RemoteDaemon

if TYPE_CHECKING:
    from docker import DockerClient

INTERPRETER_BYTES = 1 << 30  # memory besides the weights
WEIGHTS = (".safetensors", ".bin", ".pt", ".onnx", ".engine")


def resources(host: str, info: Mapping[str, Any]) -> Machine:
    """Memory, disk and a Jetson's own files of the daemon's machine; `docker info` alone where ssh is not allowed to
    run anything else."""
    try:
        return probe_resources(host, str(info.get("DockerRootDir") or "/"))
    except OutsideError:
        return daemon_machine(info)


def check_memory(job: Job, machine: Machine, host: str) -> None:
    """Raises OutsideError when the weights among the inputs do not fit into the memory there: of the largest model, as
    the models of a suite run one after the other."""
    weights = max((weights_of(path) for _, path in job.inputs), default=0)
    needed, free = weights + INTERPRETER_BYTES, machine.free_memory
    if free is not None and weights and needed > free:
        what = f"too little memory: {format_bytes(needed)} are needed, {format_bytes(free)} are available"
        total = "" if machine.memory is None else f" of {format_bytes(machine.memory)}"
        raise OutsideError(what + total, host, "stop other programs there, or use a smaller model")
    if weights and needed > job.memory * (1 << 30):
        what = f"the step may take {job.memory:g} GiB of memory, its weights alone are {format_bytes(weights)}"
        raise OutsideError(what, job.image.name, "raise it: --limits memory=GIB")


def weights_of(path: Path) -> int:
    """Bytes of an input's weights as they are loaded: of the folder and format with the most."""
    sizes: Counter[tuple[Path, str]] = Counter()
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.suffix in WEIGHTS and file.is_file():
            sizes[file.parent, file.suffix] += file.stat().st_size
    return max(sizes.values(), default=0)


def provide_image(job: Job, daemon: RemoteDaemon, machine: Machine) -> Any:
    """The job's image in the remote daemon: the one of this machine, uploaded where needed; else the remote one of that
    name.

    Raises OutsideError where neither has it, or the disk there is too small.
    """
    import docker.errors

    tag = job.image.tag

    def by_tag(client: DockerClient) -> Any:
        with contextlib.suppress(docker.errors.ImageNotFound):
            return client.images.get(tag)
        return None

    def by_identity(client: DockerClient) -> Any:
        return next((image for image in client.images.list() if identity(image.attrs) == wanted), None)

    remote = daemon.do("looking for the image", by_tag)
    local: Any = None
    with contextlib.suppress(DeckBenchError, docker.errors.DockerException), failures("looking for the image here"):
        local = by_tag(connect(timeout=20))
    if local is None:
        if remote is None:
            fix = f"build it with `deckbench containers build {job.image.name}`, here or there"
            raise OutsideError(f"neither this machine nor {daemon.host} has this image", tag, fix)
        return remote
    wanted = identity(local.attrs)
    if remote is not None and identity(remote.attrs) == wanted:
        return remote
    if (same := daemon.do("looking for the image", by_identity)) is not None:
        return same
    size = int(local.attrs["Size"])
    if machine.docker_free is not None and machine.docker_free < 2 * size:  # its archive and its layers
        free = format_bytes(machine.docker_free)
        what = f"too little disk: the image takes {format_bytes(2 * size)} on arrival, {free} are free"
        raise OutsideError(what, daemon.host, "free disk space there (`docker system df`), then rerun")
    say(f"uploading the image {tag} ({format_bytes(size)}) to {daemon.host}")
    daemon.do("uploading the image", lambda client: client.images.load(local.save(named=tag)))
    sent = daemon.do("looking for the image", by_identity)
    if sent is None:
        raise OutsideError("the image that arrived is not the one that was sent", daemon.host, "rerun")
    return sent
