"""What stands in a slot: modules, trash, labware on them. Functions add shapes to a Brush, return the points around."""

from __future__ import annotations

import numpy as np

from deckbench.pool.synth import geometry as geo
from deckbench.pool.synth.brush import Array, Brush, scaled
from deckbench.pool.synth.draw_labware import draw_labware
from deckbench.pool.synth.scene import Item, Station

STACKED_MM = 3.0  # labware sinks so far into what it stands on


def base_ident(slot: int) -> int:
    """Id of a slot's module or labware in the id picture."""
    return slot * 2


def on_ident(slot: int) -> int:
    """Id of what stands on a slot's module."""
    return slot * 2 + 1


def draw_magnetic(brush: Brush, slot: int, item: Item, ident: int) -> tuple[Array, tuple[float, float, float]]:
    """The magnetic module; returns its bounds and where its labware stands."""
    module = geo.load_module(item.model[0])
    look = brush.look
    x0, y0 = geo.slot_corner(slot)
    at = np.array([x0 + module.corner[0], y0 + module.corner[1], 0.0])
    x, y, _ = module.size
    z = module.seat[2] + 3.0
    brush.place(np.eye(3), at)
    body = look.magnetic
    brush.solid(geo.box_corners((x, y, z * 0.55)), scaled(body, 0.62), ident)
    brush.solid(geo.box_corners((x, y, z * 0.45)) + np.array([0, 0, z * 0.55]), body, ident)
    near = np.array([(-0.3, 20, z * 0.68), (-0.3, y - 20, z * 0.68), (-0.3, y - 20, z * 0.86), (-0.3, 20, z * 0.86)])
    brush.face(near, scaled(body, 0.55), (-1, 0, 0))
    lamp = np.array([(-0.5, 24, z * 0.73), (-0.5, 34, z * 0.73), (-0.5, 34, z * 0.8), (-0.5, 24, z * 0.8)])
    brush.raw(lamp[None], [(80, 160, 240)])
    brush.plate(4, 4, x - 4, y - 4, z + 0.1, (44, 46, 50))
    seat = (x0 + module.corner[0] + (x - 127.76) / 2, y0 + module.corner[1] + (y - 85.48) / 2, z - 3.0)
    centres = np.array([(16.5 + 18 * c, 16.0 + 18 * r, z + 0.3) for c in range(6, -1, -1) for r in range(4)])
    centres = centres[centres[:, 0] < x - 8]
    brush.discs(centres, np.full((len(centres), 2), 4.6), [brush.lit((150, 153, 158))] * len(centres))
    brush.discs(centres + np.array([0, 0, 0.1]), np.full((len(centres), 2), 2.2), [(28, 28, 30)] * len(centres))
    return geo.box_corners((x, y, z)) + at, seat


def draw_temperature(brush: Brush, slot: int, item: Item, ident: int) -> tuple[Array, tuple[float, float, float]]:
    """The temperature module; its control end overhangs away from the deck's middle."""
    module = geo.load_module(item.model[0])
    look = brush.look
    x0, y0 = geo.slot_corner(slot)
    x, y, z = module.size
    overhang = module.corner[0] if slot in (1, 4, 7, 10) else -0.8
    at = np.array([x0 + overhang, y0 + module.corner[1], 0.0])
    brush.place(np.eye(3), at)
    body = look.temperature
    brush.solid(geo.box_corners((x, y, z - 8)), body, ident)
    block_x = -module.corner[0] if overhang < -1 else 0.8
    block = geo.box_corners((128, 86, 8)) + np.array([block_x, -module.corner[1], z - 8])
    brush.solid(block, (150, 153, 158), ident, (172, 175, 180))
    panel = (6.0, 62.0) if overhang < -1 else (134.0, 190.0)
    brush.plate(panel[0], 12, panel[1], y - 12, z - 7.8, scaled(body, 0.5))
    brush.plate(panel[0] + 14, 30, panel[0] + 34, y - 30, z - 7.6, (240, 120, 60))
    wells = np.array([(block_x + 14.4 + 9 * c, 11.2 - module.corner[1] + 9 * r, z + 0.2)
                      for c in range(11, -1, -1) for r in range(8)])  # fmt: skip
    brush.discs(wells, np.full((96, 2), 3.0), [brush.lit((92, 94, 98))] * 96)
    seat = (x0 + module.seat[0] + 1.5, y0 + module.seat[1], module.seat[2])
    return geo.box_corners((x, y, z)) + at, seat


