"""Records of single steps: what a record needs to know is read from the manifests that the steps left."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.gold import definitions
from deckbench.predictions import PredictionFiles, is_inferred, read_manifest
from deckbench.record.facts import (
    SAME,
    SERVER,
    SHIFTED,
    bench_command,
    model_facts,
    part_of,
    score_command,
)
from deckbench.record.lineage import trace
from deckbench.record.schema import SCHEMA, Record, parse
from deckbench.record.scores import read_score
from deckbench.record.write import write_record
from deckbench.task import Options, load_task, published

RECORDS = Path("results/records")


def record_score(
    score: Path,
    *,
    predictions: Path,
    data: Path | None,
    records: Path | None = None,
    curriculum: str | None = None,
    condition: str | None = None,
    ontology: Path | None = None,
    calibration: Path | None = None,
) -> Path:
    """Write the record of a score.

    Args:
        score: score.json, beside it the graded answers.
        predictions: FILE.csv that was scored, made by `infer`.
        data: the dataset it answers, made by `build`.
        records: folder of records; default: RECORDS.
        curriculum: the stages an adapted model has been through.
        condition: how the frames stand to those of training.
        ontology: the one that was scored with, where that is not the published task's.
        calibration: the one that was scored with.

    Returns:
        The record's folder.

    Raises:
        InputError: naming what the manifests do not tell, or what does not fit.
    """
    content, observed = predictions_facts(predictions)
    metrics = read_score(score)
    seed = metrics.seed
    dataset = dataset_facts(data, condition)
    assert data is not None  # `dataset_facts` refuses it
    identity = content["inputs"]["model"]
    model = model_facts(identity, curriculum)
    return write_record(
        records or RECORDS,
        **dataset,
        **model,
        lineage=trace(
            data,
            predictions=predictions,
            curriculum=curriculum,
            condition=condition,
            ontology=ontology is not None,
        ),
        command=score_command(
            identity,
            model["model"]["name"],
            seed,
            ontology=ontology is not None,
            calibration=metrics.calibration,
            judge=metrics.judge.ref if metrics.judge else None,
        ),
        seed=seed,
        score=score,
        predictions=predictions,
        data=data,
        ontology=ontology,
        calibration=calibration,
        machine=SERVER if "endpoint" in content else observed.get("hardware"),
        packages=observed.get("packages"),
        container=observed.get("container"),
    )


def record_bench(
    bench: Path,
    *,
    data: Path,
    records: Path | None = None,
    curriculum: str | None = None,
    condition: str | None = None,
) -> Path:
    """Write the record of a bench: times only. Args, Returns and Raises as `record_score`; bench: its folder."""
    manifest = artifact.read(bench, "bench")
    results, inputs = manifest.observed["results"], manifest.content["inputs"]
    dataset = dataset_facts(data, condition)
    if dataset["dataset"] != inputs["data"]:
        raise InputError("the bench asked questions of another dataset", data, "give the dataset that was benched")
    model = model_facts(inputs["model"], curriculum)
    return write_record(
        records or RECORDS,
        **dataset,
        **model,
        lineage=trace(data, bench=manifest, curriculum=curriculum, condition=condition),
        data=data,
        command=bench_command(manifest.content, model["model"]["name"]),
        seed=int(manifest.content["seed"] or 0),
        bench=results,
        machine=results["hardware"],
        packages=results["packages"],
        container=results["container"],
    )


def predictions_facts(predictions: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`content` and `observed` of a prediction file that `infer` made. Raises InputError for another one."""
    manifest = read_manifest(predictions)
    if manifest is None or not is_inferred(manifest):
        what = "no manifest says what made these predictions; a record needs its model, machine and dataset"
        raise InputError(what, PredictionFiles(predictions).manifest, "make them with `deckbench infer`")
    content, observed = manifest["content"], manifest.get("observed") or {}
    params = content.get("params") or {}
    if not isinstance(content["inputs"]["model"], dict) or not isinstance(params, dict):
        raise InputError("the manifest does not say its model", PredictionFiles(predictions).manifest, "infer again")
    part = {"split": "test", "limit": None, "shard": None}
    if other := [f"{name} is {params[name]}" for name, whole in part.items() if params.get(name, whole) != whole]:
        what = f"a record holds the whole test part; of these predictions, {' and '.join(other)}"
        raise InputError(what, predictions, "infer without --split, --limit and --shard")
    return content, observed


