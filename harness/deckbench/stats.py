"""Statistics: intervals, percentiles, ranks, paired tests. Every function is a pure function.

scipy takes a third of a second to import, so it is imported by the few functions that need it.

The cluster bootstrap resamples whole groups (robot sessions), because frames of one session succeed and fail together:
an interval that resamples single frames is too narrow. A resample is a row of weights over groups, so every metric
that is a ratio of sums costs two matrix products for all resamples together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Interval = tuple[float, float]

CONFIDENCE = 0.95
RESAMPLES = 1000
PERCENTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
BLOCK = 2_000_000  # most numbers held at once while groups are drawn (16 MB)
KEPT = 16_000_000  # most draws that are kept as float64 too (128 MB)


def wilson(successes: float, n: float, confidence: float = CONFIDENCE, freedom: int | None = None) -> Interval | None:
    """Score interval of a proportion (Wilson 1927, JASA 22:209). None when n is 0.

    Keeps its coverage near 0 and 1 and for small n, where the normal interval has width 0. freedom: degrees of freedom
    of the variance where that is estimated: Student's quantile then stands for the normal one.
    """
    if n == 0:
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2) if freedom is None else _student(0.5 + confidence / 2, freedom)
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return low, 1.0 if successes == n else min(1.0, middle + half)


def interval(values: Floats, confidence: float = CONFIDENCE) -> Interval | None:
    """Percentile interval of resampled values (Efron 1979). None when fewer than half of them are defined."""
    good = values[np.isfinite(values)]
    if len(good) == 0 or 2 * len(good) < len(values):
        return None
    ordered = np.sort(good)  # np.quantile does the same in ten times the time
    low, high = (_quantile(ordered, 0.5 + side * confidence / 2) for side in (-1, 1))
    return low, high


def _quantile(ordered: Floats, p: float) -> float:
    """The p-quantile of sorted values, linear between two of them."""
    place = p * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


@dataclass(frozen=True)
class Clusters:
    """Groups of samples and one draw of resamples, shared by all metrics of a score.

    codes: int64 of shape (n,), the group of each sample, 0 to `count` - 1. seed: of the draw.
    """

    codes: Ints
    count: int
    seed: int = 0
    resamples: int = RESAMPLES

    @cached_property
    def draws(self) -> npt.NDArray[np.uint8]:
        """How often each group was drawn, of shape (resamples, count); each row sums to `count`.

        One byte is enough: of 256 groups or more none is drawn 256 times (its chance is below 1e-500).
        """
        rng, shares = np.random.default_rng(self.seed), np.full(self.count, 1 / max(1, self.count))
        drawn = np.empty((self.resamples, self.count), dtype=np.uint8)
        for part in self._parts():
            drawn[part] = rng.multinomial(self.count, shares, size=len(drawn[part]))
        return drawn

    @cached_property
    def _weights(self) -> Floats | None:
        """`draws` as float64; None where that is large."""
        return self.draws.astype(np.float64) if self.draws.size <= KEPT else None

    def _parts(self) -> list[slice]:
        """The resamples in parts of at most BLOCK numbers."""
        step = max(1, BLOCK // max(1, self.count))
        return [slice(first, first + step) for first in range(0, self.resamples, step)]

    def totals(self, rows: Ints | slice = slice(None), values: Floats | Bools | None = None) -> Floats:
        """Sums of `values`, shape (k,) or (k, m), of the samples `rows` in each group; default: their number."""
        codes = self.codes[rows]
        if values is None or values.ndim == 1:
            return np.bincount(codes, weights=values, minlength=self.count).astype(np.float64, copy=False)
        return np.stack([self.totals(rows, column) for column in values.T], axis=1)

    def resample(self, totals: Floats) -> Floats:
        """Sums of a group each, shape (count[, m]) -> of each resample, shape (resamples[, m])."""
        if self._weights is not None:
            return np.asarray(self._weights @ totals)
        return np.concatenate([self.draws[part].astype(np.float64) @ totals for part in self._parts()])

    def sums(self, values: Floats | Bools, rows: Ints | slice = slice(None)) -> Floats:
        """Resampled sums of `values`, float64 of shape (k,) or (k, m) for the samples `rows`: (resamples[, m])."""
        return self.resample(self.totals(rows, np.asarray(values, dtype=np.float64)))


def clusters_of(labels: Sequence[str], seed: int = 0, resamples: int = RESAMPLES) -> Clusters:
    """Clusters from one label per sample; codes follow the sorted labels, so row order does not matter."""
    code = {label: at for at, label in enumerate(sorted({*labels}))}
    codes = np.fromiter(map(code.__getitem__, labels), dtype=np.int64, count=len(labels))
    return Clusters(codes, len(code), seed, resamples)


def cluster_bootstrap(values: Floats | Bools, clusters: Clusters, rows: Ints | slice = slice(None)) -> Interval | None:
    """Interval of the mean of `values` under resampling of whole groups (Davison & Hinkley 1997, 3.8).

    None with fewer than two groups: one group says nothing about another.
    """
    sizes = clusters.totals(rows)
    if (sizes > 0).sum() < 2:
        return None
    return interval(divide(clusters.sums(values, rows), clusters.resample(sizes)))


def cluster_wilson(hits: Floats | Bools, clusters: Clusters, rows: Ints | slice = slice(None)) -> Interval | None:
    """Wilson's interval of a proportion with the sample size that clustered answers amount to, and Student's t.

    The effective sample size is n over the design effect of the linearised variance between groups (Korn & Graubard
    1998, Survey Methodology 24:193), at least 1; Franco et al. (2019, J. Survey Stat. Methodol. 7:334) find it the best
    of the simple intervals for few groups. hits: 0/1 of shape (k,), for the samples `rows`. None with fewer than two
    groups.
    """
    sizes = clusters.totals(rows)
    count, n = int((sizes > 0).sum()), len(hits)
    if count < 2:
        return None
    share = float(hits.sum()) / n
    between = clusters.totals(rows, hits) - share * sizes
    variance = count / (count - 1) * float((between**2).sum()) / n**2
    independent = share * (1 - share) / n
    effect = max(1.0, variance / independent) if independent else 1.0
    return wilson(float(hits.sum()) / effect, n / effect, freedom=count - 1)


def hull(first: Interval | None, second: Interval | None) -> Interval | None:
    """The interval that holds both; None where one of them is None."""
    return None if first is None or second is None else (min(first[0], second[0]), max(first[1], second[1]))


def _student(p: float, freedom: int) -> float:
    """The p-quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, p))


