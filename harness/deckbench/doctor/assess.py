"""Assess a machine: one finding for each thing that was checked. Pure functions of `machine.facts.Machine`."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from deckbench.containers.identity import identity, is_locked
from deckbench.containers.lock import missing_locks
from deckbench.containers.spec import Image
from deckbench.doctor.finding import GB, Finding, State
from deckbench.machine.daemon import NO_MAPPING, fix_of
from deckbench.machine.facts import ARCHITECTURES, Machine, is_podman, printable
from deckbench.machine.local import INSIDE
from deckbench.progress import format_bytes

LITTLE_MEMORY = 4 * GB  # the demo's trainings take about 2 GB
LITTLE_DISK = 5 * GB  # below it not even a CPU image can be built
THOR = 38  # L4T R38 is JetPack 7.0 and 7.1, for Jetson Thor alone
FLASH = "flash JetPack 6.x (L4T R36)"
OLD_R36 = 4  # L4T R36 before revision 4 is JetPack 6.0, with CUDA 12.2


def machine_findings(machine: Machine) -> list[Finding]:
    """The machine itself: system, processor, memory, GPU driver, Jetson."""
    system = " ".join(part for part in (machine.system, machine.kernel, machine.machine) if part)
    system += ", emulated: times are meaningless here" if machine.emulated else ""
    cpu = ", ".join(part for part in (machine.cpu, f"{machine.cores} cores" if machine.cores else "") if part)
    findings = [Finding("system", "good", system), Finding("processor", "good" if cpu else "absent", cpu or "unknown")]
    if machine.governor:
        fixed = machine.governor == "performance"
        fix = "" if fixed else "before measuring latency: `sudo cpupower frequency-set -g performance`"
        findings.append(Finding("CPU governor", "good" if fixed else "bad", machine.governor, fix))
    else:
        findings.append(Finding("CPU governor", "absent", "the system does not say"))
    findings.append(memory(machine))
    findings += gpu_driver(machine)
    findings += jetson(machine) if machine.is_jetson else []
    return findings


def memory(machine: Machine) -> Finding:
    """Available memory, of the machine and of this process's cgroup."""
    if machine.memory is None or machine.free_memory is None:
        return Finding("memory", "absent", "the system does not say")
    little = machine.free_memory < LITTLE_MEMORY
    found = f"{format_bytes(machine.free_memory)} of {format_bytes(machine.memory)} free"
    return Finding("memory", "bad" if little else "good", found, "end other programs" if little else "")


def gpu_driver(machine: Machine) -> list[Finding]:
    """NVIDIA's driver and the GPUs it lists."""
    if not machine.gpus:
        return [Finding("NVIDIA driver", "absent", "nvidia-smi lists no GPU")]
    driver = machine.gpus[0].driver
    listed = [f"{gpu.name}" + (f" ({format_bytes(gpu.memory)})" if gpu.memory else "") for gpu in machine.gpus]
    return [Finding("NVIDIA driver", "good", f"{driver}: {', '.join(listed)}")]


def jetson(machine: Machine) -> list[Finding]:
    """L4T, power mode and clocks of a Jetson."""
    findings = [Finding("board", "good" if machine.board else "absent", printable(machine.board) or "unknown")]
    findings.append(release(machine))
    mode = machine.power_mode
    findings.append(Finding("power mode", "good" if mode else "absent", mode or "nvpmodel does not say"))
    if machine.gpu_clock is None:
        findings.append(Finding("GPU clock", "absent", "the system does not say"))
    else:
        low, high = machine.gpu_clock
        fixed = f"fixed at {high / 1e6:.0f} MHz"
        varying = f"varies between {low / 1e6:.0f} and {high / 1e6:.0f} MHz"
        fix = "" if low == high else "before measuring latency: `sudo jetson_clocks`"
        findings.append(Finding("GPU clock", "good" if low == high else "bad", varying if fix else fixed, fix))
    return findings


