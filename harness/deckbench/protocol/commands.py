"""What each type of command does to the deck."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from deckbench.protocol.analysis import Command
from deckbench.protocol.deck import CommandFault, Deck, Piece
from deckbench.protocol.state import Gantry, HeldTip, Labware, LabwareKind, Module, ModuleKind, Pipette
from deckbench.schema import shown

LABWARE_KINDS: dict[str, LabwareKind] = {
    "tipRack": "tip rack",
    "wellPlate": "plate",
    "reservoir": "reservoir",
    "tubeRack": "tube rack",
    "aluminumBlock": "block",
    "adapter": "adapter",
    "lid": "lid",
    "trash": "trash",
}
MODULE_KINDS: tuple[tuple[str, ModuleKind], ...] = (
    ("thermocycler", "thermocycler"),
    ("temperature", "temperature module"),
    ("magnetic", "magnetic module"),
    ("heaterShaker", "heater-shaker"),
)


def apply(deck: Deck, command: Command) -> None:
    """Apply one command. Raises CommandFault."""
    deck.refilled = []
    action = ACTIONS.get(command.command_type)
    if action is not None:
        action(deck, command)
        deck.kept = None
    if command.command_type not in STAY and "pipetteId" in command.params:
        deck.move(command)


# Loading


def labware_of(definition: Any, params: Mapping[str, Any]) -> Labware:
    """Labware as its definition describes it; what a definition does not say is taken from its load name."""
    definition = definition if isinstance(definition, Mapping) else {}
    parameters = as_map(definition.get("parameters"))
    metadata = as_map(definition.get("metadata"))
    name = str(parameters.get("loadName") or params.get("loadName") or "unknown")
    columns = tuple(tuple(map(str, as_list(column))) for column in as_list(definition.get("ordering")))
    roles = as_list(definition.get("allowedRoles"))
    kind = LABWARE_KINDS.get(str(metadata.get("displayCategory")), "other")
    for role in ("adapter", "lid"):
        if role in roles and kind not in ("block", "plate"):
            kind = LABWARE_KINDS[role]
    if kind in ("block", "adapter") and "adapter" not in roles and "wellplate" in name:
        kind = "plate"  # one definition for a plate in its block or adapter: the plate is what is seen
    wells = as_map(definition.get("wells"))
    tips = volume = None
    if parameters.get("isTiprack"):
        kind, tips = "tip rack", frozenset(well for column in columns for well in column)
        volumes = {number_of(well.get("totalLiquidVolume")) for well in wells.values() if isinstance(well, Mapping)}
        volume = volumes.pop() if len(volumes) == 1 else None
    label = params.get("displayName")
    return Labware(
        name,
        str(metadata.get("displayName") or name),
        kind,
        columns,
        tips,
        volume,
        number_of(as_map(definition.get("dimensions")).get("zDimension")),
        label if isinstance(label, str) and label.strip() else None,
        str(definition.get("namespace") or params.get("namespace") or "opentrons"),
        definition["version"] if isinstance(definition.get("version"), int) else 1,
    )


def as_map(value: Any) -> Mapping[str, Any]:
    """A map, or an empty one in place of what is none."""
    return value if isinstance(value, Mapping) else {}


def number_of(value: Any) -> float | None:
    """A number, or None in place of what is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def as_list(value: Any) -> list[Any]:
    """A list, or an empty one in place of what is none."""
    return value if isinstance(value, list) else []


def text_of(values: Mapping[str, Any], name: str) -> str:
    """A text field that a command must have."""
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise CommandFault(f"the field {name!r} is missing or no text")
    return value


def load_labware(deck: Deck, command: Command) -> None:
    labware = labware_of(command.result.get("definition"), command.params)
    if command.command_type == "loadLid":
        labware = replace(labware, kind="lid")
    key = text_of(command.result, "labwareId")
    deck.pieces[key] = Piece(labware, deck.location(command.params.get("location")))


