"""The steps of a suite, one function each. A step whose output exists is skipped."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.pipeline.asking import Asking, model_code
from deckbench.pipeline.calibrate import run_calibration
from deckbench.pipeline.code import code_hash
from deckbench.pipeline.plan import Target
from deckbench.pipeline.provenance import (
    answered_on,
    build_command,
    is_served,
    pool_command,
)
from deckbench.pipeline.state import Run, StepOutput
from deckbench.progress import say
from deckbench.protocol import read_analysis
from deckbench.record.facts import model_facts, part_of, suite_command
from deckbench.suite import BenchSpec, DataSpec, TrainSpec, split_weight, task_in


def run_pool(run: Run, name: str) -> None:
    """Render a synthetic pool, or read one from disk, once a run."""
    spec = run.suite.pools[name]
    if name in run.pools:
        return
    if (place := run.given.get(name) if spec.is_argument else spec.path) is not None:
        run.pools[name] = StepOutput((run.file.parent / place).resolve(), "")
        run.pools[name] = replace(run.pools[name], content_hash=run.frames(name).content_hash)
    if spec.synth is not None:
        from deckbench.pool.synth import protocol_file, synth_pool

        values = spec.synth.model_dump(exclude_none=True)
        key = dict(values)
        if spec.synth.protocol is not None:
            values["protocol"] = protocol_file(spec.synth.protocol, run.file.parent)
            key["protocol"] = read_analysis(values["protocol"]).sha256
        run.pools[name] = run.step("pools", name, key, ("pool.synth",), lambda out: synth_pool(out, **values))


def run_data(run: Run, name: str, spec: DataSpec) -> StepOutput:
    """Build one dataset."""
    from deckbench.build import build_dataset
    from deckbench.task import load_task

    pool, task = run.pools[spec.pool], task_in(run.file, spec.task)
    files: dict[str, Any] = {"ontology": run.path_in_suite(spec.ontology), "qa": run.path_in_suite(spec.qa)}
    key = {
        "pool": pool.content_hash,
        "task": load_task(task, options=spec.options, **files).content_hash,
        "split": spec.split,
        "lang": spec.lang,
        "options": spec.options,
        "seed": run.suite.seed,
    }

    def write(out: Path) -> None:
        build_dataset(
            task,
            pool=pool.path,
            out=out,
            lang=spec.lang,
            split=str(run_split(run, spec).path),
            seed=run.suite.seed,
            options=spec.options,
            **files,
        )

    return run.step("data", name, key, ("build.dataset",), write)


def run_split(run: Run, spec: DataSpec) -> StepOutput:
    """Split a dataset's pool; datasets of one pool share it."""
    from deckbench.pool.split import split_pool

    pool, seed = run.pools[spec.pool], run.suite.seed
    key = {"pool": pool.content_hash, "split": spec.split, "seed": seed}
    code, name = ("pool.split",), f"{spec.pool}-{spec.split}"

    def write(out: Path) -> None:
        split_pool(pool.path, out=out, split=spec.split, seed=seed, cache=run.thumbnails)

    return run.step("splits", name, key, code, write)


def run_audit(run: Run, name: str, data: StepOutput) -> dict[str, Any]:
    """Audit a dataset; the result is an artifact of its own. Returns the content of its audit.json."""
    from deckbench.build.audit import audit

    def write(out: Path) -> None:
        result = audit(data.path, seed=run.suite.seed, cache=run.thumbnails)
        with artifact.writing(out, "audit", inputs={"dataset": data.content_hash}, seed=run.suite.seed) as draft:
            (draft.path / "audit.json").write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")

    key = {"data": data.content_hash, "seed": run.suite.seed}
    output = run.step("audits", name, key, ("build.audit",), write)
    run.audit_folders[name] = output.path
    result: dict[str, Any] = json.loads((output.path / "audit.json").read_text(encoding="utf-8"))
    if not result["passed"]:
        say(f"audit {name}: FAILED; the page will say so ({output.path / 'audit.json'})")
    return result


