"""Models that take turns on one machine, so that what changes slowly on it meets them all alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench.bench import memory
from deckbench.bench.measure import Loaded, Segment, load_timed, stream, summarise
from deckbench.dataset import Sample
from deckbench.errors import InputError
from deckbench.progress import say
from deckbench.stats import PERCENTILES, percentile_min_n

ModelAndAdapter = tuple[str, "Path | None"]


@dataclass(frozen=True)
class Limits:
    """How long a kind of a job is measured, over all rounds. warmup: queries before each round's counted ones.
    max_new_tokens: of an answer, by kind."""

    min_seconds: float
    max_queries: int
    warmup: int
    rounds: int
    max_new_tokens: Mapping[str, int]


@dataclass(frozen=True)
class Turn:
    """What one round of one job gave. memory: as `bench_all` says."""

    segments: dict[str, Segment]
    memory: dict[str, Any]
    identity: dict[str, Any]
    device: str
    load_s: float
    parameters: int | None


@dataclass(frozen=True)
class JobResult:
    """A job that was timed. results: of `observed["results"]` what it measured itself."""

    identity: dict[str, Any]
    device: str
    results: dict[str, Any]

    @property
    def disturbances(self) -> list[str]:
        return [text for kind in self.results["kinds"].values() for text in kind["disturbances"]]


def measure_all(
    models: Sequence[ModelAndAdapter],
    asked: Sequence[Mapping[str, Sequence[Sample]]],
    limits: Limits,
    weights: str,
    seed: int,
) -> list[JobResult]:
    """Load each model and ask it, `limits.rounds` times in turn; one is in memory at a time. Raises InputError."""
    turns: list[list[Turn]] = [[] for _ in models]
    loaded: Loaded[Any] | None = None
    last: ModelAndAdapter | None = None
    for number in range(limits.rounds):
        order = range(len(models))
        for n in order if number % 2 == 0 else reversed(order):
            if loaded is None or models[n] != last:
                loaded = None  # the last model goes before the next one comes
                loaded, last = load(*models[n], weights, seed), models[n]
            turns[n].append(take_turn(loaded, job_name(*models[n]), asked[n], limits, number))
    return [result_of(of_job, queries, weights) for of_job, queries in zip(turns, asked, strict=True)]


def result_of(turns: Sequence[Turn], queries: Mapping[str, Sequence[Sample]], weights: str) -> JobResult:
    """The numbers of a job from its turns."""
    first = turns[0]
    peaks = [turn.memory["device_peak_bytes"] for turn in turns if turn.memory["device_peak_bytes"] is not None]
    memory = {
        **first.memory,
        "peak_bytes": max(turn.memory["peak_bytes"] for turn in turns),
        "peak_is_own": all(turn.memory["peak_is_own"] for turn in turns),
        "device_peak_bytes": max(peaks, default=None),
    }
    kinds = {
        kind: summarise([turn.segments[kind] for turn in turns], len(samples)) for kind, samples in queries.items()
    }
    results = {"parameters": first.parameters, "load_s": round(first.load_s, 6), "memory": memory, "kinds": kinds}
    identity = first.identity if weights == "checkpoint" else {**first.identity, "weights": weights}
    return JobResult(identity, first.device, results)


def job_name(model: str, adapter: Path | None) -> str:
    """What messages call a job: its model, and the folder of its adapter."""
    return model if adapter is None else f"{model} + {Path(adapter).name}"


def take_turn(
    loaded: Loaded[Any], name: str, queries: Mapping[str, Sequence[Sample]], limits: Limits, number: int
) -> Turn:
    """One round of one job: all kinds of questions, one after the other. name: what messages call it."""
    segments = {}
    for kind, samples in queries.items():
        seconds = limits.min_seconds / limits.rounds
        of = f", round {number + 1} of {limits.rounds}" if limits.rounds > 1 else ""
        say(f"bench {name} {kind}{of}: at least {seconds:g} s")
        segments[kind] = stream(
            loaded.model,
            samples,
            limits.max_new_tokens[kind],
            min_seconds=seconds,
            fewest=-(-percentile_min_n(PERCENTILES["p50"]) // limits.rounds),
            most=max(1, limits.max_queries // limits.rounds),
            warmup=limits.warmup,
        )
    memory_used = {
        "before_bytes": loaded.rss_before,
        "peak_bytes": memory.peak_bytes(),
        "peak_is_own": loaded.peak_reset,
        "device_peak_bytes": device_peak(loaded.device),
    }
    model = loaded.model
    return Turn(segments, memory_used, model.identity, loaded.device, loaded.load_s, model.parameters)


def load(model: str, adapter: Path | None, weights: str, seed: int) -> Loaded[Any]:
    """The loaded model with what loading cost. Raises InputError for what has no stages to time here."""
    from deckbench.models.families import BLIND, resolve, trainable
    from deckbench.models.init import noise
    from deckbench.models.load import load_model, load_trainable

    found = resolve(model.removeprefix(BLIND))
    if not found.family.engines:
        raise InputError(f"{model} is a baseline; it has no stages to time", "--model", "bench a model")
    if "endpoint" in found.family.engines:
        what = "the times of a server and of the way there are not those of this machine"
        raise InputError(what, model, "bench the model where it runs")
    if weights == "checkpoint":
        return load_timed(lambda: load_model(model, adapter=adapter))
    if not trainable(model):
        raise InputError("this model has no weights here to replace", "--weights", "remove --weights")
    if not found.has_weights:
        from deckbench.models.random_weights import random_model

        if adapter is not None:
            raise InputError("random weights take no adapter", "--adapter", "remove --adapter")
        return load_timed(lambda: random_model(model, seed=seed))
    base = load_timed(lambda: load_trainable(model, adapter=adapter))
    noise(base.model.module, seed)
    return base


def device_peak(device: str) -> int | None:
    """Peak memory on a GPU in bytes, None on a CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))