def draw_thermocycler(brush: Brush, station: Station) -> dict[int, Array]:
    """The thermocycler over slots 7, 8, 10, 11, lid open or closed; the plate shows when it is open."""
    assert station.base is not None
    item, look = station.base, brush.look
    ident = base_ident(7)
    module = geo.load_module(item.model[0])
    x0, y0 = geo.slot_corner(7)
    x, y, z = module.size
    at = np.array([x0 + module.corner[0], y0, 0.0])
    body = look.thermocycler
    brush.place(np.eye(3), at)
    brush.solid(geo.box_corners((x, y, 22)), scaled(body, 0.6), ident)
    brush.solid(geo.box_corners((x, y, z - 22), 2.0) + np.array([0, 0, 22]), body, ident, scaled(body, 1.0))
    for k in range(9):  # vents on the near side
        v = 60 + k * 15.0
        brush.face(
            np.array([(-0.4, v, 34), (-0.4, v + 7, 34), (0.6, v + 7, 62), (0.6, v, 62)]), scaled(body, 0.62), (-1, 0, 0)
        )
    brush.raw(np.array([[(0.2, 8, 76), (0.2, 34, 76), (0.4, 34, 80), (0.4, 8, 80)]]), [(90, 170, 250)])
    lid = look.lid
    bounds: list[Array] = [geo.box_corners((x, y, z)) + at]
    hinge = y - 34.0
    long, high = 196.0, module.lid
    found: dict[int, Array] = {}
    back = geo.box_corners((x - 8, 33, 26)) + np.array([4, hinge + 0.5, z])
    brush.solid(back, scaled(body, 0.78), ident)
    bounds.append(back + at)
    if item.state == "closed":
        box = geo.box_corners((x - 4, long, high), 5.0) + np.array([2, hinge - long, z])
        brush.solid(box, lid, ident, scaled(lid, 1.04))
        brush.plate(34, hinge - long + 28, x - 34, hinge - 24, z + high + 0.2, scaled(lid, 0.86))
        brush.plate(40, hinge - long + 34, x - 40, hinge - long + 62, z + high + 0.4, scaled(lid, 0.55))
        handle = geo.box_corners((64, 10, 12)) + np.array([x / 2 - 32, hinge - long - 8, z + 8])
        brush.solid(handle, scaled(lid, 0.5), ident)
        bounds.append(box + at)
    else:
        brush.plate(8, hinge - long + 4, x - 8, hinge - 2, z + 0.2, (52, 54, 58))
        seat = (x0 + module.seat[0], y0 + module.seat[1], z - 4.0)
        brush.plate(17, module.seat[1] - 6, 17 + 138, module.seat[1] + 92, z + 0.4, (120, 123, 128))
        wells = np.array([(22.1 + 14.4 + 9 * c, module.seat[1] + 11.2 + 9 * r, z + 0.6)
                          for c in range(11, -1, -1) for r in range(8)])  # fmt: skip
        brush.discs(wells, np.full((96, 2), 2.9), [brush.lit((70, 72, 76))] * 96)
        if station.on is not None:
            found[on_ident(7)] = draw_labware(brush, station.on, seat, on_ident(7))
        # the open lid stands on its hinge: local z is its thickness, local -y its length
        angle = float(item.detail[0])
        turn, shift = geo.pose(0, -angle, 0, (0, 0, 0), (at[0] + 2, at[1] + hinge + 2, z + 14.0))
        brush.place(turn, shift)
        box = geo.box_corners((x - 4, long, high), 5.0) + np.array([0, -long, 0])
        brush.solid(box, lid, ident, scaled(lid, 1.04))
        under = np.array([(14, -long + 16, -0.3), (x - 18, -long + 16, -0.3), (x - 18, -26, -0.3), (14, -26, -0.3)])
        brush.face(under, (74, 76, 80), (0, 0, -1))
        under = np.array([(22, -long + 62, -0.5), (x - 26, -long + 62, -0.5), (x - 26, -40, -0.5), (22, -40, -0.5)])
        brush.face(under, (36, 37, 40), (0, 0, -1))
        bounds.append(box @ turn.T + shift)
    found[ident] = np.concatenate(bounds)
    return found


def trash_box() -> tuple[float, float, float, float, float]:
    """x0, y0, x1, y1 of the bin's opening and its height, in world axes."""
    labware = geo.load_labware("opentrons_1_trash_1100ml_fixed", 1)
    x0, y0 = geo.slot_corner(geo.TRASH_SLOT)
    x, y, half_x, half_y = labware.wells[0]
    return x0 + x - half_x, y0 + y - half_y, x0 + x + half_x, y0 + y + half_y, labware.size[2]


def strewn_tips(brush: Brush, places: Array, rng: np.random.Generator, length: float) -> list[Array]:
    """Used tips lying about at places (m, 3), far ones first; returns their end points."""
    look = brush.look
    ends = []
    for place in places[np.argsort(-places[:, 0])]:
        turn = rng.uniform(0, 2 * np.pi)
        rise = rng.uniform(-0.45, 0.45)
        direction = np.array([np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)])
        a, b = place - direction * length / 2, place + direction * length / 2
        side = np.cross(direction, brush.camera.axes[2])
        side = side / max(1e-6, float(np.linalg.norm(side)))
        colour = scaled(look.tip, float(rng.uniform(0.8, 1.06)))
        edge = np.array([a - side * 1.0, a + side * 1.0, b + side * 4.0, b - side * 4.0])
        body = np.array([a - side * 0.5, a + side * 0.5, b + side * 2.9, b - side * 2.9])
        brush.raw(edge[None], [brush.lit(scaled(colour, 0.5))])
        brush.raw(body[None], [brush.lit(colour)])
        ends += [a, b]
    return ends


