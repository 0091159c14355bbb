"""How long one answer takes, stage by stage, and how much memory: one query after the other, on this machine as it is.

The scheme is MLPerf's SingleStream (the next query is sent when the last one is answered; warm-up; a minimum duration;
a percentile only where there are enough queries for it). Our numbers are not MLPerf results.
"""

from __future__ import annotations

import contextlib
import random
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.artifact import Manifest
from deckbench.dataset import Sample, dataset_hash, read_samples
from deckbench.errors import InputError
from deckbench.machine import hardware
from deckbench.progress import say


@dataclass(frozen=True)
class Job:
    """One model, with or without an adapter, timed on one dataset; out: where the artifact goes."""

    model: str
    adapter: Path | None
    data: Path
    out: Path


ENGINES = ("torch",)
WEIGHTS = ("checkpoint", "random")
# The watch case stops at the letter: one token. A description runs to its own end.
MAX_NEW_TOKENS = {"choice": 1, "scene": 128}


def bench(*, model: str, adapter: Path | None = None, data: Path, out: Path, **options: Any) -> Manifest:
    """Time one model on one dataset: `bench_all` with a single job, in one round. Takes its options."""
    return bench_all([Job(model, adapter, data, out)], **options)[0]


def bench_all(
    jobs: Sequence[Job],
    *,
    engine: str = "torch",
    seed: int = 0,
    min_seconds: float = 10.0,
    max_queries: int = 5000,
    warmup: int = 3,
    weights: str = "checkpoint",
    threads: int | None = None,
    rounds: int = 1,
) -> list[Manifest]:
    """Ask test samples one by one and time them; choice (one token) and scene are measured apart.

    The jobs take turns: every round goes through all of them, every other one backwards, so that what changes slowly
    on a machine meets them all alike. Where a job's times are not comparable (`machine.conditions.disturbances`), it
    is measured again, once, and the second times stand, with what is wrong with them.

    Args:
        jobs: what to time, and where the artifacts go.
        min_seconds: of each kind of each job over all rounds (and at least 5 queries, which a median needs), after
            `warmup` queries in each round that are not counted; at most max_queries.
        weights: `random` fills the network with seeded noise: same work, meaningless answers, never ranked; it also
            takes the names of published models, which need no checkpoint.
        threads: of torch; default: its own.
        rounds: how often each job has its turn.

    Returns:
        The artifacts. Their content is what was asked of which model; the measured values are in
        `observed["results"]`: `load_s`; `memory` (`before_bytes`, `peak_bytes`, `peak_is_own` (false: the process had
        a larger peak before, which could not be started anew), `device_peak_bytes` (of a GPU, else null)); `kinds`, for
        each kind as `measure.summarise`; `schedule` (`id`, the same for all jobs; `rounds`, `jobs`, `repeated`).

    Raises:
        InputError: a parameter, a model or a dataset is wrong.
    """
    from deckbench.bench.turns import Limits, job_name, measure_all

    check_options(engine, weights, min_seconds, {"max_queries": (max_queries, 1), "warmup": (warmup, 0)}, threads)
    for job in jobs:
        artifact.check_free(Path(job.out))
    models = [(job.model, job.adapter) for job in jobs]
    hashes = {data: dataset_hash(data) for data in {Path(job.data) for job in jobs}}
    asked = [queries_of(job, seed) for job in jobs]
    limits = Limits(min_seconds, max_queries, warmup, rounds, MAX_NEW_TOKENS)
    state = hardware.state()
    with torch_threads(threads):
        done = measure_all(models, asked, limits, weights, seed)
        disturbed = [n for n, found in enumerate(done) if found.disturbances]
        for n in disturbed:
            say(f"bench {job_name(*models[n])}: {done[n].disturbances[0]}; it is measured again")
        if disturbed:
            again = measure_all([models[n] for n in disturbed], [asked[n] for n in disturbed], limits, weights, seed)
            for n, found in zip(disturbed, again, strict=True):
                done[n] = found
        machine = [hardware.describe(device=found.device) for found in done]
    schedule = {"id": secrets.token_hex(8), "rounds": rounds, "jobs": len(jobs)}
    params = {
        "engine": engine,
        "weights": weights,
        "min_seconds": min_seconds,
        "max_queries": max_queries,
        "warmup": warmup,
        "threads": threads,
        "rounds": rounds,
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    made = []
    for n, (job, queries, found) in enumerate(zip(jobs, asked, done, strict=True)):
        inputs = {"model": found.identity, "data": hashes[Path(job.data)]}
        with artifact.writing(Path(job.out), "bench", inputs=inputs, params=params, seed=seed) as draft:
            ids = {kind: [sample.id for sample in samples] for kind, samples in queries.items()}
            (draft.path / "queries.json").write_bytes(artifact.canonical(ids))
            draft.observed["results"] = {
                "engine": engine,
                "weights": weights,
                **found.results,
                "schedule": {**schedule, "repeated": n in disturbed},
                "hardware": machine[n],
                "state": {"start": state, "end": hardware.state()},
                "packages": hardware.packages(),
                "container": hardware.container(),
            }
        for kind, values in found.results["kinds"].items():
            median, count = values["latency"]["p50"], values["latency"]["n"]
            text = "too few for a median" if median is None else f"p50 {median:.4f} s"
            wrong = f"; not comparable: {values['disturbances'][0]}" if values["disturbances"] else ""
            say(f"bench {job_name(*models[n])} {kind}: {count} queries, {text}{wrong}")
        made.append(artifact.read(Path(job.out), "bench"))
    return made


def check_options(
    engine: str, weights: str, min_seconds: float, counts: dict[str, tuple[int, int]], threads: int | None
) -> None:
    """Raises InputError for an option out of its range. counts: name -> (value, the least)."""
    if engine not in ENGINES:
        raise InputError(f"the engine {engine!r} is not here", "--engine", f"one of: {', '.join(ENGINES)}")
    if weights not in WEIGHTS:
        raise InputError(f"the weights {weights!r} are not known", "--weights", f"one of: {', '.join(WEIGHTS)}")
    for name, (value, least) in {**counts, "threads": (1 if threads is None else threads, 1)}.items():
        if value < least:
            raise InputError(f"{name} is {value}", name, f"give a number from {least}")
    if not 0 < min_seconds < float("inf"):
        raise InputError(f"min_seconds is {min_seconds}", "min_seconds", "give a number of seconds above 0")


def queries_of(job: Job, seed: int) -> dict[str, list[Sample]]:
    """What is asked in a job. Raises InputError when its dataset has nothing to ask."""
    queries = choose(read_samples(Path(job.data), "test"), seed)
    if not queries:
        what = "the test part has no choice and no scene question"
        raise InputError(what, job.data, "give a dataset that has")
    return queries


def choose(samples: Sequence[Sample], seed: int) -> dict[str, list[Sample]]:
    """The queries of each kind in the order they are asked: shuffled by seed, every picture once before any twice."""
    chosen = {}
    for kind in MAX_NEW_TOKENS:
        of_kind = sorted((sample for sample in samples if sample.kind == kind), key=lambda sample: sample.id)
        random.Random(seed).shuffle(of_kind)
        times: Counter[Path] = Counter()
        rounds: list[tuple[int, Sample]] = []
        for sample in of_kind:
            rounds.append((times[sample.image], sample))
            times[sample.image] += 1
        if rounds:
            chosen[kind] = [sample for _, sample in sorted(rounds, key=lambda pair: pair[0])]
    return chosen


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Let torch compute with so many threads, and as before afterwards; None leaves it alone."""
    if threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
