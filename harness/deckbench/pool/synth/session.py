"""A session's frames: choose what is true, with anomalies that can be seen, and write down the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from deckbench.pool.synth import draw
from deckbench.pool.synth import geometry as geo
from deckbench.pool.synth.brush import IDS, SUPER
from deckbench.pool.synth.camera import area, clip_to_frame, hull
from deckbench.pool.synth.scene import (
    CLASSES,
    LID_AT,
    Hand,
    Item,
    Puddle,
    Rng,
    Station,
    Tip,
    Truth,
    advance,
    anomalies_of,
    between,
    pick,
    sample_crooked,
    sample_damage,
    sample_hand,
    sample_holes,
    sample_outline,
    sample_plan,
    seated,
    with_lid,
    with_station,
)
from deckbench.pool.synth.stage import Stage

Array = NDArray[np.float64]

KEEP = 0.35  # share of frames that stay as anomalous, or as normal, as the frame before
ATTEMPTS = 8
SEEN = 0.6  # an anomaly must show at least this share of itself
LABELLED = 0.12  # anything else is labelled when it shows this share
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


@dataclass
class Made:
    """One finished frame: its picture and everything said about it."""

    name: str
    picture: Image.Image
    labels: str
    row: tuple[str, str, str, str, str]
    scene: dict[str, Any]


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


# Labels


def item_dict(item: Item | None) -> dict[str, Any] | None:
    return None if item is None else {"kind": item.kind, "state": item.state}


def slot_dict(station: Station) -> dict[str, Any]:
    """A slot in the sidecar. `on` is what is seen to stand on a module: nothing below a closed lid."""
    if station.base is None:
        return {"kind": "empty slot", "state": "bare", "on": None}
    hidden = station.base.kind == "thermocycler" and station.base.state == "closed"
    return {"kind": station.base.kind, "state": station.base.state, "on": None if hidden else item_dict(station.on)}


def class_of(item: Item) -> str:
    """The class of a thing on the deck."""
    if item.kind in ("white plate", "square plate"):
        if item.state == "tilted":
            return "plate_crooked"
        return "white_plate" if item.kind == "white plate" else "square_well_plate"
    if item.kind in ("tube rack", "reservoir"):
        return "labware_wrong"
    return {
        "magnetic module": "magnetic_module",
        "temperature module": "temperature_module",
        "tip rack": "tip_rack_gap" if item.state == "holes" else "tip_rack",
        "thermocycler": "pcr_lid_open" if item.state == "open" else "pcr_lid_closed",
        "trash bin": "trash_overfull" if item.state == "heaped" else "trash_bin",
    }[item.kind]


def entry(name: str, kind: str, state: str, slot: int | None, outline: Array, size: tuple[int, int],
          limits: tuple[float, float, float, float] | None = None) -> dict[str, Any] | None:  # fmt: skip
    """A labelled object; `limits` is the rectangle of its cells that show, where something hides a part of it."""
    polygon = clip_to_frame(hull(outline), *size)
    if len(polygon) < 3:
        return None
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    if limits is not None:
        low, high = np.maximum(low, limits[:2]), np.minimum(high, limits[2:])
    if (high - low).min() < 1.0:
        return None
    width, height = size
    box = [round(float(v), 6) for v in (low[0] / width, low[1] / height, high[0] / width, high[1] / height)]
    return {
        "class": name,
        "kind": kind,
        "state": state,
        "slot": slot,
        "polygon": [[round(float(x) / width, 5), round(float(y) / height, 5)] for x, y in polygon],
        "box": box,
        "area": round((box[2] - box[0]) * (box[3] - box[1]), 7),
    }


def cell_limits(ids: NDArray[np.uint8], ident: int) -> tuple[float, float, float, float]:
    """Rectangle in pixels around the cells that show this id, one cell wider."""
    rows, columns = np.nonzero(ids == ident)
    return (
        (float(columns.min()) - 1) * CELL,
        (float(rows.min()) - 1) * CELL,
        (float(columns.max()) + 2) * CELL,
        (float(rows.max()) + 2) * CELL,
    )


def list_objects(stage: Stage, truth: Truth) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Labelled objects of a frame, and its tips as the sidecar lists them."""
    size = stage.camera.size
    ids = stage.id_picture(truth.stations, truth.hand)
    counts = np.bincount(ids.ravel(), minlength=256)
    outlines = stage.outlines(truth.stations)
    objects: list[dict[str, Any]] = []
    for station in truth.stations:
        for item, ident in ((station.base, draw.base_ident(station.slot)), (station.on, draw.on_ident(station.slot))):
            if item is None or ident not in outlines:
                continue
            outline = outlines[ident]
            full = area(outline)
            share = counts[ident] * CELL * CELL / full if full > 0 else 0.0
            if share < LABELLED and not (class_of(item).startswith("pcr_lid") and counts[ident] > 60):
                continue
            limits = None if share > 0.93 else cell_limits(ids, ident)
            made = entry(class_of(item), item.kind, item.state, station.slot, outline, size, limits)
            if made is not None:
                objects.append(made)
    for slot, item in truth.missing:
        station = next(s for s in truth.stations if s.slot == slot)
        made = entry(
            "labware_missing", "empty slot", "bare", slot, stage.ghost(slot, item, station.base is not None), size
        )
        if made is not None:
            objects.append(made)
    for puddle in truth.puddles:
        made = entry("spill", "puddle", "wet", puddle.slot, stage.puddle_outline(puddle), size)
        if made is not None:
            objects.append(made)
    tips = []
    if truth.hand is not None:
        slot = int(truth.hand.over.split()[1])
        whole = "single_channel_tip" if stage.plan.channels == 1 else "multi_channel_tip"
        for shape in stage.tip_shapes(truth.hand):
            name = {"straight": whole, "bent": "damaged_tip", "missing": "missing_tip"}[shape.tip.state]
            made = entry(name, "tip", shape.tip.state, slot, shape.outline, size)
            if made is not None and in_frame(shape.outline, size) < 0.5:
                made = None  # mostly cut by the frame's edge: no judgement
            tips.append({"state": shape.tip.state, "box": None if made is None else made["box"]})
            if made is not None:
                objects.append(made)
    return objects, tips