def release(machine: Machine) -> Finding:
    """L4T: supported are R36 (JetPack 6) and R39 (JetPack 7.2)."""
    known = machine.l4t
    if known is None:
        return Finding("L4T", "bad", "/etc/nv_tegra_release does not say which release this is", FLASH)
    number, revision = known
    found = f"R{number}.{revision}"
    if number == 36 and int(revision.partition(".")[0]) < OLD_R36:
        fix = "update to JetPack 6.1 or later; the image is made for its CUDA 12.6"
        return Finding("L4T", "bad", f"{found}, JetPack 6.0", fix)
    if number in (36, 39):
        return Finding("L4T", "good", f"{found}, JetPack {'6' if number == 36 else '7.2'}")
    if number == THOR:
        return Finding("L4T", "bad", f"{found} is not supported: it is for Jetson Thor alone", f"on an Orin, {FLASH}")
    age = "older than what is supported" if number < 36 else "not known here"
    return Finding("L4T", "bad", f"{found} is {age} (R36 and R39 are)", FLASH)


def daemon_findings(machine: Machine) -> list[Finding]:
    """The docker daemon: version, where it keeps images, what it can limit, its runtimes, left-over containers."""
    info = machine.docker
    if info is None:
        host = machine.where if machine.where.startswith("ssh://") else None
        fix = "pip install 'deckbench[containers]'" if "package docker" in machine.docker_fault else fix_of(host)
        fix = "" if machine.docker_fault == INSIDE else fix
        fix = "unset DOCKER_HOST" if "DOCKER_HOST" in machine.docker_fault else fix
        return [Finding("docker daemon", "absent", machine.docker_fault or "none answers", fix)]
    version = printable(info.get("ServerVersion", "?"))
    parts = [
        version,
        f"storage {printable(info.get('Driver', '?'))}",
        f"cgroup v{printable(info.get('CgroupVersion', '?'))}",
    ]
    mapped = machine.id_mapping
    parts = [f"podman {version}", *parts[1:]] if is_podman(info) else parts
    if mapped:
        found = f"{', '.join([*parts, mapped])}: it maps user ids, so files that a step writes would not be yours"
        findings = [Finding("docker daemon", "bad", found, NO_MAPPING)]
    else:
        findings = [Finding("docker daemon", "good", ", ".join([*parts, "as root"]))]
    if machine.docker_fault:
        found = f"the daemon does not list images and containers: {machine.docker_fault}"
        findings.append(Finding("docker images", "bad", found, "run `docker ps --all` and see what it says"))
    findings += [container_limits(info), nvidia_runtime(machine), docker_disk(machine)]
    if machine.left_over:
        found = f"{machine.left_over} containers of DeckBench have ended and were not removed"
        findings.append(Finding("left behind", "bad", found, "deckbench containers prune"))
    if machine.waiting:
        found = f"{machine.waiting} steps have ended; rerun their commands to download the output"
        findings.append(Finding("waiting to be fetched", "good", found))
    return findings


def container_limits(info: Mapping[str, Any]) -> Finding:
    """Whether the daemon can limit the memory and the number of processes of a container."""
    missing = [name for key, name in (("MemoryLimit", "memory"), ("PidsLimit", "processes")) if not info.get(key)]
    if missing:
        fix = "use cgroup version 2 with these controllers delegated to the daemon"
        return Finding("container limits", "bad", f"the daemon cannot limit {' or '.join(missing)}", fix)
    return Finding("container limits", "good", "memory and processes")


def has_nvidia(machine: Machine) -> bool:
    """Whether the daemon can give containers NVIDIA's GPUs."""
    return machine.has_nvidia_runtime or machine.has_nvidia_devices


def nvidia_runtime(machine: Machine) -> Finding:
    """NVIDIA's container runtime: needed where there is a GPU."""
    has_gpu = bool(machine.gpus) or machine.is_jetson
    if has_nvidia(machine):
        return Finding("nvidia runtime", "good", "the daemon has it")
    if not has_gpu:
        return Finding("nvidia runtime", "absent", "not there, and no GPU either")
    fix = "install nvidia-container-toolkit, `sudo nvidia-ctk runtime configure --runtime=docker`, restart docker"
    return Finding("nvidia runtime", "bad", "the daemon does not have it, so containers see no GPU", fix)


