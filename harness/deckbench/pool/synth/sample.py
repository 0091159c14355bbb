"""Draws what varies between sessions and frames: camera, look, labware, hand and damage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from deckbench.pool.synth import geometry as geo
from deckbench.pool.synth.camera import Camera
from deckbench.pool.synth.scene import (
    RACKS,
    RESERVOIRS,
    SHIFTED_RACKS,
    SHIFTED_RESERVOIRS,
    SHIFTED_SQUARE,
    SHIFTED_TUBES,
    SHIFTED_WHITE,
    SQUARE_PLATES,
    STEPS,
    TIPS_AT,
    TUBE_RACKS,
    WHITE_PLATES,
    Colour,
    Hand,
    Item,
    Look,
    Plan,
    Rng,
    Station,
    Tip,
)


def pick(rng: Rng, options: Any) -> Any:
    """One of a sequence."""
    return options[int(rng.integers(len(options)))]


def between(rng: Rng, low: float, high: float) -> float:
    """Uniform number, rounded so that it prints short and is the same everywhere."""
    return round(float(rng.uniform(low, high)), 4)


def jitter(rng: Rng, colour: Colour, by: int) -> Colour:
    """A colour near another: a common step and a small one per channel."""
    common = int(rng.integers(-by, by + 1))
    return tuple(int(np.clip(c + common + int(rng.integers(-by // 3, by // 3 + 1)), 5, 250)) for c in colour)  # type: ignore[return-value]


def sample_camera(rng: Rng, size: tuple[int, int], shifted: bool) -> Camera:
    """A pose of the left camera; shifted poses lie outside the normal ranges (further to one side, higher, rolled)."""
    if not shifted:
        place = (between(rng, -380, -310), between(rng, 150, 215), between(rng, 530, 610))
        target = (between(rng, 162, 182), between(rng, 196, 216), between(rng, 25, 45))
        return Camera(place, target, between(rng, -2.0, 2.0), between(rng, 51, 54), size)
    side = pick(rng, (-1, 1))
    y = 105.0 - between(rng, 0, 50) if side < 0 else 260.0 + between(rng, 0, 45)
    place = (between(rng, -400, -290), y, between(rng, 630, 700))
    target = (between(rng, 158, 180), 206 + side * between(rng, 0, 12), between(rng, 20, 40))
    return Camera(place, target, side * between(rng, 2.5, 5.0), between(rng, 48, 52), size)


def sample_look(rng: Rng, shifted: bool) -> Look:
    """Colours and light of a session."""
    warm = between(rng, -0.06, 0.06) if not shifted else pick(rng, (-1, 1)) * between(rng, 0.09, 0.16)
    angle = between(rng, 0, 2 * np.pi)
    lean = between(rng, 0.2, 0.7) if not shifted else between(rng, 0.9, 1.4)
    light = np.array([np.cos(angle) * lean, np.sin(angle) * lean, 1.0])
    light = light / np.linalg.norm(light)
    grey = int(rng.integers(75, 135)) if not shifted else int(pick(rng, (50, 160, 172)))
    deck = jitter(rng, (grey, grey + 2, grey + 6), 6)
    racks: Any = (
        ((30, 31, 34), (38, 38, 40), (24, 26, 32)) if not shifted else ((28, 44, 84), (70, 34, 30), (60, 60, 64))
    )
    whites: Any = ((236, 236, 234), (226, 229, 232)) if not shifted else ((240, 232, 206), (214, 222, 240))
    squares: Any = ((150, 172, 188), (168, 184, 192)) if not shifted else ((150, 190, 168), (190, 176, 150))
    bodies: Any = ((222, 222, 222), (206, 208, 212)) if not shifted else ((178, 182, 190), (232, 226, 212))
    liquids: Any = (
        ((196, 60, 60), (60, 110, 190), (226, 186, 60), (90, 160, 90))
        if not shifted
        else ((150, 60, 170), (230, 120, 40), (60, 170, 180), (120, 80, 50))
    )
    body = jitter(rng, pick(rng, bodies), 8)
    return Look(
        deck=deck,
        room=jitter(rng, (150, 152, 156) if not shifted else (90, 94, 106), 35),
        rack=jitter(rng, pick(rng, racks), 6),
        tip=jitter(rng, (232, 232, 226) if not shifted else (236, 214, 150), 8),
        white=jitter(rng, pick(rng, whites), 5),
        square=jitter(rng, pick(rng, squares), 8),
        thermocycler=body,
        lid=jitter(rng, (196, 198, 202) if rng.random() < 0.5 else body, 10),
        magnetic=jitter(rng, (214, 216, 218) if not shifted else (170, 176, 186), 10),
        temperature=jitter(rng, (188, 191, 196) if not shifted else (120, 124, 132), 12),
        trash=jitter(rng, (66, 68, 72) if not shifted else (52, 72, 104), 12),
        pipette=jitter(rng, (214, 216, 220) if rng.random() < 0.6 else (92, 95, 102), 10),
        light=(float(light[0]), float(light[1]), float(light[2])),
        ambient=between(rng, 0.5, 0.68) if not shifted else between(rng, 0.42, 0.54),
        tint=(1.0 + warm, 1.0, 1.0 - warm),
        gain=between(rng, 0.88, 1.08)
        if not shifted
        else pick(rng, (between(rng, 0.74, 0.84), between(rng, 1.16, 1.26))),
        slope=(between(rng, -0.12, 0.12), between(rng, -0.1, 0.1)),
        vignette=between(rng, 0.0, 0.22),
        noise=between(rng, 1.5, 5.0) if not shifted else between(rng, 4.0, 8.0),
        blur=float(pick(rng, (0.0, 0.0, 0.3, 0.5))),
        liquids=liquids,
        clutter=int(rng.integers(1 << 30)),
    )


def seated(rng: Rng, kind: str, shifted: bool) -> Item:
    """A piece of labware as it should stand."""
    models: Any = {
        "white plate": SHIFTED_WHITE if shifted else WHITE_PLATES,
        "square plate": SHIFTED_SQUARE if shifted else SQUARE_PLATES,
        "tip rack": SHIFTED_RACKS if shifted else RACKS,
        "tube rack": SHIFTED_TUBES if shifted else TUBE_RACKS,
        "reservoir": SHIFTED_RESERVOIRS if shifted else RESERVOIRS,
    }[kind]
    state = "full" if kind == "tip rack" else "seated"
    return Item(kind, state, pick(rng, models), (0, ()) if kind == "tip rack" else (), int(rng.integers(1 << 30)))


def sample_stations(rng: Rng, shifted: bool) -> tuple[Station, ...]:
    """The deck as planned. Every slot but 9 is always planned to be occupied; a temperature module carries a plate."""
    order = ["tip rack", "square plate", "tip rack", "white plate"]  # slots 2, 4, 5, 6
    if rng.random() < (0.75 if shifted else 0.35):
        order = [order[i] for i in rng.permutation(4)]
    if rng.random() < 0.2:
        order[order.index("white plate")] = "square plate"
    elif rng.random() < 0.15:
        order[order.index("square plate")] = "white plate"
    magnetic, temperature = (1, 3) if rng.random() < 0.75 else (3, 1)
    stations = []
    for slot in (1, 3):
        draw = rng.random()
        if slot == magnetic:
            if draw < 0.12:
                stations.append(Station(slot, seated(rng, "white plate", shifted)))
            else:
                item = Item("magnetic module", "seated", ("magneticModuleV2", 3), (), int(rng.integers(1 << 30)))
                on = None if draw < 0.65 else seated(rng, pick(rng, ("white plate", "square plate")), shifted)
                stations.append(Station(slot, item, on))
        elif draw < 0.1:
            stations.append(Station(slot, seated(rng, "square plate", shifted)))
        else:
            item = Item("temperature module", "seated", ("temperatureModuleV2", 3), (), int(rng.integers(1 << 30)))
            stations.append(Station(temperature, item, seated(rng, "white plate", shifted)))
    for slot, kind in zip((2, 4, 5, 6), order, strict=True):
        stations.append(Station(slot, seated(rng, kind, shifted)))
    extra = rng.random()
    ninth = None if extra < 0.5 else seated(rng, pick(rng, ("tip rack", "white plate", "square plate")), shifted)
    stations.append(Station(9, ninth))
    cycler = Item("thermocycler", "open", ("thermocyclerModuleV1", 3), (92.0,), int(rng.integers(1 << 30)))
    stations.append(Station(7, cycler, seated(rng, "white plate", shifted)))
    loose = (int(rng.integers(3)),)
    bin_ = Item("trash bin", "clear", ("opentrons_1_trash_1100ml_fixed", 1), loose, int(rng.integers(1 << 30)))
    stations.append(Station(12, bin_))
    return tuple(sorted(stations, key=lambda s: s.slot))


def sample_plan(seed: int, session: int, frames: int, size: tuple[int, int], shifted: bool) -> Plan:
    """A session's plan, from (seed, shifted, session) alone."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(shifted), session])))
    offset = float(rng.random())
    steps = tuple(STEPS[min(6, int((i + offset) * 7 / frames))] for i in range(frames))
    stations = sample_stations(rng, shifted)
    rack = next(s.base for s in stations if s.base is not None and s.base.kind == "tip rack")
    return Plan(
        session,
        sample_camera(rng, size, shifted),
        sample_look(rng, shifted),
        stations,
        int(pick(rng, (1, 8))),
        min(geo.tip_length(*rack.model), 52.0),
        int(rng.integers(0, 5)),
        round(session * 3600.0 + between(rng, 0, 600), 1),
        between(rng, 15, 60),
        steps,
        between(rng, 84, 100),
    )


