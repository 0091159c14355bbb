"""Which proposed pairs are copies or one scene; groups of them, and the best match of each picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from deckbench import progress
from deckbench.cores import in_threads
from deckbench.likeness.align import MARGIN, agreement, correlation, in_reach, refine, warp
from deckbench.likeness.propose import BLOCK, PROPOSE_SCENE, TRIES, Proposal, propose
from deckbench.likeness.thumbnails import (
    WIDTH,
    Floats,
    Ints,
    Params,
    Thumbs,
    is_flat,
    level,
)

# Decided on synthetic pools, the real pools and planted copies; docs/near-duplicates.md has the numbers.
COPY_CORRELATION = 0.91
COPY_AGREES = 0.84
# Small crops of one kind of object look alike without being one picture: there is less detail to tell them apart.
SMALL_SIDE = 160  # pixels of the shorter side
SMALL_CORRELATION = 0.95
SMALL_AGREES = 0.90
BLOCK_AGREES_COPY = 0.85
SCENE_AGREES = 0.55
BLOCK_AGREES_SCENE = 0.70
# (width, rounds of alignment, pairs at once, correlation below which a pair is given up); copies are well above.
STAGES = ((48, 0, 128, 0.76), (48, 1, 128, 0.88), (96, 2, 32, 0.87), (192, 2, 16, 0.86))


@dataclass(frozen=True)
class Pair:
    """Two pictures by index. correlation: of the aligned pictures. agrees: share of textured blocks that agree.

    how: what was done to one of them: `near` where they are the same view.
    """

    left: int
    right: int
    correlation: float
    agrees: float
    how: str = "near"


class Levels:
    """Band-passed pictures of a set at the levels that are needed often; the finest is made on demand."""

    def __init__(self, thumbs: Thumbs) -> None:
        self.thumbs = thumbs
        self.kept: dict[int, npt.NDArray[np.float16]] = {}

    @cached_property
    def flat(self) -> npt.NDArray[np.bool_]:
        return is_flat(self.thumbs)

    def keep(self, width: int) -> None:
        """Make a level ready; must be called before threads ask for it."""
        if width < WIDTH and width not in self.kept:
            store = np.empty((len(self.thumbs), width * 9 // 16, width), np.float16)
            for start in range(0, len(self.thumbs), 1024):
                store[start : start + 1024] = level(self.thumbs[start : start + 1024], width)
            self.kept[width] = store

    def get(self, width: int, numbers: Ints) -> Floats:
        if width == WIDTH:
            return level(self.thumbs[numbers], width)
        self.keep(width)
        return self.kept[width][numbers].astype(np.float32)


def decide(left: Levels, right: Levels, i: Ints, j: Ints, params: Params) -> list[Pair]:
    """The copies among proposed pairs. params: (n, 4), shifts in pixels of the full thumbnail."""
    found = decide_flat(left, right, i, j)
    params = params.copy()
    places = np.arange(len(i))
    for width, rounds, batch, give_up in STAGES:
        unit = np.array([1, 1, width / WIDTH, width / WIDTH], np.float32)
        left.keep(width)
        right.keep(width)

        def look(
            at: Ints, width: int = width, rounds: int = rounds, unit: Params = unit, give_up: float = give_up
        ) -> tuple[Ints, list[Pair]]:
            a, b = left.get(width, i[at]), right.get(width, j[at])
            got, value = refine(a, b, params[at] * unit, rounds)
            params[at] = got / unit  # every thread has its own rows
            good = (value >= give_up) & in_reach(got, width)
            pairs = confirm(a[good], b[good], got[good], i[at[good]], j[at[good]]) if width == WIDTH else []
            return at[good], pairs

        parts = (places[start : start + batch] for start in range(0, len(places), batch))
        kept = []
        for good, pairs in in_threads(look, parts):
            kept.append(good)
            found += pairs
        places = np.concatenate(kept) if kept else places[:0]
    return found


def confirm(a: Floats, b: Floats, params: Params, i: Ints, j: Ints) -> list[Pair]:
    """The copies among aligned pairs at the finest level."""
    if not len(a):
        return []
    warped, mask = warp(b, params, 2 * MARGIN)
    value = correlation(a, warped, mask)
    share = agreement(a, warped, mask, BLOCK_AGREES_COPY)
    good = (mask.mean(axis=(1, 2)) >= 0.6) & (value >= COPY_CORRELATION) & (share >= COPY_AGREES)
    return [Pair(int(i[n]), int(j[n]), float(value[n]), float(share[n])) for n in np.flatnonzero(good)]


def decide_flat(left: Levels, right: Levels, i: Ints, j: Ints) -> list[Pair]:
    """Copies among pairs of two pictures without texture: those with the same faint gradients."""
    both = left.flat[i] & right.flat[j]
    found = []
    for a, b in zip(i[both], j[both], strict=True):
        one, two = left.thumbs[a].astype(np.float32), right.thumbs[b].astype(np.float32)
        if float(np.abs((one - one.mean()) - (two - two.mean())).mean()) < 1.5:
            found.append(Pair(int(a), int(b), 1.0, 1.0))
    return found


def with_progress(blocks: Iterator[Proposal], pictures: int) -> Iterator[Proposal]:
    """The same, with progress."""
    return progress.track(blocks, "looking for near-duplicates", total=-(-pictures // BLOCK))


class Groups:
    """Union-find over picture numbers."""

    def __init__(self, size: int) -> None:
        self.parent = list(range(size))

    def find(self, item: int) -> int:
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def join(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        self.parent[max(a, b)] = min(a, b)

    def labels(self) -> list[int]:
        """For each item the smallest number in its group."""
        return [self.find(item) for item in range(len(self.parent))]


def cluster(thumbs: Thumbs, *, scene: bool = False, known: Sequence[object] | None = None) -> list[int]:
    """Group images that are copies of each other.

    Args:
        thumbs: uint8 of shape (n, 108, 192), from `fingerprint`.
        scene: Also join frames of one camera that stands still.
        known: Label of the group that each image is in beforehand (None: in no group); pairs inside one are skipped.

    Returns:
        For each image the smallest number in its group.
    """
    groups = Groups(len(thumbs))
    first: dict[object, int] = {}
    for number, label in enumerate(known or ()):
        if label is not None:
            groups.join(first.setdefault(label, number), number)
    levels = Levels(thumbs)
    if scene:
        for i, j, likeness, _ in propose(thumbs, threshold=PROPOSE_SCENE, tries=TRIES[:1]):
            join_scenes(levels, groups, i, j, likeness)
    for i, j, _, params in with_progress(propose(thumbs), len(thumbs)):
        labels = np.array(groups.labels())
        apart = labels[i] != labels[j]
        for pair in decide(levels, levels, i[apart], j[apart], params[apart]):
            groups.join(pair.left, pair.right)
    return groups.labels()


def join_scenes(levels: Levels, groups: Groups, i: Ints, j: Ints, likeness: Floats) -> None:
    """Join pairs whose pictures agree in most blocks as they stand, most alike first."""
    order = np.argsort(-likeness, kind="stable")
    levels.keep(96)
    while order.size:
        labels = np.array(groups.labels())
        order = order[labels[i[order]] != labels[j[order]]]
        batch, order = order[:256], order[256:]
        if batch.size:
            a, b = levels.get(96, i[batch]), levels.get(96, j[batch])
            share = agreement(a, b, np.ones(a.shape, np.float32), BLOCK_AGREES_SCENE)
            for number in batch[share >= SCENE_AGREES]:
                groups.join(int(i[number]), int(j[number]))


def matches(
    left: Thumbs,
    right: Thumbs,
    *,
    small_left: npt.NDArray[np.bool_] | None = None,
    small_right: npt.NDArray[np.bool_] | None = None,
) -> list[Pair]:
    """Find for each left image the right one that it is a copy of.

    Args:
        left: uint8 of shape (n, 108, 192), from `fingerprint`.
        right: uint8 of shape (m, 108, 192).
        small_left: bool of shape (n,): small crops (SMALL_SIDE), for which the limits are stricter.
        small_right: bool of shape (m,).

    Returns:
        The best pair, by correlation, of each left image that has one, in order.
    """

    def good(pair: Pair) -> bool:
        small = (small_left is not None and small_left[pair.left]) or (
            small_right is not None and small_right[pair.right]
        )
        return not small or (pair.correlation >= SMALL_CORRELATION and pair.agrees >= SMALL_AGREES)

    left_levels, right_levels = Levels(left), Levels(right)
    found: dict[int, Pair] = {}
    for i, j, _, params in with_progress(propose(left, right), len(left)):
        for pair in filter(good, decide(left_levels, right_levels, i, j, params)):
            if pair.left not in found or pair.correlation > found[pair.left].correlation:
                found[pair.left] = pair
    return [found[number] for number in sorted(found)]
