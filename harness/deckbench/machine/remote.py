"""A machine behind ssh, probed with one call: a small script (probe.sh) goes in, key=value lines come out.

Nothing is installed or written there. The answer is another machine's: it is parsed strictly, and what does not have
the form it must have counts as unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deckbench.errors import OutsideError
from deckbench.machine.facts import Machine, parse_gpus, printable
from deckbench.machine.jetson import FILES, Jetson, device_groups
from deckbench.machine.ssh import run_script

SCRIPT = Path(__file__).with_name("probe.sh")
PROBE_S, RESOURCES_S = 120.0, 60.0
MOST = 1 << 20  # bytes of an answer that are read
MARK = "deckbench-probe"
LINE = re.compile(r"([a-z_]{1,20})=(.*)")
NUMBER = re.compile(r"[0-9]{1,15}")
TAG = re.compile(r"[A-Za-z0-9][\w./:-]{0,200}", re.ASCII)
NO_DOCKER = "the command docker is not installed"
UNREADABLE = "the output of `docker info` cannot be read"


def probe_machine(host: str) -> Machine:
    """The machine at `ssh://USER@HOST[:PORT]`, through the system's ssh client; takes seconds.

    Raises InputError for a host that cannot be read; OutsideError when it cannot be reached or is no Linux machine.
    """
    return machine(host, parse(run_script(host, SCRIPT.read_bytes(), "all", timeout=PROBE_S)[:MOST]))


def probe_resources(host: str, docker_root: str = "/") -> Machine:
    """Memory, free disk of `docker_root`, a Jetson's own files: what a step needs there, and nothing slow. Raises as
    `probe_machine` does."""
    output = run_script(host, SCRIPT.read_bytes(), "resources", docker_root, timeout=RESOURCES_S)
    return machine(host, parse(output[:MOST]))


def parse(output: bytes) -> dict[str, str]:
    """The key=value lines between the two marks, control characters removed. The first of two equal keys counts.

    Empty when a mark is missing: an answer that was cut off is no answer.
    """
    lines = output.decode("utf-8", "replace").split("\n")
    if f"{MARK}=1" not in lines or f"{MARK}=end" not in lines:
        return {}
    lines = lines[lines.index(f"{MARK}=1") + 1 :]
    if f"{MARK}=end" not in lines:
        return {}
    values: dict[str, str] = {}
    for line in lines[: lines.index(f"{MARK}=end")]:
        if match := LINE.fullmatch(printable(line, longest=MOST)):
            values.setdefault(match[1], match[2])
    return values


def machine(host: str, values: Mapping[str, str]) -> Machine:
    """The facts in the values of an answer. Raises OutsideError when there are none."""
    if not values.get("machine"):
        fix = "it must be a Linux machine whose login shell prints nothing of its own in place of the answer"
        raise OutsideError("the machine gives no answer that can be read", host, fix)

    def text(key: str) -> str:
        return printable(values.get(key, ""))

    low, high = number(values, "gpu_low"), number(values, "gpu_high")
    docker, fault = daemon(values.get("docker"))
    return Machine(
        where=host,
        system=text("system"),
        kernel=text("kernel"),
        machine=text("machine"),
        board=text("board"),
        tegra=text("tegra"),
        python=text("python").removeprefix("Python "),
        cpu=text("cpu"),
        cores=number(values, "cores"),
        memory=number(values, "memory_kb", 1024),
        free_memory=number(values, "free_memory_kb", 1024),
        governor=text("governor"),
        power_mode=text("power_mode"),
        gpu_clock=None if low is None or high is None else (low, high),
        gpus=parse_gpus(values.get("gpus", "").replace(";", "\n")),
        jetson=jetson(values),
        docker=docker,
        docker_fault=fault,
        docker_free=number(values, "docker_free_kb", 1024),
        images=images(values.get("images", "")),
        left_over=number(values, "left_over"),
        waiting=number(values, "waiting"),
    )


def number(values: Mapping[str, str], key: str, unit: int = 1) -> int | None:
    """A whole number times `unit`; None for anything else."""
    text = values.get(key, "").strip()
    return int(text) * unit if NUMBER.fullmatch(text) else None


def jetson(values: Mapping[str, str]) -> Jetson:
    """Which of the Jetson's own files exist there, and the groups of its GPU's devices."""
    files, groups = (values.get(key, "").split(";") for key in ("jetson_files", "gpu_groups"))
    known = tuple(name for name in FILES if name in files)
    return Jetson(known, device_groups(int(group) for group in groups if re.fullmatch(r"[0-9]{1,9}", group)))


def daemon(text: str | None) -> tuple[dict[str, Any] | None, str]:
    """(`docker info`, "") or (None, why not)."""
    if text is None:
        return None, NO_DOCKER
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        return None, UNREADABLE
    if not isinstance(info, dict):
        return None, UNREADABLE
    if isinstance(info.get("host"), dict) and "ServerVersion" not in info:
        return None, "the command docker is podman's there; docker's own is needed"
    if not info.get("ServerVersion"):
        faults = info.get("ServerErrors")
        return None, printable(faults[0]) if isinstance(faults, list) and faults else "no docker daemon answers"
    return info, ""


def images(text: str) -> dict[str, dict[str, Any]]:
    """`docker image inspect` of our images by tag, from JSON objects with anything between them."""
    found: dict[str, dict[str, Any]] = {}
    decoder, place = json.JSONDecoder(), text.find("{")
    while place >= 0:
        try:
            attrs, place = decoder.raw_decode(text, place)
            found |= dict.fromkeys((tag for tag in attrs["RepoTags"] if TAG.fullmatch(tag)), attrs)
        except json.JSONDecodeError:
            break
        except (ValueError, TypeError, KeyError, RecursionError):  # JSON, and of no image
            place += 1
        place = text.find("{", place)
    return found
