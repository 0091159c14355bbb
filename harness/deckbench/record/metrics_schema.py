"""The one schema of scores: what `score.json` holds and what stands in a record as `metrics`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from deckbench.artifact import MAX_SEED
from deckbench.grade import Kind

DIGITS = 10
MAX_RESAMPLES = 10_000

Number = Annotated[float, AfterValidator(lambda x: round(x, DIGITS) + 0.0)]  # + 0.0: no "-0.0"
Rate = Annotated[Number, Field(ge=0, le=1)]
Interval = tuple[Rate, Rate]
Sha256 = Annotated[str, Field(pattern=r"^(sha256:)?[0-9a-f]{64}$")]


class Strict(BaseModel):
    """Refuses unknown fields, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, protected_namespaces=())


class Estimate(Strict):
    """A measured number: never alone, always with what it rests on and its 95% intervals.

    value: a rate, a mean or an area in 0..1; None when nothing could be counted. n: the denominator. k: the numerator
    of a proportion. wilson: interval as if answers were independent, for proportions. cluster: interval over
    groups, since answers about one robot session succeed and fail together (bootstrap; of a proportion together with
    `stats.cluster_wilson`); None with fewer than two groups.
    """

    value: Rate | None
    n: int = Field(ge=0)
    k: int | None = Field(default=None, ge=0)
    wilson: Interval | None = None
    cluster: Interval | None = None

    @property
    def interval(self) -> Interval | None:
        """The interval shown: the hull of both. By groups alone it would have no width where all groups agree."""
        known = [bounds for bounds in (self.wilson, self.cluster) if bounds is not None]
        return (min(low for low, _ in known), max(high for _, high in known)) if known else None


class Slice(Strict):
    """A part of the answers: one class, one anomaly, one protocol step."""

    n: int = Field(ge=0)
    unparsed: int = Field(ge=0)
    metrics: dict[str, Estimate]


class Confusion(Strict):
    """Counts of verdicts, truth first. The six add up to the samples whose truth is anomaly or normal."""

    anomaly_as_anomaly: int = Field(ge=0)
    anomaly_as_normal: int = Field(ge=0)
    anomaly_unparsed: int = Field(ge=0)
    normal_as_normal: int = Field(ge=0)
    normal_as_anomaly: int = Field(ge=0)
    normal_unparsed: int = Field(ge=0)


class OperatingPoint(Strict):
    """The threshold on P(anomaly) that keeps the false-stop rate at or below what is allowed.

    threshold: stop when P(anomaly) is at least this; None: never stop.
    """

    allowed_false_stop_rate: Rate
    threshold: Rate | None
    false_stop_rate: Rate
    miss_rate: Rate


class ReliabilityBin(Strict):
    """One bin of the reliability diagram: mean predicted probability and observed frequency."""

    low: Rate
    high: Rate
    n: int = Field(ge=0)
    mean_predicted: Rate | None
    observed_frequency: Rate | None


class Block(Slice):
    """All answers of one kind. by_view: from where the camera looks; by_context: how much of its check a question says.

    roc: (false-stop rate, hit rate), at most 201 points.
    """

    by_class: dict[str, Slice] = Field(default_factory=dict)
    by_anomaly: dict[str, Slice] = Field(default_factory=dict)
    by_step: dict[str, Slice] = Field(default_factory=dict)
    by_stage: dict[str, Slice] = Field(default_factory=dict)
    by_lang: dict[str, Slice] = Field(default_factory=dict)
    by_question: dict[str, Slice] = Field(default_factory=dict)
    by_view: dict[str, Slice] = Field(default_factory=dict)
    by_context: dict[str, Slice] = Field(default_factory=dict)
    confusion: Confusion | None = None
    roc: tuple[tuple[Rate, Rate], ...] | None = None
    operating_point: OperatingPoint | None = None
    reliability: tuple[ReliabilityBin, ...] | None = None


class Loss(Strict):
    """A mean in nats, or a difference of two means: over n samples, with its 95% interval over groups."""

    value: Number | None
    n: int = Field(ge=0)
    cluster: tuple[Number, Number] | None = None


