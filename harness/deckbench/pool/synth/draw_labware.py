"""How labware looks: functions that add shapes to a Brush and return the points that bound the thing."""

from __future__ import annotations

import numpy as np

from deckbench.pool.synth import geometry as geo
from deckbench.pool.synth.brush import Array, Brush, mix, scaled
from deckbench.pool.synth.scene import Colour, Item, Look

CAPS: tuple[Colour, ...] = ((200, 60, 50), (60, 100, 190), (230, 190, 60), (80, 160, 90), (235, 235, 230))


def well_arrays(labware: geo.Labware, z: float) -> tuple[Array, Array]:
    """Well centres (m, 3) at height z and half widths (m, 2), far wells first."""
    wells = np.array(labware.wells)
    order = np.lexsort((wells[:, 1], -wells[:, 0]))
    wells = wells[order]
    return np.column_stack([wells[:, :2], np.full(len(wells), z)]), wells[:, 2:4]


def item_pose(item: Item, at: tuple[float, float, float]) -> tuple[Array, Array]:
    """Rotation and shift of a labware standing at `at`; crooked when its state says so."""
    if item.state != "tilted":
        return np.eye(3), np.array(at)
    yaw, tilt_x, tilt_y, lift, dx, dy = item.detail
    size = geo.load_labware(*item.model).size
    return geo.pose(yaw, tilt_x, tilt_y, (size[0] / 2, size[1] / 2, 0), (at[0] + dx, at[1] + dy, at[2] + lift))


def labware_bounds(item: Item, at: tuple[float, float, float]) -> Array:
    """Corner points (8, 3) in world axes of a labware standing at `at`."""
    size = geo.load_labware(*item.model).size
    turn, shift = item_pose(item, at)
    corners: Array = geo.box_corners(size) @ turn.T + shift
    return corners


def draw_labware(brush: Brush, item: Item, at: tuple[float, float, float], ident: int) -> Array:
    """Any labware; returns its bounding points in world axes."""
    turn, shift = item_pose(item, at)
    if item.state == "tilted":  # the dark gap below a plate that does not sit
        size = geo.load_labware(*item.model).size
        brush.place(np.eye(3), np.array(at))
        brush.plate(-1, -1, size[0] + 1, size[1] + 1, 0.3, (12, 12, 14), 130)
    brush.place(turn, shift)
    rng = np.random.Generator(np.random.PCG64(item.look))
    {
        "white plate": draw_white_plate,
        "square plate": draw_square_plate,
        "tip rack": draw_tip_rack,
        "tube rack": draw_tube_rack,
        "reservoir": draw_reservoir,
        "block": draw_block,
        "adapter": draw_adapter,
    }[item.kind](brush, item, brush.look, ident, rng)
    return labware_bounds(item, at)


def draw_white_plate(brush: Brush, item: Item, look: Look, ident: int, rng: np.random.Generator) -> None:
    labware = geo.load_labware(*item.model)
    x, y, z = labware.size
    brush.solid(geo.box_corners((x, y, z), 1.2), look.white, ident, scaled(look.white, 1.03))
    brush.plate(5, 4, x - 5, y - 4, z + 0.1, scaled(look.white, 0.97))
    centres, radii = well_arrays(labware, z + 0.2)
    filled = rng.random() < 0.55
    liquid = look.liquids[int(rng.integers(len(look.liquids)))]
    columns = int(rng.integers(2, 13))
    dark = brush.lit(scaled(look.white, 0.66))
    wet = brush.lit(mix(scaled(look.white, 0.8), liquid, 0.55))
    colours = [wet if filled and c[0] < 9 * columns + 10 else dark for c in centres]
    brush.discs(centres, radii, colours, square=not labware.round)
    if len(centres) <= 96:  # the lit far rim inside each well
        inner = centres + np.array([0.9, 0, 0.05])
        brush.discs(inner, radii * 0.62, [tuple(int(c * 1.22) if c < 205 else 250 for c in k) for k in colours])  # type: ignore[misc]


