"""The Jetson: its L4T release, and what a container needs of it besides the nvidia runtime."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

RELEASE_FILE = Path("/etc/nv_tegra_release")
FILES = (str(RELEASE_FILE), "/var/lib/nvpmodel")  # what `hardware` reads of a Jetson: release and power mode
DEVICES = ("/dev/nvmap", "/dev/nvhost-ctrl", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0/ctrl", "/dev/dri/renderD128")
RELEASE = re.compile(r"# R(\d{1,3}) \(release\), REVISION: (\d{1,3}(?:\.\d{1,3}){0,2})(?![\w.])", re.ASCII)
KERNELS = {"5.15.": 36, "6.8.": 39}  # of the releases that images are made for


@dataclass(frozen=True)
class Jetson:
    """files: those of FILES that exist. groups: ids of those that may use the GPU's devices, without root's."""

    files: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()


def l4t_release(text: str) -> tuple[int, str] | None:
    """(release, revision) from the first line of /etc/nv_tegra_release; None for any other text."""
    found = RELEASE.match(text)
    return (int(found[1]), found[2]) if found else None


def l4t_of_kernel(kernel: str) -> int | None:
    """The release of a Jetson's kernel, such as 36 for 5.15.148-tegra; None for any other."""
    numbers = [number for start, number in KERNELS.items() if kernel.startswith(start) and kernel.endswith("-tegra")]
    return numbers[0] if numbers else None


def local_jetson() -> Jetson:
    """What of a Jetson exists on this machine."""
    files = tuple(name for name in FILES if Path(name).exists())
    return Jetson(files, device_groups(Path(name).stat().st_gid for name in DEVICES if Path(name).exists()))


def device_groups(groups: Iterable[int]) -> tuple[int, ...]:
    """Each once, sorted, without root's."""
    return tuple(sorted({*groups} - {0}))
