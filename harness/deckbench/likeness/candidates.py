"""Pairs worth a look, by rank: the nearest pictures by coarse vectors under small shifts and scales.

Every try of every picture is a probe. On the first principal components all pairs are compared, as matrix products; the
RANK nearest of each picture are compared again on the whole vectors, and a pair has the likeness of its best try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deckbench.likeness.cells import Cells
from deckbench.likeness.thumbnails import (
    HEIGHT,
    WIDTH,
    Bools,
    Floats,
    Ints,
    Params,
    Thumbs,
    band_pass,
    shrink,
)

COARSE_X, COARSE_Y = 32, 18
COMPONENTS = 128  # of 64, the copy of one in 200 frames was no candidate among 8,000
RANK = 100  # nearest pictures by principal components that are compared again on whole vectors
BLOCK = 256  # left pictures that are compared at once
MANY = 4096  # pictures; more lie in cells, and a probe visits the nearest ones
CELLS_PER_ROOT = 2.0  # cells by the root of the number of pictures
VISITED = 6  # cells
IN_CELL = 16  # nearest pictures of a cell that are ranked among those of other cells
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
    """Band-passed 96x54 pictures of one set, sampled at 32x18 under any small scale and shift."""

    def __init__(self, thumbs: Thumbs) -> None:
        self.band = np.empty((len(thumbs), HEIGHT // 2, WIDTH // 2), np.float32)
        for start in range(0, len(thumbs), 256):
            self.band[start : start + 256] = band_pass(shrink(thumbs[start : start + 256], WIDTH // 2), 1.2, 4.0)

    def sample(self, sx: float = 1.0, sy: float = 1.0, dx: float = 0.0, dy: float = 0.0) -> tuple[Floats, Bools]:
        """float32 (n, 18, 32), and the mask (18, 32) of what lies inside. dx, dy: pixels of the 96x54 picture."""
        _, height, width = self.band.shape
        rows, rows_in = places(COARSE_Y, height, sy, dy)
        columns, columns_in = places(COARSE_X, width, sx, dx)
        sampled = self.band[:, rows[:, None], columns]
        return sampled, without_border(rows_in)[:, None] & without_border(columns_in)

    def vectors(self) -> Floats:
        """float32 (n, 576): the pictures as they stand, as unit vectors."""
        return unit(self.sample()[0].reshape(len(self.band), -1))


def places(count: int, size: int, scale: float, shift: float) -> tuple[Ints, Bools]:
    """Pixels of a line of this size, evenly picked, as a scale about the middle and a shift move them; which exist."""
    middle = (size - 1) / 2
    even = np.round((np.arange(count) + 0.5) * size / count - 0.5 + shift)
    at = np.round((even - middle) * scale + middle).astype(np.intp)
    known = (at >= 0) & (at < size) & (even >= 0) & (even < size)
    return np.clip(at, 0, size - 1), known


def without_border(inside: Bools) -> Bools:
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
    coarse = Coarse(thumbs)
    for number, (sx, sy, dx, dy) in enumerate(tries):
        # The left picture is moved here; the opposite move of the right one is what aligns them.
        moved, inside = coarse.sample(1 / sx, 1 / sy, -dx / sx, -dy / sy)
        known[number] = inside.ravel()
        out[number][:, inside.ravel()] = unit(moved[:, inside])
    return out, known


def lengths(vectors: Floats, known: Floats) -> Floats:
    """(tries, n): the length of each vector where a try knows something, about its mean there."""
    count = known.sum(axis=1, keepdims=True)
    squares = known @ (vectors * vectors).T - (known @ vectors.T) ** 2 / count
    return np.asarray(np.sqrt(np.maximum(squares, 1e-2)), np.float32)


def principal(thumbs: Thumbs, tries: Sequence[tuple[float, float, float, float]]) -> Floats:
    """(576, 128): the first principal directions of at most 250 pictures, evenly picked, as every try moves them.

    Of the pictures as they stand they would not do: where all show one deck, none is moved, and a moved copy lies
    outside of what they span.
    """
    moved = probes(thumbs[:: -(-len(thumbs) // 250)], tries)[0].reshape(-1, COARSE_X * COARSE_Y)
    _, directions = np.linalg.eigh((moved.T @ moved).astype(np.float64))
    return np.asarray(directions[:, ::-1][:, :COMPONENTS], np.float32)


class Index:
    """The pictures among which candidates are looked for: whole vectors, and their principal components."""

    def __init__(self, thumbs: Thumbs, tries: Sequence[tuple[float, float, float, float]]) -> None:
        self.whole = coarse_vectors(thumbs)
        self.directions = principal(thumbs, tries)
        self.short = self.whole @ self.directions
        self.scale = 1 / lengths(self.whole, probes(thumbs[:1], tries)[1])  # (tries, n)
        self.cells = None
        if len(thumbs) > MANY:
            length = np.maximum(np.linalg.norm(self.short, axis=1, keepdims=True), 1e-6)
            self.cells = Cells(self.short / length, int(CELLS_PER_ROOT * len(thumbs) ** 0.5))

    def __len__(self) -> int:
        return len(self.short)

    def ranked(self, moved: Floats, skip: int, allowed: Callable[[Ints], Bools], rank: int) -> tuple[Ints, Floats]:
        """Numbers of the nearest pictures by principal components (n, rank), unsorted, and likeness; -1: not allowed.

        moved: (tries, n, 576), n pictures as the tries move them. skip: the first number that is looked at. allowed:
        which of some numbers (m,) may be paired with each of the pictures, (n, m).
        """
        short = moved @ self.directions
        if self.cells is not None:
            return self.in_cells(self.cells, short, skip, allowed, rank)
        numbers = np.arange(skip, len(self))
        likeness = np.full((short.shape[1], len(numbers)), -1.0, np.float32)
        product = np.empty_like(likeness)
        for number, probe in enumerate(short):
            np.matmul(probe, (self.short[skip:] * self.scale[number, skip:, None]).T, out=product)
            np.maximum(likeness, product, out=likeness)
        likeness[~allowed(numbers)] = -1.0
        return top(likeness, numbers, rank)

    def in_cells(
        self, cells: Cells, short: Floats, skip: int, allowed: Callable[[Ints], Bools], rank: int
    ) -> tuple[Ints, Floats]:
        """As `ranked`, where every probe is compared with the pictures of the nearest cells only."""
        tries, n, _ = short.shape
        # The probes of one picture are neighbours: the best try is a maximum of consecutive rows.
        queries = short.transpose(1, 0, 2).reshape(n * tries, -1)
        pictures, numbers, values = [], [], []
        for cell, who in cells.visits(queries, VISITED):
            members = cells.members(cell)
            members = members[np.searchsorted(members, skip) :]
            if not len(members):
                continue
            picture, number = np.divmod(who, tries)
            products = (queries[who] @ self.short[members].T) * self.scale[number[:, None], members]
            first = np.flatnonzero(np.diff(picture, prepend=-1))
            picture, tried = picture[first], np.maximum.reduceat(products, first)
            tried[~allowed(members)[picture]] = -1.0
            best, value = top(tried, members, IN_CELL)
            pictures.append(np.repeat(picture, best.shape[1]))
            numbers.append(best.ravel())
            values.append(value.ravel())
        out: Ints = np.zeros((n, rank), np.intp)
        likeness: Floats = np.full((n, rank), -1.0, np.float32)
        if pictures:
            picture, value = np.concatenate(pictures), np.concatenate(values)
            order = np.lexsort((-value, picture))
            place = np.arange(len(order)) - np.searchsorted(picture[order], picture[order])
            kept = order[place < rank]
            out[picture[kept], place[place < rank]] = np.concatenate(numbers)[kept]
            likeness[picture[kept], place[place < rank]] = value[kept]
        return out, likeness


def top(likeness: Floats, numbers: Ints, rank: int) -> tuple[Ints, Floats]:
    """(n, rank): of each row (n, m) the numbers (m,) of the largest, in any order, and those themselves."""
    rank = min(rank, likeness.shape[1])
    places = np.argpartition(likeness, likeness.shape[1] - rank, axis=1)[:, -rank:]
    return numbers[places], np.take_along_axis(likeness, places, axis=1)


def nearest(
    left: Thumbs,
    right: Thumbs | None = None,
    *,
    keep: int,
    threshold: float,
    labels: tuple[Ints, Ints] | None = None,
    tries: Sequence[tuple[float, float, float, float]] = TRIES,
) -> Iterator[Candidates]:
    """The nearest pictures of each left picture, block by block of left pictures.

    right None: pairs within `left`, each once. labels: of both sides; pairs with one label are left out. keep: at most
    so many of each left picture, each at least `threshold` alike. Memory is about BLOCK x len(right) x 8 bytes.
    """
    index = Index(left if right is None else right, tries)
    for start in range(0, len(left), BLOCK):
        part = slice(start, min(start + BLOCK, len(left)))
        skip = start if right is None else 0  # a pair is looked at from its smaller number only
        own = np.arange(part.start, part.stop)[:, None] if right is None else None

        def allowed(numbers: Ints, own: Ints | None = own, part: slice = part) -> Bools:
            good = np.ones((part.stop - part.start, len(numbers)), bool) if own is None else numbers > own
            if labels is not None:
                good &= labels[0][part, None] != labels[1][numbers]
            return np.asarray(good)

        moved = probes(left[part], tries)[0]
        numbers, likeness = index.ranked(moved, skip, allowed, max(RANK, keep))
        # (n, tries, 576) x (n, 576, rank): small products, one a picture
        again = moved.transpose(1, 0, 2) @ index.whole[numbers].transpose(0, 2, 1)
        again *= index.scale.T[numbers].transpose(0, 2, 1)
        which = again.argmax(axis=1)
        best = np.where(likeness > -1.0, again.max(axis=1), -1.0)
        order = np.argsort(-best, axis=1, kind="stable")[:, :keep]
        rows, columns = np.nonzero(np.take_along_axis(best, order, axis=1) >= threshold)
        at = order[rows, columns]
        params = np.asarray(tries, np.float32)[which[rows, at]].reshape(-1, 4)
        params[:, 2:] *= WIDTH / 96
        yield Candidates(rows + start, numbers[rows, at], best[rows, at].astype(np.float32), params)
