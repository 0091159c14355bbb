"""Deviations of a deck from what its protocol expects: planted in the state, so that its checks say what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from deckbench.language import Text
from deckbench.pool.synth.sample import pick, sample_holes
from deckbench.pool.synth.scene import Rng
from deckbench.protocol import DeckState, HeldTip, Labware, Slot

KINDS = {
    "labware_missing": Text(en="labware missing", zh="缺少耗材"),
    "wrong_slot": Text(en="labware in the wrong slot", zh="耗材放错板位"),
    "tip_rack_gap": Text(en="gap in the tip rack", zh="吸头盒缺吸头"),
    "lid_open": Text(en="lid open", zh="盖子打开"),
    "lid_closed": Text(en="lid closed", zh="盖子关闭"),
    "tip_left": Text(en="tips left on the pipette", zh="吸头未丢弃"),
    "missing_tip": Text(en="tip missing on the pipette", zh="移液器缺少吸头"),
}


@dataclass(frozen=True)
class Deviation:
    """A deck that is not as expected. kind: of KINDS. away: slots where labware stands that should stand elsewhere."""

    kind: str
    state: DeckState
    away: tuple[str, ...] = ()


def with_slot(state: DeckState, slot: Slot) -> DeckState:
    """The state with one slot's content exchanged."""
    return replace(state, slots=tuple(slot if one.name == slot.name else one for one in state.slots))


def free_slots(state: DeckState) -> list[Slot]:
    """Slots where nothing stands, nor will."""
    return [slot for slot in state.slots if slot.is_empty and not slot.later]


def plain_slots(state: DeckState) -> list[Slot]:
    """Slots where one piece of labware stands on the deck itself."""
    return [
        one
        for one in state.slots
        if movable(one) is not None and one.module is None and len(one.stack) == 1 and not one.later
    ]


def movable(slot: Slot) -> Labware | None:
    """The labware that a person may have forgotten in this slot, or put elsewhere."""
    hidden = slot.module is not None and slot.module.kind == "thermocycler"
    return None if hidden or slot.top is None or slot.top.kind in ("trash", "lid") else slot.top


def labware_missing(state: DeckState, about: str, rng: Rng) -> Deviation | None:
    """Labware that should stand in this slot does not, or stands in another: a free one, or that of other labware."""
    slot = state.at(about)
    labware = movable(slot)
    if labware is None:
        return None
    bare = with_slot(state, replace(slot, stack=slot.stack[:-1]))
    others = [*free_slots(state), *(one for one in plain_slots(state) if one.stack[0].name != labware.name)]
    if len(slot.stack) > 1:
        others = free_slots(state)
    if not others or rng.random() < 0.5:
        return Deviation("labware_missing", bare)
    other = pick(rng, others)
    moved = with_slot(bare, replace(other, stack=(labware,)))
    if not other.stack:
        return Deviation("wrong_slot", moved, (other.name,))
    swapped = with_slot(moved, replace(slot, stack=other.stack))
    return Deviation("wrong_slot", swapped, (slot.name, other.name))


def labware_extra(state: DeckState, about: str, rng: Rng) -> Deviation | None:
    """Labware of another slot stands in this slot, which should be empty."""
    slot = state.at(about)
    others = plain_slots(state)
    if not slot.is_empty or slot.later or not others:
        return None
    other = pick(rng, others)
    moved = with_slot(with_slot(state, replace(other, stack=())), replace(slot, stack=other.stack))
    return Deviation("wrong_slot", moved, (about,))


def labware(state: DeckState, about: str, rng: Rng) -> Deviation | None:
    """Something else in a slot than expected."""
    return labware_extra(state, about, rng) if state.at(about).is_empty else labware_missing(state, about, rng)


def rack_gap(state: DeckState, about: str, rng: Rng) -> Deviation | None:
    """Tips are missing in a rack from which the protocol has not taken them."""
    slot = state.at(about)
    rack = slot.top
    if rack is None or rack.tips is None or len(rack.columns) != 12 or any(len(one) != 8 for one in rack.columns):
        return None
    used = max(rack.empty_columns, default=0)
    if used > 8 or len(rack.tips) < 24:
        return None
    gone = {rack.columns[column][row] for column, row in sample_holes(rng, used) if column < 12}
    gone &= rack.tips
    if len(gone) < 4:
        return None
    holed = replace(rack, tips=rack.tips - gone)
    return Deviation("tip_rack_gap", with_slot(state, replace(slot, stack=(*slot.stack[:-1], holed))))


def lid(state: DeckState, about: str, rng: Rng) -> Deviation | None:
    """The thermocycler's lid stands the other way."""
    slot = state.at(about)
    if slot.module is None or slot.module.lid is None:
        return None
    other = "closed" if slot.module.lid == "open" else "open"
    turned = with_slot(state, replace(slot, module=replace(slot.module, lid=other)))  # type: ignore[arg-type]
    return Deviation(f"lid_{other}", turned)


def held(state: DeckState, about: str, rng: Rng) -> Deviation | None:
    """Tips that should be gone are on the pipette, or some that should be there are not."""
    pipette = state.pipette(about)
    if pipette is None or not pipette.nozzles:
        return None
    if not pipette.tips:
        tips = tuple(HeldTip(nozzle, "", nozzle, None) for nozzle in pipette.nozzles)
        kind = "tip_left"
    else:
        lost = int(rng.integers(min(3, len(pipette.tips)), len(pipette.tips) + 1))
        gone = set(rng.permutation(len(pipette.tips))[:lost].tolist())
        tips = tuple(tip for index, tip in enumerate(pipette.tips) if index not in gone)
        kind = "missing_tip"
    changed = tuple(replace(one, tips=tips) if one.mount == about else one for one in state.pipettes)
    return Deviation(kind, replace(state, pipettes=changed))


DEVIATE: dict[str, Callable[[DeckState, str, Rng], Deviation | None]] = {
    "labware": labware,
    "tips": rack_gap,
    "lid": lid,
    "held": held,
}
