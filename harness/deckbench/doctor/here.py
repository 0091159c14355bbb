"""This machine: what the system, nvidia-smi and the docker daemon say, and what of DeckBench is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import __version__
from deckbench.containers.identity import identity
from deckbench.doctor.facts import GB, INSIDE, Built, Finding, Gpu, Machine, amount, plain, smi_gpus
from deckbench.errors import DeckBenchError
from deckbench.machine import hardware
from deckbench.machine.daemon import LABEL, connect
from deckbench.runners.job import FAR_JOB

if TYPE_CHECKING:
    from docker import DockerClient

LOCKED = f"{LABEL}.locked"
DEVICE_TREE = Path("/sys/firmware/devicetree/base/model")
DEVFREQ = Path("/sys/class/devfreq")
DOCKERENV = Path("/.dockerenv")  # docker puts it into every container
BINFMT = Path("/proc/sys/fs/binfmt_misc")
SMI = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits"]
ANSWER_S = 10.0
POWER_MODE = re.compile(r"^NV Power Mode: (.+)$", re.MULTILINE)
LITTLE_DISK = 2 * GB  # the demo writes somewhat above 1 GB
# Optional parts: package -> what it is for, and how it is installed.
PARTS = {
    "openai": ("models behind a server", "pip install 'deckbench[endpoint]'"),
    "docker": ("container images and remote machines", "pip install 'deckbench[containers]'"),
    "uv": ("resolving the images' locks", "pip install 'deckbench[containers]'"),
    "deepspeed": ("ZeRO in training", "pip install --no-build-isolation 'deckbench[deepspeed]'"),
}
ENDED = ["created", "exited", "dead"]


def look() -> Machine:
    """This machine, at a glance of well under a second."""
    tegra = hardware.read_text(hardware.TEGRA_RELEASE)
    client, fault = daemon()
    info: dict[str, Any] | None = None
    images: dict[str, Built] = {}
    left: int | None = None
    waiting: int | None = None
    if client is not None:
        try:
            info, images, (left, waiting) = client.info(), built(client), ended(client)
        except Exception as error:  # the daemon's, requests', the socket's: it answers, and not this
            fault = plain(error)
    return Machine(
        where="this machine",
        system=hardware.system(),
        kernel=platform.release(),
        machine=platform.machine(),
        emulated=is_emulated(),
        board=hardware.read_text(DEVICE_TREE),
        tegra=tegra.partition("\n")[0],
        python=platform.python_version(),
        cpu=hardware.cpu_model(),
        cores=hardware.usable_cores(),
        memory=hardware.memory_bytes(),
        free_memory=hardware.free_memory_bytes(),
        governor=hardware.read_text(hardware.CPU_ROOT / "cpu0/cpufreq/scaling_governor"),
        power_mode=power_mode() if tegra else "",
        gpu_clock=gpu_clock(),
        gpus=nvidia_smi(),
        docker=info,
        docker_fault=fault,
        docker_free=None if info is None else disk_of_daemon(info),
        images=images,
        left_over=left,
        waiting=waiting,
    )


def nvidia_smi() -> tuple[Gpu, ...]:
    """GPUs as the driver lists them; none where there is no driver."""
    try:
        done = subprocess.run(SMI, capture_output=True, text=True, errors="replace", timeout=ANSWER_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ()
    return smi_gpus(done.stdout) if done.returncode == 0 else ()


def is_emulated() -> bool:
    """Whether arm64 programs run here on an x86 processor: `vendor_id` is a field of x86 alone. False where unknown."""
    return (
        platform.machine() == "aarch64"
        and hardware.field(hardware.read_text(hardware.CPUINFO), "vendor_id") is not None
    )


def power_mode() -> str:
    """A Jetson's power mode, by its name such as `MAXN` where nvpmodel tells it, else by its number."""
    try:
        words = ["nvpmodel", "-q"]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=ANSWER_S, check=False)
        if found := POWER_MODE.search(done.stdout):
            return plain(found[1])
    except (OSError, subprocess.SubprocessError):
        pass
    return str(hardware.state().get("power_mode", ""))


def gpu_clock() -> tuple[int, int] | None:
    """(lowest, highest) frequency in Hz that a Jetson's GPU may take; None elsewhere."""
    for folder in sorted(DEVFREQ.glob("*")) if DEVFREQ.is_dir() else []:
        if "gpu" in folder.name or "ga10b" in folder.name:
            low, high = (hardware.read_text(folder / name) for name in ("min_freq", "max_freq"))
            if low.isdigit() and high.isdigit():
                return int(low), int(high)
    return None


def daemon() -> tuple[DockerClient | None, str]:
    """(client, "") of the daemon here or at $DOCKER_HOST; (None, why) where none answers."""
    try:
        return connect(timeout=ANSWER_S), ""
    except DeckBenchError as error:
        hidden = DOCKERENV.exists() and "DOCKER_HOST" not in os.environ
        return None, INSIDE if hidden else plain(error.what)


