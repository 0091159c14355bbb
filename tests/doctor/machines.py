"""Machines to assess."""

from __future__ import annotations

from dataclasses import replace

from deckbench.machine.facts import Gpu, Machine

INFO = {
    "ServerVersion": "27.3.1",
    "Driver": "overlay2",
    "CgroupVersion": "2",
    "DockerRootDir": "/var/lib/docker",
    "MemoryLimit": True,
    "PidsLimit": True,
    "Runtimes": {"runc": {}, "nvidia": {}},
    "SecurityOptions": ["name=seccomp,profile=builtin"],
    "OSType": "linux",
}
ORIN = Machine(
    where="ssh://lab@orin",
    system="Ubuntu 22.04.5 LTS",
    kernel="5.15.148-tegra",
    machine="aarch64",
    board="NVIDIA Jetson AGX Orin Developer Kit",
    tegra="# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic",
    cores=12,
    memory=64 << 30,
    free_memory=58 << 30,
    governor="schedutil",
    power_mode="MAXN",
    gpu_clock=(306_000_000, 1_300_500_000),
    gpus=(Gpu("Orin (nvgpu)", None, None, "540.4.0"),),
    docker=INFO,
    docker_free=800 * 10**9,
    left_over=0,
)
H100 = replace(
    ORIN,
    where="ssh://lab@big",
    kernel="6.8.0-45-generic",
    machine="x86_64",
    board="",
    tegra="",
    power_mode="",
    gpu_clock=None,
    gpus=(Gpu("NVIDIA H100 80GB HBM3", 80 << 30, 79 << 30, "580.1"),),
)
PLAIN = replace(H100, where="this machine", gpus=(), docker={**INFO, "Runtimes": {"runc": {}}})
