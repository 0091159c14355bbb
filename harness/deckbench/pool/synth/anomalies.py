"""Anomalies of a synthetic frame: where each kind can be put, and how it is put there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from deckbench.pool.synth import draw
from deckbench.pool.synth import geometry as geo
from deckbench.pool.synth.brush import IDS, SUPER, Array
from deckbench.pool.synth.camera import area, clip_to_frame, hull
from deckbench.pool.synth.sample import (
    between,
    pick,
    sample_crooked,
    sample_damage,
    sample_holes,
    sample_outline,
    seated,
    with_lid,
    with_station,
)
from deckbench.pool.synth.scene import LID_AT, Hand, Item, Puddle, Rng, Station, Tip
from deckbench.pool.synth.stage import Stage

ATTEMPTS = 8
SEEN = 0.6  # an anomaly must show at least this share of itself
DAMAGED_AREA = (0.0002, 0.003)
PUDDLE_AREA = 0.0016
CELL = IDS / SUPER  # pixels per cell of the id picture
WEIGHTS = {
    "damaged_tip": 4.0,
    "missing_tip": 10.0,
    "not_ejected": 20.0,
    "lid": 1.0,
    "plate_crooked": 1.0,
    "labware_missing": 1.0,
    "labware_wrong": 1.0,
    "tip_rack_gap": 1.0,
    "spill": 1.0,
    "trash_overfull": 1.0,
}
LID_WEIGHT = {"thermocycle": 12.0, "load_pcr": 6.0, "unload_pcr": 6.0}
DECK_KINDS = ("plate_crooked", "labware_missing", "labware_wrong", "tip_rack_gap", "spill", "trash_overfull")


class Draft:
    """A frame while its anomalies are being chosen."""

    def __init__(
        self, stage: Stage, stations: tuple[Station, ...], hand: Hand | None, step: str, shifted: bool
    ) -> None:
        self.stage, self.hand, self.step, self.shifted = stage, hand, step, shifted
        self.stations = stations
        self.puddles: tuple[Puddle, ...] = ()
        self.missing: tuple[tuple[int, Item], ...] = ()
        self.touched: set[int] = set()  # slots that already hold an anomaly

    def view(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The id picture now, and the number of cells of each id."""
        ids = self.stage.id_picture(self.stations, self.hand)
        return ids, np.bincount(ids.ravel(), minlength=256)

    def seen(self, ident: int, outline: Array, counts: NDArray[np.int64]) -> float:
        """Share of an object's outline that shows it (1 = whole, in the frame and in front)."""
        full = area(outline)
        return float(counts[ident]) * CELL * CELL / full if full > 1 else 0.0


def in_frame(outline: Array, size: tuple[int, int]) -> float:
    """Share of an outline that lies inside the frame."""
    full = area(hull(outline))
    return area(clip_to_frame(hull(outline), *size)) / full if full > 0 else 0.0


def free_share(ids: NDArray[np.uint8], outline: Array, allowed: set[int]) -> float:
    """Share of an outline's cells that are inside the frame and show one of these ids."""
    size = (ids.shape[1], ids.shape[0])
    cells = outline / CELL
    full = area(hull(cells))
    if full < 1:
        return 0.0
    layer = Image.new("1", size)
    ImageDraw.Draw(layer).polygon([tuple(p) for p in cells.tolist()], fill=1)
    inside = np.asarray(layer)
    return float(np.isin(ids[inside], list(allowed)).sum()) / max(full, float(inside.sum()))


def labware_places(draft: Draft, kinds: tuple[str, ...]) -> list[tuple[Station, bool, int]]:
    """Labware of these kinds that shows well now: station, whether it stands on a module, and its id."""
    _, counts = draft.view()
    outlines = draft.stage.outlines(draft.stations)
    found = []
    for station in draft.stations:
        if station.slot in draft.touched or (station.slot == 7 and station.base and station.base.state == "closed"):
            continue
        for on in (False, True):
            item = station.on if on else station.base
            if item is None or item.kind not in kinds:
                continue
            ident = draw.on_ident(station.slot) if on else draw.base_ident(station.slot)
            if draft.seen(ident, outlines[ident], counts) >= SEEN:
                found.append((station, on, ident))
    return found


