"""Times on a board: only those that can be compared are ranked, and the page says how they were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deckbench.record.read import read_all
from deckbench.report import report
from deckbench.report.board import boards_of, points_of
from tests.record import fake


def boards(folder: Path, *changes: dict[str, Any]) -> Any:
    """The board of one record for each change of its latency."""
    for number, change in enumerate(changes):
        times = {"latency": {"choice": {**fake.times(0.1 * (number + 1)), **change}}}
        fake.record(folder / "records", folder / "work", model=f"model-{number}", instead=times)
    return boards_of(read_all(folder / "records")[0])[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"disturbances": ["other processes used 45% of the processor"]}, "other processes used 45% of the processor"),
        ({"disturbances": None}, "nothing says what the machine did meanwhile"),
        ({"source": "timings"}, "taken during inference"),
    ],
)
def test_times_that_cannot_be_compared_are_not_ranked(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    board = boards(tmp_path, {}, change)
    task = board.tasks[0]
    assert {point.label: point.seconds for point in points_of(board, task, "choice")} == {
        row.name: None if row.latency.incomparable else 0.1 for row in board.rows
    }
    report(tmp_path / "records", out=tmp_path / "site")
    page = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert page.count("data-latency=") == 1 and f"not comparable: {words}" in page
    assert any(f"Not comparable: {words}." in path.read_text() for path in (tmp_path / "site/runs").glob("*.html"))


@pytest.mark.parametrize(
    ("schedules", "words"),
    [
        (("a", "a"), "All times were measured in one schedule"),
        (("a", "b"), "The times were not measured in one schedule"),
        (("a",), ""),
    ],
)
def test_the_board_says_whether_the_models_took_turns(tmp_path: Path, schedules: tuple[str, ...], words: str) -> None:
    board = boards(tmp_path, *({"schedule": name} for name in schedules))
    assert board.schedule.startswith(words) and bool(board.schedule) == bool(words)
    report(tmp_path / "records", out=tmp_path / "site")
    assert board.schedule in (tmp_path / "site/index.html").read_text(encoding="utf-8")
