"""Write a record from what the steps left: score, predictions, times, and what is known of the machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.machine import hardware
from deckbench.record.calibration import Calibration, read_calibration
from deckbench.record.judged import Judged, judged_path, read_judged
from deckbench.record.lineage import TEST, Lineage, lineage_bytes
from deckbench.record.lineage import plain as plain_hash
from deckbench.record.metrics_schema import Metrics
from deckbench.record.questions import parse_questions
from deckbench.record.read import MAX_QUESTION_BYTES, MAX_ROWS
from deckbench.record.recompute import Contents, record_differences
from deckbench.record.samples import (
    LATER_COLUMNS,
    SAMPLE_COLUMNS,
    graded_samples,
    pick_pictures,
    sample_bytes,
    shown_image,
    thumbnail,
)
from deckbench.record.schema import (
    ARTIFACT,
    CALIBRATION,
    JUDGED,
    LINEAGE,
    MAX_SAMPLE_BYTES,
    MAX_THUMBS,
    ONTOLOGY,
    QUESTIONS,
    RECORD,
    SAMPLES,
    SCHEMA,
    STATEMENT,
    THUMBS,
    Input,
    Latency,
    Model,
    PoolRef,
    Record,
    parse,
)
from deckbench.record.scores import read_score
from deckbench.record.statement import statement_bytes, statement_of
from deckbench.record.terms import Terms, find_terms
from deckbench.record.times import find_times


def write_record(
    out_root: Path,
    *,
    model: Mapping[str, Any] | Model,
    curriculum: str | None,
    task: str,
    stage: str | None,
    pool: Mapping[str, Any] | PoolRef,
    dataset: str,
    command: str,
    seed: int,
    lineage: Lineage,
    data: Path,
    inputs: Iterable[Mapping[str, Any] | Input] = (),
    score: Path | None = None,
    ontology: Path | None = None,
    predictions: Path | None = None,
    calibration: Path | None = None,
    latency: Mapping[str, Any] | None = None,
    bench: Mapping[str, Any] | None = None,
    audit: Mapping[str, Any] | None = None,
    container: Mapping[str, Any] | None = None,
    device: str = "cpu",
    emulated: bool = False,
    machine: Mapping[str, Any] | None = None,
    packages: Mapping[str, str] | None = None,
    thumbnails: int = MAX_THUMBS,
) -> Path:
    """Write `out_root/<name>/`; the name ends in 8 digits of the content's hash.

    The same record written again is left as it is, unless only now a bench has measured its times.

    Args:
        out_root: the folder of records.
        model, curriculum, task, stage, pool, dataset, command, seed, inputs, audit, container: as `schema.Record`.
        lineage: the manifests of what it is made from: every field above follows from them.
        data: the dataset folder that was asked.
        score: score.json, beside it the graded answers; with predictions, or neither.
        predictions: FILE.csv that was scored.
        ontology: the one that was scored with, where that is not the published task's.
        calibration: the one that was scored with.
        latency: kind of answer -> `schema.Latency`.
        bench: `observed["results"]` of a bench; times come from it, else from `latency`, else from FILE.timings.csv
            beside the predictions, and are kept unhashed.
        device, emulated: of this machine, where `machine` is not given.
        thumbnails: at most so many.
        machine, packages: what gave the answers; default: this machine.

    Returns:
        The record's folder.

    Raises:
        InputError: a field or a file is wrong or unknown, the fields do not follow from the lineage, or the metrics
            from the samples.
    """
    if (score is None) != (predictions is None):
        raise InputError("a record needs the score and its predictions, or neither", "the record")
    metrics, rows, terms, calibrated, judged = None, None, None, None, None
    asked = test_part(data)
    questions = parse_questions(asked)
    pictures: dict[str, bytes] = {}
    if score is not None and predictions is not None:
        samples = graded_samples(predictions, data, score)
        metrics = read_score(score)
        places = {}
        for number, image in enumerate(pick_pictures(samples, thumbnails)):
            places[image] = f"{THUMBS}/{number:02d}.jpg"
            pictures[places[image]] = thumbnail(artifact.inside(data, image, data / "samples.csv"))
        samples["thumbnail"] = [places.get(image, "") for image in samples["image"]]
        rows = [{name: row[name] for name in (*SAMPLE_COLUMNS, *LATER_COLUMNS)} for row in samples.to_dict("records")]
        terms = scored_terms(metrics, ontology, samples["task"], score)
        calibrated = scored_calibration(metrics, calibration, score)
        judged = scored_judged(metrics, predictions)
    table = None if rows is None else sample_bytes(rows)
    if table is not None and (len(table) > MAX_SAMPLE_BYTES or len(rows or ()) > MAX_ROWS):
        what = f"a record holds at most {MAX_ROWS} samples of {MAX_SAMPLE_BYTES >> 20} MiB"
        raise InputError(what, "the record", "give a smaller dataset: `deckbench build --max-test`")
    traced = lineage_bytes(lineage)
    record = parse(
        Record,
        {
            "schema": SCHEMA,
            "model": plain(model),
            "curriculum": curriculum,
            "task": task,
            "stage": stage,
            "pool": plain(pool),
            "dataset": dataset,
            "inputs": [plain(entry) for entry in inputs],
            "metrics": metrics,
            "samples": None if table is None else hashlib.sha256(table).hexdigest(),
            "questions": hashlib.sha256(asked).hexdigest(),
            "lineage": hashlib.sha256(traced).hexdigest(),
            "ontology": terms.content_hash if terms else None,
            "calibration": calibrated.content_hash if calibrated else None,
            "judged": judged.content_hash if judged else None,
            "audit": audit,
            "hardware": dict(machine or hardware.describe(device=device, emulated=emulated)),
            "packages": dict(packages if packages is not None else hardware.packages()),
            "container": container,
            "seed": seed,
            "command": command,
        },
        "the record",
    )
    images = {name: shown_image(data_bytes) for name, data_bytes in pictures.items()}
    if why := record_differences(record, Contents(lineage, questions, rows or (), terms, calibrated, judged, images)):
        what = f"the record would not follow from what it is made from: {why[0]}"
        raise InputError(what, score or data, "run `deckbench score` again")
    body = record.model_dump(mode="json", by_alias=True)
    if bench is not None or latency is None:
        latency = find_times(bench, predictions)
    observed = observe(latency=latency, bench=bench)
    parts = (record.pool.name, record.pool.words, record.task, record.model.name, record.curriculum or "baseline")
    out = out_root / f"{'-'.join(slug(part)[:40] for part in parts)}-{artifact.hash_json(body)[:8]}"
    if (out / artifact.MANIFEST).is_file():
        older = artifact.read(out, ARTIFACT, verify=True)
        if bench is None or older.observed.get("bench") is not None:
            return out
    record_inputs = {entry.name: entry.sha256 for entry in record.inputs}
    with artifact.writing(out, ARTIFACT, inputs=record_inputs, seed=seed, replace=True) as draft:
        artifact.atomic_write(draft.path / RECORD, dump(body))
        if table is not None:
            (draft.path / SAMPLES).write_bytes(gzip_bytes(table))
        (draft.path / QUESTIONS).write_bytes(gzip_bytes(asked))
        (draft.path / LINEAGE).write_bytes(gzip_bytes(traced))
        if terms is not None:
            (draft.path / ONTOLOGY).write_bytes(artifact.canonical(terms.ontology.model_dump(mode="json")))
        if calibrated is not None:
            (draft.path / CALIBRATION).write_bytes(artifact.canonical(calibrated.model_dump(mode="json")))
        if judged is not None:
            (draft.path / JUDGED).write_bytes(artifact.canonical(judged.model_dump(mode="json")))
        for name, data_bytes in pictures.items():
            (draft.path / name).parent.mkdir(exist_ok=True)
            (draft.path / name).write_bytes(data_bytes)
        draft.observed.update(observed)
        draft.beside = lambda folder: write_statement(folder, record, observed["written"])
    return out


def write_statement(folder: Path, record: Record, written: str) -> None:
    """statement.json of a folder that holds all else of a record, its manifest among it."""
    manifest = artifact.read(folder, ARTIFACT)
    digests = {name: entry["sha256"] for name, entry in manifest.content["files"].items()}
    digests[artifact.MANIFEST] = artifact.hash_file(folder / artifact.MANIFEST)
    (folder / STATEMENT).write_bytes(statement_bytes(statement_of(record, digests, written)))


def test_part(data: Path) -> bytes:
    """The test part of a dataset as it stands. Raises InputError when it is missing, changed or too large."""
    artifact.read(data, "dataset", verify=(TEST,))
    place = data / TEST
    if not place.is_file():
        raise InputError("the dataset has no test part", place, "give the dataset that was asked")
    if place.stat().st_size > MAX_QUESTION_BYTES:
        what = f"the test part is larger than {MAX_QUESTION_BYTES >> 20} MiB, the most that a record holds"
        raise InputError(what, place, "give a smaller dataset: `deckbench build --max-test`")
    return place.read_bytes()


def scored_terms(metrics: Metrics, ontology: Path | None, tasks: Iterable[object], score: Path) -> Terms | None:
    """The ontology whose words a score looked for. Raises InputError when that is another one, or cannot be found."""
    wanted = metrics.inputs.ontology
    if wanted is None:
        return None
    terms = find_terms(ontology, tasks)
    if terms is None or terms.content_hash != wanted:
        raise InputError("the ontology that was scored with is not here", score, "give it with --ontology")
    return terms


def scored_calibration(metrics: Metrics, calibration: Path | None, score: Path) -> Calibration | None:
    """The calibration of a score. Raises InputError when it is another one, or is not given."""
    if metrics.calibration is None:
        return None
    made = None if calibration is None else read_calibration(calibration)
    if made is None or made.content_hash != plain_hash(metrics.calibration.calibration):
        raise InputError("the calibration that was scored with is not here", score, "give it with --calibration")
    return made


def scored_judged(metrics: Metrics, predictions: Path) -> Judged | None:
    """What the judge of a score said. Raises InputError when it is not beside the predictions any more."""
    if metrics.judge is None:
        return None
    place = judged_path(predictions)
    judged = read_judged(place)
    if judged.content_hash != plain_hash(metrics.judge.judged):
        raise InputError("the judge has said something else since the score", place, "run `deckbench score` again")
    return judged


def observe(
    *, latency: Mapping[str, Any], bench: Mapping[str, Any] | None, written: str | None = None
) -> dict[str, Any]:
    """The `observed` part: times, momentary machine state, when it was written (UTC), and a hash over these."""
    found = {
        "written": written or datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "latency": {
            kind: parse(Latency, value, f"the latency of {kind}").model_dump(mode="json")
            for kind, value in latency.items()
        },
        "state": hardware.state(),
        "bench": None if bench is None else dict(bench),
    }
    return {**found, "sha256": artifact.hash_json(found)}


def plain(value: Mapping[str, Any] | BaseModel) -> dict[str, Any]:
    """A dict from either a dict or one of the record's schemas."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else dict(value)


def dump(value: Any) -> str:
    """JSON for people: indented, keys in the order given, one line end at the end."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def gzip_bytes(data: bytes) -> bytes:
    """gzip without a time or a name, so that the same bytes compress to the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=9) as file:
        file.write(data)
    return buffer.getvalue()


def slug(text: str) -> str:
    """Text that is safe as a folder name: lower case letters, digits, `.`, `_` and single `-`."""
    return re.sub(r"-+", "-", re.sub(r"[^a-z0-9._]+", "-", text.lower())).strip("-.") or "x"
