#!/usr/bin/env bash
# Linux 6.18, Python 3.11: getrusage's ru_maxrss of a new process is at least what its parent held when it
# started it (exec keeps the peak of the memory before it: the parent's, by vfork or fork). A test that bounds a command's
# memory by it bounds its own. VmHWM in /proc/self/status is the process's own. Seen, and exit 1 when it changes.
set -euo pipefail
python3 - <<'PY'
import platform
import subprocess
import sys

held = b"x" * (400 << 20)
code = """
import resource
status = open("/proc/self/status").read()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, int(status.partition("VmHWM:")[2].split()[0]) >> 10)
"""
said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
maxrss, own = map(int, said.split())
print(f"Linux {platform.release()}, Python {platform.python_version()}: ru_maxrss {maxrss} MiB, VmHWM {own} MiB")
sys.exit(not (maxrss >= 400 > 100 > own))
PY
