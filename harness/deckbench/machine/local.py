"""This machine: what the system, nvidia-smi and the docker daemon say of it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench.cores import usable_cores
from deckbench.errors import DeckBenchError
from deckbench.machine import hardware
from deckbench.machine.daemon import LABEL, REMOTE_JOB, REMOTE_STORE, connect
from deckbench.machine.facts import THIS_MACHINE, Machine, printable, reason_of
from deckbench.machine.jetson import RELEASE_FILE, local_jetson

if TYPE_CHECKING:
    from docker import DockerClient

DEVICE_TREE = Path("/sys/firmware/devicetree/base/model")
DEVFREQ = Path("/sys/class/devfreq")
BINFMT = Path("/proc/sys/fs/binfmt_misc")
ANSWER_S = 10.0
POWER_MODE = re.compile(r"^NV Power Mode: (.+)$", re.MULTILINE)
ENDED = ["created", "exited", "dead"]
INSIDE = "this is a container, and the daemon is outside"


def local_machine() -> Machine:
    """This machine; takes well under a second."""
    tegra = hardware.read_text(RELEASE_FILE)
    client, fault = daemon()
    info: dict[str, Any] | None = None
    images: dict[str, Any] = {}
    left_over: int | None = None
    waiting: int | None = None
    if client is not None:
        try:
            info = client.info()
            images, (left_over, waiting) = images_of(client), ended_containers(client)
        except Exception as error:  # the daemon's, requests', the socket's: it answers, and not this
            fault = reason_of(error)
    return Machine(
        where=THIS_MACHINE,
        system=hardware.system(),
        kernel=platform.release(),
        machine=platform.machine(),
        emulated=is_emulated(),
        board=hardware.read_text(DEVICE_TREE),
        tegra=tegra.partition("\n")[0],
        python=platform.python_version(),
        cpu=hardware.cpu_model(),
        cores=usable_cores(),
        memory=hardware.memory_bytes(),
        free_memory=hardware.free_memory_bytes(),
        governor=hardware.read_text(hardware.CPU_ROOT / "cpu0/cpufreq/scaling_governor"),
        power_mode=power_mode() if tegra else "",
        gpu_clock=gpu_clock(),
        gpus=hardware.gpus(),
        jetson=local_jetson(),
        docker=info,
        docker_fault=fault,
        docker_free=None if info is None else free_disk_of_daemon(info),
        images=images,
        left_over=left_over,
        waiting=waiting,
    )


def is_emulated() -> bool:
    """Whether arm64 programs run here on an x86 processor: `vendor_id` is a field of x86 alone. False where unknown."""
    cpuinfo = hardware.read_text(hardware.CPUINFO)
    return platform.machine() == "aarch64" and hardware.field(cpuinfo, "vendor_id") is not None


def power_mode() -> str:
    """A Jetson's power mode, by name such as `MAXN` where nvpmodel knows it, else by number."""
    try:
        argv = ["nvpmodel", "-q"]
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=ANSWER_S, check=False)
        if found := POWER_MODE.search(done.stdout):
            return printable(found[1])
    except (OSError, subprocess.SubprocessError):
        pass
    return str(hardware.state().get("power_mode", ""))


def gpu_clock() -> tuple[int, int] | None:
    """(lowest, highest) frequency in Hz that a Jetson's GPU may take; None elsewhere."""
    for folder in sorted(DEVFREQ.glob("*")) if DEVFREQ.is_dir() else []:
        if "gpu" in folder.name or "ga10b" in folder.name:
            low, high = (hardware.read_text(folder / name) for name in ("min_freq", "max_freq"))
            if low.isdigit() and high.isdigit():
                return int(low), int(high)
    return None


def daemon() -> tuple[DockerClient | None, str]:
    """(client, "") of the daemon here or at $DOCKER_HOST; (None, why) where none answers."""
    try:
        return connect(timeout=ANSWER_S), ""
    except DeckBenchError as error:
        hidden = hardware.in_container() and "DOCKER_HOST" not in os.environ
        return None, INSIDE if hidden else printable(error.what)


def images_of(client: DockerClient) -> dict[str, Any]:
    """`docker image inspect` of our images by tag."""
    return {tag: image.attrs for image in client.images.list(filters={"label": LABEL}) for tag in image.tags}


def ended_containers(client: DockerClient) -> tuple[int, int]:
    """Number of our containers that ended without being removed, and of steps whose output waits for a remote caller.

    The store helpers of remote callers end all the time, and are started again.
    """
    entries = client.api.containers(all=True, filters={"label": LABEL})  # podman knows no status `dead` to filter by
    kinds = Counter(entry["Labels"][LABEL] for entry in entries if entry["State"] in ENDED)
    return sum(kinds.values()) - kinds[REMOTE_JOB] - kinds[REMOTE_STORE], kinds[REMOTE_JOB]


def free_disk_of_daemon(info: dict[str, Any]) -> int | None:
    """Free bytes where the daemon keeps its images; None when that is not on this machine."""
    if not os.environ.get("DOCKER_HOST", "unix://").startswith("unix://"):
        return None
    with contextlib.suppress(OSError):
        return shutil.disk_usage(str(info.get("DockerRootDir", ""))).free
    return None


def emulated_architectures(folder: Path = BINFMT) -> set[str]:
    """Foreign architectures whose programs this kernel runs in containers: `arm64`, through qemu and binfmt_misc.

    Only a handler with the flag F counts: its interpreter is opened beforehand and is found inside a container too.
    """
    names = {"register", "status"}
    handlers = [path for path in folder.iterdir() if path.name not in names] if folder.is_dir() else []
    return {"arm64"} if any(is_arm64_handler(hardware.read_text(path)) for path in handlers) else set()


def is_arm64_handler(text: str) -> bool:
    """Whether one file of binfmt_misc is an enabled handler of arm64 programs, for containers too."""
    lines = text.splitlines()
    fields = {key: value for key, _, value in (line.partition(" ") for line in lines)}
    magic = fields.get("magic", "")
    # 64-bit little-endian ELF whose machine (bytes 18 and 19) is 183
    is_arm64 = magic.startswith("7f454c460201") and magic[36:40] == "b700"
    return lines[:1] == ["enabled"] and "F" in fields.get("flags:", "") and is_arm64
