"""From which frame of a pool does an old picture come? By bytes, by look, by name; never by name against the look.

Whole frames (plain, or with boxes drawn on them) are compared as 96x54 grey thumbnails. The difference of a pixel
counts at most CLIP grey levels, so that a drawn line, which is thin, costs little, while a moved arm, which is wide,
costs a lot: of the frames of one fixed camera the right one is nearest.

Crops are compared with the pool's labelled boxes: the region of the crop's size around a box, first coarsely, then
pixel by pixel within a few pixels. That also says which label, and so which class, the crop shows.
"""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from deckbench.cores import in_threads
from deckbench.picture import open_picture
from deckbench.progress import track
from deckbench.yolo.frame import Frame, Pool

WIDTH, HEIGHT = 96, 54
CLIP = 12  # grey levels a single pixel of a thumbnail may count
SAME_FRAME = 1.5  # mean clipped difference up to which a thumbnail shows the frame
SAME_CROP = 8.0  # mean difference in grey levels, pixel by pixel, up to which a crop is cut from this place
# What is nearly as near as the nearest: another group makes the group unknown, another frame of it only the frame. (Of
# a frame that the pool lacks, several neighbours in time are equally near; the frame itself would be much nearer.)
TIE_GROUP, TIE_FRAME, TIE_LEAST = 1.15, 1.5, 0.05
NEAREST = 24  # frames looked at closely for each old picture
PLACES = 6  # places looked at closely for each crop
SIDE = 8  # a crop's coarse thumbnail
REACH = 4  # pixels a crop may lie beside the place that its label gives
SHAPE = 0.03  # how much the sides' ratio of a whole frame may change

Floats = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Old:
    """A picture to be found. sha256: of its bytes. crop: it may be a piece of a frame; whole: it may be all of one."""

    path: Path
    stem: str
    sha256: str
    width: int
    height: int
    crop: bool
    whole: bool


@dataclass(frozen=True)
class Match:
    """Where a picture comes from. how: bytes, look, label (a crop by its look at a label) or name.

    frame: None where several frames of one group look the same. difference: mean grey levels; None without a look.
    box: the label in pixels of the picture (crops).
    """

    frame: str | None
    group: str
    how: str
    difference: float | None = None
    cls: str | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Candidate:
    difference: float
    frame: int
    box: int = -1
    place: tuple[int, int] = (0, 0)


def recover(pictures: Sequence[Old], pool: Pool, groups: Mapping[str, str]) -> dict[Path, Match]:
    """Picture -> the frame it comes from; pictures that are not in the pool are absent. groups: frame id -> group.

    Raises InputError when a picture cannot be read.
    """
    by_bytes = {frame.sha256: frame for frame in pool.frames}
    found: dict[Path, Match] = {}
    for old in pictures:
        if (frame := by_bytes.get(old.sha256)) is not None and old.whole:
            found[old.path] = Match(frame.id, groups[frame.id], "bytes", 0.0)
    named = names_of([old for old in pictures if old.path not in found], pool.frames)
    for old, close in whole_frames([o for o in pictures if o.whole and o.path not in found], pool.frames):
        if (match := decide(close, pool.frames, groups, SAME_FRAME, "look", named.get(old.path, []))) is not None:
            found[old.path] = match
    for old, close in crops([o for o in pictures if o.crop and o.path not in found], pool.frames, named):
        match = decide(close, pool.frames, groups, SAME_CROP, "label", named.get(old.path, []))
        if match is not None:
            best = next(c for c in close if match.frame in {None, pool.frames[c.frame].id})
            found[old.path] = with_label(match, best, pool.frames[best.frame])
    for old in pictures:
        # A crop that was turned, scaled or speckled fits no label; its name may still tell, if only one frame has it.
        mine = named.get(old.path, [])
        if old.path not in found and old.crop and len(mine) == 1:
            frame = pool.frames[mine[0]]
            found[old.path] = Match(frame.id, groups[frame.id], "name")
    return found


def decide(
    close: Sequence[Candidate],
    frames: Sequence[Frame],
    groups: Mapping[str, str],
    limit: float,
    how: str,
    named: Sequence[int],
) -> Match | None:
    """The nearest candidate, when it is near enough and no other group's is nearly as near.

    named: frames that bear the picture's name; among candidates that are nearly equal they go first.
    """
    near = [c for c in close if c.difference <= limit]
    if not near:
        return None
    nearest = near[0].difference
    ties = [c for c in near if c.difference <= nearest * TIE_GROUP + TIE_LEAST]
    ties = [c for c in ties if c.frame in named] or ties
    of = {groups[frames[c.frame].id] for c in ties}
    if len(of) > 1:
        return None
    group = of.pop()
    factor = TIE_FRAME if how == "look" else TIE_GROUP  # a crop's own noise hides less of what its neighbours differ in
    wide = [c for c in close if c.difference <= nearest * factor + TIE_LEAST]
    wide = [c for c in wide if c.frame in named] or [c for c in wide if groups[frames[c.frame].id] == group]
    ids = {frames[c.frame].id for c in wide}
    return Match(ids.pop() if len(ids) == 1 else None, group, how, round(ties[0].difference, 3))


