"""Which files of an old tree hold samples, which part of the split they are, and what each of their rows asks."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from deckbench.artifact import hash_file
from deckbench.build.importing.formats import Turn, json_records, turns_of
from deckbench.build.importing.places import Places
from deckbench.build.importing.refused import Refused
from deckbench.build.importing.text import decode, table_rows
from deckbench.disk import read_bytes, real_path
from deckbench.errors import InputError

SURROGATE = re.compile("[\ud800-\udfff]")
STAGES = ("S1", "S2", "S3", "mix")
SUFFIXES = frozenset({".jsonl", ".json", ".csv"})
PARTS = {
    **dict.fromkeys(("train", "training", "trainset", "训练", "训练集"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "eval", "验证", "验证集"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "测试", "测试集"), "test"),
}


@dataclass(frozen=True)
class SourceFolder:
    """One folder (or file) of the old tree. name: of the dataset it becomes. stage: S1, S2, S3, mix, or empty."""

    path: Path
    name: str
    stage: str


@dataclass(frozen=True)
class UnmatchedRow:
    """A line of `unmatched.csv`. row: the line of a text, the number of a record in a JSON array; 0: the whole file."""

    dataset: str
    file: str
    row: int
    reason: str
    what: str


@dataclass
class OldSample:
    """One question of an old file about one picture that is there. part: train, val, test, or empty."""

    dataset: str
    file: str
    row: int
    part: str
    picture: Path
    named: str
    question: str
    answer: str
    stage: str = ""
    sha256: str = ""


@dataclass
class Sources:
    """What reading gave. said: (dataset, question, answer, name of the picture's file) of every row, refused ones too.

    files: file -> its hash and encoding. tables: CSV files that lie beside JSON files, by dataset.
    """

    asked: list[OldSample] = field(default_factory=list)
    listed: list[UnmatchedRow] = field(default_factory=list)
    said: set[tuple[str, str, str, str]] = field(default_factory=set)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    tables: list[tuple[SourceFolder, Path]] = field(default_factory=list)
    rows: int = 0


def parse_maps(old: Path, pairs: Sequence[str]) -> list[SourceFolder]:
    """`FOLDER=STAGE,FOLDER=STAGE` -> what is imported; without any, all of `old` as one dataset. Raises InputError."""
    words = [word.strip() for pair in pairs for word in pair.split(",") if word.strip()]
    if not words:
        return [SourceFolder(old, old.stem or "old", "")]
    mapped: list[SourceFolder] = []
    for word in words:
        folder, equals, stage = word.rpartition("=")
        if not equals or stage not in STAGES or not folder.strip():
            fix = f"write FOLDER=STAGE, such as region1=S1; stages: {', '.join(STAGES)}"
            raise InputError(f"cannot read {word!r}", "--map", fix)
        path = old if folder.strip() == "." else old / folder.strip()
        if not real_path(path).is_relative_to(real_path(old)):
            raise InputError(f"{folder!r} leaves the imported folder", "--map", f"name a folder inside {old}")
        if not path.exists():
            inside = sorted(p.name for p in old.iterdir() if p.is_dir()) if old.is_dir() else []
            raise InputError(f"{folder!r} is not there", "--map", f"folders here: {', '.join(inside) or 'none'}")
        name = real_path(path).stem if path.is_file() else real_path(path).name
        if any(one.name == name for one in mapped):
            raise InputError(f"two folders are called {name!r}", "--map", "import them one after the other")
        mapped.append(SourceFolder(path, name, stage))
    return mapped


def part_of(path: PurePath) -> str:
    """`train`, `val` or `test` by the words in a file's name, else in its folders' names, nearest first; else empty."""
    for name in (path.stem, *(parent.name for parent in path.parents)):
        words = [word.rstrip("0123456789") for word in re.split(r"[^0-9a-z\u4e00-\u9fff]+", name.lower())]
        found = {PARTS[word] for word in words if word in PARTS}
        if len(found) == 1:
            return found.pop()
    return ""


def source_files(mapped: SourceFolder) -> list[Path]:
    """The files of a mapped folder that may hold samples, sorted."""
    if mapped.path.is_file():
        return [mapped.path]
    found = []
    for folder, folders, names in os.walk(mapped.path):  # does not follow links
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder) / n for n in names if Path(n).suffix.lower() in SUFFIXES and not n.startswith(".")]
    return sorted(found)


def read_sources(
    old: Path,
    maps: Sequence[SourceFolder],
    places: Places,
    columns: Mapping[str, str],
    ignored: Collection[str] = (),
) -> Sources:
    """Every question of the mapped folders. CSV files that lie beside JSON files are tables to compare with.

    ignored: fields that are no part of a question.

    Raises InputError for a file that cannot be decoded or whose header is not known.
    """
    read = Sources()
    for mapped in maps:
        files = source_files(mapped)
        with_json = {path.parent for path in files if path.suffix.lower() != ".csv"}
        for path in files:
            if path.suffix.lower() == ".csv" and path.parent in with_json:
                read.tables.append((mapped, path))
            else:
                _read_file(old, mapped, path, places, columns, ignored, read)
    return read


def shown(path: Path, old: Path) -> str:
    """A path for tables and messages: relative to the imported folder, the same on every machine."""
    base = (old if old.is_dir() else old.parent).resolve()
    return Path(os.path.relpath(path.parent.resolve() / path.name, base)).as_posix()


def read_text(path: Path, old: Path, read: Sources) -> str:
    """A file's text; its hash and encoding are noted. Raises InputError."""
    try:
        text, encoding = decode(read_bytes(path), path)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path, "fix the file's permissions") from error
    read.files[shown(path, old)] = {"sha256": hash_file(path), "encoding": encoding}
    return text


