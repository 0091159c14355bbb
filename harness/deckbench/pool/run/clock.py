"""How far the camera's clock is from the robot's, estimated from the frames and the run log alone. Deterministic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deckbench import progress
from deckbench.errors import InputError
from deckbench.picture import grey_thumbnail
from deckbench.pool.run.timeline import Timeline

Array = NDArray[np.float64]

THUMBNAIL = (96, 72)
COARSE_S, FINE_S = 0.25, 0.05
MOST_COARSE = 2000  # offsets to either side; a wider reach takes larger steps
MOST_CELLS = 4_000_000  # offsets x pairs of a table; of more pairs an even selection is looked at
FINE_REACH_S = 3.0  # around the best coarse offset
SPREADS_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)  # of single time stamps around their clock
NODES = np.array([-1.5, -0.75, 0.0, 0.75, 1.5])  # where a stamp's spread is sampled, in standard deviations
RESAMPLES = 200
LEAST_SCORE = 0.1  # explained share of the changes below which nothing can be said
STILL, DIFFERS = 0.03, 0.85  # probability that a pair shows a change where none is expected, and where one is
TIE = 1e-9
SURE = 0.9  # share of the resamples that must agree on the peak
MIN_FRAMES = 12
MAX_OFFSET_S = 3600.0
FIX = "state it with --offset SECONDS (added to the frames' times)"


@dataclass(frozen=True)
class Clock:
    """offset_s: what is added to a frame's time to have the robot's. uncertainty_s: 95% half width of it.

    margin_s: how near to a boundary of commands a frame is ambiguous: the uncertainty, the spread of single stamps, and
    half of the smallest step that they show. score: how much of the frames' changes the run explains (pseudo R2); None
    where the offset was stated.
    """

    offset_s: float
    uncertainty_s: float
    margin_s: float
    spread_s: float
    score: float | None

    def as_dict(self) -> dict[str, float | None]:
        return {
            "offset_s": self.offset_s,
            "uncertainty_s": self.uncertainty_s,
            "margin_s": self.margin_s,
            "spread_s": self.spread_s,
            "score": self.score,
        }


def changes(paths: Sequence[Path]) -> Array:
    """How much each frame differs from the one before, (n - 1,): log of the mean of the 5% of pixels that differ most.

    Raises InputError for an image that cannot be read.
    """
    found: list[float] = []
    for before, now in pairs(thumbnails(paths)):
        difference = now - before
        difference = np.abs(difference - np.median(difference))  # light that changes everywhere is no motion
        most = np.partition(difference.ravel(), -difference.size // 20)[-difference.size // 20 :]
        found.append(float(np.log1p(most.mean())))
    return np.array(found)


def thumbnails(paths: Sequence[Path]) -> Iterator[Array]:
    for path in progress.track(paths, "comparing frames", total=len(paths)):
        yield np.asarray(grey_thumbnail(path, THUMBNAIL), dtype=np.float64)


def pairs(items: Iterator[Array]) -> Iterator[tuple[Array, Array]]:
    before = next(items, None)
    for item in items:
        assert before is not None
        yield before, item
        before = item


def estimate(times: Array, changed: Array, timeline: Timeline, *, reach_s: float, step_s: float) -> Clock:
    """The offset at which the frames change when the commands that can be seen run, and stay the same when none does.

    At each offset each pair of frames has a probability to differ, from the expected states and the commands that run
    between them; where the run is not known (it has left its analysis, the log ends), the share that pairs have in all.
    The offset of the largest likelihood of the measured changes is taken if it also wins under resampling of the pairs
    (Bayesian bootstrap, Rubin 1981). Near it the posterior with a flat prior gives mean, 95% interval, and the spread
    of single stamps.

    Args:
        times: The frames' own times, seconds, ascending.
        changed: As `changes` gives it.
        timeline: The run.
        reach_s: Offsets from -reach_s to +reach_s are tried.
        step_s: Smallest step of the times.

    Raises:
        InputError: The frames do not tell: too few, none during the run, or no clear winner.
    """
    if len(times) < MIN_FRAMES:
        what = f"{len(times)} frames are too few to estimate the clocks' offset from (at least {MIN_FRAMES})"
        raise InputError(what, "the clocks", FIX)
    step = max(COARSE_S, reach_s / MOST_COARSE)
    coarse = np.arange(-reach_s, reach_s + step / 2, step)
    chosen = evenly(len(changed), MOST_CELLS // len(coarse))
    pairs_at, visible = np.stack([times[:-1], times[1:]])[:, chosen], posterior(changed)[chosen]
    even = np.ones(len(visible)) / len(visible)
    shares = np.random.Generator(np.random.PCG64(0)).exponential(size=(RESAMPLES, len(visible)))
    shares = shares / shares.sum(axis=1, keepdims=True)
    table = likelihood(pairs_at, visible, timeline, coarse, max(0.4, step / 2))
    best = middle(coarse, table @ even)
    known = ~timeline.is_unknown(pairs_at[1] + best)
    if known.sum() < MIN_FRAMES:
        what = f"only {known.sum()} frames show the part of the run that is known: too few for the clocks' offset"
        raise InputError(what, "the clocks", FIX)
    row = table[np.abs(coarse - best).argmin()]
    score = explained(float(row[known].mean()), visible[known])
    if score < LEAST_SCORE:
        what = f"the frames change at other times than the run's commands (explained: {max(0.0, score):.0%})"
        raise InputError(what, "the clocks", f"{FIX}, or check that frames and log are of one run and --zone is right")
    winners = coarse[(table @ shares.T).argmax(axis=0)]
    agree = float(np.mean(np.abs(winners - best) <= FINE_REACH_S))
    if agree < SURE:
        what = f"the clocks' offset is not clear: {best:+.1f} s fits best, but only {agree:.0%} of resamples agree"
        raise InputError(what, "the clocks", FIX)
    if abs(best) > reach_s - FINE_REACH_S:
        what = f"the best offset, {best:+.1f} s, lies at the end of what was tried"
        raise InputError(what, "the clocks", f"widen --max-offset, or {FIX}")
    fine = best + np.arange(-FINE_REACH_S, FINE_REACH_S + FINE_S / 2, FINE_S)
    tables = [likelihood(pairs_at, visible, timeline, fine, spread).sum(axis=1) for spread in SPREADS_S]
    weight = np.exp(np.array(tables) - max(float(table.max()) for table in tables))
    weight = weight / weight.sum()  # posterior of (spread, offset)
    by_offset, spread = weight.sum(axis=0), float(weight.sum(axis=1) @ np.array(SPREADS_S))
    offset = float(by_offset @ fine)
    low, high = np.interp((0.025, 0.975), np.cumsum(by_offset), fine)
    uncertainty = round(float(max(offset - low, high - offset, FINE_S)), 2)
    spread = round(spread, 2)
    score = round(score, 3)
    return Clock(round(offset, 2), uncertainty, margin(uncertainty, spread, step_s), spread, score)


def posterior(changed: Array) -> Array:
    """Probability that a pair shows a change, from how much it differs: a logistic around Otsu's threshold (1979)."""
    values = np.sort(changed)
    count = np.arange(1, len(values))
    sums = np.cumsum(values)[:-1]
    low, high = sums / count, (values.sum() - sums) / (len(values) - count)
    apart = count * (len(values) - count) * (high - low) ** 2
    cut = int(apart.argmax())
    threshold = (values[cut] + values[cut + 1]) / 2
    scale = max(float(high[cut] - low[cut]) / 8, 1e-6)
    return np.asarray(1 / (1 + np.exp(-np.clip((changed - threshold) / scale, -30, 30))))


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Numbers of at most `most` of `count` things, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def likelihood(pairs_at: Array, visible: Array, timeline: Timeline, offsets: Array, spread: float) -> Array:
    """Log-likelihood of each pair's change at each offset, (offsets, pairs). pairs_at: its frames' times (2, pairs)."""
    nodes, weights = np.zeros(1), np.ones(1)
    if spread:
        nodes, weights = NODES * spread, np.exp(-(NODES**2) / 2)
        weights = weights / weights.sum()
    found = np.zeros((len(offsets), len(visible)))
    usual = share_of(visible)
    for row, offset in enumerate(offsets):
        for node, weight in zip(nodes, weights, strict=True):
            at = pairs_at + offset + node
            found[row] += weight * np.where(timeline.is_unknown(at[1]), usual, expected(at, timeline))
    return np.asarray(np.log(found * visible + (1 - found) * (1 - visible)))


