"""Whether a job has room at a far machine, without one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deckbench.errors import OutsideError
from deckbench.machine.facts import Machine
from deckbench.runners.job import Job
from deckbench.runners.remote.capacity import check_memory

GB = 10**9


def weights(path: Path, gigabytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(gigabytes * GB)  # no block of it is written


def job_of(*inputs: Path) -> Job:
    image: Any = SimpleNamespace(name="test", memory_gib=1000)
    return Job(image, (), tuple((f"/in/{path.name}", path) for path in inputs), Path("out"), "/out/out")


def test_models_that_run_one_after_the_other_need_room_for_the_largest(tmp_path: Path) -> None:
    for name in ("a", "b"):
        weights(tmp_path / name / "model-1.safetensors", 3)
        weights(tmp_path / name / "model-2.safetensors", 3)
        weights(tmp_path / name / "model.bin", 6)
        weights(tmp_path / name / "onnx/model.onnx", 6)
    job = job_of(tmp_path / "a", tmp_path / "b")
    check_memory(job, Machine("ssh://far", free_memory=8 * GB), "ssh://far")
    with pytest.raises(OutsideError, match=r"too little memory: 7\.1 GB are needed, 7\.0 GB are available"):
        check_memory(job, Machine("ssh://far", free_memory=7 * GB), "ssh://far")
    with pytest.raises(OutsideError, match=r"may take 6 GiB of memory, its weights alone are 6\.0 GB"):
        check_memory(dataclasses.replace(job, memory_gib=6), Machine("ssh://far"), "ssh://far")
    check_memory(dataclasses.replace(job, memory_gib=7), Machine("ssh://far"), "ssh://far")