def load_lid_stack(deck: Deck, command: Command) -> None:
    """A stack of lids: nothing but the lids is seen, the first of them at the bottom."""
    on = deck.location(command.params.get("location"))
    lid = replace(labware_of(command.result.get("definition"), command.params), kind="lid")
    for key in as_list(command.result.get("labwareIds")):
        deck.pieces[str(key)] = Piece(lid, on)
        on = ("labware", str(key))


def load_module(deck: Deck, command: Command) -> None:
    model = str(command.result.get("model") or text_of(command.params, "model"))
    kind: ModuleKind = next((kind for start, kind in MODULE_KINDS if model.startswith(start)), "other")
    place = deck.location(command.params.get("location"))
    if place is None or place[0] != "slot":
        raise CommandFault("the module stands in no slot")
    deck.modules[text_of(command.result, "moduleId")] = Module(kind, model, place[1])


def load_pipette(deck: Deck, command: Command) -> None:
    name = text_of(command.params, "pipetteName")
    mount = command.params.get("mount")
    if mount not in ("left", "right"):
        raise CommandFault("a pipette is on the left or the right mount")
    nozzles = tuple(f"{row}1" for row in "ABCDEFGH") if "multi" in name else ("A1",)
    others = {key: one for key, one in deck.pipettes.items() if one.mount != mount}
    loaded = Pipette(mount, name, len(nozzles), nozzles)
    deck.pipettes = {**others, text_of(command.result, "pipetteId"): loaded}


# Tips


def configure_nozzles(deck: Deck, command: Command) -> None:
    pipette = deck.pipette(command.params.get("pipetteId"))
    layout = as_map(command.params.get("configurationParams"))
    every = tuple(f"{row}1" for row in "ABCDEFGH")[: pipette.channels]
    style, primary = layout.get("style"), layout.get("primaryNozzle")
    if style in ("ALL", "COLUMN") or pipette.channels == 1:
        nozzles = every
    elif style == "SINGLE" and primary in every:
        nozzles = (str(primary),)
    elif style == "QUADRANT" and layout.get("backLeftNozzle") in every and layout.get("frontRightNozzle") in every:
        nozzles = every[every.index(layout["backLeftNozzle"]) : every.index(layout["frontRightNozzle"]) + 1]
        if primary == nozzles[-1]:
            nozzles = nozzles[::-1]  # the first one is the one that is moved to the well
    else:
        raise CommandFault(f"the nozzle layout {shown(str(style))} is not one of this pipette")
    deck.pipettes[command.params["pipetteId"]] = replace(pipette, nozzles=nozzles)


def wells_of(rack: Labware, well: str, nozzles: tuple[str, ...]) -> list[tuple[str, str]]:
    """Nozzles over a rack, each with its well, when the first nozzle is at `well`; those beside the rack are left out.

    Nozzles A to H have the distance of a rack's rows, A at the back as row A is.
    """
    column = next((column for column in rack.columns if well in column), None)
    if column is None:
        raise CommandFault(f"{rack.name} has no well {shown(well)!r}")
    start = column.index(well)
    found = []
    for nozzle in nozzles:
        row = start + ord(nozzle[0]) - ord(nozzles[0][0])
        if 0 <= row < len(column):
            found.append((nozzle, column[row]))
    return found


def pick_up_tip(deck: Deck, command: Command) -> None:
    key = text_of(command.params, "pipetteId")
    pipette, piece = deck.pipette(key), deck.piece(command.params.get("labwareId"))
    rack = piece.labware
    taken = wells_of(rack, text_of(command.params, "wellName"), pipette.nozzles)
    if rack.tips is None:
        raise CommandFault(f"{rack.name} is no tip rack")
    slot, _ = deck.place(command.params["labwareId"])
    held = tuple(HeldTip(nozzle, rack.name, well, slot, rack.volume) for nozzle, well in taken if well in rack.tips)
    if not held:  # none was there: new tips must have been put into the rack, at least where these are taken
        held = tuple(HeldTip(nozzle, rack.name, well, slot, rack.volume) for nozzle, well in taken)
        deck.refilled = [well for _, well in taken]
    known = rack.tips_known and not deck.refilled  # the rest of the rack may be new too
    piece.labware = replace(rack, tips=rack.tips - {well for _, well in taken}, tips_known=known)
    deck.pipettes[key] = replace(pipette, tips=held)


