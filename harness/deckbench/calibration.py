"""Temperature scaling, thresholds on P(anomaly) and split conformal abstention: pure functions on arrays.

A choice between two options is the sign of its log odds, log(p of the one / p of the other). A temperature divides them
(Guo et al. 2017, ICML): the answer stays, how sure it is changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from deckbench import stats
from deckbench.stats import Floats, Interval, Ints

Bools = npt.NDArray[np.bool_]
State = Literal["fitted", "at the bound", "too few samples", "one class", "all right", "no information"]

LEAST_P = 5e-9  # half of the last decimal of a prediction file: what stands there as 0 is somewhere below
LEAST_SAMPLES = 30
BOUNDS = (0.01, 100.0)  # of a temperature
DIGITS = 6  # of a temperature: the same on machines that differ in the last bits
P_DIGITS = 10


def log_odds(p: Floats, other: Floats) -> Floats:
    """log(p / other) of two probabilities, each at least LEAST_P: finite, 0 where a model gave neither any."""
    return np.asarray(np.log(np.maximum(p, LEAST_P)) - np.log(np.maximum(other, LEAST_P)))


def probability(odds: Floats, temperature: Floats | float = 1.0) -> Floats:
    """1 / (1 + exp(-odds / temperature)), rounded, so that a threshold means the same wherever it is read."""
    from scipy.special import expit

    return np.round(np.asarray(expit(np.asarray(odds, dtype=np.float64) / temperature)), P_DIGITS)


def log_loss(odds: Floats, event: Bools, temperature: Floats | float = 1.0) -> Floats:
    """-log of the probability of what is true, in nats, shape (n,)."""
    return np.asarray(np.logaddexp(0.0, np.where(event, -odds, odds) / temperature))


@dataclass(frozen=True)
class Fit:
    """A temperature, its 95% interval, and how it came about; 1.0 where the samples decide none."""

    temperature: float
    interval: Interval | None
    state: State


def fit_temperature(odds: Floats, event: Bools, codes: Ints) -> Fit:
    """The temperature with the least log loss.

    The loss is convex in 1/T, so the root of its derivative is found (Brent), and there is no other. The interval is
    that of a likelihood with clustered samples (Liang & Zeger 1986, Biometrika 73:13) on log T, with Student's t.

    Args:
        odds: log odds of the event, shape (n,).
        event: whether it happened, shape (n,).
        codes: the group of each sample, shape (n,).

    Returns:
        The temperature within BOUNDS. `all right`: every answer is right, so the loss falls with the temperature for
        ever, and nothing is learnt of how often a sure answer is wrong.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    if len(odds) < LEAST_SAMPLES:
        return Fit(1.0, None, "too few samples")
    if event.all() or not event.any():
        return Fit(1.0, None, "one class")
    right = np.where(event, odds, -odds)
    if not right.any():
        return Fit(1.0, None, "no information")
    if (right >= 0).all():
        return Fit(1.0, None, "all right")

    def slope(log_t: float) -> float:
        """Derivative of the mean loss by 1/T."""
        return float(np.mean(-right * expit(-right / math.exp(log_t))))

    low, high = (math.log(bound) for bound in BOUNDS)
    if slope(high) >= 0:
        return Fit(BOUNDS[1], None, "at the bound")
    if slope(low) <= 0:
        return Fit(BOUNDS[0], None, "at the bound")
    found = math.exp(brentq(slope, low, high, xtol=1e-12, rtol=1e-12))
    return Fit(round(found, DIGITS), _interval(right, found, codes), "fitted")


def _interval(right: Floats, temperature: float, codes: Ints) -> Interval | None:
    """95% interval of a fitted temperature. right: log odds of what is true. None with fewer than two groups."""
    from scipy.special import expit

    groups = np.unique(codes, return_inverse=True)[1].reshape(-1)
    count = int(groups.max()) + 1
    if count < 2:
        return None
    wrong = expit(-right / temperature)
    scores = np.bincount(groups, weights=-right * wrong, minlength=count)
    curvature = float((right**2 * wrong * (1 - wrong)).sum())
    spread = math.sqrt(count / (count - 1) * float((scores**2).sum())) / curvature * temperature
    reach = student(count - 1) * spread
    low, high = (min(max(temperature * math.exp(side), BOUNDS[0]), BOUNDS[1]) for side in (-reach, reach))
    return round(low, DIGITS), round(high, DIGITS)


def student(freedom: int, confidence: float = stats.CONFIDENCE) -> float:
    """Student's two-sided quantile."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + confidence / 2))


def mean_interval(values: Floats, codes: Ints) -> Interval | None:
    """95% interval of a mean over groups: linearised variance between groups, Student's t (Liang & Zeger 1986).

    None with fewer than two groups.
    """
    groups = np.unique(codes, return_inverse=True)[1].reshape(-1)
    count = int(groups.max()) + 1 if len(groups) else 0
    if count < 2:
        return None
    middle = float(values.mean())
    between = np.bincount(groups, weights=values - middle, minlength=count)
    half = student(count - 1) * math.sqrt(count / (count - 1) * float((between**2).sum())) / len(values)
    return middle - half, middle + half


def threshold_at(event: Bools, p: Floats, false_stop_rate: float) -> float | None:
    """The lowest threshold at which at most this share of normal frames stops (p >= threshold); None: never stop."""
    curve = stats.roc(event, p)
    at = stats.point_at(curve, false_stop_rate)
    return None if at is None or not np.isfinite(curve.thresholds[at]) else float(curve.thresholds[at])


def conformal_bound(p_right: Floats, error: float) -> float | None:
    """How sure an answer has to be, so that at most a share `error` of all questions is answered wrongly.

    Split conformal prediction (Vovk et al. 2005; Sadinle et al. 2019, JASA 114:223): the score of a sample is one minus
    the probability of what is true, the bound their ceil((n + 1)(1 - error))-th smallest value. An answer is given
    where its probability is above the bound: then the set of options that cannot be ruled out holds it alone. Below
    one half no option is left to rule out, so the bound is at least that.

    Args:
        p_right: probability of what is true, shape (n,).
        error: stated error.

    Returns:
        The bound from 0.5 to 1; None where n is too small for this error: nothing may be answered.
    """
    n = len(p_right)
    rank = math.ceil((n + 1) * (1 - error) - 1e-9)
    if rank > n:
        return None
    return max(0.5, float(np.sort(np.round(1 - p_right, P_DIGITS))[rank - 1]))
