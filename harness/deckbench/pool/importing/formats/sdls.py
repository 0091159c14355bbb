"""`sdls`: photos of a self-driving lab's stations, inspected before and after each step of a workflow.

`records_*.json`: a list of inspections, one (picture, step, phase) each; `metasteps_caption.json`: what is checked at a
step, and what is normal and abnormal there; `glossary.json`: names of objects and of kinds of anomaly; `image/`.

A robot arm goes to the same poses again and again while the state of the station changes, so a session is a camera
pose, as everywhere in DeckBench: a station seen from one direction, near and far. Each such group has frames of all
states of its station, so it says nothing about a verdict, and no two groups have near-duplicates (docs/pools.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from deckbench.errors import InputError
from deckbench.picture import SUFFIXES, PictureFacts
from deckbench.pool.importing.data import (
    ImportedCheck,
    ImportedData,
    ImportedFrame,
    ListedRecord,
    NoBox,
    Refused,
    Source,
    box_in,
)
from deckbench.pool.importing.jsonfile import Repeated, load, text_of
from deckbench.pool.importing.pictures import find_picture, look_at_pictures
from deckbench.yolo.credit import Credit
from deckbench.yolo.frame import Box4

RECORDS, STEPS, GLOSSARY, PICTURES = "records_*.json", "metasteps_caption.json", "glossary.json", "image"
LICENCES = ("license", "LICENSE", "LICENSE.txt")
MAX_RECORDS = 100_000
MAX_BOXES = 500
PHASES = ("pre", "post")
OBJECT, NORMAL = "object", "Normal"
CREDIT = Credit(
    title="SDLS abnormal detection data (mobile arm), data of arXiv:2506.05405",
    source="https://github.com/letsgo-2/sdls-abnormaldetect",
    licence="CC BY 4.0",
    licence_url="https://creativecommons.org/licenses/by/4.0/",
    changes="pictures unchanged; annotations rewritten as YOLO labels, groups and checks",
)
REASONS = {
    # refused: the record gives no check
    "broken-record": "a field is missing or holds what it cannot",
    "key-twice": "a field stands twice in the record",
    "unknown-step": "the steps' file does not know this step and phase",
    "picture-path": "the path of the picture leaves the folder",
    "picture-name": "the picture's name is none for a frame",
    "picture-missing": "the picture is not there",
    "picture-unreadable": "the picture cannot be read",
    "unknown-anomaly": "the glossary does not know this kind of anomaly",
    "verdict-and-kind": "the verdict contradicts the kind of anomaly",
    "verdict-and-steps": "the steps' file has this state under the other verdict, or as another kind of anomaly",
    "check-and-steps": "the steps' file says that something else is checked",
    "two-verdicts": "the same inspection has another verdict in another record",
    "differs": "the same inspection has other texts, kinds or regions in another record",
    "repeated": "the same record again",
    # notices: the record gives a check
    "region-tag": "the tag of the region does not fit the record's verdict; the region is used",
    "region-unusable": "the region is left out",
    "region-cut": "the region was cut at the picture's border",
    "box-unusable": "the object's box is left out",
    "box-cut": "the object's box was cut at the picture's border",
    "box-class": "the glossary does not know this object; its box is left out",
    "objects-differ": "another record of this picture has other objects; the first one's are used",
    "place-differs": "another record of this picture has another station or view; the first one's are used",
    "not-in-steps": "the steps' file does not know this state",
    "step-without-text": "the steps' file does not describe this step; its number stands for it",
    "pictures-alike": "another picture has the same bytes",
    "picture-unused": "no record is about this picture",
}


@dataclass(frozen=True)
class Phase:
    """What the steps' file says of a step and phase. states: description -> None (normal) or its kind of anomaly."""

    content: str
    normal: tuple[str, ...]
    states: dict[str, str | None]
    both: frozenset[str]


@dataclass
class Reading:
    """What is read so far."""

    folder: Path
    phases: dict[tuple[str, str], Phase]
    anomalies: frozenset[str]
    classes: tuple[str, ...]
    frames: dict[str, ImportedFrame] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)
    refused: list[ListedRecord] = field(default_factory=list)
    notices: list[ListedRecord] = field(default_factory=list)


