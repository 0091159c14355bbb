"""Read records back: strictly, with the file and the field in every message."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.grade import Kind
from deckbench.ontology import Ontology
from deckbench.predictions import PROBABILITIES
from deckbench.record.calibration import MAX_BYTES, Calibration
from deckbench.record.judged import MAX_BYTES as MAX_JUDGED_BYTES
from deckbench.record.judged import Judged, read_judged
from deckbench.record.lineage import MAX_LINEAGE_BYTES, Lineage
from deckbench.record.questions import Question, parse_questions
from deckbench.record.samples import LATER_COLUMNS, SAMPLE_COLUMNS, shown_image
from deckbench.record.schema import (
    ARTIFACT,
    CALIBRATION,
    JUDGED,
    LINEAGE,
    MAX_SAMPLE_BYTES,
    MAX_THUMB_BYTES,
    MAX_THUMBS,
    ONTOLOGY,
    QUESTIONS,
    RECORD,
    SAMPLES,
    SCHEMA,
    SIGNATURE,
    STATEMENT,
    THUMBS,
    Latency,
    Observed,
    Record,
    parse,
    shown,
)
from deckbench.record.signature import Signature, check_signature
from deckbench.record.statement import check_statement, statement_of
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
    signature: Signature = field(default_factory=Signature)
    found: tuple[str, ...] | None = None

    def keep(self, found: tuple[str, ...]) -> None:
        """Keep what `recompute.differences` found: it is the same however often it is asked."""
        object.__setattr__(self, "found", found)

    @property
    def latency(self) -> Latency | None:
        """The time of an answer: of a verdict or a choice where that was measured, else of what was."""
        times = self.observed.latency
        return times.get("choice") or next(iter(times.values()), None)


# Largest size of each file in bytes; of those in gzip, what they unpack to is bounded too.
MOST_BYTES = {
    RECORD: 16 << 20,
    artifact.MANIFEST: 8 << 20,
    SAMPLES: MAX_SAMPLE_BYTES,
    QUESTIONS: MAX_SAMPLE_BYTES,
    LINEAGE: MAX_LINEAGE_BYTES,
    ONTOLOGY: 1 << 20,
    CALIBRATION: MAX_BYTES,
    JUDGED: MAX_JUDGED_BYTES,
    STATEMENT: 1 << 20,
    SIGNATURE: 2 << 20,
}
MAX_ROWS = 200_000
KINDS = get_args(Kind)
MAX_QUESTION_BYTES = 32 << 20  # unpacked
BESIDE = {artifact.MANIFEST, STATEMENT, SIGNATURE}  # what lies in a record without being in its manifest
RESTORE = "restore it, or write the record again"


def record_folders(records: Path) -> list[Path]:
    """The folders of all records, by name. Raises InputError when the folder is missing or holds no record."""
    if not records.is_dir():
        raise InputError("no such folder of records", records, "`deckbench run` writes records")
    if (records / RECORD).is_file():
        raise InputError("this is a record, not a folder of records", records, f"give {records.parent}")
    found = sorted(path for path in records.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not any((path / name).exists() for path in found for name in (RECORD, SAMPLES, LINEAGE)):
        raise InputError("the folder holds no records", records, "`deckbench run` writes records")
    return found


def read_record(folder: Path, *, signed: bool = True) -> Run:
    """Read and check one record: manifest, hashes of all files, schema, statement and signature.

    signed: whether its signature is looked at. Whether it proves itself is `recompute.differences`.

    Raises InputError naming the file.
    """
    place = folder / RECORD
    if folder.is_symlink():
        raise InputError("is a link, not a record", folder, "copy the record itself: cp -rL")
    if not folder.name.isprintable() or not encodes(folder.name):
        raise InputError("the name of the record cannot be shown", repr(str(folder)), "rename its folder")
    if not place.is_file():
        raise InputError(
            f"no {RECORD}: this is not a record", folder, "give the folder of a record, or one that holds records"
        )
    names = plain_files(folder)
    value = artifact.read_json(place, RESTORE)
    if value.get("schema") != SCHEMA:
        raise InputError(
            f"schema version {shown(repr(value.get('schema')))} is unknown; this DeckBench reads {SCHEMA}",
            place,
            "read it with the version of DeckBench that wrote it",
        )
    if not encodes(value):
        raise InputError("holds text that is not Unicode", place, RESTORE)
    record = parse(Record, value, place)
    expected = {SAMPLES: record.samples, ONTOLOGY: record.ontology, CALIBRATION: record.calibration}
    expected[JUDGED] = record.judged
    for name, wanted in ({**expected, QUESTIONS: True, LINEAGE: True}).items():
        if wanted is not None and name not in names:
            raise InputError("is missing", folder / name, RESTORE)
    manifest = artifact.read(folder, ARTIFACT, verify=True)
    files = manifest.content["files"]
    if foreign := sorted(names - {*files} - BESIDE):
        raise InputError("is not in the record's manifest", folder / foreign[0], "remove it: a record is closed")
    if foreign := sorted(name for name in files if not is_of_record(name)):
        raise InputError("is no file of a record", folder / shown(foreign[0]), "remove it: a record is closed")
    if manifest.content["inputs"] != {entry.name: entry.sha256 for entry in record.inputs}:
        raise InputError("the inputs differ from those in the record", folder / artifact.MANIFEST, "write it again")
    if manifest.content["seed"] != record.seed or manifest.content["params"]:
        raise InputError("the seed differs from that in the record", folder / artifact.MANIFEST, "write it again")
    if not encodes(manifest.observed):
        raise InputError("holds text that is not Unicode", folder / artifact.MANIFEST, RESTORE)
    observed = parse(Observed, manifest.observed, folder / artifact.MANIFEST)
    guarded = {name: value for name, value in manifest.observed.items() if name != "sha256"}
    if artifact.hash_json(guarded) != observed.sha256:
        raise InputError("the observed part was edited", folder / artifact.MANIFEST, "write the record again")
    digests = {name: str(entry["sha256"]) for name, entry in files.items()}
    digests[artifact.MANIFEST] = artifact.hash_file(folder / artifact.MANIFEST)
    check_statement(folder, statement_of(record, digests, observed.written))
    pictures = tuple(sorted(name for name in files if name.startswith(f"{THUMBS}/")))
    signature = check_signature(folder) if signed else Signature()
    return Run(folder, folder.name, record, observed, manifest.content_hash, pictures, signature)


def encodes(value: Any) -> bool:
    """Whether all texts of a JSON value can be written again: a lone surrogate cannot."""
    try:
        artifact.canonical(value)
    except (ValueError, RecursionError):
        return False
    return True


def is_of_record(name: str) -> bool:
    """Whether a file of this name belongs into a record."""
    known = {RECORD, SAMPLES, QUESTIONS, LINEAGE, ONTOLOGY, CALIBRATION, JUDGED}
    return name in known or re.fullmatch(rf"{THUMBS}/[0-9]{{2}}\.jpg", name) is not None


def plain_files(folder: Path) -> set[str]:
    """The names of all files below a record.

    Raises InputError for a link, a pipe or a device among them, for a file that is too large and for a foreign folder.
    """
    names = set()
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
                raise InputError("is not a plain file", path, "a record holds plain files alone; write it again")
            name = path.relative_to(folder).as_posix()
            if stat.S_ISDIR(found.st_mode):
                if name != THUMBS:
                    raise InputError("is no folder of a record", path, "remove it: a record is closed")
                continue
            most = MOST_BYTES.get(name, MAX_THUMB_BYTES)
            if found.st_size > most:
                raise InputError(f"is larger than {most >> 20} MiB", path, RESTORE)
            names.add(name)
            if len(names) > len(MOST_BYTES) + MAX_THUMBS:
                raise InputError(f"holds more than {MAX_THUMBS} thumbnails", folder, "write the record again")
    return names


def read_all(records: Path) -> tuple[list[Run], list[InputError]]:
    """Every record that can be read, and the error of each that cannot."""
    runs, broken = [], []
    for folder in record_folders(records):
        try:
            runs.append(read_record(folder))
        except InputError as error:
            broken.append(error)
        except OSError as error:
            broken.append(InputError(f"cannot be read ({error.strerror})", folder, "check its permissions"))
    return runs, broken


def unpacked(run: Run, name: str, sha256: str, most: int) -> bytes:
    """A file in gzip, unpacked. Raises InputError when it is damaged, too large, or not the one the record names."""
    place = run.folder / name
    try:
        with gzip.open(place) as file:
            data = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"is damaged ({error})", place, RESTORE) from error
    if len(data) > most:
        raise InputError(f"unpacks to more than {most >> 20} MiB", place, RESTORE)
    if hashlib.sha256(data).hexdigest() != sha256.removeprefix("sha256:"):
        raise InputError("is not the one the record names", place, RESTORE)
    return data


def read_lineage(run: Run) -> Lineage:
    """What a record was made from. Raises InputError when it is damaged or is not the one the record names."""
    data = unpacked(run, LINEAGE, run.record.lineage, MAX_LINEAGE_BYTES)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError("is not JSON", run.folder / LINEAGE, RESTORE) from error
    return parse(Lineage, value, run.folder / LINEAGE)


def read_questions(run: Run) -> Mapping[str, Question]:
    """The dataset's test part by id. Raises InputError when it is damaged or is not the one the record names."""
    data = unpacked(run, QUESTIONS, run.record.questions, MAX_QUESTION_BYTES)
    try:
        return parse_questions(data)
    except ValueError as error:
        raise InputError(f"is no test part of a dataset: {error}", run.folder / QUESTIONS, RESTORE) from error


