"""`pool import`: reads another data set's own files and writes a YOLO pool with groups, views and checks."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from deckbench import artifact
from deckbench.csvfile import csv_text
from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.picture import MAX_BYTES
from deckbench.pool.importing import formats
from deckbench.pool.importing.data import ImportedData, ImportedFrame, ListedRecord
from deckbench.pool.tables import ENGLISH_COLUMNS, label_line, region_cell
from deckbench.progress import say, track

REFUSED, NOTICES = "refused.csv", "notices.csv"
LISTED = ("file", "record", "picture", "step", "phase", "reason", "what", "meaning")


def known_formats() -> list[str]:
    """The data sets that can be imported: the modules of `formats/`."""
    return sorted(module.name for module in pkgutil.iter_modules(formats.__path__))


def import_pool(name: str, source: Path, *, out: Path) -> dict[str, Any]:
    """Import a data set's own files as a pool.

    The content depends on the files alone, never on where they lie.

    Args:
        name: Which data set; `known_formats` has them.
        source: The folder with its files.
        out: The pool's folder; must not exist yet.

    Returns:
        Counts: records, checks, frames, groups, and by reason what was refused or noticed.

    Raises:
        InputError: An unknown set, not its files, or no record that can be used; nothing is written.
        OutsideError: The disk fails.
    """
    source, out = Path(source), Path(out)
    artifact.check_free(out)
    if name not in known_formats():
        fix = f"one of: {', '.join(known_formats())}; a new one is a module (docs/pools.md)"
        raise InputError(f"no data set {name[:60]!r} can be imported", "FORMAT", fix)
    began = time.monotonic()
    found: ImportedData = importlib.import_module(f"{formats.__name__}.{name}").read(source)
    counts = counts_of(found)
    params = {"format": name, "credit": found.credit.model_dump(mode="json", exclude_none=True), "counts": counts}
    with artifact.writing(out, "pool", inputs={"files": found.files}, params=params) as draft:
        write_pool(draft.path, name, found)
        draft.observed["wall_s"] = round(time.monotonic() - began, 2)
    tell(found)
    return counts


def counts_of(found: ImportedData) -> dict[str, Any]:
    checks = [check for frame in found.frames for check in frame.checks]
    answers = [{check.verdict for check in frame.checks} for frame in found.frames]
    return {
        "records": found.records,
        "checks": len(checks),
        "refused": len(found.refused),
        "frames": len(found.frames),
        "groups": len({frame.group for frame in found.frames}),
        "verdicts": dict(sorted(Counter(check.verdict for check in checks).items())),
        "anomalies": dict(sorted(Counter(check.anomaly for check in checks if check.anomaly).items())),
        "frames_checked_twice": sum(len(frame.checks) > 1 for frame in found.frames),
        "frames_normal_and_anomaly": sum({"normal", "anomaly"} <= verdicts for verdicts in answers),
        "refused_by_reason": dict(sorted(Counter(one.reason for one in found.refused).items())),
        "notices_by_reason": dict(sorted(Counter(one.reason for one in found.notices).items())),
    }


def write_pool(folder: Path, name: str, found: ImportedData) -> None:
    """All files of the pool, in an empty folder."""
    for part in ("images", "labels"):
        (folder / part).mkdir()
    ids = {cls: number for number, cls in enumerate(found.classes)}
    for frame in track(found.frames, "copying pictures", total=len(found.frames)):
        copy_picture(frame, folder / "images" / frame.name)
        lines = (label_line(ids[cls], box) for cls, box in frame.boxes)
        label = folder / "labels" / f"{PurePosixPath(frame.name).stem}.txt"
        label.write_text("".join(lines), encoding="utf-8", newline="\n")
    write_csv(
        folder / "frames.csv",
        ("frame", "group", "view"),
        ((frame_id(frame), frame.group, frame.view) for frame in found.frames),
    )
    write_csv(folder / "checks.csv", ENGLISH_COLUMNS, check_rows(found.frames))
    write_listed(folder / REFUSED, found.refused, found.reasons)
    write_listed(folder / NOTICES, found.notices, found.reasons)
    content = {
        "name": name,
        "train": "images",
        "val": "images",
        "names": dict(enumerate(found.classes)),
        "credit": found.credit.model_dump(mode="json", exclude_none=True),
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    (folder / "dataset.yaml").write_text(text, encoding="utf-8", newline="\n")
    (folder / "README.md").write_text(readme(name, found), encoding="utf-8", newline="\n")
    if found.licence_file is not None:
        (folder / "LICENSE").write_bytes(read_bytes(found.licence_file, 1 << 20))


def copy_picture(frame: ImportedFrame, place: Path) -> None:
    """Copy a picture as it is. Raises InputError where it is no longer what was looked at."""
    try:
        place.write_bytes(read_bytes(frame.path, MAX_BYTES))
    except OSError as error:
        if error.filename is not None and Path(error.filename) == frame.path:
            raise InputError(f"cannot be read ({error.strerror})", frame.path, "import again") from error
        raise
    if artifact.hash_file(place) != frame.sha256:
        raise InputError("the picture changed while it was imported", frame.path, "import again")


def frame_id(frame: ImportedFrame) -> str:
    return f"images/{PurePosixPath(frame.name).stem}"


def check_rows(frames: Iterable[ImportedFrame]) -> Iterable[tuple[str, ...]]:
    for frame in frames:
        for check in sorted(frame.checks, key=lambda check: check.key):
            texts = (check.step, check.phase, check.check, check.expected, check.verdict, check.anomaly)
            yield (frame_id(frame), *texts, region_cell(check.regions), check.caption)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    path.write_text(csv_text(columns, rows), encoding="utf-8", newline="\n")


def write_listed(path: Path, listed: list[ListedRecord], reasons: dict[str, str]) -> None:
    """Every record that gives no check, or what was left out of one, in the order of the files."""
    order = sorted(listed, key=lambda one: (one.source.file, one.source.record, one.source.picture, one.reason))
    rows = []
    for one in order:
        at = one.source
        cells = (at.file, at.record or "", at.picture, at.step, at.phase)
        rows.append((*cells, one.reason, one.what, reasons[one.reason]))
    write_csv(path, LISTED, rows)


def readme(name: str, found: ImportedData) -> str:
    credit, counts = found.credit, counts_of(found)
    lines = [
        f"# {name}",
        "",
        f"{credit.title}, from {credit.source}.",
        f"Licence: {credit.licence}"
        + (f" ({credit.licence_url})" if credit.licence_url else "")
        + (", as the set's own file LICENSE has it." if found.licence_file is not None else "."),
        *([f"Changes: {credit.changes}."] if credit.changes else []),
        "",
        f"Made by `deckbench pool import {name}`: {counts['frames']} frames in {counts['groups']} groups, "
        f"{counts['checks']} checks of {counts['records']} records.",
        f"{REFUSED} lists the {counts['refused']} records that give no check, {NOTICES} what is odd in the others.",
    ]
    return "\n".join(lines) + "\n"


def tell(found: ImportedData) -> None:
    """What a person should know at once."""
    for title, listed in (("refused", found.refused), ("notice", found.notices)):
        for reason, count in sorted(Counter(one.reason for one in listed).items()):
            first = next(one for one in listed if one.reason == reason)
            where = (
                f"{first.source.file}, record {first.source.record}" if first.source.record else first.source.picture
            )
            say(f"{title}: {count} x {reason}: {found.reasons[reason]}; first: {where}: {first.what}")
    counts = counts_of(found)
    say(f"{counts['records']} records: {counts['checks']} checks, {counts['refused']} refused")