def check_fields(records: Path | None, **fields: Any) -> None:
    """Refuse before anything is made what `write_record` would refuse afterwards. Raises InputError."""
    place = records or RECORDS
    for folder in (place, *place.parents):
        if folder.exists():
            if not folder.is_dir():
                raise InputError(
                    "a file exists where a folder of records is expected", folder, "choose other --records"
                )
            break
    empty: dict[str, Any] = {
        "metrics": None,
        "samples": None,
        "hardware": SERVER,
        "packages": {},
        "container": None,
        "seed": 0,
    }
    empty |= dict.fromkeys(("questions", "lineage"), "0" * 64)
    parse(Record, {"schema": SCHEMA, **empty, "command": "deckbench", **fields}, "the record")


def dataset_facts(data: Path | None, condition: str | None) -> dict[str, Any]:
    """Task, stage, pool and inputs, from the dataset's manifest."""
    if data is None or not data.is_dir():
        raise InputError("a record needs the dataset folder", "--data", "give the dataset that was asked")
    manifest = artifact.read(data, "dataset")
    params, pool = manifest.content["params"], manifest.content["inputs"].get("pool")
    known = {"task": params.get("task"), "synthetic": params.get("synthetic"), "pool": pool}
    if missing := [name for name, value in known.items() if value is None]:
        what = f"the dataset does not say its {', '.join(missing)}; a record needs them"
        raise InputError(what, data / artifact.MANIFEST, "build it with `deckbench build`")
    if condition is None and params.get("split") == "test-only":
        what = "it is not known how these frames stand to those of training: the dataset has no training part"
        raise InputError(what, "--condition", f"give --condition '{SAME}' or --condition {SHIFTED}")
    condition = condition or SAME
    name = f"pool-{pool.removeprefix('sha256:')[:8]}"
    part = part_of(str(params.get("split")), condition)
    inputs = [
        {
            "name": "dataset",
            "kind": "dataset",
            "sha256": manifest.content_hash,
            "source": rebuild_command(data, manifest),
        },
        {"name": "pool", "kind": "pool", "sha256": pool, "source": "the pool that the dataset was built from"},
    ]
    return {
        "task": params["task"],
        "stage": params.get("stage"),
        "pool": {
            "name": name,
            "hash": pool,
            "synthetic": bool(params["synthetic"]),
            "part": part,
            "condition": condition,
            "credit": params.get("credit"),
        },
        "dataset": manifest.content_hash,
        "inputs": inputs,
    }


def build_command(
    task: str,
    *,
    pool: str,
    split: str,
    seed: object,
    ontology: str | None = None,
    qa: str | None = None,
    options: Mapping[str, Any] | None = None,
    lang: str = "en",
    max_leak: float | None = None,
) -> str:
    """The command that builds a dataset, quoted for a shell."""
    argv = ["deckbench", "build", task, "--pool", pool, "--out", "data", "--split", split, "--seed", str(seed)]
    for name, value in (("ontology", ontology), ("qa", qa)):
        argv += [f"--{name}", value] if value else []
    for key, option in (options or {}).items():
        argv += ["--set", f"{key}={option if isinstance(option, str) else json.dumps(option)}"]
    argv += [] if max_leak is None else ["--max-leak", f"{max_leak:g}"]
    return shlex.join(argv + (["--lang", lang] if lang != "en" else []))


def rebuild_command(data: Path, manifest: artifact.Manifest) -> str:
    """The command that builds a dataset again; a lab's own files stand in it as ONTOLOGY.yaml, QA and TASK."""
    params, seed = manifest.content["params"], manifest.content["seed"]
    task, _, changed = params["task"].partition("+")
    usual = load_task(task) if task in published() else None
    own = definitions(data).get(params["task"], {}) if changed else {}
    default = usual.definition() if usual else {}
    known = (usual.options if usual else Options()).model_dump(mode="json")
    options = {key: value for key, value in (params.get("options") or {}).items() if value != known.get(key)}
    split, first = str(params.get("split", "group")), ""
    if "split_seed" in params:
        words = ["deckbench", "pool", "split", "pool", "--out", "split", "--split", split]
        first, split = f"{shlex.join([*words, '--seed', str(params['split_seed'])])} && ", "split"
    return first + build_command(
        task if usual else "TASK",
        pool="pool",
        split=split,
        seed=seed,
        ontology="ONTOLOGY.yaml" if usual and own and own["ontology"] != default["ontology"] else None,
        qa="QA" if usual and own and (own["questions"] != default["questions"] or "scenes" in own) else None,
        options=options,
        lang=str(params.get("lang", "en")),
        max_leak=params.get("max_leak"),
    )
