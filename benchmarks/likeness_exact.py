"""The exact search for near-duplicates, as the package did it at first: the reference of `benchmarks/likeness.py`.

All pairs are compared at 63 shifts and scales, all that are at least 0.72 alike are aligned, and the groups are looked
at again after every 512 images. Frozen with the alignment of that time, so that it does not gain from what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

WIDTH, HEIGHT = 192, 108
COARSE_X, COARSE_Y = 32, 18
BLOCK, PROPOSE_COPY = 512, 0.72
BLOCKS_X, BLOCKS_Y = 8, 6
MAX_SHIFT, MAX_SCALE, MARGIN = 0.12, 0.14, 2
COPY_CORRELATION, COPY_AGREES, BLOCK_AGREES_COPY = 0.91, 0.84, 0.85
STAGES = ((48, 0, 128, 0.76), (48, 1, 128, 0.88), (96, 2, 32, 0.87), (192, 2, 16, 0.86))
TRIES = tuple(
    [(1.0, 1.0, float(x), float(y)) for x in (0, -8, -5, -3, -1.5, 1.5, 3, 5, 8) for y in (0, -3.5, -1.5, 1.5, 3.5)]
    + [(s, s, float(x), float(y)) for s in (0.93, 1.07) for x in (-3, 0, 3) for y in (-2, 0, 2)]
)


def shrink(thumbs: Any, width: int) -> Any:
    """float32 (n, width*9/16, width): block means of thumbnails. width: 48, 96 or 192."""
    step = WIDTH // width
    total = np.zeros((len(thumbs), HEIGHT // step, width), np.uint16)
    for y in range(step):  # three times as fast as a mean over two axes
        for x in range(step):
            total += thumbs[:, y::step, x::step]
    return np.asarray(total.astype(np.float32) / np.float32(step * step))


def band_pass(pictures: Any, fine: float, wide: float) -> Any:
    """Difference of two Gaussian blurs of the logarithm, per picture."""
    logs = np.log(pictures + 16.0)
    return np.asarray(gaussian_filter(logs, (0, fine, fine)) - gaussian_filter(logs, (0, wide, wide)), np.float32)


def level(thumbs: Any, width: int) -> Any:
    """Band-passed pictures of one level, float32 (n, width*9/16, width), made in slices to spare memory."""
    out = np.empty((len(thumbs), width * 9 // 16, width), np.float32)
    for start in range(0, len(thumbs), 256):
        out[start : start + 256] = band_pass(shrink(thumbs[start : start + 256], width), 0.6, 3.0)
    return out


def centred(width: int) -> tuple[Any, Any]:
    """y and x of every pixel from the middle, (h, w), for a picture of this width."""
    height = width * 9 // 16
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.asarray(y - (height - 1) / 2), np.asarray(x - (width - 1) / 2)


def warp(pictures: Any, params: Any, margin: int) -> tuple[Any, Any]:
    """Sample each picture (n, h, w) at its scale and shift (sx, sy, tx, ty), about its middle, bilinearly.

    Also the mask of what both pictures show, without a margin along the edges of either: what a shift brought in
    (black, a repeated edge) spoils the band-pass a little beyond its border. Shifts are in pixels of this level. Scale
    and shift are separable, so rows and columns are picked one after the other.
    """
    n, height, width = pictures.shape
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) * params[:, 1:2] + params[:, 3:4] + (height - 1) / 2
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) * params[:, 0:1] + params[:, 2:3] + (width - 1) / 2
    rows_in = (y >= margin) & (y <= height - 1 - margin)
    columns_in = (x >= margin) & (x <= width - 1 - margin)
    for inside in (rows_in, columns_in):
        inside[:, :margin] = False
        inside[:, inside.shape[1] - margin :] = False
    mask = (rows_in[:, :, None] & columns_in[:, None, :]).astype(np.float32)
    y, x = np.clip(y, 0, height - 1.001), np.clip(x, 0, width - 1.001)
    y0, x0 = y.astype(np.intp), x.astype(np.intp)
    fy, fx = (y - y0)[:, :, None], (x - x0)[:, None, :]
    each = np.arange(n)[:, None]
    rows = pictures[each, y0] * (1 - fy) + pictures[each, y0 + 1] * fy
    columns = rows.transpose(0, 2, 1)
    out = columns[each, x0].transpose(0, 2, 1) * (1 - fx) + columns[each, x0 + 1].transpose(0, 2, 1) * fx
    return np.asarray(out, np.float32), mask


def correlation(a: Any, b: Any, mask: Any) -> Any:
    """Normalised cross-correlation inside the mask, per pair (n,)."""
    count = np.maximum(mask.sum(axis=(1, 2)), 1)
    a, b = a * mask, b * mask
    sum_a, sum_b = a.sum(axis=(1, 2)), b.sum(axis=(1, 2))
    cross = (a * b).sum(axis=(1, 2)) - sum_a * sum_b / count
    energy_a = np.maximum((a * a).sum(axis=(1, 2)) - sum_a**2 / count, 0)
    energy_b = np.maximum((b * b).sum(axis=(1, 2)) - sum_b**2 / count, 0)
    length = np.sqrt(energy_a * energy_b)
    return np.asarray(np.where(length > 1e-6, cross / np.maximum(length, 1e-6), 0.0), np.float64)


def refine(a: Any, b: Any, params: Any, rounds: int) -> tuple[Any, Any]:
    """Gauss-Newton on scale and shift of each pair; returns the best parameters seen and their correlation."""
    n, _, width = a.shape
    y, x = centred(width)
    best, best_value = params.copy(), np.full(n, -1.0)
    params = params.copy()
    for turn in range(rounds + 1):
        warped, mask = warp(b, params, MARGIN)
        value = correlation(a, warped, mask)
        better = value > best_value
        best[better], best_value[better] = params[better], value[better]
        if turn == rounds:
            break
        grad_y, grad_x = np.gradient(warped, axis=(1, 2))
        grad_x = grad_x / params[:, 0, None, None] * mask
        grad_y = grad_y / params[:, 1, None, None] * mask
        columns = np.stack([grad_x * x, grad_y * y, grad_x, grad_y], axis=1).reshape(n, 4, -1)
        gain = (a * warped * mask).sum(axis=(1, 2)) / ((warped * warped * mask).sum(axis=(1, 2)) + 1e-9)
        residual = ((a / np.maximum(gain, 0.2)[:, None, None] - warped) * mask).reshape(n, -1, 1)
        normal = (columns @ columns.transpose(0, 2, 1)).astype(np.float64)
        # A little damping, relative to each parameter's own curvature, for pictures with edges in one direction only.
        normal += np.einsum("ni,ij->nij", np.einsum("nii->ni", normal) * 1e-3 + 1e-6, np.eye(4))
        step = np.linalg.solve(normal, (columns @ residual).astype(np.float64))[:, :, 0]
        limit = np.array([0.05, 0.05, 0.04 * width, 0.04 * width])
        params = np.asarray(params + np.clip(step, -limit, limit), np.float32)
    return best, best_value


def in_reach(params: Any, width: int) -> Any:
    """Whether scale and shift are what a copy may have, per pair."""
    limits = np.array([MAX_SCALE, MAX_SCALE, MAX_SHIFT * width, MAX_SHIFT * width * 9 / 16])
    return np.asarray((np.abs(params - np.array([1, 1, 0, 0])) <= limits).all(axis=1))


def block_sums(values: Any) -> Any:
    """(n, h, w) -> (n, 6, 8) sums over blocks."""
    n, height, width = values.shape
    cut = values.reshape(n, BLOCKS_Y, height // BLOCKS_Y, BLOCKS_X, width // BLOCKS_X)
    return np.asarray(cut.sum(axis=(2, 4)), np.float64)


def agreement(a: Any, b: Any, mask: Any, threshold: float) -> Any:
    """Share of textured blocks whose own correlation reaches the threshold, per pair (n,)."""
    count = block_sums(mask)
    size = a.shape[1] * a.shape[2] / BLOCKS_X / BLOCKS_Y
    enough = count >= 0.6 * size
    safe = np.maximum(count, 1)
    a, b = a * mask, b * mask
    sum_a, sum_b = block_sums(a), block_sums(b)
    energy_a = np.maximum(block_sums(a * a) - sum_a * sum_a / safe, 0)
    energy_b = np.maximum(block_sums(b * b) - sum_b * sum_b / safe, 0)
    cross = block_sums(a * b) - sum_a * sum_b / safe
    total = np.maximum(enough.sum(axis=(1, 2)), 1)
    mean = (((energy_a + energy_b) * enough).sum(axis=(1, 2)) / 2 / total)[:, None, None]
    # A little of the mean energy is added to both sides, so that noise in a nearly blank block cannot disagree.
    floor = 0.1 * mean + 1e-9
    likeness = (cross + floor) / (np.sqrt(energy_a * energy_b) + floor)
    textured = enough & (np.maximum(energy_a, energy_b) > 0.1 * mean)
    good = (textured & (likeness >= threshold)).sum(axis=(1, 2))
    count_textured = textured.sum(axis=(1, 2))
    return np.asarray(np.where(count_textured > 0, good / np.maximum(count_textured, 1), 0.0), np.float64)


class Coarse:
    """Band-passed 96x54 pictures of one set at one scale, sampled at 32x18 under any small shift."""

    def __init__(self, thumbs: Any, scale_x: float = 1.0, scale_y: float = 1.0) -> None:
        height, width = HEIGHT // 2, WIDTH // 2
        y = np.round((np.arange(height) - (height - 1) / 2) * scale_y + (height - 1) / 2).astype(int)
        x = np.round((np.arange(width) - (width - 1) / 2) * scale_x + (width - 1) / 2).astype(int)
        self.rows_in, self.columns_in = (y >= 0) & (y < height), (x >= 0) & (x < width)
        rows, columns = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
        self.band = np.empty((len(thumbs), height, width), np.float32)
        for start in range(0, len(thumbs), 256):
            pictures = shrink(thumbs[start : start + 256], width)[:, rows][:, :, columns]
            self.band[start : start + 256] = band_pass(pictures, 1.2, 4.0)

    def sample(self, dx: float = 0.0, dy: float = 0.0) -> tuple[Any, Any]:
        """float32 (n, 18, 32), and the mask (18, 32) of what lies inside. dx, dy: pixels of the 96x54 picture."""
        _, height, width = self.band.shape
        y = np.round((np.arange(COARSE_Y) + 0.5) * height / COARSE_Y - 0.5 + dy).astype(int)
        x = np.round((np.arange(COARSE_X) + 0.5) * width / COARSE_X - 0.5 + dx).astype(int)
        rows, columns = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
        rows_in = (y == rows) & self.rows_in[rows]
        columns_in = (x == columns) & self.columns_in[columns]
        return self.band[:, rows][:, :, columns], without_border(rows_in)[:, None] & without_border(columns_in)


def without_border(inside: Any) -> Any:
    """One cell less where something is outside: the band-pass is spoilt a little beyond a border."""
    if inside.all():
        return inside
    return np.asarray(inside & np.append(inside[1:], True) & np.append(True, inside[:-1]))


def unit(rows: Any) -> Any:
    """(n, m) -> the same with mean 0 and length 1; flat pictures become zero."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    limit = 2 * rows.std(axis=1, keepdims=True)  # one strong edge must not outweigh the rest
    np.clip(rows, -limit, limit, out=rows)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.where(length > 1e-2, rows / np.maximum(length, 1e-2), 0), np.float32)