def swap(draft: Draft, station: Station, on: bool, item: Item | None) -> None:
    """Exchange a piece of labware."""
    new = replace(station, on=item) if on else replace(station, base=item)
    draft.stations = with_station(draft.stations, new)
    draft.touched.add(station.slot)


def add_crooked(draft: Draft, rng: Rng) -> bool:
    places = labware_places(draft, ("white plate", "square plate"))
    while places:
        station, on, ident = places.pop(int(rng.integers(len(places))))
        item = station.on if on else station.base
        assert item is not None
        before = draft.stations
        swap(draft, station, on, sample_crooked(rng, item))
        _, counts = draft.view()
        if draft.seen(ident, draft.stage.outlines(draft.stations)[ident], counts) >= SEEN:
            return True
        draft.stations = before
        draft.touched.discard(station.slot)
    return False


def add_missing_labware(draft: Draft, rng: Rng) -> bool:
    places = [
        p for p in labware_places(draft, ("white plate", "square plate", "tip rack")) if p[0].slot in (2, 3, 4, 5, 6, 1)
    ]
    places = [p for p in places if not (p[1] and p[0].base and p[0].base.kind == "magnetic module")]
    while places:
        station, on, _ = places.pop(int(rng.integers(len(places))))
        item = station.on if on else station.base
        assert item is not None
        before = draft.stations
        swap(draft, station, on, None)
        ids, _ = draft.view()
        ghost = draft.stage.ghost(station.slot, item, on)
        allowed = {0, draw.base_ident(station.slot)} if on else {0}
        seat = draw.slot_seat(station.slot)
        if on:
            floor_seen = 1.0
        else:
            width, depth = geo.slot_size()
            floor = np.array([seat, (seat[0] + width, seat[1], 0), (seat[0] + width, seat[1] + depth, 0),
                              (seat[0], seat[1] + depth, 0)])  # fmt: skip
            floor_seen = free_share(ids, draft.stage.camera.project(floor), {0})
        if floor_seen >= 0.35 and free_share(ids, ghost, allowed | set(range(2, 26))) >= SEEN:
            draft.missing = (*draft.missing, (station.slot, item))
            return True
        draft.stations = before
        draft.touched.discard(station.slot)
    return False


def add_wrong_labware(draft: Draft, rng: Rng) -> bool:
    places = [p for p in labware_places(draft, ("white plate", "square plate", "tip rack")) if p[0].slot in range(1, 7)]
    places = [p for p in places if not (p[1] and p[0].base and p[0].base.kind == "magnetic module")]
    if not places:
        return False
    station, on, _ = pick(rng, places)
    kind = "reservoir" if on else pick(rng, ("tube rack", "reservoir"))
    swap(draft, station, on, seated(rng, kind, draft.shifted))
    return True


def add_gap(draft: Draft, rng: Rng) -> bool:
    places = [p for p in labware_places(draft, ("tip rack",)) if p[0].base is not None and p[0].base.detail[0] <= 7]
    if not places:
        return False
    station, on, _ = pick(rng, places)
    assert station.base is not None
    used = int(station.base.detail[0])
    swap(draft, station, on, replace(station.base, state="holes", detail=(used, sample_holes(rng, used))))
    return True


def add_heap(draft: Draft, rng: Rng) -> bool:
    station = next(s for s in draft.stations if s.slot == geo.TRASH_SLOT)
    assert station.base is not None
    before = draft.stations
    detail = (station.base.detail[0], between(rng, 38, 62), int(rng.integers(55, 85)))
    swap(draft, station, False, replace(station.base, state="heaped", detail=detail))
    _, counts = draft.view()
    ident = draw.base_ident(geo.TRASH_SLOT)
    if draft.seen(ident, draft.stage.outlines(draft.stations)[ident], counts) >= 0.4:
        return True
    draft.stations = before
    return False