def with_station(stations: tuple[Station, ...], new: Station) -> tuple[Station, ...]:
    """The deck with one slot's content exchanged."""
    return tuple(new if s.slot == new.slot else s for s in stations)


def advance(plan: Plan, index: int, rng: Rng) -> tuple[Station, ...]:
    """The planned deck at frame `index`: racks used column by column, the first rack first."""
    done = plan.used_first + int(index * 8 / max(1, len(plan.steps)))
    stations = plan.stations
    for station in plan.stations:
        if station.base is not None and station.base.kind == "tip rack":
            used = min(done, 8)
            done -= used
            item = replace(station.base, state="used" if used else "full", detail=(used, ()))
            stations = with_station(stations, replace(station, base=item))
    return stations


def with_lid(stations: tuple[Station, ...], state: str, angle: float) -> tuple[Station, ...]:
    """The deck with the thermocycler's lid open or closed."""
    cycler = next(s for s in stations if s.slot == 7)
    assert cycler.base is not None
    return with_station(stations, replace(cycler, base=replace(cycler.base, state=state, detail=(angle,))))


OVER = {
    "setup": (2, 5, 4, 6, 1),
    "pick_up_tips": (2, 5),
    "transfer": (4, 6, 3, 1),
    "load_pcr": (7, 8),
    "thermocycle": (5, 2, 6, 7),
    "unload_pcr": (7, 8),
    "drop_tips": (12,),
}


