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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from deckbench.likeness import Copy, copies_across
from deckbench.picture import open_picture

Box = tuple[float, float, float, float]
# In 1 - correlation, as shares of what two moments of one state differ by (docs/near-duplicates.md): moments are at
# 0.99 or more with an excess of 0.06 at most, copies at 0.65 at most or with an excess of 0.43 or more.
NEARER = 0.8
EXCESS = 0.25
OWN_PART = 0.5  # of what the next image differs by: a part that standing cameras show in every image is no copy
ALIKE = 2.0  # moments that differ by more times the smallest difference: no excess says anything
FOLDS = 8  # groups are compared with those of other folds
PROBED = 200  # training images that tell what two moments differ by
IDENTICAL = 2e-5  # less than the noise of any camera
SAME_PLACE = 0.01  # of the side: how far the edges of a box may be from those of its like in the aligned image
SAME_PIXELS = "the same pixels"
TURNED = ("mirrored", "turned")


@dataclass(frozen=True)
class View:
    """What is known of an image beside its pixels.

    group: images that belong together, such as a session. objects: classes and boxes in fractions of the image; None
    where they are not known. ontology: what names the classes; those of two ontologies are not compared.
    """

    group: str
    objects: tuple[tuple[str, Box], ...] | None = None
    ontology: str = ""


def copies(train: Mapping[Path, View], test: Mapping[Path, View]) -> tuple[list[Copy], int]:
    """The test images that are copies of train images, and how many others only have a near view there.

    Args:
        train: Image files with what is known of each.
        test: The same for the other side.

    Returns:
        The copies in the order of `test`, `how` each was made; the count of near-duplicates that are no copies.

    Raises:
        InputError: An image cannot be read.
    """
    found = {copy.test: copy for copy in copies_across(list(train), list(test))}
    certain = {path: copy for path, copy in found.items() if copy.how == "exact" or is_turned(copy)}
    for path, copy in found.items():
        if path not in certain and _pixels(copy.train) == _pixels(path):
            certain[path] = replace(copy, how=SAME_PIXELS)
    doubt = [copy for path, copy in found.items() if path not in certain]
    near = [copy for copy in doubt if copy.how == "near" and same_state(copy, train[copy.train], test[copy.test])]
    parts = [copy for copy in doubt if copy.how != "near"]
    for copy in (*(_same_moment(near, train, test) if near else ()), *(_own_part(parts, train) if parts else ())):
        certain[copy.test] = copy
    return [certain[path] for path in test if path in certain], len(found) - len(certain)


def is_turned(copy: Copy) -> bool:
    """Whether a whole image was mirrored or turned. Parts may look so by themselves: a rack has two like halves."""
    return copy.how.startswith(TURNED) and "cropped" not in copy.how


def same_state(copy: Copy, train: View, test: View) -> bool:
    """Whether two aligned views have the same objects at the same places, as far as that is known."""
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


def _same_moment(found: Sequence[Copy], train: Mapping[Path, View], test: Mapping[Path, View]) -> list[Copy]:
    """The pairs that are nearer than two moments of one state are in train."""
    probed = {copy.train: None for copy in found} | dict.fromkeys([*train][:: -(-len(train) // PROBED)])
    second = _in_other_groups({path: path for path in probed} | {copy.test: copy.train for copy in found}, train)
    partners = [(path, second[path]) for path in probed if path in second]
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
    return kept


def _own_part(found: Sequence[Copy], train: Mapping[Path, View]) -> list[Copy]:
    """The pairs of an image and a part of another that no image of another group has about as well."""
    second = _in_other_groups({copy.test: copy.train for copy in found}, train)
    return [
        copy
        for copy in found
        if (other := second.get(copy.test)) is None or 1 - copy.correlation < OWN_PART * (1 - other.correlation)
    ]


def _in_other_groups(asked: Mapping[Path, Path], train: Mapping[Path, View]) -> dict[Path, Copy]:
    """The train image most alike to each image, outside the groups around a train image. asked: one -> the other."""
    groups = {group: number for number, group in enumerate(dict.fromkeys(view.group for view in train.values()))}
    if len(groups) > 1:
        fold = {path: groups[view.group] * FOLDS // len(groups) for path, view in train.items()}
    else:  # one session: stretches of it
        fold = {path: number * FOLDS // len(train) for number, path in enumerate(train)}
    second: dict[Path, Copy] = {}
    for number in sorted({fold[path] for path in asked.values()}):
        others = [path for path in train if fold[path] != number]
        paths = [path for path, near in asked.items() if fold[near] == number]
        second |= {copy.test: copy for copy in copies_across(others, paths)}
    return second


@lru_cache(maxsize=4096)
def _pixels(path: Path) -> str:
    """sha256 of an image's upright RGB pixels and their size."""
    image = open_picture(path)
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
