"""Three plots of a score as SVG text: confusion matrix, ROC curve, reliability. Deterministic, no library."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from deckbench.artifact import atomic_write

SIDE, EDGE = 280, 48
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.axis{stroke:#888;fill:none}.line{stroke:#1f5fa8;fill:none;"
    "stroke-width:2}.guide{stroke:#bbb;stroke-dasharray:4 3}.bar{fill:#1f5fa8}.big{font-size:18px;font-weight:600}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.line{stroke:#7db4ee}.bar{fill:#7db4ee}}"
)


def svg(title: str, body: list[str], width: int = SIDE + 2 * EDGE, height: int = SIDE + 2 * EDGE) -> str:
    """An SVG document with a title for screen readers."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" width="{width}" '
        f'height="{height}"><title>{escape(title)}</title><style>{STYLE}</style>' + "".join(body) + "</svg>\n"
    )


def text(x: float, y: float, what: str, anchor: str = "middle", kind: str = "") -> str:
    """One line of text; `what` is escaped."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(what)}</text>'


def place(x: float, y: float) -> tuple[float, float]:
    """Unit square to pixels."""
    return EDGE + x * SIDE, EDGE + (1 - y) * SIDE


def axes(across: str, up: str) -> list[str]:
    """A unit square with its diagonal and two labelled axes."""
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    parts = [
        f'<rect class="axis" x="{x0}" y="{y1}" width="{SIDE}" height="{SIDE}"/>',
        f'<line class="guide" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>',
        text(EDGE + SIDE / 2, y0 + 36, across),
        f'<g transform="rotate(-90 14 {EDGE + SIDE / 2})">{text(14, EDGE + SIDE / 2, up)}</g>',
    ]
    for tick in (0.0, 0.5, 1.0):
        x, y = place(tick, tick)
        parts += [text(x, y0 + 18, f"{tick:g}"), text(x0 - 6, y + 4, f"{tick:g}", "end")]
    return parts


def draw_confusion(counts: dict[str, int]) -> str:
    """Truth down, verdict across, the unparsed in a column of their own."""
    cell = 90
    body = [text(120 + cell * (i + 0.5), 30, name) for i, name in enumerate(("anomaly", "normal", "unparsed"))]
    for i, truth in enumerate(("anomaly", "normal")):
        row = [counts[f"{truth}_{end}"] for end in ("as_anomaly", "as_normal", "unparsed")]
        total = sum(row)
        body.append(text(110, 40 + cell * (i + 0.5) + 4, f"is {truth}", "end"))
        for j, count in enumerate(row):
            x, y = 120 + cell * j, 40 + cell * i
            share = count / total if total else 0.0
            box = f'x="{x}" y="{y}" width="{cell - 4}" height="{cell - 4}"/>'
            body += [
                f'<rect class="bar" fill-opacity="{0.6 * share:.3f}" {box}',
                f'<rect class="axis" {box}',
                text(x + cell / 2 - 2, y + cell / 2 - 4, str(count), kind="big"),
                text(x + cell / 2 - 2, y + cell / 2 + 16, f"{100 * share:.1f}%" if total else ""),
            ]
    return svg("Confusion matrix: truth against verdict", body, 120 + 3 * cell + 10, 40 + 2 * cell + 10)


def draw_roc(points: list[list[float]], operating: dict[str, Any] | None) -> str:
    """Hit rate against false-stop rate, with the operating point."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(a, b) for a, b in points))
    body = [*axes("false-stop rate", "hit rate"), f'<polyline class="line" points="{path}"/>']
    if operating is not None:
        x, y = place(operating["false_stop_rate"], 1 - operating["miss_rate"])
        body.append(f'<circle class="bar" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        body.append(text(x + 8, y + 14, f"miss rate {operating['miss_rate']:.3f}", "start"))
    return svg("ROC curve of p_anomaly", body)


def draw_reliability(bars: list[dict[str, Any]]) -> str:
    """Observed frequency against predicted probability; a dot's area grows with its number of samples."""
    most = max(bar["n"] for bar in bars)
    body = axes("mean predicted probability", "observed frequency")
    for bar in bars:
        if bar["n"]:
            x, y = place(bar["mean_predicted"], bar["observed_frequency"])
            radius = 2 + 8 * (bar["n"] / most) ** 0.5
            body.append(f'<circle class="bar" fill-opacity="0.7" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>')
    return svg("Reliability diagram", body)


def write_plots(score: dict[str, Any], folder: Path) -> list[Path]:
    """Write the plots that a score has data for: `<kind>-confusion.svg`, `-roc.svg`, `-reliability.svg`."""
    pictures: dict[str, str] = {}
    for kind, block in score["kinds"].items():
        if block["confusion"]:
            pictures[f"{kind}-confusion.svg"] = draw_confusion(block["confusion"])
        if block["roc"]:
            pictures[f"{kind}-roc.svg"] = draw_roc(block["roc"], block["operating_point"])
        if block["reliability"]:
            pictures[f"{kind}-reliability.svg"] = draw_reliability(block["reliability"])
    for name, picture in pictures.items():
        atomic_write(folder / name, picture)
    return [folder / name for name in pictures]
