"""Pictures as inline SVG, written by hand: no library, no script, colours from the page's style sheet.

Every chart has a title and a description for screen readers, a tooltip (`<title>`) at every point, and draws the
interval of every number. Coordinates are in CSS pixels of the `viewBox`; the picture scales with the page. All text is
escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from deckbench.record.metrics_schema import Estimate, OperatingPoint, ReliabilityBin
from deckbench.record.schema import CURRICULA
from deckbench.stats import wilson

COLOURS = 10


def seconds(value: float | None) -> str:
    """A time for people: `850 µs`, `12.3 ms`, `1.24 s`; an en dash where there is none."""
    if value is None:
        return "–"
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{value * 1e3:.3g} ms" if value < 0.9995 else "1 s"
    return f"{value:.3g} s" if value < 1000 else f"{value:.0f} s"


def tag(name: str, text: str | None = None, **attributes: object) -> str:
    """One SVG element; `cls` is the class, `_` in names becomes `-`. Attributes and text are escaped."""
    parts = []
    for key, value in attributes.items():
        label = "class" if key == "cls" else key.replace("_", "-")
        if isinstance(value, int):
            shown = str(value)
        elif isinstance(value, float):
            shown = f"{value:.2f}".rstrip("0").rstrip(".")
        else:
            shown = str(escape(value))
        parts.append(f' {label}="{shown}"')
    joined = "".join(parts)
    return f"<{name}{joined}/>" if text is None else f"<{name}{joined}>{escape(text)}</{name}>"


def group(inner: Iterable[str], tip: str, **attributes: object) -> str:
    """A `<g>` whose tooltip is `tip`; `inner` is SVG made by `tag`."""
    head = tag("g", None, **attributes)[:-2]
    return f"{head}>{tag('title', tip)}{''.join(inner)}</g>"


def picture(width: int, height: int, title: str, text: str, inner: Iterable[str], cls: str) -> Markup:
    """The outer `<svg>` with title and description."""
    head = f'<svg class="{cls}" viewBox="0 0 {width} {height}" role="img" xmlns="http://www.w3.org/2000/svg">'
    return Markup(head + tag("title", title) + tag("desc", text) + "".join(inner) + "</svg>")


def whisker(estimate: Estimate, chance: float | None) -> Markup:
    """The small bar in a cell of a board: track, chance mark, 95% interval, value. 100 x 12, from 0 to 1."""
    inner = [tag("rect", x=0, y=5, width=100, height=2, rx=1, cls="track")]
    if chance is not None:
        inner.append(tag("rect", x=chance * 100 - 0.5, y=2, width=1, height=8, cls="chance"))
    if estimate.interval:
        low, high = estimate.interval
        inner.append(tag("rect", x=low * 100, y=3, width=max(1.0, (high - low) * 100), height=6, rx=3, cls="range"))
    if estimate.value is not None:
        inner.append(tag("circle", cx=min(97.0, max(3.0, estimate.value * 100)), cy=6, r=3, cls="dot"))
    return Markup(f'<svg class="whisker" viewBox="0 0 100 12" aria-hidden="true">{"".join(inner)}</svg>')


def deck() -> Markup:
    """The drawing on the front page: twelve slots as the OT-2 numbers them, one plate crooked and boxed."""
    parts = [tag("rect", x=1, y=1, width=398, height=268, rx=12, cls="plate")]
    for slot in range(12):
        x, y = 16 + (slot % 3) * 124, 14 + (3 - slot // 3) * 62
        parts.append(tag("rect", x=x, y=y, width=116, height=54, rx=5, cls="slot"))
        if slot in (2, 11):
            continue
        turn = f"rotate(-9 {x + 58} {y + 27})" if slot == 4 else "rotate(0)"
        parts.append(tag("rect", x=x + 12, y=y + 7, width=92, height=40, rx=3, cls="ware", transform=turn))
        for well in range(24):
            cx, cy = x + 20 + (well % 8) * 11, y + 16 + (well // 8) * 11
            parts.append(tag("circle", cx=cx, cy=cy, r=2.6 if slot % 2 else 3.4, cls="well", transform=turn))
    parts.append(tag("rect", x=136, y=132, width=124, height=68, rx=4, cls="wrong"))
    parts.append(tag("rect", x=134.8, y=116, width=38, height=17, rx=3, cls="label"))
    parts.append(tag("text", "stop", x=154, y=128.5, cls="said"))
    return picture(400, 270, "A robot deck", "Twelve slots seen from above; one plate is crooked.", parts, "deck")


@dataclass(frozen=True)
class Point:
    """One measured accuracy.

    curriculum: None for a baseline. seconds: p50 of an answer, or None. place: of the condition among those of the
    board; 0 is drawn filled, others hollow and dashed.
    """

    series: str
    colour: int
    label: str
    curriculum: str | None
    estimate: Estimate
    seconds: float | None
    condition: str
    place: int

    def tip(self) -> str:
        """What the tooltip says: the number is never without its interval and n."""
        found = self.estimate.interval
        text = f"{self.label}, {self.condition}: "
        text += "no value" if self.estimate.value is None else f"{self.estimate.value:.3f}"
        text += f" (95% {found[0]:.3f} to {found[1]:.3f})" if found else ""
        return text + f", n {self.estimate.n}" + (f", {seconds(self.seconds)}" if self.seconds is not None else "")


@dataclass(frozen=True)
class Frame:
    """The plotting area and the vertical scale of an accuracy chart."""

    width: int
    height: int
    low: float
    left: int = 38
    right: int = 12
    top: int = 12
    bottom: int = 40

    def y(self, value: float) -> float:
        """Pixel of an accuracy; what lies below the axis is drawn on it."""
        share = (max(self.low, min(1.0, value)) - self.low) / (1 - self.low)
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def axes(self, chance: float | None) -> list[str]:
        """Horizontal grid with numbers, and the chance line."""
        parts = []
        step = 0.1 if self.low >= 0.45 else 0.2
        for index in range(round((1 - self.low) / step) + 1):
            value = 1 - index * step
            parts.append(
                tag("line", x1=self.left, x2=self.width - self.right, y1=self.y(value), y2=self.y(value), cls="grid")
            )
            parts.append(tag("text", f"{value:.1f}", x=self.left - 7, y=self.y(value) + 4, cls="tick end"))
        if chance is not None and chance >= self.low:
            y = self.y(chance)
            parts.append(tag("line", x1=self.left, x2=self.width - self.right, y1=y, y2=y, cls="chance-line"))
            parts.append(tag("text", "chance", x=self.width - self.right, y=y - 4, cls="tick end soft"))
        return parts


def lowest(points: Sequence[Point]) -> float:
    """Where the accuracy axis starts: a multiple of 0.2 not above any interval, at most 0.4."""
    lows = [p.estimate.interval[0] if p.estimate.interval else (p.estimate.value or 0.0) for p in points]
    return max(0.0, min(0.4, math.floor(min(lows, default=0.4) * 5) / 5))


def mark(point: Point, x: float, frame: Frame) -> str:
    """A point with its whisker: filled for the same distribution, hollow for shifted."""
    parts = []
    if point.estimate.interval:
        low, high = point.estimate.interval
        parts.append(tag("line", x1=x, x2=x, y1=frame.y(low), y2=frame.y(high), cls="bar"))
    if point.estimate.value is not None:
        y = frame.y(point.estimate.value)
        if point.curriculum is None:
            shape = f"M{x - 4.5:.1f} {y:.1f}L{x:.1f} {y - 4.5:.1f}L{x + 4.5:.1f} {y:.1f}L{x:.1f} {y + 4.5:.1f}Z"
            parts.append(tag("path", d=shape, cls="hollow" if point.place else "full"))
        else:
            parts.append(tag("circle", cx=x, cy=y, r=4.0, cls="hollow" if point.place else "full"))
    return group(parts, point.tip(), cls=f"c{point.colour}")


def stage_chart(points: Sequence[Point], title: str, chance: float | None) -> Markup:
    """Accuracy by curriculum, one line a model and condition; baselines stand in a column of their own at the right."""
    frame = Frame(420, 280, lowest(points))
    stages = sorted({p.curriculum for p in points if p.curriculum is not None}, key=curriculum_order)
    still = [p for p in points if p.curriculum is None]
    columns = [*stages, "baselines"] if still else stages
    room = (frame.width - frame.left - frame.right) / max(1, len(columns))
    parts = frame.axes(chance)
    for index, name in enumerate(columns):
        x = frame.left + room * (index + 0.5)
        parts.append(tag("text", name, x=x, y=frame.height - frame.bottom + 20, cls="tick middle"))
    keys = list(dict.fromkeys((p.series, p.place) for p in points if p.curriculum is not None))
    places: list[tuple[Point, float]] = []
    for number, key in enumerate(keys):
        offset = room * 0.5 * ((number + 0.5) / len(keys) - 0.5)
        spots = []
        for index, name in enumerate(stages):
            x = frame.left + room * (index + 0.5) + offset
            spots += [(p, x) for p in points if (p.series, p.place) == key and p.curriculum == name]
        line = [f"{x:.1f},{frame.y(p.estimate.value):.1f}" for p, x in spots if p.estimate.value is not None]
        if len(line) > 1:
            cls = f"c{spots[0][0].colour} link" + (" dash" if key[1] else "")
            parts.append(tag("polyline", points=" ".join(line), cls=cls))
        places += spots
    for number, point in enumerate(still):
        places.append((point, frame.left + room * (len(columns) - 0.9 + 0.8 * (number + 0.5) / len(still))))
    parts += [mark(point, x, frame) for point, x in places]
    text = "; ".join(point.tip() for point, _ in places[:24]) + ("; and more" if len(places) > 24 else "")
    return picture(frame.width, frame.height, title, text, parts, "chart")


def curriculum_order(name: str | None) -> tuple[int, str]:
    """Sort key: base, then more and more stages; names of a lab's own last; None (a baseline) first."""
    if name is None:
        return -1, ""
    return CURRICULA.index(name) if name in CURRICULA else len(CURRICULA), name