def with_label(match: Match, best: Candidate, frame: Frame) -> Match:
    """The match with its label's class, and its box in the crop's pixels."""
    label = frame.boxes[best.box]
    x, y = best.place
    box = (label.x0 * frame.width - x, label.y0 * frame.height - y)
    end = (label.x1 * frame.width - x, label.y1 * frame.height - y)
    return Match(match.frame, match.group, match.how, match.difference, label.name, (*box, *end))


def names_of(pictures: Iterable[Old], frames: Sequence[Frame]) -> dict[Path, list[int]]:
    """Picture -> numbers of the frames whose file name its own begins with, or holds as a whole word; longest first."""
    by_stem: dict[str, list[int]] = defaultdict(list)
    for number, frame in enumerate(frames):
        by_stem[frame.path.stem].append(number)
    found: dict[Path, list[int]] = {}
    for old in pictures:
        words = re.split(r"([^0-9A-Za-z]+)", old.stem)
        parts = ("".join(words[a:b]) for length in range(len(words), 0, -1) for a, b in spans(len(words), length))
        hit = next((part for part in parts if part in by_stem), None)
        if hit is not None and (len(hit) >= 4 or hit == old.stem):
            found[old.path] = by_stem[hit]
    return found


def spans(size: int, length: int) -> Iterable[tuple[int, int]]:
    return ((start, start + length) for start in range(size - length + 1))


# --- whole frames ------------------------------------------------------------------------------------------------


def whole_frames(pictures: Sequence[Old], frames: Sequence[Frame]) -> Iterable[tuple[Old, list[Candidate]]]:
    """Each picture with the frames of its shape, nearest first."""
    if not pictures or not frames:
        return
    mine = thumbnails([old.path for old in pictures])
    theirs = thumbnails([frame.path for frame in frames])
    coarse_mine, coarse_theirs = coarse(mine), coarse(theirs)
    square = (coarse_theirs**2).sum(axis=1)
    shapes = np.array([frame.width / frame.height for frame in frames])
    for number, old in enumerate(pictures):
        distance = square - 2 * (coarse_theirs @ coarse_mine[number])
        shape = old.width / old.height
        distance = np.where(np.abs(shapes / shape - 1) <= SHAPE, distance, np.inf)
        nearest = [int(n) for n in np.argsort(distance, kind="stable")[:NEAREST] if np.isfinite(distance[n])]
        gap = np.abs(theirs[nearest].astype(np.float32) - mine[number])
        means = np.minimum(gap, CLIP).mean(axis=(1, 2)) if nearest else np.empty(0)
        close = [Candidate(float(mean), at) for mean, at in zip(means, nearest, strict=True)]
        yield old, sorted(close, key=lambda c: (c.difference, c.frame))


def thumbnails(paths: Sequence[Path]) -> npt.NDArray[np.float16]:
    """float16 (n, 54, 96): grey thumbnails, smoothed, so that how a picture was scaled matters little.

    Raises InputError for a picture that cannot be read.
    """

    def look(path: Path) -> Grey:
        return np.asarray(open_picture(path).convert("L").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))

    out = np.empty((len(paths), HEIGHT, WIDTH), np.float16)
    for number, thumb in enumerate(track(in_threads(look, iter(paths)), "comparing images", total=len(paths))):
        out[number] = thumb
    return out


