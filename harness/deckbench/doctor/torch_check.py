"""torch and torchvision on this machine, checked in a process of their own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench.doctor.finding import Finding
from deckbench.extras import install_command
from deckbench.machine.facts import printable
from deckbench.progress import format_bytes, say

PROGRAM = Path(__file__).with_name("torch_probe.py")
QUIET_S = 2.0  # before a message says what is waited for
LONGEST_S = 180.0  # an emulated machine takes a minute to load torch


@dataclass(frozen=True)
class TorchCheck:
    """The process's output, a map for each line, and its exit code (None: it had to be killed)."""

    parts: Sequence[Mapping[str, Any]]
    code: int | None

    def of(self, part: str) -> list[Mapping[str, Any]]:
        return [one for one in self.parts if one.get("part") == part]

    @property
    def loads(self) -> bool:
        """Whether torch loads."""
        return any("version" in one for one in self.of("torch"))

    @property
    def is_absent(self) -> bool:
        """Whether torch is not installed: datasets, scores and reports need none."""
        return any(one.get("absent") for one in self.of("torch"))

    @property
    def gpu_free(self) -> int | None:
        """Free bytes of the first GPU that torch can use, None without one."""
        usable = [one for one in self.of("gpu") if not one["fault"]]
        return int(usable[0]["free"]) if usable else None


def start() -> subprocess.Popen[bytes]:
    """Start the process; loading torch takes a second or two, in which the rest is checked."""
    return subprocess.Popen([sys.executable, str(PROGRAM)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def collect(process: subprocess.Popen[bytes]) -> TorchCheck:
    """Wait for the answer, LONGEST_S at most."""
    try:
        output, _ = process.communicate(timeout=QUIET_S)
    except subprocess.TimeoutExpired:
        say("waiting for torch to load ...")
        try:
            output, _ = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            return TorchCheck(parse(output), None)
    return TorchCheck(parse(output), process.returncode)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill the process if it still runs: another check failed, or the user interrupted."""
    if process.poll() is None:
        process.kill()
        process.communicate()


def parse(output: bytes) -> list[dict[str, Any]]:
    """The JSON objects among the lines; anything else that a library prints is left out."""
    parts = []
    for line in output.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            one = json.loads(line)
            if isinstance(one, dict) and "part" in one:
                parts.append(one)
    return parts


def ending(code: int | None) -> str:
    """How a process ended whose output is incomplete."""
    if code is None:
        return f"no answer within {LONGEST_S:.0f} s"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"the process was killed by {signal.Signals(-code).name}"
    return f"the process ended with {code}"


def findings(check: TorchCheck) -> list[Finding]:
    """Findings on torch, its GPUs and torchvision."""
    again = "pip install --force-reinstall 'torch>=2.4', then check `python -c 'import torch'`"
    if not check.loads:
        parts = check.of("torch")
        if check.is_absent:
            return [Finding("torch", "absent", "not installed; for models on this machine", install_command("models"))]
        why = printable(parts[0]["fault"]) if parts else ending(check.code)
        return [Finding("torch", "bad", f"does not load: {why}", again)]
    one = check.of("torch")[0]
    build = f"for CUDA {one['cuda']}" if one["cuda"] else "for CPU alone"
    found = f"{one['version']}, built {build}, CPU capability {one['capability']}, {one['threads']} threads"
    return [Finding("torch", "good", found), *gpus(check, one["cuda"]), torchvision(check)]


def gpus(check: TorchCheck, build: str | None) -> list[Finding]:
    """One line for each GPU that torch sees, with the result of an operation computed on it."""
    seen = check.of("gpu")
    if not seen and check.code != 0 and not check.of("torchvision"):
        fix = "check `nvidia-smi`; install the torch built for this driver's CUDA"
        return [Finding("CUDA", "bad", f"asking for GPUs failed: {ending(check.code)}", fix)]
    if not seen:
        return [Finding("CUDA", "absent", "torch sees no GPU" if build else "this torch is built without CUDA")]
    lines = []
    for number, gpu in enumerate(seen):
        name = f"CUDA {number}: {printable(gpu['name'])}"
        if gpu["fault"]:
            fix = "install the torch built for this GPU and this driver's CUDA"
            lines.append(Finding(name, "bad", f"an operation failed: {printable(gpu['fault'])}", fix))
        else:
            found = f"computes; {format_bytes(gpu['free'])} of {format_bytes(gpu['memory'])} free"
            lines.append(Finding(name, "good", found))
    return lines


def torchvision(check: TorchCheck) -> Finding:
    """torchvision: only some models of the `auto` family need it; a broken one breaks transformers' imports."""
    parts = check.of("torchvision")
    fix = "uninstall it (DeckBench's own families do not need it), or install the one built for this torch"
    if not parts:
        return Finding("torchvision", "bad", f"does not load: {ending(check.code)}", fix)
    if parts[0].get("absent"):
        return Finding("torchvision", "absent", "not installed; only some models of the `auto` family need it")
    if "version" in parts[0]:
        return Finding("torchvision", "good", str(parts[0]["version"]))
    return Finding("torchvision", "bad", f"does not load beside this torch: {printable(parts[0]['fault'])}", fix)
