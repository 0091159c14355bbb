"""An expected deck state as the renderer draws it: stations, and the pipette that acts."""

from __future__ import annotations

import hashlib
from functools import cache

from deckbench.errors import InputError
from deckbench.pool.synth import geometry as geo
from deckbench.pool.synth.sample import between
from deckbench.pool.synth.scene import Hand, Item, Plan, Rng, Station, Tip
from deckbench.protocol import DeckState, Labware, Module, Slot

MODULES = {
    # Newer and older generations are drawn alike.
    "thermocycler": "thermocyclerModuleV1",
    "temperature module": "temperatureModuleV2",
    "magnetic module": "magneticModuleV2",
    "heater-shaker": "heaterShakerModuleV1",
}
DEEP_MM = 20.0  # wells from here on are a deep-well plate's
TRASH_MM = (55.0, 62.0)  # from the corner of the slot
OVER_MM = 12.0  # the tips hang so far above what is below them
STANDARD = {"plate": ("nest_96_wellplate_200ul_flat", 1), "tip rack": ("opentrons_96_tiprack_300ul", 1),
            "reservoir": ("nest_12_reservoir_15ml", 1), "tube rack": ("opentrons_24_tuberack_nest_1.5ml_snapcap", 1),
            "block": ("opentrons_24_aluminumblock_nest_1.5ml_snapcap", 1)}  # fmt: skip
PLAIN = ("opentrons_universal_flat_adapter", 1)


@cache
def model_of(labware: Labware) -> tuple[str, int]:
    """The definition that a piece of labware is drawn by: its own, else (a lab's own labware) a standard one's."""
    for version in (labware.version, *range(1, 6)):
        try:
            if geo.load_labware(labware.name, version).wells or labware.kind in ("adapter", "lid", "other"):
                return labware.name, version
        except (FileNotFoundError, KeyError, OSError, ValueError):
            continue
    return STANDARD.get(labware.kind, PLAIN)


def kind_of(labware: Labware) -> str:
    """The renderer's word for a piece of labware."""
    if labware.kind == "plate":
        shape = geo.load_labware(*model_of(labware))
        return "white plate" if shape.round and shape.depth < DEEP_MM else "square plate"
    known = {"tip rack": "tip rack", "reservoir": "reservoir", "tube rack": "tube rack", "block": "block"}
    return known.get(labware.kind, "adapter")


def item_of(labware: Labware, session: int) -> Item:
    """A piece of labware as it stands; its small differences come from the session and its name."""
    kind, model = kind_of(labware), model_of(labware)
    text = f"{session} {labware.name} {labware.label}"
    look = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 2
    if kind != "tip rack":
        return Item(kind, "seated", model, (), look)
    assert labware.tips is not None
    gone = tuple(
        sorted(
            (column, row)
            for column, wells in enumerate(labware.columns)
            for row, well in enumerate(wells)
            if well not in labware.tips
        )
    )
    return Item(kind, "used" if gone else "full", model, (0, gone), look)


def module_item(module: Module, session: int, lid_angle: float) -> Item:
    """A module. A thermocycler's lid is closed until a command opens it."""
    if module.kind == "thermocycler":
        state = "open" if module.lid == "open" else "closed"
        return Item("thermocycler", state, (MODULES["thermocycler"], 3), (lid_angle,), session)
    kind = module.kind if module.kind in MODULES else "heater-shaker"
    return Item(kind, "seated", (MODULES[kind], 3), (), session)


def station_of(slot: Slot, session: int, lid_angle: float) -> Station:
    """What stands in a slot."""
    number = int(slot.name)
    if any(labware.kind == "trash" for labware in slot.stack):
        return Station(
            number, Item("trash bin", "clear", ("opentrons_1_trash_1100ml_fixed", 1), (session % 3,), session)
        )
    items = [item_of(labware, session) for labware in slot.stack]
    if slot.module is not None:
        base = module_item(slot.module, session, lid_angle)
    elif items:
        base = items.pop(0)
    else:
        return Station(number, None)
    return Station(number, base, items[-1] if items else None, tuple(items[:-1]))


def stations_of(state: DeckState, session: int, lid_angle: float) -> tuple[Station, ...]:
    """The deck, slot by slot; slots that a thermocycler covers are its own."""
    covered = {slot.name for slot in state.slots if slot.covered_by is not None}
    return tuple(station_of(slot, session, lid_angle) for slot in state.slots if slot.name not in covered)


def lowest(station: Station | None) -> float:
    """Height in mm above a slot that the tips keep clear of."""
    if station is None or station.base is None:
        return 60.0
    if station.base.kind == "thermocycler":
        return 150.0
    if station.base.kind == "trash bin":
        return 82.0
    height = 80.0 if "module" in station.base.kind or station.base.kind == "heater-shaker" else 0.0
    stack = ([] if height else [station.base]) + [*station.between] + ([station.on] if station.on else [])
    return height + sum(geo.load_labware(*item.model).size[2] for item in stack)


def hand_of(state: DeckState, stations: tuple[Station, ...], plan: Plan, rng: Rng) -> Hand | None:
    """The pipette that the gantry moved last, above where it stands; None where it is out of sight."""
    gantry = state.gantry
    if gantry.place not in ("slot", "trash") or gantry.mount is None or gantry.slot is None:
        return None
    pipette = state.pipette(gantry.mount)
    if pipette is None:
        return None
    slot = int(gantry.slot)
    offsets = geo.nozzles(8 if pipette.channels > 1 else 1)
    width, depth = geo.slot_size()
    x0, y0 = geo.slot_corner(slot)
    x, y = x0 + width / 2, y0 + depth / 2
    if gantry.position is not None:
        first = pipette.nozzles[0] if pipette.nozzles else "A1"
        row = "ABCDEFGH".find(first[0]) if pipette.channels > 1 else 0
        x, y = gantry.position[0], gantry.position[1] - offsets[max(0, row)]
    if gantry.place == "trash":  # its near half, where the camera sees the tips
        x, y = min(x, x0 + TRASH_MM[0]), y0 + TRASH_MM[1]
    station = next((s for s in stations if s.slot == slot), None)
    if station is None:  # a slot below the thermocycler
        station = next((s for s in stations if s.slot == 7), None)
    z = lowest(station) + OVER_MM + between(rng, 0, 10)
    names = [f"{row}1" for row in "ABCDEFGH"] if pipette.channels > 1 else ["A1"]
    held = {tip.nozzle for tip in pipette.tips}
    tips = tuple(Tip("straight" if name in held else "missing") for name in names) if held else ()
    place = (round(x + between(rng, -1, 1), 2), round(y + between(rng, -1, 1), 2), round(z, 2))
    return Hand(place, f"slot {slot}", tips, 8 if pipette.channels > 1 else 1)


def check_drawable(state: DeckState) -> None:
    """Refuse a deck that the renderer cannot draw. Raises InputError."""
    for slot in state.slots:
        module = slot.module
        if module is not None and module.kind == "thermocycler" and slot.name != "7":
            what = f"the protocol has a thermocycler in slot {slot.name}; on an OT-2 it stands over 7, 8, 10 and 11"
            raise InputError(what, "--protocol", "give an OT-2 protocol")