def expected(pairs_at: Array, timeline: Timeline) -> Array:
    """Probability that the frames of each pair differ, (pairs,), at times in robot time.

    A command that changes what is seen moves all the time; while a person does it, for some seconds of that time.
    """
    starts, ends, seconds = timeline.motions
    before, now = pairs_at
    first = np.searchsorted(ends, before, "right")  # the first that ends later
    last = np.searchsorted(starts, now, "left") - 1  # the last that starts earlier
    some = last >= first
    unseen = np.where(last - first > 1, (last - first - 1) * np.log(1 - DIFFERS), 0.0)
    for which, of in ((first, some), (last, last > first)):
        at = np.clip(which, 0, max(0, len(starts) - 1))
        if len(starts):
            overlap = np.maximum(np.minimum(now, ends[at]) - np.maximum(before, starts[at]), 0)
            window = seconds[at] + overlap
            share = np.minimum(1.0, window / np.maximum(ends[at] - starts[at], window))
            unseen += np.where(of, np.log(1 - DIFFERS * share), 0.0)
    view, moving = timeline.seen_at(pairs_at)
    same = (view[1] == view[0]) & ~moving[1] & ~moving[0]
    return np.where(some & ~same, np.clip(1 - np.exp(unseen), STILL, DIFFERS), STILL)


def share_of(visible: Array) -> float:
    """The share of pairs that show a change."""
    return float(np.clip(visible.mean(), 0.02, 0.98))


def explained(score: float, visible: Array) -> float:
    """How much better than one probability for all a mean log-likelihood is (pseudo R2, McFadden 1974)."""
    share = share_of(visible)
    chance = float(np.log(share * visible + (1 - share) * (1 - visible)).mean())
    return 1 - score / chance


def stated(offset_s: float, margin_s: float | None, step_s: float) -> Clock:
    """An offset that the user knows."""
    return Clock(offset_s, 0.0, max(margin_s if margin_s is not None else 0.5, step_s / 2), 0.0, None)


def margin(uncertainty: float, spread: float, step_s: float) -> float:
    """How near to a boundary a frame is ambiguous: 95% of the offset and of a single stamp, which are independent."""
    return round(math.hypot(uncertainty, 2 * spread) + step_s / 2, 2)


def middle(offsets: Array, scores: Array) -> float:
    """The middle of the offsets that score best."""
    return float(offsets[scores >= scores.max() - TIE].mean())
