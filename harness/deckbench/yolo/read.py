"""Read a YOLO pool: find its pictures and labels, check every one, and say everything that is wrong.

Nothing is dropped silently. A frame with one broken label row is left out whole: an object without its label would turn
an anomaly into a false "normal".
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any

from deckbench import progress
from deckbench.artifact import canonical
from deckbench.cores import usable_cores
from deckbench.errors import InputError
from deckbench.picture import PictureError, PictureFacts
from deckbench.yolo.checkscsv import NAME as CHECKS_CSV
from deckbench.yolo.checkscsv import read_checks_csv
from deckbench.yolo.dataset_yaml import PoolYaml, read_yaml
from deckbench.yolo.facts import inspect_all, read_labels
from deckbench.yolo.find import Finder, ImageFile, display_path, why_unusable
from deckbench.yolo.frame import ERROR, KINDS, NOTICE, WHOLE_POOL, Box, Check, Frame, Pool, Problem
from deckbench.yolo.framescsv import NAME as FRAMES_CSV
from deckbench.yolo.framescsv import FrameInfo, read_frames_csv
from deckbench.yolo.labels import LabelFile
from deckbench.yolo.orphans import match_names
from deckbench.yolo.table import FrameIndex

__all__ = ["KINDS", "Box", "Frame", "Pool", "Problem", "Scan", "read_pool", "scan_pool"]

SHOWN_PROBLEMS = 8
UNSEEN = PictureFacts(0, 0, "", False)  # of an image that is not opened


@dataclass
class Scan:
    """Everything that a look at a pool gave. frames: those without errors, sorted by id. found: all pictures."""

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


def with_keypoints(pool: PoolYaml, found: Iterable[ImageFile]) -> PoolYaml:
    """A pool that has no yaml to say so, with the number of keypoints that all its longer rows have (Label Studio)."""
    shapes: set[int] = set()
    for item in found:
        labels = None if item.labels is None else read_labels(item.labels, pool)
        if isinstance(labels, LabelFile) and labels.long:
            shapes |= labels.points if labels.poses == labels.long else {0}
    return replace(pool, keypoints=(shapes.pop(), 3)) if len(shapes) == 1 and 0 not in shapes else pool


def examine(
    found: ImageFile, facts: PictureFacts | PictureError, pool: PoolYaml, seen: PoolLabels
) -> tuple[Frame | None, list[Problem]]:
    """A picture's facts and its labels as a frame; None when an error spoils it. `seen` takes what the labels hold."""
    problems: list[Problem] = []
    root = pool.root
    boxes: tuple[Box, ...] = ()
    if found.labels is not None:
        labels = read_labels(found.labels, pool)
        if isinstance(labels, str):
            problems.append(Problem("label-encoding", labels, display_path(found.labels, root), None, found.id))
        else:
            seen.add(labels, found.labels, root)
            boxes = labels.boxes
            for fault in labels.faults:
                file = display_path(found.labels, root)
                problems.append(Problem(fault.kind, fault.text, file, fault.line, found.id))
    if isinstance(facts, PictureError):
        return None, [Problem(facts.kind, str(facts), display_path(found.path, root), None, found.id)]
    if facts.turned:
        text = "EXIF turns the image; it is read upright, and so must its labels be"
        problems.insert(0, Problem("picture-turned", text, display_path(found.path, root), None, found.id))
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


