"""One deckbench command in a container: what it sees, what it may write, how much it may take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deckbench.containers.spec import Image
from deckbench.machine.daemon import JOB, LABEL
from deckbench.machine.jetson import Jetson

IN, OUT = "/in", "/out"
HOME = "/tmp"
OWNER, NUMBER, PLACE = f"{LABEL}.owner", f"{LABEL}.job", f"{LABEL}.place"  # labels, beside LABEL itself
NOBODY = 65534
GIB = 1 << 30
# A step has no name in the image's /etc/passwd and no home: everything that wants one is told where it may write.
SCRATCH = {
    "HOME": HOME,
    "USER": LABEL,
    "LOGNAME": LABEL,
    "TMPDIR": HOME,
    "XDG_CACHE_HOME": f"{HOME}/cache",
    "HF_HOME": f"{HOME}/cache/huggingface",
    "MPLCONFIGDIR": f"{HOME}/cache/matplotlib",
    "NUMBA_CACHE_DIR": f"{HOME}/cache/numba",
    "TRITON_CACHE_DIR": f"{HOME}/cache/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{HOME}/cache/inductor",
    "PYTHONPYCACHEPREFIX": f"{HOME}/pycache",
    "PYTHONDONTWRITEBYTECODE": "",  # images set it while they are built; ranks and workers would compile all again
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
# Ranks meet over the loopback: there is no other network, and torch would say so at every connection.
ALONE = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}
# Of the caller's environment, what changes how a step computes.
PASSED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "TOKENIZERS_PARALLELISM", "DS_ACCELERATOR")
EMULATED = "DECKBENCH_EMULATED"
CONTAINER = "DECKBENCH_CONTAINER"


@dataclass(frozen=True)
class Job:
    """One deckbench command in a container.

    command: deckbench's arguments, paths as the container sees them. inputs: (path in the container, path on this
    machine), read-only. output: what the command writes on this machine, a file or a folder, its siblings
    (FILE.manifest.json, X.partial ...) with it; inside: the same in the container, `/out/NAME`. in_place: the output
    is a folder that the command goes on with by itself (`run`), and is written directly. more: further outputs, as
    inputs are given, in `/out` too. env: variables of the step; they may hold a key, so they are never shown.
    network: only for models behind a server; loopback: that server is on this machine. gpus: numbers of NVIDIA cards,
    none: all. cwd: where the command stands. memory_gib, pids, minutes: in place of the image's; minutes 0: no limit.
    program: in place of the image's entrypoint.
    """

    image: Image
    command: tuple[str, ...]
    inputs: tuple[tuple[str, Path], ...]
    output: Path
    inside: str
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    network: bool = False
    emulate: bool = False
    in_place: bool = False
    more: tuple[tuple[str, Path], ...] = ()
    loopback: bool = False
    gpus: tuple[str, ...] = ()
    cwd: str = HOME
    memory_gib: float | None = None
    pids: int | None = None
    minutes: float | None = None
    program: tuple[str, ...] | None = None

    @property
    def memory(self) -> float:
        """GiB that the step may take, its files in /tmp and /dev/shm included."""
        return self.image.memory_gib if self.memory_gib is None else self.memory_gib

    @property
    def seconds(self) -> float:
        """Seconds that the step may take; 0: no limit."""
        return 60 * (self.image.minutes if self.minutes is None else self.minutes)


def user() -> tuple[int, int]:
    """(uid, gid) of a step: the caller's own; never root."""
    uid, gid = os.getuid(), os.getgid()
    return (NOBODY, NOBODY) if uid == 0 else (uid, gid)


def groups() -> tuple[int, ...]:
    """The caller's further groups: what these may read, a step may read too. None of root's, nor root's own."""
    return () if os.getuid() == 0 else tuple(sorted({*os.getgroups()} - {0, os.getgid()}))


