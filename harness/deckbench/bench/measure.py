"""Loading and asking with a stopwatch."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from deckbench.answer import Answer, Question
from deckbench.bench import memory
from deckbench.dataset import Sample
from deckbench.models.interface import Model
from deckbench.picture import open_picture
from deckbench.progress import say
from deckbench.stats import PERCENTILES, percentile_min_n, summarize_times

M = TypeVar("M", bound=Model)
STAGES = ("read", "preprocess", "vision", "prefill", "decode")


@dataclass(frozen=True)
class Loaded(Generic[M]):
    """A model ready to answer. load_s: wall time from its name to there. rss_before: bytes before it was loaded;
    peak_reset: whether the peak was started anew then."""

    model: M
    device: str
    load_s: float
    rss_before: int | None
    peak_reset: bool


@dataclass(frozen=True)
class Timed:
    """One query: wall time from opening the picture to the whole answer, and its parts, in seconds."""

    total: float
    stages: dict[str, float]
    first_token: float
    answer: Answer


def load_timed(load: Callable[[], M]) -> Loaded[M]:
    """The model that `load` makes, the seconds it took, the resident bytes before it. Raises what `load` does."""
    gc.collect()
    reset = memory.reset_peak()
    before = memory.status_bytes("VmRSS")
    began = time.perf_counter()
    model = load()
    load_s = time.perf_counter() - began
    return Loaded(model, str(model.device or "cpu"), load_s, before, reset)


def ask(model: Model, sample: Sample, limit: int) -> Timed:
    """One query: read the picture, answer the question."""
    question = Question(sample.question, sample.kind, limit)
    began = time.perf_counter()
    picture = open_picture(sample.image)
    opened = time.perf_counter()
    answer = model.answer(picture, [question])[0]
    ended = time.perf_counter()
    read = opened - began
    stages = {"read": read, **{name: answer.seconds[name] for name in STAGES if name in answer.seconds}}
    first = read + answer.seconds.get("first_token", ended - opened)
    return Timed(ended - began, stages, first, answer)


def stream(
    model: Model, samples: Sequence[Sample], limit: int, *, min_seconds: float, max_queries: int, warmup: int
) -> tuple[list[Timed], list[Timed]]:
    """(warm-up queries, counted queries): one after the other, round and round the samples.

    It goes on for min_seconds and until there are enough queries for a median, but never past max_queries.
    """
    warm = [ask(model, samples[number % len(samples)], limit) for number in range(warmup)]
    timed: list[Timed] = []
    gc.collect()
    began = time.perf_counter()
    enough = percentile_min_n(PERCENTILES["p50"])
    while len(timed) < max_queries and (len(timed) < enough or time.perf_counter() - began < min_seconds):
        timed.append(ask(model, samples[len(timed) % len(samples)], limit))
    return warm, timed


def measure(
    loaded: Loaded[Any],
    queries: Mapping[str, Sequence[Sample]],
    *,
    limits: Mapping[str, int],
    min_seconds: float,
    max_queries: int,
    warmup: int,
) -> dict[str, Any]:
    """All kinds in turn. Returns plain JSON types:

    `load_s`; `memory`: `before_bytes`, `peak_bytes`, `peak_is_own` (false: the process had a larger peak before and it
    could not be started anew), `device_peak_bytes` (a GPU's, else null); `kinds`: for each kind `queries`,
    `samples` (different ones), `warmup`, `seconds`, `first_query_s` (the cold one, null without warm-up), `latency`,
    `first_token` and each of `stages` as `stats.summarize_times`, `queries_per_s`, `tokens_in`, `tokens_out` (means),
    `tokens_per_s` (tokens after the first one over decoding time; null when there are none).
    """
    kinds = {}
    for kind, samples in queries.items():
        say(f"bench {kind}: at least {min_seconds:g} s")
        warm, timed = stream(
            loaded.model, samples, limits[kind], min_seconds=min_seconds, max_queries=max_queries, warmup=warmup
        )
        kinds[kind] = summarise(warm, timed, len(samples))
    return {
        "load_s": round(loaded.load_s, 6),
        "memory": {
            "before_bytes": loaded.rss_before,
            "peak_bytes": memory.peak_bytes(),
            "peak_is_own": loaded.peak_reset,
            "device_peak_bytes": device_peak(loaded.device),
        },
        "kinds": kinds,
    }


def summarise(warm: Sequence[Timed], timed: Sequence[Timed], samples: int) -> dict[str, Any]:
    """The numbers of one kind."""
    seconds = sum(query.total for query in timed)
    later = sum(max(0, query.answer.tokens_out - 1) for query in timed)
    decoding = sum(query.stages.get("decode", 0.0) for query in timed if query.answer.tokens_out > 1)
    return {
        "queries": len(timed),
        "samples": min(samples, len(timed)),
        "warmup": len(warm),
        "seconds": round(seconds, 6),
        "first_query_s": round(warm[0].total, 6) if warm else None,
        "latency": summarize_times([query.total for query in timed]),
        "first_token": summarize_times([query.first_token for query in timed]),
        "stages": {
            name: summarize_times([query.stages[name] for query in timed if name in query.stages])
            for name in STAGES
            if any(name in query.stages for query in timed)
        },
        "queries_per_s": round(len(timed) / seconds, 6) if seconds else None,
        "tokens_in": round(sum(query.answer.tokens_in for query in timed) / len(timed), 3),
        "tokens_out": round(sum(query.answer.tokens_out for query in timed) / len(timed), 3),
        "tokens_per_s": round(later / decoding, 3) if later and decoding else None,
    }


def device_peak(device: str) -> int | None:
    """Peak memory on a GPU in bytes, None on a CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))
