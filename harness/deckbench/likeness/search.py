"""Groups of copies within one set of pictures, and copies of one set's pictures in another.

Candidates are decided in small batches, most alike first, and what a batch settles is not looked at again: a camera
that stands still gives as many candidates as there are pairs, and nearly all of them become needless at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deckbench import progress
from deckbench.likeness.align import agreement
from deckbench.likeness.candidates import BLOCK, TRIES, Candidates, nearest
from deckbench.likeness.decide import Levels, Pair, decide
from deckbench.likeness.thumbnails import Floats, Ints, Thumbs, is_flat
from deckbench.likeness.views import Views, decide_views, same_place, views_of
from deckbench.likeness.windows import ASKED, UPRIGHT, WHOLE, Hits, Windows, look_up

# Decided on synthetic pools, the real pools and planted copies; docs/near-duplicates.md has the numbers.
LIKE_COPY = 0.71
LIKE_SCENE = 0.45
KEEP_COPY = 24
KEEP_SCENE = 20
FINEST = 4  # candidates of one picture that are compared in full, where one copy is enough
SCENE_AGREES = 0.55
BLOCK_AGREES_SCENE = 0.70
FLAT_DIFFERENCE = 1.5  # mean grey levels between the faint gradients of two pictures without texture
# Small crops of one kind of object look alike without being one picture: there is less detail to tell them apart.
SMALL_SIDE = 160  # pixels of the shorter side
SMALL_CORRELATION = 0.95
SMALL_AGREES = 0.90
# Views: mirrored, turned, cropped.
HELD = 1 << 19  # hits that are held before the best of them are picked
LIKE_VIEW, LIKE_TURNED, LIKE_HALF = 0.60, 0.75, 0.92
VIEWS_PART, VIEWS_TURNED, VIEWS_HALF = 2, 1, 1  # of each picture, that are looked at
THOROUGH = 400  # pictures; among fewer, more views of each are looked at
SAME_PLACE, SAME_PLACE_THOROUGH = 0.85, 0.50  # correlation of views that show one place, if not one moment
KEEP_PLACE = 8
BATCH = 256  # pairs that are decided before the groups are looked at again


Labels = tuple[Ints, Ints]


class Groups:
    """Which pictures belong together: for each the smallest number in its group."""

    def __init__(self, size: int) -> None:
        self.labels = np.arange(size)

    def join(self, a: int, b: int) -> None:
        one, two = self.labels[a], self.labels[b]
        if one != two:
            self.labels[self.labels == max(one, two)] = min(one, two)


def cluster(thumbs: Thumbs, *, scene: bool = False, known: Sequence[object] | None = None) -> list[int]:
    """Group images that are copies of each other.

    Args:
        thumbs: uint8 of shape (n, 108, 192), from `fingerprint`.
        scene: Join what one standing camera shows, too (other moments).
        known: Known group of each image or None; images of one known group are joined beforehand.

    Returns:
        For each image the smallest number in its group.
    """
    groups = Groups(len(thumbs))
    first: dict[object, int] = {}
    for number, label in enumerate(known or ()):
        if label is not None:
            groups.join(first.setdefault(label, number), number)
    join_flat(thumbs, groups)
    levels = Levels(thumbs)
    if scene:
        join_scenes(levels, groups)
    labels = groups.labels.copy()
    found = list(
        with_progress(nearest(thumbs, keep=KEEP_COPY, threshold=LIKE_COPY, labels=(labels, labels)), len(thumbs))
    )
    for batch in undecided(joined(found), groups):
        for pair in decide(levels, levels, batch.left, batch.right, batch.params):
            groups.join(pair.left, pair.right)
    join_views(levels, groups)
    return [int(label) for label in groups.labels]


def join_views(levels: Levels, groups: Groups) -> None:
    """Join pictures of which one shows another mirrored, turned, or a part of it."""
    thumbs = levels.thumbs
    windows = Windows(thumbs)
    labels = groups.labels.copy()
    seen = SeenViews(len(labels))
    for again in (False, True):
        views = (
            same_place(thumbs, thumbs, seen.promising(), KEEP_PLACE)
            if again
            else best_views(windows, windows, (labels, labels), labels, thoroughness(len(labels)))
        )
        for batch in unsettled(views, lambda part: groups.labels[part.left] != groups.labels[part.right]):
            for pair in seen.decide(thumbs, thumbs, batch):
                groups.join(pair.left, pair.right)


class SeenViews:
    """Decides views, and remembers for each left picture the view that came nearest to a copy without being one."""

    def __init__(self, pictures: int) -> None:
        self.least = SAME_PLACE if thoroughness(pictures) == 1 else SAME_PLACE_THOROUGH
        self.copied: set[int] = set()
        self.nearest: dict[int, tuple[float, Views]] = {}

    def decide(self, left: Thumbs, right: Thumbs, views: Views) -> list[Pair]:
        """The copies among views."""
        pairs, values, aligned = decide_views(left, right, views)
        self.copied |= {pair.left for pair in pairs}
        for place in np.flatnonzero(values >= self.least):
            number = int(views.left[place])
            if number not in self.nearest or values[place] > self.nearest[number][0]:
                self.nearest[number] = float(values[place]), aligned.take(np.array([place]))
        return pairs

    def promising(self) -> Views:
        """The views of pictures that have no copy yet, but show a place that another picture shows."""
        parts = [view for number, (_, view) in sorted(self.nearest.items()) if number not in self.copied]
        return concatenated(parts)


def thoroughness(pictures: int) -> int:
    """How many times the usual number of views are looked at: there is time where there are few pictures."""
    return max(1, min(6, THOROUGH // max(1, pictures)))


def concatenated(parts: Sequence[Views]) -> Views:
    if not parts:
        none = np.empty(0, np.intp)
        return Views(none, none, none, np.empty((0, 4), np.float32), np.empty((0, 4), np.float32))
    return Views(*(np.concatenate([getattr(part, name) for part in parts]) for name in Views.__dataclass_fields__))


def limits(more: int) -> Floats:
    """Least likeness for each kind of query (`ASKED`), as `quotas` has it."""
    out = np.empty(len(ASKED), np.float32)
    orientation, window = np.array(ASKED).T
    for kind, _, least in quotas(orientation, window, more):
        out[kind] = least
    return out


def quotas(orientation: Ints, window: Ints, more: int) -> Iterator[tuple[npt.NDArray[np.bool_], int, float]]:
    """Which of some queries are of a kind, how many hits of that kind a picture may have, and how alike they must be.

    more: how many times the usual number of them.
    """
    half, turned = window != WHOLE, orientation != UPRIGHT
    yield ~half & ~turned, VIEWS_PART * more, LIKE_VIEW
    yield turned, VIEWS_TURNED * more, LIKE_TURNED if more == 1 else LIKE_VIEW
    # Halves look for other tiles of one picture only: fewer of them, and they must be more alike.
    yield half, VIEWS_HALF * more, LIKE_HALF


def best_views(left: Windows, right: Windows, labels: Labels | None, distinct: Ints, more: int) -> Views:
    """The views worth a look, most alike first: the best hits of each left picture, one of each group on the right.

    labels: of both sides; pairs with one label are left out. distinct: groups on the right. What is found is pruned on
    the way, so memory does not grow with it.
    """
    waiting: list[Hits] = []
    held, room = 0, HELD
    for part in look_up(left, right, limits=limits(more), labels=labels):
        waiting.append(part)
        held += len(part)
        if held > room:
            waiting = [best_hits(waiting, distinct, more)]
            held = len(waiting[0])
            room = max(HELD, 2 * held)
    if not waiting:
        return concatenated([])
    hits = best_hits(waiting, distinct, more)
    return views_of(hits.take(np.argsort(-hits.likeness, kind="stable")))


def best_hits(parts: Sequence[Hits], distinct: Ints, more: int) -> Hits:
    """Of each kind of query the best hits of each left picture, one of each group on the right."""
    whole = Hits(*(np.concatenate([getattr(part, name) for part in parts]) for name in Hits.__dataclass_fields__))
    whole = whole.take(np.lexsort((whole.right_window, whole.right, whole.left, -whole.likeness)))
    kept = []
    for kind, count, _ in quotas(whole.orientation, whole.left_window, more):
        part = whole.take(kind)
        _, first = np.unique(part.left * (distinct.max() + 1) + distinct[part.right], return_index=True)
        part = part.take(np.sort(first))
        part = part.take(np.argsort(part.left, kind="stable"))
        kept.append(part.take(np.arange(len(part)) - np.searchsorted(part.left, part.left) < count))
    return Hits(*(np.concatenate([getattr(part, name) for part in kept]) for name in Hits.__dataclass_fields__))


def unsettled(views: Views, wanted: Callable[[Views], npt.NDArray[np.bool_]]) -> Iterator[Views]:
    """Batches of the views that are still wanted, in order."""
    while len(views):
        views = views.take(wanted(views))
        yield views.take(np.arange(min(BATCH, len(views))))
        views = views.take(np.arange(min(BATCH, len(views)), len(views)))


def with_progress(blocks: Iterator[Candidates], pictures: int) -> Iterator[Candidates]:
    """The same, with progress."""
    return progress.track(blocks, "looking for near-duplicates", total=-(-pictures // BLOCK))


def joined(parts: Sequence[Candidates]) -> Candidates:
    """All of them, most alike first."""
    if not parts:
        none = np.empty(0, np.intp)
        return Candidates(none, none, np.empty(0, np.float32), np.empty((0, 4), np.float32))
    whole = Candidates(
        np.concatenate([part.left for part in parts]),
        np.concatenate([part.right for part in parts]),
        np.concatenate([part.likeness for part in parts]),
        np.concatenate([part.params for part in parts]),
    )
    return whole.take(np.argsort(-whole.likeness, kind="stable"))


def undecided(candidates: Candidates, groups: Groups) -> Iterator[Candidates]:
    """Batches of candidates whose pictures are still in two groups, in order."""
    while len(candidates):
        candidates = candidates.take(groups.labels[candidates.left] != groups.labels[candidates.right])
        if len(candidates):
            yield candidates.take(np.arange(min(BATCH, len(candidates))))
        candidates = candidates.take(np.arange(BATCH, len(candidates)))


def join_flat(thumbs: Thumbs, groups: Groups) -> None:
    """Join pictures without texture that have the same faint gradients: there is nothing in them to correlate."""
    left = np.flatnonzero(is_flat(thumbs))
    while left.size:
        reached, left = [left[0]], left[1:]
        while reached and left.size:
            picture = reached.pop()
            same = left[same_gradients(thumbs, picture, thumbs, left)]
            for other in same:
                groups.join(int(picture), int(other))
            reached += list(same)
            left = np.setdiff1d(left, same, assume_unique=True)


def same_gradients(one: Thumbs, number: int, others: Thumbs, numbers: Ints) -> npt.NDArray[np.bool_]:
    """Which of the flat pictures `others[numbers]` differ from `one[number]` by brightness alone."""
    picture = one[number].astype(np.float32)
    picture -= picture.mean()
    same = np.zeros(len(numbers), bool)
    for start in range(0, len(numbers), 256):
        rest = others[numbers[start : start + 256]].astype(np.float32)
        rest -= rest.mean(axis=(1, 2), keepdims=True)
        same[start : start + 256] = np.abs(rest - picture).mean(axis=(1, 2)) < FLAT_DIFFERENCE
    return same


def join_scenes(levels: Levels, groups: Groups) -> None:
    """Join pictures that agree in most blocks as they stand: nearest of other groups first, until none joins."""
    levels.keep(96)
    before = -1
    while before != len(np.unique(groups.labels)):
        before = len(np.unique(groups.labels))
        labels = groups.labels.copy()
        parts = nearest(levels.thumbs, keep=KEEP_SCENE, threshold=LIKE_SCENE, labels=(labels, labels), tries=TRIES[:1])
        for batch in undecided(joined(list(parts)), groups):
            share = scene_share(levels, batch)
            for place in np.flatnonzero(share >= SCENE_AGREES):
                groups.join(int(batch.left[place]), int(batch.right[place]))


def scene_share(levels: Levels, pairs: Candidates) -> npt.NDArray[np.float64]:
    """Share of blocks that agree without alignment, per pair."""
    a, b = levels.get(96, pairs.left), levels.get(96, pairs.right)
    return agreement(a, b, np.ones(a.shape, np.float32), BLOCK_AGREES_SCENE)


def matches(
    left: Thumbs,
    right: Thumbs,
    *,
    small_left: npt.NDArray[np.bool_] | None = None,
    small_right: npt.NDArray[np.bool_] | None = None,
    frames_left: npt.NDArray[np.bool_] | None = None,
    frames_right: npt.NDArray[np.bool_] | None = None,
    labels: Labels | None = None,
) -> list[Pair]:
    """Find for each left image a right one that it is a copy of.

    Args:
        left: uint8 of shape (n, 108, 192), from `fingerprint`.
        right: uint8 of shape (m, 108, 192).
        small_left: bool of shape (n,): small crops (SMALL_SIDE), for which the limits are stricter.
        small_right: bool of shape (m,).
        frames_left: bool of shape (n,): where false, a crop made by a task. Mirrored, turned and cropped copies are
            looked for among frames alone; None: all are.
        frames_right: bool of shape (m,).
        labels: int of shape (n,) and (m,): images with one label are not compared. None: all are.

    Returns:
        One pair of each left image that has one, in order: the best by correlation of the most alike ones.
    """
    if not len(left) or not len(right):
        return []

    def good(pair: Pair) -> bool:
        small = (small_left is not None and small_left[pair.left]) or (
            small_right is not None and small_right[pair.right]
        )
        return not small or (pair.correlation >= SMALL_CORRELATION and pair.agrees >= SMALL_AGREES)

    found = flat_matches(left, right, labels)
    levels = Levels(left), Levels(right)
    for part in with_progress(nearest(left, right, keep=KEEP_COPY, threshold=LIKE_COPY, labels=labels), len(left)):
        for pair in filter(good, decide(*levels, part.left, part.right, part.params, finest=FINEST)):
            if pair.left not in found or pair.correlation > found[pair.left].correlation:
                found[pair.left] = pair
    numbers_left = np.arange(len(left)) if frames_left is None else np.flatnonzero(frames_left)
    numbers_right = np.arange(len(right)) if frames_right is None else np.flatnonzero(frames_right)
    for pair in filter(good, matching_views(left, right, numbers_left, numbers_right, set(found), labels)):
        if pair.left not in found or pair.correlation > found[pair.left].correlation:
            found[pair.left] = pair
    return [found[number] for number in sorted(found)]


def matching_views(
    left: Thumbs, right: Thumbs, left_numbers: Ints, right_numbers: Ints, found: set[int], labels: Labels | None
) -> Iterator[Pair]:
    """Pairs of which one shows the other mirrored, turned, or a part of it, of left pictures that have none yet.

    Only the pictures of these numbers are looked at.
    """
    if not len(left_numbers) or not len(right_numbers):
        return
    left, right = left[left_numbers], right[right_numbers]
    both = None if labels is None else (labels[0][left_numbers], labels[1][right_numbers])
    settled = set(np.flatnonzero(np.isin(left_numbers, list(found))).tolist())
    windows = Windows(right)
    others = Windows(left, windows.basis)
    more = thoroughness(max(len(left), len(right)))
    for one, two, swapped in ((others, windows, False), (windows, others, True)):
        thumbs, sides = ((right, left), both and both[::-1]) if swapped else ((left, right), both)
        views = best_views(one, two, sides, np.arange(len(thumbs[1])), more)
        for pair in copies_among(views, *thumbs, settled, swapped, sides):
            a, b = (pair.right, pair.left) if swapped else (pair.left, pair.right)
            yield replace(pair, left=int(left_numbers[a]), right=int(right_numbers[b]))


def copies_among(
    views: Views, one: Thumbs, two: Thumbs, found: set[int], swapped: bool, labels: Labels | None
) -> Iterator[Pair]:
    """The copies among views, until each has been found once. found: numbers of `one`, swapped: of `two`."""

    def wanted(part: Views) -> npt.NDArray[np.bool_]:
        apart = np.ones(len(part), bool) if labels is None else labels[0][part.left] != labels[1][part.right]
        return np.asarray(apart & ~np.isin(part.right if swapped else part.left, list(found)))

    seen = SeenViews(max(len(one), len(two)))
    for again in (False, True):
        if again:
            promising = seen.promising()
            views = same_place(one, two, promising.take(wanted(promising)), KEEP_PLACE)
        for batch in unsettled(views, wanted):
            for pair in seen.decide(one, two, batch):
                found.add(pair.right if swapped else pair.left)
                yield pair


def flat_matches(left: Thumbs, right: Thumbs, labels: Labels | None) -> dict[int, Pair]:
    """The pictures of `left` without texture that have a match among those of `right`."""
    others = np.flatnonzero(is_flat(right))
    found: dict[int, Pair] = {}
    for number in np.flatnonzero(is_flat(left)) if others.size else ():
        apart = others if labels is None else others[labels[1][others] != labels[0][number]]
        same = apart[same_gradients(left, int(number), right, apart)]
        if same.size:
            found[int(number)] = Pair(int(number), int(same[0]), 1.0, 1.0)
    return found