def read_thumbnails(run: Run) -> dict[str, str | None]:
    """Name of each thumbnail -> sha256 of the image it says it shows."""
    return {name: shown_image((run.folder / name).read_bytes()) for name in run.pictures}


def read_samples(run: Run) -> tuple[dict[str, str], ...]:
    """The rows of a record's samples: SAMPLE_COLUMNS and LATER_COLUMNS, all text; `p_*` are empty or a probability.

    Plain rows, not a DataFrame: a site reads hundreds of these small files. Raises InputError when the file is damaged
    or is not the one the record names.
    """
    if run.record.samples is None:
        return ()
    place = run.folder / SAMPLES
    data = unpacked(run, SAMPLES, run.record.samples, MAX_SAMPLE_BYTES)
    csv.field_size_limit(MAX_SAMPLE_BYTES)  # else a long answer could not be read
    try:
        reader = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
        head = next(reader, [])
        if tuple(head) not in {SAMPLE_COLUMNS, (*SAMPLE_COLUMNS, *LATER_COLUMNS)}:
            raise ValueError(f"the columns are {shown(', '.join(head))}")
        rows = []
        for cells in reader:
            if len(cells) != len(head):
                raise ValueError("a row's cells do not fit the columns")
            row = {**dict.fromkeys(LATER_COLUMNS, ""), **dict(zip(head, cells, strict=True))}
            check_row(row)
            rows.append(row)
            if len(rows) > MAX_ROWS:
                raise ValueError(f"more than {MAX_ROWS} samples")
    except (ValueError, csv.Error) as error:
        raise InputError(f"is not a table of samples: {error}", place, "write the record again") from error
    return tuple(rows)


