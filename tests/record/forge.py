"""Records changed by hand, with every hash made again: what a forger who knows the format can do."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from deckbench import artifact
from deckbench.predictions import COLUMNS, csv_bytes
from deckbench.record.calibration import Calibration
from deckbench.record.metrics import measure
from deckbench.record.metrics_schema import Metrics
from deckbench.record.read import BESIDE
from deckbench.record.samples import sample_bytes
from deckbench.record.schema import Record
from deckbench.record.table import SCORED_COLUMNS, grade_table
from deckbench.record.write import write_statement


def forge(
    folder: Path,
    *,
    record: Callable[[dict[str, Any]], Any] | None = None,
    samples: Callable[[list[dict[str, str]]], Any] | None = None,
    lineage: Callable[[dict[str, Any]], Any] | None = None,
    questions: Callable[[list[dict[str, Any]]], Any] | None = None,
    observed: Callable[[dict[str, Any]], Any] | None = None,
    rehash_scored: bool = True,
    remeasure: bool = False,
    restate: bool = True,
    calibration: Calibration | None = None,
) -> None:
    """Edit record.json, samples.csv.gz (as rows), lineage.json.gz, questions.jsonl.gz (as rows) and the observed part
    of the manifest in place, and make all hashes fit again.

    rehash_scored: also those of the predictions and the graded answers that stand in the metrics. remeasure: grade and
    score the changed samples. restate: write the statement anew; else only its digests. calibration: the one to
    score with, which lies there already.
    """
    value = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    if lineage is not None:
        given = json.loads(gzip.decompress((folder / "lineage.json.gz").read_bytes()))
        lineage(given)
        value["lineage"] = repack(folder / "lineage.json.gz", artifact.canonical(given))
    if questions is not None:
        asked = [
            json.loads(line) for line in gzip.decompress((folder / "questions.jsonl.gz").read_bytes()).splitlines()
        ]
        questions(asked)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in asked)
        value["questions"] = repack(folder / "questions.jsonl.gz", text.encode())
    if samples is not None:
        text = gzip.decompress((folder / "samples.csv.gz").read_bytes()).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        samples(rows)
        if remeasure:
            rows = score_again(rows, value, calibration)
        value["samples"] = repack(folder / "samples.csv.gz", sample_bytes(rows))
        if rehash_scored:
            value["metrics"]["inputs"]["predictions_sha256"] = sha256(COLUMNS, rows)
            value["metrics"]["scored_sha256"] = sha256(SCORED_COLUMNS, rows)
    if record is not None:
        record(value)
    (folder / "record.json").write_text(json.dumps(value), encoding="utf-8")
    if observed is not None:
        place = folder / "manifest.json"
        manifest = json.loads(place.read_text(encoding="utf-8"))
        observed(manifest["observed"])
        guarded = {name: entry for name, entry in manifest["observed"].items() if name != "sha256"}
        manifest["observed"]["sha256"] = artifact.hash_json(guarded)
        place.write_text(json.dumps(manifest), encoding="utf-8")
    seal(folder, restate=restate)


def repack(place: Path, data: bytes) -> str:
    """Write a file in gzip; the sha256 of what is in it."""
    place.write_bytes(gzip.compress(data, mtime=0))
    return hashlib.sha256(data).hexdigest()


def score_again(
    rows: list[dict[str, str]], value: dict[str, Any], calibration: Calibration | None = None
) -> list[dict[str, str]]:
    """Grade the rows, and put their metrics into the record."""
    table = grade_table(pd.DataFrame(rows, dtype=object), inferred=False)
    metrics = Metrics.model_validate(value["metrics"])
    asked = {str(kind): n for kind, n in (metrics.asked or {}).items()}
    again = measure(
        table,
        seed=metrics.seed,
        inputs=metrics.inputs,
        asked=asked,
        resamples=metrics.resamples,
        calibration=calibration,
    )
    value["metrics"] = again.model_dump(mode="json")
    if calibration is not None:
        value["calibration"] = calibration.content_hash
    return [{str(name): str(cell) for name, cell in row.items()} for row in table.to_dict("records")]


def sha256(columns: tuple[str, ...], rows: list[dict[str, str]]) -> str:
    return hashlib.sha256(csv_bytes(columns, [[row[name] for name in columns] for row in rows])).hexdigest()


def seal(folder: Path, *, restate: bool = True) -> None:
    """Make manifest and statement fit the files again: all digests, the inputs and whatever the statement copies."""
    place, record = folder / "manifest.json", json.loads((folder / "record.json").read_text(encoding="utf-8"))
    manifest = json.loads(place.read_text(encoding="utf-8"))
    files = {name: entry for name, entry in artifact.list_files(folder).items() if name not in BESIDE}
    inputs = {entry["name"]: entry["sha256"] for entry in record["inputs"]}
    manifest["content"] |= {"files": files, "inputs": inputs, "seed": record.get("seed")}
    manifest["content_hash"] = artifact.hash_json(manifest["content"])
    place.write_text(json.dumps(manifest), encoding="utf-8")
    if not restate:
        statement = json.loads((folder / "statement.json").read_text(encoding="utf-8"))
        digests = {name: entry["sha256"] for name, entry in files.items()} | {place.name: artifact.hash_file(place)}
        statement["subject"] = [{"name": name, "digest": {"sha256": digests[name]}} for name in sorted(digests)]
        (folder / "statement.json").write_bytes(artifact.canonical(statement))
        return
    with contextlib.suppress(ValidationError):  # a field that the schema refuses is found before the statement
        write_statement(folder, Record.model_validate(record), manifest["observed"]["written"])
