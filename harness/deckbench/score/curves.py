"""Plots that need more than one score, or more than a score: stage curves, accuracy against size of the anomaly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deckbench.errors import InputError
from deckbench.score.plots import BLUE, COLORS, DARK, GREY, Plot, Row, shown

SIZES = 6  # parts of equal numbers of samples
LEAST = 20  # samples of known size


def parse_curves(given: Sequence[str]) -> dict[str, Path]:
    """`NAME=score.json` -> name and file, in the order given. Raises InputError naming what is wrong."""
    found: dict[str, Path] = {}
    for text in given:
        name, sign, path = text.partition("=")
        if not sign or not name.strip() or not path:
            raise InputError(f"{text!r} is not NAME=score.json", "--curve", "e.g. --curve base=scores/base.json")
        if name.strip() in found:
            raise InputError(f"the name {name.strip()!r} is given twice", "--curve", "name each score once")
        found[name.strip()] = Path(path)
    return found


def stage_curve(curves: Mapping[str, Path]) -> Plot:
    """Accuracy of each kind of question over several scores, e.g. base, S1, S1+S2. Raises InputError."""
    from deckbench.record.scores import read_score

    rows: list[Row] = []
    for name, path in curves.items():
        for kind, block in read_score(path).model_dump(mode="json")["kinds"].items():
            one = block["metrics"]["accuracy"]
            rows.append((name, kind, one["n"], one["value"], *shown(one)))

    def draw(axes: Any, rows: Sequence[Row]) -> None:
        names = list(curves)
        kinds = sorted({row[1] for row in rows})
        for at, (color, kind) in enumerate(zip(COLORS, kinds, strict=False)):
            mine = [row for row in rows if row[1] == kind and row[3] is not None]
            x = [names.index(row[0]) + 0.05 * (at - (len(kinds) - 1) / 2) for row in mine]
            y = [row[3] for row in mine]
            errors = [[row[3] - row[4] for row in mine], [row[5] - row[3] for row in mine]]
            axes.errorbar(x, y, yerr=errors, color=color, marker="o", lw=2, capsize=3, elinewidth=1.2, label=kind)
        axes.set_xticks(range(len(names)), [name if len(name) < 20 else name[:18] + "…" for name in names])
        axes.set_xlim(-0.4, len(names) - 0.6)
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("accuracy, 95% interval")
        axes.grid(visible=False, axis="x")
        axes.legend(loc="best", title="kind of question", title_fontsize=9)

    columns = ("score", "kind", "n", "accuracy", "low", "high")
    return Plot("stages", "Accuracy over the curriculum", columns, rows, draw, (max(4.8, 1.6 + 1.2 * len(curves)), 4.0))


def sizes_of(table: Any, data: Path) -> Any:
    """The share of its frame that the anomaly of each sample takes; NaN where no label says it. Shape (n,)."""
    from deckbench.gold import read_lines

    areas: dict[tuple[str, str], float] = {}
    for line in read_lines(data) or ():
        for one in line.get("boxes") or ():
            x0, y0, x1, y1 = one["box"]
            key = str(line["frame"]), str(one["class"])
            areas[key] = max(areas.get(key, 0.0), (x1 - x0) * (y1 - y0))
    cells = zip(table["frame"], table["class"], strict=True)
    known = [[areas.get((frame, cls.strip()), np.nan) for cls in classes.split(";")] for frame, classes in cells]
    return np.array([max((a for a in row if a == a), default=np.nan) for row in known])


def size_plots(table: Any, data: Path, seed: int) -> list[Plot]:
    """Anomalies found against their size, for each kind of question with enough of them."""
    from deckbench import stats
    from deckbench.record.answers import Answers, groups_of

    if not data.is_dir():
        return []
    sizes = sizes_of(table, data)
    labels, _, _ = groups_of(table)
    answers = Answers(table, stats.clusters_of(labels, seed))
    plots = []
    for kind in ("choice", "scene"):
        rows = np.flatnonzero((answers.kind == kind) & answers.truth & np.isfinite(sizes))
        if len(rows) < LEAST:
            continue
        edges = np.unique(np.quantile(sizes[rows], np.linspace(0, 1, SIZES + 1)))
        place = np.clip(np.searchsorted(edges, sizes[rows], side="right") - 1, 0, max(0, len(edges) - 2))
        found: list[Row] = []
        for part in range(max(1, len(edges) - 1)):
            mine = rows[place == part]
            if len(mine):
                one = answers.share(answers.right, mine).model_dump(mode="json")
                bounds = shown(one)
                found.append((float(np.median(sizes[mine])), len(mine), one["value"], *bounds))
        plots.append(size_plot(kind, found))
    return plots


def size_plot(kind: str, rows: Sequence[Row]) -> Plot:
    """One curve on a logarithmic axis."""

    def draw(axes: Any, rows: Sequence[Row]) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

        x, y = [100 * row[0] for row in rows], [row[2] for row in rows]
        errors = [[row[2] - row[3] for row in rows], [row[4] - row[2] for row in rows]]
        axes.axhline(0.5, color=GREY, ls="--", lw=1)
        axes.errorbar(
            x, y, yerr=errors, color=BLUE, ecolor=DARK, marker="o", lw=2, capsize=3, elinewidth=1.1, clip_on=False
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}%")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("size of the anomaly, share of the frame")
        axes.set_ylabel("found, 95% interval")

    columns = ("share_of_frame", "n", "found", "low", "high")
    return Plot(f"{kind}-size", f"Found by size of the anomaly ({kind})", columns, rows, draw, (5.2, 3.9))
