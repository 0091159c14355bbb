"""Read a YOLO pool: find its pictures and labels, check every one, and say everything that is wrong.

Nothing is dropped silently. A frame with one broken label row is left out whole: an object without its label would turn
an anomaly into a false "normal".
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from deckbench import progress
from deckbench.artifact import canonical
from deckbench.cores import in_processes, in_threads, usable_cores
from deckbench.errors import InputError
from deckbench.picture import OTHER_PICTURE_SUFFIXES, SUFFIXES, PictureError, PictureFacts, inspect_picture
from deckbench.yolo.dataset_yaml import PoolYaml, read_yaml
from deckbench.yolo.frame import ERROR, KINDS, NOTICE, Box, Frame, Pool, Problem
from deckbench.yolo.framescsv import NAME as FRAMES_CSV
from deckbench.yolo.framescsv import FrameIndex, FrameInfo, normal, read_frames_csv
from deckbench.yolo.labels import parse_labels

__all__ = ["KINDS", "Box", "Frame", "Pool", "Problem", "Scan", "read_pool", "scan_pool"]

SHOWN_PROBLEMS = 8
FOR_PROCESSES = 300  # pictures; for fewer, processes start more slowly than threads finish
# Texts that labelling tools leave in a labels folder; they are no label files.
NOT_LABELS = frozenset({"classes.txt", "labels.txt", "notes.txt", "readme.txt", "predefined_classes.txt"})


@dataclass(frozen=True)
class Found:
    """A picture before it is opened. labels: where its label file stands, None when there is none."""

    id: str
    path: Path
    split: str
    labels: Path | None


@dataclass
class Scan:
    """Everything a look at a pool gave. frames: those without errors, sorted by id. found: all pictures."""

    yaml: PoolYaml
    frames: list[Frame]
    found: int
    problems: list[Problem]
    content_hash: str = ""
    label_files: int = 0
    columns: frozenset[str] = field(default_factory=frozenset)

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == ERROR]


def shown(path: Path, root: Path) -> str:
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
        self.found: dict[str, Found] = {}
        self.path_ids: dict[Path, str] = {}
        self.overlaps: Counter[tuple[str, str]] = Counter()
        self.overlap_example: dict[tuple[str, str], str] = {}
        self.label_folders: dict[Path, dict[str, Path]] = {}
        self.split_of_id: dict[str, set[str]] = defaultdict(set)
        # Where files may really lie: the pool, and what its yaml names outside it by path (never through a link).
        self.allowed = [self.root.resolve()]

    def add(self, kind: str, text: str, file: Path, line: int | None = None, frame: str | None = None) -> None:
        self.problems.append(Problem(kind, text, shown(file, self.root), line, frame))

    def run(self) -> dict[str, Found]:
        for split, places in self.pool.entries.items():
            for place in places:
                self.allow(place)
                if place.is_dir():
                    self.folder(place, split)
                elif place.suffix.lower() in SUFFIXES:
                    self.picture(place, split, place.parent)
                else:
                    self.text_list(place, split)
        self.say_overlaps()
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
                    self.add(
                        "picture-format", f"{suffix} pictures are not read; convert it to PNG or JPEG", here / name
                    )

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
                self.add("picture-missing", f"the listed picture {text!r} does not exist", file, number)
            elif place.suffix.lower() not in SUFFIXES:
                self.add("picture-format", f"{text!r} is not a picture that is read", file, number)
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
        self.found[key] = Found(key, path, split, self.label_of(path, key))

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

    def say_overlaps(self) -> None:
        sizes = Counter(split for splits in self.split_of_id.values() for split in splits)
        file = self.pool.file.name
        for (first, second), count in sorted(self.overlaps.items()):
            if count == sizes[second] == sizes[first]:
                kind = "val-is-train" if {first, second} == {"train", "val"} else "split-overlap"
                text = f"{second} is the same as {first} ({count} pictures); they count as {first}"
            else:
                kind = "split-overlap"
                example = self.overlap_example[first, second]
                text = f"{count} pictures are in {first} and in {second}, like {example}; they count as {first}"
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

    def say_orphans(self) -> None:
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
                self.add("label-without-picture", "no picture of this name", path)


def label_folders(pictures: Path) -> list[Path]:
    """Where the labels of a folder of pictures stand: the last `images` becomes `labels` (Ultralytics), else beside."""
    parts = pictures.parts
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        return [Path(*parts[:last], "labels", *parts[last + 1 :]), pictures]
    return [pictures]


def look(path: Path, full: bool) -> PictureFacts | PictureError:
    """`inspect_picture`, for another process: what it raises is given back."""
    try:
        return inspect_picture(path, full=full)
    except PictureError as error:
        return error


def look_at_all(found: list[Found], full: bool, count: int) -> Iterator[PictureFacts | PictureError]:
    """Every picture's facts in order, decoded on `count` cores while the caller reads labels."""
    paths = [item.path for item in found]
    if len(paths) >= FOR_PROCESSES and count > 1:
        return in_processes(partial(look, full=full), paths, count)
    return in_threads(partial(look, full=full), iter(paths))


