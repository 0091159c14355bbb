"""Folding an analysis: the expected state of the deck after each of its commands.

The labware and modules that an analysis lists beside its commands are those of the end: a plate that was moved stands
at its last place there. What the deck looks like in between follows from the commands alone.

A command that loads labware, a module or a pipette moves nothing: a person has set the deck up before the run. So what
is loaded before anything moves stands there from the first command on; what is loaded into an empty slot later may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from deckbench.errors import InputError
from deckbench.protocol.analysis import Analysis, Command
from deckbench.protocol.commands import KNOWN, LOADS, SETUP, apply
from deckbench.protocol.deck import CommandFault, Deck
from deckbench.protocol.state import DeckState, Labware, Slot
from deckbench.schema import shown

MANUAL = "manualMoveWithPause"
PAUSES = frozenset({"waitForResume", "pause"})


@dataclass(frozen=True)
class Step:
    """A command with the expected state before it has begun and when it has ended.

    number: of the command in the analysis. slot: of the labware or module that the command names, when it has ended.
    labware: that it names. mount: of the pipette that it names. needs_person: someone has to do something, the robot
    waits. known: the command's type is one that the fold knows. refilled: wells of a tip rack that tips were taken from
    though they were empty: someone has put new tips there, at a time that the protocol does not say.
    """

    number: int
    key: str
    command_type: str
    before: DeckState
    state: DeckState
    slot: str | None = None
    labware: Labware | None = None
    mount: Literal["left", "right"] | None = None
    needs_person: bool = False
    known: bool = True
    refilled: tuple[str, ...] = ()


def fold(analysis: Analysis) -> tuple[Step, ...]:
    """The expected state before and after each command of an analysis, in order.

    Args:
        analysis: As `read_analysis` gives it.

    Returns:
        One step a command.

    Raises:
        InputError: A command names a slot, labware, module or pipette that is not there.
    """
    deck = Deck()
    setup = setup_of(analysis.commands)
    for command in analysis.commands:
        if command.number in setup:
            run(deck, command, analysis)
    steps = []
    before = deck.state()
    for command in analysis.commands:
        if command.number not in setup:
            run(deck, command, analysis)
        state = deck.state()
        kind = command.command_type
        person, known, refilled = needs_person(command), kind in KNOWN, tuple(deck.refilled)
        steps.append(
            Step(command.number, command.key, kind, before, state, *deck.named(command), person, known, refilled)
        )
        before = state
    return mark_later(mark_refilled(steps))


def run(deck: Deck, command: Command, analysis: Analysis) -> None:
    """Apply a command of an analysis. Raises InputError."""
    try:
        apply(deck, command)
    except CommandFault as wrong:
        where = f"{analysis.source}: command {command.number} ({shown(command.command_type)})"
        raise InputError(str(wrong), where, "analyse the protocol again") from wrong


def setup_of(commands: Sequence[Command]) -> frozenset[int]:
    """Numbers of the commands that say what stands on the deck before the run."""
    found = []
    for command in commands:
        if command.command_type in LOADS:
            found.append(command.number)
        elif command.command_type not in SETUP:
            break
    return frozenset(found)


def mark_refilled(steps: Sequence[Step]) -> list[Step]:
    """Mark a rack's tips as not known from the pause on after which tips are taken that were gone before."""
    found = list(steps)
    for number, step in enumerate(steps):
        before = step.before.at(step.slot).top if step.slot else None
        if not step.refilled or step.slot is None or before is None or not before.tips_known:
            continue
        found[number] = replace(found[number], before=with_unknown_tips(found[number].before, step.slot))
        for index in range(number - 1, -1, -1):
            earlier = found[index]
            top = earlier.state.at(step.slot).top
            if top is None or top.tips is None or top.name != before.name or top.tips.intersection(step.refilled):
                break
            found[index] = replace(earlier, state=with_unknown_tips(earlier.state, step.slot))
            if earlier.needs_person:
                break
            found[index] = replace(found[index], before=with_unknown_tips(earlier.before, step.slot))
    return found


def with_unknown_tips(state: DeckState, name: str) -> DeckState:
    """The state with the tips of the rack on top in a slot marked as not known."""
    slot = state.at(name)
    if slot.top is None or slot.top.tips is None or not slot.top.tips_known:
        return state
    marked = replace(slot, stack=(*slot.stack[:-1], replace(slot.top, tips_known=False)))
    return replace(state, slots=tuple(marked if one is slot else one for one in state.slots))


def mark_later(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Mark slots where labware or a module is loaded in the middle of the run: it may stand there already."""
    loaded: dict[str, tuple[object, ...]] = {}  # what stands in the slot until then
    found: list[Step] = []
    after: Step | None = None
    for step in reversed(steps):
        if after is not None and after.command_type in LOADS:
            pairs = zip(step.state.slots, after.state.slots, strict=True)
            loaded |= {old.name: content(old) for old, new in pairs if content(old) != content(new)}
        loaded = {name: there for name, there in loaded.items() if content(step.state.at(name)) == there}
        state = with_later(step.state, set(loaded))
        if found:
            found[-1] = replace(found[-1], before=state)
        found.append(replace(step, state=state))
        after = step
    if found:
        first = found[-1]
        same = {name for name, there in loaded.items() if content(first.before.at(name)) == there}
        found[-1] = replace(first, before=with_later(first.before, same))
    return tuple(reversed(found))


def content(slot: Slot) -> tuple[object, ...]:
    """What stands in a slot, whatever its state."""
    module = slot.module and slot.module.kind
    return module, slot.covered_by, tuple((one.name, one.label) for one in slot.stack)


def with_later(state: DeckState, names: set[str]) -> DeckState:
    """The state with these slots marked; the same object where there are none."""
    if not names:
        return state
    return replace(state, slots=tuple(replace(one, later=one.name in names) for one in state.slots))


def needs_person(command: Command) -> bool:
    """Whether the robot waits for someone during a command."""
    if command.command_type == "moveLabware":
        return command.params.get("strategy") == MANUAL
    return command.command_type in PAUSES
