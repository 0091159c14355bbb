"""What is known of a machine, this one or another: one schema, whoever looked and however."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deckbench.machine.jetson import Jetson, l4t_of_kernel, l4t_release

# As kernels, docker and podman call them.
ARCHITECTURES = {
    **dict.fromkeys(("x86_64", "amd64", "x64"), "amd64"),
    **dict.fromkeys(("aarch64", "arm64", "arm64v8", "arm64/v8", "armv8"), "arm64"),
}
THIS_MACHINE = "this machine"
CDI_GPU = "nvidia.com/gpu"  # kind of the devices that NVIDIA's toolkit lists to the docker daemon
# Fields of nvidia-smi's output, as `parse_gpus` reads it.
SMI = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits")
LONGEST = 200  # characters of any text that another machine sent


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi lists it. Bytes are None where it does not say: a Jetson's GPU uses the machine's memory."""

    name: str
    memory: int | None
    free: int | None
    driver: str


@dataclass(frozen=True)
class Machine:
    """A machine as seen without changing it. Sizes in bytes; text is empty and numbers are None where unknown.

    where: THIS_MACHINE, or the host. machine: as `uname -m` has it. emulated: known to be emulated by a processor of
    another architecture. tegra: first line of /etc/nv_tegra_release. gpu_clock: (lowest, highest) frequency that a
    Jetson's GPU may take now, in Hz. jetson: what a container needs of a Jetson. docker: `docker info`, None where no
    daemon answers; docker_fault then says why. docker_free: free disk where it keeps images. images: our images in the
    daemon, `docker image inspect` by tag. left_over: containers of ours that ended and were not removed; waiting:
    finished steps of remote callers whose output was not downloaded yet.
    """

    where: str
    system: str = ""
    kernel: str = ""
    machine: str = ""
    emulated: bool = False
    board: str = ""
    tegra: str = ""
    python: str = ""
    cpu: str = ""
    cores: int | None = None
    memory: int | None = None
    free_memory: int | None = None
    governor: str = ""
    power_mode: str = ""
    gpu_clock: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    jetson: Jetson = field(default_factory=Jetson)
    docker: Mapping[str, Any] | None = None
    docker_fault: str = ""
    docker_free: int | None = None
    images: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_over: int | None = None
    waiting: int | None = None

    @property
    def architecture(self) -> str:
        """`amd64`, `arm64`, or what the machine calls itself."""
        return ARCHITECTURES.get(self.machine.lower().replace("-", "_"), self.machine)

    @property
    def l4t(self) -> tuple[int, str] | None:
        """(36, "4.3") on a Jetson with L4T R36.4.3; None where there is no L4T, or its file does not say."""
        return l4t_release(self.tegra)

    @property
    def l4t_number(self) -> int | None:
        """36 with L4T R36, by its file or, where that was not read, by its kernel."""
        if self.tegra:
            return None if self.l4t is None else self.l4t[0]
        return l4t_of_kernel(self.kernel)

    @property
    def is_jetson(self) -> bool:
        return bool(self.tegra) or "Jetson" in self.board or self.kernel.endswith("-tegra")

    @property
    def has_nvidia_runtime(self) -> bool:
        """Whether the docker daemon has NVIDIA's container runtime."""
        known = (self.docker or {}).get("Runtimes")
        return isinstance(known, dict) and "nvidia" in known

    @property
    def id_mapping(self) -> str:
        """How the docker daemon maps user ids of containers: `rootless`, `userns-remap`; empty where it does not."""
        info = self.docker or {}
        options = info.get("SecurityOptions")
        names = [str(option) for option in options] if isinstance(options, list) else []
        if info.get("Rootless") is True or any("name=rootless" in name for name in names):
            return "rootless"
        return "userns-remap" if any("name=userns" in name for name in names) else ""

    @property
    def has_nvidia_devices(self) -> bool:
        """Whether NVIDIA's toolkit has listed GPUs to the docker daemon (CDI, docker 29 and later)."""
        devices = (self.docker or {}).get("DiscoveredDevices")
        listed = [one for one in devices if isinstance(one, dict)] if isinstance(devices, list) else []
        return any(str(one.get("ID", "")).startswith(f"{CDI_GPU}=") for one in listed)


def daemon_machine(info: Mapping[str, Any], gpus: tuple[Gpu, ...] = ()) -> Machine:
    """The machine of a docker daemon, as far as `docker info` describes it. gpus: as listed, if it is this one."""
    memory = info.get("MemTotal")
    return Machine(
        where=str(info.get("Name") or "the docker daemon"),
        system=str(info.get("OperatingSystem", "")),
        kernel=str(info.get("KernelVersion", "")),
        machine=str(info.get("Architecture", "")),
        memory=memory if isinstance(memory, int) and memory > 0 else None,
        gpus=gpus,
        docker=info,
    )


def is_podman(info: Mapping[str, Any]) -> bool:
    """Whether `docker info` was answered by podman."""
    return "BuildahVersion" in info


def reason_of(error: BaseException) -> str:
    """What an error says, on one line; its kind where it says nothing."""
    said = printable(getattr(error, "explanation", None)) or printable(str(error))  # docker's own errors explain
    return said or (reason_of(error.__cause__) if error.__cause__ else type(error).__name__)


def printable(text: object, longest: int = LONGEST) -> str:
    """One line without control or formatting characters, cut to `longest`: text of another machine goes to a terminal.

    Direction marks and private characters are dropped too (Unicode categories C*), and blanks become single spaces.
    What is neither text nor a number gives nothing.
    """
    if not isinstance(text, str | int | float):
        return ""
    kept = "".join(" " if char in "\t\r\n" else char for char in str(text)[: 16 * longest])
    kept = "".join(char for char in kept if not unicodedata.category(char).startswith(("C", "Zl", "Zp")))
    kept = " ".join(kept.split())
    return kept if len(kept) <= longest else kept[: longest - 1] + "…"


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """GPUs from the output of SMI. Lines of another form are left out."""
    found = []
    for line in text.splitlines():
        parts = [printable(part) for part in line.split(",")]
        if len(parts) == 4 and parts[0]:
            # a Jetson has [N/A]: its memory is the machine's
            memory, free = (int(part) << 20 if re.fullmatch(r"[0-9]{1,9}", part) else None for part in parts[1:3])
            found.append(Gpu(parts[0], memory, free, parts[3]))
    return tuple(found)