def run_adapter(run: Run, ref: str, curriculum: str, spec: TrainSpec, settings: dict[str, Any]) -> StepOutput:
    """Train one stage of a curriculum, with the replayed data that the suite names."""
    from deckbench.train import train
    from deckbench.train.config import named_configs, read_source, settle

    init = run.adapters[ref, spec.init] if spec.init else None
    data = run.train_sets[curriculum]
    key = {
        "model": run.identity(ref),
        "data": data.content_hash,
        "init": init.content_hash if init else None,
        "config": settings,
        "seed": run.suite.seed,
    }

    config = Path(ref) if ref in named_configs() else None
    # Stages of a curriculum share images, so a frozen vision encoder's features are computed once for all.
    frozen = settle(read_source(config), settings).vision == "absent" and keeps_features(ref)
    code = ("train", *model_code(ref))
    kept = {"feature_cache": str(run.work / "features" / code_hash(*code)[:8])} if frozen else {}

    def write(out: Path) -> None:
        train(
            model=ref,
            data=data.path,
            out=out,
            init=init.path if init else None,
            config=config,
            overrides={**settings, **kept},
            resume=out.with_name(f"{out.name}.partial").exists(),
            seed=run.suite.seed,
        )

    return run.step("adapters", f"{ref}-{curriculum}", key, code, write)


def keeps_features(ref: str) -> bool:
    """Whether the model takes cached features of its vision encoder: all families but `auto` do."""
    from deckbench.models.families import resolve

    return resolve(ref).family.caches_features


def run_train_set(run: Run, curriculum: str, spec: TrainSpec) -> StepOutput:
    """What a stage is trained on: a dataset, or a mix of some, which is audited as its parts are.

    Raises InputError where the mix has a picture, a frame or a group in train and in test.
    """
    names = dict(split_weight(text) for text in spec.data)
    parts = [(run.data[name], weight) for name, weight in names.items()]
    if [*names.values()] == [1]:
        return parts[0][0]
    data, name = run_mix(run, curriculum, parts), f"mix-{curriculum}"
    if all(run.suite.data[part].audit for part in names) and (data.path / "test.jsonl").stat().st_size:
        found = run_audit(run, name, data)
        if leaks := [found[key] for key in ("shared_groups", "shared_frames") if found[key]] or found["pairs"]["exact"]:
            what = f"train and test of the mix for {curriculum} share {leaks[0]}"
            raise InputError(what, run.ref, "build all parts from one pool with the same split")
    return data


def run_mix(run: Run, curriculum: str, parts: list[tuple[StepOutput, float]]) -> StepOutput:
    """The incremental training set of a curriculum."""
    from deckbench.build.mix import mix

    key = {"parts": [[part.content_hash, weight] for part, weight in parts], "seed": run.suite.seed}
    sources = [(part.path, weight) for part, weight in parts]
    name, code = f"mix-{curriculum}", ("build.mix",)
    return run.step("data", name, key, code, lambda out: mix(sources, out=out, seed=run.suite.seed))


def run_benches(run: Run, models: list[tuple[str, str]], spec: BenchSpec) -> dict[tuple[str, str], dict[str, Any]]:
    """Latency of each (model, curriculum) by name of the dataset. Those not yet measured take turns."""
    from deckbench.bench import Job, bench_all

    jobs = {}
    for ref, curriculum in models:
        adapter = run.adapters.get((ref, curriculum))
        for name in spec.data:
            key = {
                "model": run.identity(ref),
                "adapter": adapter.content_hash if adapter else None,
                "data": run.data[name].content_hash,
                "min_seconds": spec.min_seconds,
            }
            out = run.output_path("bench", f"{ref}-{curriculum}-{name}", key, ("bench", *model_code(ref)))
            jobs[ref, curriculum, name] = Job(ref, adapter.path if adapter else None, run.data[name].path, out)
    missing = {place: job for place, job in jobs.items() if not (job.out / artifact.MANIFEST).is_file()}
    if missing:
        (run.work / "bench").mkdir(parents=True, exist_ok=True)
        bench_all(list(missing.values()), min_seconds=spec.min_seconds, rounds=spec.rounds)
        run.steps_run += [f"bench/{ref}-{curriculum}-{name}" for ref, curriculum, name in missing]
    results: dict[tuple[str, str], dict[str, Any]] = {model: {} for model in models}
    for (ref, curriculum, name), job in jobs.items():
        results[ref, curriculum][name] = artifact.read(job.out, verify=True).observed["results"]
    return results


def run_answers(run: Run, target: Target, adapter: StepOutput | None) -> tuple[Path, Path, Path | None]:
    """Predictions of one row, their score.json and the calibration that was scored with; each is written once."""
    asking = Asking(run, target, adapter)
    folder = run.output_path("answers", target.label, asking.key, asking.code)
    predictions = folder / "predictions.csv"
    if not predictions.is_file():
        say(f"answers {target.label} ...")
        began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        asking.ask(predictions)
        say(f"answers {target.label}: {time.monotonic() - began:.1f} s")
        run.steps_run.append(f"answers/{target.label}")
    calibration = run_calibration(run, target, adapter)
    return predictions, run_score(run, target, predictions, calibration), calibration


