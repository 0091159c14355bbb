"""A record: what was measured, on what, from which inputs. The site is made from records alone.

A record is an artifact of kind `record`: `record.json` (schema below), `samples.csv.gz` (every prediction with what
is known of its sample), `ontology.json` where scene descriptions were scored with one, and at most 50 thumbnails.
Times and the machine's momentary state are never in a hashed file: they stand under `observed` in the record's manifest
(schema `Observed`), so that the same answers make the same record.

Here are the schemas; `write.py` makes records, `read.py` reads them back, `recompute.py` proves their metrics.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from deckbench.errors import InputError
from deckbench.grade import Kind
from deckbench.record.metrics_schema import Metrics, Sha256, Strict

SCHEMA = 2
ARTIFACT = "record"
RECORD = "record.json"
SAMPLES = "samples.csv.gz"
MAX_SAMPLE_BYTES = 64 << 20  # unpacked
ONTOLOGY = "ontology.json"
BASELINES = ("majority", "nearest", "rule")  # what has no network, by the name before the colon
CURRICULA = ("base", "S1", "S1+S2", "S1+S2+S3")

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
    """`record.json`. metrics: the content of score.json; null as `samples` is where only times were measured.

    samples: sha256 of the unpacked samples.csv.gz. ontology: of ontology.json, where scene descriptions were scored.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    model: Model
    curriculum: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]*$")] | None
    task: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*@[0-9]+(\+[0-9a-f]{8})?$")
    stage: Literal["S1", "S2", "S3"] | None = None
    pool: PoolRef
    dataset: Sha256
    inputs: tuple[Input, ...]
    metrics: Metrics | None
    samples: Sha256 | None
    ontology: Sha256 | None = None
    audit: Audit | None = None
    hardware: Hardware
    packages: dict[str, str]
    container: Container | None
    seed: int
    command: str = Field(min_length=1)

    @model_validator(mode="after")
    def metrics_rest_on_samples(self) -> Record:
        if (self.metrics is None) != (self.samples is None):
            raise ValueError("metrics without samples prove nothing: a record has both or neither")
        if self.ontology != (self.metrics.inputs.ontology if self.metrics else None):
            raise ValueError("the ontology is not the one that was scored with")
        return self


class Percentiles(Strict):
    """Times of one phase in seconds over `n` measurements; p90 and p99 are null where n cannot support them."""

    p50: float = Field(ge=0)
    p90: float | None = Field(default=None, ge=0)
    p99: float | None = Field(default=None, ge=0)
    n: int = Field(ge=1)


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
    tokens_per_s: float | None = None
    peak_memory_bytes: int | None = None
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
        unknown = [fault for fault in error.errors(include_url=False) if fault["type"] == "extra_forbidden"]
        first = unknown[0] if unknown else error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        what = f"unknown field {field}" if unknown else f"field {field}: {first['msg']}"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InputError(what + more, where, "see docs/records.md for the fields of a record") from error
