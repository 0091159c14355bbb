"""Copies across two sets of image files: byte for byte, and by likeness."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deckbench.artifact import hash_file
from deckbench.likeness.search import matches
from deckbench.likeness.thumbnails import Thumbs, fingerprint


@dataclass(frozen=True)
class Copy:
    """A test image and the train image that it copies.

    how: `exact` (the same bytes), `near` (recompressed, resized, re-lit, shifted), or what was done to one of them:
    `mirrored`, `turned 90`, `cropped`, `mirrored, cropped` ... correlation, agrees: as in `Pair`; 1 for exact copies.
    move: from the test image to the train image, as in `Pair`.
    """

    train: Path
    test: Path
    how: str
    correlation: float
    agrees: float
    move: tuple[float, float, float, float] = (1.0, 1.0, 0.0, 0.0)


def thumbnails_of(paths: Sequence[Path], cache: Path | None = None) -> dict[Path, Thumbs]:
    """The thumbnail of each file, once; cache: as for `fingerprint`. Raises InputError."""
    paths = list(dict.fromkeys(paths))
    return dict(zip(paths, fingerprint(paths, cache), strict=True))


def copies_across(
    train: Sequence[Path],
    test: Sequence[Path],
    thumbs: Mapping[Path, Thumbs] | None = None,
    *,
    hashes: Mapping[Path, str] | None = None,
    crops: Collection[Path] = (),
    small: Collection[Path] = (),
) -> list[Copy]:
    """Find the test images that are copies of train images, whatever the files are called.

    Two states seen by one fixed camera are no copies of each other; the same state seen twice is.

    Args:
        train: Image files. A file given twice counts once.
        test: Image files.
        thumbs: The thumbnails of all; None: they are read here.
        hashes: sha256 (hex) of the files; None: they are read here.
        crops: Those made by a task, a set: views of a part or a mirror image are not looked for among them.
        small: Those compared more strictly (SMALL_SIDE), a set.

    Returns:
        The best copy of each test image that has one, in the order of `test`: exact ones first choice, else the one
        with the highest correlation.

    Raises:
        InputError: An image is missing or cannot be read.
    """
    train, test = list(dict.fromkeys(train)), list(dict.fromkeys(test))
    hashes = {path: hash_file(path) for path in (*train, *test)} if hashes is None else hashes
    by_hash: dict[str, Path] = {}
    for path in train:
        by_hash.setdefault(hashes[path], path)
    found = {path: Copy(by_hash[hashes[path]], path, "exact", 1.0, 1.0) for path in test if hashes[path] in by_hash}
    rest, known = [path for path in test if path not in found], list(by_hash.values())
    if rest and known:
        thumbs = thumbnails_of([*rest, *known]) if thumbs is None else thumbs
        left, right = (np.stack([thumbs[path] for path in side]) for side in (rest, known))
        strict = [np.array([path in small for path in side]) for side in (rest, known)]
        frames = [np.array([path not in crops for path in side]) for side in (rest, known)]
        found_pairs = matches(
            left, right, small_left=strict[0], small_right=strict[1], frames_left=frames[0], frames_right=frames[1]
        )
        for pair in found_pairs:
            path = rest[pair.left]
            found[path] = Copy(known[pair.right], path, pair.how, pair.correlation, pair.agrees, pair.move)
    return [found[path] for path in test if path in found]