def puddle_spots(draft: Draft, rng: Rng) -> list[tuple[tuple[float, float, float], int | None, int, float]]:
    """Places for a spill: middle, slot, id of the surface below, largest radius."""
    x0, y0, _, _ = geo.deck_rectangle()
    spots: list[tuple[tuple[float, float, float], int | None, int, float]] = [
        ((between(rng, x0 + 45, -35), between(rng, 10, 160), 0.4), None, 0, 34.0),
        ((between(rng, 20, 330), between(rng, y0 + 28, -26), 0.4), None, 0, 26.0),
        ((between(rng, 20, 330), between(rng, y0 + 28, -26), 0.4), None, 0, 26.0),
    ]
    for station in draft.stations:
        if station.slot in draft.touched:
            continue
        x, y = geo.slot_corner(station.slot)
        wide, deep = geo.slot_size()
        middle = (x + wide * between(rng, 0.35, 0.65), y + deep * between(rng, 0.4, 0.6))
        if station.base is None:
            spots += [((*middle, 0.5), station.slot, 0, 38.0)] * 2
        elif station.base.kind in ("white plate", "square plate"):
            z = geo.load_labware(*station.base.model).size[2] + 0.6
            spots.append(((*middle, z), station.slot, draw.base_ident(station.slot), 30.0))
        elif station.base.kind == "magnetic module" and station.on is None:
            spots.append(((*middle, 85.9), station.slot, draw.base_ident(station.slot), 30.0))
        elif station.base.kind == "thermocycler" and station.base.state == "closed":
            cycler = geo.load_module("thermocyclerModuleV1")
            spots.append(((x + between(rng, 30, 90), y + between(rng, 110, 180), cycler.size[2] + cycler.lid + 0.5), 7,
                          draw.base_ident(7), 38.0))  # fmt: skip
        elif station.base.kind == "temperature module" and station.on is not None and station.on.state == "seated":
            z_top = 80.1 + geo.load_labware(*station.on.model).size[2] + 0.6
            spots.append(((*middle, z_top), station.slot, draw.on_ident(station.slot), 30.0))
    return spots


def add_spill(draft: Draft, rng: Rng) -> bool:
    spots = puddle_spots(draft, rng)
    ids, _ = draft.view()
    look = draft.stage.look
    while spots:
        middle, slot, surface, radius = spots.pop(int(rng.integers(len(spots))))
        ragged = 0.55 if not draft.shifted else 1.0
        outline = sample_outline(rng, radius * between(rng, 0.72, 1.0), ragged)
        colour = pick(rng, look.liquids)
        if rng.random() < 0.2:
            colour = (205, 214, 222)  # clear liquid: what it mirrors
        drops = tuple(
            (between(rng, -1.6, 1.6) * radius, between(rng, -1.2, 1.2) * radius, between(rng, 1.5, 4.0))
            for _ in range(int(rng.integers(0, 5)))
        )
        if surface:  # drops would float beside the labware
            drops = ()
        puddle = Puddle(middle, outline, drops, colour, slot, surface)
        shape = draft.stage.puddle_outline(puddle)
        width, height = draft.stage.camera.size
        if area(hull(shape)) < PUDDLE_AREA * width * height or in_frame(shape, (width, height)) < 0.97:
            continue
        if free_share(ids, shape, {surface}) >= 0.82:
            draft.puddles = (*draft.puddles, puddle)
            if slot is not None:
                draft.touched.add(slot)
            return True
    return False


def add_damage(draft: Draft, rng: Rng) -> bool:
    """Damage a tip that is whole in the frame; shapes whose box would be too large or too small are drawn again."""
    hand, stage = draft.hand, draft.stage
    if hand is None or not hand.tips:
        return False
    size = stage.camera.size
    places = [
        k
        for k, s in enumerate(stage.tip_shapes(hand))
        if s.tip.state == "straight" and in_frame(s.straight, size) > 0.99
    ]
    if not places:
        return False
    index = pick(rng, places)
    for _ in range(30):
        tips = list(hand.tips)
        tips[index] = sample_damage(rng, draft.shifted)
        changed = replace(hand, tips=tuple(tips))
        outline = stage.tip_shapes(changed)[index].outline
        share = box_share(outline, size)
        if DAMAGED_AREA[0] * 1.05 <= share <= DAMAGED_AREA[1] * 0.97 and in_frame(outline, size) > 0.98:
            draft.hand = changed
            return True
    return False


