"""Memory of this process, from the kernel."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def status_bytes(name: str) -> int | None:
    """A kB field of /proc/self/status in bytes (VmRSS now, VmHWM at its highest), or None where there is no /proc."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def reset_peak() -> bool:
    """Start the peak anew (Linux: proc(5), clear_refs 5), so that what ran before in this process is not counted."""
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """The largest resident memory since `reset_peak` worked, else since the process began."""
    found = status_bytes("VmHWM")
    if found is not None:
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