def examine(
    found: Found, facts: PictureFacts | PictureError, root: Path, names: tuple[str, ...]
) -> tuple[Frame | None, list[Problem]]:
    """A picture's facts and its labels as a frame; None when an error spoils it."""
    problems: list[Problem] = []
    if isinstance(facts, PictureError):
        return None, [Problem(facts.kind, str(facts), shown(found.path, root), None, found.id)]
    if facts.turned:
        text = "EXIF turns the picture; it is read upright, and so must its labels be"
        problems.append(Problem("picture-turned", text, shown(found.path, root), None, found.id))
    boxes: tuple[Box, ...] = ()
    if found.labels is not None:
        try:
            boxes, faults = parse_labels(found.labels.read_bytes(), names)
        except OSError as error:
            text = f"cannot be read ({error.strerror})"
            problems.append(Problem("label-encoding", text, shown(found.labels, root), None, found.id))
        else:
            for fault in faults:
                file = shown(found.labels, root)
                problems.append(Problem(fault.kind, fault.text, file, fault.line, found.id))
    if any(problem.severity == ERROR for problem in problems):
        return None, problems
    frame = Frame(
        id=found.id,
        path=found.path,
        labels=found.labels,
        width=facts.width,
        height=facts.height,
        boxes=boxes,
        split=found.split,
        group=None,
        time_s=None,
        step=None,
        anomalies=None,
        sha256=facts.sha256,
    )
    return frame, problems


def scan_pool(path: Path, *, full: bool = False, groups: bool = True, workers: int | None = None) -> Scan:
    """Look at everything in a pool. full: decode every pixel (check); else JPEGs at an eighth (read).

    groups False: frames.csv need not give a group to every frame (it is about to be written). workers: processes for
    a large pool; all cores when None.

    Raises InputError only when there is no pool to look at: no yaml, no classes, no folder, no picture.
    """
    pool = read_yaml(path)
    finder = Finder(pool)
    found = finder.run()
    if not found and not finder.path_ids:
        problem = next((p for p in finder.problems if p.severity == ERROR), None)
        because = f"; {problem.where}: {problem.text}" if problem else ""
        raise InputError(
            f"the pool has no pictures{because}", pool.root, "check the yaml's train, val and test entries"
        )
    problems = finder.problems
    finder.say_orphans()
    if all(item.labels is None for item in found.values()):
        text = f"no label file was found for any of {len(found)} pictures; labels stand in labels/ beside images/"
        problems.append(Problem("no-labels", text, pool.file.name))
    infos, columns = read_infos(pool, found, problems)
    if not groups:
        problems[:] = [problem for problem in problems if problem.kind != "frames-csv-no-group"]
    spoiled = {p.frame for p in problems if p.severity == ERROR and p.frame is not None}
    frames: list[Frame] = []
    items = [found[key] for key in sorted(found)]
    looked = zip(items, look_at_all(items, full, workers or usable_cores()), strict=True)
    by_sha: dict[str, str] = {}
    for item, facts in progress.track(looked, "reading the pool", total=len(items)):
        frame, faults = examine(item, facts, pool.root, pool.names)
        problems += faults
        if frame is None or frame.id in spoiled:
            continue
        if frame.sha256 in by_sha:
            text = f"the same picture as {by_sha[frame.sha256]}, byte for byte"
            problems.append(Problem("identical-pictures", text, shown(frame.path, pool.root), None, frame.id))
        by_sha.setdefault(frame.sha256, frame.id)
        info = infos.get(frame.id)
        if info is not None:
            frame = replace(frame, group=info.group, time_s=info.time_s, step=info.step, anomalies=info.anomalies)
        frames.append(frame)
    return Scan(
        yaml=pool,
        frames=frames,
        found=len(found),
        problems=problems,
        content_hash=hash_frames(pool.names, frames),
        label_files=sum(item.labels is not None for item in found.values()),
        columns=columns,
    )


