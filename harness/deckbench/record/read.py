"""Read records back: strictly, with the file and the field in every message."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import stat
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.grade import Kind
from deckbench.ontology import Ontology
from deckbench.predictions import PROBABILITIES
from deckbench.record.samples import SAMPLE_COLUMNS
from deckbench.record.schema import (
    ARTIFACT,
    MAX_SAMPLE_BYTES,
    ONTOLOGY,
    RECORD,
    SAMPLES,
    SCHEMA,
    Latency,
    Observed,
    Record,
    parse,
)
from deckbench.record.terms import Terms


@dataclass(frozen=True, eq=False)
class Run:
    """One record that was read. `name` is its folder's name, unique below the records folder; pictures: its files."""

    folder: Path
    name: str
    record: Record
    observed: Observed
    hash: str
    pictures: tuple[str, ...] = ()

    @property
    def latency(self) -> Latency | None:
        """The time of an answer: of a verdict or a choice where that was measured, else of what was."""
        times = self.observed.latency
        return times.get("choice") or next(iter(times.values()), None)


def record_folders(records: Path) -> list[Path]:
    """The folders of all records, by name. Raises InputError when the folder is missing or holds no record."""
    if not records.is_dir():
        raise InputError("no such folder of records", records, "`deckbench run` writes records")
    found = sorted(path for path in records.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise InputError("the folder holds no records", records, "`deckbench run` writes records")
    return found


def read_record(folder: Path) -> Run:
    """Read and check one record: manifest, hashes of all files, schema. Raises InputError naming the file."""
    place = folder / RECORD
    if not place.is_file():
        raise InputError(
            f"no {RECORD}: this is not a record", folder, "give the folder of a record, or one that holds records"
        )
    names = plain_files(folder)
    value = artifact.read_json(place, "restore it, or write the record again")
    if value.get("schema") != SCHEMA:
        raise InputError(
            f"schema version {value.get('schema')!r} is unknown; this DeckBench reads {SCHEMA}",
            place,
            "read it with the version of DeckBench that wrote it",
        )
    record = parse(Record, value, place)
    for name, there in ((SAMPLES, record.samples), (ONTOLOGY, record.ontology)):
        if there is not None and not (folder / name).is_file():
            raise InputError("is missing", folder / name, "restore it, or write the record again")
    manifest = artifact.read(folder, ARTIFACT, verify=True)
    if foreign := sorted(names - {*manifest.content["files"], artifact.MANIFEST}):
        raise InputError("is not in the record's manifest", folder / foreign[0], "remove it: a record is closed")
    if manifest.content["inputs"] != {entry.name: entry.sha256 for entry in record.inputs}:
        raise InputError("the inputs differ from those in the record", folder / artifact.MANIFEST, "write it again")
    observed = parse(Observed, manifest.observed, folder / artifact.MANIFEST)
    guarded = {name: value for name, value in manifest.observed.items() if name != "sha256"}
    if artifact.hash_json(guarded) != observed.sha256:
        raise InputError("the observed part was edited", folder / artifact.MANIFEST, "write the record again")
    pictures = tuple(sorted(name for name in manifest.content["files"] if name.startswith("thumbs/")))
    return Run(folder, folder.name, record, observed, manifest.content_hash, pictures)


def plain_files(folder: Path) -> set[str]:
    """The names of all files below a record. Raises InputError for a link, a pipe or a device among them."""
    names = set()
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise InputError("is not a plain file", path, "a record holds plain files alone; write it again")
            if stat.S_ISREG(mode):
                names.add(path.relative_to(folder).as_posix())
    return names


def read_all(records: Path) -> tuple[list[Run], list[InputError]]:
    """Every record that can be read, and the error of each that cannot."""
    runs, broken = [], []
    for folder in record_folders(records):
        try:
            runs.append(read_record(folder))
        except InputError as error:
            broken.append(error)
    return runs, broken


@lru_cache(maxsize=512)
def read_samples(run: Run) -> tuple[dict[str, str], ...]:
    """The rows of a record's samples, SAMPLE_COLUMNS each, all text; `p_*` are empty or a probability.

    Plain rows, not a DataFrame: a site reads hundreds of these small files. Raises InputError when the file is damaged
    or is not the one the record names.
    """
    place = run.folder / SAMPLES
    if run.record.samples is None:
        return ()
    try:
        with gzip.open(place) as file:
            data = file.read(MAX_SAMPLE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"is damaged ({error})", place, "restore it, or write the record again") from error
    if len(data) > MAX_SAMPLE_BYTES:
        raise InputError(f"unpacks to more than {MAX_SAMPLE_BYTES >> 20} MiB", place, "restore it, or write it again")
    if hashlib.sha256(data).hexdigest() != run.record.samples.removeprefix("sha256:"):
        raise InputError("is not the table the record names", place, "restore it, or write the record again")
    csv.field_size_limit(MAX_SAMPLE_BYTES)  # else a long answer could not be read
    try:
        reader = csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True)
        if tuple(reader.fieldnames or ()) != SAMPLE_COLUMNS:
            raise ValueError(f"the columns are {', '.join(reader.fieldnames or ())}")
        rows = tuple(reader)
        for row in rows:
            check_row(row)
    except (ValueError, csv.Error) as error:
        raise InputError(f"is not a table of samples: {error}", place, "write the record again") from error
    return rows


def check_row(row: dict[str, str]) -> None:
    """Raises ValueError when a row's cells do not fit the columns."""
    if None in row or None in row.values():
        raise ValueError("a row's cells do not fit the columns")
    for name in ("right", "substring"):
        if row[name] not in {"true", "false"}:
            raise ValueError(f"{name} is {row[name]!r}, not true or false")
    if row["kind"] not in get_args(Kind):
        raise ValueError(f"kind is {row['kind']!r}")
    for name in PROBABILITIES:
        if row[name] and not 0 <= float(row[name]) <= 1:
            raise ValueError(f"{name} is {row[name]}, not a probability")


def read_ontology(run: Run) -> Terms | None:
    """The ontology of a record, as words; None where no scene descriptions were scored with one.

    Raises InputError when it is damaged or is not the one the record names.
    """
    if run.record.ontology is None:
        return None
    place = run.folder / ONTOLOGY
    try:
        data = place.read_bytes()
        terms = Terms(Ontology.model_validate_json(data))
    except (OSError, ValueError) as error:
        raise InputError(f"is damaged ({type(error).__name__})", place, "write the record again") from error
    if hashlib.sha256(data).hexdigest() != run.record.ontology.removeprefix("sha256:"):
        raise InputError("is not the ontology the record names", place, "restore it, or write the record again")
    return terms
