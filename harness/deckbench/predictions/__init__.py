"""The prediction file `FILE.csv` and its siblings: columns, names, reading and writing. The one owner of the format.

`infer` writes it, `score`, `compare` and records read it; tables of other tools with the same columns are read too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import InputError

KIND = "predictions"
COLUMNS = (
    "id",
    "pair_id",
    "kind",
    "question",
    "gold",
    "prediction",
    "parsed",
    "p_a",
    "p_b",
    "p_anomaly",
    "tokens_in",
    "tokens_out",
)
PROBABILITIES = ("p_a", "p_b", "p_anomaly")
STAGES = ("preprocess", "vision", "prefill", "decode", "first_token")
TIMING_COLUMNS = ("id", "kind", "picture", "asked_together", *(f"{stage}_s" for stage in STAGES))
UNANSWERED_COLUMNS = ("id", "reason")
BLOCK = 20_000  # rows written at once
_SPECIAL = re.compile(r'[,"\r\n]')
CONTENT_NAME = "predictions.csv"  # what the manifest calls FILE.csv, whatever its name


@dataclass(frozen=True)
class PredictionFiles:
    """`FILE.csv` and what lies beside it. `FILE.csv` existing means that all of it is finished."""

    csv: Path

    @property
    def manifest(self) -> Path:
        """Inputs, parameters and hash; what was observed."""
        return self.csv.with_name(f"{self.csv.stem}.manifest.json")

    @property
    def timings(self) -> Path:
        """How long each answer took: TIMING_COLUMNS."""
        return self.csv.with_name(f"{self.csv.stem}.timings.csv")

    @property
    def unanswered(self) -> Path:
        """The questions that were left out: UNANSWERED_COLUMNS."""
        return self.csv.with_name(f"{self.csv.stem}.unanswered.csv")

    @property
    def transcript(self) -> Path:
        """What a server sent: a line of JSON for each answer."""
        return self.csv.with_name(f"{self.csv.stem}.transcript.jsonl")

    @property
    def judged(self) -> Path:
        """What a judge said of the answers, where one was asked."""
        return self.csv.with_name(f"{self.csv.stem}.judge.json")

    @property
    def partial(self) -> Path:
        """The folder of a run that is not finished."""
        return self.csv.with_name(f"{self.csv.stem}.partial")


def _cell(value: str) -> str:
    """A CSV cell, quoted where needed. Python's own writer leaves a bare carriage return unquoted before 3.13."""
    if not _SPECIAL.search(value):
        return value
    quoted = value.replace('"', '""')
    return f'"{quoted}"'


def csv_bytes(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """A table as CSV: UTF-8, line feeds, quoted where needed; equal tables are equal bytes on every Python."""
    return "".join(",".join(map(_cell, row)) + "\n" for row in (columns, *rows)).encode()


def csv_blocks(names: Sequence[str], columns: Sequence[Sequence[str]]) -> Iterator[bytes]:
    """`csv_bytes` of a table that is given by its columns, in pieces of BLOCK rows."""
    yield csv_bytes(names, ())
    for start in range(0, len(columns[0]), BLOCK):
        pieces: list[Sequence[str]] = [column[start : start + BLOCK] for column in columns]
        for at, piece in enumerate(pieces):
            if _SPECIAL.search("".join(piece)):
                quoted = {value: _cell(value) for value in {*piece}}
                pieces[at] = [quoted[value] for value in piece]
        yield ("\n".join(map(",".join, zip(*pieces, strict=True))) + "\n").encode()


def read_manifest(predictions: Path) -> dict[str, Any] | None:
    """The manifest of a prediction file, or None when there is none.

    Raises:
        InputError: it is damaged, of another kind, or the predictions are not the ones it names.
    """
    path = PredictionFiles(predictions).manifest
    if not path.is_file():
        return None
    manifest = artifact.read_json(path, "run `deckbench infer` again")
    try:
        good = artifact.hash_json(manifest["content"]) == manifest["content_hash"]
        kind = manifest["content"].get("kind", KIND)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"the manifest cannot be read ({type(error).__name__})", path, "run `deckbench infer` again"
        ) from error
    if not good:
        raise InputError("the manifest's hash does not fit its content", path, "it was edited; infer again")
    if kind != KIND:
        raise InputError(f"this is the manifest of a {kind}, not of predictions", path, "give a prediction file")
    files = manifest["content"].get("files", {})
    entry = files.get(predictions.name) or files.get(CONTENT_NAME) if isinstance(files, dict) else None
    if isinstance(entry, dict) and entry.get("sha256") != artifact.hash_file(predictions):
        raise InputError(
            "the file was changed after it was made: its hash is not the manifest's", predictions, "infer again"
        )
    return manifest


def is_inferred(manifest: dict[str, Any] | None) -> bool:
    """Whether a model of DeckBench gave the answers: the column `parsed` is then what they were parsed as."""
    inputs = (manifest or {}).get("content", {}).get("inputs", {})
    return isinstance(inputs, dict) and "model" in inputs


def answer_notes(content: Any) -> list[str]:
    """What a score of these predictions has to say of the server. content: `endpoint` of their manifest, or None."""
    if not isinstance(content, dict):
        return []
    notes = []
    if isinstance(stripped := content.get("stripped"), dict) and stripped:
        notes.append(f"taken off around answers: {', '.join(f'{name} ({n})' for name, n in sorted(stripped.items()))}")
    if isinstance(dropped := content.get("dropped"), list) and dropped:
        notes.append(f"the server refused these fields of a request: {', '.join(map(str, dropped))}")
    return notes


def unchecked_training(content: Mapping[str, Any], observed: Mapping[str, Any]) -> str | None:
    """A line on answers of an adapter that was trained on another dataset than the one asked about; None for others."""
    trained, asked = observed.get("trained_on"), content.get("inputs", {}).get("data")
    if trained is None or trained == asked:
        return None
    return (
        f"the adapter was trained on another dataset ({str(trained)[:12]}) than is asked about ({str(asked)[:12]}): "
        "whether they share frames is not checked here; `deckbench run` compares them"
    )
