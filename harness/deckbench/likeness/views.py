"""Copies that show another view: mirrored, turned by quarters, cropped to a part, tiles that overlap.

`windows` says which image may show part of which. Both parts are then sampled alike and aligned, and pixels decide as
they do for whole images. All at 96x54: half a side of a thumbnail has no more detail. Many cameras look alike, and then
the part is found in the wrong image of the right place; so `same_place` looks for it there in all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deckbench.cores import in_threads
from deckbench.likeness.align import MARGIN, agreement, correlation, refine, warp
from deckbench.likeness.decide import BLOCK_AGREES_COPY, Pair
from deckbench.likeness.thumbnails import Floats, Ints, Params, Thumbs, band_pass, shrink
from deckbench.likeness.windows import ORIENTATIONS, SPANS, Hits, resampling

LEVEL, TALL = 96, 54
# A view has less detail than a whole picture: the limits are stricter, as they are for small crops.
VIEW_CORRELATION = 0.97
VIEW_AGREES = 0.92
MAX_STRETCH, MAX_MOVE = 0.32, 0.2  # between two windows: of the scale, and of the width
GIVE_UP = 0.75  # correlation at half of LEVEL below which a view is no copy
LIKE_PLACE = 0.60  # correlation of a picture laid over another by a third one's alignment
CLOSE = 0.85  # correlation at LEVEL that a copy reaches before it is sampled anew
BATCH = 64
WHOLE = np.array([0, 1, 0, 1], np.float32)
AS_IT_IS = np.array([1, 1, 0, 0], np.float32)
START, LENGTH = np.array(SPANS, np.float32).T


@dataclass(frozen=True)
class Views:
    """Pairs by number (n,), and the parts of both that may be one view.

    orientation: of the left picture. left_box, right_box: (n, 4), top, height, left and width as fractions of the
    picture (of the left one once it is turned); may reach beyond it.
    """

    left: Ints
    right: Ints
    orientation: Ints
    left_box: Floats
    right_box: Floats

    def __len__(self) -> int:
        return len(self.left)

    def take(self, at: npt.NDArray[Any]) -> Views:
        """Those at these places, or where a mask is true."""
        return Views(*(getattr(self, name)[at] for name in self.__dataclass_fields__))


def views_of(hits: Hits) -> Views:
    """What hits among windows propose."""
    return Views(hits.left, hits.right, hits.orientation, box(hits.left_window), box(hits.right_window))


def box(windows: Ints) -> Floats:
    """(n, 4) of windows by number."""
    rows, columns = np.divmod(windows, len(SPANS))
    return np.stack([START[rows], LENGTH[rows], START[columns], LENGTH[columns]], axis=1)


def moved(boxes: Floats, params: Params, width: int) -> Floats:
    """The boxes that lie at these scales and shifts (sx, sy, tx, ty) of others, shifts in pixels of a level."""
    sx, sy, tx, ty = params.T
    top, tall, left, wide = boxes.T
    down, across = 0.5 - sy / 2 + ty / (width * 9 // 16), 0.5 - sx / 2 + tx / width
    return np.stack([top + tall * down, tall * sy, left + wide * across, wide * sx], axis=1).astype(np.float32)


def inside(boxes: Floats) -> Floats:
    """(n, 54, 96): 1 where a box lies inside of the picture, 0 elsewhere."""
    y = boxes[:, :1] + (np.arange(TALL) + 0.5) / TALL * boxes[:, 1:2]
    x = boxes[:, 2:3] + (np.arange(LEVEL) + 0.5) / LEVEL * boxes[:, 3:]
    return np.asarray(((y >= 0) & (y <= 1))[:, :, None] & ((x >= 0) & (x <= 1))[:, None, :], np.float32)


def sample(thumbs: Thumbs, boxes: Floats, orientations: Ints | None = None, level: int = LEVEL) -> Floats:
    """float32 (n, level * 9 / 16, level): a part of each picture (n, 108, 192), once it is in its orientation."""
    if orientations is None:
        orientations = np.zeros(len(thumbs), np.intp)
    out = np.empty((len(thumbs), level * 9 // 16, level), np.float32)
    for number in np.unique(orientations):
        transposed, flip_y, flip_x = ORIENTATIONS[number]
        at = orientations == number
        pictures = thumbs[at].astype(np.float32)
        if transposed:
            pictures = pictures.transpose(0, 2, 1)
        pictures = pictures[:, :: -1 if flip_y else 1, :: -1 if flip_x else 1]
        rows = lines(boxes[at, :2], pictures.shape[1], level * 9 // 16)
        columns = lines(boxes[at, 2:], pictures.shape[2], level)
        out[at] = rows @ pictures @ columns.transpose(0, 2, 1)
    return out


def lines(spans: Floats, source: int, target: int) -> Floats:
    """(n, target, source): weights that sample each span (start, length) of a line of pixels; most spans are alike."""
    each, where = np.unique(spans, axis=0, return_inverse=True)
    return np.asarray(resampling(each[:, 0], each[:, 1], source, target)[where.ravel()])


def fine(pictures: Floats) -> Floats:
    """What is compared of pictures at any level."""
    return band_pass(pictures, 0.6, 3.0)


def broad(pictures: Floats) -> Floats:
    """What is compared where pictures are not aligned well, at half of LEVEL."""
    return band_pass(pictures, 1.2, 4.0)


def halved(pictures: Floats) -> Floats:
    """Block means of 2x2 pixels."""
    n, height, width = pictures.shape
    return np.asarray(pictures.reshape(n, height // 2, 2, width // 2, 2).mean(axis=(2, 4)), np.float32)


def decide_views(left: Thumbs, right: Thumbs, views: Views) -> tuple[list[Pair], npt.NDArray[np.float64], Views]:
    """The copies among views, the correlation of each once aligned (0: out of reach), and the aligned views."""
    values = np.zeros(len(views))
    boxes = views.right_box.copy()

    def look(at: Ints) -> list[Pair]:
        part = views.take(at)
        a = fine(sample(left[part.left], part.left_box, part.orientation, LEVEL // 2))
        b = fine(sample(right[part.right], part.right_box, None, LEVEL // 2))
        params, value = refine(a, b, np.tile(AS_IT_IS, (len(at), 1)), 5)
        value[~near_enough(params, LEVEL // 2)] = 0
        values[at] = value  # every thread has its own rows
        boxes[at] = moved(part.right_box, params, LEVEL // 2)
        good = value >= GIVE_UP
        at, part = at[good], part.take(good)
        if not at.size:
            return []
        a = fine(sample(left[part.left], part.left_box, part.orientation))
        b = fine(sample(right[part.right], part.right_box))
        params, value = refine(a, b, params[good] * np.array([1, 1, 2, 2], np.float32), 2)
        values[at] = value
        boxes[at] = moved(part.right_box, params, LEVEL)
        close = (value >= CLOSE) & near_enough(params, LEVEL)
        at, part, a = at[close], part.take(close), a[close]
        if not at.size:
            return []
        # Sampled anew where it lies: the second picture is not smoothed twice.
        return confirm(a, fine(sample(right[part.right], boxes[at])), inside(boxes[at]), part)

    parts = (np.arange(start, min(start + BATCH, len(views))) for start in range(0, len(views), BATCH))
    found = [pair for pairs in in_threads(look, parts) for pair in pairs]
    return found, values, Views(views.left, views.right, views.orientation, views.left_box, boxes)


def near_enough(params: Params, width: int) -> npt.NDArray[np.bool_]:
    """Whether scale and shift are what lies between a part and the window that is nearest to it, per pair."""
    limits = np.array([MAX_STRETCH, MAX_STRETCH, MAX_MOVE * width, MAX_MOVE * width * 9 / 16])
    return np.asarray((np.abs(params - AS_IT_IS) <= limits).all(axis=1))


def confirm(a: Floats, b: Floats, known: Floats, views: Views) -> list[Pair]:
    """The copies among aligned views. known: where the second view lies inside of its picture."""
    params, _ = refine(a, b, np.tile(AS_IT_IS, (len(a), 1)), 1)
    warped, mask = warp(b, params, 2 * MARGIN)
    mask = mask * known
    value = correlation(a, warped, mask)
    share = agreement(a, warped, mask, BLOCK_AGREES_COPY)
    good = (mask.mean(axis=(1, 2)) >= 0.5) & (value >= VIEW_CORRELATION) & (share >= VIEW_AGREES)
    return [
        Pair(
            int(views.left[n]), int(views.right[n]), float(value[n]), float(share[n]), change(views.take(np.array([n])))
        )
        for n in np.flatnonzero(good)
    ]


def change(view: Views) -> str:
    """`mirrored`, `turned 90`, `cropped` ...: what tells two views apart; a quarter turn either way is `turned 90`."""
    transposed, flip_y, flip_x = ORIENTATIONS[int(view.orientation[0])]
    words = []
    if transposed ^ flip_y ^ flip_x:
        words.append("mirrored")
    if transposed:
        words.append("turned 90")
    elif flip_y and flip_x:
        words.append("turned 180")
    if not np.allclose([view.left_box, view.right_box], WHOLE, atol=0.03):
        words.append("cropped")
    return ", ".join(words) or "near"


def same_place(left: Thumbs, right: Thumbs, views: Views, keep: int) -> Views:
    """The pictures of `right` that are most like each left picture, laid over them as it lay over the one of its view.

    Normalised correlation at 48x27 where the left picture covers the right one; keep: so many for each view.
    """
    whole = np.concatenate([broad(shrink(part, LEVEL // 2)) for part in np.array_split(right, -(-len(right) // 1024))])
    whole = whole.reshape(len(right), -1)
    keep = min(keep, len(whole))
    proposed = [views.take(np.arange(0))]
    for start in range(0, len(views), 256):
        part = views.take(np.arange(start, min(start + 256, len(views))))
        # The left picture's box of the right picture, the right picture's box of the left one.
        ratio = part.right_box[:, 1::2] / part.left_box[:, 1::2]
        first = part.right_box[:, ::2] - part.left_box[:, ::2] * ratio
        back = np.stack(
            [-first[:, 0] / ratio[:, 0], 1 / ratio[:, 0], -first[:, 1] / ratio[:, 1], 1 / ratio[:, 1]], axis=1
        )
        over = broad(sample(left[part.left], back, part.orientation, LEVEL // 2)).reshape(len(part), -1)
        mask = (halved(inside(back)) == 1).reshape(len(part), -1).astype(np.float32)
        count = np.maximum(mask.sum(axis=1, keepdims=True), 1)
        over = (over - (over * mask).sum(axis=1, keepdims=True) / count) * mask
        spread = mask @ (whole * whole).T - (mask @ whole.T) ** 2 / count
        likeness = (over @ whole.T) / np.sqrt(np.maximum(spread, 1e-3 * count))
        likeness /= np.sqrt(np.maximum((over * over).sum(axis=1, keepdims=True), 1e-3 * count))
        best = np.argpartition(-likeness, keep - 1, axis=1)[:, :keep]
        rows, columns = np.nonzero(np.take_along_axis(likeness, best, axis=1) >= LIKE_PLACE)
        again = part.take(rows)
        right_ones = best[rows, columns]
        proposed.append(Views(again.left, right_ones, again.orientation, again.left_box, again.right_box))
    return Views(*(np.concatenate([getattr(each, name) for each in proposed]) for name in Views.__dataclass_fields__))
