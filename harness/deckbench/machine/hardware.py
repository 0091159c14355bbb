"""What this machine is and which packages run on it: the part of every record that says where it was measured.

Nothing here imports a heavy library: torch is asked only when something else has loaded it already. `describe` gives
what stays the same between two runs (it is hashed with a record); `state` gives what changes (load, temperature,
clock), which is only ever observed.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "accelerate",
    "deckbench",
    "imagehash",
    "jinja2",
    "numpy",
    "onnxruntime",
    "openai",
    "opentrons-shared-data",
    "pandas",
    "peft",
    "pillow",
    "pydantic",
    "safetensors",
    "scipy",
    "tensorrt",
    "tokenizers",
    "torch",
    "transformers",
)
CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # of a container: version 2, or version 1 with a folder for memory
NO_LIMIT = 1 << 60  # version 1 writes a number near 2**63 where there is no limit
OS_RELEASE = Path("/etc/os-release")
TEGRA_RELEASE = Path("/etc/nv_tegra_release")
CPU_ROOT = Path("/sys/devices/system/cpu")
THERMAL_ROOT = Path("/sys/class/thermal")
AVX512 = {"avx512f", "avx512vl", "avx512bw", "avx512dq", "fma"}
AVX2 = {"avx2", "fma"}


def read_text(path: Path) -> str:
    """A small system file's text, stripped; empty when it cannot be read (it differs between machines)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")
    except OSError:
        return ""


def field(text: str, *names: str) -> str | None:
    """The first `name : value` of a /proc file among `names`, or None."""
    for name in names:
        if found := re.search(rf"^{re.escape(name)}[ \t]*:[ \t]*(.+)$", text, re.MULTILINE):
            return found.group(1).strip()
    return None


def cpu_model() -> str:
    """The processor's name as the system gives it, e.g. `AMD EPYC 7B13`."""
    text = read_text(CPUINFO)
    name = field(text, "model name", "Model", "Hardware") or read_text(Path("/proc/device-tree/model"))
    return " ".join((name or platform.processor() or platform.machine() or "unknown").split())


def cpu_capability() -> str:
    """The vector instructions torch uses here: `AVX512`, `AVX2`, `DEFAULT`, ... (torch's own words).

    Asks torch when it is loaded. Otherwise applies torch's rule (aten/src/ATen/native/DispatchStub.cpp) to
    /proc/cpuinfo: AVX512 needs f, vl, bw, dq and fma; AVX2 needs avx2 and fma; ATEN_CPU_CAPABILITY lowers it.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        with contextlib.suppress(Exception):
            return str(torch.backends.cpu.get_cpu_capability())
    asked = os.environ.get("ATEN_CPU_CAPABILITY", "").lower()
    flags = set((field(read_text(CPUINFO), "flags", "Features") or "").split())
    if asked == "default":
        return "DEFAULT"
    if flags >= AVX512 and asked != "avx2":
        return "AVX512"
    return "AVX2" if flags >= AVX2 else "DEFAULT"


def threads() -> int:
    """How many threads torch computes with: its own answer when loaded, else OMP_NUM_THREADS, else usable cores."""
    torch = sys.modules.get("torch")
    if torch is not None:
        with contextlib.suppress(Exception):
            return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else usable_cores()


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Physical memory in bytes, or None where the system does not say."""
    text = field(read_text(MEMINFO), "MemTotal")
    return int(text.split()[0]) * 1024 if text and text.split()[0].isdigit() else None


def memory_share() -> tuple[int, int] | None:
    """(most bytes this process's container may hold, bytes it holds that cannot be dropped); None: no limit is set."""
    root, limit_name, used_name, cached_name = CGROUP, "memory.max", "memory.current", "inactive_file"
    if not (root / limit_name).is_file():
        root, limit_name, used_name = CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        cached_name = "total_inactive_file"
    limit, used = (read_text(root / name) for name in (limit_name, used_name))
    if not limit.isdigit() or not used.isdigit() or int(limit) >= NO_LIMIT:
        return None
    cached = re.search(rf"^{cached_name} (\d+)$", read_text(root / "memory.stat"), re.MULTILINE)
    return int(limit), max(0, int(used) - (int(cached[1]) if cached else 0))


def free_memory_bytes() -> int | None:
    """Bytes that can still be taken, of the machine's memory and of this process's share; None where nobody says."""
    text = field(read_text(MEMINFO), "MemAvailable")
    free = int(text.split()[0]) * 1024 if text and text.split()[0].isdigit() else None
    share = memory_share()
    if share is None:
        return free
    left = max(0, share[0] - share[1])
    return left if free is None else min(free, left)


def system() -> str:
    """The operating system's name and release, e.g. `Debian GNU/Linux 12 (bookworm)`, and a Jetson's L4T release."""
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)"?', read_text(OS_RELEASE), re.MULTILINE)
    name = found.group(1) if found else f"{platform.system()} {platform.release()}"
    tegra = re.match(r"# (R\d+) \(release\), REVISION: ([\d.]+)", read_text(TEGRA_RELEASE))
    return f"{name}, L4T {tegra.group(1)}.{tegra.group(2)}" if tegra else name


def accelerators() -> list[dict[str, Any]]:
    """GPUs as `{"name", "memory_bytes", "driver"}`; asks nvidia-smi, since torch may be a CPU build or not loaded."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in done.stdout.splitlines() if done.returncode == 0 else []:
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3:
            memory = int(parts[1]) * 1024 * 1024 if parts[1].isdigit() else None  # a Jetson says [N/A]: shared memory
            found.append({"name": parts[0], "memory_bytes": memory, "driver": parts[2]})
    return found


def describe(*, device: str = "cpu", emulated: bool = False) -> dict[str, Any]:
    """The machine, without anything that changes from minute to minute.

    device: what the model ran on (`cpu`, `cuda:0`, ...). emulated: true when another architecture was emulated, which
    makes times meaningless; such a record is never ranked.
    """
    return {
        "device": device,
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "capability": cpu_capability(),
        "cores": usable_cores(),
        "threads": threads(),
        "memory_bytes": memory_bytes(),
        "os": system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "accelerators": accelerators(),
        "emulated": emulated or os.environ.get("DECKBENCH_EMULATED") == "1",
    }


def state() -> dict[str, Any]:
    """What the machine was doing: load, CPU governor and clock, temperatures, power mode. Missing where not known."""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, AttributeError):
        found["load_1min"] = round(os.getloadavg()[0], 2)
    if governor := read_text(CPU_ROOT / "cpu0/cpufreq/scaling_governor"):
        found["governor"] = governor
    clock = read_text(CPU_ROOT / "cpu0/cpufreq/scaling_cur_freq")
    if clock.isdigit():
        found["clock_mhz"] = int(clock) // 1000
    hottest = []
    for zone in sorted(THERMAL_ROOT.glob("thermal_zone*")) if THERMAL_ROOT.is_dir() else []:
        text = read_text(zone / "temp")
        if text.lstrip("-").isdigit():
            hottest.append(int(text) / 1000)
    if hottest:
        found["hottest_c"] = round(max(hottest), 1)
    if mode := re.search(r"pmode:(\S+)", read_text(Path("/var/lib/nvpmodel/status"))):
        found["power_mode"] = mode.group(1)
    return found


def packages(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions of the packages that decide a result; what is not installed is left out."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def container() -> dict[str, Any] | None:
    """The container image this process runs in, as its runner says: `{"name", "identity", "locked"}`; None outside."""
    try:
        found = json.loads(os.environ.get("DECKBENCH_CONTAINER", "null"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
