"""The in-toto statement of a record.

`statement.json` is an in-toto Statement v1 with a SLSA provenance v1 predicate: the digests of all files of the record,
what it was made from, in which container, by which command. It is a function of the record, so a reader makes it again
and compares. It stands beside the manifest, not in it, because the manifest with its times is one of its subjects.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.record.schema import STATEMENT, Record

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:deckbench:record:3"


def statement_of(record: Record, files: Mapping[str, str], written: str) -> dict[str, Any]:
    """The statement of a record.

    Args:
        record: the record.
        files: name of every file of the folder, the manifest among them, and its sha256.
        written: when the record was written.

    Returns:
        An in-toto Statement v1.
    """
    value = record.model_dump(mode="json", by_alias=True)
    names = ("command", "model", "curriculum", "task", "stage", "pool", "dataset", "audit", "seed")
    container = record.container
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(files.items())],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {name: value[name] for name in names},
                "internalParameters": {"hardware": value["hardware"], "packages": value["packages"]},
                "resolvedDependencies": [
                    {"name": entry.name, "digest": {"sha256": entry.sha256.removeprefix("sha256:")}}
                    for entry in record.inputs
                ],
            },
            "runDetails": {
                "builder": {"id": f"urn:deckbench:image:{container.identity}" if container else "urn:deckbench:host"},
                "metadata": {"finishedOn": written},
            },
        },
    }


def statement_bytes(statement: Mapping[str, Any]) -> bytes:
    """The statement as it is written, and signed."""
    return artifact.canonical(statement)


def check_statement(folder: Path, expected: Mapping[str, Any]) -> None:
    """Raises InputError unless statement.json says what the record says."""
    place = folder / STATEMENT
    if not place.is_file():
        raise InputError("is missing", place, "restore it, or write the record again")
    data = place.read_bytes()
    if data == statement_bytes(expected):
        return
    told = artifact.read_json(place, "write the record again")
    name = first_difference(told, expected)
    raise InputError(f"does not say what the record says: {name} differs", place, "write the record again")


def first_difference(a: Any, b: Any, path: str = "") -> str:
    """The place where two JSON values differ, of the deepest maps that hold both."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}, key=str):
            if a.get(key) != b.get(key):
                return first_difference(a.get(key), b.get(key), f"{path}.{key}".strip("."))
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, (one, two) in enumerate(zip(a, b, strict=True)):
            if one != two:
                return first_difference(one, two, f"{path}[{number}]")
    return path or "its form"