def built(client: DockerClient) -> dict[str, Built]:
    """Our images by tag."""
    found: dict[str, Built] = {}
    for image in client.images.list(filters={"label": LABEL}):
        found |= dict.fromkeys(image.tags, inspected(image.attrs))
    return found


def inspected(attrs: Mapping[str, Any]) -> Built:
    """An image from what `docker image inspect` says of it."""
    labels = (attrs.get("Config") or {}).get("Labels") or {}
    return Built(identity(attrs), plain(attrs["Architecture"]), labels.get(LOCKED) == "true")


def ended(client: DockerClient) -> tuple[int, int]:
    """How many containers of ours have ended without being removed; how many of far callers wait to be fetched.

    The helpers of far callers (`store`) end all the time, and are started again.
    """
    entries = client.api.containers(all=True, filters={"label": LABEL, "status": ENDED})
    kinds = Counter(entry["Labels"][LABEL] for entry in entries)
    return sum(kinds.values()) - kinds[FAR_JOB] - kinds["store"], kinds[FAR_JOB]


def disk_of_daemon(info: dict[str, Any]) -> int | None:
    """Free bytes where the daemon keeps its images; None when that place is not on this machine."""
    if not os.environ.get("DOCKER_HOST", "unix://").startswith("unix://"):
        return None
    with contextlib.suppress(OSError):
        return shutil.disk_usage(str(info.get("DockerRootDir", ""))).free
    return None


def emulates(folder: Path = BINFMT) -> set[str]:
    """Foreign architectures whose programs this kernel runs in containers: `arm64`, through qemu and binfmt_misc.

    Only a handler with the flag F counts: its interpreter is opened beforehand and is found inside a container too.
    """
    found = set()
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name in {"register", "status"}:
            continue
        if runs_arm64(hardware.read_text(path)):
            found.add("arm64")
    return found


def runs_arm64(text: str) -> bool:
    """Whether one file of binfmt_misc is an enabled handler of arm64 programs for containers too."""
    lines = text.splitlines()
    fields = {key: value for key, _, value in (line.partition(" ") for line in lines)}
    magic = fields.get("magic", "")
    # 64-bit little-endian ELF whose machine (bytes 18 and 19) is 183
    is_arm64 = magic.startswith("7f454c460201") and magic[36:40] == "b700"
    return lines[:1] == ["enabled"] and "F" in fields.get("flags:", "") and is_arm64


def installed() -> list[Finding]:
    """DeckBench itself: its version, optional parts, the files that travel with it, the disk it writes to."""
    container = in_container()
    findings = [Finding("DeckBench", "good", __version__ + (f", in the container {container}" if container else ""))]
    findings.append(Finding("Python", "good", f"{platform.python_version()} ({platform.python_implementation()})"))
    findings += [part(name) for name in PARTS]
    findings += [embedded_models(), embedded_files(), disk_here()]
    return findings


def in_container() -> str:
    """Name and identity of the container image this runs in, as the runner said; empty outside."""
    with contextlib.suppress(ValueError):
        said = json.loads(os.environ.get("DECKBENCH_CONTAINER", "null"))
        if isinstance(said, dict):
            return plain(f"{said.get('name', '?')} {str(said.get('identity', ''))[:19]}")
    return ""


def part(name: str) -> Finding:
    """One optional part; it is not imported, some take seconds and some print."""
    purpose, fix = PARTS[name]
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        program = shutil.which(name) if name == "uv" else None
        if program:
            return Finding(name, "good", f"{program}; for {purpose}")
        return Finding(name, "absent", f"not installed; for {purpose}", fix)
    if importlib.util.find_spec(name) is None:
        return Finding(name, "bad", f"{version} is listed, and its files are missing", fix)
    return Finding(name, "good", f"{version}; for {purpose}")


def embedded_models() -> Finding:
    """The models that ship in the package: are all their files there and whole?"""
    from deckbench.doctor.fits import headers
    from deckbench.models.load import PACKAGED, family_of

    try:
        for folder in PACKAGED.values():
            family_of(folder)
            headers(folder)
    except DeckBenchError as error:
        return Finding("embedded models", "bad", plain(error.message()), "install deckbench again")
    return Finding("embedded models", "good", ", ".join(PACKAGED))


def embedded_files() -> Finding:
    """The tasks and container definitions that travel with the package."""
    from deckbench.containers.spec import load_images
    from deckbench.suite import load_suite

    try:
        suite, _ = load_suite("demo")
        images = load_images()
    except DeckBenchError as error:
        return Finding("embedded files", "bad", plain(error.message()), "install deckbench again")
    found = f"the suite {suite.name}, {len(images)} container definitions"
    return Finding("embedded files", "good", found)


def disk_here() -> Finding:
    """Free disk in the current folder."""
    free = shutil.disk_usage(Path.cwd()).free
    fix = "free some disk space, or work in another folder" if free < LITTLE_DISK else ""
    return Finding("disk of this folder", "bad" if fix else "good", f"{amount(free)} free", fix)