def read(folder: Path) -> ImportedData:
    """Read the set's files. Raises InputError where they are not its own, or no record can be used."""
    files: dict[str, str] = {}
    fix = "give the folder that holds records_*.json, metasteps_caption.json, glossary.json and image/"
    if not folder.is_dir():
        raise InputError("not found; the folder of the data set is expected here", folder, fix)
    tables = sorted(path for path in folder.glob(RECORDS) if path.is_file())
    if not tables:
        raise InputError(f"no {RECORDS} lies in this folder", folder, fix)
    glossary = read_glossary(folder / GLOSSARY, load(folder / GLOSSARY, files, fix), fix)
    phases = read_steps(folder / STEPS, load(folder / STEPS, files, fix), fix)
    reading = Reading(folder, phases, *glossary)
    records: list[tuple[Source, Any]] = []
    for table in tables:
        value = load(table, files, fix)
        if not isinstance(value, list) or len(value) > MAX_RECORDS:
            raise InputError(f"a list of at most {MAX_RECORDS:,} records is expected", table, fix)
        records += [(source_of(table.name, number, record), record) for number, record in enumerate(value, 1)]
    named = [record["Image_Id"] for _, record in records if is_text(record, "Image_Id")]
    pictures = look_at_pictures(folder, named)
    seen: dict[tuple[str, tuple[str, str, str]], list[tuple[ImportedCheck, Any]]] = {}
    for source, record in records:
        try:
            frame, check = read_record(reading, source, record, pictures)
        except Refused as refused:
            reading.refused.append(ListedRecord(source, refused.reason, refused.what))
            continue
        seen.setdefault((frame.name, check.key), []).append((check, record))
        reading.frames.setdefault(frame.name, frame)
    for (name, _), given in seen.items():
        settle(reading, reading.frames[name], given)
    frames = [frame for name, frame in sorted(reading.frames.items()) if frame.checks]
    if not frames:
        first = min(reading.refused, key=lambda one: one.source.record, default=None)
        example = f"; the first: {place(first.source)}: {first.what}" if first else ""
        raise InputError(f"none of {len(records)} records can be used{example}", folder, fix)
    list_pictures(reading, frames)
    gone = {one.source for one in reading.refused}
    reading.notices = [one for one in reading.notices if one.source not in gone]
    licence = next((folder / name for name in LICENCES if (folder / name).is_file()), None)
    used = {cls for frame in frames for cls, _ in frame.boxes}
    return ImportedData(
        credit=CREDIT,
        records=len(records),
        frames=frames,
        classes=tuple(name for name in reading.classes if name in used),
        refused=reading.refused,
        notices=reading.notices,
        files=files,
        reasons=REASONS,
        licence_file=licence,
    )


def place(source: Source) -> str:
    return f"{source.file}, record {source.record}" if source.record else source.file


