"""Statistics against scipy, brute force and worked numbers."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, mannwhitneyu

from deckbench import stats


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 300))
def test_wilson_is_scipys(k: int, n: int) -> None:
    if k > n:
        k, n = n, k
    theirs = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert stats.wilson(k, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_known_values() -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I."""
    assert stats.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert stats.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert stats.wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert stats.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-5)
    assert stats.wilson(0, 0) is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=60))
def test_auroc_is_mann_whitney(rows: list[tuple[bool, int]]) -> None:
    truth = np.array([t for t, _ in rows], dtype=bool)
    p = np.array([s / 6 for _, s in rows])
    got = stats.auroc(truth, p)
    if truth.all() or not truth.any():
        assert got is None
        return
    assert got == pytest.approx(mannwhitneyu(p[truth], p[~truth]).statistic / (truth.sum() * (~truth).sum()))


def test_auroc_by_hand() -> None:
    truth = np.array([True, True, False, False])
    assert stats.auroc(truth, np.array([0.9, 0.5, 0.5, 0.1])) == 0.875  # 3 wins and a tie of 4 pairs
    assert stats.auroc(truth, np.full(4, 0.5)) == 0.5
    assert stats.auroc(truth, np.array([0.1, 0.2, 0.8, 0.9])) == 0.0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=25))
def test_ranked_bootstrap_is_the_metric_on_repeated_samples(rows: list[tuple[bool, int, int]]) -> None:
    """Each resample's AUROC and miss rate are those of a data set in which samples really are repeated."""
    truth = np.array([t for t, _, _ in rows], dtype=bool)
    p = np.array([s / 4 for _, s, _ in rows])
    clusters = stats.clusters_of([str(g) for _, _, g in rows], seed=3, resamples=8)
    areas, misses = stats.ranked_bootstrap(truth, p, clusters, np.arange(len(rows)), 0.25)
    for draw in range(8):
        times = clusters.draws[draw][clusters.codes].astype(int)
        t, s = np.repeat(truth, times), np.repeat(p, times)
        area = stats.auroc(t, s)
        if area is None:
            assert np.isnan(areas[draw])
            continue
        assert areas[draw] == pytest.approx(area)
        curve = stats.roc(t, s)
        at = stats.point_at(curve, 0.25)
        assert at is not None
        assert misses[draw] == pytest.approx(1 - curve.hits[at] / curve.positives)


def test_ranked_bootstrap_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    truth, p = rng.random(200) < 0.5, rng.random(200)
    clusters = stats.clusters_of([str(i % 20) for i in range(200)], seed=1)
    whole = stats.ranked_bootstrap(truth, p, clusters, np.arange(200), 0.05)
    monkeypatch.setattr(stats, "BLOCK", 1000)
    parts = stats.ranked_bootstrap(truth, p, clusters, np.arange(200), 0.05)
    np.testing.assert_array_equal(whole, parts)


def test_operating_point_never_stops_too_often() -> None:
    truth = np.array([True] * 4 + [False] * 10)
    p = np.array([0.9, 0.8, 0.5, 0.1] + [0.7] + [0.5] + [0.2] * 8)
    curve = stats.roc(truth, p)
    at = stats.point_at(curve, 0.10)
    assert at is not None and curve.thresholds[at] == 0.7 and curve.hits[at] == 2 and curve.false_stops[at] == 1
    assert stats.point_at(curve, 0.0) == 2  # above 0.7: two hits, no false stop
    assert curve.thresholds[2] == 0.8
    assert stats.point_at(stats.roc(truth[:4], p[:4]), 0.05) is None


