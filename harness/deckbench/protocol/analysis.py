"""Reading a protocol analysis: the JSON of the robot, the app, or `opentrons analyze --json-output`. Bounded, checked.

Only what the expected state needs is kept: of a labware definition its name, kind and wells.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deckbench.artifact import hash_json
from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.schema import shown

MAX_BYTES = 40 << 20
MAX_PARTS = 2_000_000  # objects and lists: parsed they take a hundred times their bytes
MAX_COMMANDS = 50_000
MAX_DEPTH = 64
MAX_NAME = 500  # letters of a name: it stands in every text of its step
NAMES = ("loadName", "displayName", "namespace", "pipetteName", "wellName", "model")
ROBOT = "OT-2 Standard"
SEE = "give the JSON that `opentrons analyze --json-output` writes, or that the robot or the app has saved"
# Fields of a command that differ between two analyses of one protocol, or say nothing of the deck.
UNSTABLE = frozenset({"serialNumber", "taskId", "createdAt", "startedAt", "completedAt"})
MAX_NUMBER = 1 << 63
UNUSABLE = re.compile("[\ud800-\udfff]")
OUT_OF_CHAIN = ("setup", "fixit")  # intents of commands that are no part of the protocol


@dataclass(frozen=True)
class Command:
    """One command of a protocol.

    number: its place in the analysis, from 0. key: joins it with the same command of a run. params, result: as the
    analysis says them.
    """

    number: int
    id: str
    key: str
    command_type: str
    params: Mapping[str, Any]
    result: Mapping[str, Any]
    status: str
    intent: str = "protocol"

    @property
    def in_chain(self) -> bool:
        """Whether the command is the protocol's own, not one of a calibration or an error recovery."""
        return self.intent not in OUT_OF_CHAIN


@dataclass(frozen=True)
class Analysis:
    """A protocol analysis that ended well.

    name: of the protocol, as it calls itself. robot: always an OT-2. api: (major, minor) of the protocol's API, where
    it says it. sha256: of the commands' content, the same for two analyses of one protocol. source: the
    file, for messages.
    """

    name: str | None
    robot: str
    api: tuple[int, int] | None
    commands: tuple[Command, ...]
    sha256: str
    source: str = field(default="analysis", compare=False)


def read_analysis(path: Path) -> Analysis:
    """Read a protocol analysis.

    Args:
        path: JSON, also gzipped (`.json.gz`).

    Raises:
        InputError: It is no analysis, too large, of another robot, or of a protocol that fails.
    """
    path = Path(path)
    data = parse(read_file(path, MAX_BYTES), path)
    return check_analysis(data, path)


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a file, unpacked if it is gzipped. Raises InputError, for one of more than `most` bytes too."""
    try:
        data = read_bytes(path, most)
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(most + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be read ({reason})", path, SEE) from error
    if len(data) > most:
        raise InputError(f"larger than {most >> 20} MiB", path, SEE)
    return data


def parse(data: bytes, where: Path | str) -> dict[str, Any]:
    """The JSON object in the bytes of a file. Raises InputError."""
    if data.count(b"{") + data.count(b"[") > MAX_PARTS:
        raise InputError(f"no protocol analysis: more than {MAX_PARTS:,} objects and lists", where, SEE)
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError("no protocol analysis: not UTF-8", where, SEE) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"no protocol analysis: not valid JSON ({error.msg})", f"{where}:{error.lineno}", SEE
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError("no protocol analysis: not JSON that can be read", where, SEE) from error
    if isinstance(value, dict) and "commands" not in value and isinstance(value.get("data"), dict | list):
        inner = value["data"]  # as the robot's server wraps one analysis, or all of a protocol, the newest last
        value = inner[-1] if isinstance(inner, list) and inner else inner
    if not isinstance(value, dict):
        raise InputError("no protocol analysis: a JSON object is expected", where, SEE)
    if (fault := unusable(value)) is not None:
        raise InputError(f"no protocol analysis: {fault}", where, SEE)
    return value


def unusable(value: Any) -> str | None:
    """What in parsed JSON could not be hashed or shown: deep nesting, half a surrogate pair, numbers that are none."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one
                inner += one.values()
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, str):
                if "\0" in one or (not one.isascii() and UNUSABLE.search(one)):
                    return "a text holds a NUL or half a surrogate pair"
            elif type(one) is int and abs(one) >= MAX_NUMBER:
                return "a number is too large"
            elif isinstance(one, float) and not math.isfinite(one):
                return "a number is not finite"
        if not inner:
            return None
        level = inner
    return f"nested deeper than {MAX_DEPTH} levels"


def check_analysis(data: Mapping[str, Any], where: Path | str) -> Analysis:
    """An analysis, from its parsed JSON. Raises InputError as `read_analysis` does."""
    raw = data.get("commands")
    if not isinstance(raw, list):
        raise InputError("no protocol analysis: it has no commands", where, SEE)
    check_robot(data, where)
    check_result(data, where)
    if not raw:
        raise InputError("no protocol analysis: it has no commands", where, SEE)
    if len(raw) > MAX_COMMANDS:
        raise InputError(f"{len(raw):,} commands; the limit is {MAX_COMMANDS:,}", where, "split the protocol")
    commands = tuple(command_of(one, number, where) for number, one in enumerate(raw))
    bad = next((one for one in commands if one.status != "succeeded"), None)
    if bad is not None:
        what = f"command {bad.number} ({shown(bad.command_type)}) has the status {shown(bad.status)}"
        raise InputError(what, where, "analyse the whole protocol; a run is given with its own analysis")
    check_keys(commands, where)
    check_names(commands, where)
    metadata = data.get("metadata")
    name = metadata.get("protocolName") if isinstance(metadata, dict) else None
    return Analysis(
        name if isinstance(name, str) and name.strip() else None,
        ROBOT,
        api_of(data.get("config")),
        commands,
        hash_json(content_of(commands)),
        str(where),
    )


