"""The plots of a score: each is a table, written as CSV and drawn from it as SVG and PNG.

The same score gives the same bytes with the same version of matplotlib: no dates, fixed ids, no random numbers.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench import stats
from deckbench.artifact import atomic_write_all
from deckbench.extras import require
from deckbench.predictions import csv_bytes

BLUE, ORANGE, GREY, DARK = "#1f5fa8", "#c8641e", "#b4b4b4", "#222222"
COLORS = (BLUE, ORANGE, "#2f8f5b", "#7a4fa3", "#a33b4b")
MOST_BARS = 40  # classes that are drawn; the CSV has all
STYLE = {
    **{"svg.hashsalt": "deckbench", "svg.fonttype": "path", "text.parse_math": False, "axes.axisbelow": True},
    **{"font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold"},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.grid": True},
    **{
        "grid.color": "#e4e4e4",
        "grid.linewidth": 0.8,
        "legend.frameon": True,
        "legend.edgecolor": "none",
        "legend.fontsize": 9,
    },
    **{"xtick.color": DARK, "ytick.color": DARK, "figure.facecolor": "white", "savefig.facecolor": "white"},
}
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Plot:
    """A table and how it is drawn. size: inches."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    draw: Callable[[Any, Sequence[Row]], None]
    size: tuple[float, float] = (4.8, 4.2)


def write_plots(score: Mapping[str, Any], folder: Path, *, more: Sequence[Plot] = ()) -> list[Path]:
    """Write the plots that a score has data for: `NAME.csv`, `NAME.svg` and `NAME.png` of each.

    Args:
        score: what `score.json` holds.
        folder: for the files; older ones of the same names are replaced.
        more: plots that need more than the score.

    Returns:
        The files.

    Raises:
        InputError: matplotlib is not installed.
    """
    require("matplotlib", "score --plots")
    files: dict[Path, bytes | str] = {}
    for plot in [*plots_of(score), *more]:
        cells = [[cell_of(value) for value in row] for row in plot.rows]
        files[folder / f"{plot.name}.csv"] = csv_bytes(plot.columns, cells)
        for ending, data in drawn(plot).items():
            files[folder / f"{plot.name}.{ending}"] = data
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_all(files)
    return list(files)


def cell_of(value: Any) -> str:
    """A value in the CSV: empty where unknown."""
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


