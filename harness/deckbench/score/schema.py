"""What `score.json` holds. The page, the gates and the records read this and nothing else."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

SCHEMA = 1
DIGITS = 10

Number = Annotated[float, AfterValidator(lambda x: round(x, DIGITS) + 0.0)]  # + 0.0: no "-0.0"
Bounds = tuple[Number, Number]


class Strict(BaseModel):
    """No unknown fields."""

    model_config = ConfigDict(extra="forbid")


class Metric(Strict):
    """One number with its intervals (95%).

    value: None when it is not defined (no sample of a needed kind). n: the denominator. k: the numerator of a
    proportion, else None. wilson: treats samples as independent, only for proportions. cluster: resamples groups,
    None with fewer than two.
    """

    value: Number | None
    n: int
    k: int | None = None
    wilson: Bounds | None = None
    cluster: Bounds | None = None


class Slice(Strict):
    """A part of the samples: one class, one anomaly, one step."""

    n: int
    unparsed: int
    metrics: dict[str, Metric]


class Confusion(Strict):
    """Verdicts: counts of samples. The six add up to the samples whose truth is anomaly or normal."""

    anomaly_as_anomaly: int
    anomaly_as_normal: int
    anomaly_unparsed: int
    normal_as_normal: int
    normal_as_anomaly: int
    normal_unparsed: int


class Operating(Strict):
    """The threshold on p_anomaly that keeps the false-stop rate at or below what is allowed."""

    allowed_false_stop_rate: Number
    threshold: Number | None  # stop when p_anomaly >= threshold; None: never stop
    false_stop_rate: Number
    miss_rate: Number


class Bin(Strict):
    """One bar of the reliability picture: stated probability against what was true."""

    low: Number
    high: Number
    n: int
    stated: Number | None
    true: Number | None


class Block(Slice):
    """All samples of one kind (choice, open or scene)."""

    by_class: dict[str, Slice]
    by_anomaly: dict[str, Slice]
    by_step: dict[str, Slice]
    by_stage: dict[str, Slice]
    by_lang: dict[str, Slice]
    by_question: dict[str, Slice]
    confusion: Confusion | None = None
    roc: list[tuple[Number, Number]] | None = None  # (false-stop rate, hit rate), at most 201 points
    operating: Operating | None = None
    reliability: list[Bin] | None = None


class Inputs(Strict):
    """What was scored, by hash."""

    predictions_sha256: str
    predictions_content: str | None  # content hash of FILE.manifest.json
    data_content: str | None  # content hash of the dataset
    ontology: str | None  # content hash of the ontology whose terms were looked for in scene texts


class Score(Strict):
    """The whole of `score.json`."""

    schema_version: int = SCHEMA
    inputs: Inputs
    seed: int
    resamples: int
    confidence: Number
    n: int
    unparsed: int
    groups: int
    group_by: str  # "group", or what stands for it
    primary: str  # the kind whose accuracy is the headline
    metrics: dict[str, Metric]  # over all kinds
    kinds: dict[str, Block]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types, keys in the order of the schema."""
        return self.model_dump(mode="json")
