"""When is a near-duplicate across train and test a copy, and when only the same camera at another moment?

The same bytes or pixels are a copy, and so is an image that was mirrored or turned: no camera that stands still gives
one. A part of an image is one unless images of other groups have it as well. Any other near-duplicate may show a state
that comes back in front of a fixed camera. It is no copy where the labels differ: that is another state. Where they are
the same, it is compared with what two images of one state differ by at this camera (light, noise), which train itself
tells: its images of one state in different groups. A copy has the light and the noise of its original, however it was
compressed. So it is nearer to it than two moments are to each other, or at least nearer to it than to another moment of
that state. Without states that come back in train, no moments look alike by chance, and every near-duplicate of the
same state is a copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from deckbench.likeness.compare import Copy, copies_across, thumbnails_of
from deckbench.likeness.search import matches
from deckbench.likeness.thumbnails import Thumbs
from deckbench.picture import open_picture
from deckbench.stats import wilson
from deckbench.yolo.frame import Box4

# In 1 - correlation, as shares of what two moments of one state differ by (docs/near-duplicates.md): moments are at
# 0.99 or more with an excess of 0.06 at most, copies at 0.65 at most or with an excess of 0.43 or more.
NEARER = 0.8
EXCESS = 0.25
OWN_PART = 0.5  # of what the next image differs by: a part that standing cameras show in every image is no copy
ALIKE = 2.0  # moments that differ by more times the smallest difference: no excess says anything
EDGE, EDGE_WIDTH = 8, 1.25  # so many moments that differ by so many times the smallest difference: none differ by less
FOLDS = 8  # stretches that one session is cut into
PROBED = 200  # training images that tell what two moments differ by
IDENTICAL = 2e-5  # less than the noise of any camera
SAME_PLACE = 0.01  # of the side: how far the edges of a box may be from those of its like in the aligned image
SAME_PIXELS = "the same pixels"
TURNED = ("mirrored", "turned")


@dataclass(frozen=True)
class ImageContext:
    """What is known of an image beside its pixels.

    group: images that belong together, such as a session; None where that is not known. objects: classes and boxes in
    fractions of the image; None where they are not known. ontology: what names the classes; those of two ontologies are
    not compared. answers: question -> what is right for this image.
    """

    group: str | None
    objects: tuple[tuple[str, Box4], ...] | None = None
    ontology: str = ""
    answers: Mapping[Hashable, str] = field(default_factory=dict)


def copies(
    train: Mapping[Path, ImageContext], test: Mapping[Path, ImageContext], cache: Path | None = None
) -> tuple[list[Copy], int]:
    """The test images that are copies of train images, and how many others only have a near view there.

    Args:
        train: Image files with what is known of each.
        test: The same for the other side.
        cache: File that keeps thumbnails, as for `fingerprint`.

    Returns:
        The copies in the order of `test`, `how` each was made; the count of near-duplicates that are no copies.

    Raises:
        InputError: An image cannot be read.
    """
    thumbs = thumbnails_of([*train, *test], cache)
    found = copies_across(list(train), list(test), thumbs)
    kept = confirmed_copies(found, train, test, thumbs)
    return kept, len(found) - len(kept)


def confirmed_copies(
    found: Sequence[Copy],
    train: Mapping[Path, ImageContext],
    test: Mapping[Path, ImageContext],
    thumbs: Mapping[Path, Thumbs],
) -> list[Copy]:
    """Tell copies from other moments of a camera that stands still.

    Args:
        found: Near-duplicates, one of each test image.
        train: Image files with what is known of each.
        test: The same for the other side.
        thumbs: The thumbnails of all of them.

    Returns:
        The copies, in order, `how` each was made. Where groups are not known, nothing tells another moment from a copy:
        all near-duplicates of one state are copies.
    """
    certain = {copy.test: copy for copy in found if copy.how == "exact" or is_turned(copy)}
    for copy in found:
        if copy.test not in certain and _pixels(copy.train) == _pixels(copy.test):
            certain[copy.test] = replace(copy, how=SAME_PIXELS)
    doubt = [copy for copy in found if copy.test not in certain]
    near = [copy for copy in doubt if copy.how == "near" and same_state(copy, train[copy.train], test[copy.test])]
    parts = [copy for copy in doubt if copy.how != "near" and same_answers(train[copy.train], test[copy.test])]
    if all(view.group is not None for view in train.values()):
        near = _same_moment(near, train, test, thumbs) if near else []
        parts = _own_part(parts, len(found), train, thumbs) if parts else []
    certain |= {copy.test: copy for copy in (*near, *parts)}
    return [certain[copy.test] for copy in found if copy.test in certain]


def is_turned(copy: Copy) -> bool:
    """Whether a whole image was mirrored or turned. Parts may look so by themselves: a rack has two like halves."""
    return copy.how.startswith(TURNED) and "cropped" not in copy.how


def same_answers(train: ImageContext, test: ImageContext) -> bool:
    """Whether no question has another answer."""
    return all(train.answers.get(question, answer) == answer for question, answer in test.answers.items())


def same_state(copy: Copy, train: ImageContext, test: ImageContext) -> bool:
    """Whether two aligned views have the same objects at the same places and the same answers, as far as is known."""
    if not same_answers(train, test):
        return False
    if train.objects is None or test.objects is None:
        return True
    if len(train.objects) != len(test.objects):
        return False
    sx, sy, tx, ty = copy.move
    left = list(train.objects)
    for cls, (x0, y0, x1, y1) in test.objects:
        left_top = (x0 - 0.5) * sx + 0.5 + tx, (y0 - 0.5) * sy + 0.5 + ty
        right_bottom = (x1 - 0.5) * sx + 0.5 + tx, (y1 - 0.5) * sy + 0.5 + ty
        same = [
            other
            for other in left
            if (cls == other[0] or train.ontology != test.ontology)
            and all(
                abs(min(max(a, 0.0), 1.0) - b) <= SAME_PLACE
                for a, b in zip(left_top + right_bottom, other[1], strict=True)
            )
        ]
        if not same:
            return False
        left.remove(same[0])
    return True


def _same_moment(
    found: Sequence[Copy],
    train: Mapping[Path, ImageContext],
    test: Mapping[Path, ImageContext],
    thumbs: Mapping[Path, Thumbs],
) -> list[Copy]:
    """The pairs that are nearer than two moments of one state are in train."""
    control = dict.fromkeys([*(copy.train for copy in found), *probed(train)])
    asked = {path: path for path in control} | {copy.test: copy.train for copy in found}
    second = _in_other_groups(asked, train, thumbs)
    partners = [(path, second[path]) for path in control if path in second]
    differ = sorted(
        1 - other.correlation
        for path, other in partners
        if other.how == "near"
        and same_state(other, train[other.train], train[path])
        and 1 - other.correlation > IDENTICAL
    )
    if not differ:
        return list(found)
    alike = differ[len(differ) * 9 // 10] <= ALIKE * differ[0]
    kept = []
    for copy in found:
        apart, other = 1 - copy.correlation, second.get(copy.test)
        excess = 0.0
        if other is not None and other.how == "near" and same_state(other, train[other.train], test[copy.test]):
            excess = (1 - other.correlation) - apart
        if apart < NEARER * differ[0] or (alike and excess > EXCESS * differ[len(differ) // 2]):
            kept.append(copy)
    sharp = len(differ) >= EDGE and differ[EDGE - 1] <= EDGE_WIDTH * differ[0]
    return kept if alike or sharp or _exceeds(len(kept), len(found), 0, len(differ)) else []


def _exceeds(count: int, total: int, control: int, of: int) -> bool:
    """Whether a share is larger than another beyond chance: Wilson's 95% intervals do not overlap."""
    mine, other = wilson(count, total), wilson(control, of)
    return mine is not None and (other is None or mine[0] > other[1])


