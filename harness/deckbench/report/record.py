"""A record: what was measured, on what, from which inputs. The site is made from records alone.

A record is an artifact of kind `record`: `record.json` (schema below), `samples.csv.gz` (every prediction with what is
known of its sample) and at most 50 thumbnails. Times and the machine's momentary state are never in a hashed file: they
stand under `observed` in the record's manifest (schema `Observed`), so that the same answers make the same record.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
import math
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deckbench import artifact, hardware
from deckbench.errors import InputError
from deckbench.parse import narrow, parse_scene

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
ARTIFACT = "record"
RECORD = "record.json"
SAMPLES = "samples.csv.gz"
THUMBS = "thumbs"
MAX_THUMBS = 50
THUMB_WIDTH = 320
CURRICULA = ("base", "S1", "S1+S2", "S1+S2+S3")

# Columns of samples.csv.gz. `correct` is true or false; `thumbnail` is a path inside the record or empty; `p_a`, `p_b`,
# `p_anomaly` are probabilities or empty; the rest is text.
SAMPLE_COLUMNS = (
    "id",
    "pair_id",
    "frame",
    "group",
    "kind",
    "class",
    "step",
    "anomaly",
    "lang",
    "question",
    "option_a",
    "option_b",
    "gold",
    "prediction",
    "parsed",
    "correct",
    "p_a",
    "p_b",
    "p_anomaly",
    "tokens_in",
    "tokens_out",
    "thumbnail",
)
PREDICTION_COLUMNS = (
    "id",
    "pair_id",
    "kind",
    "question",
    "gold",
    "prediction",
    "parsed",
    "p_a",
    "p_b",
    "p_anomaly",
    "tokens_in",
    "tokens_out",
)

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
    """The machine, as `deckbench.hardware.describe` gives it."""

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


def slug(text: str) -> str:
    """Text that is safe as a folder name: lower case letters, digits, `.`, `_` and single `-`."""
    return re.sub(r"-+", "-", re.sub(r"[^a-z0-9._]+", "-", text.lower())).strip("-.") or "x"


def gzip_bytes(data: bytes) -> bytes:
    """gzip without a time or a name, so that the same bytes compress to the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=9) as file:
        file.write(data)
    return buffer.getvalue()


