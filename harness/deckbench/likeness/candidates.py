"""Pairs worth a look, by rank: the nearest pictures by coarse vectors under small shifts and scales.

Every try of every picture is a probe. On the first principal components all pairs are compared, as matrix products; the
RANK nearest of each picture are compared again on the whole vectors, and a pair has the likeness of its best try.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
    shrink,
)

COARSE_X, COARSE_Y = 32, 18
COMPONENTS = 64
RANK = 100  # nearest pictures by principal components that are compared again on whole vectors
BLOCK = 128  # left pictures that are compared at once
# (scale x, scale y, shift x, shift y) tried when proposing; shifts in pixels of a 96x54 picture.
TRIES = tuple(
    [(1.0, 1.0, float(x), float(y)) for x in (0, -8, -5, -3, -1.5, 1.5, 3, 5, 8) for y in (0, -3.5, -1.5, 1.5, 3.5)]
    + [(s, s, float(x), float(y)) for s in (0.93, 1.07) for x in (-3, 0, 3) for y in (-2, 0, 2)]
)


@dataclass(frozen=True)
class Candidates:
    """Pairs by number (n,), their likeness (n,), and the scale and shift (n, 4) of the try that made them most alike.

    Shifts are in pixels of the full thumbnail.
    """

    left: Ints
    right: Ints
    likeness: Floats
    params: Params

    def __len__(self) -> int:
        return len(self.left)

    def take(self, at: npt.NDArray[Any]) -> Candidates:
        """Those at these places, or where a mask is true."""
        return Candidates(self.left[at], self.right[at], self.likeness[at], self.params[at])


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


def coarse_vectors(thumbs: Thumbs) -> Floats:
    """float32 (n, 576): the pictures as they stand, as unit vectors, made in slices to spare memory."""
    out = np.empty((len(thumbs), COARSE_X * COARSE_Y), np.float32)
    for start in range(0, len(thumbs), 256):
        out[start : start + 256] = Coarse(thumbs[start : start + 256]).vectors()
    return out


def probes(thumbs: Thumbs, tries: Sequence[tuple[float, float, float, float]]) -> tuple[Floats, Floats]:
    """float32 (tries, n, 576): the pictures as each try moves them, unit vectors, zero where nothing is known.

    Also where something is known (tries, 576), as 0 and 1.
    """
    out = np.zeros((len(tries), len(thumbs), COARSE_Y * COARSE_X), np.float32)
    known = np.zeros((len(tries), COARSE_Y * COARSE_X), np.float32)
    scaled: dict[tuple[float, float], Coarse] = {}
    for number, (sx, sy, dx, dy) in enumerate(tries):
        # The left picture is moved here; the opposite move of the right one is what aligns them.
        if (sx, sy) not in scaled:
            scaled[sx, sy] = Coarse(thumbs, 1 / sx, 1 / sy)
        moved, inside = scaled[sx, sy].sample(-dx / sx, -dy / sy)
        known[number] = inside.ravel()
        out[number][:, inside.ravel()] = unit(moved[:, inside])
    return out, known


def lengths(vectors: Floats, known: Floats) -> Floats:
    """(tries, n): the length of each vector where a try knows something, about its mean there."""
    count = known.sum(axis=1, keepdims=True)
    squares = known @ (vectors * vectors).T - (known @ vectors.T) ** 2 / count
    return np.asarray(np.sqrt(np.maximum(squares, 1e-2)), np.float32)


def principal(thumbs: Thumbs, tries: Sequence[tuple[float, float, float, float]]) -> Floats:
    """(576, 64): the first principal directions of at most 500 of the pictures, evenly picked, as every try moves them.

    Of the pictures as they stand they would not do: where all show one deck, none is moved, and a moved copy lies
    outside of what they span.
    """
    moved = probes(thumbs[:: -(-len(thumbs) // 500)], tries)[0].reshape(-1, COARSE_X * COARSE_Y)
    _, directions = np.linalg.eigh((moved.T @ moved).astype(np.float64))
    return np.asarray(directions[:, ::-1][:, :COMPONENTS], np.float32)


def nearest(
    left: Thumbs,
    right: Thumbs | None = None,
    *,
    keep: int,
    threshold: float,
    labels: tuple[Ints, Ints] | None = None,
    tries: Sequence[tuple[float, float, float, float]] = TRIES,
    block: int = BLOCK,
) -> Iterator[Candidates]:
    """The nearest pictures of each left picture, block by block of left pictures.

    right None: pairs within `left`, each once. labels: of both sides; pairs with one label are left out. keep: at most
    so many of each left picture, each at least `threshold` alike. Memory is about block x len(right) x 8 bytes.
    """
    whole = coarse_vectors(left if right is None else right)
    directions = principal(left if right is None else right, tries)
    short = whole @ directions
    scale = 1 / lengths(whole, probes(left[:1], tries)[1])
    for start in range(0, len(left), block):
        part = slice(start, min(start + block, len(left)))
        skip = start if right is None else 0  # a pair is looked at from its smaller number only
        moved = probes(left[part], tries)[0]
        likeness = np.full((moved.shape[1], len(short) - skip), -1.0, np.float32)
        product = np.empty_like(likeness)
        for number, probe in enumerate(moved):
            np.matmul(probe @ directions, (short[skip:] * scale[number, skip:, None]).T, out=product)
            np.maximum(likeness, product, out=likeness)
        if right is None:
            likeness[np.arange(likeness.shape[1])[None, :] <= np.arange(likeness.shape[0])[:, None]] = -1.0
        if labels is not None:
            likeness[labels[0][part, None] == labels[1][None, skip:]] = -1.0
        rank = min(max(RANK, keep), likeness.shape[1])
        places = np.argpartition(likeness, likeness.shape[1] - rank, axis=1)[:, -rank:]
        allowed = np.take_along_axis(likeness, places, axis=1) > -1.0
        # (n, tries, 576) x (n, 576, rank): small products, one a picture
        again = moved.transpose(1, 0, 2) @ whole[places + skip].transpose(0, 2, 1)
        again *= scale.T[places + skip].transpose(0, 2, 1)
        which = again.argmax(axis=1)
        best = np.where(allowed, again.max(axis=1), -1.0)
        order = np.argsort(-best, axis=1, kind="stable")[:, :keep]
        rows, columns = np.nonzero(np.take_along_axis(best, order, axis=1) >= threshold)
        at = order[rows, columns]
        params = np.asarray(tries, np.float32)[which[rows, at]].reshape(-1, 4)
        params[:, 2:] *= WIDTH / 96
        yield Candidates(rows + start, places[rows, at] + skip, best[rows, at].astype(np.float32), params)