def add_missing_tip(draft: Draft, rng: Rng) -> bool:
    hand, stage = draft.hand, draft.stage
    if hand is None or len(hand.tips) != 8:
        return False
    shapes = stage.tip_shapes(hand)
    size = stage.camera.size
    places = [k for k, s in enumerate(shapes) if s.tip.state == "straight" and in_frame(s.straight, size) > 0.9]
    if len(places) < 4:
        return False
    gone = {pick(rng, places)}
    if rng.random() < 0.3:
        gone.add(pick(rng, places))
    draft.hand = replace(hand, tips=tuple(Tip("missing") if k in gone else t for k, t in enumerate(hand.tips)))
    return True


def add_not_ejected(draft: Draft, rng: Rng) -> bool:
    if draft.hand is None or draft.hand.tips:
        return False
    hand = replace(draft.hand, tips=(Tip("straight"),) * draft.stage.plan.channels)
    shown = [in_frame(s.outline, draft.stage.camera.size) > 0.9 for s in draft.stage.tip_shapes(hand)]
    if sum(shown) < max(1, len(shown) // 2):
        return False
    draft.hand = hand
    return True


def add_lid(draft: Draft, rng: Rng) -> bool:
    wanted = LID_AT.get(draft.step)
    if wanted is None or 7 in draft.touched:
        return False
    before = draft.stations
    draft.stations = with_lid(draft.stations, "open" if wanted == "closed" else "closed", draft.stage.plan.lid_angle)
    _, counts = draft.view()
    ident = draw.base_ident(7)
    if draft.seen(ident, draft.stage.outlines(draft.stations)[ident], counts) < 0.3:
        draft.stations = before
        return False
    draft.touched.add(7)
    return True


ADDERS: dict[str, Callable[[Draft, Rng], bool]] = {
    "damaged_tip": add_damage,
    "missing_tip": add_missing_tip,
    "not_ejected": add_not_ejected,
    "lid": add_lid,
    "plate_crooked": add_crooked,
    "labware_missing": add_missing_labware,
    "labware_wrong": add_wrong_labware,
    "tip_rack_gap": add_gap,
    "spill": add_spill,
    "trash_overfull": add_heap,
}


def possible(draft: Draft) -> dict[str, float]:
    """Anomaly kinds that this frame can have, with their weights."""
    weights = dict(WEIGHTS)
    tips = draft.hand is not None and bool(draft.hand.tips)
    if not tips:
        del weights["damaged_tip"]
    if not tips or draft.stage.plan.channels != 8:
        del weights["missing_tip"]
    if draft.step != "drop_tips":
        del weights["not_ejected"]
    if draft.step in LID_WEIGHT:
        weights["lid"] = LID_WEIGHT[draft.step]
    else:
        del weights["lid"]
    for name, factor in draft.stage.plan.emphasis:
        if name in weights:
            weights[name] *= factor
    return {name: weight for name, weight in weights.items() if weight > 0}


def add_anomalies(draft: Draft, rng: Rng, count: int) -> list[str]:
    """Put this many kinds of anomaly into a frame; returns those that took."""
    weights = possible(draft)
    taken: list[str] = []
    while weights and len(taken) < count:
        names = sorted(weights)
        p = np.array([weights[n] for n in names])
        name = names[int(rng.choice(len(names), p=p / p.sum()))]
        del weights[name]
        if ADDERS[name](draft, rng):
            taken.append(name)
    return taken


def box_share(outline: Array, size: tuple[int, int]) -> float:
    """Area of the upright box around an outline clipped to the frame, as a share of the frame."""
    clipped = clip_to_frame(hull(outline), *size)
    if len(clipped) < 3:
        return 0.0
    wide, tall = clipped.max(axis=0) - clipped.min(axis=0)
    return float(wide * tall / (size[0] * size[1]))