def drop_tip(deck: Deck, command: Command) -> None:
    key = text_of(command.params, "pipetteId")
    labware = command.params.get("labwareId")
    release(deck, key, labware, str(command.params.get("wellName")))


def drop_tip_in_place(deck: Deck, command: Command) -> None:
    release(deck, text_of(command.params, "pipetteId"), None, "")


def release(deck: Deck, key: str, labware: Any, well: str) -> None:
    """The tips of a pipette are gone; back in the rack if it is one that they are dropped into."""
    pipette = deck.pipette(key)
    if labware is not None and (piece := deck.piece(labware)).labware.tips is not None and pipette.tips:
        rack = piece.labware
        assert rack.tips is not None
        at = dict(wells_of(rack, well, pipette.nozzles))
        back = {at[tip.nozzle] for tip in pipette.tips if tip.nozzle in at}
        piece.labware = replace(rack, tips=rack.tips | back)
    deck.pipettes[key] = replace(pipette, tips=())


def set_tip_state(deck: Deck, command: Command) -> None:
    """The protocol says that wells of a rack hold tips again, or none. A used tip that was put back is a tip."""
    piece = deck.piece(command.params.get("labwareId"))
    wells = frozenset(map(str, as_list(command.params.get("wellNames"))))
    if piece.labware.tips is None:
        raise CommandFault(f"{piece.labware.name} is no tip rack")
    every = frozenset(well for column in piece.labware.columns for well in column)
    there = command.params.get("tipWellState") != "empty"
    tips = piece.labware.tips | (wells & every) if there else piece.labware.tips - wells
    known = piece.labware.tips_known or wells >= every
    piece.labware = replace(piece.labware, tips=tips, tips_known=known)


# Moves, modules


def move_labware(deck: Deck, command: Command) -> None:
    key = command.params.get("labwareId")
    piece = deck.piece(key)
    on = deck.location(command.params.get("newLocation"))
    piece.on = on
    deck.place(str(key))  # refuses labware that would stand on itself


def home(deck: Deck, command: Command) -> None:
    axes = command.params.get("axes")
    if not axes or {"x", "y"} & set(map(str, as_list(axes))):
        deck.gantry = Gantry("home")


def rail_lights(deck: Deck, command: Command) -> None:
    deck.lights = command.params.get("on") is True


def change(**fields: Any) -> Callable[[Deck, Command], None]:
    """An action on a module: each field gets a value, or the command's parameter that is named `param:NAME`."""

    def action(deck: Deck, command: Command) -> None:
        module = deck.module(command.params.get("moduleId"))
        values = {}
        for name, value in fields.items():
            if isinstance(value, str) and value.startswith("param:"):
                given = command.params.get(value.removeprefix("param:"))
                value = float(given) if isinstance(given, int | float) else None
            values[name] = value
        deck.modules[command.params["moduleId"]] = replace(module, **values)

    return action


def move_lid(lid: str) -> Callable[[Deck, Command], None]:
    """The thermocycler's lid. Before it moves, the robot homes the gantry (open_lid.py of opentrons 8.8.2)."""
    set_lid = change(lid=lid)

    def action(deck: Deck, command: Command) -> None:
        set_lid(deck, command)
        deck.gantry = Gantry("home")

    return action


