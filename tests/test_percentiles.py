"""Percentiles: known values, the fewest queries for each, and bounds that keep their promise."""

from __future__ import annotations

import numpy as np
import pytest

from deckbench.stats import percentile, percentile_min_n, percentile_upper_bound, summarize_times


def test_fewest_queries() -> None:
    assert [percentile_min_n(p) for p in (0.5, 0.9, 0.99)] == [5, 29, 299]
    assert 0.9**29 <= 0.05 < 0.9**28


def test_percentile_is_a_measured_value() -> None:
    values = [float(i) for i in range(1, 101)]
    assert percentile(values, 0.5) == 50 and percentile(values, 0.9) == 90
    assert percentile(values, 0.99) is None  # 100 queries say nothing about p99
    assert percentile([float(i) for i in range(1, 301)], 0.99) == 297
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) is None


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_upper_bound_holds(p: float) -> None:
    """In 400 worlds of n queries the bound lies above the true quantile in at least about 95%."""
    rng = np.random.default_rng(1)
    n = percentile_min_n(p) + 20
    held = 0
    for _ in range(400):
        bound = percentile_upper_bound(sorted(rng.random(n).tolist()), p)
        assert bound is not None
        held += bound >= p
    assert held >= 370
    assert percentile_upper_bound([0.5] * (percentile_min_n(p) - 1), p) is None


def test_upper_bound_at_the_fewest_is_the_largest() -> None:
    values = [float(i) for i in range(29)]
    assert percentile_upper_bound(values, 0.9) == 28.0


def test_summary() -> None:
    found = summarize_times([0.3, 0.1, 0.2, 0.4, 0.5])
    assert found["n"] == 5 and found["mean"] == 0.3 and found["p50"] == 0.3 and found["p90"] is None
    assert found["least"] == 0.1 and found["most"] == 0.5 and found["upper"]["p50"] == 0.5
    assert summarize_times([])["p50"] is None and summarize_times([])["mean"] is None
