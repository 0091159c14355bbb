"""Baselines: what a model must beat. They answer samples, and never read the asked sample's own gold answer.

`majority[:DATASET]`, `nearest[:DATASET]` and `cnn[:DATASET]` learn from a dataset's train part; `rule:gold` and
`rule:FOLDER` apply the ontology to labels or to a detector's output.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deckbench.errors import InputError
from deckbench.record.schema import BASELINES

if TYPE_CHECKING:
    from deckbench.models.baselines.base import Baseline

__all__ = ["load"]

NAMES = BASELINES


def load(ref: str) -> Baseline:
    """The baseline behind `ref`; files are read when the first sample is asked. Raises InputError.

    `majority`, `nearest`, `cnn`: learn from the train part of the asked dataset, or of the one named after the colon.
    `rule:gold`: the labels that the asked dataset carries. `rule:FOLDER`: a pool, or a folder of YOLO texts such as a
    detector writes.
    """
    name, _, place = ref.partition(":")
    if name not in NAMES or (place == "" and (":" in ref or name == "rule")):
        raise InputError(
            f"{ref!r} is not a baseline", "model", "majority, nearest, cnn, rule:gold or rule:LABELS_FOLDER"
        )
    if name == "rule":
        from deckbench.models.baselines.rule import Rule

        return Rule(None if place == "gold" else Path(place))
    if name == "cnn":
        from deckbench.models.baselines.cnn import Cnn

        return Cnn(Path(place) if place else None)
    if name == "majority":
        from deckbench.models.baselines.majority import Majority

        return Majority(Path(place) if place else None)
    from deckbench.models.baselines.nearest import Nearest

    return Nearest(Path(place) if place else None)
