"""Where missed anomalies are lost: each event (frame, class) on the crop (S1), in its box (S2), in the frame (S3).

An event is right at a stage where all its choice questions are. A missed one is lost at the first stage where it is
not: on the crop it is *perception*, in the box *localisation* (seen alone, not in its frame), with both right
*judgement* (seen where it is pointed to, not stopped for without).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deckbench import stats
from deckbench.record.answers import proportion
from deckbench.record.metrics_schema import Estimate

PLACES = ("perception", "localisation", "judgement")
STAGES = ("crop", "boxed", "whole")
FIELDS = ("kind", "frame", "class", "anomaly", "right", "group")
Event = tuple[str, str]  # frame, class


@dataclass(frozen=True)
class Located:
    """Events that all three stages ask about, and shares of them with intervals over groups.

    right: at each of STAGES, shape (n, 3). left_out: events of S3 that another stage does not ask about. despite: found
    in the whole frame although the crop or the box was answered wrongly.
    """

    events: Sequence[Event]
    right: Any
    left_out: int
    groups: int
    stages: Mapping[str, Estimate]
    found: Estimate
    lost: Mapping[str, Estimate]
    despite: Estimate

    @property
    def place(self) -> list[str]:
        """Where each event is lost; empty where it is found."""
        first = [PLACES[int(np.argmin(row))] for row in self.right]
        return ["" if row[2] else place for row, place in zip(self.right, first, strict=True)]


def right_of(rows: Iterable[Sequence[str]], *, verdicts: bool = False) -> dict[Event, bool]:
    """Event -> whether all choice questions about it are right. rows: FIELDS. verdicts: of anomalies alone."""
    found: dict[Event, bool] = {}
    for kind, frame, classes, anomaly, right, _ in rows:
        if kind != "choice" or not frame or (verdicts and anomaly != "true"):
            continue
        for cls in {part.strip() for part in classes.split(";")} - {""}:
            found[frame, cls] = found.get((frame, cls), True) and right == "true"
    return found


def located(stages: Sequence[Sequence[Sequence[str]]], seed: int = 0) -> Located | None:
    """Locate the missed anomalies of a model.

    Args:
        stages: its graded answers to S1, S2 and S3, each a list of rows of FIELDS.
        seed: of the bootstrap.

    Returns:
        None where no anomaly is asked about at all three.
    """
    crops, boxes = (right_of(rows) for rows in stages[:2])
    frames = right_of(stages[2], verdicts=True)
    events = sorted(crops.keys() & boxes.keys() & frames.keys())
    if not events:
        return None
    group = {row[1]: row[5] for row in stages[2]}
    clusters = stats.clusters_of([group[frame] or frame for frame, _ in events], seed)
    right = np.array([[crops[event], boxes[event], frames[event]] for event in events], dtype=bool)
    missed, seen = ~right[:, 2], right[:, 0] & right[:, 1]
    lost = (missed & ~right[:, 0], missed & right[:, 0] & ~right[:, 1], missed & seen)

    def share(hits: Any) -> Estimate:
        return proportion(np.asarray(hits, dtype=np.float64), clusters, np.arange(len(events)))

    return Located(
        events,
        right,
        len(frames) - len(events),
        clusters.count,
        {stage: share(right[:, at]) for at, stage in enumerate(STAGES)},
        share(~missed),
        {place: share(hits) for place, hits in zip(PLACES, lost, strict=True)},
        share(~missed & ~seen),
    )
