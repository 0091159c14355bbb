"""Percentiles that say when there are too few measurements for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy.stats import binom

CONFIDENCE = 0.95
POINTS = {"p50": 0.50, "p90": 0.90, "p99": 0.99}


def needed(p: float, confidence: float = CONFIDENCE) -> int:
    """Fewest measurements whose maximum lies above the p-quantile with this confidence: p**n <= 1 - confidence.

    5 for p50, 29 for p90, 299 for p99. With fewer, no measured value bounds that quantile (the idea of the
    early-stopping rule in MLPerf inference, which asks 99% confidence).
    """
    return math.ceil(math.log(1 - confidence) / math.log(p))


def percentile(ordered: Sequence[float], p: float) -> float | None:
    """The smallest value that at least a share p of the sorted values does not exceed; None with too few values."""
    n = len(ordered)
    return ordered[max(0, math.ceil(p * n) - 1)] if n >= needed(p) else None


def upper(ordered: Sequence[float], p: float, confidence: float = CONFIDENCE) -> float | None:
    """One-sided upper bound of the p-quantile by order statistics; None with too few values.

    The k-th smallest value is above the quantile when fewer than k values fall below it:
    P(Binomial(n, p) <= k - 1) >= confidence (Conover, Practical Nonparametric Statistics, 3.2).
    """
    n = len(ordered)
    if n < needed(p, confidence):
        return None
    k = int(binom.ppf(confidence, n, p)) + 1
    return ordered[min(k, n) - 1]


def summary(values: Sequence[float], digits: int = 6) -> dict[str, Any]:
    """n, mean, least, most, p50, p90, p99 (null where n cannot support it) and their upper bounds (95%), in seconds."""
    ordered = sorted(values)
    if not ordered:
        return {
            "n": 0,
            "mean": None,
            "least": None,
            "most": None,
            **dict.fromkeys(POINTS),
            "upper": dict.fromkeys(POINTS),
        }

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, digits)

    return {
        "n": len(ordered),
        "mean": rounded(math.fsum(ordered) / len(ordered)) if ordered else None,
        "least": rounded(ordered[0]) if ordered else None,
        "most": rounded(ordered[-1]) if ordered else None,
        **{name: rounded(percentile(ordered, p)) for name, p in POINTS.items()},
        "upper": {name: rounded(upper(ordered, p)) for name, p in POINTS.items()},
    }