def sample_hand(plan: Plan, step: str, stations: tuple[Station, ...], rng: Rng) -> Hand | None:
    """Where the pipette hangs, with straight tips or none; None when it is parked out of sight."""
    if step in ("setup", "thermocycle") and rng.random() < 0.25:
        return None
    slot = int(pick(rng, OVER[step]))
    if step == "pick_up_tips":
        racks = [s.slot for s in stations if s.base is not None and s.base.kind == "tip rack" and s.slot != 9]
        slot = int(pick(rng, racks))
    elif rng.random() < 0.15 and step != "drop_tips":
        slot = int(pick(rng, (2, 5, 4, 6, 3, 1)))
    width, depth = geo.slot_size()
    x0, y0 = geo.slot_corner(slot)
    x = x0 + width * between(rng, 0.25, 0.75)
    y = y0 + depth / 2 + (between(rng, -10, 10) if plan.channels == 8 else between(rng, -32, 32))
    low = 80.0
    if slot in (7, 8):
        x, y, low = between(rng, 30, 110), y0 + between(rng, 90, 140), 150.0
    elif slot in (1, 3):
        low = 112.0
    elif slot == 12:
        x, y, low = between(rng, 300, 365), y0 + between(rng, 40, 75), 92.0
    z = low + between(rng, 0, 18)
    tips = (Tip("straight"),) * plan.channels if rng.random() < TIPS_AT[step] else ()
    return Hand((round(x, 2), round(y, 2), round(z, 2)), f"slot {slot}", tips)