def read_infos(
    pool: PoolYaml, found: dict[str, Found], problems: list[Problem]
) -> tuple[dict[str, FrameInfo], frozenset[str]]:
    """What frames.csv says, looked for in the pool's root and beside its yaml."""
    for folder in dict.fromkeys((pool.root, pool.file.parent)):
        file = folder / FRAMES_CSV
        if not file.is_file():
            continue
        index = FrameIndex((key, item.path.name) for key, item in found.items())
        infos, columns, faults = read_frames_csv(file, index, shown=shown(file, pool.root))
        problems += faults
        if "group" in columns:
            for key in sorted(found.keys() - infos.keys()):
                text = f"the frame {key!r} is not listed, so it has no group"
                problems.append(Problem("frames-csv-no-group", text, shown(file, pool.root), None, key))
        return infos, columns
    return {}, frozenset()


def hash_frames(names: tuple[str, ...], frames: list[Frame]) -> str:
    """Content hash of a pool: a chain over its frames, so that 10,000 of them need no large text."""
    digest = hashlib.sha256(canonical(list(names)))
    for frame in frames:
        boxes = [[b.cls, b.x0, b.y0, b.x1, b.y1, [list(p) for p in b.polygon or ()]] for b in frame.boxes]
        anomalies = None if frame.anomalies is None else list(frame.anomalies)
        labelled = frame.labels is not None
        facts = [frame.id, frame.sha256, frame.split, frame.group, frame.time_s, frame.step, anomalies, labelled, boxes]
        digest.update(hashlib.sha256(canonical(facts)).digest())
    return digest.hexdigest()


def raise_on(errors: list[Problem], path: Path) -> None:
    """Raise InputError with the first errors and their number, when there are any."""
    if not errors:
        return
    kinds = Counter(problem.kind for problem in errors)
    counted = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
    lines = [f"the pool has {len(errors)} error{'s' * (len(errors) > 1)} ({counted})"]
    lines += [f"  {problem.where}: {problem.text}" for problem in errors[:SHOWN_PROBLEMS]]
    if len(errors) > SHOWN_PROBLEMS:
        lines.append(f"  ... and {len(errors) - SHOWN_PROBLEMS} more")
    fix = "fix them (`deckbench pool check` lists all), or leave those frames out with --skip-bad"
    raise InputError("\n".join(lines), path, fix)


def read_pool(path: Path, *, skip_bad: bool = False, workers: int | None = None) -> Pool:
    """Read a pool given as folder or as yaml; every picture is decoded and every label checked.

    skip_bad: leave out frames with errors and list those errors in `left_out`. Otherwise raises InputError, which names
    the first problems and their number. Raises it also when nothing is left, or the yaml itself is wrong.
    """
    scan = scan_pool(Path(path), workers=workers)
    errors = scan.errors
    if not skip_bad:
        raise_on(errors, path)
    if not scan.frames:
        raise InputError("no frame is left: every one has an error", path, "see `deckbench pool check`")
    return Pool(
        root=scan.yaml.root,
        name=scan.yaml.name,
        names=scan.yaml.names,
        frames=tuple(scan.frames),
        synthetic=scan.yaml.synthetic,
        content_hash=scan.content_hash,
        left_out=tuple(errors),
        notices=tuple(problem for problem in scan.problems if problem.severity == NOTICE),
    )