def label_text(objects: list[dict[str, Any]]) -> str:
    """YOLO label lines."""
    lines = []
    for item in objects:
        x0, y0, x1, y1 = item["box"]
        numbers = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        lines.append(f"{CLASSES.index(item['class'])} " + " ".join(f"{v:.6f}" for v in numbers))
    return "".join(line + "\n" for line in lines)


# The frames of a session


def frame_rng(seed: int, shifted: bool, session: int, index: int, part: int) -> Rng:
    """A frame's generator, from its place alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(shifted), session, index + 1, part])))


def sample_truth(
    stage: Stage, index: int, anomalous: bool, shifted: bool, rng: Rng, again: tuple[str, int] | None
) -> tuple[Truth, tuple[str, int] | None]:
    """What is true in frame `index`.

    again: a deck anomaly of the frame before and the seed it was drawn with, to be drawn the same way here. Returns
    the truth, and such an anomaly to hand on.
    """
    plan = stage.plan
    step = plan.steps[index]
    stations = advance(plan, index, rng)
    # outside the steps that want a state, the lid stands either way for a stretch of frames
    free = ("open", "closed")[(plan.session + index // 3 + plan.look.clutter) % 2]
    stations = with_lid(stations, LID_AT.get(step, free), plan.lid_angle)
    draft = Draft(stage, stations, sample_hand(plan, step, stations, rng), step, shifted)
    handed = None
    if anomalous:
        count = 1 + int(rng.random() < 0.15)
        if again is not None and ADDERS[again[0]](draft, np.random.Generator(np.random.PCG64(again[1]))):
            handed, count = again, count - 1
        if count:
            own = int(rng.integers(1 << 40))
            for name in add_anomalies(draft, np.random.Generator(np.random.PCG64(own)), count):
                if name in DECK_KINDS and handed is None:
                    handed = (name, int(rng.integers(1 << 40)))
    liquid = (
        pick(rng, plan.look.liquids) if step in ("transfer", "load_pcr", "unload_pcr") and rng.random() < 0.5 else None
    )
    truth = Truth(step, round(plan.start_s + index * plan.step_s, 1), draft.stations, draft.hand, draft.puddles,
                  draft.missing, between(rng, 0.97, 1.03), liquid)  # fmt: skip
    return truth, handed


def scene_dict(
    name: str, stage: Stage, truth: Truth, objects: list[dict[str, Any]], tips: list[dict[str, Any]]
) -> dict[str, Any]:
    """A frame's line in scenes.jsonl."""
    plan, look = stage.plan, stage.look
    slots: dict[str, Any] = {}
    for station in truth.stations:
        for slot in geo.THERMOCYCLER_SLOTS if station.slot == 7 else (station.slot,):
            slots[str(slot)] = slot_dict(station)
    camera = stage.camera
    return {
        "frame": name,
        "session": f"s{plan.session:05d}",
        "step": truth.step,
        "camera": {
            "place": list(camera.place),
            "target": list(camera.target),
            "roll": camera.roll,
            "field": camera.field,
        },
        "light": {"direction": [round(v, 4) for v in look.light], "ambient": look.ambient, "gain": look.gain,
                  "tint": list(look.tint), "noise": look.noise, "flicker": truth.flicker},
        "slots": {str(s): slots[str(s)] for s in geo.SLOTS},
        "pipette": {
            "channels": plan.channels,
            "over": "parked" if truth.hand is None else truth.hand.over,
            "tips": tips,
        },
        "objects": objects,
        "anomalies": anomalies_of([o["class"] for o in objects], truth.step),
    }  # fmt: skip


