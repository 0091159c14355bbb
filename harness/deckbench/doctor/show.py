"""The report as a table on a terminal, as aligned lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from deckbench.doctor.finding import Finding

COLOURS = {"good": "green", "bad": "red", "absent": "yellow"}


def lines(findings: Sequence[Finding]) -> list[str]:
    """`STATE  NAME  FOUND`, each followed by its fix on a line of its own."""
    width = max((len(one.name) for one in findings), default=0)
    texts = []
    for one in findings:
        texts.append(f"{one.state:<6}  {one.name:<{width}}  {one.found}")
        if one.fix:
            texts.append(f"{'':<6}  {'':<{width}}  fix: {one.fix}")
    return texts


def table(findings: Sequence[Finding]) -> None:
    """Print a table to a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "checked", "found", "fix"):
        grid.add_column(title, overflow="fold")
    for one in findings:
        # Text, not markup: a name in brackets is no style
        grid.add_row(Text(one.state, COLOURS[one.state]), Text(one.name), Text(one.found), Text(one.fix))
    Console().print(grid)