def check_row(row: dict[str, str]) -> None:
    """Raises ValueError for a cell that its column cannot hold."""
    for name in ("right", "substring"):
        if row[name] not in {"true", "false"}:
            raise ValueError(f"{name} is {row[name]!r}, not true or false")
    if row["kind"] not in KINDS:
        raise ValueError(f"kind is {row['kind']!r}")
    for name in PROBABILITIES:
        if row[name] and not 0 <= float(row[name]) <= 1:
            raise ValueError(f"{name} is {row[name]}, not a probability")
    for name in ("tokens_in", "tokens_out"):
        if row[name] and not (row[name].isascii() and row[name].isdigit() and len(row[name]) < 16):
            raise ValueError(f"{name} is {row[name][:40]!r}, not a count")


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


def read_record_calibration(run: Run) -> Calibration | None:
    """The calibration that a record was scored with; None where there is none.

    Raises InputError when it is damaged or is not the one the record names. Whether it follows from the val answers in
    it is for `recompute` to say.
    """
    if run.record.calibration is None:
        return None
    place = run.folder / CALIBRATION
    found = parse(Calibration, artifact.read_json(place, RESTORE), place)
    if found.content_hash != run.record.calibration.removeprefix("sha256:"):
        raise InputError("is not the calibration the record names", place, RESTORE)
    return found


def read_record_judged(run: Run) -> Judged | None:
    """What a judge said of a record's answers; None where none was asked.

    Raises InputError when it is damaged or is not what the record names.
    """
    if run.record.judged is None:
        return None
    found = read_judged(run.folder / JUDGED)
    if found.content_hash != run.record.judged.removeprefix("sha256:"):
        raise InputError("is not what the judge of the record said", run.folder / JUDGED, RESTORE)
    return found