class Quality(Strict):
    """How well stated probabilities fit what was true."""

    brier: Estimate
    ece: Estimate
    log_loss: Loss
    reliability: tuple[ReliabilityBin, ...]


class ThresholdOnTest(Strict):
    """A threshold that was chosen on val, on test. It stops where the calibrated P(anomaly) is at least `threshold`.

    allowed_false_stop_rate: what was asked for on val. threshold: None: never stop.
    """

    allowed_false_stop_rate: Rate
    threshold: Rate | None
    false_stop_rate: Estimate
    miss_rate: Estimate


class AbstentionOnTest(Strict):
    """Answers that are given where the model is sure enough, and "not sure" elsewhere.

    stated_error: the share of all questions that may be answered wrongly. bound: an answer needs a calibrated
    probability above it; None: nothing is answered. answered: the share of questions with an answer. error: the share
    of all questions that is answered wrongly. error_among_answered: of those that are answered.
    """

    stated_error: Rate
    bound: Rate | None
    answered: Estimate
    error: Estimate
    error_among_answered: Estimate


class ChanceCorrected(Strict):
    """(k / n - chance) / (1 - chance): 1 is perfect, 0 is guessing. n: asked, k: right; without an answer, wrong."""

    value: Number | None
    chance: Rate
    n: int = Field(ge=0)
    k: int = Field(ge=0)
    interval: tuple[Number, Number] | None


class Calibrated(Strict):
    """What a calibration that was fitted on val does to the choices of this score.

    calibration: its content hash. transferred: it was fitted on the val part of another dataset. n, without_p: choices
    with and without a probability. temperatures: of each type of question here. before: temperature 1; after:
    calibrated. change: after minus before, sample by sample.
    """

    calibration: Sha256
    transferred: bool = False
    n: int = Field(ge=0)
    without_p: int = Field(ge=0)
    temperatures: dict[str, Number]
    before: Quality
    after: Quality
    change: dict[Literal["brier", "log_loss"], Loss]
    thresholds: tuple[ThresholdOnTest, ...]
    abstention: tuple[AbstentionOnTest, ...]
    chance_corrected: ChanceCorrected
    notes: tuple[str, ...]


class Difference(Strict):
    """A number from -1 to 1, with its 95% interval over groups; None where it is undefined."""

    value: Annotated[Number, Field(ge=-1, le=1)] | None
    n: int = Field(ge=0)
    interval: tuple[Number, Number] | None = None


class JudgeRef(Strict):
    """Who judged, and how. identity: hash of the model's name and settings. prompt: name and version of the template.

    repeats: times each answer was judged in each order. swapped: also with the answer before the reference.
    calibration: of how many choices of known truth, at most, drawn with `seed`.
    """

    model: str = Field(min_length=1)
    identity: Sha256
    prompt: str = Field(pattern=r"^judge@[0-9]+$")
    prompt_sha256: Sha256
    repeats: int = Field(ge=1, le=99)
    swapped: bool
    calibration: int = Field(ge=0)
    seed: int = Field(ge=0, le=MAX_SEED)


class JudgeErrors(Strict):
    """A judge on answers whose truth the labels know. right, wrong: how many of them are; only graded ones count.

    sensitivity, specificity: right answers called correct, wrong ones not called so. agreement, kappa: with the truth.
    bias: share called correct less share that is right. verbosity: how much oftener longer answers are called correct
    than shorter ones of the same truth; None where they are equally long.
    """

    right: int = Field(ge=0)
    wrong: int = Field(ge=0)
    sensitivity: Estimate
    specificity: Estimate
    agreement: Estimate
    kappa: Difference
    bias: Difference
    verbosity: Difference | None = None


class CorrectedRate(Strict):
    """The rate of right answers behind the judge's (`agreement.corrected_rate`). by: the kind of answer on which its
    errors were measured. raw: before it was cut off at 0 and 1. why: what keeps it, or its interval, from being known.
    """

    value: Rate | None
    interval: Interval | None
    raw: Number | None = None
    by: Kind | None = None
    why: str = ""


Verdicts = dict[Literal["correct", "incorrect", "unclear", "ungraded"], Annotated[int, Field(ge=0)]]


