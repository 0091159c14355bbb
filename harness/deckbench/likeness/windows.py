"""Which picture may show part of another, mirrored or turned: windows of pictures, compared by gradients, by rank.

Every picture is squeezed to a square, in which mirroring and quarter turns only permute. Its windows (the whole, 71%
and half of each side, overlapping by three quarters) are described by 4x4 cells of 8 gradient directions, as SIFT does
(Lowe, 2004), on principal components. The whole picture in its eight orientations, and its halves, are looked up among
the windows of all others. Large sets are cut into cells by k-means first, and only the nearest cells are searched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deckbench.likeness.cells import Cells
from deckbench.likeness.thumbnails import HEIGHT, WIDTH, Floats, Ints, Thumbs

SIDE = 64  # of the square
CELLS, DIRECTIONS = 4, 8
DIMENSIONS = 48
# Start and length of the windows along one side; the step is a quarter of the length.
SPANS = tuple(
    (start, length)
    for length, count in ((1.0, 1), (0.71, 3), (0.5, 5))
    for start in np.linspace(0, 1 - length, count).tolist()
)
WHOLE = 0
FIRST, LAST = len(SPANS) - sum(length == 0.5 for _, length in SPANS), len(SPANS) - 1  # the two halves
HALVES = ((WHOLE, FIRST), (WHOLE, LAST), (FIRST, WHOLE), (LAST, WHOLE))
# (transposed, flipped along y, flipped along x), in this order
ORIENTATIONS = tuple((bool(n & 4), bool(n & 2), bool(n & 1)) for n in range(8))
UPRIGHT = 0
# What is looked up of each picture: the orientation and the window.
ASKED = (*((turn, WHOLE) for turn in range(len(ORIENTATIONS))), *((UPRIGHT, y * len(SPANS) + x) for y, x in HALVES))
BRUTE_FORCE = 60_000  # windows; fewer are all compared
CELLS_PER_ROOT = 2.0  # cells by the root of the number of windows: neither cells nor what is in them become too many
SEARCHED = 12  # cells that are searched for each query
TABLE, QUERIES = 8192, 512  # compared at once


@dataclass(frozen=True)
class Hits:
    """Pairs by number (n,): the left picture in an orientation, its window, the right picture's window, their likeness.

    A window is (span along y) * len(SPANS) + (span along x).
    """

    left: Ints
    right: Ints
    orientation: Ints
    left_window: Ints
    right_window: Ints
    likeness: Floats

    def __len__(self) -> int:
        return len(self.left)

    def take(self, at: npt.NDArray[Any]) -> Hits:
        """Those at these places, or where a mask is true."""
        return Hits(*(getattr(self, name)[at] for name in self.__dataclass_fields__))


def resampling(starts: Any, lengths: Any, source: int, target: int) -> Floats:
    """(n, target, source): weights that sample spans of a line of pixels, by a triangle as wide as a target pixel."""
    starts, lengths = np.atleast_1d(starts)[:, None], np.atleast_1d(lengths)[:, None]
    step = lengths * source / target
    middles = starts * source + (np.arange(target) + 0.5) * step - 0.5
    distance = (
        np.abs(np.arange(source) - np.clip(middles, 0, source - 1)[:, :, None]) / np.maximum(step, 1.0)[:, :, None]
    )
    weights = np.maximum(1 - distance, 0)
    return np.asarray(weights / weights.sum(axis=2, keepdims=True), np.float32)


def cell_weights() -> Floats:
    """(9 * 4, 64): how much each pixel of a line counts for each cell of each span, falling off to the next cell."""
    rows = []
    for start, length in SPANS:
        width = length * SIDE / CELLS
        for cell in range(CELLS):
            middle = start * SIDE + (cell + 0.5) * width - 0.5
            rows.append(np.maximum(1 - np.abs(np.arange(SIDE) - middle) / width, 0) / width)
            # what lies outside of the window does not count
            inside = (np.arange(SIDE) >= start * SIDE - 0.5) & (np.arange(SIDE) <= (start + length) * SIDE - 0.5)
            rows[-1] = rows[-1] * inside
    return np.asarray(rows, np.float32)


CELL_WEIGHTS = cell_weights()
TO_ROWS, TO_COLUMNS = resampling(0, 1, HEIGHT, SIDE)[0], resampling(0, 1, WIDTH, SIDE)[0]


def describe(thumbs: Thumbs) -> Floats:
    """float32 (n, 9, 9, 8, 4, 4): gradients of every window by direction and cell, as unit vectors."""
    squares = np.log(TO_ROWS @ thumbs.astype(np.float32) @ TO_COLUMNS.T + 16)
    grad_y, grad_x = np.gradient(squares, axis=(1, 2))
    strength = np.sqrt(grad_x * grad_x + grad_y * grad_y) + 0.01
    maps = np.empty((len(thumbs), DIRECTIONS, SIDE, SIDE), np.float32)
    for number in range(DIRECTIONS):
        angle = number * np.pi / 4
        along = np.maximum(grad_x * np.float32(np.cos(angle)) + grad_y * np.float32(np.sin(angle)), 0)
        maps[:, number] = along * along / strength
    pooled = CELL_WEIGHTS @ (maps @ CELL_WEIGHTS.T)
    spans = len(SPANS)
    cells = pooled.reshape(len(thumbs), DIRECTIONS, spans, CELLS, spans, CELLS).transpose(0, 2, 4, 1, 3, 5)
    return normalized(np.ascontiguousarray(cells))


def normalized(cells: Floats) -> Floats:
    """Unit vectors of which no number is above 0.25 (so that no single edge outweighs the rest)."""
    flat = cells.reshape(*cells.shape[:-3], -1)
    flat = flat / (np.linalg.norm(flat, axis=-1, keepdims=True) + 1e-3)
    flat = np.minimum(flat, 0.25)
    flat = flat / (np.linalg.norm(flat, axis=-1, keepdims=True) + 1e-3)
    return np.asarray(flat.reshape(cells.shape), np.float32)


def turned(cells: Floats, orientation: int) -> Floats:
    """What `describe` would give of the picture in that orientation, (..., 8, 4, 4)."""
    transposed, flip_y, flip_x = ORIENTATIONS[orientation]
    numbers = np.arange(DIRECTIONS)
    if transposed:
        cells = cells.swapaxes(-1, -2)[..., (2 - numbers) % DIRECTIONS, :, :]
    if flip_y:
        cells = cells[..., ::-1, :][..., -numbers % DIRECTIONS, :, :]
    if flip_x:
        cells = cells[..., ::-1][..., (4 - numbers) % DIRECTIONS, :, :]
    return cells


class Windows:
    """The windows of a set of pictures, and the queries that its pictures make, on principal components."""

    def __init__(self, thumbs: Thumbs, basis: tuple[Floats, Floats] | None = None) -> None:
        self.basis = basis or self.principal(thumbs)
        n, spans = len(thumbs), len(SPANS)
        self.windows = np.empty((n, spans * spans, DIMENSIONS), np.float16)
        self.queries = np.empty((n, len(ASKED), DIMENSIONS), np.float16)
        for start in range(0, n, 256):
            cells = describe(thumbs[start : start + 256])
            part = slice(start, start + len(cells))
            self.windows[part] = self.project(cells.reshape(len(cells), spans * spans, -1))
            for number, (turn, window) in enumerate(ASKED):
                view = turned(cells.reshape(len(cells), spans * spans, *cells.shape[3:])[:, window], turn)
                self.queries[part, number] = self.project(view.reshape(len(cells), -1))

    @staticmethod
    def principal(thumbs: Thumbs) -> tuple[Floats, Floats]:
        """Mean (128,) and principal directions (128, 48), weaker ones raised, of at most 500 pictures' windows."""
        cells = describe(thumbs[:: -(-len(thumbs) // 500)])
        rows = cells.reshape(-1, DIRECTIONS * CELLS * CELLS).astype(np.float64)
        mean = rows.mean(axis=0)
        values, directions = np.linalg.eigh(np.cov(rows.T))
        scale = (values[::-1][:DIMENSIONS] + 0.02 * values[-1]) ** -0.25
        return np.asarray(mean, np.float32), np.asarray(directions[:, ::-1][:, :DIMENSIONS] * scale, np.float32)

    def project(self, rows: Floats) -> Floats:
        """Unit vectors (..., 48) of descriptions (..., 128)."""
        mean, directions = self.basis
        short = (rows - mean) @ directions
        return np.asarray(short / (np.linalg.norm(short, axis=-1, keepdims=True) + 1e-6), np.float32)


def look_up(left: Windows, right: Windows, *, limits: Floats, labels: tuple[Ints, Ints] | None) -> Iterator[Hits]:
    """The windows of right pictures that are like the queries of left pictures, in small parts.

    limits: (12,), least likeness for each kind of query (`ASKED`). labels: of both sides; pairs with one label are left
    out. What two pictures of one view have in common is left out, too: `candidates` finds those.
    """
    spans2 = right.windows.shape[1]
    windows = right.windows.reshape(-1, DIMENSIONS)
    queries = left.queries.reshape(-1, DIMENSIONS)
    orientation, window = np.array(ASKED).T
    alike = np.concatenate([nearly_same_place(), np.zeros((spans2, spans2), bool)])
    excluded = alike[window + spans2 * (orientation != UPRIGHT)]
    for members, who in visits(windows, queries):
        table = windows[members].astype(np.float32).T
        for start in range(0, len(who), QUERIES):
            query = who[start : start + QUERIES]
            picture, kind = np.divmod(query, len(ASKED))
            likeness = queries[query].astype(np.float32) @ table
            rows, columns = np.nonzero(likeness >= limits[kind][:, None])
            other, place = np.divmod(members[columns], spans2)
            wanted = ~excluded[kind[rows], place]
            if labels is not None:
                wanted &= labels[0][picture[rows]] != labels[1][other]
            rows, other, place, value = rows[wanted], other[wanted], place[wanted], likeness[rows, columns][wanted]
            yield Hits(picture[rows], other, orientation[kind[rows]], window[kind[rows]], place, value)


def visits(windows: npt.NDArray[Any], queries: npt.NDArray[Any]) -> Iterator[tuple[Ints, Ints]]:
    """Which windows are compared with which queries, by number: few with all, many with those of cells near to them."""
    if len(windows) < BRUTE_FORCE:
        for start in range(0, len(windows), TABLE):
            yield np.arange(start, min(start + TABLE, len(windows))), np.arange(len(queries))
        return
    cells = Cells(windows, int(CELLS_PER_ROOT * len(windows) ** 0.5))
    for cell, who in cells.visits(queries, SEARCHED):
        yield cells.members(cell), who


def nearly_same_place() -> npt.NDArray[np.bool_]:
    """(81, 81): windows that two pictures of one view would have in common, moved or scaled a little."""
    start, length = np.array(SPANS).T
    ratio = length[:, None] / length[None, :]
    # Where the middles lie, if the two windows show the same thing.
    shift = (start - 0.5)[:, None] - ((start - 0.5)[None, :] * ratio)
    one = (np.abs(np.log(ratio)) < 0.15) & (np.abs(shift) < 0.2)
    return np.asarray((one[:, None, :, None] & one[None, :, None, :]).reshape(len(SPANS) ** 2, -1))
