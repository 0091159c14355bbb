"""torch and torchvision as they are on this machine, asked in a process of their own."""

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

from deckbench.doctor.facts import Finding, amount, plain
from deckbench.progress import say

PROGRAM = Path(__file__).with_name("torch_probe.py")
PATIENCE_S = 2.0  # before a word is said
LONGEST_S = 180.0  # an emulated machine takes a minute to load torch


@dataclass(frozen=True)
class Probe:
    """What the process said, a map for each line, and how it ended (None: it had to be stopped)."""

    parts: Sequence[Mapping[str, Any]]
    code: int | None

    def of(self, part: str) -> list[Mapping[str, Any]]:
        return [one for one in self.parts if one.get("part") == part]

    @property
    def loads(self) -> bool:
        """Whether torch loads."""
        return any("version" in one for one in self.of("torch"))

    @property
    def gpu_free(self) -> int | None:
        """Free bytes of the GPU that `--model` is put on, None where torch can use none."""
        usable = [one for one in self.of("gpu") if not one["fault"]]
        return int(usable[0]["free"]) if usable else None


def start() -> subprocess.Popen[bytes]:
    """Begin asking; loading torch takes a second or two, in which the rest is looked at."""
    return subprocess.Popen([sys.executable, str(PROGRAM)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def collect(process: subprocess.Popen[bytes]) -> Probe:
    """Wait for the answer, LONGEST_S at most."""
    try:
        said, _ = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        say("waiting for torch to load ...")
        try:
            said, _ = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            return Probe(parse(said), None)
    return Probe(parse(said), process.returncode)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it where it still runs: what else was looked at failed, or the user broke off."""
    if process.poll() is None:
        process.kill()
        process.communicate()


def parse(said: bytes) -> list[dict[str, Any]]:
    """The JSON objects among the lines; whatever a library prints besides is left out."""
    parts = []
    for line in said.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            one = json.loads(line)
            if isinstance(one, dict) and "part" in one:
                parts.append(one)
    return parts


def ending(code: int | None) -> str:
    """How a process ended that did not say all it had to say."""
    if code is None:
        return f"it did not answer within {LONGEST_S:.0f} s"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with {code}"


def findings(probe: Probe) -> list[Finding]:
    """What is said of torch, its GPUs and torchvision."""
    again = "pip install --force-reinstall 'torch>=2.4', then see `python -c 'import torch'`"
    if not probe.loads:
        told = probe.of("torch")
        why = plain(told[0]["fault"]) if told else ending(probe.code)
        return [Finding("torch", "bad", f"does not load: {why}", again)]
    one = probe.of("torch")[0]
    build = f"for CUDA {one['cuda']}" if one["cuda"] else "for CPU alone"
    found = f"{one['version']}, built {build}, CPU capability {one['capability']}, {one['threads']} threads"
    return [Finding("torch", "good", found), *gpus(probe, one["cuda"]), torchvision(probe)]


def gpus(probe: Probe, build: str | None) -> list[Finding]:
    """One line for each GPU that torch sees, with the result of an operation computed on it."""
    seen = probe.of("gpu")
    if not seen and probe.code != 0 and not probe.of("torchvision"):
        fix = "see `nvidia-smi`; install the torch built for this driver's CUDA"
        return [Finding("CUDA", "bad", f"asking for GPUs failed: {ending(probe.code)}", fix)]
    if not seen:
        return [Finding("CUDA", "absent", "torch sees no GPU" if build else "this torch is built without CUDA")]
    lines = []
    for number, gpu in enumerate(seen):
        name = f"CUDA {number}: {plain(gpu['name'])}"
        if gpu["fault"]:
            fix = "install the torch built for this GPU and this driver's CUDA"
            lines.append(Finding(name, "bad", f"an operation failed: {plain(gpu['fault'])}", fix))
        else:
            found = f"computes; {amount(gpu['free'])} of {amount(gpu['memory'])} free"
            lines.append(Finding(name, "good", found))
    return lines


def torchvision(probe: Probe) -> Finding:
    """torchvision is for some models of others alone; broken, it takes transformers' imports down with it."""
    told = probe.of("torchvision")
    fix = "uninstall it (DeckBench's own models need none), or install the one built for this torch"
    if not told:
        return Finding("torchvision", "bad", f"does not load: {ending(probe.code)}", fix)
    if told[0].get("absent"):
        return Finding("torchvision", "absent", "not installed; only some models of others need it")
    if "version" in told[0]:
        return Finding("torchvision", "good", str(told[0]["version"]))
    return Finding("torchvision", "bad", f"does not load beside this torch: {plain(told[0]['fault'])}", fix)
