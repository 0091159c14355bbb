"""Aligns pairs on scale and shift (Gauss-Newton), and measures how far aligned pictures agree."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from deckbench.likeness.thumbnails import (
    Floats,
    Params,
)

BLOCKS_X, BLOCKS_Y = 8, 6
MAX_SHIFT = 0.12  # of the side
MAX_SCALE = 0.14
MARGIN = 2  # pixels along the edges that are left out of a comparison


def centred(width: int) -> tuple[Floats, Floats]:
    """y and x of every pixel from the middle, (h, w), for a picture of this width."""
    height = width * 9 // 16
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.asarray(y - (height - 1) / 2), np.asarray(x - (width - 1) / 2)


def warp(pictures: Floats, params: Params, margin: int) -> tuple[Floats, Floats]:
    """Sample each picture (n, h, w) at its scale and shift (sx, sy, tx, ty), about its middle, bilinearly.

    Also the mask of what both pictures show, without a margin along the edges of either: what a shift brought in
    (black, a repeated edge) spoils the band-pass a little beyond its border. Shifts are in pixels of this level. Scale
    and shift are separable, so rows and columns are picked one after the other, as products with matrices.
    """
    _, height, width = pictures.shape
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) * params[:, 1:2] + params[:, 3:4] + (height - 1) / 2
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) * params[:, 0:1] + params[:, 2:3] + (width - 1) / 2
    rows_in = (y >= margin) & (y <= height - 1 - margin)
    columns_in = (x >= margin) & (x <= width - 1 - margin)
    for inside in (rows_in, columns_in):
        inside[:, :margin] = False
        inside[:, inside.shape[1] - margin :] = False
    mask = (rows_in[:, :, None] & columns_in[:, None, :]).astype(np.float32)
    return bilinear(y, height) @ (pictures @ bilinear(x, width).transpose(0, 2, 1)), mask


def bilinear(at: Floats, size: int) -> Floats:
    """(n, m, size): weights that sample a line of pixels at places (n, m) between them."""
    weights = np.clip(at, 0, size - 1, dtype=np.float32)[:, :, None] - np.arange(size, dtype=np.float32)
    np.abs(weights, out=weights)
    np.subtract(1, weights, out=weights)
    return np.asarray(np.maximum(weights, 0, out=weights))


def dot(a: Floats, b: Floats) -> Floats:
    """(n,): sums of products, per pair."""
    return np.asarray(np.einsum("ij,ij->i", a.reshape(len(a), -1), b.reshape(len(b), -1)), np.float32)


def correlation(a: Floats, b: Floats, mask: Floats) -> npt.NDArray[np.float64]:
    """Normalised cross-correlation inside the mask, per pair (n,)."""
    return correlation_and_gain(a, b, mask)[0]


def correlation_and_gain(a: Floats, b: Floats, mask: Floats) -> tuple[npt.NDArray[np.float64], Floats]:
    """Normalised cross-correlation inside the mask, and how many times as strong the first picture is, per pair."""
    count = np.maximum(mask.reshape(len(a), -1).sum(axis=1), 1)
    a, b = a * mask, b * mask
    sum_a, sum_b = (each.reshape(len(a), -1).sum(axis=1) for each in (a, b))
    product, square_a, square_b = dot(a, b), dot(a, a), dot(b, b)
    length = np.sqrt(np.maximum(square_a - sum_a**2 / count, 0) * np.maximum(square_b - sum_b**2 / count, 0))
    value = np.where(length > 1e-6, (product - sum_a * sum_b / count) / np.maximum(length, 1e-6), 0.0)
    return value.astype(np.float64), product / (square_b + 1e-9)


@lru_cache(maxsize=4)
def moments(width: int) -> tuple[Floats, ...]:
    """What the products of two gradients are summed by: along x, across, along y; and of one gradient with the rest."""
    y, x = (part.ravel() for part in centred(width))
    one = np.ones_like(x)
    return tuple(
        np.stack(parts, axis=1) for parts in ((x * x, x, one), (x * y, x, y, one), (y * y, y, one), (x, one), (y, one))
    )


def refine(a: Floats, b: Floats, params: Params, rounds: int) -> tuple[Params, npt.NDArray[np.float64]]:
    """Gauss-Newton on scale and shift of each pair; returns the best parameters seen and their correlation."""
    n, _, width = a.shape
    best, best_value = params.copy(), np.full(n, -1.0)
    params = params.copy()
    limit = np.array([0.05, 0.05, 0.04 * width, 0.04 * width])
    for turn in range(rounds + 1):
        warped, mask = warp(b, params, MARGIN)
        value, gain = correlation_and_gain(a, warped, mask)
        better = value > best_value
        best[better], best_value[better] = params[better], value[better]
        if turn < rounds:
            residual = np.asarray(a / np.maximum(gain, 0.2)[:, None, None] - warped, np.float32)
            step = gauss_newton(warped, residual, mask, params)
            params = np.asarray(params + np.clip(step, -limit, limit), np.float32)
    return best, best_value


def gauss_newton(warped: Floats, residual: Floats, mask: Floats, params: Params) -> npt.NDArray[np.float64]:
    """(n, 4): the step in scale and shift that takes most of the residual away.

    The gradient by a scale is that by the shift times x (or y), so all 14 sums of the normal equations are sums of
    five products of gradients, weighted by powers of x and y.
    """
    n, height, width = warped.shape
    along, across = np.zeros_like(warped), np.zeros_like(warped)
    np.subtract(warped[:, :, 2:], warped[:, :, :-2], out=along[:, :, 1:-1])
    np.subtract(warped[:, 2:], warped[:, :-2], out=across[:, 1:-1])
    along *= mask * (0.5 / params[:, 0, None, None])  # the mask has no edges, where differences have one side only
    across *= mask * (0.5 / params[:, 1, None, None])
    xx, xy, yy, x, y = (
        product.reshape(n, height * width) @ weights
        for product, weights in zip(
            (along * along, along * across, across * across, along * residual, across * residual),
            moments(width),
            strict=True,
        )
    )
    normal = np.empty((n, 4, 4))
    for (i, j), value in zip(
        ((0, 0), (0, 2), (2, 2), (0, 1), (0, 3), (1, 2), (2, 3), (1, 1), (1, 3), (3, 3)),
        (*xx.T, *xy.T, *yy.T),
        strict=True,
    ):
        normal[:, i, j] = normal[:, j, i] = value
    # A little damping, relative to each parameter's own curvature, for pictures with edges in one direction only.
    normal += np.einsum("ni,ij->nij", np.einsum("nii->ni", normal) * 1e-3 + 1e-6, np.eye(4))
    right = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float64)
    return np.asarray(np.linalg.solve(normal, right[:, :, None])[:, :, 0])


def in_reach(params: Params, width: int) -> npt.NDArray[np.bool_]:
    """Whether scale and shift are what a copy may have, per pair."""
    limits = np.array([MAX_SCALE, MAX_SCALE, MAX_SHIFT * width, MAX_SHIFT * width * 9 / 16])
    return np.asarray((np.abs(params - np.array([1, 1, 0, 0])) <= limits).all(axis=1))


def block_sums(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(n, h, w) -> (n, 6, 8) sums over blocks."""
    n, height, width = values.shape
    cut = values.reshape(n, BLOCKS_Y, height // BLOCKS_Y, BLOCKS_X, width // BLOCKS_X)
    return np.asarray(cut.sum(axis=(2, 4)), np.float64)


def agreement(a: Floats, b: Floats, mask: Floats, threshold: float) -> npt.NDArray[np.float64]:
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