def latency_chart(points: Sequence[Point], title: str, chance: float | None) -> Markup:
    """Accuracy against the median time of an answer, on a logarithmic axis; better is up and to the left."""
    timed = [(p, p.seconds) for p in points if p.seconds is not None and p.seconds > 0]
    frame = Frame(420, 280, lowest([p for p, _ in timed]))
    logs = [math.log10(value) for _, value in timed] or [0.0]
    first, last = math.floor(min(logs) - 0.05), math.ceil(max(logs) + 0.05)
    span = frame.width - frame.left - frame.right

    def x_of(value: float) -> float:
        return frame.left + span * (math.log10(value) - first) / (last - first)

    parts = frame.axes(chance)
    for power in range(first, last + 1):
        x = x_of(10.0**power)
        parts.append(tag("line", x1=x, x2=x, y1=frame.top, y2=frame.height - frame.bottom, cls="grid"))
        side = "end" if power == last else "start" if power == first else "middle"
        parts.append(tag("text", seconds(10.0**power), x=x, y=frame.height - frame.bottom + 17, cls=f"tick {side}"))
    middle = frame.left + span / 2
    parts.append(tag("text", "median time of an answer", x=middle, y=frame.height - 6, cls="tick middle soft"))
    spots = [(point, x_of(value), frame.y(point.estimate.value or 0.0)) for point, value in timed]
    parts += names(spots, frame)
    parts += [mark(point, x, frame) for point, x, _ in spots]
    text = "; ".join(point.tip() for point, _ in timed[:24]) + ("; and more" if len(timed) > 24 else "")
    return picture(frame.width, frame.height, title, text, parts, "chart")


