"""A dataset from old samples: its images and rows, where each comes from, and what was not matched."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from deckbench.build.importing import tables
from deckbench.build.importing.recover import Match
from deckbench.build.importing.refused import KEPT, REASONS
from deckbench.build.importing.sources import OldSample, UnmatchedRow
from deckbench.build.pictures import copy_frame, copy_suffix
from deckbench.build.rows import SPLITS, Row, shuffled, write_tables
from deckbench.grade import options_of
from deckbench.parse import parse_scene
from deckbench.picture import open_picture
from deckbench.yolo.frame import Frame, Pool

PICTURES = "pictures.csv"
# Options whose words say which of them means that something is wrong.
WRONG = frozenset({"anomaly", "abnormal", "anomalous", "异常", "不正常"})
RIGHT = frozenset({"normal", "正常"})
_INLINE = re.compile(r"\(?\bA\s*[.):.)::、]\s*(.+?)[\s,;,;]*\(?\bB\s*[.):.)::、]\s*(.+?)\s*$", re.DOTALL)
_CJK = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Facts:
    """A picture that is there. path: one of the files with these bytes."""

    path: Path
    sha256: str
    width: int
    height: int


def options_in(question: str) -> tuple[str, str] | None:
    """The two options that a question names, on two lines or at its end (`... A. yes B. no`)."""
    found = options_of(question)
    if found is None and (match := _INLINE.search(question)) is not None:
        found = match[1].strip().rstrip(".;,"), match[2].strip().rstrip(".。)")
    return found if found is not None and all(found) and found[0] != found[1] else None


def anomaly_of(kind: str, answer: str, options: tuple[str, str] | None) -> bool | None:
    """Whether the right answer says that something is wrong, where its words tell."""
    if kind == "scene":
        return parse_scene(answer)
    if kind != "choice" or options is None:
        return None
    words = [option.strip().strip(".。").casefold() for option in options]
    wrong, right = [word in WRONG for word in words], [word in RIGHT for word in words]
    if sorted(wrong) != [False, True] or sorted(right) != [False, True]:
        return None
    return wrong[answer == "B"]


def write_dataset(
    folder: Path,
    mine: Sequence[OldSample],
    facts: Mapping[str, Facts],
    matches: Mapping[str, Match],
    pool: Pool | None,
    classes: Mapping[str, Mapping[str, str]],
    seed: int,
) -> dict[str, Any]:
    """Pictures, samples.csv, JSONL and pictures.csv of one dataset; returns its counts."""
    (folder / "images").mkdir()
    frames = {} if pool is None else {frame.id: frame for frame in pool.frames}
    images: dict[str, str] = {}
    for asked in mine:
        if asked.sha256 not in images:
            images[asked.sha256] = copy_in(facts[asked.sha256], asked, folder)
    rows = pair_up([row_of(asked, images, facts, matches, frames, classes) for asked in mine])
    rows = shuffled(rows, seed)
    write_tables(folder, rows)
    how = write_pictures(folder / PICTURES, mine, images, matches)
    counts = Counter(row[2] for row in rows)
    kinds = Counter(row[5] for row in rows)
    return {
        "counts": {part: counts[part] for part in SPLITS if counts[part]},
        "kinds": dict(sorted(kinds.items())),
        "pictures": dict(sorted(how.items())),
    }


def copy_in(fact: Facts, asked: OldSample, folder: Path) -> str:
    """Copy a picture into images/; what other readers may not open, or would show turned, is encoded anew."""
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", PurePath(asked.named.replace("\\", "/")).stem).strip("-")[:32]
    suffix = copy_suffix(fact.path)
    name = f"images/{stem + '-' if stem else ''}{fact.sha256[:10]}{suffix or '.png'}"
    if suffix is not None:
        copy_frame(fact.path, folder / name)
    else:
        open_picture(fact.path).save(folder / name, "PNG")
    return name


def row_of(
    asked: OldSample,
    images: Mapping[str, str],
    facts: Mapping[str, Facts],
    matches: Mapping[str, Match],
    frames: Mapping[str, Frame],
    classes: Mapping[str, Mapping[str, str]],
) -> Row:
    """One row of samples.csv. Unknown frames are named after the picture; unknown groups stay empty."""
    letter = asked.answer in {"A", "B"}
    scene = not letter and parse_scene(asked.answer) is not None
    kind = "choice" if letter else "scene" if scene else "open"
    options = options_in(asked.question) if letter else None
    anomaly = anomaly_of(kind, asked.answer, options)
    match = matches.get(asked.sha256)
    frame = frames.get(match.frame) if match is not None and match.frame is not None else None
    texts = classes.get(asked.stage, {})
    cls = (match.cls if match is not None else None) or texts.get(tables.key(asked.question, asked.answer), "")
    digest = hashlib.sha256(f"{asked.sha256}\0{asked.question}\0{asked.answer}\0{asked.part}".encode()).hexdigest()
    fact = facts[asked.sha256]
    return (
        digest[:16],
        digest[:16],
        asked.part,
        asked.stage if asked.stage != "mix" else "",
        "",
        kind,
        f"picture-{asked.sha256[:12]}" if match is None or match.frame is None else match.frame,
        "" if match is None else match.group,
        images[asked.sha256],
        asked.question,
        asked.answer,
        options[0] if options else "",
        options[1] if options else "",
        asked.answer if not scene else "anomaly" if anomaly else "normal",
        "" if anomaly is None else str(anomaly).lower(),
        cls,
        (frame.step if frame is not None else None) or "",
        "zh" if _CJK.search(asked.question) else "en",
        " ".join(str(round(side, 1)) for side in match.box) if match is not None and match.box is not None else "",
        str(fact.width),
        str(fact.height),
        "",
        "",
    )


def pair_up(rows: Sequence[Row]) -> list[Row]:
    """Two rows that ask the same with their options exchanged get one pair_id, so that position bias is seen."""
    found: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row[11] and row[12]:
            low, high = sorted(row[11:13])
            stem = row[9]
            for option in sorted((low, high), key=len, reverse=True):  # "normal" stands inside "abnormal"
                stem = stem.replace(option, "\0")
            found[row[2], row[8], stem, low, high].append(number)
    out = list(rows)
    for numbers in found.values():
        if len(numbers) == 2:
            first, second = (rows[number] for number in numbers)
            if first[11] == second[12] and first[10] != second[10]:
                out[numbers[1]] = (second[0], first[1], *second[2:])
    return out


def write_pictures(
    path: Path, mine: Sequence[OldSample], images: Mapping[str, str], matches: Mapping[str, Match]
) -> Counter[str]:
    """Where every picture comes from; returns how many were recovered in which way."""
    how: Counter[str] = Counter()
    seen: set[str] = set()
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "old", "sha256", "frame", "group", "found_by", "difference", "class"))
        for asked in mine:
            if asked.sha256 in seen:
                continue
            seen.add(asked.sha256)
            match = matches.get(asked.sha256)
            found = ("", "", "", "", "")
            if match is not None:
                gap = "" if match.difference is None else f"{match.difference:.3f}"
                found = (match.frame or "", match.group, match.how, gap, match.cls or "")
            how[found[2] or "unknown"] += 1
            writer.writerow((images[asked.sha256], asked.named, asked.sha256, *found))
    return how


def write_unmatched(path: Path, listed: Sequence[UnmatchedRow]) -> None:
    """Every row that matched nothing, and every one that was left out; in the order of files and rows."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("dataset", "file", "row", "reason", "imported", "what", "meaning"))
        for one in sorted(listed, key=lambda one: (one.dataset, one.file, one.row, one.reason, one.what)):
            kept = "yes" if one.reason in KEPT else "no"
            writer.writerow((one.dataset, one.file, one.row, one.reason, kept, one.what, REASONS[one.reason]))
