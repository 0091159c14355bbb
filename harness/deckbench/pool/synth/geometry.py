"""True sizes of the OT-2: deck, slots, labware, modules, pipettes. Read from opentrons-shared-data, in millimetres.

Axes are the robot's: x to the right, y to the back, z up; the origin is the front left corner of slot 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DECK = "deck/definitions/3/ot2_standard.json"
NOZZLE_PITCH = 9.0
SLOTS = tuple(range(1, 13))
THERMOCYCLER_SLOTS = (7, 8, 10, 11)
TRASH_SLOT = 12


@dataclass(frozen=True)
class Labware:
    """A labware definition: outer size, and its wells as (x, y, half width x, half width y) at the top face."""

    name: str
    size: tuple[float, float, float]
    wells: tuple[tuple[float, float, float, float], ...]
    columns: tuple[int, ...]  # column of each well, 0 is the leftmost (smallest x)
    rows: tuple[int, ...]
    round: bool
    depth: float


@dataclass(frozen=True)
class Module:
    """A module's body: corner relative to its slot's corner, size, and where its labware stands."""

    name: str
    corner: tuple[float, float]
    size: tuple[float, float, float]
    seat: tuple[float, float, float]
    lid: float


@cache
def read_json(path: str) -> dict[str, Any]:
    """A file of opentrons-shared-data, parsed."""
    from opentrons_shared_data import load_shared_data

    data: dict[str, Any] = json.loads(load_shared_data(path))
    return data


@cache
def load_labware(name: str, version: int) -> Labware:
    """One labware definition (schema 2), reduced to what a picture needs."""
    data = read_json(f"labware/definitions/2/{name}/{version}.json")
    wells, columns, rows = [], [], []
    is_round = True
    depth = 0.0
    for column, names in enumerate(data["ordering"]):
        for row, well_name in enumerate(names):
            well = data["wells"][well_name]
            if well["shape"] == "circular":
                half = (well["diameter"] / 2, well["diameter"] / 2)
            else:
                is_round = False
                half = (well["xDimension"] / 2, well["yDimension"] / 2)
            wells.append((float(well["x"]), float(well["y"]), float(half[0]), float(half[1])))
            columns.append(column)
            rows.append(row)
            depth = float(well["depth"])
    size = data["dimensions"]
    return Labware(
        name,
        (float(size["xDimension"]), float(size["yDimension"]), float(size["zDimension"])),
        tuple(wells),
        tuple(columns),
        tuple(rows),
        is_round,
        depth,
    )


@cache
def load_module(name: str) -> Module:
    """One module definition (schema 3)."""
    data = read_json(f"module/definitions/3/{name}.json")
    size, seat, corner = data["dimensions"], data["labwareOffset"], data["cornerOffsetFromSlot"]
    return Module(
        name,
        (float(corner["x"]), float(corner["y"])),
        (float(size["xDimension"]), float(size["yDimension"]), float(size["bareOverallHeight"])),
        (float(seat["x"]), float(seat["y"]), float(seat["z"])),
        float(size.get("lidHeight", 0.0)),
    )


@cache
def slot_corner(slot: int) -> tuple[float, float]:
    """Front left corner of a slot on the deck."""
    for entry in read_json(DECK)["locations"]["orderedSlots"]:
        if entry["id"] == str(slot):
            return float(entry["position"][0]), float(entry["position"][1])
    raise ValueError(f"no slot {slot}")


@cache
def slot_size() -> tuple[float, float]:
    """Width (x) and depth (y) of a slot."""
    box = read_json(DECK)["locations"]["orderedSlots"][0]["boundingBox"]
    return float(box["xDimension"]), float(box["yDimension"])


@cache
def deck_rectangle() -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of the deck plate."""
    data = read_json(DECK)
    x, y, _ = data["cornerOffsetFromOrigin"]
    width, depth, _ = data["dimensions"]
    return float(x), float(y), float(x + width), float(y + depth)


@cache
def tip_length(rack: str, version: int = 1) -> float:
    """How much of a tip from this rack shows below the nozzle."""
    parameters = read_json(f"labware/definitions/2/{rack}/{version}.json")["parameters"]
    return float(parameters["tipLength"] - parameters["tipOverlap"])


@cache
def nozzles(channels: int) -> tuple[float, ...]:
    """y of each nozzle relative to the pipette's middle, from the back to the front."""
    if channels == 1:
        return (0.0,)
    data = read_json("pipette/definitions/2/geometry/eight_channel/p300/2_1.json")
    return tuple(float(place[1]) for _, place in sorted(data["nozzleMap"].items()))


def box_corners(size: tuple[float, float, float], top_inset: float = 0.0) -> Array:
    """Eight corners (8, 3) of a box standing at the origin; the top may be smaller by `top_inset` on each side."""
    x, y, z = size
    i = top_inset
    return np.array(
        [
            (0, 0, 0), (x, 0, 0), (x, y, 0), (0, y, 0),
            (i, i, z), (x - i, i, z), (x - i, y - i, z), (i, y - i, z),
        ]
    )  # fmt: skip


def pose(
    yaw: float, tilt_x: float, tilt_y: float, middle: tuple[float, float, float], at: tuple[float, float, float]
) -> tuple[Array, Array]:
    """Rotation (3, 3) and shift (3,): turn by angles in degrees about `middle` (local), then move by `at`."""
    a, b, c = np.deg2rad([yaw, tilt_x, tilt_y])
    rz = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    rx = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    ry = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    turn = rz @ rx @ ry
    pivot = np.array(middle)
    return turn, np.array(at) + pivot - turn @ pivot
