"""Pairs worth a look: dot products of coarse pictures under small shifts and scales."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from deckbench.likeness.thumbnails import (
    HEIGHT,
    WIDTH,
    Floats,
    Ints,
    Params,
    Thumbs,
    band_pass,
    is_flat,
    shrink,
)

COARSE_X, COARSE_Y = 32, 18
PROPOSE_COPY = 0.72
PROPOSE_SCENE = 0.45
BLOCK = 512  # left pictures that are compared at once
# (scale x, scale y, shift x, shift y) tried when proposing; shifts in pixels of a 96x54 picture.
TRIES = tuple(
    [(1.0, 1.0, float(x), float(y)) for x in (0, -8, -5, -3, -1.5, 1.5, 3, 5, 8) for y in (0, -3.5, -1.5, 1.5, 3.5)]
    + [(s, s, float(x), float(y)) for s in (0.93, 1.07) for x in (-3, 0, 3) for y in (-2, 0, 2)]
)
Proposal = tuple[Ints, Ints, Floats, Params]


class Coarse:
    """Band-passed 96x54 pictures of one set at one scale, sampled at 32x18 under any small shift."""

    def __init__(self, thumbs: Thumbs, scale_x: float = 1.0, scale_y: float = 1.0) -> None:
        height, width = HEIGHT // 2, WIDTH // 2
        y = np.round((np.arange(height) - (height - 1) / 2) * scale_y + (height - 1) / 2).astype(int)
        x = np.round((np.arange(width) - (width - 1) / 2) * scale_x + (width - 1) / 2).astype(int)
        self.rows_in, self.columns_in = (y >= 0) & (y < height), (x >= 0) & (x < width)
        rows, columns = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
        self.band = np.empty((len(thumbs), height, width), np.float32)
        for start in range(0, len(thumbs), 256):
            pictures = shrink(thumbs[start : start + 256], width)[:, rows][:, :, columns]
            self.band[start : start + 256] = band_pass(pictures, 1.2, 4.0)

    def sample(self, dx: float = 0.0, dy: float = 0.0) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """float32 (n, 18, 32), and the mask (18, 32) of what lies inside. dx, dy: pixels of the 96x54 picture."""
        _, height, width = self.band.shape
        y = np.round((np.arange(COARSE_Y) + 0.5) * height / COARSE_Y - 0.5 + dy).astype(int)
        x = np.round((np.arange(COARSE_X) + 0.5) * width / COARSE_X - 0.5 + dx).astype(int)
        rows, columns = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
        rows_in = (y == rows) & self.rows_in[rows]
        columns_in = (x == columns) & self.columns_in[columns]
        return self.band[:, rows][:, :, columns], without_border(rows_in)[:, None] & without_border(columns_in)

    def vectors(self) -> Floats:
        """float32 (n, 576): the pictures as they stand, as unit vectors."""
        return unit(self.sample()[0].reshape(len(self.band), -1))


def without_border(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """One cell less where something is outside: the band-pass is spoilt a little beyond a border."""
    if inside.all():
        return inside
    return np.asarray(inside & np.append(inside[1:], True) & np.append(True, inside[:-1]))


def unit(rows: Floats) -> Floats:
    """(n, m) -> the same with mean 0 and length 1; flat pictures become zero."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    limit = 2 * rows.std(axis=1, keepdims=True)  # one strong edge must not outweigh the rest
    np.clip(rows, -limit, limit, out=rows)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.where(length > 1e-2, rows / np.maximum(length, 1e-2), 0), np.float32)


def propose(
    left: Thumbs,
    right: Thumbs | None = None,
    *,
    threshold: float = PROPOSE_COPY,
    tries: Sequence[tuple[float, float, float, float]] = TRIES,
    block: int = BLOCK,
) -> Iterator[Proposal]:
    """(left numbers, right numbers, likeness, best try) of pairs worth a look, block by block of left pictures.

    right None: pairs within `left`, each once. Memory is about block x len(right) x 12 bytes.
    """
    other = left if right is None else right
    fixed = np.empty((len(other), COARSE_Y, COARSE_X), np.float32)
    for start in range(0, len(other), 1024):
        fixed[start : start + 1024] = Coarse(other[start : start + 1024]).sample()[0]
    flat_other = np.flatnonzero(is_flat(other))
    flat = is_flat(left)
    for start in range(0, len(left), block):
        part = left[start : start + block]
        skip = start if right is None else 0  # a pair is looked at from its smaller number only
        best = np.full((len(part), len(other) - skip), -1.0, np.float32)
        which = np.zeros(best.shape, np.uint8)
        scaled: dict[tuple[float, float], Coarse] = {}
        for number, (sx, sy, dx, dy) in enumerate(tries):
            # The left picture is moved here; the opposite move of the right one is what aligns them.
            if (sx, sy) not in scaled:
                scaled[sx, sy] = Coarse(part, 1 / sx, 1 / sy)
            moved, both = scaled[sx, sy].sample(-dx / sx, -dy / sy)
            # Only what both pictures show is compared: a border that a shift brought in is outside the other.
            likeness = unit(moved[:, both]) @ unit(fixed[skip:, both]).T
            np.copyto(which, number, where=likeness > best)
            np.maximum(best, likeness, out=best)
        if flat_other.size:  # nothing to correlate: the detailed look decides
            best[np.ix_(np.flatnonzero(flat[start : start + block]), flat_other[flat_other >= skip] - skip)] = 1.0
        if right is None:
            best[np.arange(len(other) - skip)[None, :] <= np.arange(len(part))[:, None]] = -1.0
        rows, columns = np.nonzero(best >= threshold)
        params = np.asarray(tries, np.float32)[which[rows, columns]].reshape(-1, 4)
        params[:, 2:] *= WIDTH / 96
        yield rows + start, columns + skip, best[rows, columns], params
