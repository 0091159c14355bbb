"""The pictures of a pool and their label files, found by its yaml; nothing is opened here."""

from __future__ import annotations

import contextlib
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from deckbench.picture import OTHER_PICTURE_SUFFIXES, SUFFIXES
from deckbench.yolo.dataset_yaml import PoolYaml
from deckbench.yolo.frame import Problem
from deckbench.yolo.framescsv import normal

# Texts that labelling tools leave in a labels folder; they are no label files.
NOT_LABELS = frozenset({"classes.txt", "labels.txt", "notes.txt", "readme.txt", "predefined_classes.txt"})


@dataclass(frozen=True)
class ImageFile:
    """A picture before it is opened. labels: where its label file stands, None when there is none."""

    id: str
    path: Path
    split: str
    labels: Path | None


def display_path(path: Path, root: Path) -> str:
    """A path for a message: relative to the pool where it lies in it."""
    with contextlib.suppress(ValueError):
        return path.relative_to(root).as_posix()
    return str(path)


class Finder:
    """Walks the folders and lists of a pool's yaml and collects pictures and label files."""

    def __init__(self, pool: PoolYaml) -> None:
        self.pool = pool
        self.root = pool.root
        self.problems = list(pool.problems)
        self.found: dict[str, ImageFile] = {}
        self.path_ids: dict[Path, str] = {}
        self.overlaps: Counter[tuple[str, str]] = Counter()
        self.overlap_example: dict[tuple[str, str], str] = {}
        self.label_folders: dict[Path, dict[str, Path]] = {}
        self.split_of_id: dict[str, set[str]] = defaultdict(set)
        # Where files may really lie: the pool, and what its yaml names outside it by path (never through a link).
        self.allowed = [self.root.resolve()]

    def add(self, kind: str, text: str, file: Path, line: int | None = None, frame: str | None = None) -> None:
        self.problems.append(Problem(kind, text, display_path(file, self.root), line, frame))

    def run(self) -> dict[str, ImageFile]:
        for split, places in self.pool.entries.items():
            for place in places:
                self.allow(place)
                if place.is_dir():
                    self.folder(place, split)
                elif place.suffix.lower() in SUFFIXES:
                    self.picture(place, split, place.parent)
                else:
                    self.text_list(place, split)
        self.report_overlaps()
        return self.found

    def allow(self, place: Path) -> None:
        if not place.is_relative_to(self.root):
            text = f"the yaml names a place outside the pool: {place}"
            self.problems.append(Problem("path-outside", text, self.pool.file.name))
            # Labels stand beside `images`, so the folder that holds it is what the yaml really names.
            folder = place if place.is_dir() else place.parent
            parts = folder.parts
            if "images" in parts:
                folder = Path(*parts[: len(parts) - 1 - parts[::-1].index("images")])
            self.allowed.append(folder.resolve())

    def is_allowed(self, path: Path) -> bool:
        real = path.resolve()
        return any(real.is_relative_to(base) for base in self.allowed)

    def folder(self, folder: Path, split: str) -> None:
        if not self.is_allowed(folder):
            self.add("link-leaves-pool", f"a link leads out of the pool ({split})", folder)
            return
        for parent, folders, names in os.walk(folder):
            here = Path(parent)
            folders.sort()
            for name in list(folders):
                if (here / name).is_symlink() and not self.is_allowed(here / name):
                    self.add("link-leaves-pool", "a link leads out of the pool; not followed", here / name)
            for name in sorted(names):
                suffix = Path(name).suffix.lower()
                if name.startswith("."):  # macOS writes `._x.jpg` beside x.jpg on foreign disks
                    continue
                if suffix in SUFFIXES:
                    self.picture(here / name, split, folder)
                elif suffix in OTHER_PICTURE_SUFFIXES:
                    self.add("picture-format", f"{suffix} images are not read; convert it to PNG or JPEG", here / name)

    def text_list(self, file: Path, split: str) -> None:
        if not self.is_allowed(file):
            self.add("link-leaves-pool", "a link leads out of the pool", file)
            return
        try:
            lines = file.read_bytes().decode("utf-8-sig").splitlines()
        except (UnicodeDecodeError, OSError):
            self.add("split-list-missing", f"the {split} list cannot be read as UTF-8 text", file)
            return
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if "\0" in text:
                self.add("picture-missing", "the line is not a path", file, number)
                continue
            text = text.replace("\\", "/") if "\\" in text and "/" not in text else text
            # `./x` is relative to the list (Ultralytics); other relative paths to the pool or to the list.
            tries = [file.parent / text, self.root / text]
            if not text.startswith("./"):
                tries.reverse()
            places = [Path(os.path.normpath(place)) for place in tries]
            place = next((place for place in places if place.is_file()), None)
            if place is None:
                self.add("picture-missing", f"the listed image {text!r} does not exist", file, number)
            elif place.suffix.lower() not in SUFFIXES:
                self.add("picture-format", f"{text!r} is not an image that is read", file, number)
            else:
                if Path(text).is_absolute() and not place.is_relative_to(self.root):
                    self.allow(place)
                self.picture(place, split, file.parent)

    def picture(self, path: Path, split: str, base: Path) -> None:
        if path in self.path_ids:
            self.overlap(self.path_ids[path], split)
            return
        key = self.id_of(path, split, base)
        if not self.is_allowed(path):
            self.add("link-leaves-pool", "a link leads out of the pool", path, frame=key)
            return
        self.path_ids[path] = key
        if key in self.found:
            other = self.found[key].path
            self.add(
                "one-stem-two-pictures",
                f"{path.name} and {other.name} share one label file; rename or remove one",
                path,
                frame=key,
            )
            return
        self.split_of_id[key].add(split)
        self.found[key] = ImageFile(key, path, split, self.label_of(path, key))

    def id_of(self, path: Path, split: str, base: Path) -> str:
        """Relative to the pool; pictures that the yaml names outside it go by split and place."""
        for top, prefix in ((self.root, ""), (base, f"{split}/")):
            with contextlib.suppress(ValueError):
                return normal(prefix + path.relative_to(top).with_suffix("").as_posix())
        return normal(f"{split}/{path.with_suffix('').name}")

    def overlap(self, key: str, split: str) -> None:
        if split in self.split_of_id[key]:
            return  # the same entry twice in one part
        self.split_of_id[key].add(split)
        pair = (self.found[key].split, split)
        self.overlaps[pair] += 1
        self.overlap_example.setdefault(pair, key)

    def report_overlaps(self) -> None:
        sizes = Counter(split for splits in self.split_of_id.values() for split in splits)
        file = self.pool.file.name
        for (first, second), count in sorted(self.overlaps.items()):
            if count == sizes[second] == sizes[first]:
                kind = "val-is-train" if {first, second} == {"train", "val"} else "split-overlap"
                text = f"{second} is the same as {first} ({count} images); they count as {first}"
            else:
                kind = "split-overlap"
                example = self.overlap_example[first, second]
                text = f"{count} images are in {first} and in {second}, like {example}; they count as {first}"
            self.problems.append(Problem(kind, text, file))

    def label_of(self, picture: Path, key: str) -> Path | None:
        for folder in label_folders(picture.parent):
            files = self.files_in(folder)
            path = files.get(normal(picture.stem))
            if path is None:
                continue
            if not self.is_allowed(path):
                self.add("link-leaves-pool", "a link leads out of the pool", path, frame=key)
                return None
            return path
        return None

    def files_in(self, folder: Path) -> dict[str, Path]:
        """stem -> label file of a folder, listed once."""
        if folder not in self.label_folders:
            files: dict[str, Path] = {}
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    name = Path(entry.name)
                    if name.suffix.lower() == ".txt" and not entry.name.startswith(".") and not entry.is_dir():
                        files.setdefault(normal(name.stem), folder / name)
            self.label_folders[folder] = files
        return self.label_folders[folder]

    def report_orphans(self) -> None:
        """Label files that belong to no picture."""
        used = {found.labels for found in self.found.values()}
        stems = {(path.parent, normal(path.stem)) for path in self.path_ids}
        pictures = {folder for folder, _ in stems}
        label_to_pictures = {labels: folder for folder in pictures for labels in reversed(label_folders(folder))}
        lists = {place for places in self.pool.entries.values() for place in places}
        for folder, files in sorted(self.label_folders.items()):
            if folder in pictures and label_folders(folder)[0] != folder:
                continue  # texts beside pictures whose labels stand elsewhere
            for stem, path in sorted(files.items()):
                if path in used or path.name.lower() in NOT_LABELS or path in lists:
                    continue
                if (label_to_pictures.get(folder, folder), stem) in stems or not path.is_file():
                    continue
                self.add("label-without-picture", "no image of this name", path)


def label_folders(pictures: Path) -> list[Path]:
    """Where the labels of a folder of pictures stand: the last `images` becomes `labels` (Ultralytics), else beside."""
    parts = pictures.parts
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        return [Path(*parts[:last], "labels", *parts[last + 1 :]), pictures]
    return [pictures]
