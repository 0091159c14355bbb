"""Aligns pairs on scale and shift (Gauss-Newton), and measures how far aligned pictures agree."""

from __future__ import annotations

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


def correlation(a: Floats, b: Floats, mask: Floats) -> npt.NDArray[np.float64]:
    """Normalised cross-correlation inside the mask, per pair (n,)."""
    count = np.maximum(mask.sum(axis=(1, 2)), 1)
    a, b = a * mask, b * mask
    sum_a, sum_b = a.sum(axis=(1, 2)), b.sum(axis=(1, 2))
    cross = (a * b).sum(axis=(1, 2)) - sum_a * sum_b / count
    energy_a = np.maximum((a * a).sum(axis=(1, 2)) - sum_a**2 / count, 0)
    energy_b = np.maximum((b * b).sum(axis=(1, 2)) - sum_b**2 / count, 0)
    length = np.sqrt(energy_a * energy_b)
    return np.asarray(np.where(length > 1e-6, cross / np.maximum(length, 1e-6), 0.0), np.float64)


def refine(a: Floats, b: Floats, params: Params, rounds: int) -> tuple[Params, npt.NDArray[np.float64]]:
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
