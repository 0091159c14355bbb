"""This machine simulating a Jetson AGX Orin behind ssh: a real sshd on the loopback, in a mount namespace of its own
where the files that say what the machine is are those of an Orin, and beside it a docker daemon with a runtime called
nvidia. The programs that ask hardware (uname, df, nvpmodel, nvidia-smi) are stand-ins. DeckBench is told nothing of it.

It is not another computer: nothing of CUDA can be tried. Needs root, unshare, openssh-server and dockerd.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("unshare", "mount", "sshd", "ssh", "ssh-keygen", "dockerd", "docker", "runc")
START_S = 60
TEGRA = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025"
)
PROGRAMS = {
    "uname": 'case "$1" in -m) echo aarch64;; -r) echo 5.15.148-tegra;; esac',
    "nproc": "echo 12",
    "nvpmodel": "echo 'NV Power Mode: MAXN'; echo 0",
    "nvidia-smi": "echo 'Orin (nvgpu), [N/A], [N/A], 540.4.0'",
    "df": "echo header; echo '/dev/nvme0n1p1 983379464 100000000 883379464 11% /'",
}


def program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def missing() -> str | None:
    """Why nothing can be simulated here, or None."""
    if os.geteuid() != 0:
        return "a mount namespace needs root"
    if lacking := [tool for tool in TOOLS if program(tool) is None]:
        return f"not installed: {', '.join(lacking)}"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        return "no mount namespace can be made here"
    return None


@dataclass
class SimulatedOrin:
    """host: for --host, with DECKBENCH_SSH_CONFIG set to ssh_config. etc: what lies over /etc there."""

    host: str
    ssh_config: Path
    etc: Path
    bin: Path
    docker_host: str


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def write_programs(folder: Path) -> None:
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)


def write_files(folder: Path) -> None:
    """What a Jetson has in /etc, /proc and /sys."""
    (folder / "etc").mkdir()
    (folder / "etc/nv_tegra_release").write_text(f"{TEGRA}\n# KERNEL_VARIANT: oot\n")
    (folder / "etc/os-release").write_text('NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n')
    (folder / "etc/shadow").write_text("root:*:19000:0:99999:7:::\n")  # a locked account may not log in
    (folder / "meminfo").write_text("MemTotal:       64349988 kB\nMemFree: 1 kB\nMemAvailable:   60123456 kB\n")
    (folder / "firmware/devicetree/base").mkdir(parents=True)
    (folder / "firmware/devicetree/base/model").write_bytes(b"NVIDIA Jetson AGX Orin Developer Kit\0")
    gpu = folder / "class/devfreq/17000000.gpu"
    gpu.mkdir(parents=True)
    (gpu / "min_freq").write_text("306000000\n")
    (gpu / "max_freq").write_text("1300500000\n")


def wait(ready: Path | int, what: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a socket file or a port answers."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        family, address = (
            (socket.AF_INET, ("127.0.0.1", ready)) if isinstance(ready, int) else (socket.AF_UNIX, str(ready))
        )
        with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.connect(address)
            return
        time.sleep(0.1)
    raise RuntimeError(f"{what} did not start: {log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def running(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program for as long as the block lasts, ended by its own number."""
    with log.open("wb") as file:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[str]:
    """A docker daemon of its own, with a runtime called nvidia, which is runc; its address."""
    folder.mkdir()
    address = folder / "d.sock"
    words = [str(program("dockerd")), "-H", f"unix://{address}", "--add-runtime", f"nvidia={program('runc')}"]
    words += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
    words += ["--bridge=none", "--iptables=false", "--storage-driver=vfs"]
    with running(words, folder / "log") as process:
        wait(address, "dockerd", process, folder / "log")
        yield f"unix://{address}"


@contextlib.contextmanager
def simulated_orin(folder: Path) -> Iterator[SimulatedOrin]:
    """The Orin, in `folder`, whose path must be short: a socket lies in it."""
    write_programs(folder / "bin")
    write_files(folder)
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True, capture_output=True)
    port = free_port()
    with daemon(folder / "d") as docker_host:
        (folder / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"PermitRootLogin prohibit-password\nPidFile none\n"
            f"SetEnv PATH={folder}/bin:/usr/bin:/bin DOCKER_HOST={docker_host}\n"
        )
        (folder / "start.sh").write_text(
            "set -e\n"
            f"mount -t overlay overlay -o lowerdir={folder}/etc:/etc /etc\n"
            f"mount --bind {folder}/meminfo /proc/meminfo\n"
            f"mount --bind {folder}/class /sys/class\n"
            f"mount --bind {folder}/firmware /sys/firmware\n"
            "mount -t tmpfs tmpfs /run\nmkdir /run/sshd\n"
            f"exec {program('sshd')} -D -e -f {folder}/sshd_config\n"
        )
        key = (folder / "host.pub").read_text().split()[:2]
        (folder / "known").write_text(f"[127.0.0.1]:{port} {' '.join(key)}\n")
        config = folder / "config"
        config.write_text(
            f"Host orin\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  IdentityFile {folder}/user\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n  StrictHostKeyChecking yes\n"
        )
        words = ["unshare", "--mount", "--propagation", "private", "sh", f"{folder}/start.sh"]
        with running(words, folder / "sshd.log") as process:
            wait(port, "sshd", process, folder / "sshd.log")
            yield SimulatedOrin("ssh://orin", config, folder / "etc", folder / "bin", docker_host)
