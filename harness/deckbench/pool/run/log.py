"""A run log: which command of the protocol ran when, and from which command on the run is another one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.pool.run.robot import fetch_commands
from deckbench.protocol import Analysis, join
from deckbench.protocol.analysis import OUT_OF_CHAIN, unusable
from deckbench.protocol.join import LOADED
from deckbench.schema import shown

MAX_BYTES = 256 << 20
FIX = "save `GET /runs/ID/commands?cursor=0&pageLength=N` of the robot, N at least the number of commands"


@dataclass(frozen=True)
class RunCommand:
    """A command as it ran. start_s, end_s: seconds since 1970 (UTC), inf for one that has not ended; line: place in the
    log, from 0."""

    command_type: str
    status: str
    start_s: float
    end_s: float
    line: int


@dataclass(frozen=True)
class RunLog:
    """The commands of a run that belong to its protocol and were started, in order. raw: all, reduced."""

    name: str
    commands: tuple[RunCommand, ...]
    raw: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class RunAlignment:
    """How far a run followed its analysis.

    commands: those that are the analysis's own and have ended, each with its number there. left_at: when the run left,
    inf where it did not; why: what is said of it. until: when a command began that had not ended when the log was
    taken, inf where all had; nothing is known of what comes later. holes: numbers n of `commands` before which commands
    of the analysis are missing. notes: what else is to be said.
    """

    commands: tuple[tuple[RunCommand, int], ...]
    left_at: float
    why: str | None
    until: float = math.inf
    holes: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


def read_run(source: str) -> RunLog:
    """A run log, from a file or a robot.

    Args:
        source: A saved `GET /runs/ID/commands` (a page, a list of pages, or the app's download), or
            `http://HOST:31950/runs/ID`.

    Raises:
        InputError: No run log, or only a part of one.
        OutsideError: The robot does not answer.
    """
    if source.startswith(("http://", "https://")):
        return parse_log(fetch_commands(source), source)
    try:
        value = json.loads(read_bytes(Path(source), MAX_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"the run log cannot be read ({error.strerror})", source, FIX) from error
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError("the run log is not JSON", f"{source}{line}", FIX) from error
    return parse_log(commands_of(value, source), source)


def commands_of(value: Any, source: str) -> list[dict[str, Any]]:
    """The commands in any shape that a log is saved in. Raises InputError."""
    if isinstance(value, dict) and {"config", "metadata", "commands"} <= value.keys():
        raise InputError("this is a protocol's analysis, not the log of a run", source, FIX)
    pages = value if isinstance(value, list) and value and all(is_page(item) for item in value) else [value]
    found: dict[str, dict[str, Any]] = {}
    most = 0
    for page in sorted(pages, key=start_of):
        commands = page
        for name in ("commands", "data", "commands", "data"):
            most = max(most, total_of(commands))
            if isinstance(commands, dict) and isinstance(commands.get(name), (list, dict)):
                commands = commands[name]
        if not isinstance(commands, list):
            raise InputError("the run log holds no list of commands", source, FIX)
        for item in commands:
            if not isinstance(item, dict) or not all(isinstance(item.get(k), str) for k in ("id", "commandType")):
                raise InputError(f"entry {len(found)} is no command of a run (id, commandType)", source, FIX)
            found.setdefault(item["id"], item)
    if not found:
        raise InputError("the run log holds no commands", source, FIX)
    if most > len(found):
        raise InputError(f"the run log holds {len(found)} of {most} commands", source, FIX)
    return list(found.values())


def is_page(item: Any) -> bool:
    """Whether this is a page of commands, not a command."""
    return isinstance(item, dict) and isinstance(item.get("data"), list)


def total_of(page: Any) -> int:
    """How many commands the run has, as a page's meta says; 0 where it does not."""
    meta = page.get("meta") if isinstance(page, dict) else None
    total = meta.get("totalLength") if isinstance(meta, dict) else None
    return total if isinstance(total, int) else 0


def start_of(page: Any) -> int:
    """Where a page begins, as its meta says."""
    meta = page.get("meta") if isinstance(page, dict) else None
    cursor = meta.get("cursor") if isinstance(meta, dict) else None
    return cursor if isinstance(cursor, int) else 0


def parse_log(items: Sequence[dict[str, Any]], source: str) -> RunLog:
    """Commands as they ran. Raises InputError for times that are none, or run backwards."""
    commands: list[RunCommand] = []
    raw: list[dict[str, Any]] = []
    for line, item in enumerate(items):
        kept = ("id", "key", "commandType", "intent", "status", "createdAt", "startedAt", "completedAt", "params")
        raw.append({name: item[name] for name in kept if item.get(name) is not None})
        result = item.get("result")
        if isinstance(result, dict) and (made := {n: result[n] for n in LOADED if isinstance(result.get(n), str)}):
            raw[-1]["result"] = made
        if (fault := unusable(raw[-1])) is not None:
            raise InputError(f"the command cannot be used: {fault}", f"{source}: command {line}", FIX)
        if item.get("intent") in OUT_OF_CHAIN or item.get("startedAt") is None:
            continue
        where = f"{source}: command {line}"
        start = parse_time(item["startedAt"], where)
        end = math.inf if item.get("completedAt") is None else parse_time(item["completedAt"], where)
        if end < start or (commands and start < commands[-1].start_s):
            raise InputError("the command's times run backwards", where, FIX)
        commands.append(RunCommand(item["commandType"], str(item.get("status", "")), start, end, line))
    if not commands:
        raise InputError("no command of the run has started", source, "take the log after the run")
    name = source.rstrip("/").removesuffix("/commands").rpartition("/")[2] if "://" in source else Path(source).stem
    return RunLog(name, tuple(commands), tuple(raw))


def parse_time(text: Any, where: str) -> float:
    """Seconds since 1970 of an ISO time with its zone. Raises InputError."""
    try:
        moment = datetime.fromisoformat(trimmed(text)) if isinstance(text, str) else None
        seconds = moment.timestamp() if moment is not None and moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise InputError(f"{str(text)[:60]!r} is not an ISO time", where, FIX)
    if seconds is None:
        raise InputError(f"the time {text!r} has no zone", where, "a robot writes one, such as +00:00: keep it")
    return seconds


def trimmed(text: str) -> str:
    """An ISO time in the one form that Python 3.10 reads: `Z` as +00:00, six digits of a second."""
    text = text.strip().replace("Z", "+00:00").replace("z", "+00:00")
    head, dot, rest = text.partition(".")
    if not dot:
        return text
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return f"{head}.{digits[:6].ljust(6, '0')}{rest[len(digits) :]}"


def follow(log: RunLog, analysis: Analysis) -> RunAlignment:
    """How far a run followed its analysis.

    Raises:
        InputError: The run's first command is none of the analysis: another protocol; or none has ended.
    """
    joined = join(analysis, log.raw)
    started = {ran.line: ran for ran in log.commands}
    kept: list[tuple[RunCommand, int]] = []
    left, why, until, notes = math.inf, None, math.inf, list[str]()
    if joined.left_at is not None:
        left = next((ran.start_s for ran in log.commands if ran.line >= joined.left_at), math.inf)
        why = joined.why if math.isfinite(left) else None
    for line, number in enumerate(joined.steps):
        ran = started.get(line)
        if number is None or ran is None:
            continue
        if ran.status == "failed":
            left, why = ran.start_s, f"command {line} ({shown(ran.command_type)}) failed"
            break
        if math.isinf(ran.end_s):
            until = ran.start_s
            notes.append(
                f"the log was taken while command {line} ({shown(ran.command_type)}) ran; later frames have no checks"
            )
            break
        kept.append((ran, number))
    if not kept:
        if math.isfinite(until):
            raise InputError("no command of the run has ended", log.name, "take the log after the run")
        what = f"the run is not of this protocol: {joined.why or 'no command of it is in the analysis'}"
        raise InputError(what, log.name, "give the analysis of the protocol that was run")
    named = {n for item, n in zip(log.raw, joined.steps, strict=True) if "labwareId" in item.get("result", {})}
    loads = [one.number for one in analysis.commands if one.command_type == "loadLabware" and one.number <= kept[-1][1]]
    if len(loads) > 1 and not named.issuperset(loads):
        notes.append(
            f"the run log does not name {len(set(loads) - named)} of {len(loads)} loaded labware (it has no results of "
            "their loads), so that one cannot be told from another: a run that takes tips from another rack than its "
            "analysis is not noticed"
        )
    holes = find_holes([number for _, number in kept], analysis)
    for at, missing in holes.items():
        some = "1 command is" if missing == 1 else f"{missing} commands are"
        line = kept[at][0].line
        notes.append(f"{some} missing in the run log before its command {line}; frames of that time have no checks")
    return RunAlignment(tuple(kept), left, why, until, frozenset(holes), tuple(notes))


def find_holes(numbers: Sequence[int], analysis: Analysis) -> dict[int, int]:
    """Places in ascending numbers of commands before which others of the protocol are missing: place -> how many."""
    before, count = [], 0
    for command in analysis.commands:
        before.append(count)
        count += command.in_chain
    found = {at: before[numbers[at]] - before[numbers[at - 1]] - 1 for at in range(1, len(numbers))}
    return {at: missing for at, missing in found.items() if missing > 0}