def names(spots: Sequence[tuple[Point, float, float]], frame: Frame) -> list[str]:
    """Names beside the filled marks, each where it overlaps no mark and no other name; left out where there is no room.

    A model's points are named by their curriculum, a baseline by itself; of several models the colours tell.
    """
    many = len({point.series for point, _, _ in spots if point.curriculum}) > 2
    taken = [(x - 5, y - 5, x + 5, y + 5) for _, x, y in spots]
    parts = []
    for point, x, y in sorted(spots, key=lambda spot: spot[2]):
        text = point.curriculum or point.label
        wide = 6.2 * len(text)
        for left, side in ((x + 8, "start"), (x - 8 - wide, "end")):
            box = (left, y - 6, left + wide, y + 6)
            inside = box[0] >= frame.left and box[2] <= frame.width - frame.right
            if (
                not point.place
                and inside
                and not (many and point.curriculum)
                and not any(overlap(box, other) for other in taken)
            ):
                taken.append(box)
                anchor = x + 8 if side == "start" else x - 8
                parts.append(tag("text", text, x=anchor, y=y + 4, cls=f"tick {side} c{point.colour} own"))
                break
    return parts


def overlap(one: tuple[float, float, float, float], two: tuple[float, float, float, float]) -> bool:
    """Do two boxes (x0, y0, x1, y1) share an area?"""
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def unit_square(parts: list[str], across: str, up: str) -> tuple[list[str], int, int]:
    """Axes of a chart from 0 to 1 both ways: (svg parts, left, side length). The picture is 300 x 300."""
    left, side = 40, 240
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = left + side * value, 15 + side * (1 - value)
        parts.append(tag("line", x1=x, x2=x, y1=15, y2=15 + side, cls="grid"))
        parts.append(tag("line", x1=left, x2=left + side, y1=y, y2=y, cls="grid"))
        parts.append(tag("text", f"{value:g}", x=x, y=15 + side + 15, cls="tick middle"))
        parts.append(tag("text", f"{value:g}", x=left - 6, y=y + 4, cls="tick end"))
    parts.append(tag("line", x1=left, y1=15 + side, x2=left + side, y2=15, cls="chance-line"))
    parts.append(tag("text", across, x=left + side / 2, y=296, cls="tick middle soft"))
    parts.append(
        tag("text", up, x=0, y=0, cls="tick middle soft", transform=f"translate(10 {15 + side / 2}) rotate(-90)")
    )
    return parts, left, side


