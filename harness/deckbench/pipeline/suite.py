"""Run a suite: every step in order, each skipped when its output exists.

A step's folder name ends in its key: a hash of the step's parameters and of its inputs' content. So a changed suite
makes new folders beside the old ones, an unchanged one finds all steps finished, and an interrupted run resumes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.extras import require
from deckbench.models.families import served_as
from deckbench.pipeline.overlap import check_overlap
from deckbench.pipeline.plan import baseline_train_set, data_needed, targets_of, trainings_needed
from deckbench.pipeline.provenance import is_served
from deckbench.pipeline.state import Run
from deckbench.pipeline.steps import (
    run_adapter,
    run_audit,
    run_benches,
    run_data,
    run_pool,
    run_record,
    run_site,
    run_train_set,
)
from deckbench.record.selftest import check_scorer
from deckbench.suite import Suite, given_pools, load_suite, split_weight, suite_source

POOL_PATHS = "pool.paths"  # likewise: the pools that the suite was given
SUITE_PATH = "suite.path"  # in a work folder: where its suite lies, which no record says
WITHOUT_TORCH = {"endpoint", "baselines"}


def run_suite(
    ref: str, *, work: Path | None = None, only: str | None = None, pools: Sequence[str] = ()
) -> dict[str, Any]:
    """Run a suite: pools, datasets, audits, adapters, latency, records and the leaderboard.

    Args:
        ref: a suite file, or the name of an embedded suite.
        work: the folder for all outputs; `work/NAME` where None. Steps whose output exists there are skipped.
        pools: `DIR` or `NAME=DIR`: the pools that the suite takes as arguments.
        only: label of one row (`MODEL:CURRICULUM:DATA`). Only what that row needs is run, and no latency is measured.

    Returns:
        page: URI of the leaderboard. records: paths of the records. made: the steps that were run, `DIR/NAME` each.
        seconds: wall time.

    Raises:
        InputError: the suite or a pool is wrong, what is tested is also trained on, no row has the label `only`, or a
            package that its models need is not installed.
        OutsideError: the disk, an endpoint or a worker failed; rerun to resume.
    """
    suite, file = load_suite(ref)
    given = {name: path.resolve() for name, path in given_pools(suite, pools).items()}
    run = Run(suite, suite_source(file), file, work_folder(suite.name, work), given)
    artifact.remove_leftovers(run.work)
    began = time.monotonic()
    targets = [target for target in targets_of(suite) if only in (None, target.label)]
    if not targets:
        known = ", ".join(target.label for target in targets_of(suite))
        raise InputError(f"the suite has no row {only!r}", "--only", f"one of: {known}")
    if {served_as(target.ref) for target in targets} - WITHOUT_TORCH:
        require("torch", f"the suite {suite.name}", "train")  # before any of its pools and datasets is built
    artifact.atomic_write(run.work / SUITE_PATH, f"{file.resolve()}\n")
    if given:
        artifact.atomic_write(run.work / POOL_PATHS, "".join(f"{name}={path}\n" for name, path in given.items()))
    chains = {(t.ref, name) for t in targets if t.curriculum for name in trainings_needed(suite, [t.curriculum])}
    for name in data_needed(suite, targets, {name for _, name in chains}):
        run_pool(run, suite.data[name].pool)
        run.data[name] = run_data(run, name, suite.data[name])
        if suite.data[name].audit and suite.data[name].split != "test-only":
            run.audits[name] = run_audit(run, name, run.data[name])
    curricula = {name for _, name in chains}
    fitted = [data for target in targets if (data := baseline_train_set(suite, target)) is not None]
    learned = [split_weight(text)[0] for curriculum in sorted(curricula) for text in suite.train[curriculum].data]
    check_overlap(run, sorted({*learned, *fitted}), sorted({target.data for target in targets}))
    for name in sorted(
        {target.data for target in targets}
    ):  # gold scores 1, shuffled gold chance, or nothing is scored
        check_scorer(run.data[name].path, seed=suite.seed)
    for curriculum in (name for name in suite.train if name in curricula):
        run.train_sets[curriculum] = run_train_set(run, curriculum, suite.train[curriculum])
    for model in suite.models:
        for curriculum, spec in suite.train.items():
            if (model.ref, curriculum) in chains:
                settings = {**spec.config, **model.config.get(curriculum, {})}
                run.adapters[model.ref, curriculum] = run_adapter(run, model.ref, curriculum, spec, settings)
    timings: dict[tuple[str, str], dict[str, Any]] = {}
    if suite.bench and only is None:
        timed = [(t.ref, t.curriculum) for t in targets if t.curriculum and not is_served(t.ref)]
        timings = run_benches(run, list(dict.fromkeys(timed)), suite.bench)
    records = []
    for target in targets:
        model_at = (target.ref, target.curriculum or "")
        records.append(run_record(run, target, run.adapters.get(model_at), timings.get(model_at, {})))
    page = run_site(run, records)
    return {
        "page": page.as_uri(),
        "records": [str(record) for record in records],
        "made": run.steps_run,
        "seconds": round(time.monotonic() - began, 3),
    }


def work_folder(name: str, work: Path | None) -> Path:
    """The folder for all outputs of a suite."""
    return (work or Path("work") / name).resolve()


def noted_pools(work: Path) -> list[str]:
    """The pools that the run in a work folder was given, as `run_suite` takes them."""
    noted = work / POOL_PATHS
    return noted.read_text(encoding="utf-8").splitlines() if noted.is_file() else []


def find_suite(source: str, sha256: str, work: Path) -> tuple[Suite, Path]:
    """The suite that a record comes from: called as the record has it, else where the run in `work` found it.

    Raises InputError where neither is that suite.
    """
    noted = work / SUITE_PATH
    refs = [source, *([noted.read_text(encoding="utf-8").strip()] if noted.is_file() else [])]
    why = InputError("no such suite", source)
    for ref in refs:
        try:
            suite, file = load_suite(ref)
            if artifact.hash_file(file) == sha256:
                return suite, file
            why = InputError(f"the suite {source} has changed since", file)
        except InputError as error:
            why = error
    raise why