def every_pair(left: Any, right: Any | None = None) -> Iterator[tuple[Any, Any, Any]]:
    """All pairs that are alike enough under some shift or scale, block by block of left images."""
    other = left if right is None else right
    fixed = np.empty((len(other), COARSE_Y, COARSE_X), np.float32)
    for start in range(0, len(other), 1024):
        fixed[start : start + 1024] = Coarse(other[start : start + 1024]).sample()[0]
    for start in range(0, len(left), BLOCK):
        part = left[start : start + BLOCK]
        skip = start if right is None else 0
        best = np.full((len(part), len(other) - skip), -1.0, np.float32)
        which = np.zeros(best.shape, np.uint8)
        scaled: dict[tuple[float, float], Coarse] = {}
        for number, (sx, sy, dx, dy) in enumerate(TRIES):
            if (sx, sy) not in scaled:
                scaled[sx, sy] = Coarse(part, 1 / sx, 1 / sy)
            moved, both = scaled[sx, sy].sample(-dx / sx, -dy / sy)
            likeness = unit(moved[:, both]) @ unit(fixed[skip:, both]).T
            np.copyto(which, number, where=likeness > best)
            np.maximum(best, likeness, out=best)
        if right is None:
            best[np.arange(len(other) - skip)[None, :] <= np.arange(len(part))[:, None]] = -1.0
        rows, columns = np.nonzero(best >= PROPOSE_COPY)
        params = np.asarray(TRIES, np.float32)[which[rows, columns]].reshape(-1, 4)
        params[:, 2:] *= WIDTH / 96
        yield rows + start, columns + skip, params