def test_cluster_interval_is_wider_than_frames_suggest() -> None:
    """Ten groups that are right or wrong as a whole hold ten answers, not a thousand."""
    right = np.repeat([1.0, 0.0] * 5, 100)
    wide = stats.cluster_bootstrap(right, stats.clusters_of([str(i // 100) for i in range(1000)]))
    narrow = stats.cluster_bootstrap(right, stats.clusters_of([str(i) for i in range(1000)]))
    assert wide is not None and narrow is not None
    assert wide[1] - wide[0] > 6 * (narrow[1] - narrow[0])
    assert narrow == pytest.approx(stats.wilson(500, 1000), abs=0.01)


def test_cluster_bootstrap_covers_the_truth() -> None:
    """Of 200 worlds of 40 groups, the 95% interval holds the true rate in about 95%."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        rates = rng.beta(6, 2, size=40)  # mean 0.75
        right = (rng.random((40, 20)) < rates[:, None]).astype(float).ravel()
        bounds = stats.cluster_bootstrap(right, stats.clusters_of([str(i // 20) for i in range(800)], seed, 400))
        assert bounds is not None
        hits += bounds[0] <= 0.75 <= bounds[1]
    assert 180 <= hits <= 198


@pytest.mark.parametrize(("count", "rate"), [(10, 0.5), (10, 0.8), (10, 0.9), (15, 0.9), (19, 0.8), (19, 0.95)])
def test_the_interval_of_few_groups_covers_the_truth(count: int, rate: float) -> None:
    """Of 400 worlds of so many groups of 2 to 30 answers. The bootstrap alone covers 0.80 to 0.92 of them."""
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(400):
        sizes = rng.integers(2, 30, size=count)
        rates = rng.beta(9 * rate, 9 * (1 - rate), size=count)  # two answers of a group correlate by 0.1
        right = np.concatenate([rng.random(size) < p for size, p in zip(sizes, rates, strict=True)]).astype(float)
        clusters = stats.clusters_of([str(group) for group in np.repeat(np.arange(count), sizes)], seed, 200)
        bounds = stats.hull(stats.cluster_bootstrap(right, clusters), stats.cluster_wilson(right, clusters))
        assert bounds is not None
        hits += bounds[0] <= rate <= bounds[1]
    assert 0.92 * 400 <= hits <= 0.99 * 400


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, 12, 30])
@pytest.mark.parametrize("rate", [0.5, 0.7, 0.9])
def test_the_shown_interval_covers_the_truth(count: int, rate: float) -> None:
    """Of 2,000 worlds of correlated groups: 93 to 97%, also with 8 groups, where Student's t and n_eff decide."""
    rng = np.random.default_rng(int(100 * rate) + count)
    hits = 0
    for seed in range(2000):
        sizes = rng.integers(2, 40, size=count)
        rates = rng.beta(13 * rate, 13 * (1 - rate), size=count)  # two answers of a group correlate by 0.07
        right = np.concatenate([rng.random(size) < p for size, p in zip(sizes, rates, strict=True)]).astype(float)
        clusters = stats.Clusters(np.repeat(np.arange(count), sizes), count, seed, 300)
        bounds = stats.hull(stats.cluster_bootstrap(right, clusters), stats.cluster_wilson(right, clusters))
        assert bounds is not None
        hits += bounds[0] <= rate <= bounds[1]
    assert 0.93 * 2000 <= hits <= 0.97 * 2000


def test_mcnemar_and_auroc_are_those_of_the_libraries() -> None:
    """To 1e-12: McNemar of scipy and statsmodels, AUROC of scikit-learn."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    tables = pytest.importorskip("statsmodels.stats.contingency_tables", reason="statsmodels is not installed")
    for only_a, only_b in [(0, 1), (1, 1), (3, 9), (12, 12), (40, 61), (0, 30), (500, 430), (7000, 7200)]:
        p = stats.mcnemar_exact(only_a, only_b)
        assert p == pytest.approx(binomtest(min(only_a, only_b), only_a + only_b, 0.5).pvalue, abs=1e-12)
        theirs = tables.mcnemar([[5, only_a], [only_b, 7]], exact=True).pvalue
        assert p == pytest.approx(min(1.0, theirs), abs=1e-12)
    rng = np.random.default_rng(0)
    for digits in (1, 2, 9):
        truth, scores = rng.random(300) < 0.3, rng.random(300).round(digits)
        assert stats.auroc(truth, scores) == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)


def test_one_group_has_no_cluster_interval() -> None:
    assert stats.cluster_bootstrap(np.ones(5), stats.clusters_of(["a"] * 5)) is None
    assert stats.cluster_wilson(np.ones(5), stats.clusters_of(["a"] * 5)) is None


def test_cluster_wilson_of_single_answers_is_wilsons_with_students_t() -> None:
    """Groups of one answer: the design effect is n/(n-1), and t with 9 degrees of freedom is 2.2622 (any table)."""
    bounds = stats.cluster_wilson(np.array([1.0] * 8 + [0.0] * 2), stats.clusters_of(list("abcdefghij")))
    n, p, t = 9.0, 0.8, 2.2622
    middle, half = (p + t * t / (2 * n)) / (1 + t * t / n), t / (1 + t * t / n)
    half *= (p * (1 - p) / n + t * t / (4 * n * n)) ** 0.5
    assert bounds == pytest.approx((middle - half, middle + half), abs=1e-4)


def test_clusters_do_not_depend_on_row_order() -> None:
    labels = [f"g{i % 7}" for i in range(50)]
    values = np.arange(50, dtype=float)
    order = np.random.default_rng(0).permutation(50)
    a = stats.cluster_bootstrap(values, stats.clusters_of(labels, 5))
    b = stats.cluster_bootstrap(values[order], stats.clusters_of([labels[i] for i in order], 5))
    assert a == pytest.approx(b, abs=1e-12)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (10, 2, 0.03857421875), (2, 10, 0.03857421875)],
)
def test_mcnemar(only_a: int, only_b: int, p: float) -> None:
    assert stats.mcnemar_exact(only_a, only_b) == pytest.approx(p)


def test_brier_and_ece_by_hand() -> None:
    truth = np.array([True, False, True, True])
    p = np.array([0.95, 0.05, 0.55, 1.0])
    assert stats.brier(truth, p).mean() == pytest.approx((0.0025 + 0.0025 + 0.2025 + 0) / 4)
    bins = stats.bins_of(p)
    assert bins.code.tolist() == [9, 0, 5, 9]
    # bins: {0.05 / 0}, {0.55 / 1}, {0.975 / 1 twice}
    assert float(stats.ece(bins.totals(truth, p)[0])) == pytest.approx((0.05 + 0.45 + 2 * 0.025) / 4)


def test_fast_enough() -> None:
    """A thousand samples, each its own group, 1,000 resamples: well under a second."""
    rng = np.random.default_rng(0)
    truth, p = rng.random(1000) < 0.5, rng.random(1000)
    began = time.process_time()
    clusters = stats.clusters_of([str(i) for i in range(1000)])
    stats.ranked_bootstrap(truth, p, clusters, np.arange(1000), 0.05)
    stats.cluster_bootstrap(truth.astype(float), clusters)
    assert time.process_time() - began < 2.0
