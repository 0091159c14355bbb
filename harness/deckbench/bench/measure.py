"""Loading and asking with a stopwatch."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from deckbench.answer import Answer, Question
from deckbench.bench import memory
from deckbench.dataset import Sample
from deckbench.machine.conditions import Watch, disturbances, together
from deckbench.models.interface import Model
from deckbench.picture import open_picture
from deckbench.stats import summarize_times

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


@dataclass
class Segment:
    """The queries of one kind that were asked without a break. warm: not counted. conditions: as `Watch.end`, of the
    counted ones."""

    warm: list[Timed]
    timed: list[Timed]
    conditions: dict[str, Any]


def stream(
    model: Model, samples: Sequence[Sample], limit: int, *, min_seconds: float, fewest: int, most: int, warmup: int
) -> Segment:
    """One query after the other, round and round the samples: for min_seconds and at least `fewest`, at most `most`."""
    warm = [ask(model, samples[number % len(samples)], limit) for number in range(warmup)]
    timed: list[Timed] = []
    gc.collect()
    watch = Watch()
    began = time.perf_counter()
    while len(timed) < most and (len(timed) < fewest or time.perf_counter() - began < min_seconds):
        timed.append(ask(model, samples[len(timed) % len(samples)], limit))
        watch.sample()
    return Segment(warm, timed, watch.end())


def parts(segments: Sequence[Segment]) -> list[list[float]]:
    """Times to the first token in parts that should be alike: the segments, or the halves of a single one.

    A description's whole time depends on its length; this one does not.
    """
    times = [[query.first_token for query in segment.timed] for segment in segments]
    if len(times) > 1:
        return times
    half = len(times[0]) // 2
    return [times[0][:half], times[0][half:]]


def summarise(segments: Sequence[Segment], samples: int) -> dict[str, Any]:
    """The numbers of one kind, of all its segments together; plain JSON types. samples: how many could be asked.

    `queries`, `samples` (different ones), `warmup`, `seconds`, `first_query_s` (the cold one, null without warm-up),
    `latency`, `first_token` and each of `stages` as `stats.summarize_times`, `queries_per_s`, `tokens_in`,
    `tokens_out` (means), `tokens_per_s` (tokens after the first one over decoding time; null when there are none),
    `conditions` as `machine.conditions.Watch.end`, `disturbances`: why the times are not comparable.
    """
    timed = [query for segment in segments for query in segment.timed]
    warm = [query for segment in segments for query in segment.warm]
    conditions = together([segment.conditions for segment in segments])
    seconds = sum(query.total for query in timed)
    later = sum(max(0, query.answer.tokens_out - 1) for query in timed)
    decoding = sum(query.stages.get("decode", 0.0) for query in timed if query.answer.tokens_out > 1)
    return {
        "queries": len(timed),
        "samples": min(samples, max(len(segment.timed) for segment in segments)),
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
        "conditions": conditions,
        "disturbances": disturbances(conditions, parts(segments)),
    }
