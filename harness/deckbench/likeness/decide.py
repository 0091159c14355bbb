"""Which pairs are copies: aligned and compared by pixels, level by level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deckbench.cores import in_threads
from deckbench.likeness.align import MARGIN, agreement, correlation, in_reach, refine, warp
from deckbench.likeness.thumbnails import (
    HEIGHT,
    WIDTH,
    Floats,
    Ints,
    Params,
    Thumbs,
    level,
)

# Decided on synthetic pools, the real pools and planted copies; docs/near-duplicates.md has the numbers.
COPY_CORRELATION = 0.91
COPY_AGREES = 0.84
BLOCK_AGREES_COPY = 0.85
# (width, rounds of alignment, pairs at once, correlation below which a pair is given up); copies are well above.
STAGES = ((48, 0, 64, 0.76), (48, 1, 64, 0.88), (48, 2, 64, 0.89), (96, 1, 16, 0.85), (192, 2, 8, 0.86))


@dataclass(frozen=True)
class Pair:
    """Two pictures by index. correlation: of the aligned pictures. agrees: share of textured blocks that agree.

    how: what was done to one of them: `near` where they are the same view. move: scale and shift (x, y, x, y) that lead
    from a place in the left picture to the same in the right one, about the middle; shifts in fractions of the side.
    """

    left: int
    right: int
    correlation: float
    agrees: float
    how: str = "near"
    move: tuple[float, float, float, float] = (1.0, 1.0, 0.0, 0.0)


class Levels:
    """Band-passed pictures of a set at the levels that are needed often; the finest is made on demand."""

    def __init__(self, thumbs: Thumbs) -> None:
        self.thumbs = thumbs
        self.kept: dict[int, npt.NDArray[np.float16]] = {}

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


def decide(left: Levels, right: Levels, i: Ints, j: Ints, params: Params, *, finest: int | None = None) -> list[Pair]:
    """The copies among proposed pairs. params: (n, 4), shifts in pixels of the full thumbnail.

    finest: of each left picture only so many, the best once aligned at the coarsest level, are looked at further.
    """
    found: list[Pair] = []
    params = params.copy()
    places = np.arange(len(i))
    values = np.zeros(len(i))
    for width, rounds, batch, give_up in STAGES:
        unit = np.array([1, 1, width / WIDTH, width / WIDTH], np.float32)
        left.keep(width)
        right.keep(width)

        def look(
            at: Ints, width: int = width, rounds: int = rounds, unit: Params = unit, give_up: float = give_up
        ) -> tuple[Ints, list[Pair]]:
            a, b = left.get(width, i[at]), right.get(width, j[at])
            got, value = refine(a, b, params[at] * unit, rounds)
            params[at], values[at] = got / unit, value  # every thread has its own rows
            good = (value >= give_up) & in_reach(got, width)
            pairs = confirm(a[good], b[good], got[good], i[at[good]], j[at[good]]) if width == WIDTH else []
            return at[good], pairs

        parts = (places[start : start + batch] for start in range(0, len(places), batch))
        kept = []
        for good, pairs in in_threads(look, parts):
            kept.append(good)
            found += pairs
        places = np.concatenate(kept) if kept else places[:0]
        if finest is not None and width == STAGES[0][0] and rounds:
            places = places[np.lexsort((-values[places], i[places]))]
            places = places[np.arange(len(places)) - np.searchsorted(i[places], i[places]) < finest]
    return found


def confirm(a: Floats, b: Floats, params: Params, i: Ints, j: Ints) -> list[Pair]:
    """The copies among aligned pairs at the finest level."""
    if not len(a):
        return []
    warped, mask = warp(b, params, 2 * MARGIN)
    value = correlation(a, warped, mask)
    share = agreement(a, warped, mask, BLOCK_AGREES_COPY)
    good = (mask.mean(axis=(1, 2)) >= 0.6) & (value >= COPY_CORRELATION) & (share >= COPY_AGREES)
    found = []
    for n in np.flatnonzero(good):
        sx, sy, tx, ty = (float(value) for value in params[n])
        move = (sx, sy, tx / WIDTH, ty / HEIGHT)
        found.append(Pair(int(i[n]), int(j[n]), float(value[n]), float(share[n]), move=move))
    return found
