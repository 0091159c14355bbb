"""Label files whose names match no picture: tools encode, prefix and shorten names, and people rename pictures.

A label that belongs nowhere beside a picture without labels is an error: the picture would count as empty, and what is
labelled as an anomaly would become "normal".
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from deckbench.yolo.discover import is_picture, names_below
from deckbench.yolo.find import Finder, ImageFile, images_at
from deckbench.yolo.labels import RowError, numbers
from deckbench.yolo.table import normal

# Texts that labelling tools leave in a labels folder; they are no label files.
NOT_LABELS = frozenset({"classes.txt", "labels.txt", "notes.txt", "readme.txt", "predefined_classes.txt"})
UPLOAD = re.compile(r"^[0-9a-f]{8}(?:-|__)(?=.)")  # Label Studio puts this before the names of uploads


def decoded(name: str) -> str:
    return normal(unquote(unquote(name)))  # some tools encode what is encoded already


def without_blanks(name: str) -> str:
    return re.sub(r"[ +]", "_", decoded(name))


def without_prefix(name: str) -> str:
    return UPLOAD.sub("", without_blanks(name))


WAYS: tuple[Callable[[str], str], ...] = (normal, decoded, without_blanks, without_prefix)


def match_names(finder: Finder) -> None:
    """Give label files to pictures of nearly their name, and report those that are left.

    Changes `finder.found` and adds to `finder.problems`: `label-name` for what was matched, `label-name-mismatch` for
    labels that may belong to a picture without any, `label-without-picture` for the others.
    """
    bare: dict[Path, list[ImageFile]] = defaultdict(list)
    folders: dict[Path, set[Path]] = defaultdict(set)
    for path in finder.path_ids:
        folders[tree_of(finder, path.parent)].add(path.parent)
    spoiled = {problem.frame for problem in finder.problems if problem.frame is not None}
    for item in finder.found.values():
        if item.labels is None and item.id not in spoiled:
            bare[tree_of(finder, item.path.parent)].append(item)
    used = {item.labels for item in finder.found.values()}
    lists = {place for places in finder.pool.entries.values() for place in places}
    for tree in sorted(folders):
        lost = [path for path in lost_labels(finder, tree, folders[tree]) if path not in used | lists]
        pictures = bare[tree]
        for way in WAYS:
            lost, pictures = match(finder, lost, pictures, way)
        told = [path for path in lost if pictures and labels_something(path, beside=tree in folders[tree])]
        for path in lost:
            if path not in told:
                finder.add("label-without-picture", "no image of this name", path)
        if told:
            report_mismatch(finder, told, pictures)


def tree_of(finder: Finder, pictures: Path) -> Path:
    """The topmost folder in which the labels of a folder of pictures may stand."""
    at = images_at(pictures)
    place = finder.places_of(pictures)[0]
    for _ in pictures.parts[len(pictures.parts) if at is None else at + 1 :]:
        place = place.parent
    return place if place.is_dir() else pictures


def labels_something(path: Path, beside: bool) -> bool:
    """Whether a text has rows; beside pictures, where other texts may stand as well: rows of numbers."""
    try:
        with path.open("rb") as file:
            rows = file.read(1 << 16).decode("utf-8-sig", "replace").splitlines()
    except OSError:
        return False
    rows = [row for row in rows if row.strip()]
    if not beside:
        return bool(rows)
    try:
        return bool(rows) and len(numbers(rows[0])) >= 5
    except RowError:
        return False


def lost_labels(finder: Finder, tree: Path, folders: Iterable[Path]) -> list[Path]:
    """Label files below `tree` that bear the name of no picture on disk, in a part of the pool or not; sorted."""
    folders = list(folders)
    places = [tree] if tree in folders else [Path(parent) for parent, _, _ in os.walk(tree)]
    on_disk = lru_cache(maxsize=None)(stems_in)  # a folder of pictures is often both a place and a folder
    tops = {Path(*folder.parts[: at + 1]) for folder in folders if (at := images_at(folder)) is not None}
    found = []
    for place in places:
        known = {stem for top in tops or {tree} for stem in on_disk(top / place.relative_to(tree))}
        for folder in folders:
            known |= on_disk(folder) if place in finder.places_of(folder) else set()
        for stem, path in finder.files_in(place).items():
            if stem not in known and path.name.lower() not in NOT_LABELS and path.is_file():
                found.append(path)
    return sorted(found)


def stems_in(folder: Path) -> set[str]:
    """The names, without ending, of the pictures on disk in a folder."""
    return {normal(Path(name).stem) for name in names_below(folder) if is_picture(name)}


def match(
    finder: Finder, lost: list[Path], pictures: list[ImageFile], way: Callable[[str], str]
) -> tuple[list[Path], list[ImageFile]]:
    """What is left of both after labels went to the only picture that has their name, seen one way."""
    labels: dict[str, list[Path]] = defaultdict(list)
    images: dict[str, list[ImageFile]] = defaultdict(list)
    for path in lost:
        stem = path.stem
        labels[way(Path(stem).stem if is_picture(stem) else stem)].append(path)  # a.png.txt
    for item in pictures:
        images[way(item.path.stem)].append(item)
    for name, items in images.items():
        if len(items) != 1 or len(labels[name]) != 1 or not finder.is_allowed(labels[name][0]):
            continue
        item, path = items[0], labels[name][0]
        finder.found[item.id] = replace(item, labels=path)
        finder.add("label-name", f"not the name of {item.path.name}, but read as its labels", path, frame=item.id)
        lost = [other for other in lost if other != path]
        pictures = [other for other in pictures if other.id != item.id]
    return lost, pictures


def report_mismatch(finder: Finder, lost: list[Path], pictures: list[ImageFile]) -> None:
    """Each label that belongs nowhere, and each picture that it may belong to."""
    for path in lost:
        text = f"no image of this name, and {len(pictures)} images have no label, such as {pictures[0].path.name}"
        finder.add("label-name-mismatch", f"{text}; rename the label, or remove it", path)
    for item in pictures:
        text = f"no label of this name, and {len(lost)} labels fit no image, such as {lost[0].name}"
        finder.add("label-name-mismatch", text, item.path, frame=item.id)