def drawn(plot: Plot) -> dict[str, bytes]:
    """A plot as SVG and PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = {}
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class name in a script that the font lacks is drawn as boxes
        figure = Figure(figsize=plot.size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(plot.title, loc="left")
        plot.draw(axes, plot.rows)
        for ending, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, dpi=160, metadata=metadata)
            found[ending] = buffer.getvalue()
    return found


def shown(estimate: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The interval that is shown of an estimate: the hull of both that it has."""
    known = [bounds for bounds in (estimate["wilson"], estimate["cluster"]) if bounds is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else (None, None)


def plots_of(score: Mapping[str, Any]) -> list[Plot]:
    """The plots of what stands in `score.json`."""
    plots = []
    for kind, block in score["kinds"].items():
        if block["confusion"]:
            plots.append(confusion(kind, block["confusion"]))
        if block["by_class"]:
            rows = estimates(block["by_class"], "accuracy")
            plots.append(bars(f"{kind}-classes", f"Accuracy by class ({kind})", "class", rows, "accuracy"))
        if block["by_anomaly"]:
            rows = estimates(block["by_anomaly"], "miss_rate")
            plots.append(bars(f"{kind}-anomalies", f"Missed by kind of anomaly ({kind})", "anomaly", rows, "miss rate"))
        if block["roc"]:
            plots += rank_plots(kind, block)
        if block["reliability"]:
            series = {"as given": block["reliability"]}
            if kind == "choice" and score.get("calibration"):
                series["calibrated"] = score["calibration"]["after"]["reliability"]
            plots.append(reliability(kind, series))
    return plots


def estimates(slices: Mapping[str, Any], name: str) -> list[Row]:
    """(value, n, estimate, low, high) of each slice that has a metric."""
    found = [(value, part["metrics"].get(name)) for value, part in slices.items()]
    return [(value, one["n"], one["value"], *shown(one)) for value, one in found if one and one["value"] is not None]


def confusion(kind: str, counts: Mapping[str, int]) -> Plot:
    """Truth down, verdict across, the unparsed in a column of their own."""
    ends = {"anomaly": "as_anomaly", "normal": "as_normal", "unparsed": "unparsed"}
    rows = []
    for truth in ("anomaly", "normal"):
        total = sum(counts[f"{truth}_{end}"] for end in ends.values())
        for verdict, end in ends.items():
            count = counts[f"{truth}_{end}"]
            rows.append((truth, verdict, count, count / total if total else None))

    def draw(axes: Any, rows: Sequence[Row]) -> None:
        shares = [[row[3] or 0.0 for row in rows[start : start + 3]] for start in (0, 3)]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for place, (_, _, count, share) in enumerate(rows):
            y, x = divmod(place, 3)
            color = "white" if (share or 0) > 0.7 else DARK
            axes.text(x, y - 0.08, f"{count:,}", ha="center", va="center", fontsize=15, color=color)
            axes.text(x, y + 0.2, "" if share is None else f"{share:.1%}", ha="center", va="center", color=color)
        axes.axhline(0.5, color="white", lw=4)
        for edge in (0.5, 1.5):
            axes.axvline(edge, color="white", lw=4)
        axes.set_xticks(range(3), list(ends))
        axes.set_yticks(range(2), ["anomaly", "normal"])
        axes.tick_params(length=0)
        axes.set_xlabel("verdict")
        axes.set_ylabel("truth")

    return Plot(
        f"{kind}-confusion",
        f"Confusion matrix ({kind})",
        ("truth", "verdict", "count", "share"),
        rows,
        draw,
        (5.2, 3.4),
    )


def bars(name: str, title: str, what: str, rows: Sequence[Row], unit: str) -> Plot:
    """Horizontal bars with intervals, the longest first."""

    def draw(axes: Any, rows: Sequence[Row]) -> None:
        most = sorted(rows, key=lambda row: (-row[1], row[0]))[:MOST_BARS]
        kept = sorted(most, key=lambda row: (row[2], row[0]))
        places = range(len(kept))
        values = [row[2] for row in kept]
        axes.barh(places, values, color=BLUE, alpha=0.85, height=0.62)
        for place, (_, _, value, low, high) in zip(places, kept, strict=True):
            error = None if low is None else [[max(0, value - low)], [max(0, high - value)]]
            axes.errorbar(value, place, xerr=error, fmt="o", ms=4, color=DARK, capsize=3, lw=1.2, clip_on=False)
        labels = [f"{row[0] if len(row[0]) < 32 else row[0][:30] + '…'}  (n={row[1]:,})" for row in kept]
        axes.set_yticks(places, labels)
        axes.set_xlim(0, 1)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{unit}, 95% interval")

    height = 1.5 + 0.32 * min(len(rows), MOST_BARS)
    return Plot(name, title, (what, "n", unit.replace(" ", "_"), "low", "high"), rows, draw, (6.4, height))


def square(axes: Any, across: str, up: str) -> None:
    """The unit square."""
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    axes.set_xlabel(across)
    axes.set_ylabel(up)


def rank_plots(kind: str, block: Mapping[str, Any]) -> list[Plot]:
    """ROC curve and precision-recall curve of P(anomaly)."""
    area, missed, point = block["metrics"]["auroc"], block["metrics"]["miss_rate_at_5"], block["operating_point"]
    positives = missed["n"]
    negatives = area["n"] - positives
    roc = [(stops, hits) for stops, hits in block["roc"]]

    def draw_roc(axes: Any, rows: Sequence[Row]) -> None:
        low, high = shown(area)
        within = "" if low is None else f" ({low:.3f} to {high:.3f})"
        axes.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="chance")
        axes.plot(*zip(*rows, strict=True), color=BLUE, lw=2, label=f"AUROC {area['value']:.3f}{within}")
        if point:
            x, y = point["false_stop_rate"], 1 - point["miss_rate"]
            label = f"at most 5% false stops: misses {point['miss_rate']:.1%}"
            axes.plot([x], [y], "o", color=ORANGE, ms=7, label=label, clip_on=False)
        square(axes, "false-stop rate", "hit rate")
        axes.legend(loc="lower right")

    precise = [
        (hits, hits * positives / (hits * positives + stops * negatives))
        for stops, hits in roc
        if hits * positives + stops * negatives > 0
    ]
    share = positives / area["n"]

    def draw_precision(axes: Any, rows: Sequence[Row]) -> None:
        axes.axhline(share, color=GREY, ls="--", lw=1, label=f"share of anomalies, {share:.1%}")
        axes.plot(*zip(*rows, strict=True), color=BLUE, lw=2, label="P(anomaly)")
        square(axes, "recall", "precision")
        axes.legend(loc="best")

    return [
        Plot(f"{kind}-roc", f"ROC ({kind})", ("false_stop_rate", "hit_rate"), roc, draw_roc),
        Plot(
            f"{kind}-precision-recall",
            f"Precision and recall ({kind})",
            ("recall", "precision"),
            precise,
            draw_precision,
        ),
    ]


def reliability(kind: str, series: Mapping[str, Sequence[Mapping[str, Any]]]) -> Plot:
    """Observed frequency against predicted probability, with Wilson intervals; a dot's area grows with its samples."""
    rows: list[Row] = []
    for name, bins in series.items():
        for bar in bins:
            if bar["n"]:
                bounds = stats.wilson(round(bar["observed_frequency"] * bar["n"]), bar["n"]) or (None, None)
                rows.append((name, bar["n"], bar["mean_predicted"], bar["observed_frequency"], *bounds))

    def draw(axes: Any, rows: Sequence[Row]) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="perfectly calibrated")
        for color, name in zip(COLORS, series, strict=False):
            mine = [row for row in rows if row[0] == name]
            if not mine:
                continue
            most = max(row[1] for row in mine)
            x, y = [row[2] for row in mine], [row[3] for row in mine]
            errors = [[row[3] - row[4] for row in mine], [row[5] - row[3] for row in mine]]
            axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=color, alpha=0.5, capsize=2, lw=1)
            axes.plot(x, y, color=color, lw=1, alpha=0.6)
            axes.scatter(x, y, [14 + 80 * row[1] / most for row in mine], color=color, label=name, zorder=3)
        square(axes, "mean predicted probability", "observed frequency")
        axes.legend(loc="upper left")

    columns = ("series", "n", "mean_predicted", "observed_frequency", "low", "high")
    return Plot(f"{kind}-reliability", f"Reliability ({kind})", columns, rows, draw)