@dataclass
class PoolLabels:
    """What the label files of a pool hold together. classes: number -> file and line where it occurs first."""

    classes: dict[int, str] = field(default_factory=dict)
    long: int = 0
    poses: int = 0
    pose: str = ""

    def add(self, labels: LabelFile, file: Path, root: Path) -> None:
        for number, line in labels.classes.items():
            if number not in self.classes:
                self.classes[number] = f"{display_path(file, root)}:{line}"
        self.long += labels.long
        self.poses += labels.poses
        if labels.poses and not self.pose:
            self.pose = display_path(file, root)

    def problems(self, pool: PoolYaml) -> list[Problem]:
        """What only all labels together show."""
        file, count = pool.file.name, len(pool.names)
        if self.poses and self.poses == self.long and pool.keypoints is None:
            text = (
                f"every row with more than 5 columns looks like a box with keypoints ({self.pose}), not a polygon; "
                "say so in the yaml: `kpt_shape: [K, 3]`"
            )
            return [Problem("keypoints-undeclared", text, file)]
        if not self.classes or 0 in self.classes:
            return []
        if count in self.classes:
            text = (
                f"labels count from 1: class 0 never occurs, class {count} does ({self.classes[count]}), and "
                f"{count} {'class is' if count == 1 else 'classes are'} named (0 to {count - 1}). Subtract 1 from "
                "every class number, or put a name for 0 in front"
            )
            return [Problem("labels-count-from-1", text, file)]
        if any(0 < number < count for number in self.classes):
            text = f"class 0 ({pool.names[0]!r}) never occurs; were labels counted from 1, every class would be wrong"
            return [Problem("class-0-unused", text, file)]
        return []


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Pause the search for cycles while many small objects are made that stay: it costs a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@no_collection()
def scan_pool(
    path: Path, *, full: bool = False, groups: bool = True, pictures: bool = True, workers: int | None = None
) -> Scan:
    """Look at everything in a pool and collect what is wrong with it.

    Args:
        path: The pool's folder or its yaml.
        full: Decode every pixel (check) instead of JPEGs at an eighth of their size (read).
        groups: Whether frames.csv must give a group to every frame; not where it is about to be written.
        pictures: Whether images are opened. Without, frames have no size and no hash, and the pool no content hash.
        workers: Processes for a large pool; default: all cores.

    Returns:
        Frames without errors, and all problems.

    Raises:
        InputError: There is no pool to look at: no yaml, no classes, no folder, no image.
    """
    pool = read_yaml(path)
    finder = Finder(pool)
    found = finder.run()
    if not found:
        problem = next((p for p in finder.problems if p.severity == ERROR), None)
        because = f"; {problem.where}: {problem.text}" if problem else ""
        raise InputError(f"the pool has no images{because}", pool.root, "check the yaml's train, val and test entries")
    problems = finder.problems
    match_names(finder)
    said = {"label-name-mismatch", "link-leaves-pool"} & {problem.kind for problem in problems}
    checked = table_of(pool, CHECKS_CSV) is not None
    if not said and not checked and all(item.labels is None for item in found.values()):
        text = f"no label file was found for any of {len(found)} images; labels stand in labels/ beside images/"
        problems.append(Problem("no-labels", text, pool.file.name))
    if pool.file.suffix.lower() not in {".yaml", ".yml"}:
        pool = with_keypoints(pool, found.values())
    index = index_of(finder)
    infos, columns = read_infos(finder, index, problems)
    checks = read_checks(finder, index, problems)
    if not groups:
        problems[:] = [problem for problem in problems if problem.kind != "frames-csv-no-group"]
    spoiled = {p.frame for p in problems if p.severity == ERROR and p.frame is not None}
    frames: list[Frame] = []
    items = [found[key] for key in sorted(found)]
    facts_of = inspect_all(items, full, workers or usable_cores()) if pictures else repeat(UNSEEN, len(items))
    looked = zip(items, facts_of, strict=True)
    by_sha: dict[str, str] = {}
    labels = PoolLabels()
    for item, facts in progress.track(looked, "reading the pool", total=len(items)):
        frame, faults = examine(item, facts, pool, labels)
        problems += faults
        if frame is None or frame.id in spoiled:
            continue
        if pictures and frame.sha256 in by_sha:
            text = f"the same image as {by_sha[frame.sha256]}, byte for byte"
            problems.append(Problem("identical-pictures", text, display_path(frame.path, pool.root), None, frame.id))
        by_sha.setdefault(frame.sha256, frame.id)
        info = infos.get(frame.id)
        if info is not None:
            frame = replace(frame, **vars(info))
        frames.append(replace(frame, checks=checks[frame.id]) if frame.id in checks else frame)
    whole = labels.problems(pool)
    if any(problem.severity == ERROR for problem in whole):
        # One fault, said once: what single rows have wrong follows from it.
        problems = [problem for problem in problems if not problem.kind.startswith("label-") or problem.line is None]
    problems = whole + problems
    return Scan(
        yaml=pool,
        frames=frames,
        found=len(found),
        problems=problems,
        content_hash=hash_frames(pool.names, frames) if pictures else "",
        label_files=sum(item.labels is not None for item in found.values()),
        columns=columns,
    )


def table_of(pool: PoolYaml, name: str) -> Path | None:
    """A table of the pool, looked for in its root and beside its yaml."""
    files = (folder / name for folder in dict.fromkeys((pool.root, pool.file.parent)))
    return next((file for file in files if os.path.lexists(file)), None)


