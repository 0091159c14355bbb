"""Who started a container, and whether that process is gone: its container is then left behind, and is removed."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def read(path: str) -> str:
    """A small system file's text; empty where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def started(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None when there is no such process, or a dead one."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()  # its name stands in parentheses and may hold any
    return None if len(fields) < 20 or fields[0] in "ZX" else fields[19]


def is_hidden(pid: int) -> bool:
    """Whether a process is there that /proc does not show: another user's, where it is mounted with hidepid."""
    if read(f"/proc/{pid}/stat"):
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def here() -> tuple[str, str, str]:
    """This machine, its boot, and the namespace that process numbers belong to."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        namespace = "unknown"
    machine = read("/etc/machine-id") or socket.gethostname()
    return machine, read("/proc/sys/kernel/random/boot_id") or "unknown", namespace


def mine() -> str:
    """This process, so that any other can tell later whether it is still there."""
    return " ".join((*here(), str(os.getpid()), started(os.getpid()) or "0"))


def is_dead(owner: str) -> bool:
    """Whether a process that called itself `owner` (see `mine`) is gone for sure.

    Not of one on another machine, in another container, or hidden in /proc: they cannot be seen from here.
    """
    parts = owner.split(" ")
    if len(parts) != 5 or not parts[3].isdecimal():
        return False
    machine, boot, namespace = here()
    if parts[0] != machine:
        return False
    if parts[1] != boot:
        return True
    pid = int(parts[3])
    return parts[2] == namespace and started(pid) != parts[4] and not is_hidden(pid)
