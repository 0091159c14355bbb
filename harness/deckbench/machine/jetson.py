"""What a step in a container needs of the Jetson it runs on, besides the nvidia runtime."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FILES = ("/etc/nv_tegra_release", "/var/lib/nvpmodel")  # what `hardware` reads of a Jetson: release and power mode
DEVICES = ("/dev/nvmap", "/dev/nvhost-ctrl", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0/ctrl", "/dev/dri/renderD128")
# Answers to these shell words are read by `told`; what is not there is left out.
WORDS = f"ls -d {' '.join(FILES)} 2>/dev/null; stat -c 'group %g' {' '.join(DEVICES)} 2>/dev/null"


@dataclass(frozen=True)
class Jetson:
    """files: those of FILES that are there. groups: those that may use the GPU's devices, without root's."""

    files: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()


def told(said: str) -> Jetson:
    """The Jetson that answered WORDS with `said`, among other lines."""
    files = tuple(name for name in FILES if re.search(rf"^{re.escape(name)}$", said, re.MULTILINE))
    return Jetson(files, known_groups(int(group) for group in re.findall(r"^group (\d+)$", said, re.MULTILINE)))


def here() -> Jetson:
    """This machine."""
    files = tuple(name for name in FILES if Path(name).exists())
    return Jetson(files, known_groups(Path(name).stat().st_gid for name in DEVICES if Path(name).exists()))


def known_groups(groups: Iterable[int]) -> tuple[int, ...]:
    """Each once, sorted, without root's."""
    return tuple(sorted({*groups} - {0}))
