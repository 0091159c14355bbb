"""How long one answer takes, stage by stage, and how much memory: one query after the other, on this machine as it is.

The scheme is MLPerf's SingleStream (the next query is sent when the last one is answered; warm-up; a minimum duration;
a percentile only where there are enough queries for it). Our numbers are not MLPerf results.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import artifact
from deckbench.artifact import Manifest
from deckbench.dataset import Sample, dataset_hash, read_samples
from deckbench.errors import InputError
from deckbench.machine import hardware
from deckbench.progress import say

if TYPE_CHECKING:
    from deckbench.bench.measure import Loaded

ENGINES = ("torch",)
WEIGHTS = ("checkpoint", "random")
# The watch case stops at the letter: one token. A description runs to its own end.
MAX_NEW_TOKENS = {"choice": 1, "scene": 128}


def bench(
    *,
    model: str,
    adapter: Path | None = None,
    data: Path,
    engine: str = "torch",
    out: Path,
    seed: int = 0,
    min_seconds: float = 10.0,
    max_queries: int = 5000,
    warmup: int = 3,
    weights: str = "checkpoint",
    threads: int | None = None,
) -> Manifest:
    """Ask test samples one by one and time them; choice (one token) and scene are measured apart.

    min_seconds: of each kind (and at least 5 queries, which a median needs), after `warmup` queries that are not
    counted; at most max_queries. weights: `random` fills
    the network with seeded noise: same work, meaningless answers, never ranked; it also takes the names of published
    models, which need no checkpoint. threads: of torch; default: its own.
    The artifact's content is what was asked of which model; the measured values are in `observed["results"]`, laid
    out as `measure.measure` says. Raises InputError.
    """
    from deckbench.bench.measure import measure

    if engine not in ENGINES:
        raise InputError(f"the engine {engine!r} is not here", "--engine", f"one of: {', '.join(ENGINES)}")
    if weights not in WEIGHTS:
        raise InputError(f"the weights {weights!r} are not known", "--weights", f"one of: {', '.join(WEIGHTS)}")
    counts = {"max_queries": (max_queries, 1), "warmup": (warmup, 0), "threads": (1 if threads is None else threads, 1)}
    for name, (value, least) in counts.items():
        if value < least:
            raise InputError(f"{name} is {value}", name, f"give a number from {least}")
    if not 0 < min_seconds < float("inf"):
        raise InputError(f"min_seconds is {min_seconds}", "min_seconds", "give a number of seconds above 0")
    artifact.check_free(Path(out))
    data_hash = dataset_hash(Path(data))
    queries = choose(read_samples(Path(data), "test"), seed)
    if not queries:
        raise InputError("the test part has no choice and no scene question", data, "give a dataset that has")
    params = {
        "engine": engine,
        "weights": weights,
        "min_seconds": min_seconds,
        "max_queries": max_queries,
        "warmup": warmup,
        "threads": threads,
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    asked = {kind: [sample.id for sample in samples] for kind, samples in queries.items()}
    with torch_threads(threads):
        state = hardware.state()
        loaded = load(model, adapter, weights, seed)
        identity = loaded.model.identity if weights == "checkpoint" else {**loaded.model.identity, "weights": weights}
        inputs = {"model": identity, "data": data_hash}
        with artifact.writing(Path(out), "bench", inputs=inputs, params=params, seed=seed) as draft:
            (draft.path / "queries.json").write_bytes(artifact.canonical(asked))
            results = measure(
                loaded,
                queries,
                limits=MAX_NEW_TOKENS,
                min_seconds=min_seconds,
                max_queries=max_queries,
                warmup=warmup,
            )
            draft.observed["results"] = {
                "engine": engine,
                "weights": weights,
                "parameters": loaded.model.parameters,
                **results,
                "hardware": hardware.describe(device=loaded.device),
                "state": {"start": state, "end": hardware.state()},
                "packages": hardware.packages(),
                "container": hardware.container(),
            }
    for kind, found in results["kinds"].items():
        median, n = found["latency"]["p50"], found["latency"]["n"]
        say(f"bench {kind}: {n} queries, " + ("too few for a median" if median is None else f"p50 {median:.4f} s"))
    return artifact.read(Path(out), "bench")


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


def load(model: str, adapter: Path | None, weights: str, seed: int) -> Loaded[Any]:
    """The loaded model with what loading cost. Raises InputError for what has no stages to time here."""
    from deckbench.bench.measure import load_timed
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