def check_robot(data: Mapping[str, Any], where: Path | str) -> None:
    """Refuse what was analysed for another robot. Analyses of old software do not say it: then it is an OT-2's."""
    robot = data.get("robotType", ROBOT)
    if robot is None or robot == ROBOT:
        return
    if robot == "OT-3 Standard":
        raise InputError(
            "the analysis is of a Flex protocol; DeckBench watches the OT-2", where, "give an OT-2 protocol"
        )
    raise InputError(f"the analysis is for an unknown robot: {shown(str(robot))}", where, "give an OT-2 protocol")


def check_result(data: Mapping[str, Any], where: Path | str) -> None:
    """Refuse the analysis of a protocol that fails, or that was not analysed to its end."""
    errors = data.get("errors")
    if isinstance(errors, list) and errors:
        first = errors[0] if isinstance(errors[0], dict) else {}
        text = shown_line(first.get("detail") or first.get("errorType") or "no reason given")
        raise InputError(f"the protocol fails: {text}", where, "correct the protocol and analyse it again")
    status, result = data.get("status"), data.get("result")
    if status not in (None, "completed"):
        raise InputError(f"the analysis is not complete: its status is {shown(str(status))}", where, "wait for it")
    if result not in (None, "ok"):
        what = f"the analysis did not end well: its result is {shown(str(result))}"
        if result == "parameter-value-required":
            what = "the analysis ended before its first command: the protocol needs values of its parameters"
        raise InputError(what, where, "correct the protocol, or give its parameters, and analyse it again")


def shown_line(text: object) -> str:
    """An error of a protocol as one line of bounded length."""
    line = " ".join(str(text).split())
    line = line if line.isprintable() else repr(line)[1:-1]
    return line if len(line) <= 300 else f"{line[:297]}..."


def command_of(data: Any, number: int, where: Path | str) -> Command:
    """One command, its shape checked. Raises InputError."""
    place = f"commands.{number}"
    if not isinstance(data, dict):
        raise InputError(f"{place}: a command is a JSON object", where, SEE)
    texts: dict[str, str] = {}
    for name in ("id", "commandType", "status"):
        value = data.get(name)
        if not isinstance(value, str) or not value:
            raise InputError(f"{place}: the field {name!r} is missing or no text", where, SEE)
        texts[name] = value
    key, intent = data.get("key"), data.get("intent") or "protocol"
    params, result = data.get("params"), data.get("result")
    if not isinstance(params, dict) or not isinstance(result if result is not None else {}, dict):
        raise InputError(f"{place}: params and result are JSON objects", where, SEE)
    return Command(
        number,
        texts["id"],
        key if isinstance(key, str) else "",
        texts["commandType"],
        params,
        result or {},
        texts["status"],
        str(intent),
    )


def check_keys(commands: Sequence[Command], where: Path | str) -> None:
    """Refuse keys that are missing or stand twice: no run could be joined."""
    seen: dict[str, int] = {}
    for command in commands:
        if not command.in_chain:
            continue
        if not command.key:
            raise InputError(f"commands.{command.number}: no key", where, "analyse it with software from 2022 or later")
        if command.key in seen:
            what = f"commands.{command.number}: the same key as command {seen[command.key]}"
            raise InputError(what, where, SEE)
        seen[command.key] = command.number


def check_names(commands: Sequence[Command], where: Path | str) -> None:
    """Refuse names that nobody would read to their end: they stand in every text of a step."""
    for command in commands:
        definition = command.result.get("definition")
        definition = definition if isinstance(definition, dict) else {}
        parts = (command.params, command.result, definition.get("parameters"), definition.get("metadata"), definition)
        found = [part.get(name) for part in parts if isinstance(part, dict) for name in NAMES]
        columns = definition.get("ordering")
        for column in columns if isinstance(columns, list) else ():
            found += column if isinstance(column, list) else ()
        longest = max((len(name) for name in found if isinstance(name, str)), default=0)
        if longest > MAX_NAME:
            what = f"commands.{command.number}: a name of {longest:,} letters; the limit is {MAX_NAME}"
            raise InputError(what, where, "shorten the name in the labware definition or the protocol")


def api_of(config: object) -> tuple[int, int] | None:
    """The API version of a Python protocol."""
    version = config.get("apiVersion") if isinstance(config, dict) else None
    if isinstance(version, list) and len(version) == 2 and all(type(part) is int for part in version):
        return version[0], version[1]
    return None


def content_of(commands: Sequence[Command]) -> list[Any]:
    """What the commands say, without ids and times: the same for two analyses of one protocol.

    Ids are numbered in the order in which they first occur.
    """
    names: dict[str, str] = {}

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {
                key: plain(inner, key) for key, inner in value.items() if key not in UNSTABLE and key != "definition"
            }
        if isinstance(value, list):
            return [plain(inner, name) for inner in value]
        if isinstance(value, str) and name.endswith(("Id", "Ids")):
            return names.setdefault(value, f"id-{len(names)}")
        return value

    return [
        [one.key, one.command_type, plain(one.params, ""), plain(one.result, ""), definition_name(one)]
        for one in commands
    ]


def definition_name(command: Command) -> str | None:
    """Namespace, load name and version of a loaded labware."""
    definition = command.result.get("definition")
    if not isinstance(definition, dict):
        return None
    parameters = definition.get("parameters")
    name = parameters.get("loadName") if isinstance(parameters, dict) else None
    return f"{definition.get('namespace')}/{name}/{definition.get('version')}"
