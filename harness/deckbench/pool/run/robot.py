"""The commands of a run, asked from an OT-2: `GET /runs/ID/commands`, page by page, bounded, retried."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from deckbench.errors import InputError, OutsideError
from deckbench.progress import say

PAGE = 100  # commands
MAX_BYTES = 16 << 20  # of a page
MAX_COMMANDS = 200_000
TIMEOUT_S = 20.0
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # a robot takes some seconds to boot
ADDRESS = re.compile(r"(https?://[^/\s]+)/runs/([A-Za-z0-9_-]{1,64})(?:/commands)?/?")
FIX = "check that the robot is on and reachable, then rerun"


class NoRedirect(HTTPRedirectHandler):
    """A robot sends nobody elsewhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def fetch_commands(address: str) -> list[dict[str, Any]]:
    """All commands of a run, oldest first, as the robot's server summarizes them (without results).

    Args:
        address: `http://HOST:31950/runs/ID`.

    Raises:
        InputError: This is no address of a run, or the robot knows no such run.
        OutsideError: The robot does not answer, or not as its server should.
    """
    match = ADDRESS.fullmatch(address.strip())
    if match is None or not has_port(match[1]):
        raise InputError("not the address of a run", address, "write it like http://HOST:31950/runs/ID")
    base = f"{match[1]}/runs/{match[2]}/commands"
    found: dict[str, dict[str, Any]] = {}
    cursor = total = 0
    while True:
        page = ask(f"{base}?cursor={cursor}&pageLength={PAGE}")
        data, meta = page.get("data"), page.get("meta")
        whole = meta.get("totalLength") if isinstance(meta, dict) else None
        if not isinstance(data, list) or not isinstance(whole, int) or whole < 0:
            raise OutsideError("the answer holds no page of commands (data, meta.totalLength)", base, FIX)
        if whole > MAX_COMMANDS:
            raise OutsideError(f"the run has {whole} commands, more than {MAX_COMMANDS}", base, FIX)
        total, before = max(total, whole), len(found)
        for command in data:
            if not isinstance(command, dict) or not isinstance(command.get("id"), str):
                raise OutsideError("a command in the answer has no id", base, FIX)
            found.setdefault(command["id"], command)
        cursor += len(data)
        if cursor >= total:
            return list(found.values())
        if len(found) == before:
            raise OutsideError(f"the robot gave {len(found)} of its {total} commands", base, FIX)


def ask(address: str) -> dict[str, Any]:
    """A JSON object from the robot; what may pass (booting, a broken connection) is tried again.

    Raises InputError for a run that is not there, OutsideError otherwise.
    """
    # No proxy: a robot stands in the lab's own network.
    opener = build_opener(ProxyHandler({}), NoRedirect())
    request = Request(address, headers={"Opentrons-Version": "*", "Accept": "application/json"})
    why = ""
    for pause in (*PAUSES_S, None):
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                return parse(read_bounded(answer, address), address)
        except HTTPError as error:
            with error:
                why = f"the robot answered {error.code}{reason(error)}"
            if error.code == 404:
                fix = "`GET /runs` lists the runs that the robot still has"
                raise InputError(why, address, fix) from None
            if error.code not in {408, 429, 500, 502, 503, 504}:
                raise OutsideError(why, address, FIX) from None
        except (http.client.HTTPException, URLError, TimeoutError, OSError) as error:
            cause = error.reason if isinstance(error, URLError) else error
            why = f"no answer from the robot ({describe(cause)})"
            if isinstance(cause, (ValueError, socket.gaierror)):
                raise OutsideError(why, address, FIX) from None
        if pause is not None:
            say(f"{urlsplit(address).netloc}: {why}; trying again in {pause:g} s")
            time.sleep(pause)
    raise OutsideError(why, address, FIX)


def has_port(base: str) -> bool:
    """Whether an address names a host, and no port that is none."""
    try:
        parts = urlsplit(base)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def read_bounded(answer: Any, address: str) -> bytes:
    """The body of an answer. Raises OutsideError where it is too large, TimeoutError where it takes too long."""
    pieces, size, end = list[bytes](), 0, time.monotonic() + 3 * TIMEOUT_S
    while piece := answer.read1(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BYTES:
            raise OutsideError(f"the answer is larger than {MAX_BYTES >> 20} MiB", address, FIX)
        if time.monotonic() > end:
            raise TimeoutError
    return b"".join(pieces)


def describe(cause: object) -> str:
    """What went wrong with a connection."""
    if isinstance(cause, TimeoutError):
        return f"it took more than {TIMEOUT_S:g} s"
    return " ".join(str(getattr(cause, "strerror", None) or cause or type(cause).__name__).split())[:200]


def parse(body: bytes, address: str) -> dict[str, Any]:
    """A JSON object. Raises OutsideError for anything else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise OutsideError("the answer is not JSON: is this a robot?", address, FIX) from None
    if not isinstance(value, dict):
        raise OutsideError("the answer is not a JSON object: is this a robot?", address, FIX)
    return value


def reason(error: HTTPError) -> str:
    """What an error's body says, in any of the robot's shapes: `errors[]`, `message`, or `debugMessage`."""
    try:
        body = json.loads(error.read(1 << 16))
        first = body["errors"][0] if isinstance(body.get("errors"), list) and body["errors"] else body
        text = first.get("detail") or first.get("message") or first.get("debugMessage")
        name = first.get("id")
    except (ValueError, AttributeError, KeyError, TypeError, OSError, RecursionError, http.client.HTTPException):
        return ""
    said = " ".join(str(part) for part in (name, text) if part)
    return f": {said[:300]}" if said else ""