def read_glossary(path: Path, value: Any, fix: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Kinds of anomaly and objects. Raises InputError."""
    lists = [value.get(key) for key in ("anomaly_types", "object_list")] if isinstance(value, dict) else []
    texts = [[text_of(word) for word in words] for words in lists if isinstance(words, list)]
    if len(texts) != 2 or not all(texts) or any(word is None or ";" in word for words in texts for word in words):
        raise InputError("lists of names `anomaly_types` and `object_list` are expected", path, fix)
    kinds, objects = ([word for word in words if word is not None] for words in texts)
    return frozenset(kinds) - {NORMAL}, tuple(dict.fromkeys(objects))


def read_steps(path: Path, value: Any, fix: str) -> dict[tuple[str, str], Phase]:
    """(step, phase) -> what the steps' file says of it. Raises InputError."""
    phases = {}
    for step, fields in value.items() if isinstance(value, dict) else []:
        for phase in PHASES if isinstance(fields, dict) else ():
            content, results = text_of(fields.get(f"{phase}CheckContent")), fields.get(f"{phase}CheckRes")
            if content is not None and isinstance(results, dict):
                phases[step, phase] = read_phase(content, results)
    if not phases:
        raise InputError("a map of steps with preCheckContent, preCheckRes ... is expected", path, fix)
    return phases


def read_phase(content: str, results: dict[str, Any]) -> Phase:
    states: dict[str, str | None] = {}
    normal, both = [], set()
    for word in ("normal", "abnormal"):
        entries = results.get(word)
        for entry in entries if isinstance(entries, list) else []:
            said = text_of(entry.get("description")) if isinstance(entry, dict) else None
            if said is None:
                continue
            if word == "normal":
                normal.append(said)
            kind = None if word == "normal" else text_of(entry.get("type")) or ""
            if states.setdefault(said, kind) != kind:
                both.add(said)  # the file contradicts itself: it decides nothing about this state
    return Phase(content, tuple(dict.fromkeys(normal)), states, frozenset(both))


def source_of(file: str, number: int, record: Any) -> Source:
    """Where a record stands, with what it says of itself as far as that can be written."""
    fields = record if isinstance(record, dict) else {}
    picture, step, phase = ((text_of(fields.get(key)) or "")[:200] for key in ("Image_Id", "step", "phase"))
    return Source(file, number, picture, step, phase)


def is_text(record: Any, key: str) -> bool:
    return isinstance(record, dict) and isinstance(record.get(key), str)


def field_text(record: dict[str, Any], key: str) -> str:
    """A text of a record. Raises Refused."""
    text = text_of(record.get(key))
    if text is None:
        raise Refused("broken-record", f"`{key}` is {'missing' if key not in record else 'no text of one line'}")
    return text


def optional_text(record: dict[str, Any], key: str) -> str:
    """A text that may be null, as an empty one. Raises Refused."""
    return "" if key in record and record[key] is None else field_text(record, key)


def read_record(
    reading: Reading, source: Source, record: Any, pictures: dict[str, PictureFacts | Refused]
) -> tuple[ImportedFrame, ImportedCheck]:
    """One inspection and its frame. Raises Refused."""
    if not isinstance(record, dict):
        raise Refused("broken-record", "the record is no object")
    if isinstance(record, Repeated):
        raise Refused("key-twice", "a key stands twice in this object")
    step, phase = field_text(record, "step"), field_text(record, "phase")
    said = reading.phases.get((step, phase))
    if said is None:
        raise Refused("unknown-step", f"step {step[:60]!r}, phase {phase[:60]!r}")
    check = field_text(record, "Detection_Content")
    if check != said.content:
        raise Refused("check-and-steps", f"{check[:150]!r} is checked here, {said.content[:150]!r} there")
    verdict, kind = read_verdict(reading, said, record)
    station, view, distance = (field_text(record, key) for key in ("Detection_Location", "Views", "Distance"))
    caption, described = (optional_text(record, key) for key in ("Caption", "Stage_Description"))
    name = field_text(record, "Image_Id")
    facts = pictures[record["Image_Id"]]
    if isinstance(facts, Refused):
        raise facts
    grounding = record.get("Grounding")
    if not isinstance(grounding, list) or len(grounding) > MAX_BOXES:
        raise Refused("broken-record", f"`Grounding` is no list of at most {MAX_BOXES} boxes")
    if text_of(record.get("Anomaly_Label_Description")) not in said.states:
        reading.notices.append(ListedRecord(source, "not-in-steps", "`Anomaly_Label_Description` is not listed there"))
    if not described:
        reading.notices.append(ListedRecord(source, "step-without-text", f"{step} has no description"))
    objects, regions = read_boxes(reading, source, grounding, facts, kind or NORMAL)
    path = find_picture(reading.folder, record["Image_Id"])
    frame = ImportedFrame(
        path=path,
        name=path.name,
        sha256=facts.sha256,
        width=facts.width,
        height=facts.height,
        group=f"{station}, {view}",
        view=f"{view}; {distance}",
        boxes=objects,
    )
    join_frame(reading, source, frame, name)
    return frame, ImportedCheck(
        source=source,
        step=f"{step}: {described}" if described else step,
        phase=phase,
        check=check,
        expected=" Or: ".join(said.normal),
        verdict=verdict,
        anomaly=kind or "",
        caption=caption,
        regions=regions,
    )


def read_verdict(reading: Reading, said: Phase, record: dict[str, Any]) -> tuple[str, str | None]:
    """The verdict and the kind of anomaly. Raises Refused where the record or the steps' file contradicts it."""
    label, kind = record.get("Anomaly_Label"), record.get("Anomaly_Type")
    if not isinstance(label, bool):
        raise Refused("broken-record", "`Anomaly_Label` is neither true nor false")
    if kind in (NORMAL, ""):
        kind = None
    if kind is not None and (text_of(kind) is None or kind not in reading.anomalies):
        raise Refused("unknown-anomaly", f"`Anomaly_Type` is {str(kind)[:60]!r}")
    if label != (kind is not None):
        raise Refused("verdict-and-kind", f"`Anomaly_Label` is {str(label).lower()}, `Anomaly_Type` is {kind!r}")
    state = text_of(record.get("Anomaly_Label_Description"))
    if state is not None and state in said.states and state not in said.both and said.states[state] != kind:
        there = said.states[state] or NORMAL
        raise Refused("verdict-and-steps", f"{state[:150]!r} is {kind or NORMAL} here, {there} there")
    return ("anomaly" if label else "normal"), kind


def read_boxes(
    reading: Reading, source: Source, grounding: list[Any], facts: PictureFacts, tag: str
) -> tuple[tuple[tuple[str, Box4], ...], tuple[Box4, ...]]:
    """Objects with their classes, and the regions of the verdict. tag: what the category of a region should be."""
    objects, regions = [], []
    for number, entry in enumerate(grounding, 1):
        what = f"box {number}"
        fields = entry if isinstance(entry, dict) else {}
        category, cls = fields.get("category"), text_of(fields.get("text_span"))
        word = "box" if category == OBJECT else "region"
        try:
            box, cut = box_in(fields.get("bbox"), facts.width, facts.height)
        except NoBox as error:
            shown = str(fields.get("bbox"))[:80].encode("ascii", "backslashreplace").decode()
            reading.notices.append(ListedRecord(source, f"{word}-unusable", f"{what}, {shown}, {error}"))
            continue
        if cut:
            reading.notices.append(ListedRecord(source, f"{word}-cut", f"{what}, {fields['bbox']}"))
        if category != OBJECT:
            if category != tag:
                shown = str(category)[:60].encode("ascii", "backslashreplace").decode()
                reading.notices.append(
                    ListedRecord(source, "region-tag", f"{what} is tagged {shown}, the verdict is {tag}")
                )
            regions.append(box)
        elif cls is None or cls not in reading.classes:
            reading.notices.append(ListedRecord(source, "box-class", f"{what}, {(cls or '')[:60]!r}"))
        else:
            objects.append((cls, box))
    return tuple(objects), tuple(dict.fromkeys(regions))


def join_frame(reading: Reading, source: Source, frame: ImportedFrame, name: str) -> None:
    """Compare a frame with what earlier records said of its picture. Raises Refused where that is another picture."""
    stem = PurePosixPath(frame.name).stem
    known = reading.objects.setdefault(stem, frame)
    if known.path != frame.path:
        raise Refused("picture-name", f"{name[:100]!r}: another picture of this name is {known.path.name}")
    if known is frame:
        return
    if known.boxes != frame.boxes:
        reading.notices.append(
            ListedRecord(source, "objects-differ", f"{len(frame.boxes)} here, {len(known.boxes)} there")
        )
    if (known.group, known.view) != (frame.group, frame.view):
        reading.notices.append(ListedRecord(source, "place-differs", f"{frame.group} here, {known.group} there"))


def settle(reading: Reading, frame: ImportedFrame, given: list[tuple[ImportedCheck, Any]]) -> None:
    """Take one inspection of a frame; where records of it differ in their verdict, none is known to be right."""
    first, record = given[0]
    if len({check.verdict for check, _ in given}) > 1:
        for check, _ in given:
            others = [place(other.source) for other, _ in given if other.verdict != check.verdict]
            reading.refused.append(ListedRecord(check.source, "two-verdicts", f"the other: {others[0]}"))
        return
    frame.checks.append(first)
    for check, other in given[1:]:
        reason = "repeated" if other == record else "differs"
        reading.refused.append(ListedRecord(check.source, reason, f"the first: {place(first.source)}"))


def list_pictures(reading: Reading, frames: list[ImportedFrame]) -> None:
    """Pictures that are there twice, and those that no record is about."""
    first: dict[str, ImportedFrame] = {}
    for frame in frames:
        known = first.setdefault(frame.sha256, frame)
        if known is not frame:
            source = Source(PICTURES, 0, frame.name)
            reading.notices.append(ListedRecord(source, "pictures-alike", f"{known.name} has the same bytes"))
    named = {frame.path for frame in reading.objects.values()}
    for path in pictures_in(reading.folder / PICTURES):
        if path not in named:
            shown = path.name.encode("ascii", "backslashreplace").decode()[:200]
            reading.notices.append(
                ListedRecord(Source(PICTURES, 0, shown), "picture-unused", "no usable record names it")
            )


def pictures_in(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