def draw_trash(brush: Brush, item: Item) -> Array:
    """The trash bin: clear (a few tips deep inside) or heaped with tips above its rim."""
    look, ident = brush.look, base_ident(geo.TRASH_SLOT)
    rng = np.random.Generator(np.random.PCG64(item.look))
    x0, y0, x1, y1, z = trash_box()
    brush.place(np.eye(3), np.zeros(3))
    wall = 7.0
    corners = geo.box_corners((x1 - x0 + 2 * wall, y1 - y0 + 2 * wall, z)) + np.array([x0 - wall, y0 - wall, 0])
    brush.solid(corners, look.trash, ident, scaled(look.trash, 1.35))
    brush.plate(x0, y0, x1, y1, z + 0.1, scaled(look.trash, 0.28))
    far = np.array([(x1, y0, z), (x1, y1, z), (x1, y1, z - 40), (x1, y0, z - 40)])
    brush.face(far, scaled(look.trash, 0.62), (-1, 0, 0))
    bounds = [corners]
    heap = item.state == "heaped"
    inside = 6 * int(item.detail[0]) if not heap else 14
    if inside:
        places = np.column_stack([rng.uniform(x0 + 45, x1 - 18, inside), rng.uniform(y0 + 22, y1 - 22, inside),
                                  np.full(inside, z - 22)])  # fmt: skip
        strewn_tips(brush, places, rng, 30.0)
    if heap:
        height = float(item.detail[1])
        count = int(item.detail[2])
        u, v = rng.uniform(-1, 1, count), rng.uniform(-1, 1, count)
        r = np.maximum(np.abs(u), np.abs(v))
        rise = height * (1 - r**2.2) * rng.uniform(0.75, 1.0, count) + 2
        places = np.column_stack([(x0 + x1) / 2 + u * (x1 - x0) * 0.44, (y0 + y1) / 2 + v * (y1 - y0) * 0.44, z + rise])
        mound = []
        for k in range(8, -1, -1):  # the mass below the top tips
            size = 0.5 * (k + 1) / 9
            zz = z + height * 0.8 * (1 - ((k + 1) / 9) ** 2.2)
            ring = np.array([(c * (x1 - x0) * size * 0.92, s * (y1 - y0) * size * 0.92, 0) for c, s in CIRCLE_16])
            mound.append(ring + np.array([(x0 + x1) / 2, (y0 + y1) / 2, zz]))
        brush.raw(np.stack(mound), [brush.lit(scaled(look.tip, 0.55))] * len(mound), 255, ident)
        ends = strewn_tips(brush, places, rng, 44.0)
        inside_ends = [e for e in ends if e[2] > z]
        bounds.append(np.array(inside_ends if inside_ends else ends))
    return np.concatenate(bounds)


CIRCLE_16 = [(float(np.cos(a)), float(np.sin(a))) for a in np.linspace(0, 2 * np.pi, 16, endpoint=False)]


def draw_station(brush: Brush, station: Station) -> dict[int, Array]:
    """Everything in a slot; returns bounding points in world axes by id."""
    if station.base is None:
        return {}
    if station.base.kind == "thermocycler":
        return draw_thermocycler(brush, station)
    if station.base.kind == "trash bin":
        return {base_ident(geo.TRASH_SLOT): draw_trash(brush, station.base)}
    slot, ident = station.slot, base_ident(station.slot)
    found: dict[int, Array] = {}
    seat = slot_seat(slot)
    if station.base.kind == "magnetic module":
        found[ident], seat = draw_magnetic(brush, slot, station.base, ident)
    elif station.base.kind in ("temperature module", "heater-shaker"):
        found[ident], seat = draw_temperature(brush, slot, station.base, ident)
    else:
        found[ident] = draw_labware(brush, station.base, seat, ident)
        seat = above(seat, station.base)
    for item in station.between:  # one thing with what it stands on
        found[ident] = np.concatenate([found[ident], draw_labware(brush, item, seat, ident)])
        seat = above(seat, item)
    if station.on is not None:
        found[on_ident(slot)] = draw_labware(brush, station.on, seat, on_ident(slot))
    return found


def above(seat: tuple[float, float, float], item: Item) -> tuple[float, float, float]:
    """Where labware stands on another."""
    return seat[0], seat[1], seat[2] + geo.load_labware(*item.model).size[2] - STACKED_MM


def slot_seat(slot: int) -> tuple[float, float, float]:
    """Where labware stands on a bare slot."""
    x, y = geo.slot_corner(slot)
    return x, y, 0.5
