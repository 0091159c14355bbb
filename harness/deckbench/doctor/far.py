"""A machine behind ssh, looked at with one call: a small script goes in, key=value lines come out.

Nothing is installed or written there. What comes back is another machine's word: it is read strictly, and what does not
have the form it must have counts as not said.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deckbench.doctor.facts import Built, Machine, plain, smi_gpus
from deckbench.doctor.here import inspected
from deckbench.errors import OutsideError
from deckbench.machine.ssh import ssh_command

SCRIPT = Path(__file__).with_name("look.sh")
LONGEST_S = 120.0
MOST = 1 << 20  # bytes of an answer that are read
MARK = "deckbench-doctor"
LINE = re.compile(r"([a-z_]{1,20})=(.*)")
NUMBER = re.compile(r"[0-9]{1,15}")
TAG = re.compile(r"[A-Za-z0-9][\w./:-]{0,200}", re.ASCII)
NOT_SSH = 255  # ssh's own status when the connection failed


def look(host: str) -> Machine:
    """The machine at `ssh://USER@HOST[:PORT]`, through the system's ssh client.

    Raises InputError for a host that cannot be read; OutsideError when it cannot be reached or is no Linux machine.
    """
    return machine(host, parse(ask(host)))


def ask(host: str) -> bytes:
    """What the script says there: at most MOST bytes."""
    command = ssh_command(host, "sh -s")
    target = urlsplit(host).netloc
    fix = f"`ssh {target.rpartition(':')[0] or target} true` must work without a password"
    try:
        done = subprocess.run(command, input=SCRIPT.read_bytes(), capture_output=True, timeout=LONGEST_S, check=False)
    except FileNotFoundError:
        raise OutsideError("the program ssh is not here", host, "install OpenSSH's client") from None
    except subprocess.TimeoutExpired:
        raise OutsideError(f"no whole answer within {LONGEST_S:.0f} s", host, fix) from None
    if done.returncode == NOT_SSH:
        told = [plain(line) for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        raise OutsideError(f"cannot be reached ({told[-1] if told else 'ssh gives no reason'})", host, fix)
    return done.stdout[:MOST]


def parse(said: bytes) -> dict[str, str]:
    """The key=value lines between the two marks, control characters removed. The first of two equal keys counts.

    Empty when a mark is missing: an answer that was cut off is no answer.
    """
    lines = said.decode("utf-8", "replace").split("\n")
    if f"{MARK}=1" not in lines or f"{MARK}=end" not in lines:
        return {}
    lines = lines[lines.index(f"{MARK}=1") + 1 :]
    if f"{MARK}=end" not in lines:
        return {}
    found: dict[str, str] = {}
    for line in lines[: lines.index(f"{MARK}=end")]:
        if match := LINE.fullmatch(plain(line, longest=MOST)):
            found.setdefault(match[1], match[2])
    return found


def machine(host: str, said: Mapping[str, str]) -> Machine:
    """The facts in what was said. Raises OutsideError when nothing was."""
    if not said.get("machine"):
        fix = "it must be a Linux machine whose login shell prints nothing of its own in place of the answer"
        raise OutsideError("the machine gives no answer that can be read", host, fix)
    low, high = number(said, "gpu_low"), number(said, "gpu_high")
    docker, fault = daemon(said.get("docker"))
    return Machine(
        where=host,
        system=plain(said.get("system", "")),
        kernel=plain(said.get("kernel", "")),
        machine=plain(said["machine"]),
        board=plain(said.get("board", "")),
        tegra=plain(said.get("tegra", "")),
        python=plain(said.get("python", "")).removeprefix("Python "),
        cpu=plain(said.get("cpu", "")),
        cores=number(said, "cores"),
        memory=number(said, "memory_kb", 1024),
        free_memory=number(said, "free_memory_kb", 1024),
        governor=plain(said.get("governor", "")),
        power_mode=plain(said.get("power_mode", "")),
        gpu_clock=None if low is None or high is None else (low, high),
        gpus=smi_gpus(said.get("gpus", "").replace(";", "\n")),
        docker=docker,
        docker_fault=fault,
        docker_free=number(said, "docker_free_kb", 1024),
        images=images(said.get("images", "")),
        left_over=number(said, "left_over"),
        waiting=number(said, "waiting"),
    )


def number(said: Mapping[str, str], key: str, unit: int = 1) -> int | None:
    """A whole number times `unit`; None for anything else."""
    text = said.get(key, "").strip()
    return int(text) * unit if NUMBER.fullmatch(text) else None


def daemon(said: str | None) -> tuple[dict[str, Any] | None, str]:
    """(what `docker info` says, "") or (None, why not)."""
    if said is None:
        return None, "the command docker is not there"
    try:
        info = json.loads(said)
    except (ValueError, RecursionError):
        return None, "`docker info` says nothing that can be read"
    if not isinstance(info, dict):
        return None, "`docker info` says nothing that can be read"
    if not info.get("ServerVersion"):
        faults = info.get("ServerErrors")
        return None, plain(faults[0]) if isinstance(faults, list) and faults else "no docker daemon answers"
    return info, ""


def images(said: str) -> dict[str, Built]:
    """Our images by tag, from JSON objects as `docker image inspect` gives them, with anything between them."""
    found: dict[str, Built] = {}
    decoder, place = json.JSONDecoder(), said.find("{")
    while place >= 0:
        try:
            attrs, place = decoder.raw_decode(said, place)
            tags = [tag for tag in attrs["RepoTags"] if TAG.fullmatch(tag)]
            found |= dict.fromkeys(tags, inspected(attrs))
        except json.JSONDecodeError:
            break
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # JSON, and of no image
            place += 1
        place = said.find("{", place)
    return found
