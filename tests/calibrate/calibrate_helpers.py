"""Answers of planted models: the truth is drawn from known odds, and what the model says of them is known too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from deckbench import artifact
from deckbench.predictions import CONTENT_NAME, PredictionFiles
from tests.score.score_helpers import COLUMNS, choice, make_data, write_csv

MODEL = {"name": "planted", "hash": "1" * 64, "adapter": "2" * 64, "dtype": "float32"}


def seal(path: Path, data: Path, split: str, model: dict[str, Any] | None = None) -> Path:
    """FILE.manifest.json as `infer` leaves it."""
    content = {
        "kind": "predictions",
        "inputs": {"data": artifact.read(data).content_hash, "model": MODEL if model is None else model},
        "params": {"split": split, "limit": None, "shard": None},
        "seed": None,
        "files": {CONTENT_NAME: {"sha256": artifact.hash_file(path), "size": path.stat().st_size}},
    }
    manifest = {"schema": 1, "content": content, "content_hash": artifact.hash_json(content), "observed": {}}
    PredictionFiles(path).manifest.write_text(json.dumps(manifest), encoding="utf-8")
    return path


def row(sample: dict[str, Any], p_anomaly: float | None) -> dict[str, Any]:
    """The answer of a model that gives an anomaly this probability, in eight decimals, as `infer` writes them."""
    found = {name: sample[name] for name in ("id", "pair_id", "kind", "question", "gold")} | {"tokens_in": 9}
    if p_anomaly is None:
        return found | {"prediction": "A", "parsed": "A"}
    p_a = p_anomaly if sample["option_a"] == "anomaly" else 1 - p_anomaly
    said = "A" if p_a >= 0.5 else "B"
    cells = {"p_a": f"{p_a:.8f}", "p_b": f"{1 - p_a:.8f}", "p_anomaly": f"{p_anomaly:.8f}"}
    return found | cells | {"prediction": said, "parsed": said, "tokens_out": 1}


def samples(n: int, part: str, rng: np.random.Generator, **more: Any) -> tuple[list[dict[str, Any]], Any]:
    """n questions of a part and their true log odds of an anomaly: what happens follows these odds, evenly spread."""
    odds = rng.normal(0, 2, n)
    order = np.argsort(odds)
    truth = np.zeros(n, dtype=bool)
    truth[order] = np.diff(np.floor(np.cumsum(1 / (1 + np.exp(-odds[order]))) + rng.random()), prepend=0) >= 1
    start = {"train": 0, "val": 100_000, "test": 200_000}[part]
    made = [
        choice(start + i, anomaly=bool(truth[i]), swap=bool(i % 2), split=part, group=f"{part}{i % 40}", **more)
        for i in range(n)
    ]
    return made, odds


def says(odds: Any, temperature: float) -> Any:
    """P(anomaly) of a model whose log odds are `temperature` times too large."""
    return 1 / (1 + np.exp(-temperature * odds))


def world(
    folder: Path, *, temperatures: dict[str, float], n: int = 600, seed: int = 0, model: dict[str, Any] | None = None
) -> tuple[Path, Path, Path]:
    """A dataset with val and test, and the answers of a model with a known temperature for each type of question.

    Returns dataset, predictions of val, predictions of test.
    """
    rng = np.random.default_rng(seed)
    parts: dict[str, tuple[list[Any], list[Any]]] = {"val": ([], []), "test": ([], [])}
    for number, (name, temperature) in enumerate(temperatures.items()):
        for part, (asked, rows) in parts.items():
            made, odds = samples(n, part, rng, question_type=name)
            for sample, p in zip(made, says(odds, temperature), strict=True):
                sample = sample | {"id": f"{name}-{sample['id']}", "pair_id": f"{number}-{sample['pair_id']}"}
                asked.append(sample)
                rows.append(row(sample, float(p)))
    data = make_data(folder / "data", [sample for asked, _ in parts.values() for sample in asked])
    files = [
        seal(write_csv(folder / f"{part}.csv", COLUMNS, rows), data, part, model) for part, (_, rows) in parts.items()
    ]
    return data, files[0], files[1]
