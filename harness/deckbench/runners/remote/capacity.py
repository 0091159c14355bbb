"""What a far machine has: memory, disk, a Jetson's own files, the job's image; whether that is enough for the job."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench.containers.identity import identity
from deckbench.errors import DeckBenchError, OutsideError
from deckbench.machine import jetson, ssh
from deckbench.machine.daemon import connect, failures
from deckbench.progress import say, size_text
from deckbench.runners.job import Job
from deckbench.runners.remote.connection import Far

if TYPE_CHECKING:
    from docker import DockerClient

INTERPRETER_ROOM = 1 << 30  # memory besides the weights
WEIGHTS = (".safetensors", ".bin", ".pt", ".onnx", ".engine")


@dataclass(frozen=True)
class Machine:
    """What is known of the far machine; None where it does not say. free: bytes of the disk docker writes to."""

    memory: int | None = None
    available: int | None = None
    free: int | None = None
    jetson: jetson.Jetson = field(default_factory=jetson.Jetson)


def probe(host: str, info: Mapping[str, Any]) -> Machine:
    """Disk, memory and a Jetson's own files, asked with one ssh command; what it does not say stays unknown."""
    root = shlex.quote(str(info.get("DockerRootDir") or "/"))
    words = f"cat /proc/meminfo; df -Pk {root}; {jetson.WORDS}"
    try:
        said = ssh.ask(host, f"{{ {words}; }}; true")
    except OutsideError:  # a machine may allow `docker` alone
        said = ""
    memory, available = (
        re.search(rf"^{name}:\s+(\d+) kB", said, re.MULTILINE) for name in ("MemTotal", "MemAvailable")
    )
    disk = re.search(r"^\S+\s+\d+\s+\d+\s+(\d+)\s+\d+%\s", said, re.MULTILINE)
    return Machine(
        int(memory[1]) * 1024 if memory else info.get("MemTotal"),
        int(available[1]) * 1024 if available else None,
        int(disk[1]) * 1024 if disk else None,
        jetson.told(said),
    )


def check_memory(job: Job, machine: Machine, host: str) -> None:
    """Raises OutsideError when weights among the inputs do not fit into the memory there: the models of a suite run one
    after the other, so it is the largest that counts."""
    weights = max((weights_of(path) for _, path in job.inputs), default=0)
    needed, free = weights + INTERPRETER_ROOM, machine.available
    if free is not None and weights and needed > free:
        what = f"too little memory: {size_text(needed)} are needed, {size_text(free)} are available"
        total = "" if machine.memory is None else f" of {size_text(machine.memory)}"
        raise OutsideError(what + total, host, "end other programs there, or take a smaller model")
    if weights and needed > job.memory * (1 << 30):
        what = f"the step may take {job.memory:g} GiB of memory, its weights alone are {size_text(weights)}"
        raise OutsideError(what, job.image.name, "give it more: --limits memory=GIB")


def weights_of(path: Path) -> int:
    """Bytes of an input's weights as they are loaded: of the folder and the format that has most."""
    sizes: Counter[tuple[Path, str]] = Counter()
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.suffix in WEIGHTS and file.is_file():
            sizes[file.parent, file.suffix] += file.stat().st_size
    return max(sizes.values(), default=0)


def image_at(job: Job, far: Far, machine: Machine) -> Any:
    """The job's image in the far daemon: the one this machine has, sent if need be; else the far one of that name.

    Raises OutsideError where neither has it, or there is no room for it.
    """
    import docker.errors

    tag = job.image.tag

    def look(client: DockerClient) -> Any:
        with contextlib.suppress(docker.errors.ImageNotFound):
            return client.images.get(tag)
        return None

    def search(client: DockerClient) -> Any:
        return next((image for image in client.images.list() if identity(image.attrs) == wanted), None)

    there = far.do("looking for the image", look)
    here: Any = None
    with contextlib.suppress(DeckBenchError, docker.errors.DockerException), failures("looking for the image here"):
        here = look(connect(timeout=20))
    if here is None:
        if there is None:
            fix = f"build it with `deckbench containers build {job.image.name}`, here or there"
            raise OutsideError(f"neither this machine nor {far.host} has this image", tag, fix)
        return there
    wanted = identity(here.attrs)
    if there is not None and identity(there.attrs) == wanted:
        return there
    if (same := far.do("looking for the image", search)) is not None:
        return same
    size = int(here.attrs["Size"])
    if machine.free is not None and machine.free < 2 * size:  # its archive and its layers
        what = f"too little disk: the image takes {size_text(2 * size)} on arrival, {size_text(machine.free)} are free"
        raise OutsideError(what, far.host, "free some there (`docker system df`), then run again")
    say(f"sending the image {tag} ({size_text(size)}) to {far.host}")
    far.do("sending the image", lambda client: client.images.load(here.save(named=tag)))
    sent = far.do("looking for the image", search)
    if sent is None:
        raise OutsideError("the image that arrived is not the one that was sent", far.host, "run again")
    return sent