@dataclass(frozen=True)
class Scripted:
    """A frame that is decided but not drawn."""

    name: str
    truth: Truth
    objects: list[dict[str, Any]]
    scene: dict[str, Any]


def script_session(stage: Stage, seed: int, shifted: bool) -> Iterator[Scripted]:
    """Decide all frames of a session: anomaly yes or no first (half of the frames, whatever the step), then which.

    A third of the frames keep the answer of the frame before, and its deck anomaly with it. Sessions come in pairs with
    opposite answers, so that the halves are even at each step in a small pool too.
    """
    plan = stage.plan
    anomalous = False
    handed: tuple[str, int] | None = None
    for index in range(len(plan.steps)):
        chance = frame_rng(seed, shifted, plan.session // 2, index, 0)
        if index == 0 or chance.random() >= KEEP:
            anomalous, handed = bool(chance.random() < 0.5) != bool(plan.session % 2), None
        name = f"images/s{plan.session:05d}_f{index:03d}"
        for attempt in range(ATTEMPTS):
            rng = frame_rng(seed, shifted, plan.session, index, 1 + attempt)
            truth, passed = sample_truth(stage, index, anomalous, shifted, rng, handed if attempt == 0 else None)
            objects, tips = list_objects(stage, truth)
            scene = scene_dict(name, stage, truth, objects, tips)
            if bool(scene["anomalies"]) == anomalous:
                break
        handed = passed
        yield Scripted(name, truth, objects, scene)


def make_session(
    seed: int, session: int, frames: int, size: tuple[int, int], shifted: bool, emphasis: tuple[tuple[str, float], ...]
) -> Iterator[Made]:
    """All frames of one session, a pure function of the arguments."""
    stage = Stage(replace(sample_plan(seed, session, frames, size, shifted), emphasis=emphasis))
    for index, frame in enumerate(script_session(stage, seed, shifted)):
        scene = frame.scene
        row = (frame.name, scene["session"], f"{frame.truth.time_s:.1f}", scene["step"], ";".join(scene["anomalies"]))
        picture = stage.render(frame.truth, frame_rng(seed, shifted, session, index, 100))
        yield Made(frame.name, picture, label_text(frame.objects), row, scene)
