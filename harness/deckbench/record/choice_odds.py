"""The choices of a score as log odds of what was asked, and how well probabilities fit what was true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deckbench import calibration, stats
from deckbench.record.answers import Answers
from deckbench.record.metrics_schema import Estimate, Loss, Quality, ReliabilityBin
from deckbench.stats import Clusters, Floats, Ints


@dataclass(frozen=True)
class ChoiceOdds:
    """Choices with a probability; all arrays of shape (n,).

    rows: their positions in `clusters`. odds: log odds of the event: of a verdict, that the frame is an anomaly, else
    that A is right. event: whether it is so. verdict: whether it is a verdict. types: of question.
    """

    rows: Ints
    odds: Floats
    event: npt.NDArray[np.bool_]
    verdict: npt.NDArray[np.bool_]
    types: npt.NDArray[Any]
    clusters: Clusters

    @property
    def codes(self) -> Ints:
        return self.clusters.codes[self.rows]


def probabilities(answers: Answers, rows: Ints) -> tuple[Floats, Floats]:
    """What a model gave the option that says the event, and the other one; NaN where unknown, both shape (k,).

    p_a and p_b where there are both; where one alone or only p_anomaly is there, the other one is the rest.
    """
    a, b, p = answers.p_a[rows], answers.p_b[rows], answers.p[rows]
    a, b = np.where(np.isnan(a), 1 - b, a), np.where(np.isnan(b), 1 - a, b)
    says_a = np.where(answers.known[rows], answers.truth[rows] == (answers.gold[rows] == "A"), True)
    one, other = np.where(says_a, a, b), np.where(says_a, b, a)
    alone = np.isnan(one) & answers.known[rows]
    return np.where(alone, p, one), np.where(alone, 1 - p, other)


def odds_of(answers: Answers) -> tuple[ChoiceOdds, Ints]:
    """The choices of a graded table that have a probability, and the rows of all choices."""
    choices = np.flatnonzero(answers.kind == "choice")
    one, other = probabilities(answers, choices)
    good = np.isfinite(one) & np.isfinite(other)
    rows, verdict = choices[good], answers.known[choices[good]]
    return ChoiceOdds(
        rows,
        calibration.log_odds(one[good], other[good]),
        np.where(verdict, answers.truth[rows], answers.gold[rows] == "A").astype(bool),
        verdict,
        answers.table["question_type"].to_numpy(dtype=object)[rows],
        answers.clusters,
    ), choices


def quality(odds: ChoiceOdds, temperature: Floats | float) -> Quality:
    """Brier score, expected calibration error, log loss and reliability at a temperature."""
    p, event = calibration.probability(odds.odds, temperature), odds.event
    bins = stats.bins_of(p)
    total, codes = bins.totals(event, p)[0], odds.codes
    many = len(np.unique(codes)) > 1
    with np.errstate(invalid="ignore"):
        sums = odds.clusters.resample(bins.totals(event, p, codes, odds.clusters.count))
        spread = stats.interval(stats.ece(sums)) if many else None
    squared = stats.brier(event, p)
    within = calibration.mean_interval(squared, codes)
    return Quality(
        brier=Estimate(
            value=float(squared.mean()),
            n=len(p),
            cluster=None if within is None else (max(0.0, within[0]), min(1.0, within[1])),
        ),
        ece=Estimate(value=float(stats.ece(total)), n=len(p), cluster=spread),
        log_loss=loss(calibration.log_loss(odds.odds, event, temperature), codes, least=0.0),
        reliability=reliability(bins, total),
    )


def reliability(bins: stats.Bins, total: Floats) -> tuple[ReliabilityBin, ...]:
    """The reliability diagram, from the sums of its bins."""
    count, predicted, observed = np.split(total, 3)
    return tuple(
        ReliabilityBin(
            low=bins.edges[i],
            high=bins.edges[i + 1],
            n=int(count[i]),
            mean_predicted=predicted[i] / count[i] if count[i] else None,
            observed_frequency=observed[i] / count[i] if count[i] else None,
        )
        for i in range(len(count))
    )


def loss(values: Floats, codes: Ints, *, least: float = -np.inf) -> Loss:
    """A mean with its interval over groups, no lower than `least`."""
    within = calibration.mean_interval(values, codes)
    return Loss(
        value=float(values.mean()),
        n=len(values),
        cluster=None if within is None else (max(least, within[0]), within[1]),
    )
