"""Records changed by hand, with every hash made again: what a forger who knows the format can do."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.predictions import COLUMNS, csv_bytes
from deckbench.record.samples import sample_bytes
from deckbench.record.table import SCORED_COLUMNS


def forge(
    folder: Path,
    *,
    record: Callable[[dict[str, Any]], Any] | None = None,
    samples: Callable[[list[dict[str, str]]], Any] | None = None,
    rehash_scored: bool = True,
) -> None:
    """Edit record.json (as a dict) and samples.csv.gz (as rows) in place and make all hashes fit again.

    rehash_scored: also those of the predictions and the graded answers that stand in the metrics.
    """
    value = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    if samples is not None:
        text = gzip.decompress((folder / "samples.csv.gz").read_bytes()).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        samples(rows)
        table = sample_bytes(rows)
        (folder / "samples.csv.gz").write_bytes(gzip.compress(table, mtime=0))
        value["samples"] = hashlib.sha256(table).hexdigest()
        if rehash_scored:
            value["metrics"]["inputs"]["predictions_sha256"] = sha256(COLUMNS, rows)
            value["metrics"]["scored_sha256"] = sha256(SCORED_COLUMNS, rows)
    if record is not None:
        record(value)
    (folder / "record.json").write_text(json.dumps(value), encoding="utf-8")
    seal(folder)


def sha256(columns: tuple[str, ...], rows: list[dict[str, str]]) -> str:
    return hashlib.sha256(csv_bytes(columns, [[row[name] for name in columns] for row in rows])).hexdigest()


def seal(folder: Path) -> None:
    """Make the manifest fit the files again."""
    place = folder / "manifest.json"
    manifest = json.loads(place.read_text(encoding="utf-8"))
    manifest["content"]["files"] = artifact.list_files(folder)
    manifest["content_hash"] = artifact.hash_json(manifest["content"])
    place.write_text(json.dumps(manifest), encoding="utf-8")
