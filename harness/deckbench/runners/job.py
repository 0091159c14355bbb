"""One deckbench command in a container: its inputs, its output, its limits."""

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
# A step has no user name in the image's /etc/passwd and no home: these say where it may write instead.
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
    "PYTHONDONTWRITEBYTECODE": "",  # set while images are built; ranks and workers would compile everything again
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
# Ranks connect over the loopback: there is no other network, and torch would warn at every connection.
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}
# Variables of the caller's environment that change how a step computes.
PASSED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "TOKENIZERS_PARALLELISM", "DS_ACCELERATOR")
EMULATED = "DECKBENCH_EMULATED"
CONTAINER = "DECKBENCH_CONTAINER"


@dataclass(frozen=True)
class Job:
    """One deckbench command in a container.

    command: deckbench's arguments, with paths in the container. inputs: (path in the container, path on this machine),
    read-only. output: what the command writes on this machine, a file or a folder, its siblings (FILE.manifest.json,
    X.partial ...) with it; inside: the same in the container, `/out/NAME`. in_place: the output is a folder that the
    command resumes by itself (`run`), and is written directly. more: further outputs, given as inputs are, in `/out`
    too. env: variables of the step; they may hold a key, so they are never shown. network: only for models behind a
    server; loopback: that server is on this machine. gpus: indices of NVIDIA GPUs, none: all. cwd: working directory.
    memory_gib, pids, minutes: in place of the image's limits; minutes 0: no limit. program: in place of the image's
    entrypoint.
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


def step_user() -> tuple[int, int]:
    """(uid, gid) of a step: the caller's own; never root."""
    uid, gid = os.getuid(), os.getgid()
    return (NOBODY, NOBODY) if uid == 0 else (uid, gid)


def step_groups() -> tuple[int, ...]:
    """The caller's further groups: what these may read, a step may read too. None for root, nor root's own group."""
    return () if os.getuid() == 0 else tuple(sorted({*os.getgroups()} - {0, os.getgid()}))


def with_visible_gpus(job: Job) -> Job:
    """The job limited to the GPUs in the caller's CUDA_VISIBLE_DEVICES, as without a container, where it names none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or job.gpus or job.image.gpu != "devices":
        return job
    gpus = [entry.strip() for entry in visible.split(",")]
    end = next((at for at, entry in enumerate(gpus) if entry in {"", "-1"}), len(gpus))  # CUDA stops there too
    if end == 0:
        return replace(job, image=job.image.model_copy(update={"gpu": "none"}))
    return replace(job, gpus=tuple(gpus[:end]))


def within_memory_of(job: Job, info: Mapping[str, Any]) -> Job:
    """The job with its memory limit lowered to the memory of the daemon's machine: a limit above it is none.

    info: `docker info`.
    """
    total = float(info.get("MemTotal") or 0) / GIB
    return replace(job, memory_gib=total) if 0 < total < job.memory else job


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
    podman: bool = False,
) -> dict[str, Any]:
    """The arguments of docker's `containers.create` for a job.

    image: the image's id. mounts: `docker.types.Mount`s. labels: besides ours. container: the value of
    DECKBENCH_CONTAINER. who: (uid, gid). jetson: the one that the container will run on, for images that use its GPU.
    groups: further ones of the step. podman: the daemon is podman.
    """
    joined = dict.fromkeys((*groups, *(jetson.groups if job.image.gpu == "jetson" else ())))
    memory = int(job.memory * GIB)
    # Owned by its user: else it gets the permissions of /tmp in the image. Compiled GPU kernels are loaded from there.
    owner = "U" if podman else f"uid={who[0]},gid={who[1]}"  # podman takes no ids; U: the step's user
    scratch = f"size={min(memory // 4, 8 * GIB)},{owner},mode=1777" + ("" if job.image.gpu == "none" else ",exec")
    return {
        "image": image,
        "command": list(job.command),
        **({} if job.program is None else {"entrypoint": list(job.program)}),
        "environment": {
            **{name: os.environ[name] for name in PASSED if name in os.environ},
            **SCRATCH,
            **({} if job.network else LOOPBACK),
            **({EMULATED: "1"} if job.emulate else {}),
            **job.env,
            CONTAINER: container,
        },
        "working_dir": job.cwd,
        "hostname": "localhost",  # ranks look up their own name; there is no name server
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
        "log_config": {"type": "none"},  # output is streamed; the daemon keeps nothing
        "labels": {LABEL: JOB, **labels},
        **gpu_arguments(job),
    }


def network_mode(job: Job) -> str:
    """No network unless declared; the host's where the server is on this machine."""
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
    request: dict[str, Any] = {"Driver": "", "Count": 0 if job.gpus else -1, "DeviceIDs": list(job.gpus)}
    return {"device_requests": [{**request, "Capabilities": [["gpu"]], "Options": {}}], "ulimits": locked}