def docker_disk(machine: Machine) -> Finding:
    """Free disk where the daemon keeps images and uploaded inputs."""
    root = printable((machine.docker or {}).get("DockerRootDir", ""))
    if machine.docker_free is None:
        return Finding("disk of docker", "absent", f"unknown ({root or 'the daemon does not say where'})")
    little = machine.docker_free < LITTLE_DISK
    fix = "free disk space there; `docker system df` lists what takes it" if little else ""
    return Finding(
        "disk of docker", "bad" if little else "good", f"{format_bytes(machine.docker_free)} free at {root}", fix
    )


def suits(machine: Machine, image: Image) -> bool:
    """Whether an image is for this machine: its architecture, its kind of GPU, its L4T release."""
    if image.architecture != machine.architecture:
        return False
    if image.gpu == "jetson":
        return machine.l4t is not None and image.l4t == f"R{machine.l4t[0]}"
    return image.gpu == "none" or (bool(machine.gpus) and not machine.is_jetson)


def image_findings(machine: Machine, images: Mapping[str, Image], emulated: Set[str]) -> list[Finding]:
    """One line for each image of containers.toml: built or not, locked or not, and whether this machine runs it.

    emulated: architectures that this machine can run besides its own.
    """
    return [image_finding(machine, image, emulated) for image in images.values()]


def image_finding(machine: Machine, image: Image, emulated: Set[str]) -> Finding:
    name, attrs = f"image {image.name}", machine.images.get(image.tag)
    if suits(machine, image):
        place = "runs here"
    elif image.architecture == machine.architecture:
        place = f"for {target_of(image)}"
    elif image.architecture in emulated:
        place = f"for {target_of(image)}; here under emulation, for packaging only"
    else:
        place = f"for {target_of(image)}; {image.architecture} does not run here"
    built = None if attrs is None else inspect(attrs)
    if built is None:
        known = lock_state(image)
        fix = f"deckbench containers build {image.name}" if suits(machine, image) else ""
        return Finding(name, "absent", f"not built, {known}; {place}", fix)
    digest, architecture, locked = built
    if ARCHITECTURES.get(architecture, architecture) != image.architecture:
        found = f"{digest[:12]} is {architecture or 'of no architecture'}, not {image.architecture}"
        return Finding(name, "bad", found, f"deckbench containers build {image.name}")
    state: State = "good" if locked else "bad"
    fix = "" if locked else f"for records that are published: deckbench containers lock {image.name}, then build"
    return Finding(name, state, f"{digest[:12]}, {'locked' if locked else 'unlocked'}; {place}", fix)


def inspect(attrs: Mapping[str, Any]) -> tuple[str, str, bool] | None:
    """(identity, architecture, built from locks alone) of an image as a daemon describes it; None for what is none."""
    try:
        return identity(attrs), printable(attrs["Architecture"]), is_locked(attrs)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # of a remote daemon: may hold anything
        return None


def lock_state(image: Image) -> str:
    """`locked` where the image has locks for one kind of base at least; else what is missing."""
    missing = [missing_locks(image, base) for base in ("registry", "bootstrap")]
    return "locked" if [] in missing else f"not locked ({min(missing, key=len)[0]})"


def target_of(image: Image) -> str:
    """What kind of machine an image is for."""
    if image.gpu == "jetson":
        return f"a Jetson with L4T {image.l4t}"
    return f"{image.architecture} with an NVIDIA GPU" if image.gpu == "devices" else image.architecture


def emulation(machine: Machine, emulated: Set[str]) -> Finding:
    """Programs of arm64 on an x86 machine: what `--emulate` needs."""
    if machine.architecture == "arm64":
        if machine.emulated:
            return Finding("arm64 emulation", "good", "this is it")
        return Finding("arm64 emulation", "good", "not needed: this machine is arm64")
    if "arm64" in emulated:
        return Finding("arm64 emulation", "good", "qemu is registered for containers (binfmt_misc)")
    fix = "Debian: apt-get install qemu-user-static binfmt-support"
    return Finding("arm64 emulation", "absent", "not registered, or not for containers (flag F)", fix)


def can_run(machine: Machine, images: Mapping[str, Image]) -> bool:
    """Whether a container of ours can run on this machine once its image is there: a daemon, an image that suits."""
    if machine.docker is None or machine.docker.get("OSType", "linux") != "linux" or machine.id_mapping:
        return False
    fitting = [image for image in images.values() if suits(machine, image)]
    return any(image.gpu == "none" or has_nvidia(machine) for image in fitting)