class JudgedKind(Strict):
    """What a judge says of the answers of one kind: of choices, those that could not be parsed.

    strict, substring: of the same graded answers. judge: share called correct, of those graded. joint: the source lab's
    accuracy, substring or else judge; joint_both: both. strict_kappa, substring_kappa: of the judge with each.
    by_strict, by_substring: verdicts by strict grade, and by the substring check.
    """

    n: int = Field(ge=0)
    ungraded: int = Field(ge=0)
    strict: Estimate
    substring: Estimate | None
    judge: Estimate
    corrected: CorrectedRate
    joint: Estimate | None
    joint_both: Estimate | None
    strict_kappa: Difference
    substring_kappa: Difference | None
    by_strict: dict[Literal["right", "wrong", "unparsed"], Verdicts]
    by_substring: dict[Literal["true", "false"], Verdicts] | None


class JudgeMetrics(Strict):
    """A second opinion by a model; the headline is never made of it.

    judged: content hash of what it said. calls, failed: asked, and without a verdict. joint_accuracy: the source lab's,
    over all choices and open answers: the substring check or else the judge; a choice that was parsed is never judged.
    joint_both_accuracy: both. self_agreement: of two calls in the same order; position_agreement: of both orders;
    position_effect: share called correct with the reference first, less with the answer first.
    """

    ref: JudgeRef
    judged: Sha256
    calls: int = Field(ge=0)
    failed: int = Field(ge=0)
    kinds: dict[Kind, JudgedKind]
    errors: dict[Kind, JudgeErrors]
    joint_accuracy: Estimate
    joint_both_accuracy: Estimate
    self_agreement: Estimate | None = None
    position_agreement: Estimate | None = None
    position_effect: Difference | None = None


class ScoreInputs(Strict):
    """What was scored, by hash.

    predictions_sha256: of the prediction table as `infer` writes it: of FILE.csv where that comes from `infer`.
    predictions_content: content hash in FILE.manifest.json. data_content: content hash of the dataset. ontology: of
    the terms that were looked for in scene descriptions.
    """

    predictions_sha256: Sha256
    predictions_content: Sha256 | None
    data_content: Sha256 | None
    ontology: Sha256 | None


LATER = ("calibration", "judge")


class Metrics(Strict):
    """The whole of `score.json`.

    scored_sha256: of the table of graded answers, `scored.csv`. asked: how many questions of each kind the asked parts
    of the dataset hold, answered or not; None without a dataset. primary: the kind whose accuracy is the headline.
    metrics: over all kinds. calibration: where the score was made with one. judge: where one was asked.
    """

    schema_version: Literal[3] = 3
    inputs: ScoreInputs
    scored_sha256: Sha256
    seed: int = Field(ge=0, le=MAX_SEED)
    resamples: int = Field(ge=0, le=MAX_RESAMPLES)
    confidence: Rate
    n: int = Field(ge=0)
    asked: dict[Kind, Annotated[int, Field(ge=1)]] | None
    unparsed: int = Field(ge=0)
    groups: int = Field(ge=0)
    group_by: str
    primary: Kind
    metrics: dict[str, Estimate]
    kinds: dict[Kind, Block]
    calibration: Calibrated | None = None
    judge: JudgeMetrics | None = None
    notes: tuple[str, ...]

    @model_serializer(mode="wrap")
    def as_dict(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what a score lacks of what came later: older ones have no such fields."""
        data: dict[str, Any] = plain(self)
        return {key: value for key, value in data.items() if key not in LATER or value is not None}

    @model_validator(mode="after")
    def primary_is_there(self) -> Metrics:
        if self.primary not in self.kinds:
            raise ValueError(f"the primary kind {self.primary} has no answers")
        return self

    def coverage(self, kind: Kind) -> tuple[int, int]:
        """How many questions of a kind were answered, and how many were asked."""
        n = self.kinds[kind].n if kind in self.kinds else 0
        return n, n if self.asked is None else self.asked.get(kind, n)

    @property
    def complete(self) -> bool:
        """Whether every question that was asked has an answer."""
        return self.asked is None or sum(self.asked.values()) <= self.n