def _own_part(
    found: Sequence[Copy], near: int, train: Mapping[Path, ImageContext], thumbs: Mapping[Path, Thumbs]
) -> list[Copy]:
    """The pairs of an image and a part of another that no image of another group has about as well.

    near: near-duplicates of all kinds. A camera that moves between its places gives parts, too: where images of
    different groups of train are parts of each other as often, none is a copy.
    """
    second = _in_other_groups({copy.test: copy.train for copy in found}, train, thumbs, parts=True)
    kept = [
        copy
        for copy in found
        if (other := second.get(copy.test)) is None or 1 - copy.correlation < OWN_PART * (1 - other.correlation)
    ]
    if not kept:
        return []
    usual = _in_other_groups({path: path for path in probed(train)}, train, thumbs, parts=True).values()
    control = sum("cropped" in copy.how for copy in usual)
    return kept if not control or _exceeds(len(kept), near, control, len(usual)) else []


def probed(train: Mapping[Path, ImageContext]) -> list[Path]:
    """At most PROBED of the training images, evenly picked."""
    return [*train][:: -(-len(train) // PROBED)]


def _in_other_groups(
    asked: Mapping[Path, Path],
    train: Mapping[Path, ImageContext],
    thumbs: Mapping[Path, Thumbs],
    *,
    parts: bool = False,
) -> dict[Path, Copy]:
    """The train image most alike to each image, outside the group of a train image. asked: one -> the other.

    parts: images that show a part of it count, too.
    """
    names = {group: number for number, group in enumerate(dict.fromkeys(view.group for view in train.values()))}
    group = {path: names[view.group] for path, view in train.items()}
    if len(names) == 1:  # one session: stretches of it
        group = {path: number * FOLDS // len(train) for number, path in enumerate(train)}
    paths, others = list(asked), list(train)
    pairs = matches(
        np.stack([thumbs[path] for path in paths]),
        np.stack([thumbs[path] for path in others]),
        frames_left=np.full(len(paths), parts),
        labels=(np.array([group[asked[path]] for path in paths]), np.array([group[path] for path in others])),
    )
    return {
        paths[pair.left]: Copy(others[pair.right], paths[pair.left], pair.how, pair.correlation, pair.agrees, pair.move)
        for pair in pairs
    }


@lru_cache(maxsize=4096)
def _pixels(path: Path) -> str:
    """sha256 of an image's upright RGB pixels and their size."""
    image = open_picture(path)
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
