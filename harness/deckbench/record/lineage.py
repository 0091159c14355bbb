"""What a record was made from: the manifests of dataset, adapters, predictions and audit, and the suite's text.

A record carries them (`lineage.json.gz`), so every hash in it can be computed again: the adapter's is in the manifest
of the predictions, the dataset's in those of adapter and predictions, the hash of each image and of the test part in
the dataset's. Whoever changes one of them has to change them all, and then it is another dataset or another adapter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.predictions import CONTENT_NAME, PredictionFiles, read_manifest
from deckbench.record.facts import (
    SERVER,
    bench_command,
    model_facts,
    part_of,
    score_command,
    suite_command,
)
from deckbench.record.metrics_schema import Strict
from deckbench.record.schema import Hardware, Record, shown
from deckbench.suite import NAMED_TASK, DataSpec, Suite
from deckbench.task import load_task, published
from deckbench.yamlfile import parse as parse_yaml

TEST = "test.jsonl"
MAX_LINEAGE_BYTES = 24 << 20  # unpacked
MAX_SUITE = 1 << 20


class AuditResult(Strict):
    """The audit of the dataset: content of its manifest, and audit.json as it stands."""

    content: dict[str, Any]
    text: str = Field(max_length=1 << 20)


class SuiteRow(Strict):
    """The row of a suite that a record is: the suite's text, how it was called, MODEL:CURRICULUM:DATA."""

    text: str = Field(max_length=MAX_SUITE)
    source: str
    label: str


