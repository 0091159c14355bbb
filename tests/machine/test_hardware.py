"""What is said about the machine: right on this one, and read right from files of others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deckbench import artifact
from deckbench.cores import usable_cores
from deckbench.machine import hardware
from deckbench.record.schema import Hardware


def test_it_fits_a_record_and_stays_the_same() -> None:
    first, second = hardware.describe(), hardware.describe()
    Hardware.model_validate(first)
    assert artifact.hash_json(first) == artifact.hash_json(second)
    assert first["cores"] >= 1 and first["memory_bytes"] > 1 << 28


def test_the_state_is_json() -> None:
    assert json.loads(json.dumps(hardware.state())) == hardware.state() or "load_1min" in hardware.state()


@pytest.mark.torch
def test_capability_is_what_torch_says_and_needs_no_torch() -> None:
    script = (
        "from deckbench.machine import hardware; import sys; mine = hardware.cpu_capability(); "
        "assert 'torch' not in sys.modules; import torch; print(mine, torch.backends.cpu.get_cpu_capability())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    mine, torchs = done.stdout.split()
    assert mine == torchs


@pytest.mark.parametrize(
    ("flags", "asked", "capability"),
    [
        ("sse avx2 fma", "", "AVX2"),
        ("sse avx2", "", "DEFAULT"),
        ("avx2 fma avx512f avx512vl avx512bw avx512dq", "", "AVX512"),
        ("avx2 fma avx512f avx512vl avx512bw avx512dq", "avx2", "AVX2"),
        ("avx2 fma avx512f avx512vl avx512bw avx512dq", "default", "DEFAULT"),
        ("avx2 fma avx512f", "", "AVX2"),
    ],
)
def test_torchs_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, asked: str, capability: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Some  CPU @ 2GHz\nflags\t\t: {flags}\n")
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", asked)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert hardware.cpu_capability() == capability
    assert hardware.cpu_model() == "Some CPU @ 2GHz"


def test_a_jetsons_release_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nv").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    (tmp_path / "os").write_text('NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n')
    monkeypatch.setattr(hardware, "RELEASE_FILE", tmp_path / "nv")
    monkeypatch.setattr(hardware, "OS_RELEASE", tmp_path / "os")
    assert hardware.system() == "Ubuntu 22.04.5 LTS, L4T R36.4.3"


def test_accelerators_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\necho "NVIDIA RTX A6000, 49140, 48000, 550.54.15"\necho "Orin (nvgpu), [N/A], [N/A], 540.4.0"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert hardware.accelerators() == [
        {"name": "NVIDIA RTX A6000", "memory_bytes": 49140 << 20, "driver": "550.54.15"},
        {"name": "Orin (nvgpu)", "memory_bytes": None, "driver": "540.4.0"},
    ]


def test_no_accelerator_where_the_tool_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.accelerators() == []


def test_threads_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert hardware.threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert hardware.threads() == usable_cores()


def test_packages_are_installed_ones() -> None:
    found = hardware.packages(("pydantic", "no-such-package"))
    assert set(found) == {"pydantic"}


def test_free_memory_is_the_smaller_of_machine_and_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo, group = tmp_path / "meminfo", tmp_path / "cgroup"
    group.mkdir()
    monkeypatch.setattr(hardware, "MEMINFO", meminfo)
    monkeypatch.setattr(hardware, "CGROUP", group)
    assert hardware.free_memory_bytes() is None
    meminfo.write_text("MemTotal:  3000 kB\nMemAvailable:  2000 kB\n")
    assert hardware.free_memory_bytes() == 2000 * 1024
    (group / "memory.current").write_text("900000\n")
    (group / "memory.max").write_text("max\n")
    assert hardware.free_memory_bytes() == 2000 * 1024
    (group / "memory.max").write_text("1000000\n")
    assert hardware.free_memory_bytes() == 100_000
    (group / "memory.stat").write_text("anon 5\ninactive_file 50000\n")
    assert hardware.free_memory_bytes() == 150_000


def test_free_memory_of_a_container_under_cgroup_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable:  2000 kB\n")
    group = tmp_path / "cgroup/memory"
    group.mkdir(parents=True)
    monkeypatch.setattr(hardware, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(hardware, "CGROUP", tmp_path / "cgroup")
    (group / "memory.usage_in_bytes").write_text("900000\n")
    (group / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 50000\n")
    (group / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert hardware.memory_share() is None and hardware.free_memory_bytes() == 2000 * 1024
    (group / "memory.limit_in_bytes").write_text("1000000\n")
    assert hardware.memory_share() == (1_000_000, 850_000)
    assert hardware.free_memory_bytes() == 150_000
