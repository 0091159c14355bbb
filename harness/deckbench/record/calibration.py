"""A calibration: the file that `calibrate` writes and a record carries. It holds the val answers it was fitted on, so
whoever reads it can fit it again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from deckbench import artifact, calibration, stats
from deckbench.artifact import MAX_SEED
from deckbench.dataset import has_surrogates
from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.record.choice_odds import ChoiceOdds, quality
from deckbench.record.metrics_schema import Quality, Rate, Sha256, Strict
from deckbench.record.schema import parse, shown

MAX_BYTES = 32 << 20
MAX_SAMPLES = 20_000
FEW_GROUPS = 8
AGAIN = "make it again with `deckbench calibrate`"
NO_NAME = "choice"  # the type of all questions where no dataset says it
RATES = (0.01, 0.05, 0.10)  # stated false-stop rates, and stated errors, where none are given


class Temperature(Strict):
    """One temperature and its 95% interval, from n samples of so many groups.

    source: `own` samples; `pooled`: those of all types; `none`: 1, the probabilities stay. state: what came of a fit to
    its own samples, for `fitted` and `at the bound` the temperature itself.
    """

    temperature: float = Field(gt=0, le=calibration.BOUNDS[1])
    interval: tuple[float, float] | None
    n: int = Field(ge=0)
    groups: int = Field(ge=0)
    source: Literal["own", "pooled", "none"]
    state: calibration.State


class Threshold(Strict):
    """Stop where the calibrated P(anomaly) is at least `threshold` (None: never): the lowest that keeps to the stated
    false-stop rate on val. normal, stopped, anomalies, missed: counts on val."""

    allowed_false_stop_rate: Rate
    threshold: Rate | None
    normal: int = Field(ge=0)
    stopped: int = Field(ge=0)
    anomalies: int = Field(ge=0)
    missed: int = Field(ge=0)


class Bound(Strict):
    """Answer where the calibrated probability of an answer is above `bound`; None: n is too small for the error."""

    stated_error: Rate
    bound: Rate | None
    n: int = Field(ge=0)


class ValSamples(Strict):
    """The choices of val that have a probability, column by column.

    event: what was true; of a verdict (`verdict`), that the frame is an anomaly, else that A is right. p_event,
    p_other: what the model gave the option that says so, and the other one, as in the prediction file.
    """

    id: tuple[str, ...] = Field(max_length=MAX_SAMPLES)
    group: tuple[str, ...]
    question_type: tuple[str, ...]
    verdict: tuple[bool, ...]
    event: tuple[bool, ...]
    p_event: tuple[Rate, ...]
    p_other: tuple[Rate, ...]

    @model_validator(mode="after")
    def columns_fit(self) -> ValSamples:
        columns = (self.group, self.question_type, self.verdict, self.event, self.p_event, self.p_other)
        if not self.id or any(len(column) != len(self.id) for column in columns):
            raise ValueError("the columns of samples are empty, or of different lengths")
        if len(set(self.id)) != len(self.id):
            raise ValueError("a sample occurs twice")
        return self

    def odds(self, seed: int, resamples: int) -> ChoiceOdds:
        """As arrays, in clusters of their groups."""
        clusters = stats.clusters_of(list(self.group), seed, resamples)
        return ChoiceOdds(
            np.arange(len(self.id), dtype=np.int64),
            calibration.log_odds(np.asarray(self.p_event), np.asarray(self.p_other)),
            np.asarray(self.event, dtype=bool),
            np.asarray(self.verdict, dtype=bool),
            np.asarray(self.question_type, dtype=object),
            clusters,
        )


class FittedOn(Strict):
    """What a calibration was fitted on, and for: by hash, and the identity of the model as in the manifest.

    manifest: `content` of the manifest of the val predictions; None where none lay beside them. data_content: of the
    dataset; None where none was given and no manifest names one. types: what a type of question is: the dataset's
    `question_type`, or, without a dataset, `kind`: all are one.
    """

    predictions_sha256: Sha256
    manifest: dict[str, Any] | None
    data_content: Sha256 | None
    types: Literal["question_type", "kind"]
    answers: int = Field(ge=0)

    @property
    def model(self) -> Any:
        """The identity of model and adapter; None where no manifest says it."""
        inputs = (self.manifest or {}).get("inputs")
        return inputs.get("model") if isinstance(inputs, dict) else None


class Calibration(Strict):
    """The content of a calibration. answers of `fitted_on`: all of val that were read; samples: choices with a
    probability. before, after: on val itself, the very samples it was fitted on."""

    schema_version: Literal[1] = 1
    fitted_on: FittedOn
    seed: int = Field(ge=0, le=MAX_SEED)
    resamples: int = Field(ge=0, le=stats.RESAMPLES)
    n: int = Field(ge=1)
    groups: int = Field(ge=1)
    clipped: int = Field(ge=0)
    temperatures: dict[str, Temperature]
    pooled: Temperature
    thresholds: tuple[Threshold, ...]
    conformal: tuple[Bound, ...]
    before: Quality
    after: Quality
    notes: tuple[str, ...]
    samples: ValSamples

    @property
    def content_hash(self) -> str:
        return artifact.hash_json(self.model_dump(mode="json"))

    def temperature_of(self, question_type: str) -> float:
        """Of a type that val did not have: the pooled one."""
        name = question_type if self.fitted_on.types == "question_type" else NO_NAME
        return self.temperatures.get(name, self.pooled).temperature

    def of(self, types: npt.NDArray[Any]) -> stats.Floats:
        """The temperature of each sample."""
        known = {str(name): self.temperature_of(str(name)) for name in set(types.tolist())}
        return np.array([known[str(name)] for name in types.tolist()], dtype=np.float64)


class CalibrationFile(Strict):
    """What `deckbench calibrate` writes. content_hash: sha256 of the canonical JSON of the content."""

    kind: Literal["calibration"] = "calibration"
    content_hash: Sha256
    content: Calibration
    observed: dict[str, Any] = Field(default_factory=dict)


def fit(
    samples: ValSamples,
    fitted_on: FittedOn,
    *,
    false_stops: Sequence[float] = RATES,
    errors: Sequence[float] = RATES,
    seed: int = 0,
    resamples: int = stats.RESAMPLES,
) -> Calibration:
    """Fit temperatures, thresholds and conformal bounds to val. A pure function: the same bytes for the same arguments.

    Args:
        samples: the choices of val.
        fitted_on: where they come from.
        false_stops: stated false-stop rates.
        errors: stated errors.
        seed, resamples: of the bootstrap in the intervals of before and after.

    Returns:
        The calibration.
    """
    odds = samples.odds(seed, resamples)
    every = np.arange(len(odds.event))
    pooled = temperature(odds, every, None)
    temperatures = {
        str(name): temperature(odds, every[odds.types == name], pooled) for name in sorted(set(odds.types.tolist()))
    }
    scale = np.array([temperatures[str(name)].temperature for name in odds.types.tolist()])
    p = calibration.probability(odds.odds, scale)
    clipped = int((np.minimum(samples.p_event, samples.p_other) < calibration.LEAST_P).sum())
    result = Calibration(
        fitted_on=fitted_on,
        seed=seed,
        resamples=resamples,
        n=len(samples.id),
        groups=odds.clusters.count,
        clipped=clipped,
        temperatures=temperatures,
        pooled=pooled,
        thresholds=tuple(threshold(odds, p, rate) for rate in false_stops) if odds.verdict.any() else (),
        conformal=tuple(conformal(odds, p, error) for error in errors),
        before=quality(odds, 1.0),
        after=quality(odds, scale),
        notes=(),
        samples=samples,
    )
    return result.model_copy(update={"notes": tuple(notes_of(result))})


def temperature(odds: ChoiceOdds, at: stats.Ints, pooled: Temperature | None) -> Temperature:
    """The temperature of some samples, or the pooled one where they decide none."""
    codes = odds.clusters.codes[odds.rows[at]]
    found = calibration.fit_temperature(odds.odds[at], odds.event[at], codes)
    value, interval, source = found.temperature, found.interval, "own"
    if found.state not in ("fitted", "at the bound"):
        source = "none"
        if pooled is not None and pooled.source == "own":
            value, interval, source = pooled.temperature, pooled.interval, "pooled"
    groups = len(np.unique(codes))
    fields = {"temperature": value, "interval": interval, "source": source, "state": found.state}
    return Temperature.model_validate({**fields, "n": len(at), "groups": groups})


def threshold(odds: ChoiceOdds, p: stats.Floats, rate: float) -> Threshold:
    """The threshold on calibrated P(anomaly) at a stated false-stop rate, and what it does on val."""
    truth, p = odds.event[odds.verdict], p[odds.verdict]
    at = calibration.threshold_at(truth, p, rate)
    stop = p >= (np.inf if at is None else at)
    return Threshold(
        allowed_false_stop_rate=rate,
        threshold=at,
        normal=int((~truth).sum()),
        stopped=int((stop & ~truth).sum()),
        anomalies=int(truth.sum()),
        missed=int((truth & ~stop).sum()),
    )


def conformal(odds: ChoiceOdds, p: stats.Floats, error: float) -> Bound:
    """The conformal bound of all choices at a stated error."""
    right = np.where(odds.event, p, np.round(1 - p, calibration.P_DIGITS))
    return Bound(stated_error=error, bound=calibration.conformal_bound(right, error), n=len(right))


def notes_of(made: Calibration) -> list[str]:
    """What else is to be said of a calibration."""
    notes = []
    if made.fitted_on.manifest is None:
        notes.append("no manifest beside the predictions: it is unknown which model and adapter this is for")
    if made.fitted_on.types == "kind":
        notes.append("no dataset given: one temperature for all questions")
    if made.groups < FEW_GROUPS:
        few = f"only {made.groups} group{'s' if made.groups > 1 else ''} in val"
        notes.append(f"{few}: temperatures and thresholds may hold for these alone")
    for name, found in made.temperatures.items():
        if found.source != "own":
            instead = "that of all types is used" if found.source == "pooled" else "its probabilities stay"
            notes.append(f"{name or 'no type'}: {found.state} ({found.n}), so {instead}")
        elif found.state == "at the bound":
            what = "its answers are no better than chance" if found.temperature > 1 else "it is far too unsure"
            notes.append(f"{name or 'no type'}: the temperature is at its bound: {what}")
    for at in made.thresholds:
        if not at.normal or not at.anomalies:
            notes.append("val has no verdicts of both kinds: no threshold can be chosen")
            break
        if at.normal * at.allowed_false_stop_rate < 1:
            what = f"{at.normal} normal samples cannot show a false-stop rate of {at.allowed_false_stop_rate:g}"
            notes.append(f"{what}: the threshold is above all of them")
    notes += [
        f"{bound.n} samples are too few for a stated error of {bound.stated_error:g}: nothing is answered"
        for bound in made.conformal
        if bound.bound is None
    ]
    return notes


def fit_differences(made: Calibration) -> list[str]:
    """Where a calibration does not follow from the val answers in it."""
    again = fit(
        made.samples,
        made.fitted_on,
        false_stops=[at.allowed_false_stop_rate for at in made.thresholds],
        errors=[bound.stated_error for bound in made.conformal],
        seed=made.seed,
        resamples=made.resamples,
    )
    if again == made:
        return []
    told, given = (value.model_dump(mode="json", exclude={"samples"}) for value in (made, again))
    name = next((key for key in told if told[key] != given[key]), "samples")
    return [f"the calibration's {name} {shown(told.get(name))} does not follow from its val answers"]


def read_calibration(path: Path) -> Calibration:
    """A calibration, fitted again to see that it is one. Raises InputError."""
    path = Path(path)
    if path.is_dir():
        raise InputError("a calibration is expected, this is a folder", path, "give the file that `calibrate` wrote")
    try:
        data = read_bytes(path, MAX_BYTES)
        value = json.loads(data)
        if has_surrogates(value):
            raise InputError("a text holds half a surrogate pair", path, AGAIN)
    except FileNotFoundError as error:
        raise InputError("not found; a calibration is expected here", path, AGAIN) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the calibration cannot be read ({type(error).__name__})", path, AGAIN) from error
    if not isinstance(value, dict) or value.get("kind") != "calibration":
        raise InputError("this is no calibration", path, "give the file that `deckbench calibrate` wrote")
    found = parse(CalibrationFile, value, path)
    if found.content.content_hash != found.content_hash.removeprefix("sha256:"):
        raise InputError("the hash does not fit the content: it was edited", path, AGAIN)
    if why := fit_differences(found.content):
        raise InputError(why[0], path, AGAIN)
    return found.content
