"""A record: what was measured, on what, from which inputs. The site is made from records alone.

A record is an artifact of kind `record`: `record.json` (schema below), `samples.csv.gz` (every prediction with what
is known of its sample), `questions.jsonl.gz` (the dataset's test part), `lineage.json.gz` (the manifests of all it was
made from), `ontology.json` where scene descriptions were scored with one, `calibration.json` where it was scored with a
calibration, `judged.json` where a judge was asked, and at most 50 thumbnails. Times and the machine's momentary state
are never in a hashed file: they stand under `observed` in the record's manifest (schema `Observed`), so that the same
answers make the same record. Beside the manifest stands `statement.json`, an in-toto
statement over all these files, and `signature.json` where someone signed it.

Here are the schemas; `write.py` makes records, `read.py` reads them back, `recompute.py` proves their metrics,
`lineage.py` everything else.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from deckbench.artifact import MAX_SEED
from deckbench.errors import InputError
from deckbench.grade import Kind
from deckbench.record.metrics_schema import Metrics, Sha256, Strict
from deckbench.yolo.credit import Credit

SCHEMA = 3
ARTIFACT = "record"
RECORD = "record.json"
SAMPLES = "samples.csv.gz"
QUESTIONS = "questions.jsonl.gz"
LINEAGE = "lineage.json.gz"
MAX_SAMPLE_BYTES = 64 << 20  # of each of the three, unpacked
ONTOLOGY = "ontology.json"
CALIBRATION = "calibration.json"
JUDGED = "judged.json"
STATEMENT = "statement.json"
SIGNATURE = "signature.json"
THUMBS = "thumbs"
MAX_THUMBS = 50
MAX_THUMB_BYTES = 1 << 20
BASELINES = ("majority", "nearest", "rule", "cnn")  # what has no language model, by the name before the colon
CURRICULA = ("base", "S1", "S1+S2", "S1+S2+S3")

CLOCKS_DIFFER = timedelta(days=1)
FIRST_DAY = datetime(2025, 1, 1, tzinfo=timezone.utc)
MAX_INTEGER = 2**53 - 1  # what every JSON reader keeps exactly

M = TypeVar("M", bound=BaseModel)


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
    default: the name. credit: whom the pictures come from.
    """

    name: str = Field(min_length=1)
    hash: Sha256
    synthetic: bool
    part: Literal["same distribution", "shifted"] = "same distribution"
    condition: str = Field(default="", max_length=60)
    board: str = ""
    credit: Credit | None = None

    @model_serializer(mode="wrap")
    def as_dict(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a credit where there is none: older records have no such field."""
        data: dict[str, Any] = plain(self)
        return {key: value for key, value in data.items() if key != "credit" or value is not None}

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
    memory_bytes: int | None = Field(default=None, ge=0, le=MAX_INTEGER)
    driver: str | None = None


class Hardware(Strict):
    """The machine, as `deckbench.machine.hardware.describe` gives it."""

    device: str
    cpu: str
    architecture: str
    capability: str
    cores: int = Field(ge=0, le=1 << 20)
    threads: int = Field(ge=0, le=1 << 20)
    memory_bytes: int | None = Field(default=None, ge=0, le=MAX_INTEGER)
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
    """`record.json`. metrics: the content of score.json; null as `samples` is where only times were measured.

    samples: sha256 of the unpacked samples.csv.gz. questions, lineage: of the unpacked files of these names. ontology:
    of ontology.json, where scene descriptions were scored. calibration, judged: content hashes of calibration.json and
    judged.json.
    """

    schema_version: Literal[3] = Field(default=3, alias="schema")
    model: Model
    curriculum: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]*$")] | None
    task: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*@[0-9]+(\+[0-9a-f]{8})?$")
    stage: Literal["S1", "S2", "S3"] | None = None
    pool: PoolRef
    dataset: Sha256
    inputs: tuple[Input, ...]
    metrics: Metrics | None
    samples: Sha256 | None
    questions: Sha256
    lineage: Sha256
    ontology: Sha256 | None = None
    calibration: Sha256 | None = None
    judged: Sha256 | None = None
    audit: Audit | None = None
    hardware: Hardware
    packages: dict[str, str]
    container: Container | None
    seed: int = Field(ge=0, le=MAX_SEED)
    command: str = Field(min_length=1)

    @model_serializer(mode="wrap")
    def as_dict(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what it lacks of what came later: older records have no such fields."""
        data: dict[str, Any] = plain(self)
        return {key: value for key, value in data.items() if key not in {"calibration", "judged"} or value is not None}

    @model_validator(mode="after")
    def metrics_rest_on_samples(self) -> Record:
        if (self.metrics is None) != (self.samples is None):
            raise ValueError("metrics without samples prove nothing: a record has both or neither")
        if self.ontology != (self.metrics.inputs.ontology if self.metrics else None):
            raise ValueError("the ontology is not the one that was scored with")
        calibrated = self.metrics.calibration if self.metrics else None
        if self.calibration != (calibrated.calibration if calibrated else None):
            raise ValueError("the calibration is not the one that was scored with")
        judge = self.metrics.judge if self.metrics else None
        if self.judged != (judge.judged if judge else None):
            raise ValueError("what the judge said is not what was scored")
        return self


def check_date(text: str) -> str:
    """A moment in UTC, as `2026-11-30T09:18:55Z`. Raises ValueError for another form, or a day that is not yet."""
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no date like 2026-11-30T09:18:55Z") from None
    if moment > datetime.now(timezone.utc) + CLOCKS_DIFFER:
        raise ValueError(f"{text} has not come yet")
    if moment < FIRST_DAY:
        raise ValueError(f"{text} is before the first record there can be")
    return text


class Percentiles(Strict):
    """Times of one phase in seconds over `n` measurements; p90 and p99 are null where n cannot support them."""

    p50: float = Field(ge=0)
    p90: float | None = Field(default=None, ge=0)
    p99: float | None = Field(default=None, ge=0)
    n: int = Field(ge=1, le=MAX_INTEGER)

    @model_validator(mode="after")
    def in_order(self) -> Percentiles:
        known = [value for value in (self.p50, self.p90, self.p99) if value is not None]
        if known != sorted(known):
            raise ValueError("a percentile is below a lower one")
        return self


class Latency(Strict):
    """How long an answer takes, in seconds. source: `bench` (alone, after warm-up) or `timings` (during inference).

    schedule: the run of `bench` it comes from, in which several models took turns. disturbances: why it cannot be
    compared with others (`machine.conditions`); null where nobody looked.
    """

    source: Literal["bench", "timings"]
    engine: str
    answer: Percentiles
    first_token: Percentiles | None = None
    phases: dict[str, Percentiles] = Field(default_factory=dict)
    tokens_per_s: float | None = Field(default=None, ge=0)
    peak_memory_bytes: int | None = Field(default=None, ge=0, le=MAX_INTEGER)
    schedule: str | None = None
    disturbances: tuple[str, ...] | None = None

    @property
    def incomparable(self) -> str:
        """Why it is not ranked with others, or nothing: it was measured alone, and nothing disturbed it."""
        if self.source != "bench":
            return "taken during inference"
        if self.disturbances is None:
            return "nothing says what the machine did meanwhile"
        return "; ".join(self.disturbances)


class Observed(Strict):
    """The `observed` part of a record's manifest: not hashed with the content; `sha256` guards it against slips.

    latency: by kind of answer, since a verdict of one token and a description take different times.
    """

    written: Annotated[str, AfterValidator(check_date)]
    latency: dict[Kind, Latency] = Field(default_factory=dict)
    state: dict[str, Any] = Field(default_factory=dict)
    bench: dict[str, Any] | None = None
    sha256: str


def parse(schema: type[M], value: Any, where: str | Path) -> M:
    """Validate `value`; raises InputError naming the file and the first field that is wrong."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        unknown = [fault for fault in error.errors(include_url=False) if fault["type"] == "extra_forbidden"]
        first = unknown[0] if unknown else error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        what = f"unknown field {field}" if unknown else f"field {field}: {first['msg']}"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InputError(what + more, where, "see docs/records.md for the fields of a record") from error


def shown(value: Any) -> str:
    """A value in a message: long ones are cut."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