ACTIONS: dict[str, Callable[[Deck, Command], None]] = {
    "loadLabware": load_labware,
    "loadLid": load_labware,
    "loadLidStack": load_lid_stack,
    "loadModule": load_module,
    "loadPipette": load_pipette,
    "configureNozzleLayout": configure_nozzles,
    "pickUpTip": pick_up_tip,
    "dropTip": drop_tip,
    "dropTipInPlace": drop_tip_in_place,
    "unsafe/dropTipInPlace": drop_tip_in_place,
    "setTipState": set_tip_state,
    "moveLabware": move_labware,
    "home": home,
    "setRailLights": rail_lights,
    "thermocycler/openLid": move_lid("open"),
    "thermocycler/closeLid": move_lid("closed"),
    "thermocycler/setTargetBlockTemperature": change(block_c="param:celsius"),
    "thermocycler/setTargetLidTemperature": change(lid_c="param:celsius"),
    "thermocycler/deactivateBlock": change(block_c=None),
    "thermocycler/deactivateLid": change(lid_c=None),
    "temperatureModule/setTargetTemperature": change(block_c="param:celsius"),
    "temperatureModule/deactivate": change(block_c=None),
    "heaterShaker/setTargetTemperature": change(block_c="param:celsius"),
    "heaterShaker/deactivateHeater": change(block_c=None),
    "heaterShaker/openLabwareLatch": change(latch="open"),
    "heaterShaker/closeLabwareLatch": change(latch="closed"),
    "heaterShaker/setAndWaitForShakeSpeed": change(rpm="param:rpm"),
    "heaterShaker/setShakeSpeed": change(rpm="param:rpm"),
    "heaterShaker/deactivateShaker": change(rpm=None),
    "magneticModule/engage": change(magnet="engaged"),
    "magneticModule/disengage": change(magnet="disengaged"),
}
LOADS = frozenset({"loadLabware", "loadLid", "loadLidStack", "loadModule", "loadPipette"})
# Commands that name a pipette and do not move it.
STAY = frozenset(
    {
        "airGapInPlace", "aspirateInPlace", "blowOutInPlace", "configureForVolume", "configureNozzleLayout",
        "dispenseInPlace", "dropTipInPlace", "getNextTip", "getTipPresence", "loadPipette", "prepareToAspirate",
        "savePosition", "unsafe/blowOutInPlace", "unsafe/dropTipInPlace", "verifyTipPresence",
    }
)  # fmt: skip
# Commands that change nothing but, at most, where the gantry is.
MOVES = frozenset(
    {
        "aspirate", "aspirateWhileTracking", "blowout", "dispense", "dispenseWhileTracking", "liquidProbe",
        "moveRelative", "moveToAddressableArea", "moveToAddressableAreaForDropTip", "moveToCoordinates", "moveToWell",
        "touchTip", "tryLiquidProbe",
    }
)  # fmt: skip
STILL = frozenset(
    {
        "captureImage", "comment", "createTimer", "custom", "identifyModule", "loadLiquid", "loadLiquidClass", "pause",
        "reloadLabware", "retractAxis", "setStatusBar", "waitForDuration", "waitForResume", "waitForTasks",
        "heaterShaker/waitForTemperature", "temperatureModule/waitForTemperature", "thermocycler/runExtendedProfile",
        "thermocycler/runProfile", "thermocycler/startRunExtendedProfile", "thermocycler/waitForBlockTemperature",
        "thermocycler/waitForLidTemperature", "unsafe/engageAxes", "unsafe/updatePositionEstimators",
    }
)  # fmt: skip
KNOWN = frozenset(ACTIONS) | STAY | MOVES | STILL
# Commands that may stand between loads before the run has really begun: nothing moves but what is homed or has a motor.
SETUP = (
    (STILL - {"pause", "waitForResume", "custom"})
    | {name for name in KNOWN if "/" in name and not name.startswith("unsafe/")}
    | {"home", "setRailLights", "configureNozzleLayout", "configureForVolume"}
)
