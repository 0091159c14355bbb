"""`mix`: several datasets become one, as when S2 is trained with S1 replayed."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.build.rows import CHECK_COLUMNS, COLUMNS, SPLITS, Row, shuffled, write_tables
from deckbench.build.shortcuts import OPTION
from deckbench.csvfile import csv_records
from deckbench.errors import InputError
from deckbench.gold import definitions, read_lines, write_gold

IMAGE, SPLIT, GROUP, FRAME, ID, PAIR, TWIN, TASK, QUESTION, OPTION_A, OPTION_B = (
    COLUMNS.index(name)
    for name in (
        *("image", "split", "group", "frame", "id", "pair_id", "twin", "task"),
        *("question", "option_a", "option_b"),
    )
)


def mix(parts: Sequence[tuple[Path, float]], *, out: Path, seed: int = 0) -> artifact.Manifest:
    """Combine datasets into one, as when S2 is trained with S1 replayed.

    Args:
        parts: (dataset folder, weight). The weight is the share of the part's training images that is kept, drawn by
            seed; all questions about an image stay together. The val and test splits are kept whole.
        out: The dataset's folder; must not exist yet.
        seed: Random seed.

    Returns:
        The manifest of the dataset.

    Raises:
        InputError: A weight is not above 0 and at most 1 (to see a sample twice is a matter of training), a part is no
            dataset or was changed, two parts share samples, or a group, frame or image is on different sides of two
            parts.
        OutsideError: The disk fails.
    """
    if not parts:
        raise InputError("there is nothing to mix", None, "give at least one DATASET[:WEIGHT]")
    manifests = []
    tables: list[list[Row]] = []
    for path, weight in parts:
        if not (math.isfinite(weight) and 0 < weight <= 1):
            raise InputError(f"the weight {weight:g} is not above 0 and at most 1", path, "write DATASET:0.3")
        manifests.append(artifact.read(Path(path), "dataset", verify=True))
        tables.append(_read(Path(path)))
    _refuse_leaks(parts, manifests, tables)
    _refuse_shared(parts, manifests, tables)

    inputs = {f"part{number}": manifest.content_hash for number, manifest in enumerate(manifests)}
    params = {
        "mix": [
            {"task": manifest.content["params"].get("task"), "weight": weight}
            for manifest, (_, weight) in zip(manifests, parts, strict=True)
        ],
        "synthetic": all(bool(manifest.content["params"].get("synthetic")) for manifest in manifests),
    }
    with artifact.writing(Path(out), "dataset", inputs=inputs, params=params, seed=seed) as draft:
        (draft.path / "images").mkdir()
        rows: list[Row] = []
        ids: set[str] = set()
        twins: set[str] = set()
        names: dict[str, tuple[int, str]] = {}
        for number, ((path, weight), table) in enumerate(zip(parts, tables, strict=True)):
            kept = _drawn(table, weight, seed, number)
            rename = _free_prefix(number, ids, [row[ID] for row in kept])
            renumber = _free_prefix(number, twins, [row[TWIN] for row in kept if row[TWIN]])
            for row in kept:
                cells = list(row)
                cells[ID], cells[PAIR] = rename + row[ID], rename + row[PAIR]
                cells[TWIN] = row[TWIN] and renumber + row[TWIN]
                cells[IMAGE] = _place(Path(path), row[IMAGE], number, names, draft.path)
                rows.append(tuple(cells))
            ids |= {row[ID] for row in rows}
            twins |= {row[TWIN] for row in rows}
        rows = shuffled(rows, seed)
        write_tables(draft.path, rows)
        _write_gold(draft.path, [Path(path) for path, _ in parts], {(row[TASK], row[FRAME]) for row in rows})
        counts: dict[str, int] = {}
        for row in rows:
            counts[row[SPLIT]] = counts.get(row[SPLIT], 0) + 1
        draft.params["counts"] = dict(sorted(counts.items()))
    return artifact.read(Path(out), "dataset")


def _read(path: Path) -> list[Row]:
    table = path / "samples.csv"
    rows = []
    for number, record in csv_records(table, required=COLUMNS):
        if record["split"] not in SPLITS:
            raise InputError(f"the split {record['split']!r} is not known", f"{table}:{number}", "build it again")
        more = tuple(record.get(name, "") for name in CHECK_COLUMNS)
        rows.append((*(record[name] for name in COLUMNS), *(more if any(more) else ())))
    return rows


def _refuse_shared(
    parts: Sequence[tuple[Path, float]], manifests: Sequence[artifact.Manifest], tables: Sequence[list[Row]]
) -> None:
    """Refuse parts that ask the same about the same image, in whatever order of options: it would be asked twice."""
    fix = "give each dataset once; to train longer on one, raise `epochs`"
    known: dict[object, tuple[int, Row]] = {}
    for number, ((path, _), manifest, table) in enumerate(zip(parts, manifests, tables, strict=True)):
        if manifest.content_hash in {other.content_hash for other in manifests[:number]}:
            raise InputError("the dataset is given twice: every question would be asked twice", path, fix)
        for row in table:
            asked = " ".join(OPTION.sub("", row[QUESTION]).split()), frozenset((row[OPTION_A], row[OPTION_B]))
            first, other = known.setdefault((_sha256(manifest, row), *asked), (number, row))
            if first != number:
                what = f"the sample {row[ID]} (frame {row[FRAME] or row[IMAGE]}) is {other[ID]} of {parts[first][0]}"
                raise InputError(f"{what}: it would be asked twice", path, fix)


def _refuse_leaks(
    parts: Sequence[tuple[Path, float]], manifests: Sequence[artifact.Manifest], tables: Sequence[list[Row]]
) -> None:
    """Refuse a group, a frame or an image that is on different sides (train, val, test) of two parts."""
    sides: dict[tuple[str, str], dict[str, int]] = {}
    for number, ((path, _), manifest, table) in enumerate(zip(parts, manifests, tables, strict=True)):
        for row in table:
            for unit in (_unit(row), ("image", _sha256(manifest, row))):
                for side, other in sides.setdefault(unit, {row[SPLIT]: number}).items():
                    if side != row[SPLIT] and other != number:
                        name = row[IMAGE] if unit[0] == "image" else unit[1]
                        what = f"the {unit[0]} {name!r} is in {row[SPLIT]} here and in {side} of {parts[other][0]}"
                        raise InputError(what, path, "build all parts from one pool with the same --split and --seed")
                sides[unit].setdefault(row[SPLIT], number)


def _unit(row: Row) -> tuple[str, str]:
    return ("group", row[GROUP]) if row[GROUP] else ("frame", row[FRAME] or row[IMAGE])


def _sha256(manifest: artifact.Manifest, row: Row) -> str:
    """Of a row's image, as the manifest has it."""
    return str(manifest.content["files"].get(row[IMAGE], {}).get("sha256", row[IMAGE]))