def read_table(path: Path, needed: Iterable[str]) -> pd.DataFrame:
    """A CSV as text columns (empty stays empty). Raises InputError when it is missing, damaged or lacks a column."""
    import pandas as pd

    if not path.is_file():
        raise InputError("not found", path, "make it again")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False, encoding="utf-8-sig")
    except (ValueError, OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as CSV ({type(error).__name__})", path, "make it again") from error
    if missing := [name for name in needed if name not in table.columns]:
        raise InputError(f"column {missing[0]} is missing", path, "make it again")
    return table


def join_samples(predictions: Path, data: Path) -> pd.DataFrame:
    """Predictions with what `data/samples.csv` knows of each sample: SAMPLE_COLUMNS and `image`, all text.

    Raises InputError when a file is missing or a prediction's id is unknown to the dataset.
    """
    said = read_table(predictions, PREDICTION_COLUMNS)
    known = read_table(data / "samples.csv", ("id", "frame", "group", "image"))
    if said["id"].duplicated().any():
        raise InputError(f"the id {said['id'][said['id'].duplicated()].iloc[0]!r} occurs twice", predictions)
    extra = [name for name in (*SAMPLE_COLUMNS, "image") if name not in said.columns and name in known.columns]
    joined = said.merge(known.drop_duplicates("id")[["id", *extra]], on="id", how="left", indicator=True)
    if (joined["_merge"] != "both").any():
        lost = joined.loc[joined["_merge"] != "both", "id"].iloc[0]
        raise InputError(
            f"the sample {lost!r} is not in the dataset",
            predictions,
            "give the dataset these predictions were made from",
        )
    for name in SAMPLE_COLUMNS:
        if name not in joined.columns:
            joined[name] = ""
    asked = joined[["kind", "gold", "prediction", "parsed", "anomaly"]]
    joined["correct"] = [is_correct(*row) for row in asked.itertuples(index=False, name=None)]
    table: pd.DataFrame = joined[[*SAMPLE_COLUMNS, "image"]]
    return table


def is_correct(kind: str, gold: str, prediction: str, parsed: str, anomaly: str) -> str:
    """`true` or `false`, by the rules of the scorer: the letter, the verdict of a scene, or the same words."""
    if kind == "choice":
        right = parsed == gold
    elif kind == "scene":
        truth = {"true": True, "false": False}.get(anomaly.lower(), parse_scene(gold))
        said = parse_scene(prediction)
        right = said is not None and said == truth
    else:
        right = bool(words(prediction)) and words(prediction) == words(gold)
    return "true" if right else "false"


def words(text: str) -> list[str]:
    """Words in lower case, punctuation dropped; every Chinese character is one word."""
    return re.findall(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+", narrow(text).casefold())


def pick_pictures(samples: pd.DataFrame, most: int = MAX_THUMBS) -> list[str]:
    """The pictures worth a thumbnail: those of wrong answers first, taken in turn from each class, then the rest."""
    chosen: dict[str, None] = {}
    for wanted in ("false", "true"):
        rows = samples[samples["correct"] == wanted]
        if rows.empty:
            continue
        turn = rows.groupby("class", sort=True).cumcount()
        for image in rows.assign(turn=turn).sort_values(["turn", "class", "id"], kind="stable")["image"]:
            if image:
                chosen.setdefault(image)
            if len(chosen) == most:
                return list(chosen)
    return list(chosen)


def thumbnail(source: Path) -> bytes:
    """A picture as JPEG, at most THUMB_WIDTH wide, EXIF turned and metadata dropped. Raises InputError."""
    from PIL import Image, ImageOps

    try:
        with Image.open(source) as picture:
            picture = ImageOps.exif_transpose(picture).convert("RGB")
            if picture.width > THUMB_WIDTH:
                height = max(1, round(picture.height * THUMB_WIDTH / picture.width))
                picture = picture.resize((THUMB_WIDTH, height), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=82, optimize=True)
    except (OSError, ValueError) as error:
        raise InputError(f"the picture cannot be read ({error})", source, "build the dataset again") from error
    return buffer.getvalue()


def csv_bytes(samples: pd.DataFrame) -> bytes:
    """SAMPLE_COLUMNS as CSV with `\\n` line ends."""
    text = samples[list(SAMPLE_COLUMNS)].to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    return str(text).encode()


def known_only(schema: type[BaseModel], value: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `value` that `schema` has: a scorer may say more than a record keeps."""
    return {key: value[key] for key in schema.model_fields if key in value}


def metrics_from(score: Mapping[str, Any]) -> Metrics:
    """Copy from score.json what a record keeps. Raises ValueError (pydantic's) or KeyError when it is not a score."""

    def slice_of(value: Mapping[str, Any]) -> dict[str, Any]:
        return {"n": value["n"], "unparsed": value["unparsed"], "metrics": metrics_of(value)}

    def metrics_of(value: Mapping[str, Any]) -> dict[str, Any]:
        return {name: known_only(Estimate, metric) for name, metric in value["metrics"].items()}

    blocks = {}
    for kind, block in score["kinds"].items():
        blocks[kind] = {**known_only(Block, block), "metrics": metrics_of(block)}
        for name in [name for name in Block.model_fields if name.startswith("by_")]:
            blocks[kind][name] = {row: slice_of(value) for row, value in (block.get(name) or {}).items()}
    return Metrics.model_validate({**known_only(Metrics, score), "kinds": blocks})


def percentiles(values: Iterable[float]) -> dict[str, float | None]:
    """p50, p90, p99 of times in seconds by nearest rank, and n; null where no measured value bounds the quantile.

    That takes 5, 29 and 299 values: the largest of n values lies above the p-quantile with 95% confidence when
    p to the power of n is at most 0.05.
    """
    ordered = sorted(values)
    n = len(ordered)
    found: dict[str, float | None] = {"n": n}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        found[name] = ordered[math.ceil(share * n) - 1] if n and share**n <= 0.05 else None
    return found


def latency_from_timings(path: Path, engine: str = "torch") -> dict[str, dict[str, Any]]:
    """Kind of answer -> `Latency`, from the times taken during inference (FILE.timings.csv).

    Questions asked together about a picture share its time, so a picture counts once; an answer's time is the sum of
    its stages. A kind with too few times for a median is left out. Raises InputError when the file is damaged.
    """
    table = read_table(path, ("id", "kind", "picture"))
    stages = [name for name in ("preprocess", "vision", "prefill", "decode") if f"{name}_s" in table.columns]
    asked: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for row in table.to_dict("records"):
            times = {name: float(row[f"{name}_s"]) for name in stages if row[f"{name}_s"]}
            first = row.get("first_token_s")
            whole = {**times, **({"first_token": float(first)} if first else {}), "answer": sum(times.values())}
            of_kind = asked.setdefault(row["kind"], {})
            if times and whole["answer"] > of_kind.get(row["picture"], {}).get("answer", -1.0):
                of_kind[row["picture"]] = whole
    except ValueError as error:
        raise InputError(f"a time is not a number ({error})", path, "run the inference again") from error
    found = {}
    for kind, pictures in asked.items():
        columns = {
            name: percentiles(times[name] for times in pictures.values() if name in times)
            for name in ("answer", "first_token", *stages)
        }
        if columns["answer"]["p50"] is not None:
            found[kind] = latency_of("timings", engine, columns, stages)
    return found


def latency_from_bench(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Kind of answer -> `Latency`, from `observed["results"]` of a bench. Raises KeyError when it is none."""
    memory = results["memory"]
    peak = memory.get("device_peak_bytes") or (memory.get("peak_bytes") if memory.get("peak_is_own") else None)
    found = {}
    for kind, entry in results["kinds"].items():
        columns = {"answer": entry["latency"], "first_token": entry["first_token"], **entry["stages"]}
        if entry["latency"]["p50"] is None:
            continue
        found[kind] = latency_of("bench", results["engine"], columns, list(entry["stages"]))
        found[kind] |= {"tokens_per_s": entry.get("tokens_per_s"), "peak_memory_bytes": peak}
    return found


def latency_of(source: str, engine: str, columns: Mapping[str, Any], stages: Iterable[str]) -> dict[str, Any]:
    """A `Latency` from percentiles by name; those without a median are left out."""
    kept = {
        name: {key: value[key] for key in ("p50", "p90", "p99", "n")}
        for name, value in columns.items()
        if value["p50"] is not None
    }
    phases = {name: kept[name] for name in stages if name in kept}
    return {
        "source": source,
        "engine": engine,
        "answer": kept["answer"],
        "first_token": kept.get("first_token"),
        "phases": phases,
    }


def write_record(
    out_root: Path,
    *,
    model: Mapping[str, Any] | Model,
    curriculum: str | None,
    task: str,
    stage: str | None,
    pool: Mapping[str, Any] | PoolRef,
    dataset: str,
    command: str,
    seed: int,
    inputs: Iterable[Mapping[str, Any] | Input] = (),
    score: Mapping[str, Any] | None = None,
    predictions: Path | None = None,
    data: Path | None = None,
    latency: Mapping[str, Any] | None = None,
    bench: Mapping[str, Any] | None = None,
    audit: Mapping[str, Any] | None = None,
    container: Mapping[str, Any] | None = None,
    device: str = "cpu",
    emulated: bool = False,
    machine: Mapping[str, Any] | None = None,
    packages: Mapping[str, str] | None = None,
) -> Path:
    """Write `out_root/<name>/` and return it. The name ends in 8 digits of the content's hash.

    The same record written again is left as it is, unless only now a bench has measured its times. score: the content
    of score.json. predictions, data: the predictions CSV and the dataset folder they answer (both or neither). bench:
    `observed["results"]` of a bench; times come from it, else from `latency` (kind of answer -> `Latency`), else from
    FILE.timings.csv beside the predictions, and are
    kept unhashed. machine, packages: default, of this machine.
    Raises InputError when a field or a file is wrong.
    """
    if (predictions is None) != (data is None):
        raise InputError("a record needs both the predictions and their dataset, or neither", predictions or data)
    samples = join_samples(predictions, data) if predictions is not None and data is not None else None
    pictures: dict[str, bytes] = {}
    if samples is not None and data is not None:
        places = {}
        for number, image in enumerate(pick_pictures(samples)):
            places[image] = f"{THUMBS}/{number:02d}.jpg"
            pictures[places[image]] = thumbnail(artifact.inside(data, image, data / "samples.csv"))
        samples["thumbnail"] = [places.get(image, "") for image in samples["image"]]
    table = None if samples is None else csv_bytes(samples)
    try:
        metrics = None if score is None else metrics_from(score).model_dump(mode="json")
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"the score cannot be read: {error}", "score.json", "run `deckbench score` again") from error
    record = parse(
        Record,
        {
            "schema": SCHEMA,
            "model": plain(model),
            "curriculum": curriculum,
            "task": task,
            "stage": stage,
            "pool": plain(pool),
            "dataset": dataset,
            "inputs": [plain(entry) for entry in inputs],
            "metrics": metrics,
            "samples": None if table is None else hashlib.sha256(table).hexdigest(),
            "audit": audit,
            "hardware": dict(machine or hardware.describe(device=device, emulated=emulated)),
            "packages": dict(packages if packages is not None else hardware.packages()),
            "container": container,
            "seed": seed,
            "command": command,
        },
        "the record",
    )
    body = record.model_dump(mode="json", by_alias=True)
    if bench is not None or latency is None:
        latency = find_times(bench, predictions)
    observed = observe(latency=latency, bench=bench)
    parts = (record.pool.name, record.pool.words, record.task, record.model.name, record.curriculum or "baseline")
    out = out_root / f"{'-'.join(slug(part)[:40] for part in parts)}-{artifact.hash_json(body)[:8]}"
    if (out / artifact.MANIFEST).is_file():
        older = artifact.read(out, ARTIFACT, verify=True)
        if bench is None or older.observed.get("bench") is not None:
            return out
    with (
        aside(out),
        artifact.writing(
            out, ARTIFACT, inputs={entry.name: entry.sha256 for entry in record.inputs}, seed=seed
        ) as draft,
    ):
        artifact.atomic_write(draft.path / RECORD, dump(body))
        if table is not None:
            (draft.path / SAMPLES).write_bytes(gzip_bytes(table))
        for name, data_bytes in pictures.items():
            (draft.path / name).parent.mkdir(exist_ok=True)
            (draft.path / name).write_bytes(data_bytes)
        draft.observed.update(observed)
    return out


@contextlib.contextmanager
def aside(out: Path) -> Iterator[None]:
    """Keep an older record hidden beside `out` while it is written anew; it comes back when that fails."""
    if not (out / artifact.MANIFEST).is_file():
        yield
        return
    old = out.with_name(f".{out.name}.{secrets.token_hex(4)}.old")
    out.rename(old)
    try:
        yield
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def plain(value: Mapping[str, Any] | BaseModel) -> dict[str, Any]:
    """A dict from either a dict or one of the schemas above."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else dict(value)


def dump(value: Any) -> str:
    """JSON for people: indented, keys in the order given, one line end at the end."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def find_times(bench: Mapping[str, Any] | None, predictions: Path | None) -> dict[str, dict[str, Any]]:
    """Kind of answer -> `Latency`: what a bench measured, else what lies beside the predictions. Raises InputError."""
    found: dict[str, dict[str, Any]] = {}
    if predictions is not None:
        timings = predictions.with_name(f"{predictions.stem}.timings.csv")
        found = latency_from_timings(timings) if timings.is_file() else {}
    if bench is not None:
        try:
            found |= latency_from_bench(bench)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"the bench results cannot be read: {error!r}", "bench", "bench again") from error
    return found


def observe(
    *, latency: Mapping[str, Any], bench: Mapping[str, Any] | None, written: str | None = None
) -> dict[str, Any]:
    """The `observed` part: times, momentary machine state, when it was written (UTC), and a hash over these."""
    found = {
        "written": written or datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "latency": {
            kind: parse(Latency, value, f"the latency of {kind}").model_dump(mode="json")
            for kind, value in latency.items()
        },
        "state": hardware.state(),
        "bench": None if bench is None else dict(bench),
    }
    return {**found, "sha256": artifact.hash_json(found)}
