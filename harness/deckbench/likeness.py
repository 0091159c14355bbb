"""Near-duplicates: pictures that show the same moment, whatever compression, size, brightness, shift or small crop.

Perceptual hashes alone call any two views of one deck alike. So a coarse likeness only proposes, and pixels decide:

1. Every picture becomes a grey 192x108 thumbnail, taken as logarithm (a change of brightness becomes a constant) and
   band-passed. At 32x18 the dot products with shifted and scaled versions of another picture propose pairs: blocks of
   matrix products, so that 10,000 pictures take a minute and little memory.
2. Proposed pairs are aligned in batches by Gauss-Newton on shift and scale (Lucas and Kanade, 1981), at 48x27, 96x54
   and 192x108; most are given up at the first, cheap level.
3. Two numbers decide at 192x108: the normalised cross-correlation of the aligned high-passed pictures, and the share of
   8x6 textured blocks that agree on their own. A copy agrees everywhere; a moved arm or another plate shows as a hole.

COPY is the same moment. SCENE (the same camera standing still) is used only where nothing is known about sessions, so
that the pool of one fixed camera counts as one group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from deckbench import progress
from deckbench.cores import in_threads
from deckbench.picture import grey_thumbnail

WIDTH, HEIGHT = 192, 108
BLOCKS_X, BLOCKS_Y = 8, 6
COARSE_X, COARSE_Y = 32, 18

# Decided on synthetic pools, the real pools and planted copies; docs/near-duplicates.md has the numbers.
COPY_CORRELATION = 0.91
COPY_AGREES = 0.84
# Small crops of one kind of object look alike without being one picture: there is less detail to tell them apart.
SMALL_SIDE = 160  # pixels of the shorter side
SMALL_CORRELATION = 0.95
SMALL_AGREES = 0.90
BLOCK_AGREES_COPY = 0.85
SCENE_AGREES = 0.55
BLOCK_AGREES_SCENE = 0.70
PROPOSE_COPY = 0.72
PROPOSE_SCENE = 0.45
# (width, rounds of alignment, pairs at once, correlation below which a pair is given up); copies are well above.
STAGES = ((48, 0, 128, 0.76), (48, 1, 128, 0.88), (96, 2, 32, 0.87), (192, 2, 16, 0.86))

MAX_SHIFT = 0.12  # of the side
MAX_SCALE = 0.14
BLOCK = 512  # left pictures that are compared at once
MARGIN = 2  # pixels along the edges that are left out of a comparison
FLAT = 0.02  # spread of the band-passed logarithm below which there is no texture to compare

# (scale x, scale y, shift x, shift y) tried when proposing; shifts in pixels of a 96x54 picture.
TRIES = tuple(
    [(1.0, 1.0, float(x), float(y)) for x in (0, -8, -5, -3, -1.5, 1.5, 3, 5, 8) for y in (0, -3.5, -1.5, 1.5, 3.5)]
    + [(s, s, float(x), float(y)) for s in (0.93, 1.07) for x in (-3, 0, 3) for y in (-2, 0, 2)]
)

Thumbs = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Params = npt.NDArray[np.float32]
Ints = npt.NDArray[np.intp]
Proposal = tuple[Ints, Ints, Floats, Params]


@dataclass(frozen=True)
class Pair:
    """Two pictures by index. correlation: of the aligned pictures. agrees: share of textured blocks that agree."""

    left: int
    right: int
    correlation: float
    agrees: float


def fingerprint(paths: Sequence[Path]) -> Thumbs:
    """uint8 (n, 108, 192): grey thumbnails, upright, read by all cores. Raises InputError for an unreadable picture."""
    thumbs = np.empty((len(paths), HEIGHT, WIDTH), np.uint8)
    results = in_threads(lambda path: np.asarray(grey_thumbnail(path, (WIDTH, HEIGHT))), iter(paths))
    for number, thumb in enumerate(progress.track(results, "comparing pictures", total=len(paths))):
        thumbs[number] = thumb
    return thumbs


def thumbnail(image: Image.Image) -> Thumbs:
    """uint8 (108, 192): the grey thumbnail of an upright picture that is open already."""
    return np.asarray(image.convert("L").resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def shrink(thumbs: Thumbs, width: int) -> Floats:
    """float32 (n, width*9/16, width): block means of thumbnails. width: 48, 96 or 192."""
    step = WIDTH // width
    total = np.zeros((len(thumbs), HEIGHT // step, width), np.uint16)
    for y in range(step):  # three times as fast as a mean over two axes
        for x in range(step):
            total += thumbs[:, y::step, x::step]
    return np.asarray(total.astype(np.float32) / np.float32(step * step))


def band_pass(pictures: Floats, fine: float, wide: float) -> Floats:
    """Difference of two Gaussian blurs of the logarithm, per picture."""
    logs = np.log(pictures + 16.0)
    return np.asarray(gaussian_filter(logs, (0, fine, fine)) - gaussian_filter(logs, (0, wide, wide)), np.float32)


def level(thumbs: Thumbs, width: int) -> Floats:
    """Band-passed pictures of one level, float32 (n, width*9/16, width), made in slices to spare memory."""
    out = np.empty((len(thumbs), width * 9 // 16, width), np.float32)
    for start in range(0, len(thumbs), 256):
        out[start : start + 256] = band_pass(shrink(thumbs[start : start + 256], width), 0.6, 3.0)
    return out


# --- proposing ---------------------------------------------------------------------------------------------------


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


def is_flat(thumbs: Thumbs) -> npt.NDArray[np.bool_]:
    """Which pictures have next to no texture (a covered lens, an empty wall)."""
    flat = np.zeros(len(thumbs), bool)
    for start in range(0, len(thumbs), 256):
        flat[start : start + 256] = level(thumbs[start : start + 256], 96).std(axis=(1, 2)) < FLAT
    return flat


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


# --- aligning ----------------------------------------------------------------------------------------------------


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


# --- deciding ----------------------------------------------------------------------------------------------------


class Levels:
    """Band-passed pictures of a set at the levels that are needed often; the finest is made on demand."""

    def __init__(self, thumbs: Thumbs) -> None:
        self.thumbs = thumbs
        self.kept: dict[int, npt.NDArray[np.float16]] = {}

    @cached_property
    def flat(self) -> npt.NDArray[np.bool_]:
        return is_flat(self.thumbs)

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


def decide(left: Levels, right: Levels, i: Ints, j: Ints, params: Params) -> list[Pair]:
    """The copies among proposed pairs. params: (n, 4), shifts in pixels of the full thumbnail."""
    found = decide_flat(left, right, i, j)
    params = params.copy()
    places = np.arange(len(i))
    for width, rounds, batch, give_up in STAGES:
        unit = np.array([1, 1, width / WIDTH, width / WIDTH], np.float32)
        left.keep(width)
        right.keep(width)

        def look(
            at: Ints, width: int = width, rounds: int = rounds, unit: Params = unit, give_up: float = give_up
        ) -> tuple[Ints, list[Pair]]:
            a, b = left.get(width, i[at]), right.get(width, j[at])
            got, value = refine(a, b, params[at] * unit, rounds)
            params[at] = got / unit  # every thread has its own rows
            good = (value >= give_up) & in_reach(got, width)
            pairs = judge(a[good], b[good], got[good], i[at[good]], j[at[good]]) if width == WIDTH else []
            return at[good], pairs

        parts = (places[start : start + batch] for start in range(0, len(places), batch))
        kept = []
        for good, pairs in in_threads(look, parts):
            kept.append(good)
            found += pairs
        places = np.concatenate(kept) if kept else places[:0]
    return found


def judge(a: Floats, b: Floats, params: Params, i: Ints, j: Ints) -> list[Pair]:
    """The copies among aligned pairs at the finest level."""
    if not len(a):
        return []
    warped, mask = warp(b, params, 2 * MARGIN)
    value = correlation(a, warped, mask)
    share = agreement(a, warped, mask, BLOCK_AGREES_COPY)
    good = (mask.mean(axis=(1, 2)) >= 0.6) & (value >= COPY_CORRELATION) & (share >= COPY_AGREES)
    return [Pair(int(i[n]), int(j[n]), float(value[n]), float(share[n])) for n in np.flatnonzero(good)]


def decide_flat(left: Levels, right: Levels, i: Ints, j: Ints) -> list[Pair]:
    """Copies among pairs of two pictures without texture: those with the same faint gradients."""
    both = left.flat[i] & right.flat[j]
    found = []
    for a, b in zip(i[both], j[both], strict=True):
        one, two = left.thumbs[a].astype(np.float32), right.thumbs[b].astype(np.float32)
        if float(np.abs((one - one.mean()) - (two - two.mean())).mean()) < 1.5:
            found.append(Pair(int(a), int(b), 1.0, 1.0))
    return found


def shown(blocks: Iterator[Proposal], pictures: int) -> Iterator[Proposal]:
    """The same, with progress."""
    return progress.track(blocks, "looking for near-duplicates", total=-(-pictures // BLOCK))


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


def cluster(thumbs: Thumbs, *, scene: bool = False, known: Sequence[object] | None = None) -> list[int]:
    """Connected components of copies (scene: also of frames of one camera that stands still).

    known: labels of groups that are joined beforehand (None: in no group); pairs inside a group are not looked at.
    Returns for each picture the smallest number in its component.
    """
    groups = Groups(len(thumbs))
    first: dict[object, int] = {}
    for number, label in enumerate(known or ()):
        if label is not None:
            groups.join(first.setdefault(label, number), number)
    levels = Levels(thumbs)
    if scene:
        for i, j, likeness, _ in propose(thumbs, threshold=PROPOSE_SCENE, tries=TRIES[:1]):
            join_scenes(levels, groups, i, j, likeness)
    for i, j, _, params in shown(propose(thumbs), len(thumbs)):
        labels = np.array(groups.labels())
        apart = labels[i] != labels[j]
        for pair in decide(levels, levels, i[apart], j[apart], params[apart]):
            groups.join(pair.left, pair.right)
    return groups.labels()


def join_scenes(levels: Levels, groups: Groups, i: Ints, j: Ints, likeness: Floats) -> None:
    """Join pairs whose pictures agree in most blocks as they stand, most alike first."""
    order = np.argsort(-likeness, kind="stable")
    levels.keep(96)
    while order.size:
        labels = np.array(groups.labels())
        order = order[labels[i[order]] != labels[j[order]]]
        batch, order = order[:256], order[256:]
        if batch.size:
            a, b = levels.get(96, i[batch]), levels.get(96, j[batch])
            share = agreement(a, b, np.ones(a.shape, np.float32), BLOCK_AGREES_SCENE)
            for number in batch[share >= SCENE_AGREES]:
                groups.join(int(i[number]), int(j[number]))


def matches(
    left: Thumbs,
    right: Thumbs,
    *,
    small_left: npt.NDArray[np.bool_] | None = None,
    small_right: npt.NDArray[np.bool_] | None = None,
) -> list[Pair]:
    """For each left picture the right one it is a copy of (the best, by correlation); others are absent.

    small_left, small_right: which pictures are small crops (SMALL_SIDE), for which the limits are stricter.
    """

    def good(pair: Pair) -> bool:
        small = (small_left is not None and small_left[pair.left]) or (
            small_right is not None and small_right[pair.right]
        )
        return not small or (pair.correlation >= SMALL_CORRELATION and pair.agrees >= SMALL_AGREES)

    left_levels, right_levels = Levels(left), Levels(right)
    found: dict[int, Pair] = {}
    for i, j, _, params in shown(propose(left, right), len(left)):
        for pair in filter(good, decide(left_levels, right_levels, i, j, params)):
            if pair.left not in found or pair.correlation > found[pair.left].correlation:
                found[pair.left] = pair
    return [found[number] for number in sorted(found)]