def divide(above: Floats, below: Floats) -> Floats:
    """above / below, NaN where below is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below == 0, np.nan, above / np.where(below == 0, 1, below))


def auroc(truth: Bools, scores: Floats) -> float | None:
    """Probability that a positive scores above a negative, ties one half (Hanley & McNeil 1982). None without both."""
    positives, negatives = scores[truth], np.sort(scores[~truth])
    if not len(positives) or not len(negatives):
        return None
    below, not_above = (np.searchsorted(negatives, positives, side=side) for side in ("left", "right"))
    return float((below.sum() + not_above.sum()) / 2 / (len(positives) * len(negatives)))


@dataclass(frozen=True)
class Roc:
    """The operating points of a score, from strict to lax. Arrays of shape (levels + 1,), the first is "never stop".

    thresholds: stop when score >= threshold; hits, false_stops: counts of positives and negatives at or above it.
    """

    thresholds: Floats
    hits: Floats
    false_stops: Floats

    @property
    def positives(self) -> float:
        return float(self.hits[-1])

    @property
    def negatives(self) -> float:
        return float(self.false_stops[-1])


def roc(truth: Bools, scores: Floats) -> Roc:
    """Operating points at each distinct score; samples with equal scores cannot be told apart and move together."""
    levels, codes = np.unique(-np.asarray(scores, dtype=np.float64), return_inverse=True)
    codes = codes.reshape(-1)
    hits = np.bincount(codes, weights=truth.astype(np.float64), minlength=len(levels))
    stops = np.bincount(codes, weights=(~truth).astype(np.float64), minlength=len(levels))
    return Roc(
        np.concatenate([[np.inf], -levels]),
        np.concatenate([[0.0], np.cumsum(hits)]),
        np.concatenate([[0.0], np.cumsum(stops)]),
    )


def point_at(curve: Roc, false_stop_rate: float) -> int | None:
    """Index of the laxest operating point whose false-stop rate is at most the given one; None if a class is absent."""
    if curve.positives == 0 or curve.negatives == 0:
        return None
    return int(np.searchsorted(curve.false_stops, false_stop_rate * curve.negatives + 1e-9, side="right")) - 1


def ranked_bootstrap(
    truth: Bools,
    scores: Floats,
    clusters: Clusters,
    rows: Ints,
    false_stop_rate: float,
) -> tuple[Floats, Floats]:
    """AUROC, and miss rate at a false-stop rate (its threshold chosen anew each time), for every resample.

    truth, scores: shape (k,), of the samples `rows`. Returns two arrays of shape (resamples,), NaN where a resample
    lacks a class. Costs resamples x k, whatever the number of groups; all counts are whole numbers, so exact.
    """
    order = np.argsort(-scores, kind="stable")
    truth, level, codes = truth[order], -scores[order], clusters.codes[rows][order]
    positive, negative = codes[truth], codes[~truth]
    # How many negatives score above each positive, and at least as high; how many positives above each negative.
    above, not_below = (np.searchsorted(level[~truth], level[truth], side=side) for side in ("left", "right"))
    ties = bool((above != not_below).any())
    better = np.append(np.searchsorted(level[truth], level[~truth], side="left"), len(positive))
    areas, misses = np.full((2, clusters.resamples), np.nan)
    stopped = np.zeros(len(negative) + 1, dtype=np.int64)
    for at, draw in enumerate(clusters.draws):
        weight = draw.astype(np.int64)
        hits = weight[positive]
        np.cumsum(weight[negative], out=stopped[1:])
        positives, negatives = int(hits.sum()), int(stopped[-1])
        if not positives or not negatives:
            continue
        lost = stopped[above] + stopped[not_below] if ties else 2 * stopped[above]  # a tie counts one half
        areas[at] = (positives * negatives - int(hits @ lost) / 2) / (positives * negatives)
        # The first negative that is one too many: what scores no better than it does not stop either.
        last = np.searchsorted(stopped[1:], math.floor(false_stop_rate * negatives + 1e-9), side="right")
        misses[at] = (positives - int(hits[: better[last]].sum())) / positives
    return areas, misses


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p of McNemar's test (1947): are the discordant pairs split evenly? 1.0 when there are none.

    only_a: samples that only A got right; only_b: samples that only B got right.
    """
    from scipy.special import betainc

    n, least = only_a + only_b, min(only_a, only_b)
    # Binomial(n, 1/2) is symmetric: twice P(X <= least), which is an incomplete beta function.
    return 1.0 if n == 0 else min(1.0, 2 * float(betainc(n - least, least + 1, 0.5)))


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several tests, corrected so that all together err with the stated chance (Holm 1979)."""
    order = sorted(range(len(values)), key=lambda at: values[at])
    corrected, highest = [0.0] * len(values), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[at]))
        corrected[at] = highest
    return corrected


def brier(truth: Bools, p: Floats) -> Floats:
    """Squared error of each predicted probability (Brier 1950), shape (n,); its mean is the Brier score."""
    return np.asarray((p - truth) ** 2, dtype=np.float64)


@dataclass(frozen=True)
class Bins:
    """Reliability over equal-width bins: all arrays of shape (bins,)."""

    edges: Floats  # (bins + 1,)
    code: Ints  # (n,): the bin of each sample

    def totals(self, truth: Bools, p: Floats, codes: Ints | int = 0, count: int = 1) -> Floats:
        """For each group: samples in bin k, their p and their truths, summed; side by side: shape (count, 3 * bins).

        codes: the group of each sample, 0 to `count` - 1.
        """
        bins = len(self.edges) - 1
        place = codes * bins + self.code
        sums = [np.bincount(place, weights, count * bins).reshape(count, bins) for weights in (None, p, truth)]
        return np.concatenate(sums, axis=1, dtype=np.float64)


def bins_of(p: Floats, bins: int = 10) -> Bins:
    """The bin of each probability; 1.0 belongs to the last one."""
    edges = np.linspace(0, 1, bins + 1)
    return Bins(edges, np.minimum((np.asarray(p) * bins).astype(np.int64), bins - 1))


def ece(table: Floats) -> Floats:
    """Expected calibration error (Naeini et al. 2015, AAAI) from summed bin columns of shape (..., 3 * bins)."""
    count, predicted, observed = np.split(table, 3, axis=-1)
    return np.asarray(np.abs(predicted - observed).sum(axis=-1) / count.sum(axis=-1))


def percentile_min_n(p: float, confidence: float = CONFIDENCE) -> int:
    """Fewest measurements whose maximum lies above the p-quantile with this confidence: p**n <= 1 - confidence.

    5 for p50, 29 for p90, 299 for p99. With fewer, no measured value bounds that quantile (the idea of the
    early-stopping rule in MLPerf inference, which asks 99% confidence).
    """
    return math.ceil(math.log(1 - confidence) / math.log(p))


def percentile(ordered: Sequence[float], p: float) -> float | None:
    """The smallest value that at least a share p of the sorted values does not exceed; None with too few values."""
    n = len(ordered)
    return ordered[max(0, math.ceil(p * n) - 1)] if n >= percentile_min_n(p) else None


def percentile_upper_bound(ordered: Sequence[float], p: float, confidence: float = CONFIDENCE) -> float | None:
    """One-sided upper bound of the p-quantile by order statistics; None with too few values.

    The k-th smallest value is above the quantile when fewer than k values fall below it:
    P(Binomial(n, p) <= k - 1) >= confidence (Conover, Practical Nonparametric Statistics, 3.2).
    """
    n = len(ordered)
    if n < percentile_min_n(p, confidence):
        return None
    from scipy.stats import binom

    k = int(binom.ppf(confidence, n, p)) + 1
    return ordered[min(k, n) - 1]


def summarize_times(values: Sequence[float], digits: int = 6) -> dict[str, Any]:
    """n, mean, least, most, p50, p90, p99 (null where n cannot support it) and their upper bounds (95%), in seconds."""
    ordered = sorted(values)

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, digits)

    return {
        "n": len(ordered),
        "mean": rounded(math.fsum(ordered) / len(ordered)) if ordered else None,
        "least": rounded(ordered[0]) if ordered else None,
        "most": rounded(ordered[-1]) if ordered else None,
        **{name: rounded(percentile(ordered, p)) for name, p in PERCENTILES.items()},
        "upper": {name: rounded(percentile_upper_bound(ordered, p)) for name, p in PERCENTILES.items()},
    }
