"""A calibration applied to a score: the same choices before and after, thresholds and abstention as they turn out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deckbench import calibration, stats
from deckbench.record.answers import Answers, proportion
from deckbench.record.calibration import Bound, Calibration, Threshold
from deckbench.record.choice_odds import ChoiceOdds, loss, odds_of, quality
from deckbench.record.metrics_schema import (
    AbstentionOnTest,
    Calibrated,
    ChanceCorrected,
    ThresholdOnTest,
)
from deckbench.stats import Floats, Ints

CHANCE = 0.5  # of a choice between A and B


def apply(
    answers: Answers, made: Calibration, *, asked: Mapping[Any, int] | None, data_content: str | None
) -> Calibrated | None:
    """What a calibration does to the choices of a score.

    A choice without a probability is counted: under a threshold it is the wrong verdict, to abstention "not sure".

    Args:
        answers: graded answers, none of which the calibration was fitted on.
        made: the calibration.
        asked: kind -> how many questions of it the dataset asks; None: it is not known.
        data_content: hash of the dataset that is scored; None: it is not known.

    Returns:
        The block of the score; None where no choice has a probability.
    """
    odds, choices = odds_of(answers)
    if not len(odds.rows):
        return None
    scale = made.of(odds.types)
    p = calibration.probability(odds.odds, scale)
    squared = [stats.brier(odds.event, calibration.probability(odds.odds, t)) for t in (1.0, scale)]
    logs = [calibration.log_loss(odds.odds, odds.event, t) for t in (1.0, scale)]
    types = sorted({str(name) for name in odds.types.tolist()})
    return Calibrated(
        calibration=made.content_hash,
        transferred=data_content is not None and plain(data_content) != plain(made.fitted_on.data_content),
        n=len(odds.rows),
        without_p=len(choices) - len(odds.rows),
        temperatures={name: made.temperature_of(name) for name in types},
        before=quality(odds, 1.0),
        after=quality(odds, scale),
        change={
            "brier": loss(squared[1] - squared[0], odds.codes),
            "log_loss": loss(logs[1] - logs[0], odds.codes),
        },
        thresholds=tuple(threshold(answers, choices, odds, p, at) for at in made.thresholds),
        abstention=tuple(abstention(answers, choices, odds, p, bound) for bound in made.conformal),
        chance_corrected=chance_corrected(answers, choices, asked),
        notes=tuple(notes_of(made, types)),
    )


def plain(digest: str | None) -> str | None:
    """A hash without its prefix."""
    return None if digest is None else digest.removeprefix("sha256:")


def notes_of(made: Calibration, types: list[str]) -> list[str]:
    """What was said of val, and where test asks what val did not."""
    unknown = [name for name in types if made.fitted_on.types == "question_type" and name not in made.temperatures]
    later = [f"{name or 'no type'}: not in val, so the temperature of all types is used" for name in unknown]
    return [*made.notes, *later]


def threshold(answers: Answers, choices: Ints, odds: ChoiceOdds, p: Floats, chosen: Threshold) -> ThresholdOnTest:
    """The real rates of a threshold that was chosen on val."""
    wrong = np.ones(len(answers.kind))  # where there is no probability
    stop = p >= (np.inf if chosen.threshold is None else chosen.threshold)
    wrong[odds.rows] = stop != odds.event
    verdicts = choices[answers.known[choices]]
    truth = answers.truth[verdicts]
    return ThresholdOnTest(
        allowed_false_stop_rate=chosen.allowed_false_stop_rate,
        threshold=chosen.threshold,
        false_stop_rate=answers.share(wrong, verdicts[~truth]),
        miss_rate=answers.share(wrong, verdicts[truth]),
    )


def abstention(answers: Answers, choices: Ints, odds: ChoiceOdds, p: Floats, chosen: Bound) -> AbstentionOnTest:
    """How often an answer is sure enough, and how often it is wrong then."""
    given, wrong = np.zeros((2, len(answers.kind)))
    sure = np.maximum(p, np.round(1 - p, calibration.P_DIGITS))
    given[odds.rows] = sure > (np.inf if chosen.bound is None else chosen.bound)
    wrong[odds.rows] = given[odds.rows] * ((p > 0.5) != odds.event)
    answered = choices[given[choices] == 1]
    return AbstentionOnTest(
        stated_error=chosen.stated_error,
        bound=chosen.bound,
        answered=answers.share(given, choices),
        error=answers.share(wrong, choices),
        error_among_answered=answers.share(wrong, answered),
    )


def chance_corrected(answers: Answers, choices: Ints, asked: Mapping[Any, int] | None) -> ChanceCorrected:
    """The chance-corrected score of the free answers. What is asked and has no answer, or none that can be read, is
    wrong; the interval is that of the accuracy among the answers, as a share of what was asked."""
    found = proportion(answers.right[choices], answers.clusters, choices)
    n = max(len(choices), (asked or {}).get("choice", 0))

    def corrected(accuracy: float) -> float:
        return (accuracy - CHANCE) / (1 - CHANCE)

    k, bounds = found.k or 0, found.interval
    share = len(choices) / n
    return ChanceCorrected(
        value=corrected(k / n),
        chance=CHANCE,
        n=n,
        k=k,
        interval=None if bounds is None else (corrected(bounds[0] * share), corrected(bounds[1] * share)),
    )
