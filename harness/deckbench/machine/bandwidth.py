"""How fast a device's memory can be read, as its maker publishes it; nothing here was measured.

Sources, NVIDIA's own: Jetson AGX Orin Series technical brief (204.8 GB/s, 32 GB and 64 GB); data sheets of H200
(4.8 TB/s), H100 (SXM 3.35 TB/s: 5120 bit at 2619 MHz, two transfers a clock, is 3352 GB/s; PCIe 2 TB/s: 2039 GB/s; NVL
3.9 TB/s), A100 (80 GB SXM 2039 GB/s, 80 GB PCIe 1935 GB/s, 40 GB 1555 GB/s), L40S (864 GB/s), L4 (300 GB/s), A10
(600 GB/s), RTX A6000 (768 GB/s) and T4 (320 GB/s); specifications of GeForce RTX 4090 (1008 GB/s) and 3090 (936 GB/s).
"""

from __future__ import annotations

from deckbench.machine.facts import Machine

GB_S = 1e9
# By the name that nvidia-smi gives, in whole, because names that begin alike are other GPUs.
GPUS = {
    "NVIDIA H200": 4800,
    "NVIDIA H100 80GB HBM3": 3352,
    "NVIDIA H100 NVL": 3900,
    "NVIDIA H100 PCIe": 2039,
    "NVIDIA A100-SXM4-80GB": 2039,
    "NVIDIA A100 80GB PCIe": 1935,
    "NVIDIA A100-SXM4-40GB": 1555,
    "NVIDIA A100-PCIE-40GB": 1555,
    "NVIDIA L40S": 864,
    "NVIDIA L4": 300,
    "NVIDIA A10": 600,
    "NVIDIA RTX A6000": 768,
    "NVIDIA GeForce RTX 4090": 1008,
    "NVIDIA GeForce RTX 3090": 936,
    "Tesla T4": 320,
}
BOARDS = {"Jetson AGX Orin": 204.8}


def bandwidth(machine: Machine) -> float | None:
    """Bytes per second of the memory that holds a model's weights on the GPU; None where unknown."""
    if machine.is_jetson:
        known = [value for board, value in BOARDS.items() if board in machine.board]
        return known[0] * GB_S if known else None
    value = GPUS.get(machine.gpus[0].name) if machine.gpus else None
    return None if value is None else value * GB_S
