"""Vectors in cells around k-means centres, so that the nearest of many are looked for in a few cells only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from deckbench.likeness.thumbnails import Floats, Ints

ROUNDS = 6
SAMPLED = 32  # vectors of each cell that its centre is learned from


class Cells:
    """Unit vectors (n, d) in `count` cells. members(cell): their numbers, rising."""

    def __init__(self, vectors: npt.NDArray[Any], count: int) -> None:
        self.middle = centres(vectors, count)
        home = np.concatenate([(part @ self.middle.T).argmax(axis=1) for part in blocks(vectors)])
        self.order = np.argsort(home, kind="stable")
        self.bounds = np.searchsorted(home[self.order], np.arange(len(self.middle) + 1))

    def __len__(self) -> int:
        return len(self.middle)

    def members(self, cell: int) -> Ints:
        return self.order[self.bounds[cell] : self.bounds[cell + 1]]

    def visits(self, queries: npt.NDArray[Any], searched: int) -> Iterator[tuple[int, Ints]]:
        """Each cell that some query (m, d) is near to, and the numbers of those queries, rising.

        searched: cells that each query visits: the nearest ones, of every eight centres one.
        """
        near = np.concatenate([self.nearest(part, searched) for part in blocks(queries)])
        visitors = np.argsort(near.ravel(), kind="stable")
        bounds = np.searchsorted(near.ravel()[visitors], np.arange(len(self) + 1))
        visitors //= near.shape[1]
        for cell in range(len(self)):
            if bounds[cell] < bounds[cell + 1]:
                yield cell, visitors[bounds[cell] : bounds[cell + 1]]

    def nearest(self, queries: Floats, searched: int) -> Ints:
        """(m, searched): picking some of few is quick, so the best of every eight are picked first."""
        likeness = queries @ self.middle.T
        eights = np.pad(likeness, ((0, 0), (0, -len(self) % 8)), constant_values=-np.inf).reshape(len(queries), -1, 8)
        if eights.shape[1] < 2 * searched:
            return np.argpartition(-likeness, searched - 1, axis=1)[:, :searched]
        best = np.argpartition(-eights.max(axis=2), searched - 1, axis=1)[:, :searched]
        return np.asarray(best * 8 + np.take_along_axis(eights, best[:, :, None], axis=1).argmax(axis=2))


def centres(vectors: npt.NDArray[Any], count: int) -> Floats:
    """(count, d): k-means centres of unit vectors, from evenly picked ones; the same for the same input."""
    sample = vectors[:: max(1, len(vectors) // (SAMPLED * count))].astype(np.float32)
    middle = sample[:: max(1, len(sample) // count)][:count].copy()
    for _ in range(ROUNDS):
        nearest = np.concatenate([(part @ middle.T).argmax(axis=1) for part in blocks(sample)])
        order = np.argsort(nearest, kind="stable")
        starts = np.flatnonzero(np.diff(nearest[order], prepend=-1))
        sums = np.add.reduceat(sample[order], starts, axis=0)
        middle[nearest[order][starts]] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
    return np.asarray(middle, np.float32)


def blocks(rows: npt.NDArray[Any]) -> Iterator[Floats]:
    """Slices of 4,096 rows, as float32."""
    for start in range(0, len(rows), 4096):
        yield rows[start : start + 4096].astype(np.float32)