def draw_square_plate(brush: Brush, item: Item, look: Look, ident: int, rng: np.random.Generator) -> None:
    labware = geo.load_labware(*item.model)
    x, y, z = labware.size
    body = look.square
    brush.solid(geo.box_corners((x, y, z), 0.6), body, ident, scaled(body, 1.12), alpha=225)
    for k in range(1, 12):  # ribs on the near long side: walls of the wells seen through clear plastic
        yy = 4 + k * (y - 8) / 12
        brush.raw(np.array([[(-0.2, yy - 0.5, 1), (-0.2, yy + 0.5, 1), (0.4, yy + 0.5, z), (0.4, yy - 0.5, z)]]),
                  [brush.lit(scaled(body, 1.25), (-1, 0, 0))], 150)  # fmt: skip
    centres, radii = well_arrays(labware, z + 0.2)
    filled = rng.random() < 0.5
    liquid = look.liquids[int(rng.integers(len(look.liquids)))]
    columns = int(rng.integers(2, 13))
    dry, wet = brush.lit(scaled(body, 0.62)), brush.lit(mix(scaled(body, 0.75), liquid, 0.5))
    colours = [wet if filled and c[0] < 9 * columns + 10 else dry for c in centres]
    brush.discs(centres, radii, colours, square=True)
    glint = brush.lit(scaled(body, 1.3))
    wide = radii[:, 0]
    lines = np.stack(
        [centres + np.stack([wide * s, radii[:, 1] * t, wide * 0 + 0.1], axis=1)
         for s, t in ((0.55, -0.9), (0.95, -0.9), (0.95, 0.9), (0.55, 0.9))], axis=1)  # fmt: skip
    brush.raw(lines, [glint] * len(lines), 170)


def draw_tip_rack(brush: Brush, item: Item, look: Look, ident: int, rng: np.random.Generator) -> None:
    labware = geo.load_labware(*item.model)
    x, y, z = labware.size
    brush.solid(geo.box_corners((x, y, z * 0.62)), look.rack, ident)
    step = geo.box_corners((x - 6, y - 6, z - 3 - z * 0.62)) + np.array([3, 3, z * 0.62])
    brush.solid(step, scaled(look.rack, 1.25), ident, scaled(look.rack, 1.5))
    used, holes = item.detail
    gone = set(holes)
    wells = np.array(labware.wells)
    places = list(zip(labware.columns, labware.rows, strict=True))
    order = sorted(range(len(places)), key=lambda i: (-wells[i, 0], abs(wells[i, 1] - 43)), reverse=False)
    empty = [i for i in order if places[i][0] < used or places[i] in gone]
    there = [i for i in order if not (places[i][0] < used or places[i] in gone)]
    top = z - 3
    if empty:
        centres = np.column_stack([wells[empty, :2], np.full(len(empty), top + 0.2)])
        brush.discs(centres, np.full((len(empty), 2), 2.9), [scaled(look.rack, 0.35)] * len(empty))
    if there:
        centres = np.column_stack([wells[there, :2], np.full(len(there), top)])
        rim, side = brush.lit(look.tip), brush.lit(scaled(look.tip, 0.7), (-1, 0, 0))
        brush.stubs(centres, 3.3, 5.0, side, [rim] * len(there))
        brush.discs(centres + np.array([0, 0, 5.1]), np.full((len(there), 2), 1.9),
                    [brush.lit(scaled(look.tip, 0.55))] * len(there))  # fmt: skip


