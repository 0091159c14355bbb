"""JSON files that other data sets leave: read bounded, with what is odd in them kept to be told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.yolo.checkscsv import MAX_TEXT

MAX_BYTES = 16 << 20  # of a JSON file: its objects take up to 30 times as much memory


class Repeated(dict[str, Any]):
    """An object of JSON in which a key stands twice."""


def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(items)
    return made if len(made) == len(items) else Repeated(made)


def load(path: Path, files: dict[str, str], fix: str) -> Any:
    """The JSON value in a file; its hash goes into `files`. Raises InputError."""
    try:
        data = read_bytes(path, MAX_BYTES)
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=pairs)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path, fix) from error
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise InputError(f"cannot be read: not JSON ({why})", f"{path}{line}", fix) from error
    files[path.name] = hashlib.sha256(data).hexdigest()
    return value


def text_of(value: object) -> str | None:
    """A line of text, its blanks as one each; None where this is none, or none that can be written."""
    if not isinstance(value, str):
        return None
    line = " ".join(value.split())
    return line if line and len(line) <= MAX_TEXT and line.isprintable() else None
