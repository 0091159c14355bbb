"""What 95% intervals hold in 2,000 simulated studies whose answers are correlated within groups."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.special import ndtr

from deckbench import calibration
from deckbench.stats import Floats, Ints

REPETITIONS = 2000
TRUE = 2.5  # the planted temperature


def studies(groups: int, size: int, seed: int) -> Iterator[tuple[Floats, np.ndarray, Ints]]:
    """Log odds, events and groups. Odds and events of a group are alike; events keep to the odds divided by TRUE."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(groups), size)
    n = groups * size
    for _ in range(REPETITIONS):
        odds = rng.normal(0, 1.5, n) + rng.normal(0, 0.8, groups)[codes]
        luck = np.sqrt(0.1) * rng.normal(size=groups)[codes] + np.sqrt(0.9) * rng.normal(size=n)
        yield TRUE * odds, ndtr(luck) < 1 / (1 + np.exp(-odds)), codes


def held(bounds: tuple[float, float] | None, value: float) -> bool:
    return bounds is not None and bounds[0] <= value <= bounds[1]


@pytest.mark.parametrize(("groups", "size"), [(8, 24), (20, 10), (64, 8)])
def test_intervals_cover_what_they_say(groups: int, size: int) -> None:
    truth = np.mean([[v.mean() for v in _values(*study[:2])] for study in studies(groups, size, 99)], axis=0)
    hits = []
    for odds, event, codes in studies(groups, size, 1):
        fit = calibration.fit_temperature(odds, event, codes)
        means = [
            held(calibration.mean_interval(values, codes), true)
            for values, true in zip(_values(odds, event), truth, strict=True)
        ]
        hits.append([held(fit.interval, TRUE), *means])
    covered = dict(zip(("temperature", "brier", "log loss", "change"), np.mean(hits, axis=0).round(4), strict=True))
    assert all(0.93 <= share <= 0.97 for share in covered.values()), covered


def _values(odds: Floats, event: np.ndarray) -> list[Floats]:
    p = calibration.probability(odds)
    before, after = (calibration.log_loss(odds, event, t) for t in (1.0, TRUE))
    return [(p - event) ** 2, before, after - before]
