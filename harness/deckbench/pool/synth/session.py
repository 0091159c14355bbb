"""A session's frames: choose what is true, with anomalies that can be seen, and write down the labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deckbench.pool.synth import draw
from deckbench.pool.synth import geometry as geo
from deckbench.pool.synth.anomalies import ADDERS, ATTEMPTS, CELL, DECK_KINDS, Draft, add_anomalies, in_frame
from deckbench.pool.synth.brush import Array
from deckbench.pool.synth.camera import area, clip_to_frame, hull
from deckbench.pool.synth.sample import advance, between, pick, sample_hand, sample_plan, with_lid
from deckbench.pool.synth.scene import CLASSES, LID_AT, Item, Rng, Station, Truth, anomalies_of
from deckbench.pool.synth.stage import Stage
from deckbench.pool.tables import label_line

KEEP = 0.35  # share of frames that stay as anomalous, or as normal, as the frame before
LABELLED = 0.12  # anything else is labelled when it shows this share


@dataclass
class RenderedFrame:
    """One finished frame: its picture and everything said about it."""

    name: str
    picture: Image.Image
    labels: str
    row: tuple[str, str, str, str, str]
    scene: dict[str, Any]


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
    return "".join(label_line(CLASSES.index(item["class"]), item["box"]) for item in objects)


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
class FrameScript:
    """A frame that is decided but not drawn."""

    name: str
    truth: Truth
    objects: list[dict[str, Any]]
    scene: dict[str, Any]


def script_session(stage: Stage, seed: int, shifted: bool) -> Iterator[FrameScript]:
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
        yield FrameScript(name, truth, objects, scene)


def make_session(
    seed: int, session: int, frames: int, size: tuple[int, int], shifted: bool, emphasis: tuple[tuple[str, float], ...]
) -> Iterator[RenderedFrame]:
    """All frames of one session, a pure function of the arguments."""
    stage = Stage(replace(sample_plan(seed, session, frames, size, shifted), emphasis=emphasis))
    for index, frame in enumerate(script_session(stage, seed, shifted)):
        scene = frame.scene
        row = (frame.name, scene["session"], f"{frame.truth.time_s:.1f}", scene["step"], ";".join(scene["anomalies"]))
        picture = stage.render(frame.truth, frame_rng(seed, shifted, session, index, 100))
        yield RenderedFrame(frame.name, picture, label_text(frame.objects), row, scene)