def index_of(finder: Finder) -> FrameIndex:
    """The pool's pictures by what a table may call them."""
    return FrameIndex({**finder.unused, **{key: item.path.name for key, item in finder.found.items()}}.items())


def read_infos(
    finder: Finder, index: FrameIndex, problems: list[Problem]
) -> tuple[dict[str, FrameInfo], frozenset[str]]:
    """What frames.csv says, and its columns."""
    if (file := table_of(finder.pool, FRAMES_CSV)) is None:
        return {}, frozenset()
    shown = display_path(file, finder.pool.root)
    if (why := why_unusable(file)) is not None:
        problems.append(Problem("frames-csv", why, shown))
        return {}, frozenset()
    infos, columns, faults = read_frames_csv(file, index, shown=shown)
    problems += faults
    if "group" in columns:
        for key in sorted(finder.found.keys() - infos.keys()):
            text = f"the frame {key!r} is not listed, so it has no group"
            problems.append(Problem("frames-csv-no-group", text, shown, None, key))
    return infos, columns


def read_checks(finder: Finder, index: FrameIndex, problems: list[Problem]) -> dict[str, tuple[Check, ...]]:
    """What checks.csv says."""
    if (file := table_of(finder.pool, CHECKS_CSV)) is None:
        return {}
    shown = display_path(file, finder.pool.root)
    if (why := why_unusable(file)) is not None:
        problems.append(Problem("checks-csv", why, shown))
        return {}
    checks, faults = read_checks_csv(file, index, shown=shown)
    problems += faults
    return checks


def hash_frames(names: tuple[str, ...], frames: list[Frame]) -> str:
    """Content hash of a pool: a chain over its frames, so that 10,000 of them need no large text."""
    digest = hashlib.sha256(canonical(list(names)))
    for frame in frames:
        boxes = [[b.cls, b.x0, b.y0, b.x1, b.y1, [list(p) for p in b.polygon or ()]] for b in frame.boxes]
        anomalies = None if frame.anomalies is None else list(frame.anomalies)
        labelled = frame.labels is not None
        facts: list[Any] = [
            frame.id,
            frame.sha256,
            frame.split,
            frame.group,
            frame.time_s,
            frame.step,
            anomalies,
            labelled,
            boxes,
        ]
        # What a pool does not have is no part of its hash, so that a new column changes no pool without it.
        if frame.view is not None or frame.checks:
            facts.append([frame.view, [{**asdict(check), "line": 0} for check in frame.checks]])
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
    fix = "fix them (`deckbench pool check` lists all)"
    if not WHOLE_POOL & kinds.keys():
        fix += ", or leave those frames out with --skip-bad"
    raise InputError("\n".join(lines), path, fix)


def tell_notices(problems: Iterable[Problem], pool: str) -> None:
    """Say how many notices a pool has, by kind, and the first; what they are about may change what is true."""
    notices = [problem for problem in problems if problem.severity == NOTICE]
    if not notices:
        return
    counts = Counter(problem.kind for problem in notices)
    counted = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    first = notices[0]
    word = "notice" if len(notices) == 1 else "notices"
    progress.say(f"{pool}: {len(notices)} {word} ({counted}), such as {first.where}: {first.text}")


def read_pool(path: Path, *, skip_bad: bool = False, workers: int | None = None) -> Pool:
    """Read a pool; every image is decoded and every label checked.

    Args:
        path: The pool's folder or its yaml.
        skip_bad: Leave out frames with errors and list these errors in `left_out`.
        workers: Processes for a large pool; default: all cores. The result does not depend on it.

    Returns:
        The pool.

    Raises:
        InputError: There are errors (the first ones are named, with their number), no frame is left, or the yaml is
            wrong.
    """
    scan = scan_pool(Path(path), workers=workers)
    errors = scan.errors
    raise_on([problem for problem in errors if not skip_bad or problem.kind in WHOLE_POOL], path)
    if not scan.frames:
        raise InputError("no frame is left: every one has an error", path, "see `deckbench pool check`")
    tell_notices(scan.problems, f"pool {scan.yaml.name}")
    return Pool(
        root=scan.yaml.root,
        name=scan.yaml.name,
        names=scan.yaml.names,
        frames=tuple(scan.frames),
        synthetic=scan.yaml.synthetic,
        content_hash=scan.content_hash,
        left_out=tuple(errors),
        notices=tuple(problem for problem in scan.problems if problem.severity == NOTICE),
        credit=scan.yaml.credit,
    )
