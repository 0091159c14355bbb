"""How far a grader can be trusted, and what its errors do to a rate: kappa, and the corrected rate of a judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from deckbench.stats import CONFIDENCE, Clusters, Floats, Interval, Ints

Flags = npt.NDArray[np.bool_]


def cohen_kappa(first: Sequence[object], second: Sequence[object]) -> float | None:
    """Agreement of two graders beyond chance (Cohen 1960). None where chance explains all: each has only one grade."""
    n = len(first)
    names = sorted({*first, *second}, key=str)
    code = {name: number for number, name in enumerate(names)}
    table = np.zeros((len(names), len(names)))
    np.add.at(table, ([code[name] for name in first], [code[name] for name in second]), 1)
    expected = float(table.sum(axis=1) @ table.sum(axis=0)) / n**2 if n else 1.0
    return None if math.isclose(expected, 1.0) else (float(np.trace(table)) / n - expected) / (1 - expected)


@dataclass(frozen=True)
class Corrected:
    """The rate of right answers behind a judge's rate.

    value, interval: None where they cannot be known, `why` says it; both are cut off at 0 and 1. raw: the value before
    that; outside 0 to 1 the judge errs otherwise on these answers than where its errors were measured, or by chance.
    """

    value: float | None
    interval: Interval | None
    raw: float | None = None
    why: str = ""


def corrected_rate(judged: Flags, rows: Ints, said: Flags, truth: Flags, known: Ints, clusters: Clusters) -> Corrected:
    """A judge's rate corrected by its own sensitivity and specificity (Rogan & Gladen 1978, Am. J. Epidemiol. 107:71).

    With p the share that the judge calls right, q1 its sensitivity and q0 its specificity, the rate of right answers is
    (p + q0 - 1) / (q0 + q1 - 1). The interval holds the errors of all three (Lee et al. 2026, for independent answers):
    all rates r that a test of p + q0 - 1 = r (q0 + q1 - 1) does not reject (Fieller 1954). The variances are those
    between groups, with Student's t, so answers of one group may depend on each other, and a group may stand on both
    sides; each is at least that of independent answers with 1/2 (q0, q1) or z^2/2 (p) added to both counts, since
    variances of shares near 0 or 1 are found too small.

    Args:
        judged: the judge calls it right, for the answers `rows`, shape (n,).
        rows: positions of the answers, for their groups.
        said: the judge calls it right, for the answers `known`, shape (m,).
        truth: it is right, for the answers `known`.
        known: positions of answers whose truth is known.
        clusters: the groups of all positions.

    Returns:
        The corrected rate. No value without right and wrong answers in `known`, or where sensitivity + specificity is
        at most 1: such a judge says nothing. No interval with fewer than two groups, or where any rate fits.
    """
    right, wrong = known[truth], known[~truth]
    if not len(rows) or not len(right) or not len(wrong):
        which = "judged" if not len(rows) else "right" if not len(right) else "wrong"
        what = "no answer is judged" if which == "judged" else f"no {which} answer of known truth is judged"
        return Corrected(None, None, why=what)
    calls_right, calls_wrong = said[truth].astype(np.float64), (~said[~truth]).astype(np.float64)
    p, q1, q0 = float(judged.mean()), float(calls_right.mean()), float(calls_wrong.mean())
    above, below = p + q0 - 1, q0 + q1 - 1
    if below <= 1e-12:
        return Corrected(
            None, None, why=f"sensitivity + specificity is {q0 + q1:.3f}, at most 1: the judge says nothing"
        )
    raw = above / below
    value = min(1.0, max(0.0, raw))
    groups = np.unique(clusters.codes[np.concatenate([rows, known])])
    if len(groups) < 2:
        return Corrected(value, None, raw, "one group says nothing about another")

    def by_group(values: Floats, at: Ints) -> Floats:
        """Each group's part of the error of a mean."""
        errors = (values - values.mean()) / len(values)
        return np.bincount(clusters.codes[at], weights=errors, minlength=clusters.count).astype(np.float64)

    error_p = by_group(judged.astype(np.float64), rows)
    error_1, error_0 = by_group(calls_right, right), by_group(calls_wrong, wrong)
    factor = len(groups) / (len(groups) - 1)
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    var_p = max(factor * float(error_p @ error_p), _variance(p, len(rows), z * z / 2))
    var_1 = max(factor * float(error_1 @ error_1), _variance(q1, len(right), 0.5))
    var_0 = max(factor * float(error_0 @ error_0), _variance(q0, len(wrong), 0.5))
    with_1, with_0, both = (factor * float(x) for x in (error_p @ error_1, error_p @ error_0, error_0 @ error_1))
    variances = (var_p + var_0 + 2 * with_0, var_0 + with_0 + with_1 + both, var_1 + var_0 + 2 * both)
    found = _fieller(above, below, variances, _student(len(groups) - 1))
    if found is None:
        what = "sensitivity + specificity cannot be told from 1 by so few answers of known truth: any rate fits"
        return Corrected(value, None, raw, what)
    low, high = found
    if high <= 0 or low >= 1:
        what = "no rate fits: the judge errs otherwise on these answers than on those of known truth"
        return Corrected(value, None, raw, what)
    return Corrected(value, (max(0.0, low), min(1.0, high)), raw)


def _variance(share: float, n: int, added: float) -> float:
    """Variance of a share of n independent answers, with `added` more on both sides."""
    share = (share * n + added) / (n + 2 * added)
    return share * (1 - share) / (n + 2 * added)


def _student(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))


def _fieller(above: float, below: float, variances: tuple[float, float, float], quantile: float) -> Interval | None:
    """The ratios above / below that are not rejected; None where they have no end.

    variances: of `above`, of both together, of `below`.
    """
    square = quantile * quantile
    a = below * below - square * variances[2]
    b = above * below - square * variances[1]
    c = above * above - square * variances[0]
    if a <= 0:
        return None
    root = math.sqrt(max(0.0, b * b - a * c))
    return (b - root) / a, (b + root) / a
