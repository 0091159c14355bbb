"""Write a record from what the steps left: score, predictions, times, and what is known of the machine."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.machine import hardware
from deckbench.record.samples import csv_bytes, join_samples, pick_pictures, thumbnail
from deckbench.record.schema import (
    ARTIFACT,
    RECORD,
    SAMPLES,
    SCHEMA,
    Block,
    Estimate,
    Input,
    Latency,
    Metrics,
    Model,
    PoolRef,
    Record,
    parse,
)
from deckbench.record.times import find_times

THUMBS = "thumbs"


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
    inputs: Iterable[Mapping[str, Any] | Input] = (),
    score: Mapping[str, Any] | None = None,
    predictions: Path | None = None,
    data: Path | None = None,
    latency: Mapping[str, Any] | None = None,
    bench: Mapping[str, Any] | None = None,
    audit: Mapping[str, Any] | None = None,
    container: Mapping[str, Any] | None = None,
    device: str = "cpu",
    emulated: bool = False,
    machine: Mapping[str, Any] | None = None,
    packages: Mapping[str, str] | None = None,
) -> Path:
    """Write `out_root/<name>/` and return it. The name ends in 8 digits of the content's hash.

    The same record written again is left as it is, unless only now a bench has measured its times. score: the content
    of score.json. predictions, data: the predictions CSV and the dataset folder they answer (both or neither). bench:
    `observed["results"]` of a bench; times come from it, else from `latency` (kind of answer -> `Latency`), else from
    FILE.timings.csv beside the predictions, and are
    kept unhashed. machine, packages: default, of this machine.
    Raises InputError when a field or a file is wrong.
    """
    if (predictions is None) != (data is None):
        raise InputError("a record needs both the predictions and their dataset, or neither", predictions or data)
    samples = join_samples(predictions, data) if predictions is not None and data is not None else None
    pictures: dict[str, bytes] = {}
    if samples is not None and data is not None:
        places = {}
        for number, image in enumerate(pick_pictures(samples)):
            places[image] = f"{THUMBS}/{number:02d}.jpg"
            pictures[places[image]] = thumbnail(artifact.inside(data, image, data / "samples.csv"))
        samples["thumbnail"] = [places.get(image, "") for image in samples["image"]]
    table = None if samples is None else csv_bytes(samples)
    try:
        metrics = None if score is None else metrics_from(score).model_dump(mode="json")
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"the score cannot be read: {error}", "score.json", "run `deckbench score` again") from error
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
            "audit": audit,
            "hardware": dict(machine or hardware.describe(device=device, emulated=emulated)),
            "packages": dict(packages if packages is not None else hardware.packages()),
            "container": container,
            "seed": seed,
            "command": command,
        },
        "the record",
    )
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
    with (
        aside(out),
        artifact.writing(
            out, ARTIFACT, inputs={entry.name: entry.sha256 for entry in record.inputs}, seed=seed
        ) as draft,
    ):
        artifact.atomic_write(draft.path / RECORD, dump(body))
        if table is not None:
            (draft.path / SAMPLES).write_bytes(gzip_bytes(table))
        for name, data_bytes in pictures.items():
            (draft.path / name).parent.mkdir(exist_ok=True)
            (draft.path / name).write_bytes(data_bytes)
        draft.observed.update(observed)
    return out


@contextlib.contextmanager
def aside(out: Path) -> Iterator[None]:
    """Keep an older record hidden beside `out` while it is written anew; it comes back when that fails."""
    if not (out / artifact.MANIFEST).is_file():
        yield
        return
    old = out.with_name(f".{out.name}.{secrets.token_hex(4)}.old")
    out.rename(old)
    try:
        yield
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


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


def metrics_from(score: Mapping[str, Any]) -> Metrics:
    """Copy from score.json what a record keeps. Raises ValueError (pydantic's) or KeyError when it is not a score."""

    def slice_of(value: Mapping[str, Any]) -> dict[str, Any]:
        return {"n": value["n"], "unparsed": value["unparsed"], "metrics": metrics_of(value)}

    def metrics_of(value: Mapping[str, Any]) -> dict[str, Any]:
        return {name: known_only(Estimate, metric) for name, metric in value["metrics"].items()}

    blocks = {}
    for kind, block in score["kinds"].items():
        blocks[kind] = {**known_only(Block, block), "metrics": metrics_of(block)}
        for name in [name for name in Block.model_fields if name.startswith("by_")]:
            blocks[kind][name] = {row: slice_of(value) for row, value in (block.get(name) or {}).items()}
    return Metrics.model_validate({**known_only(Metrics, score), "kinds": blocks})


def known_only(schema: type[BaseModel], value: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `value` that `schema` has: a scorer may say more than a record keeps."""
    return {key: value[key] for key in schema.model_fields if key in value}


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
