"""Hardware and packages of the machine that this process runs on: the part of every record that says where it was
measured.

No heavy library is imported: torch is asked only when something else has loaded it. `describe` returns what stays the
same between two runs (it is hashed with a record); `state` what changes (load, temperature, clock), which is observed.
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

from deckbench.cores import usable_cores
from deckbench.machine.facts import SMI, Gpu, parse_gpus
from deckbench.machine.jetson import RELEASE_FILE, l4t_release

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
DOCKERENV = Path("/.dockerenv")  # docker puts it into every container
SMI_S = 10.0
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
    """The vector instructions torch uses here: `AVX512`, `AVX2`, `DEFAULT`, ... (torch's own names).

    Asks torch when it is loaded. Otherwise applies torch's rule (aten/src/ATen/native/DispatchStub.cpp) to
    /proc/cpuinfo: AVX512 needs f, vl, bw, dq and fma; AVX2 needs avx2 and fma; ATEN_CPU_CAPABILITY lowers it.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        with contextlib.suppress(Exception):
            return str(torch.backends.cpu.get_cpu_capability())
    limit = os.environ.get("ATEN_CPU_CAPABILITY", "").lower()
    flags = set((field(read_text(CPUINFO), "flags", "Features") or "").split())
    if limit == "default":
        return "DEFAULT"
    if flags >= AVX512 and limit != "avx2":
        return "AVX512"
    return "AVX2" if flags >= AVX2 else "DEFAULT"


def threads() -> int:
    """How many threads torch computes with: its own answer when loaded, else OMP_NUM_THREADS, else usable cores."""
    torch = sys.modules.get("torch")
    if torch is not None:
        with contextlib.suppress(Exception):
            return int(torch.get_num_threads())
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return int(limit) if limit.isdigit() and int(limit) > 0 else usable_cores()


def memory_bytes() -> int | None:
    """Physical memory in bytes, or None where the system does not say."""
    text = field(read_text(MEMINFO), "MemTotal")
    return int(text.split()[0]) * 1024 if text and text.split()[0].isdigit() else None


def memory_share() -> tuple[int, int] | None:
    """(limit of this process's cgroup, bytes in use that cannot be dropped); None where no limit is set."""
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
    """Available memory in bytes, of the machine and of this process's cgroup; None where unknown."""
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
    l4t = l4t_release(read_text(RELEASE_FILE))
    return f"{name}, L4T R{l4t[0]}.{l4t[1]}" if l4t else name


def gpus() -> tuple[Gpu, ...]:
    """GPUs as nvidia-smi lists them, since torch may be a CPU build or not loaded; none where there is no driver."""
    try:
        done = subprocess.run(SMI, capture_output=True, text=True, errors="replace", timeout=SMI_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(done.stdout) if done.returncode == 0 else ()


def accelerators() -> list[dict[str, Any]]:
    """The GPUs as a record has them: `{"name", "memory_bytes", "driver"}` each."""
    return [{"name": gpu.name, "memory_bytes": gpu.memory, "driver": gpu.driver} for gpu in gpus()]


def describe(*, device: str = "cpu", emulated: bool = False) -> dict[str, Any]:
    """The machine as a record has it, without anything that changes from minute to minute.

    Args:
        device: what the model ran on (`cpu`, `cuda:0`, ...).
        emulated: another architecture was emulated, which makes times meaningless; such a record is never ranked.
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


def whole_number(path: Path) -> int | None:
    """The whole number in a small system file; None where there is none."""
    text = read_text(path)
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None


def clock_mhz() -> float | None:
    """The mean clock of all cores now, in MHz; None where the system does not say."""
    paths = sorted(CPU_ROOT.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    clocks = [number for path in paths if (number := whole_number(path))]
    return sum(clocks) / len(clocks) / 1000 if clocks else None


def hottest_c() -> float | None:
    """The hottest thermal zone now, in degrees Celsius; None where there is none. A sensor that is off reads -256."""
    zones = [whole_number(path) for path in sorted(THERMAL_ROOT.glob("thermal_zone*/temp"))]
    return max((zone / 1000 for zone in zones if zone is not None and zone > -200_000), default=None)


def state() -> dict[str, Any]:
    """State of the machine now: load, CPU governor and clock, temperatures, power mode. What is unknown is missing."""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, AttributeError):
        found["load_1min"] = round(os.getloadavg()[0], 2)
    if governor := read_text(CPU_ROOT / "cpu0/cpufreq/scaling_governor"):
        found["governor"] = governor
    if clock := clock_mhz():
        found["clock_mhz"] = round(clock)
    if (hottest := hottest_c()) is not None:
        found["hottest_c"] = round(hottest, 1)
    if mode := re.search(r"pmode:(\S+)", read_text(Path("/var/lib/nvpmodel/status"))):
        found["power_mode"] = mode.group(1)
    return found


def packages(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions of the packages that affect results; what is not installed is left out."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def container() -> dict[str, Any] | None:
    """The image of the container that a runner started this process in: `{"name", "identity", "locked"}`; else None."""
    try:
        found = json.loads(os.environ.get("DECKBENCH_CONTAINER", "null"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def in_container() -> bool:
    """Whether this process runs in a container of docker, whoever started it."""
    return DOCKERENV.exists()