def roc_chart(curve: Sequence[tuple[float, float]], area: Estimate | None, chosen: OperatingPoint | None) -> Markup:
    """Share of anomalies stopped against share of normal frames stopped, over all thresholds on P(anomaly).

    curve: (false-stop rate, hit rate) from strict to lax. chosen: the operating point, drawn as a dot.
    """
    parts, left, side = unit_square([], "false stops (share of normal)", "anomalies stopped")
    line = " ".join(f"{left + side * x:.1f},{15 + side * (1 - y):.1f}" for x, y in curve)
    parts.append(tag("polyline", points=line, cls="c0 link"))
    if chosen is not None:
        x, y = left + side * chosen.false_stop_rate, 15 + side * chosen.miss_rate
        tip = f"false stops {chosen.false_stop_rate:.3f}, missed {chosen.miss_rate:.3f}"
        parts.append(group([tag("circle", cx=x, cy=y, r=4.0, cls="full")], tip, cls="c1"))
    text = ""
    if area is not None and area.value is not None:
        text = f"Area {area.value:.3f}, n {area.n}."
    return picture(300, 300, "ROC curve", text, parts, "chart square")


def reliability_chart(bars: Sequence[ReliabilityBin]) -> Markup:
    """Observed frequency (95% interval) against the mean predicted probability."""
    parts, left, side = unit_square([], "predicted probability", "observed frequency")
    said = []
    for bar in bars:
        if bar.n == 0 or bar.mean_predicted is None or bar.observed_frequency is None:
            continue
        bottom, top = wilson(bar.observed_frequency * bar.n, bar.n) or (0.0, 1.0)
        x = left + side * bar.mean_predicted
        tip = f"predicted {bar.mean_predicted:.2f}, observed {bar.observed_frequency:.2f}"
        tip += f" (95% {bottom:.2f} to {top:.2f}), n {bar.n}"
        said.append(tip)
        line = tag("line", x1=x, x2=x, y1=15 + side * (1 - bottom), y2=15 + side * (1 - top), cls="bar")
        dot = tag("circle", cx=x, cy=15 + side * (1 - bar.observed_frequency), r=4.0, cls="full")
        parts.append(group([line, dot], tip, cls="c0"))
    return picture(300, 300, "Calibration", "; ".join(said), parts, "chart square")
