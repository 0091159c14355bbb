"""Where an error sits: one model's answers to S1, S2 and S3, paired by anomaly (`record.location`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deckbench.errors import InputError
from deckbench.record.location import FIELDS, PLACES, located
from deckbench.score.plots import BLUE, COLORS, DARK, Plot, Row, shown


def locate(predictions: Sequence[Path], data: Sequence[Path], *, seed: int = 0) -> dict[str, Any]:
    """Locate the missed anomalies of a model.

    Args:
        predictions: of S1, S2 and S3, by one model.
        data: their datasets, in the same order, of one pool.
        seed: of the bootstrap.

    Returns:
        Plain JSON types. `n` events that all three ask about, `left_out` others of S3, `groups`; `right`: share right
        at each stage; `found`, and `lost` at each place, of all events, with 95% intervals over groups;
        `despite`: found in the whole frame although the crop or the box was answered wrongly; `paths`: how many events
        went which way, e.g. "right,wrong,wrong".

    Raises:
        InputError: the files are broken, do not fit their datasets, or share no event.
    """
    if len(predictions) != 3 or len(data) != 3:
        raise InputError("three prediction files and their three datasets are needed", "--stages", "S1 S2 S3, in order")
    tables = [graded(path, folder) for path, folder in zip(predictions, data, strict=True)]
    stages = [list(zip(*(table[name].tolist() for name in FIELDS), strict=True)) for table in tables]
    found = located(stages, seed)
    if found is None:
        raise InputError(
            "no anomaly is asked about in all three",
            ", ".join(map(str, predictions)),
            "give S1, S2 and S3 of one pool, in this order, with one split",
        )
    paths = Counter(",".join("right" if one else "wrong" for one in row) for row in found.right.tolist())
    by_class: dict[str, dict[str, int]] = {cls: dict.fromkeys(PLACES, 0) for _, cls in found.events}
    for (_, cls), place in zip(found.events, found.place, strict=True):
        if place:
            by_class[cls][place] += 1
    return {
        "n": len(found.events),
        "left_out": found.left_out,
        "groups": found.groups,
        "right": {stage: one.model_dump(mode="json") for stage, one in found.stages.items()},
        "found": found.found.model_dump(mode="json"),
        "lost": {place: one.model_dump(mode="json") for place, one in found.lost.items()},
        "despite": found.despite.model_dump(mode="json"),
        "paths": dict(sorted(paths.items())),
        "by_class": dict(sorted(by_class.items())),
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
