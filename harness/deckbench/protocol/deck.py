"""The deck while commands are folded: what they name by id, where it stands, and the state that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from deckbench.protocol.analysis import Command
from deckbench.protocol.state import (
    SLOTS,
    THERMOCYCLER_COVERS,
    TRASH_SLOT,
    DeckState,
    Gantry,
    Labware,
    Module,
    Pipette,
    Slot,
    slot_at,
)
from deckbench.schema import shown

FIXED_TRASH = "fixedTrash"  # an area of the deck, or, up to API 2.15, the id of a labware that no command loads
TRASH = Labware("opentrons_1_trash_1100ml_fixed", "Fixed Trash", "trash", (("A1",),))
OFF_DECK = ("offDeck", "systemLocation", "wasteChuteLocation")
MAX_STACK = 20
Place = tuple[Literal["slot", "module", "labware"], str]


class CommandFault(Exception):
    """A command that does not fit the deck."""


@dataclass
class Piece:
    """Labware with where it stands: a slot's name, the id of a module or labware, or None for off the deck."""

    labware: Labware
    on: Place | None


@dataclass
class Deck:
    """The deck while commands are folded; what they name by id."""

    pieces: dict[str, Piece] = field(default_factory=lambda: {FIXED_TRASH: Piece(TRASH, ("slot", TRASH_SLOT))})
    modules: dict[str, Module] = field(default_factory=dict)
    pipettes: dict[str, Pipette] = field(default_factory=dict)
    gantry: Gantry = field(default_factory=Gantry)
    lights: bool | None = None
    refilled: list[str] = field(default_factory=list)
    kept: DeckState | None = None

    # What stands where

    def state(self) -> DeckState:
        """The state as an immutable value; unchanged parts are the same objects as before."""
        if self.kept is None:
            self.kept = self.build()
        if self.kept.gantry != self.gantry:
            self.kept = replace(self.kept, gantry=self.gantry)
        return self.kept

    def build(self) -> DeckState:
        """The state, made anew."""
        modules = {module.slot: module for module in self.modules.values()}
        covered = {
            name: module.slot
            for module in self.modules.values()
            if module.kind == "thermocycler" and module.slot in THERMOCYCLER_COVERS
            for name in THERMOCYCLER_COVERS
            if name != module.slot
        }
        stacks: dict[str | None, list[tuple[int, Labware]]] = {}
        in_trash_slot = [key for key, piece in self.pieces.items() if piece.on == ("slot", TRASH_SLOT)]
        for key, piece in self.pieces.items():
            if key == FIXED_TRASH and len(in_trash_slot) > 1:
                continue  # protocols up to API 2.13 may load another bin in its place
            slot, height = self.place(key)
            stacks.setdefault(slot, []).append((height, piece.labware))
        ordered = {slot: tuple(one for _, one in sorted(found, key=lambda at: at[0])) for slot, found in stacks.items()}
        return DeckState(
            tuple(Slot(name, modules.get(name), ordered.get(name, ()), covered.get(name)) for name in SLOTS),
            ordered.get(None, ()),
            tuple(sorted(self.pipettes.values(), key=lambda one: one.mount)),
            self.gantry,
            self.lights,
        )

    def place(self, key: str) -> tuple[str | None, int]:
        """Slot of a labware, None off the deck, and how many pieces stand below it."""
        height = 0
        on = self.pieces[key].on
        while on is not None and on[0] == "labware":
            height += 1
            if height > MAX_STACK:
                raise CommandFault("labware stands on itself")
            on = self.pieces[on[1]].on
        if on is None:
            return None, height
        return (on[1] if on[0] == "slot" else self.modules[on[1]].slot), height

    def location(self, value: Any) -> Place | None:
        """A location of the analysis. None: off the deck."""
        if isinstance(value, str):
            if value in OFF_DECK:
                return None
            raise CommandFault(f"there is no place {shown(value)!r}")
        if not isinstance(value, Mapping):
            raise CommandFault("it has no location")
        for name in ("slotName", "addressableAreaName"):
            if name in value:
                slot = TRASH_SLOT if value[name] == FIXED_TRASH else str(value[name])
                return "slot", checked_slot(slot)
        if "moduleId" in value:
            self.module(value["moduleId"])
            return "module", str(value["moduleId"])
        if "labwareId" in value:
            self.piece(value["labwareId"])
            return "labware", str(value["labwareId"])
        raise CommandFault("it has no location that is known")

    def piece(self, key: Any) -> Piece:
        found = self.pieces.get(key) if isinstance(key, str) else None
        if found is None:
            raise CommandFault("it names labware that was not loaded")
        return found

    def module(self, key: Any) -> Module:
        found = self.modules.get(key) if isinstance(key, str) else None
        if found is None:
            raise CommandFault("it names a module that was not loaded")
        return found

    def pipette(self, key: Any) -> Pipette:
        found = self.pipettes.get(key) if isinstance(key, str) else None
        if found is None:
            raise CommandFault("it names a pipette that was not loaded")
        return found

    def named(self, command: Command) -> tuple[str | None, Labware | None, Literal["left", "right"] | None]:
        """What a command is about: slot, labware, mount."""
        ids = {**command.result, **command.params}
        piece = self.pieces.get(str(ids.get("labwareId")))
        module = self.modules.get(str(ids.get("moduleId")))
        pipette = self.pipettes.get(str(ids.get("pipetteId")))
        slot = module.slot if module else self.place(str(ids["labwareId"]))[0] if piece else None
        return slot, piece.labware if piece else None, pipette.mount if pipette else None

    # Where the gantry is

    def move(self, command: Command) -> None:
        """The gantry after a command of a pipette: over the labware or area that it names, or where it says."""
        params = command.params
        mount = self.pipette(params["pipetteId"]).mount
        position = position_of(command.result.get("position"))
        if "labwareId" in params and "wellName" in params:
            key = params["labwareId"]
            labware = self.piece(key).labware
            slot, _ = self.place(key)
            place: Literal["trash", "slot", "unknown"] = "trash" if labware.kind == "trash" else "slot"
            well = str(params["wellName"])
            self.gantry = Gantry(place if slot else "unknown", mount, slot, labware.name, well, position)
        elif "addressableAreaName" in params:
            area = params["addressableAreaName"]
            slot = TRASH_SLOT if area == FIXED_TRASH else checked_slot(str(area))
            self.gantry = Gantry("trash" if slot == TRASH_SLOT else "slot", mount, slot, None, None, position)
        elif position is not None:
            slot = slot_at(position[0], position[1])
            place = "trash" if slot == TRASH_SLOT else "slot"
            self.gantry = Gantry(place if slot else "unknown", mount, slot, None, None, position)


def checked_slot(name: str) -> str:
    """A slot's name, if the deck has it."""
    if name not in SLOTS:
        raise CommandFault(f"there is no slot {shown(name)!r} on an OT-2")
    return name


def position_of(value: Any) -> tuple[float, float, float] | None:
    """A position in deck millimetres. Analyses of protocols up to API 2.13 have the origin everywhere: not known."""
    if isinstance(value, Mapping):
        parts = tuple(value.get(axis) for axis in "xyz")
        if any(parts) and all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts):
            return tuple(round(float(part), 3) for part in parts)  # type: ignore[arg-type, return-value]
    return None
