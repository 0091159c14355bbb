"""Near-duplicates: pictures that show the same moment, whatever compression, size, brightness, shift or small crop.

Perceptual hashes alone call every two frames of one deck alike. So hashing only proposes, and pixels decide:

1. Every picture becomes a 96x54 grey thumbnail. Its band-passed, 24x14 version is a unit vector; the dot product with a
   few shifted versions of another picture's proposes pairs (blocks of matrix products: 10,000 pictures take seconds).
2. A proposed pair is aligned: shift by cross-correlation (FFT) over a few scales in x and y, then refined.
3. The aligned pair is compared in 8x6 blocks by normalised cross-correlation of the high-passed thumbnails. The score
   is the share of textured blocks that agree. A copy agrees everywhere; another session's frame does not, and a moved
   arm shows as a hole.

Two thresholds on that score: COPY (the same moment) and SCENE (the same camera standing still: used only where
nothing is known about sessions, so that a fixed camera's pool counts as one group).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.ndimage import gaussian_filter, map_coordinates

from deckbench import progress
from deckbench.pool.picture import grey_thumbnail
from deckbench.pool.threads import in_threads

WIDTH, HEIGHT = 96, 54
COARSE_W, COARSE_H = 24, 14
BLOCKS_X, BLOCKS_Y = 8, 6
COPY = 0.90
SCENE = 0.55
BLOCK_AGREES = 0.70
PROPOSE = 0.55
ALIGNED_ENOUGH = 0.55
MAX_SHIFT = 0.12  # of the side
MAX_SCALE = 0.14
FLAT = 0.02  # spread of the high-passed log picture below which there is no texture to compare

Thumbs = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """Two pictures by index, and the share of blocks that agree (0 to 1)."""

    left: int
    right: int
    score: float


def fingerprint(paths: Sequence[Path]) -> Thumbs:
    """uint8 (n, 54, 96): grey thumbnails, upright, read by all cores. Raises InputError for an unreadable picture."""
    thumbs = np.empty((len(paths), HEIGHT, WIDTH), np.uint8)
    results = in_threads(lambda path: np.asarray(grey_thumbnail(path, (WIDTH, HEIGHT))), iter(paths))
    for number, thumb in enumerate(progress.track(results, "comparing pictures", total=len(paths))):
        thumbs[number] = thumb
    return thumbs


def high_pass(thumbs: npt.NDArray[Any]) -> Floats:
    """float32, same shape: logarithm (a change of brightness becomes a constant), then fine minus coarse blur."""
    logs = np.log(np.asarray(thumbs, np.float32) + 16.0)
    none = (0.0,) * (logs.ndim - 2)
    band: Floats = gaussian_filter(logs, (*none, 0.6, 0.6)) - gaussian_filter(logs, (*none, 3.0, 3.0))
    return band


def coarse(thumbs: Thumbs) -> Floats:
    """float32 (n, 14, 24): band-passed small pictures, for proposing pairs."""
    logs = np.log(thumbs.astype(np.float32) + 16.0)
    band = gaussian_filter(logs, (0, 1.8, 1.8)) - gaussian_filter(logs, (0, 8.0, 8.0))
    rows = np.linspace(0, HEIGHT, COARSE_H + 1).astype(int)[:-1]
    columns = np.linspace(0, WIDTH, COARSE_W + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(band, rows, axis=1), columns, axis=2)
    return np.asarray(sums, np.float32)


def unit_rows(pictures: Floats) -> Floats:
    """(n, h, w) -> (n, h*w) with mean 0 and length 1; flat pictures become zero."""
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.where(length > 1e-3, rows / np.maximum(length, 1e-3), 0), np.float32)


def propose(
    left: Thumbs, right: Thumbs | None = None, *, threshold: float = PROPOSE, block: int = 512
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]]:
    """(left indices, right indices, likeness) of pairs worth a look, block by block.

    right None: pairs within `left`, each once. Memory is block x len(right) x 4 bytes, a few times.
    """
    other = left if right is None else right
    fixed = unit_rows(coarse(other)).T.copy()
    flat_other = np.flatnonzero(is_flat(other))
    pictures = coarse(left)
    flat = is_flat(left)
    for start in range(0, len(left), block):
        part = pictures[start : start + block]
        best = np.full((len(part), len(other)), -1.0, np.float32)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                np.maximum(best, unit_rows(moved(part, dx, dy)) @ fixed, out=best)
        if flat_other.size:  # nothing to correlate: the detailed look decides
            best[np.ix_(np.flatnonzero(flat[start : start + block]), flat_other)] = 1.0
        if right is None:
            best[np.arange(len(other))[None, :] <= np.arange(start, start + len(part))[:, None]] = -1.0
        rows, columns = np.nonzero(best >= threshold)
        yield rows + start, columns, best[rows, columns]


def moved(pictures: Floats, dx: int, dy: int) -> Floats:
    """Shifted by whole cells, zeros coming in."""
    out = np.zeros_like(pictures)
    h, w = pictures.shape[1:]
    out[:, max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)] = pictures[
        :, max(-dy, 0) : h + min(-dy, 0), max(-dx, 0) : w + min(-dx, 0)
    ]
    return out


def is_flat(thumbs: Thumbs) -> npt.NDArray[np.bool_]:
    """Which pictures have next to no texture (a covered lens, an empty wall)."""
    flat = np.zeros(len(thumbs), bool)
    for start in range(0, len(thumbs), 1024):
        flat[start : start + 1024] = high_pass(thumbs[start : start + 1024]).std(axis=(1, 2)) < FLAT
    return flat


def block_sums(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(..., 54, 96) -> (..., 6, 8) sums over blocks."""
    shape = values.shape[:-2]
    cut = values.reshape(*shape, BLOCKS_Y, HEIGHT // BLOCKS_Y, BLOCKS_X, WIDTH // BLOCKS_X)
    return np.asarray(cut.sum(axis=(-3, -1)))


def agreement(a: Floats, b: Floats, mask: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float64]:
    """Share of textured blocks that agree, of aligned high-passed pictures (..., 54, 96); mask: where both exist."""
    ones = np.ones(a.shape, np.float32) if mask is None else mask.astype(np.float32)
    count = block_sums(ones)
    enough = count >= 0.6 * (HEIGHT // BLOCKS_Y) * (WIDTH // BLOCKS_X)
    safe = np.maximum(count, 1)
    a, b = a * ones, b * ones
    sum_a, sum_b = block_sums(a), block_sums(b)
    energy_a = np.maximum(block_sums(a * a) - sum_a * sum_a / safe, 0)
    energy_b = np.maximum(block_sums(b * b) - sum_b * sum_b / safe, 0)
    cross = block_sums(a * b) - sum_a * sum_b / safe
    total = np.maximum(enough.sum(axis=(-2, -1)), 1)
    mean = ((energy_a + energy_b) * enough).sum(axis=(-2, -1)) / 2 / total
    # A little of the mean energy is added to both sides, so that noise in a nearly blank block cannot disagree.
    floor = 0.1 * mean[..., None, None] + 1e-6
    likeness = (cross + floor) / (np.sqrt(energy_a * energy_b) + floor)
    textured = enough & (np.maximum(energy_a, energy_b) > 0.1 * mean[..., None, None])
    good = (textured & (likeness >= BLOCK_AGREES)).sum(axis=(-2, -1))
    count_textured = textured.sum(axis=(-2, -1))
    return np.asarray(np.where(count_textured > 0, good / np.maximum(count_textured, 1), 0.0), np.float64)


SCALES = tuple(
    dict.fromkeys(
        [(1.0, 1.0)]
        + [(s, s) for s in (0.89, 0.92, 0.95, 0.975, 1.025, 1.05, 1.08, 1.11)]
        + [(s, 1.0) for s in (0.92, 0.96, 1.04, 1.08)]
        + [(1.0, s) for s in (0.92, 0.96, 1.04, 1.08)]
    )
)
FFT_SHAPE = (80, 128)


@lru_cache(maxsize=1)
def grid() -> tuple[Floats, Floats]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return y - (HEIGHT - 1) / 2, x - (WIDTH - 1) / 2


def warp(picture: npt.NDArray[Any], params: npt.NDArray[np.float64]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Sample `picture` at scale and shift (sx, sy, tx, ty) about its middle; also where that lies inside it."""
    sx, sy, tx, ty = params
    y, x = grid()
    ys, xs = sy * y + ty + (HEIGHT - 1) / 2, sx * x + tx + (WIDTH - 1) / 2
    inside = (ys >= 0) & (ys <= HEIGHT - 1) & (xs >= 0) & (xs <= WIDTH - 1)
    values = map_coordinates(picture, [ys, xs], order=1, mode="nearest")
    return np.asarray(values, np.float32), inside


def correlation(a: Floats, b: Floats, mask: npt.NDArray[np.bool_]) -> float:
    """Normalised cross-correlation inside the mask."""
    a, b = a[mask], b[mask]
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / length if length > 1e-9 else 0.0


def align(a: Thumbs, b: Thumbs) -> npt.NDArray[np.float64] | None:
    """Scale and shift (sx, sy, tx, ty) that lay b over a; None when nothing in reach correlates."""
    high_a = high_pass(a)
    spectrum = np.conj(fft.rfft2(high_a, FFT_SHAPE))
    energy_a = float((high_a * high_a).sum())
    reach_x, reach_y = int(MAX_SHIFT * WIDTH), int(MAX_SHIFT * HEIGHT) + 1
    best, params = 0.0, None
    high_b = high_pass(b)
    for sx, sy in SCALES:
        scaled, inside = warp(high_b, np.array([sx, sy, 0.0, 0.0]))
        scaled = scaled * inside
        surface = fft.irfft2(spectrum * fft.rfft2(scaled, FFT_SHAPE), FFT_SHAPE)
        near = np.concatenate([surface[-reach_y:], surface[: reach_y + 1]])
        near = np.concatenate([near[:, -reach_x:], near[:, : reach_x + 1]], axis=1)
        at = int(near.argmax())
        value = float(near.flat[at]) / (np.sqrt(energy_a * float((scaled * scaled).sum())) + 1e-9)
        if value > best:
            dy, dx = at // near.shape[1] - reach_y, at % near.shape[1] - reach_x
            best, params = value, np.array([sx, sy, sx * dx, sy * dy])
    if params is None or best < 0.4 * ALIGNED_ENOUGH:
        return None
    return refine(high_a, high_b, params)


def in_reach(params: npt.NDArray[np.float64], slack: float = 1.0) -> bool:
    """Whether scale and shift are what a copy may have."""
    limits = slack * np.array([MAX_SCALE, MAX_SCALE, MAX_SHIFT * WIDTH, MAX_SHIFT * HEIGHT])
    return bool((np.abs(params - (1, 1, 0, 0)) <= limits).all())


def refine(a: Floats, b: Floats, params: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Gauss-Newton on scale and shift, sub-pixel (Lucas-Kanade; both sides brought to one contrast each time)."""
    y, x = grid()
    best, best_value = params, -1.0
    for _ in range(6):
        warped, inside = warp(b, params)
        value = correlation(a, warped, inside)
        if value <= best_value + 1e-4:
            break
        best, best_value = params, value
        gy, gx = np.gradient(warped)
        sx, sy = params[:2]
        # The gradient is taken in the warped picture: divide by the scale to get it in b's own pixels.
        gx, gy = gx / sx, gy / sy
        jacobian = np.stack([gx * x, gy * y, gx, gy], axis=-1)[inside].astype(np.float64)
        gain = float((a[inside] * warped[inside]).sum()) / (float((warped[inside] ** 2).sum()) + 1e-9)
        residual = a[inside] / max(gain, 0.1) - warped[inside]
        normal = jacobian.T @ jacobian + 1e-6 * np.eye(4)
        step = np.linalg.solve(normal, jacobian.T @ residual)
        params = params + step
        if (
            np.abs(params[:2] - 1).max() > 1.5 * MAX_SCALE
            or abs(params[2]) > 0.2 * WIDTH
            or abs(params[3]) > 0.2 * HEIGHT
        ):
            break
    return best


def compare(a: Thumbs, b: Thumbs) -> float:
    """Score of one pair of thumbnails (54, 96) uint8: the share of textured blocks that agree once aligned."""
    high_a, high_b = high_pass(a), high_pass(b)
    flat_a, flat_b = high_a.std() < FLAT, high_b.std() < FLAT
    if flat_a or flat_b:
        return flat_likeness(a, b) if flat_a and flat_b else 0.0
    straight = float(agreement(high_a, high_b))
    if straight >= COPY:
        return straight
    params = align(a, b)
    if params is None:
        return straight
    if (
        np.abs(params[:2] - 1).max() > MAX_SCALE
        or abs(params[2]) > MAX_SHIFT * WIDTH
        or abs(params[3]) > MAX_SHIFT * HEIGHT
    ):
        return straight
    warped, inside = warp(high_b, params)
    if inside.mean() < 0.6 or correlation(high_a, warped, inside) < ALIGNED_ENOUGH:
        return straight
    return max(straight, float(agreement(high_a, warped, inside)))


def flat_likeness(a: Thumbs, b: Thumbs) -> float:
    """For two pictures without texture: 1 when they also have the same brightness gradients, else 0."""
    left, right = a.astype(np.float32), b.astype(np.float32)
    difference = (left - left.mean()) - (right - right.mean())
    return 1.0 if float(np.abs(difference).mean()) < 1.5 else 0.0


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


def cluster(thumbs: Thumbs, *, threshold: float, known: Sequence[object] | None = None) -> list[int]:
    """Connected components of pairs that score at least `threshold`: for each picture its component's first number.

    known: labels of groups that are joined beforehand (None: not in a group); pairs inside one are not looked at.
    """
    groups = Groups(len(thumbs))
    first: dict[object, int] = {}
    for number, label in enumerate(known or ()):
        if label is not None:
            groups.join(first.setdefault(label, number), number)
    propose_at = PROPOSE if threshold >= COPY else 0.4
    for left, right, likeness in propose(thumbs, threshold=propose_at):
        for at in np.argsort(-likeness, kind="stable"):
            i, j = int(left[at]), int(right[at])
            if groups.find(i) != groups.find(j) and compare(thumbs[i], thumbs[j]) >= threshold:
                groups.join(i, j)
    return groups.labels()


def matches(left: Thumbs, right: Thumbs, *, threshold: float = COPY) -> list[Pair]:
    """For each left picture the best right one that scores at least `threshold`; those without one are absent."""
    found: dict[int, Pair] = {}
    for rows, columns, likeness in propose(left, right):
        for at in np.lexsort((columns, -likeness, rows)):
            i, j = int(rows[at]), int(columns[at])
            if i in found and found[i].score >= 0.999:
                continue
            score = compare(left[i], right[j])
            if score >= threshold and (i not in found or score > found[i].score):
                found[i] = Pair(i, j, score)
    return [found[i] for i in sorted(found)]