def with_visible_cards(job: Job) -> Job:
    """A job here that names no cards is given those that the caller's CUDA_VISIBLE_DEVICES leaves, as without a
    container; where it leaves none, none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None or job.gpus or job.image.gpu != "devices":
        return job
    cards = [entry.strip() for entry in named.split(",")]
    end = next((at for at, entry in enumerate(cards) if entry in {"", "-1"}), len(cards))  # CUDA stops there too
    if end == 0:
        return replace(job, image=job.image.model_copy(update={"gpu": "none"}))
    return replace(job, gpus=tuple(cards[:end]))


def within(job: Job, info: Mapping[str, Any]) -> Job:
    """A job that is limited to the memory of the daemon's machine: a limit above it is none.

    info: what the daemon says of itself.
    """
    there = float(info.get("MemTotal") or 0) / GIB
    return replace(job, memory_gib=there) if 0 < there < job.memory else job


def create_arguments(
    job: Job,
    *,
    image: str,
    mounts: Sequence[Any],
    labels: Mapping[str, str],
    container: str,
    who: tuple[int, int],
    jetson: Jetson,
    groups: Sequence[int] = (),
) -> dict[str, Any]:
    """The arguments of docker's `containers.create` for a job.

    image: the image's id. mounts: `docker.types.Mount`s. labels: besides ours. container: the value of
    DECKBENCH_CONTAINER. who: (uid, gid). jetson: the one that the container will run on, for images that use its GPU.
    groups: further ones of the step.
    """
    joined = dict.fromkeys((*groups, *(jetson.groups if job.image.gpu == "jetson" else ())))
    memory = int(job.memory * GIB)
    # Its user's own: it gets the rights that /tmp has in the image. Compiled kernels of a GPU are loaded from there.
    scratch = f"size={min(memory // 4, 8 * GIB)},uid={who[0]},gid={who[1]},mode=1777" + (
        "" if job.image.gpu == "none" else ",exec"
    )
    return {
        "image": image,
        "command": list(job.command),
        **({} if job.program is None else {"entrypoint": list(job.program)}),
        "environment": {
            **{name: os.environ[name] for name in PASSED if name in os.environ},
            **SCRATCH,
            **({} if job.network else ALONE),
            **({EMULATED: "1"} if job.emulate else {}),
            **job.env,
            CONTAINER: container,
        },
        "working_dir": job.cwd,
        "hostname": "localhost",  # ranks look themselves up; there is no name server
        "user": f"{who[0]}:{who[1]}",
        **({"group_add": [str(group) for group in joined]} if joined else {}),
        "network_mode": network_mode(job),
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "init": True,
        "mounts": [*mounts, *jetson_mounts(job, jetson)],
        "tmpfs": {HOME: scratch},
        "mem_limit": memory,
        "memswap_limit": memory,
        "pids_limit": job.image.pids if job.pids is None else job.pids,
        "shm_size": min(memory // 2, 8 * GIB),
        "log_config": {"type": "none"},  # what it says is streamed; nothing is kept with the daemon
        "labels": {LABEL: JOB, **labels},
        **gpu_arguments(job),
    }


def network_mode(job: Job) -> str:
    """None at all, unless declared; the machine's own where the server is on this machine."""
    if not job.network:
        return "none"
    return "host" if job.loopback else "bridge"


def jetson_mounts(job: Job, jetson: Jetson) -> list[Any]:
    """The Jetson's own files that a step reads, where the image is one for it."""
    if job.image.gpu != "jetson" or not jetson.files:
        return []
    from docker.types import Mount

    return [Mount(path, path, type="bind", read_only=True) for path in jetson.files]


def gpu_arguments(job: Job) -> dict[str, Any]:
    """What `create` needs for the image's kind of GPU."""
    if job.image.gpu == "none":
        return {}
    locked = [{"Name": "memlock", "Soft": -1, "Hard": -1}, {"Name": "stack", "Soft": 1 << 26, "Hard": 1 << 26}]
    if job.image.gpu == "jetson":
        # The Jetson's memory is shared between CPU and GPU, and its driver talks to the machine's own IPC objects.
        # Docker takes no size for a /dev/shm that is the machine's.
        return {"runtime": "nvidia", "ipc_mode": "host", "shm_size": None, "ulimits": locked}
    asked: dict[str, Any] = {"Driver": "", "Count": 0 if job.gpus else -1, "DeviceIDs": list(job.gpus)}
    return {"device_requests": [{**asked, "Capabilities": [["gpu"]], "Options": {}}], "ulimits": locked}