class Lineage(Strict):
    """`lineage.json.gz`. dataset, predictions, bench, adapters: `content` of their manifests, the last adapter first.

    answered: hardware, packages and container that the manifest of the answers names. curriculum, condition, ontology:
    what was said with `score --record` and is in no manifest; ontology: one was given.
    """

    dataset: dict[str, Any]
    predictions: dict[str, Any] | None = None
    bench: dict[str, Any] | None = None
    adapters: tuple[dict[str, Any], ...] = Field(default=(), max_length=32)
    audit: AuditResult | None = None
    suite: SuiteRow | None = None
    answered: dict[str, Any] = Field(default_factory=dict)
    curriculum: str | None = None
    condition: str | None = None
    ontology: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of the model that answered."""
        content = self.predictions or self.bench or {}
        found: dict[str, Any] = content["inputs"]["model"]
        return found

    @property
    def left_out(self) -> list[str] | None:
        """The questions that a server left without an answer; None where the model is no server."""
        served = (self.predictions or {}).get("endpoint")
        return None if served is None else [str(key) for key in served.get("unanswered", [])]


def trace(
    data: Path,
    *,
    predictions: Path | None = None,
    bench: artifact.Manifest | None = None,
    adapters: Sequence[Path] = (),
    audit: Path | None = None,
    suite: tuple[Path, str, str] | None = None,
    curriculum: str | None = None,
    condition: str | None = None,
    ontology: bool = False,
) -> Lineage:
    """Collect the manifests.

    Args:
        data: the dataset's folder.
        predictions: FILE.csv, made by `infer`; else bench, the manifest of a bench.
        adapters: folders of the adapter and of those it continues, the last first.
        audit: folder of the dataset's audit.
        suite: its file, how it was called, and the row's label.
        curriculum, condition, ontology: as `Lineage`.

    Returns:
        The lineage.

    Raises:
        InputError: a manifest is missing or damaged.
    """
    content: dict[str, Any] | None = None
    observed: dict[str, Any] = {}
    if predictions is not None:
        manifest = read_manifest(predictions)
        if manifest is None:
            what = "no manifest says what made these predictions; a record needs it"
            raise InputError(what, PredictionFiles(predictions).manifest, "make them with `deckbench infer`")
        content, observed = manifest["content"], manifest.get("observed") or {}
    elif bench is not None:
        observed = bench.observed["results"]
    row = None
    if suite is not None:
        file, source, label = suite
        row = SuiteRow(text=file.read_bytes().decode("utf-8"), source=source, label=label)
    result = None
    if audit is not None:
        found = artifact.read(audit, "audit", verify=True)
        result = AuditResult(content=found.content, text=(audit / "audit.json").read_text(encoding="utf-8"))
    return Lineage(
        dataset=artifact.read(data, "dataset").content,
        predictions=content,
        bench=None if bench is None or predictions is not None else bench.content,
        adapters=tuple(artifact.read(folder, "adapter").content for folder in adapters),
        audit=result,
        suite=row,
        answered={name: observed.get(name) for name in ("hardware", "packages", "container")},
        curriculum=curriculum,
        condition=condition,
        ontology=ontology,
    )


class Claim(NamedTuple):
    """What a record says in one place, and what it is made from gives for it."""

    name: str
    told: Any
    given: Any
    source: str


def contradictions(record: Record, lineage: Lineage) -> list[str]:
    """What a record says that it does not have from its lineage, and hashes of the lineage that do not meet."""
    try:
        claims = list(claims_of(record, lineage))
    except InputError as error:
        return [f"its lineage cannot be followed: {error.what.splitlines()[0]}"]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        return [f"its lineage cannot be followed ({type(error).__name__})"]
    found = [
        f"{claim.name} is {shown(claim.told)}, {claim.source} gives {shown(claim.given)}"
        for claim in claims
        if claim.told != claim.given
    ]
    return [*found, *implausible(record.hardware, record.packages)]


def claims_of(record: Record, lineage: Lineage) -> Iterator[Claim]:
    """Every claim of a record that its lineage decides. Raises as what reads broken manifests does."""
    yield from dataset_claims(record, lineage)
    yield from model_claims(record, lineage)
    if lineage.predictions is not None:
        yield from answer_claims(record, lineage.predictions)
    elif lineage.bench is not None:
        yield Claim("the benched dataset", lineage.bench["inputs"]["data"], plain(record.dataset), "the record")
    yield Claim("metrics", record.metrics is not None, lineage.predictions is not None, "the lineage")
    yield from adapter_claims(record, lineage)
    yield from audit_claims(record, lineage)
    if lineage.suite is not None:
        yield from suite_claims(record, lineage, lineage.suite)
    yield from input_claims(record, lineage)
    yield Claim("the command", record.command, command_of(record, lineage), "the lineage")
    machine = SERVER if lineage.left_out is not None else lineage.answered.get("hardware")
    if machine is not None:
        yield Claim("the machine", record.hardware, Hardware.model_validate(machine), "what answered")
    if (packages := lineage.answered.get("packages")) is not None:
        yield Claim("the packages", record.packages, packages, "what answered")
    container = None if record.container is None else record.container.model_dump(mode="json")
    yield Claim("the container", container, lineage.answered.get("container"), "what answered")


def dataset_claims(record: Record, lineage: Lineage) -> Iterator[Claim]:
    """Task, stage, pool and questions, from the dataset's manifest."""
    content, source = lineage.dataset, "the dataset's manifest"
    params, inputs = content["params"], content["inputs"]
    yield Claim("the dataset", plain(record.dataset), artifact.hash_json(content), source)
    yield Claim("the kind of dataset", content["kind"], "dataset", "a record")
    yield Claim("the task", record.task, params["task"], source)
    yield Claim("the stage", record.stage, params.get("stage"), source)
    yield Claim("the pool's hash", plain(record.pool.hash), plain(inputs["pool"]), source)
    yield Claim("the pool is synthetic", record.pool.synthetic, bool(params["synthetic"]), source)
    yield Claim("the questions", plain(record.questions), content["files"][TEST]["sha256"], source)
    credit = None if record.pool.credit is None else record.pool.credit.model_dump(mode="json", exclude_none=True)
    yield Claim("the pool's credit", credit, params.get("credit"), source)
    if (definition := published_hash(record.task)) is not None:
        yield Claim("the definition of the task", inputs["task"], definition, "the published task")
    part = part_of(str(params.get("split")), record.pool.words)
    yield Claim("the pool's part", record.pool.part, part, "the condition")


@lru_cache(maxsize=64)
def published_hash(task: str) -> str | None:
    """Content hash of a published task, which never changes; None of another one."""
    return load_task(task).content_hash if task in published() else None