def draw_tube_rack(brush: Brush, item: Item, look: Look, ident: int, rng: np.random.Generator) -> None:
    labware = geo.load_labware(*item.model)
    x, y, z = labware.size
    plate_z = min(z * 0.62, 52.0)
    body: Colour = (226, 228, 230) if rng.random() < 0.6 else (70, 110, 170)
    brush.solid(geo.box_corners((x, y, 8)), body, ident)
    for px, py in ((2, 2), (2, y - 6), (x - 6, 2), (x - 6, y - 6)):
        brush.solid(geo.box_corners((4, 4, plate_z - 8)) + np.array([px, py, 8]), scaled(body, 0.8), ident)
    brush.solid(geo.box_corners((x - 8, y - 8, plate_z - 14)) + np.array([4, 4, 8]), scaled(body, 0.55), ident)
    brush.solid(geo.box_corners((x, y, 5)) + np.array([0, 0, plate_z - 5]), body, ident, scaled(body, 1.05))
    centres, radii = well_arrays(labware, plate_z)
    brush.discs(centres + np.array([0, 0, 0.2]), radii + 0.8, [(60, 62, 66)] * len(centres))
    cap = CAPS[int(rng.integers(len(CAPS)))]
    for centre, radius in zip(centres, radii, strict=True):
        if rng.random() < 0.14:
            continue
        colour = CAPS[int(rng.integers(len(CAPS)))] if rng.random() < 0.35 else cap
        height = 16.0 if radius[0] < 7 else 22.0
        tube = brush.lit((206, 212, 216), (-1, 0, 0))
        brush.stubs(centre[None], float(radius[0]), height, tube, [tube])
        brush.stubs(centre[None] + np.array([0, 0, height - 7]), float(radius[0]) + 1.2, 9.0,
                    brush.lit(scaled(colour, 0.8), (-1, 0, 0)), [brush.lit(colour)])  # fmt: skip


def draw_reservoir(brush: Brush, item: Item, look: Look, ident: int, rng: np.random.Generator) -> None:
    labware = geo.load_labware(*item.model)
    x, y, z = labware.size
    body = (232, 234, 234)
    brush.solid(geo.box_corners((x, y, z), 1.0), body, ident, (244, 245, 245))
    centres, radii = well_arrays(labware, z + 0.2)
    one = look.liquids[int(rng.integers(len(look.liquids)))]
    colours = []
    for _ in centres:
        colour = one if rng.random() < 0.6 else look.liquids[int(rng.integers(len(look.liquids)))]
        colours.append(brush.lit(scaled(colour, 0.95)) if rng.random() < 0.8 else brush.lit((176, 180, 184)))
    brush.discs(centres, radii, [brush.lit((150, 153, 157))] * len(centres), square=True)
    brush.discs(centres + np.array([-0.6, 0, 0.1]), radii * np.array([0.8, 0.96]), colours, square=True)


def draw_block(brush: Brush, item: Item, look: Look, ident: int, rng: np.random.Generator) -> None:
    """An aluminium block with wells; the coloured caps of its tubes where it holds some."""
    labware = geo.load_labware(*item.model)
    x, y, z = labware.size
    tubes = "nest" in labware.name or "screwcap" in labware.name or "snapcap" in labware.name
    top = min(z, 30.0) if tubes else z
    body: Colour = (150, 153, 158)
    brush.solid(geo.box_corners((x, y, top), 0.8), body, ident, scaled(body, 1.1))
    centres, radii = well_arrays(labware, top + 0.2)
    brush.discs(centres, radii, [brush.lit(scaled(body, 0.55))] * len(centres), square=not labware.round)
    if tubes and len(centres) <= 24:
        for centre, radius in zip(centres, radii, strict=True):
            colour = CAPS[int(rng.integers(len(CAPS)))]
            brush.stubs(centre[None], float(radius[0]) + 1.0, 6.0, brush.lit(scaled(colour, 0.8), (-1, 0, 0)),
                        [brush.lit(colour)])  # fmt: skip


def draw_adapter(brush: Brush, item: Item, look: Look, ident: int, rng: np.random.Generator) -> None:
    """A plain frame that other labware stands on."""
    x, y, z = geo.load_labware(*item.model).size
    body: Colour = (120, 123, 128)
    brush.solid(geo.box_corners((x, y, max(4.0, z)), 1.5), body, ident, scaled(body, 1.1))
    brush.plate(8, 8, x - 8, y - 8, max(4.0, z) + 0.1, scaled(body, 0.7))
