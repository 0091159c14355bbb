"""Identity of the process that started a container, so that any other can tell later whether it is gone."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from deckbench.machine.hardware import read_text


def start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None when there is no such process, or a dead one."""
    fields = (
        read_text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    )  # its name stands in parentheses and may hold any
    return None if len(fields) < 20 or fields[0] in "ZX" else fields[19]


def is_hidden(pid: int) -> bool:
    """Whether a process exists that /proc does not show: another user's, where it is mounted with hidepid."""
    if read_text(Path(f"/proc/{pid}/stat")):
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def host_identity() -> tuple[str, str, str]:
    """(machine, boot, namespace that process numbers belong to)."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        namespace = "unknown"
    machine = read_text(Path("/etc/machine-id")) or socket.gethostname()
    return machine, read_text(Path("/proc/sys/kernel/random/boot_id")) or "unknown", namespace


def own_identity() -> str:
    """The identity of this process, for `is_dead`."""
    return " ".join((*host_identity(), str(os.getpid()), start_time(os.getpid()) or "0"))


def is_dead(owner: str) -> bool:
    """Whether the process with this identity has ended for certain.

    False for one on another machine, in another container, or hidden in /proc: these cannot be seen from here.
    """
    parts = owner.split(" ")
    if len(parts) != 5 or not parts[3].isdecimal():
        return False
    machine, boot, namespace = host_identity()
    if parts[0] != machine:
        return False
    if parts[1] != boot:
        return True
    pid = int(parts[3])
    return parts[2] == namespace and start_time(pid) != parts[4] and not is_hidden(pid)