def model_claims(record: Record, lineage: Lineage) -> Iterator[Claim]:
    """The model and its curriculum, from the manifest of what answered."""
    curriculum, name = lineage.curriculum, None
    if lineage.suite is not None:
        ref, curriculum, _ = row_of(lineage.suite)
        name = ref if lineage.left_out is None else None
        known = str(lineage.identity.get("name") or "")
        named = any(ref == other for other, _ in suite_of(lineage.suite.text).rows)
        # Of a folder the identity has its last part.
        if known and named and lineage.left_out is None and "/" not in ref:
            yield Claim("the suite's model", ref, known, "the manifest of the answers")
    facts = model_facts(lineage.identity, curriculum, name)
    told = record.model.model_dump(mode="json")
    for key, given in facts["model"].items():
        yield Claim(f"the model's {key}", told[key], given, "the manifest of the answers")
    yield Claim("the curriculum", record.curriculum, facts["curriculum"], "the lineage")


def answer_claims(record: Record, content: Mapping[str, Any]) -> Iterator[Claim]:
    """What was scored, and on what, from the manifest of the predictions."""
    source = "the manifest of the predictions"
    yield Claim("the kind of predictions", content["kind"], "predictions", "a record")
    yield Claim("the dataset", plain(record.dataset), plain(content["inputs"]["data"]), source)
    whole = {"split": "test", "limit": None, "shard": None}
    yield Claim("the part that was asked", {key: content["params"].get(key) for key in whole}, whole, "a record")
    if record.metrics is not None:
        scored = record.metrics.inputs
        yield Claim("the scored predictions", plain(scored.predictions_content), artifact.hash_json(content), source)
        file = content["files"][CONTENT_NAME]["sha256"]
        yield Claim("the hash of the predictions", plain(scored.predictions_sha256), file, source)
        yield Claim("the scored dataset", plain(scored.data_content), plain(record.dataset), "the record")


def adapter_claims(record: Record, lineage: Lineage) -> Iterator[Claim]:
    """The adapter that answered, those it continues, and the base they were trained on."""
    identity = lineage.identity
    expected: str | None = identity.get("adapter")
    for content in lineage.adapters:
        yield Claim("the adapter", artifact.hash_json(content), expected, "what uses it")
        base = content["inputs"]["base"]
        base_hash = base["hash"] if isinstance(base, dict) else base
        yield Claim("the adapter's base", base_hash, identity.get("hash", base_hash), "the model")
        if isinstance(base, dict) and identity.get("name"):
            yield Claim("the name of the adapter's base", base.get("name"), identity["name"], "the model")
        expected = content["inputs"]["init"]
    if lineage.adapters or lineage.suite is not None:
        yield Claim("the adapter that is continued", expected, None, "the lineage")


def audit_claims(record: Record, lineage: Lineage) -> Iterator[Claim]:
    """The audit, from its own artifact."""
    if lineage.audit is None:
        yield Claim("the audit", record.audit, None, "the lineage")
        return
    content, text = lineage.audit.content, lineage.audit.text
    yield Claim("the audit's text", sha256(text), content["files"]["audit.json"]["sha256"], "the audit's manifest")
    yield Claim("the audited dataset", content["inputs"]["dataset"], plain(record.dataset), "the record")
    told = record.audit.passed if record.audit is not None else None
    yield Claim("the audit's verdict", told, bool(json.loads(text)["passed"]), "the audit")


def suite_claims(record: Record, lineage: Lineage, row: SuiteRow) -> Iterator[Claim]:
    """What the suite's row says: model, curriculum, test set, pool, board, condition, seed."""
    suite = suite_of(row.text)
    ref, curriculum, data = row_of(row)
    source = "the suite"
    spec = suite.data[data]
    known = any(is_called(other, ref) and name == curriculum for other, name in suite.rows)
    yield Claim("the row", known, True, source)
    conditions = {test.condition for test in suite.tests if test.data == data}
    yield Claim("the condition", record.pool.words in conditions, True, source)
    yield Claim("the pool's name", record.pool.name, spec.pool, source)
    yield Claim("the board", record.pool.heading, suite.name, source)
    yield Claim("the seed", record.seed, suite.seed, source)
    if record.metrics is not None:
        yield Claim("the seed of the score", record.metrics.seed, suite.seed, source)
    if NAMED_TASK.fullmatch(spec.task):
        yield Claim("the task", record.task.partition("+")[0], spec.task, source)
    if curriculum is not None:
        yield Claim("the number of adapters", len(lineage.adapters), len(suite.trainings(curriculum)), source)
    yield Claim("an audit", lineage.audit is not None, is_audited(spec), source)


