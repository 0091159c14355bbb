"""What is true on an OT-2's deck at one moment: slots, labware, tips, modules, pipettes, gantry. Immutable values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SLOTS = tuple(str(number) for number in range(1, 13))
TRASH_SLOT = "12"
THERMOCYCLER_COVERS = ("7", "8", "10", "11")
# Front left corner of slot 1 is the origin; x to the right, y to the back (opentrons-shared-data, deck ot2_standard).
SLOT_PITCH = (132.5, 90.5)
SLOT_SIZE = (128.0, 86.0)
COLUMNS_OF_SLOTS = 3

LabwareKind = Literal["tip rack", "plate", "reservoir", "tube rack", "block", "adapter", "lid", "trash", "other"]
ModuleKind = Literal["thermocycler", "temperature module", "magnetic module", "heater-shaker", "other"]


@dataclass(frozen=True)
class Labware:
    """One piece of labware.

    name: load name. display: the name that people read. label: the protocol's own name for it. columns: names of the
    wells, column by column. tips: wells that hold a tip; None for what is no tip rack. volume: of its tips, in µl.
    height: outer, in millimetres. tips_known: False while a person is exchanging the rack's tips, at a time that the
    protocol does not say: then `tips` may be wrong.
    """

    name: str
    display: str
    kind: LabwareKind
    columns: tuple[tuple[str, ...], ...] = ()
    tips: frozenset[str] | None = None
    volume: float | None = None
    height: float | None = None
    label: str | None = None
    namespace: str = "opentrons"
    version: int = 1
    tips_known: bool = True

    @property
    def empty_columns(self) -> tuple[int, ...]:
        """Columns of a tip rack without any tip, counted from 1."""
        if self.tips is None:
            return ()
        return tuple(n for n, wells in enumerate(self.columns, 1) if not self.tips.intersection(wells))


@dataclass(frozen=True)
class Module:
    """A hardware module and the state of what moves or heats. None: not known, no command has said it.

    lid: of a thermocycler. latch: of a heater-shaker. magnet: of a magnetic module. block_c, lid_c: target
    temperatures in degrees Celsius. rpm: target speed of a shaker.
    """

    kind: ModuleKind
    model: str
    slot: str
    lid: Literal["open", "closed"] | None = None
    latch: Literal["open", "closed"] | None = None
    magnet: Literal["engaged", "disengaged"] | None = None
    block_c: float | None = None
    lid_c: float | None = None
    rpm: float | None = None


@dataclass(frozen=True)
class Slot:
    """A slot of the deck.

    stack: labware from the bottom to the top. covered_by: slot of the module that reaches in. later: nothing
    stands there or on its module, or less than there will, and labware is loaded there later in the run: a person may
    have put it there already.
    """

    name: str
    module: Module | None = None
    stack: tuple[Labware, ...] = ()
    covered_by: str | None = None
    later: bool = False

    @property
    def top(self) -> Labware | None:
        """The labware that is seen from above."""
        return self.stack[-1] if self.stack else None

    @property
    def is_empty(self) -> bool:
        """Nothing stands there, and no module reaches in."""
        return self.module is None and not self.stack and self.covered_by is None


@dataclass(frozen=True)
class HeldTip:
    """A tip on a nozzle. rack, well: where it was taken; slot: where that rack stood then."""

    nozzle: str
    rack: str
    well: str
    slot: str | None
    volume: float | None = None


@dataclass(frozen=True)
class Pipette:
    """A pipette. channels: its nozzles. nozzles: those that pick tips up now (partial tip configurations)."""

    mount: Literal["left", "right"]
    name: str
    channels: int
    nozzles: tuple[str, ...]
    tips: tuple[HeldTip, ...] = ()


@dataclass(frozen=True)
class Gantry:
    """Where the gantry is.

    place: `home`, `slot` (over it), `trash`, or `unknown` (nothing has moved it yet). mount: the pipette that was
    moved there. position: of that pipette's critical point, in deck millimetres.
    """

    place: Literal["home", "slot", "trash", "unknown"] = "unknown"
    mount: Literal["left", "right"] | None = None
    slot: str | None = None
    labware: str | None = None
    well: str | None = None
    position: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class DeckState:
    """The expected state after a command. slots: all twelve, in order. off_deck: labware that is not on the deck."""

    slots: tuple[Slot, ...] = tuple(Slot(name) for name in SLOTS)
    off_deck: tuple[Labware, ...] = ()
    pipettes: tuple[Pipette, ...] = ()
    gantry: Gantry = Gantry()
    lights: bool | None = None

    def at(self, slot: str | int) -> Slot:
        """The slot of that name, "1" to "12"."""
        return self.slots[SLOTS.index(str(slot))]

    def pipette(self, mount: str) -> Pipette | None:
        """The pipette on the left or right mount."""
        return next((one for one in self.pipettes if one.mount == mount), None)

    @property
    def modules(self) -> tuple[Module, ...]:
        """All modules, in the order of their slots."""
        return tuple(slot.module for slot in self.slots if slot.module is not None)


def slot_at(x: float, y: float) -> str | None:
    """The slot below a place in deck millimetres; the gap beside a slot counts to it. None: beside the deck."""
    column, row = int((x + 2.25) // SLOT_PITCH[0]), int((y + 2.25) // SLOT_PITCH[1])
    if not (0 <= column < COLUMNS_OF_SLOTS and 0 <= row < len(SLOTS) // COLUMNS_OF_SLOTS):
        return None
    return SLOTS[row * COLUMNS_OF_SLOTS + column]