def _records(path: Path, text: str, columns: Mapping[str, str]) -> Iterator[tuple[int, object]]:
    if path.suffix.lower() == ".csv":
        for number, row in table_rows(text, path, columns):
            yield number, row or Refused("broken-row", "the row's cells do not fit the header")
    else:
        yield from json_records(text)


def _read_file(
    old: Path,
    mapped: SourceFolder,
    path: Path,
    places: Places,
    columns: Mapping[str, str],
    ignored: Collection[str],
    read: Sources,
) -> None:
    file = shown(path, old)
    part = part_of(PurePath(path.relative_to(mapped.path)) if path != mapped.path else PurePath(path.name))
    found = False
    text = read_text(path, old, read)
    escaped = "\\ud" in text.lower()
    for number, record in _records(path, text, columns):
        found = True
        read.rows += 1
        try:
            if isinstance(record, Refused):
                raise record
            if escaped and SURROGATE.search(json.dumps(record, ensure_ascii=False)):
                raise Refused("broken-row", "a text holds half a surrogate pair")
            turns = turns_of(record, ignored)
        except Refused as refused:
            read.listed.append(UnmatchedRow(mapped.name, file, number, refused.reason, refused.what))
            continue
        for turn in turns:
            name = PurePath(turn.pictures[0].replace("\\", "/")).name if turn.pictures else ""
            read.said.add((mapped.name, " ".join(turn.question.split()), " ".join(turn.answer.split()), name))
            try:
                read.asked.append(_asked(mapped, file, number, part, turn, path.parent, places))
            except Refused as refused:
                read.listed.append(UnmatchedRow(mapped.name, file, number, refused.reason, refused.what))
    if not found:
        read.listed.append(UnmatchedRow(mapped.name, file, 0, "no-samples", path.name))


def _asked(
    mapped: SourceFolder, file: str, number: int, part: str, turn: Turn, beside: Path, places: Places
) -> OldSample:
    start = " ".join(turn.question.split())[:80]
    if not turn.pictures:
        raise Refused("text-only", start)
    if len(turn.pictures) > 1:
        raise Refused("several-pictures", f"{len(turn.pictures)}: {start}")
    if not turn.question:
        raise Refused("broken-row", "the question is empty")
    if not turn.answer:
        raise Refused("no-answer", start)
    picture = places.find(turn.pictures[0], beside)
    return OldSample(mapped.name, file, number, part, picture, turn.pictures[0], turn.question, turn.answer)
