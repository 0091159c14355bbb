"""What a model must beat: `majority`, `nearest` and `rule`. They answer samples of a dataset, and have no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deckbench.models.interface import FamilySpec, Model, Reference


def identity(ref: Reference) -> dict[str, Any]:
    return load(ref, "cpu", "auto").identity


def load(ref: Reference, device: str, dtype: str) -> Model:
    from deckbench.models import baselines

    return baselines.load(ref.text)


def path_in(place: str) -> Path | None:
    """A dataset, a pool or a folder of labels."""
    return Path(place) if place not in {"", "gold"} and Path(place).exists() else None


SPEC = FamilySpec(
    name="baselines",
    serves="baselines",
    known={
        "majority[:DATASET]": "baseline: the more frequent answer of the train part",
        "nearest[:DATASET]": "baseline: the answer of the most similar training frame",
        "cnn[:DATASET]": "baseline: a small network trained on the train part: the ceiling of supervision of this size",
        "rule:gold, rule:LABELS": "baseline: the ontology's rule applied to labels or to a detector's output",
    },
    identity=identity,
    load=load,
    prefixes=("majority", "nearest", "cnn", "rule"),
    engines=(),
    path_in=path_in,
)
