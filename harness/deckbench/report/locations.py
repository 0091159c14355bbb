"""Where the models of a board lose anomalies: a picture and a table, from the samples of their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from deckbench.errors import InputError
from deckbench.record.location import FIELDS, PLACES, Located, located
from deckbench.record.metrics_schema import Estimate
from deckbench.record.read import Run, read_samples
from deckbench.report.board import Board, Row
from deckbench.report.breakdown import Breakdown, Figure
from deckbench.report.charts import group, picture, tag

STAGES = ("S1", "S2", "S3")
MOST = 50_000  # samples of a record; larger ones are compared by `compare --stages`
FILLS = {"found": "#2f8f5b", "perception": "#a33b4b", "localisation": "#c8641e", "judgement": "#d9a93f"}
WIDTH, LINE, LEFT = 720, 26, 230


@dataclass(frozen=True)
class Locations:
    """What the front page shows of a board."""

    table: Breakdown
    chart: Markup


def locations(board: Board) -> Locations | None:
    """Of every row that was asked S1, S2 and S3 under one condition; None where there is none."""
    lines: list[tuple[Row, str, Located]] = []
    for row in board.rows:
        if not row.ranked:
            continue
        for condition in board.conditions:
            runs = runs_of(board, row, condition)
            found = None if runs is None else located_in(runs)
            if found is not None:
                lines.append((row, condition, found))
    if not lines:
        return None
    columns = ["found", *(f"lost at {place}" for place in PLACES)]
    cells = [(row, [figure(one) for one in (found.found, *found.lost.values())]) for row, _, found in lines]
    about = (
        "Each anomaly of a frame as a crop (S1), in a box (S2) and in the whole frame (S3). Missed ones are lost at "
        "perception (the crop is wrong), localisation (the crop is right, the box is not) or judgement (both are right)"
    )
    return Locations(Breakdown("Where anomalies are lost", about, columns, cells), chart(lines))


def runs_of(board: Board, row: Row, condition: str) -> list[Run] | None:
    """The records of a row's three stages; None where one is missing or large."""
    found: dict[str, Run] = {}
    for column in board.columns:
        cell = row.cells.get(column.key)
        if cell is not None and column.kind == "choice" and column.stage in STAGES and column.condition == condition:
            found.setdefault(column.stage, cell.run)
    runs = [found[stage] for stage in STAGES if stage in found]
    few = all(run.record.metrics is not None and run.record.metrics.n <= MOST for run in runs)
    return runs if len(runs) == len(STAGES) and few else None


def located_in(runs: Sequence[Run]) -> Located | None:
    """The events of three records; None where one cannot be read."""
    try:
        return located([[tuple(row[name] for name in FIELDS) for row in read_samples(run)] for run in runs])
    except InputError:
        return None


def figure(estimate: Estimate) -> Figure | None:
    """An estimate as a cell."""
    if estimate.value is None:
        return None
    low, high = estimate.interval or (None, None)
    return Figure(estimate.value, low, high, estimate.n)


def chart(lines: Sequence[tuple[Row, str, Located]]) -> Markup:
    """A bar for each row, parted into what is found and where the rest is lost."""
    inner, x = [], 12.0
    for name, fill in FILLS.items():
        words = name if name == "found" else f"lost at {name}"
        inner += [
            tag("rect", x=x, y=4, width=11, height=11, rx=2, fill=fill),
            tag("text", words, x=x + 16, y=14),
        ]
        x += 40 + 6.5 * len(words)
    several = len({condition for _, condition, _ in lines}) > 1
    for at, (row, condition, found) in enumerate(lines):
        y = 26 + at * LINE
        name = f"{row.model} {row.curriculum or ''}".strip() + (f", {condition}" if several else "")
        inner.append(tag("text", name if len(name) < 34 else name[:32] + "…", x=LEFT - 8, y=y + 13, text_anchor="end"))
        x = float(LEFT)
        for part, one in {"found": found.found, **found.lost}.items():
            width = (one.value or 0.0) * (WIDTH - LEFT - 10)
            low, high = one.interval or (0.0, 1.0)
            tip = f"{name}, {condition}: {part} {one.value or 0:.2f} ({low:.2f} to {high:.2f}), {one.k} of {one.n}"
            if width:
                inner.append(group([tag("rect", x=x, y=y, width=width, height=LINE - 9, fill=FILLS[part])], tip))
            x += width
    text = "For each model the share of anomalies found, and lost at perception, localisation and judgement."
    return picture(WIDTH, 30 + LINE * len(lines), "Where anomalies are lost", text, inner, "chart")
