"""A record: what was measured, on what, from which inputs. The site is made from records alone.

A record is an artifact of kind `record`: `record.json` (schema below), `samples.csv.gz` (every prediction with what is
known of its sample) and at most 50 thumbnails. Times and the machine's momentary state are never in a hashed file: they
stand under `observed` in the record's manifest (schema `Observed`), so that the same answers make the same record.

Here are the schemas; `write.py` makes records, `load.py` reads them back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deckbench.errors import InputError

SCHEMA = 1
ARTIFACT = "record"
RECORD = "record.json"
SAMPLES = "samples.csv.gz"
CURRICULA = ("base", "S1", "S1+S2", "S1+S2+S3")

Sha256 = Annotated[str, Field(pattern=r"^(sha256:)?[0-9a-f]{64}$")]
Interval = tuple[float, float]
Kind = Literal["choice", "open", "scene"]
M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """Refuses unknown fields, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, protected_namespaces=())


class Estimate(Strict):
    """A measured number: never alone, always with what it rests on and its 95% intervals.

    value: a rate, a mean or an area in 0..1; None when nothing could be counted. n: the denominator. k: the numerator
    of a share. wilson: interval as if answers were independent. cluster: bootstrap interval over groups, since answers
    about one robot session succeed and fail together.
    """

    value: float | None
    n: int = Field(ge=0)
    k: int | None = None
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
    """Counts of verdicts, truth first."""

    anomaly_as_anomaly: int
    anomaly_as_normal: int
    anomaly_unparsed: int
    normal_as_normal: int
    normal_as_anomaly: int
    normal_unparsed: int


class Operating(Strict):
    """The threshold on P(anomaly) that keeps false stops at or below what is allowed."""

    allowed_false_stop_rate: float
    threshold: float | None
    false_stop_rate: float
    miss_rate: float


class Bin(Strict):
    """One bar of the reliability picture: stated probability against how often it was true."""

    low: float
    high: float
    n: int
    stated: float | None
    true: float | None


class Block(Slice):
    """All answers of one kind, as score.json holds them."""

    by_class: dict[str, Slice] = Field(default_factory=dict)
    by_anomaly: dict[str, Slice] = Field(default_factory=dict)
    by_step: dict[str, Slice] = Field(default_factory=dict)
    by_stage: dict[str, Slice] = Field(default_factory=dict)
    by_lang: dict[str, Slice] = Field(default_factory=dict)
    by_question: dict[str, Slice] = Field(default_factory=dict)
    confusion: Confusion | None = None
    roc: tuple[tuple[float, float], ...] | None = None
    operating: Operating | None = None
    reliability: tuple[Bin, ...] | None = None


class Metrics(Strict):
    """What `score` measured, copied from score.json. `primary` is the kind whose accuracy is the headline."""

    n: int = Field(ge=0)
    unparsed: int = Field(ge=0)
    groups: int = Field(ge=0)
    group_by: str = "group"
    confidence: float = 0.95
    resamples: int = 0
    seed: int = 0
    primary: Kind
    kinds: dict[Kind, Block]
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def primary_is_there(self) -> Metrics:
        if self.primary not in self.kinds:
            raise ValueError(f"the primary kind {self.primary} has no answers")
        return self


class Model(Strict):
    """Who answered. `identity` holds hashes (weights, tokenizer, adapter), never paths."""

    name: str = Field(min_length=1)
    family: str
    kind: Literal["model", "baseline"] = "model"
    weights: Literal["trained", "random", "none"] = "trained"
    identity: dict[str, str] = Field(default_factory=dict)


class PoolRef(Strict):
    """The frames the questions are about.

    part: are they like the frames of training? condition: the same in words of your own, shown on the page; default:
    the part. board: the heading under which results on this pool stand together with those on its other conditions;
    default: the name.
    """

    name: str = Field(min_length=1)
    hash: Sha256
    synthetic: bool
    part: Literal["same distribution", "shifted"] = "same distribution"
    condition: str = Field(default="", max_length=60)
    board: str = ""

    @property
    def heading(self) -> str:
        """The board's name."""
        return self.board or self.name

    @property
    def words(self) -> str:
        """The condition as it is shown."""
        return self.condition or self.part


class Input(Strict):
    """One thing the result was made from: its sha256, and the command that makes it or the address it comes from."""

    name: str
    kind: str
    sha256: Sha256
    source: str


class Accelerator(Strict):
    name: str
    memory_bytes: int | None = None
    driver: str | None = None


class Hardware(Strict):
    """The machine, as `deckbench.machine.hardware.describe` gives it."""

    device: str
    cpu: str
    architecture: str
    capability: str
    cores: int
    threads: int
    memory_bytes: int | None = None
    os: str
    kernel: str = ""
    python: str = ""
    accelerators: tuple[Accelerator, ...] = ()
    emulated: bool = False


class Container(Strict):
    """The container image a step ran in: its name, DeckBench's identity hash of it, and whether it was built from
    locks alone. An image that is not locked is for trying: what stands in it is not known to anyone else."""

    name: str
    identity: Sha256
    locked: bool = False


class Audit(Strict):
    """What the leakage and shortcut audit of the dataset said."""

    passed: bool
    source: str = ""


class Record(Strict):
    """`record.json`. `metrics` and `samples` are null for a record that holds only times."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    model: Model
    curriculum: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]*$")] | None
    task: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*@[0-9]+(\+[0-9a-f]{8})?$")
    stage: Literal["S1", "S2", "S3"] | None = None
    pool: PoolRef
    dataset: Sha256
    inputs: tuple[Input, ...]
    metrics: Metrics | None
    samples: Sha256 | None
    audit: Audit | None = None
    hardware: Hardware
    packages: dict[str, str]
    container: Container | None
    seed: int
    command: str = Field(min_length=1)


class Percentiles(Strict):
    """Times of one phase in seconds over `n` measurements; p90 and p99 are null where n cannot support them."""

    p50: float = Field(ge=0)
    p90: float | None = Field(default=None, ge=0)
    p99: float | None = Field(default=None, ge=0)
    n: int = Field(ge=1)


class Latency(Strict):
    """How long an answer takes, in seconds. source: `bench` (alone, after warm-up) or `timings` (during inference)."""

    source: Literal["bench", "timings"]
    engine: str
    answer: Percentiles
    first_token: Percentiles | None = None
    phases: dict[str, Percentiles] = Field(default_factory=dict)
    tokens_per_s: float | None = None
    peak_memory_bytes: int | None = None


class Observed(Strict):
    """The `observed` part of a record's manifest: not hashed with the content; `sha256` guards it against slips.

    latency: by kind of answer, since a verdict of one token and a description take different times.
    """

    written: str
    latency: dict[Kind, Latency] = Field(default_factory=dict)
    state: dict[str, Any] = Field(default_factory=dict)
    bench: dict[str, Any] | None = None
    sha256: str


def parse(schema: type[M], value: Any, where: str | Path) -> M:
    """Validate `value`; raises InputError naming the file and the first field that is wrong."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InputError(
            f"field {field}: {first['msg']}{more}", where, "see docs/records.md for the fields of a record"
        ) from error
