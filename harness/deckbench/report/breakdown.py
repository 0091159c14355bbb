"""What a board of real frames shows beside its table: credit, distance from chance, kinds of anomaly, views."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from deckbench.record.metrics_schema import Block, Estimate
from deckbench.report.board import Board, Column, Row

MAJORITY = "majority"


@dataclass(frozen=True)
class Figure:
    """A number with its interval, which may lie below 0. above: the interval lies above what it is compared with."""

    value: float
    low: float | None
    high: float | None
    n: int
    above: bool = False


@dataclass(frozen=True)
class Breakdown:
    """A table: a line for each row of the board."""

    title: str
    about: str
    columns: list[str]
    lines: list[tuple[Row, list[Figure | None]]]


def credits_of(board: Board) -> list[str]:
    """Whom the pictures of a board come from, each said once."""
    runs = (cell.run for row in board.rows for cell in row.cells.values())
    return list(dict.fromkeys(run.record.pool.credit.text for run in runs if run.record.pool.credit is not None))


def breakdowns(board: Board) -> list[Breakdown]:
    """The tables of a board of real frames, of its A/B answers: those that have any figure."""
    columns = [column for column in board.columns if column.kind == board.first_kind]
    main = next((column for column in columns if column.key == board.first_sort), None)
    tables = [above_majority(board, columns)]
    if main is not None:
        words = f"{main.task}, {main.condition}"
        kinds, found = by_slice(board, main, "by_anomaly", "miss_rate", turned)
        passed = [turned(row.cells[main.key].block.metrics.get("false_stop_rate")) for row, _ in found]
        found = [(row, [*cells, normal]) for (row, cells), normal in zip(found, passed, strict=True)]
        about = f"{words}: share of the anomalies of a kind, and of the normal checks, that were called so"
        tables.append(Breakdown("Found, by kind of anomaly", about, [*kinds, "normal"], found))
        views, seen = by_slice(board, main, "by_view", "balanced_accuracy", lambda e: figure(e, 0.5))
        about = f"{words}: from where the camera looks, and how near; in bold where the whole interval lies above 0.5"
        tables.append(Breakdown("Balanced accuracy, by view", about, views, seen))
    return [table for table in tables if any(cell for _, cells in table.lines for cell in cells)]


def above_majority(board: Board, columns: Iterable[Column]) -> Breakdown:
    """Accuracy less what the majority's answer reaches on the same questions."""
    columns = list(columns)
    majority = {
        key: e.value
        for row in board.rows
        if row.model == MAJORITY
        for key, cell in row.cells.items()
        if (e := cell.estimate("accuracy")) is not None
    }
    lines = []
    for row in board.rows:
        if not row.ranked or row.model == MAJORITY:
            continue
        cells: list[Figure | None] = []
        for column in columns:
            cell, against = row.cells.get(column.key), majority.get(column.key)
            estimate = cell.estimate("accuracy") if cell is not None else None
            cells.append(None if against is None else figure(estimate, against, less=against))
        lines.append((row, cells))
    names = [f"{column.task}, {column.condition}" for column in columns]
    about = "Accuracy less that of the most frequent answer; in bold where the whole interval lies above it"
    return Breakdown("How far above the majority", about, names, lines)


def by_slice(
    board: Board, column: Column, part: str, metric: str, make: Callable[[Estimate | None], Figure | None]
) -> tuple[list[str], list[tuple[Row, list[Figure | None]]]]:
    """Column names and lines of one breakdown of a block."""
    blocks: list[tuple[Row, Block]] = [
        (row, row.cells[column.key].block) for row in board.rows if row.ranked and column.key in row.cells
    ]
    names = sorted({name for _, block in blocks for name in getattr(block, part)})
    lines = []
    for row, block in blocks:
        cells: list[Figure | None] = []
        for name in names:
            found = getattr(block, part).get(name)
            cells.append(make(found.metrics.get(metric) if found is not None else None))
        lines.append((row, cells))
    return names, lines


def figure(estimate: Estimate | None, against: float, *, less: float = 0.0) -> Figure | None:
    """An estimate, less a number."""
    if estimate is None or estimate.value is None:
        return None
    low, high = estimate.interval or (None, None)
    above = low is not None and low > against
    shifted = (None if low is None else low - less, None if high is None else high - less)
    return Figure(estimate.value - less, *shifted, estimate.n, above)


def turned(estimate: Estimate | None) -> Figure | None:
    """What was found, of what was missed."""
    if estimate is None or estimate.value is None:
        return None
    low, high = estimate.interval or (None, None)
    return Figure(1 - estimate.value, None if high is None else 1 - high, None if low is None else 1 - low, estimate.n)