def _drawn(table: list[Row], weight: float, seed: int, number: int) -> list[Row]:
    """All val and test rows, and the training rows of the drawn pictures."""
    if weight == 1:
        return table

    def luck(image: str) -> bytes:
        return hashlib.sha256(f"{seed}|{number}|{image}".encode()).digest()

    images = sorted({row[IMAGE] for row in table if row[SPLIT] == "train"}, key=luck)
    kept = set(images[: max(1, round(weight * len(images)))])
    return [row for row in table if row[SPLIT] != "train" or row[IMAGE] in kept]


def _free_prefix(number: int, taken: set[str], names: Sequence[str]) -> str:
    """What part `number` puts before its names so that none is taken: mostly nothing. A part may be a mix itself."""
    prefix = ""
    while any(prefix + name in taken for name in names):
        prefix += f"p{number}-"
    return prefix


def _place(source: Path, image: str, number: int, names: dict[str, tuple[int, str]], folder: Path) -> str:
    """Copy a picture in, once; a name that another part already has gets a prefix."""
    name = image.removeprefix("images/")
    while names.get(name, (number, image)) != (number, image):  # again, for a part that is a mix has such names too
        name = f"p{number}-{name}"
    if name not in names:
        names[name] = (number, image)
        shutil.copyfile(artifact.inside(source, image, source / "samples.csv"), folder / "images" / name)
    return f"images/{name}"


def _write_gold(folder: Path, parts: Sequence[Path], used: set[tuple[str, str]]) -> None:
    """Carry over the parts' labels of the frames that are kept, each once, and the definitions of their tasks."""
    tasks = {ref: definition for path in parts for ref, definition in definitions(path).items()}
    if not tasks:
        return  # imported parts only: they carry none
    lines: dict[bytes, dict[str, Any]] = {}
    for path in parts:
        for line in read_lines(path) or ():
            if (line["task"], line["frame"]) in used:
                lines.setdefault(artifact.canonical(line), line)
    write_gold(folder, tasks, lines.values())
