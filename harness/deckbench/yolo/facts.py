"""What the single files of a pool hold: a picture's size and hash, a label file's boxes.

A file that this process has read and that did not change is not read again, so the stages of a suite share one look.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

from deckbench.cores import in_processes, in_threads
from deckbench.disk import read_bytes, version_of
from deckbench.picture import PictureError, PictureFacts, inspect_picture
from deckbench.yolo.dataset_yaml import PoolYaml
from deckbench.yolo.find import ImageFile
from deckbench.yolo.labels import MAX_BYTES, Keypoints, LabelFile, parse_labels

FOR_PROCESSES = 300  # pictures; for fewer, processes start more slowly than threads finish
MOST_FACTS = 100_000
FACTS: dict[Path, tuple[tuple[int, ...], bool, PictureFacts]] = {}  # picture -> version, thorough, facts


def inspect_or_error(path: Path, full: bool) -> PictureFacts | PictureError:
    """`inspect_picture`, for another process: what it raises is given back."""
    try:
        return inspect_picture(path, full=full)
    except PictureError as error:
        return error


def inspect_all(found: list[ImageFile], full: bool, count: int) -> Iterator[PictureFacts | PictureError]:
    """Every picture's facts in order, decoded on `count` cores while the caller reads labels.

    A picture that this process has looked at and that did not change is not decoded again: stages share a pool.
    """
    versions = [version_of(item.path) for item in found]
    known = [recall(item.path, version, full) for item, version in zip(found, versions, strict=True)]
    paths = [item.path for item, facts in zip(found, known, strict=True) if facts is None]
    work = partial(inspect_or_error, full=full)
    many = len(paths) >= FOR_PROCESSES and count > 1
    fresh = in_processes(work, paths, count) if many else in_threads(work, iter(paths))
    for item, version, facts in zip(found, versions, known, strict=True):
        if facts is not None:
            yield facts
            continue
        looked = next(fresh)
        if version is not None and isinstance(looked, PictureFacts) and version_of(item.path) == version:
            if len(FACTS) >= MOST_FACTS:
                FACTS.clear()
            FACTS[item.path] = (version, full, looked)
        yield looked


def recall(path: Path, version: tuple[int, ...] | None, full: bool) -> PictureFacts | None:
    """What is known of a picture at this version, from a look at least as thorough as this one."""
    known, thorough, facts = FACTS.get(path, (None, False, None))
    return facts if version is not None and known == version and thorough >= full else None


def read_labels(path: Path, pool: PoolYaml) -> LabelFile | str:
    """A label file, or why it cannot be read. What did not change is not read again."""
    version = version_of(path)
    read = labels_at if version is not None else labels_at.__wrapped__
    return read(path, version, pool.names, pool.keypoints)


@lru_cache(maxsize=20_000)
def labels_at(
    path: Path, version: tuple[int, ...] | None, names: tuple[str, ...], keypoints: Keypoints | None
) -> LabelFile | str:
    """The label file at a version of its bytes."""
    try:
        return parse_labels(read_bytes(path, MAX_BYTES), names, keypoints)
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