def coarse(thumbs: npt.NDArray[np.float16]) -> Floats:
    """float32 (n, 576): block means, 32x18."""
    cut = thumbs.reshape(len(thumbs), 18, HEIGHT // 18, 32, WIDTH // 32)
    return np.asarray(cut.mean(axis=(2, 4), dtype=np.float32)).reshape(len(thumbs), -1)


# --- crops -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def grey(path: Path) -> Grey:
    """A frame in grey levels, (height, width)."""
    return np.asarray(open_picture(path).convert("L"))


def crops(
    pictures: Sequence[Old], frames: Sequence[Frame], named: Mapping[Path, Sequence[int]]
) -> Iterable[tuple[Old, list[Candidate]]]:
    """Each crop with the places it may be cut from, nearest first."""
    if not pictures:
        return
    looks = [np.asarray(open_picture(old.path).convert("L")) for old in pictures]
    whole = [np.array([[0, 0, old.width, old.height]]) for old in pictures]
    smalls = np.concatenate([block_means(summed(look), at) for look, at in zip(looks, whole, strict=True)])
    sizes = np.array([(old.width, old.height) for old in pictures])
    wanted = [set(named[old.path]) if old.path in named else None for old in pictures]
    best: list[list[tuple[float, int, int, tuple[int, int]]]] = [[] for _ in pictures]
    worst = np.full(len(pictures), np.inf)
    for number, frame in enumerate(track(frames, "looking for crops")):
        mine = np.array([at for at, want in enumerate(wanted) if want is None or number in want], np.intp)
        which, labels, corners = places(sizes[mine], frame)
        if not len(which):
            continue
        which = mine[which]
        regions = np.concatenate([corners, sizes[which]], axis=1)
        gaps = np.empty(len(which))
        table = summed(grey(frame.path))
        for start in range(0, len(which), 4096):
            part = slice(start, start + 4096)
            gaps[part] = np.abs(block_means(table, regions[part]) - smalls[which[part]]).mean(axis=(1, 2))
        for at in np.flatnonzero(gaps < worst[which]):
            crop = int(which[at])
            # Negative, because the heap keeps the largest: here the nearest.
            entry = (-float(gaps[at]), number, int(labels[at]), (int(corners[at][0]), int(corners[at][1])))
            (heapq.heappush if len(best[crop]) < PLACES else heapq.heappushpop)(best[crop], entry)
            if len(best[crop]) == PLACES:
                worst[crop] = -best[crop][0][0]
    for old, look, entries in zip(pictures, looks, best, strict=True):
        close = [align(look, frames[number], number, box, place) for _, number, box, place in sorted(entries)]
        yield old, sorted(close, key=lambda c: (c.difference, c.frame, c.box))


def places(sizes: Ints, frame: Frame) -> tuple[Ints, Ints, Ints]:
    """(numbers of crops, labels, left upper corners): where crops of these sizes may have been cut around a label.

    sizes: (n, 2), width and height. A crop is about as large as its label and a margin; at the frame's edge the margin
    may have been cut off.
    """
    found: list[tuple[Ints, Ints, Ints]] = []
    for number, label in enumerate(frame.boxes):
        starts: list[list[tuple[Ints, npt.NDArray[np.bool_]]]] = []
        fits = np.ones(len(sizes), bool)
        for axis, (low, high, size) in enumerate(
            (
                (label.x0 * frame.width, label.x1 * frame.width, frame.width),
                (label.y0 * frame.height, label.y1 * frame.height, frame.height),
            )
        ):
            length, mine = high - low, sizes[:, axis]
            fits &= (mine <= size) & (mine >= 0.85 * length - 2) & (mine <= 3 * length + 64)
            middle = np.clip(np.round((low + high - mine) / 2).astype(np.intp), 0, np.maximum(size - mine, 0))
            margin = np.maximum(0.0, mine - length)
            first, last = np.zeros_like(middle), size - mine
            starts.append(
                [
                    (middle, np.ones(len(sizes), bool)),
                    (first, (low <= margin) & (middle != first)),
                    (last, (size - high <= margin) & (middle != last) & (last > 0)),
                ]
            )
        for x, x_good in starts[0]:
            for y, y_good in starts[1]:
                at = np.flatnonzero(fits & x_good & y_good)
                if len(at):
                    found.append((at, np.full(len(at), number), np.stack([x[at], y[at]], axis=1)))
    if not found:
        return np.empty(0, np.intp), np.empty(0, np.intp), np.empty((0, 2), np.intp)
    which, labels, corners = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return which, labels, corners


def summed(picture: Grey) -> Ints:
    """int64 (h + 1, w + 1): sums of everything above and left, so that the sum of any block is four look-ups."""
    table = np.zeros((picture.shape[0] + 1, picture.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(picture, axis=0, dtype=np.int64), axis=1, out=table[1:, 1:])
    return table


def block_means(table: Ints, regions: Ints) -> Floats:
    """float32 (n, SIDE, SIDE): block means of regions x, y, width, height of a picture given by its sums.

    Every size of picture becomes comparable.
    """
    steps = np.arange(SIDE + 1)
    columns = regions[:, 0:1] + regions[:, 2:3] * steps // SIDE
    rows = regions[:, 1:2] + regions[:, 3:4] * steps // SIDE
    corners = table[rows[:, :, None], columns[:, None, :]]
    sums = corners[:, 1:, 1:] - corners[:, :-1, 1:] - corners[:, 1:, :-1] + corners[:, :-1, :-1]
    areas = np.diff(rows, axis=1)[:, :, None] * np.diff(columns, axis=1)[:, None, :]
    return np.asarray(sums / np.maximum(areas, 1), np.float32)


def align(look: Grey, frame: Frame, number: int, box: int, place: tuple[int, int]) -> Candidate:
    """The least mean difference within REACH pixels of a place."""
    picture = grey(frame.path)
    height, width = look.shape
    mine = look.astype(np.int16)
    best = Candidate(float("inf"), number, box, place)
    for y in range(max(0, place[1] - REACH), min(picture.shape[0] - height, place[1] + REACH) + 1):
        for x in range(max(0, place[0] - REACH), min(picture.shape[1] - width, place[0] + REACH) + 1):
            value = float(np.abs(picture[y : y + height, x : x + width].astype(np.int16) - mine).mean())
            if value < best.difference:
                best = Candidate(value, number, box, (x, y))
    return best
