"""What was seen of a machine, and what is said about it. The same words for this machine and for one behind ssh."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# good: there and usable. bad: there, and it stands in the way of something. absent: not there, or nobody says.
State = Literal["good", "bad", "absent"]
GB = 1e9
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
TEGRA = re.compile(r"# R(\d{1,3}) \(release\), REVISION: (\d{1,3}(?:\.\d{1,3}){0,2})(?![\w.])", re.ASCII)
INSIDE = "this is a container, and the daemon is outside"
LONGEST = 200  # characters of anything that another machine said


@dataclass(frozen=True)
class Finding:
    """One line of the report. name: what was looked at. fix: what to do about it; empty where nothing is."""

    name: str
    state: State
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi lists it. Bytes are None where it does not say: a Jetson's GPU uses the machine's memory."""

    name: str
    memory: int | None
    free: int | None
    driver: str


@dataclass(frozen=True)
class Built:
    """A container image of ours in a daemon. identity: sha256 (hex). locked: made from resolved locks only."""

    identity: str
    architecture: str
    locked: bool


@dataclass(frozen=True)
class Machine:
    """What can be seen of a machine without changing it. Bytes; text is empty and numbers are None where unknown.

    where: `this machine` or the host. machine: as `uname -m` says it. emulated: known to be acted by a processor of
    another architecture. tegra: first line of /etc/nv_tegra_release. gpu_clock: (lowest, highest) frequency that a
    Jetson's GPU may take now, in Hz. docker: what `docker info` says, None where no daemon answers, in which case
    docker_fault says why. docker_free: free disk where it keeps images. left_over: containers of ours that have ended
    and are still there; waiting: finished steps of far callers, whose output was not fetched yet.
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
    docker: Mapping[str, Any] | None = None
    docker_fault: str = ""
    docker_free: int | None = None
    images: Mapping[str, Built] = field(default_factory=dict)
    left_over: int | None = None
    waiting: int | None = None

    @property
    def architecture(self) -> str:
        """`amd64`, `arm64`, or what the machine calls itself."""
        return ARCHITECTURES.get(self.machine, self.machine)

    @property
    def l4t(self) -> tuple[int, str] | None:
        """(36, "4.3") on a Jetson with L4T R36.4.3; None where there is no L4T."""
        return tegra_release(self.tegra)

    @property
    def is_jetson(self) -> bool:
        return bool(self.tegra) or "Jetson" in self.board


def tegra_release(text: str) -> tuple[int, str] | None:
    """The release and revision in the first line of /etc/nv_tegra_release; None for any other text."""
    found = TEGRA.match(text)
    return (int(found[1]), found[2]) if found else None


def plain(text: object, longest: int = LONGEST) -> str:
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


def amount(size: float | None) -> str:
    """Bytes for people: `27.8 GB`, `12 MB`; `unknown` for None."""
    if size is None:
        return "unknown"
    return f"{size / GB:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def smi_gpus(text: str) -> tuple[Gpu, ...]:
    """GPUs from `nvidia-smi --query-gpu=name,memory.total,memory.free,driver_version --format=csv,noheader,nounits`.

    Lines of another form are left out.
    """
    found = []
    for line in text.splitlines():
        parts = [plain(part) for part in line.split(",")]
        if len(parts) == 4 and parts[0]:
            # a Jetson says [N/A]: its memory is the machine's
            memory, free = (int(part) << 20 if re.fullmatch(r"[0-9]{1,9}", part) else None for part in parts[1:3])
            found.append(Gpu(parts[0], memory, free, parts[3]))
    return tuple(found)