def levels(thumbs: Any) -> dict[int, Any]:
    """Band-passed pictures at the two coarser levels."""
    return {width: level(thumbs, width).astype(np.float16) for width in (48, 96)}


def decide(sides: tuple[Any, Any], kept: tuple[Any, Any], i: Any, j: Any, params: Any) -> Iterator[tuple[int, int]]:
    """The copies among pairs (i, j) of two sets of thumbnails. kept: their `levels`."""
    params, places = params.copy(), np.arange(len(i))
    for width, rounds, batch, give_up in STAGES:
        unit_of = np.array([1, 1, width / WIDTH, width / WIDTH], np.float32)
        good_places = [places[:0]]
        for start in range(0, len(places), batch):
            at = places[start : start + batch]
            a, b = (
                level(thumbs[numbers[at]], width) if width == WIDTH else held[width][numbers[at]].astype(np.float32)
                for thumbs, held, numbers in zip(sides, kept, (i, j), strict=True)
            )
            got, value = refine(a, b, params[at] * unit_of, rounds)
            params[at] = got / unit_of
            good = (value >= give_up) & in_reach(got, width)
            good_places.append(at[good])
            if width == WIDTH and good.any():
                warped, mask = warp(b[good], got[good], 2 * MARGIN)
                same = (mask.mean(axis=(1, 2)) >= 0.6) & (correlation(a[good], warped, mask) >= COPY_CORRELATION)
                same &= agreement(a[good], warped, mask, BLOCK_AGREES_COPY) >= COPY_AGREES
                for place in at[good][same]:
                    yield int(i[place]), int(j[place])
        places = np.concatenate(good_places)


def exact_cluster(thumbs: Any, known: list[Any]) -> list[int]:
    """For each picture the smallest number in its group. known: groups that are known beforehand."""
    first: dict[Any, int] = {}
    labels = np.array([first.setdefault(label, number) for number, label in enumerate(known)])
    kept = levels(thumbs)
    for i, j, params in every_pair(thumbs):
        apart = labels[i] != labels[j]
        for a, b in decide((thumbs, thumbs), (kept, kept), i[apart], j[apart], params[apart]):
            one, two = sorted((labels[a], labels[b]))
            labels[labels == two] = one
    return [int(label) for label in labels]


def exact_matches(left: Any, right: Any) -> set[int]:
    """The left pictures that have a copy on the right."""
    kept = levels(left), levels(right)
    return {a for i, j, params in every_pair(left, right) for a, _ in decide((left, right), kept, i, j, params)}