def sample_damage(rng: Rng, shifted: bool) -> Tip:
    """A damaged tip: bent to one side, kinked twice, or broken off short. Angles in degrees, places as fractions."""
    side = pick(rng, (-1, 1))
    kind = pick(rng, ("bend", "bend", "kink", "broken") if not shifted else ("curl", "curl", "kink", "broken"))
    if kind == "broken":
        return Tip("bent", ("broken", between(rng, 0.3, 0.5), between(rng, -1, 1)))
    if kind == "kink":
        return Tip("bent", ("kink", side * between(rng, 34, 48), between(rng, 0.3, 0.4)))
    return Tip("bent", (kind, side * between(rng, 28, 52), between(rng, 0.35, 0.55)))


def sample_holes(rng: Rng, used: int) -> tuple[tuple[int, int], ...]:
    """Gaps (column, row) off the used leading columns: two to four clusters, each several tips wide."""
    holes: set[tuple[int, int]] = set()
    first = used + 1  # the next full column stays in front of the gaps: else they would look like use
    for _ in range(int(rng.integers(2, 5))):
        wide, tall = int(rng.integers(2, 4)), int(rng.integers(2, 5))
        c0 = int(rng.integers(first, max(first + 1, 13 - wide)))
        r0 = int(rng.integers(0, 9 - tall))
        holes |= {(c, r) for c in range(c0, min(12, c0 + wide)) for r in range(r0, r0 + tall)}
    return tuple(sorted(holes))


def sample_crooked(rng: Rng, item: Item) -> Item:
    """The same plate turned, or standing up on one side, or both; see Item.detail in `item_pose`."""
    how = rng.random()
    yaw = pick(rng, (-1, 1)) * between(rng, 10, 20) if how < 0.7 else between(rng, -4, 4)
    tilt_x = tilt_y = 0.0
    if how > 0.4:
        if rng.random() < 0.6:
            tilt_x = pick(rng, (-1, 1)) * between(rng, 11, 18)
        else:
            tilt_y = pick(rng, (-1, 1)) * between(rng, 9, 14)
    lift = 4.0 + 42 * abs(np.sin(np.deg2rad(tilt_x))) + 63 * abs(np.sin(np.deg2rad(tilt_y)))
    return replace(item, state="tilted", detail=(yaw, tilt_x, tilt_y, round(float(lift), 3), between(rng, -5, 5),
                                                 between(rng, -5, 5)))  # fmt: skip


def sample_outline(rng: Rng, radius: float, ragged: float) -> tuple[tuple[float, float], ...]:
    """An irregular closed outline (mm, around 0): a stretched circle with a few harmonics."""
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    r = np.ones_like(angles)
    for k in (2, 3, 5, 7):
        r += ragged / k * rng.uniform(-1, 1) * np.cos(k * angles + rng.uniform(0, 6.28))
    r = radius * r.clip(0.35)
    stretch = rng.uniform(0.75, 1.35)
    turn = rng.uniform(0, np.pi)
    x, y = r * np.cos(angles) * stretch, r * np.sin(angles) / stretch
    return tuple(
        (round(float(a), 3), round(float(b), 3))
        for a, b in zip(x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn), strict=True)
    )
