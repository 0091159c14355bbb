"""Where an error sits: the same anomaly as a crop (S1), in a drawn box (S2) and in the whole frame (S3), paired.

An event is one anomaly of one frame. A missed one is lost at the first stage whose questions about it are not all
answered right: on the crop it is *perception*, in the box *localisation* (seen alone, not in its frame), with both
right *judgement* (seen where it is pointed to, not stopped for without).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deckbench.errors import InputError
from deckbench.score.plots import BLUE, COLORS, DARK, Plot, Row, shown

PLACES = ("perception", "localisation", "judgement")
STAGES = ("crop", "boxed", "whole")
Event = tuple[str, str]  # frame, class


def locate(predictions: Sequence[Path], data: Sequence[Path], *, seed: int = 0) -> dict[str, Any]:
    """Locate the missed anomalies of a model.

    Args:
        predictions: of S1, S2 and S3, by one model.
        data: their datasets, in the same order, of one pool.
        seed: of the bootstrap.

    Returns:
        Plain JSON types. `n` events that all three ask about, `left_out` others of S3, `groups`; `right`: share right
        at each of STAGES; `found`, and `lost` at each of PLACES, of all events, with 95% intervals over groups;
        `despite`: found in the whole frame although the crop or the box was answered wrongly; `paths`: how many events
        went which way, e.g. "right,wrong,wrong".

    Raises:
        InputError: the files are broken, do not fit their datasets, or share no event.
    """
    if len(predictions) != 3 or len(data) != 3:
        raise InputError("three prediction files and their three datasets are needed", "--stages", "S1 S2 S3, in order")
    from deckbench import stats
    from deckbench.record.answers import proportion

    tables = [graded(path, folder) for path, folder in zip(predictions, data, strict=True)]
    crops, boxes = (right_of(table) for table in tables[:2])
    frames = right_of(tables[2], verdicts=True)
    events = sorted(crops.keys() & boxes.keys() & frames.keys())
    if not events:
        raise InputError(
            "no anomaly is asked about in all three",
            ", ".join(map(str, predictions)),
            "give S1, S2 and S3 of one pool, in this order, with one split",
        )
    group = dict(zip(tables[2]["frame"], tables[2]["group"], strict=True))
    clusters = stats.clusters_of([group[frame] or frame for frame, _ in events], seed)
    rows = np.arange(len(events))
    right = np.array([[crops[event], boxes[event], frames[event]] for event in events], dtype=bool)
    missed = ~right[:, 2]
    lost = (missed & ~right[:, 0], missed & right[:, 0] & ~right[:, 1], missed & right[:, 0] & right[:, 1])

    def share(hits: Any) -> dict[str, Any]:
        return proportion(np.asarray(hits, dtype=np.float64), clusters, rows).model_dump(mode="json")

    paths: dict[str, int] = {}
    for row in right.tolist():
        key = ",".join("right" if one else "wrong" for one in row)
        paths[key] = paths.get(key, 0) + 1
    return {
        "n": len(events),
        "left_out": len(frames) - len(events),
        "groups": clusters.count,
        "right": {stage: share(right[:, at]) for at, stage in enumerate(STAGES)},
        "found": share(~missed),
        "lost": {place: share(hits) for place, hits in zip(PLACES, lost, strict=True)},
        "despite": share(~missed & ~(right[:, 0] & right[:, 1])),
        "paths": dict(sorted(paths.items())),
        "by_class": {
            cls: {
                place: int(sum(hits[i] for i, event in enumerate(events) if event[1] == cls))
                for place, hits in zip(PLACES, lost, strict=True)
            }
            for cls in sorted({cls for _, cls in events})
        },
    }


def graded(predictions: Path, data: Path) -> Any:
    """A prediction file with its dataset, graded. Raises InputError."""
    from deckbench.predictions import is_inferred, read_manifest
    from deckbench.predictions.read import read_predictions
    from deckbench.record import table as tables

    table, manifest = read_predictions(predictions), read_manifest(predictions)
    tables.check_data(manifest, predictions, data)
    joined = tables.join(table, predictions, tables.read_fields(data))
    return tables.grade_table(joined, inferred=is_inferred(manifest))


def right_of(table: Any, *, verdicts: bool = False) -> dict[Event, bool]:
    """Whether all choice questions about an event are answered right. verdicts: of those whose frame is an anomaly."""
    found: dict[Event, bool] = {}
    names = ("kind", "frame", "class", "anomaly", "right")
    for kind, frame, classes, anomaly, right in zip(*(table[name].tolist() for name in names), strict=True):
        if kind != "choice" or (verdicts and anomaly != "true"):
            continue
        for cls in {part.strip() for part in classes.split(";")} - {""}:
            found[frame, cls] = found.get((frame, cls), True) and right == "true"
    return found


def location_plot(result: dict[str, Any]) -> Plot:
    """Shares of events found and lost at each place, with intervals."""
    parts = {"found": result["found"], **{f"lost at {place}": one for place, one in result["lost"].items()}}
    rows: list[Row] = [(name, one["n"], one["value"], *shown(one)) for name, one in parts.items()]

    def draw(axes: Any, rows: Sequence[Row]) -> None:
        for place, ((_, _, value, low, high), color) in enumerate(zip(rows, (BLUE, *COLORS[1:]), strict=False)):
            axes.bar(place, value, color=color, alpha=0.85, width=0.6)
            error = None if low is None else [[max(0, value - low)], [max(0, high - value)]]
            axes.errorbar(place, value, yerr=error, fmt="o", ms=4, color=DARK, capsize=4, lw=1.2, clip_on=False)
        axes.set_xticks(range(len(rows)), [row[0].replace(" at ", " at\n") for row in rows])
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("share of anomalies, 95% interval")
        axes.grid(visible=False, axis="x")

    title = f"Where anomalies are lost (n={result['n']:,})"
    return Plot("location", title, ("part", "n", "share", "low", "high"), rows, draw, (5.4, 3.9))
