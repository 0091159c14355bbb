"""How long answers took, for a record: from a bench, or from the times taken during inference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deckbench import stats
from deckbench.csvfile import csv_records
from deckbench.errors import InputError
from deckbench.predictions import PredictionFiles


def find_times(bench: Mapping[str, Any] | None, predictions: Path | None) -> dict[str, dict[str, Any]]:
    """Kind of answer -> `Latency`: what a bench measured, else what lies beside the predictions. Raises InputError."""
    found: dict[str, dict[str, Any]] = {}
    if predictions is not None:
        timings = PredictionFiles(predictions).timings
        found = latency_from_timings(timings) if timings.is_file() else {}
    if bench is not None:
        try:
            found |= latency_from_bench(bench)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"the bench results cannot be read: {error!r}", "bench", "bench again") from error
    return found


def latency_from_timings(path: Path, engine: str = "torch") -> dict[str, dict[str, Any]]:
    """Kind of answer -> `Latency`, from the times taken during inference (FILE.timings.csv).

    Questions asked together about a picture share its time, so a picture counts once; an answer's time is the sum of
    its stages. A kind with too few times for a median is left out. Raises InputError when the file is damaged.
    """
    rows = [row for _, row in csv_records(path, required=("id", "kind", "picture"))]
    stages = [name for name in ("preprocess", "vision", "prefill", "decode") if rows and f"{name}_s" in rows[0]]
    asked: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for row in rows:
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
        found[kind] |= {
            "tokens_per_s": entry.get("tokens_per_s"),
            "peak_memory_bytes": peak,
            "schedule": results["schedule"]["id"],
            "disturbances": entry["disturbances"],
        }
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


def percentiles(values: Iterable[float]) -> dict[str, float | None]:
    """p50, p90, p99 of times in seconds by nearest rank, and n; null where n is too small for one."""
    ordered = sorted(values)
    return {"n": len(ordered), **{name: stats.percentile(ordered, p) for name, p in stats.PERCENTILES.items()}}