def is_audited(spec: DataSpec) -> bool:
    """Whether a suite audits this dataset: one that is only tested on has nothing to leak from."""
    return spec.audit and spec.split != "test-only"


def input_claims(record: Record, lineage: Lineage) -> Iterator[Claim]:
    """The inputs' hashes: dataset, pool, and where there are such, suite and adapter."""
    given = {"dataset": plain(record.dataset), "pool": plain(record.pool.hash)}
    if lineage.suite is not None:
        given["suite"] = sha256(lineage.suite.text)
    if lineage.adapters:
        given["adapter"] = artifact.hash_json(lineage.adapters[0])
    told = {entry.name: plain(entry.sha256) for entry in record.inputs}
    for name in sorted({*told, *given}):
        yield Claim(f"the input {name}", told.get(name), given.get(name), "the lineage")
    for entry in record.inputs:
        yield Claim(f"the kind of the input {entry.name}", entry.kind, entry.name, "its name")
        if entry.name == "suite" and lineage.suite is not None:
            yield Claim("the suite's name", entry.source, lineage.suite.source, "the lineage")


def command_of(record: Record, lineage: Lineage) -> str:
    """The command that makes the record again."""
    if lineage.suite is not None:
        return suite_command(suite_of(lineage.suite.text), lineage.suite.source, lineage.suite.label)
    if lineage.bench is not None:
        return bench_command(lineage.bench, record.model.name)
    metrics = record.metrics
    return score_command(
        lineage.identity,
        record.model.name,
        record.seed,
        ontology=lineage.ontology,
        calibration=metrics.calibration if metrics else None,
        judge=metrics.judge.ref if metrics and metrics.judge else None,
    )


@lru_cache(maxsize=64)
def suite_of(text: str) -> Suite:
    """A suite from its text. Raises InputError."""
    document = parse_yaml(text, "the suite")
    return document.check(Suite, "write the record again")


def row_of(row: SuiteRow) -> tuple[str, str | None, str]:
    """Model, curriculum and dataset of a row's label. Raises ValueError."""
    ref, curriculum, data = row.label.rsplit(":", 2)
    return ref, None if curriculum == "baseline" else curriculum, data


def is_called(ref: str, shown: str) -> bool:
    """Whether a suite's model is the one that a label names: of an absolute path the label has the last part."""
    last = shown.rpartition(":")[2].partition("?")[0]
    return ref == shown or ("/" in ref and ref.partition("?")[0].endswith(f"/{last}"))


def implausible(hardware: Hardware, packages: Mapping[str, str]) -> list[str]:
    """What cannot be true of one machine."""
    found = []
    arm = hardware.architecture.lower() in {"aarch64", "arm64"}
    if arm and hardware.capability.upper().startswith("AVX"):
        found.append(f"the machine is {hardware.architecture} with {hardware.capability}")
    if hardware.device.startswith("cuda"):
        if not hardware.accelerators:
            found.append("the machine computed on a GPU that it does not have")
        if packages.get("torch", "").endswith("+cpu"):
            found.append(f"torch {packages['torch']} cannot compute on {hardware.device}")
    return found


def plain(digest: str | None) -> str | None:
    """A hash without its prefix."""
    return None if digest is None else digest.removeprefix("sha256:")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def lineage_bytes(lineage: Lineage) -> bytes:
    """The lineage as canonical JSON. Raises InputError where it is too large for a record."""
    data = artifact.canonical(lineage.model_dump(mode="json"))
    if len(data) > MAX_LINEAGE_BYTES:
        what = f"the manifests of what the record is made from are larger than {MAX_LINEAGE_BYTES >> 20} MiB"
        raise InputError(what, "the record", "give a dataset of fewer images")
    return data