def run_score(run: Run, target: Target, predictions: Path, calibration: Path | None) -> Path:
    """The score of some predictions, made again where it was changed, or is of others or of older code.

    Raises InputError where nothing says what made the predictions.
    """
    from deckbench.predictions import PredictionFiles, read_manifest
    from deckbench.record.scores import scored_path
    from deckbench.score import score

    if (manifest := read_manifest(predictions)) is None:
        what, fix = "no manifest says what made the predictions", f"remove {predictions.parent} and run again"
        raise InputError(what, PredictionFiles(predictions).manifest, fix)
    out = predictions.with_name("score.json")
    files, bound = (out, scored_path(out)), out.with_name("score.manifest.json")
    made_of = {"predictions": manifest["content_hash"], "code": code_hash("score")}
    if calibration is not None:
        made_of["calibration"] = artifact.hash_file(calibration)

    def binding() -> bytes:
        return artifact.canonical({**made_of, "files": {file.name: artifact.hash_file(file) for file in files}})

    if not all(file.is_file() for file in (*files, bound)) or bound.read_bytes() != binding():
        for torn in (*files, bound):
            torn.unlink(missing_ok=True)
        data, spec = run.data[target.data], run.suite.data[target.data]
        ontology = run.path_in_suite(spec.ontology)
        score(
            predictions,
            data=data.path,
            out=out,
            seed=run.suite.seed,
            ontology=ontology,
            calibration=calibration,
            transfer=True,
        )
        artifact.atomic_write(bound, binding())
    return out


def run_record(run: Run, target: Target, adapter: StepOutput | None, timing: dict[str, Any]) -> Path:
    """Predictions, score and record of one row. Returns the record's folder."""
    from deckbench.record.lineage import trace
    from deckbench.record.write import write_record

    suite, name, spec = run.suite, target.data, run.suite.data[target.data]
    data = run.data[name]
    predictions, scores, calibration = run_answers(run, target, adapter)
    command, folder = suite_command(suite, run.ref, target.label), run.file.parent
    lineage = trace(
        data.path,
        predictions=predictions,
        adapters=adapter_chain(run, target) if adapter else [],
        audit=run.audit_folders.get(name),
        suite=(run.file, run.ref, target.label),
    )
    dataset = lineage.dataset
    pool_hash = dataset["inputs"]["pool"]
    built, pooled = build_command(spec, suite, folder), pool_command(suite, spec.pool, folder)
    inputs = [
        {"name": "dataset", "kind": "dataset", "sha256": data.content_hash, "source": built},
        {"name": "pool", "kind": "pool", "sha256": pool_hash, "source": pooled},
        {"name": "suite", "kind": "suite", "sha256": artifact.hash_file(run.file), "source": run.ref},
    ]
    if adapter:
        inputs.append({"name": "adapter", "kind": "adapter", "sha256": adapter.content_hash, "source": command})
    audit = run.audits.get(name)
    return write_record(
        run.work / "records",
        **model_facts(lineage.identity, target.curriculum, None if is_served(target.ref) else target.model),
        lineage=lineage,
        task=str(dataset["params"]["task"]),
        stage=dataset["params"].get("stage"),
        pool={
            "name": spec.pool,
            "hash": pool_hash,
            "synthetic": bool(dataset["params"]["synthetic"]),
            "part": part_of(str(dataset["params"].get("split")), target.condition),
            "condition": target.condition,
            "board": suite.name,
            "credit": dataset["params"].get("credit"),
        },
        dataset=data.content_hash,
        command=command,
        seed=suite.seed,
        inputs=inputs,
        score=scores,
        ontology=run.path_in_suite(spec.ontology),
        predictions=predictions,
        calibration=calibration,
        data=data.path,
        bench=timing.get(name),
        thumbnails=suite.thumbnails,
        audit={"passed": bool(audit["passed"]), "source": f"deckbench audit ({name})"} if audit else None,
        **answered_on(target.ref, predictions),
    )


def adapter_chain(run: Run, target: Target) -> list[Path]:
    """The adapter of a row and those it continues, the last first."""
    found, name = [], target.curriculum
    while name is not None:
        found.append(run.adapters[target.ref, name].path)
        name = run.suite.train[name].init
    return found


def run_site(run: Run, records: list[Path]) -> Path:
    """Render the leaderboard of this run's records. Returns its first page."""
    from deckbench.report import report

    current = run.work / "current"
    shutil.rmtree(current, ignore_errors=True)
    current.mkdir(parents=True)
    for record in records:
        shutil.copytree(record, current / record.name)
    report(current, out=run.work / "site")
    return run.work / "site" / "index.html"
