"""The steps file: expected states and checks of a protocol as JSON, the same bytes for two analyses of one protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from deckbench import __version__, artifact
from deckbench.artifact import hash_json
from deckbench.disk import read_bytes
from deckbench.errors import InputError
from deckbench.language import LANGS, Lang, Text
from deckbench.progress import track
from deckbench.protocol.analysis import Analysis, Command
from deckbench.protocol.fold import Step
from deckbench.protocol.state import DeckState, Labware, Slot
from deckbench.protocol.step_texts import step_text
from deckbench.protocol.texts import Texts, checks_of
from deckbench.schema import Strict

KIND = "deckbench-steps"


class Words(Strict):
    """A text in the languages that were asked for."""

    en: str | None = None
    zh: str | None = None


class LabwareState(Strict):
    """A piece of labware.

    tips: of a tip rack, how many it holds, if that is known. empty_columns, empty_wells: where none is.
    """

    name: str
    display: str
    kind: str
    label: str | None = None
    tips: int | None = None
    empty_columns: tuple[int, ...] | None = None
    empty_wells: tuple[str, ...] | None = None


class ModuleState(Strict):
    """A module. What no command has said yet is left out. Temperatures (degrees Celsius) are targets."""

    kind: str
    model: str
    lid: Literal["open", "closed"] | None = None
    latch: Literal["open", "closed"] | None = None
    magnet: Literal["engaged", "disengaged"] | None = None
    block_c: float | None = None
    lid_c: float | None = None
    rpm: float | None = None


class SlotState(Strict):
    """A slot that is not empty. stack: labware from bottom to top. covered_by: slot of a module that reaches in.

    later: empty, but labware is loaded there later in the run; a person may have put it there already.
    """

    module: ModuleState | None = None
    stack: tuple[LabwareState, ...] = ()
    covered_by: str | None = None
    later: bool | None = None


class TipState(Strict):
    """A tip on a nozzle, and where it was taken."""

    nozzle: str
    well: str
    slot: str | None = None
    rack: str


class PipetteState(Strict):
    """A pipette: its name, the nozzles in use, the tips that it holds."""

    name: str
    channels: int
    nozzles: tuple[str, ...]
    tips: tuple[TipState, ...]


class GantryState(Strict):
    """Where the gantry is. position: of the pipette's critical point, deck millimetres."""

    place: Literal["home", "slot", "trash", "unknown"]
    mount: str | None = None
    slot: str | None = None
    labware: str | None = None
    well: str | None = None
    position: tuple[float, float, float] | None = None


class State(Strict):
    """An expected state. slots: by name, empty ones left out."""

    slots: dict[str, SlotState]
    off_deck: tuple[LabwareState, ...] = ()
    pipettes: dict[str, PipetteState]
    gantry: GantryState
    lights: bool | None = None


class CheckState(Strict):
    """One thing to check. id: stable over steps, such as `tips:4`. phase: before or after the command."""

    id: str
    phase: Literal["pre", "post"]
    check: Words
    expected: Words


class StepState(Strict):
    """A command, and the expected state when it has ended; before it is the state of the step before."""

    number: int
    key: str
    command: str
    text: Words
    needs_person: bool | None = None
    unknown_command: bool | None = None
    refilled: tuple[str, ...] | None = None
    checks: tuple[CheckState, ...]
    state: State


class Protocol(Strict):
    """Of which protocol. sha256: of its commands' content. api: (major, minor)."""

    name: str | None = None
    api: tuple[int, int] | None = None
    sha256: str
    commands: int


class Maker(Strict):
    """What made the file. texts_sha256: of the templates."""

    deckbench: str
    texts_sha256: str


class StepsFile(Strict):
    """What a steps file holds. start: the deck before the first command."""

    kind: Literal["deckbench-steps"] = "deckbench-steps"
    version: Literal[1] = 1
    protocol: Protocol
    made_by: Maker
    languages: tuple[Lang, ...]
    start: State
    steps: tuple[StepState, ...]


def steps_json(
    analysis: Analysis, steps: Sequence[Step], texts: Texts, langs: Sequence[Lang] = LANGS
) -> tuple[bytes, int]:
    """The steps of an analysis as the bytes of a steps file: one step a line; what is not known or empty is left out.

    Args:
        analysis: As `read_analysis` gives it.
        steps: What `fold` made of it.
        texts: Templates.
        langs: Languages of the texts.

    Returns:
        The bytes, and how many checks they hold.
    """
    whole = StepsFile(
        protocol=Protocol(
            name=analysis.name, api=analysis.api, sha256=analysis.sha256, commands=len(analysis.commands)
        ),
        made_by=Maker(deckbench=__version__, texts_sha256=hash_json(texts.model_dump(mode="json"))),
        languages=tuple(lang for lang in LANGS if lang in langs),
        start=state_of(steps[0].before if steps else DeckState()),
        steps=(),
    )
    head = json.dumps(whole.model_dump(mode="json", exclude_none=True, exclude={"steps"}), ensure_ascii=False, indent=1)
    lines: list[bytes] = []
    checks = 0
    for step, command in track(zip(steps, analysis.commands, strict=True), "steps", total=len(steps)):
        state = step_state(step, command, texts, langs)
        checks += len(state.checks)
        data = state.model_dump(mode="json", exclude_defaults=True)
        end = "\n" if len(lines) == len(steps) - 1 else ",\n"
        lines.append((json.dumps(data, ensure_ascii=False, separators=(",", ":")) + end).encode())
    return b"".join([f'{head[:-2]},\n "steps": [\n'.encode(), *lines, b" ]\n}\n"]), checks


def step_state(step: Step, command: Command, texts: Texts, langs: Sequence[Lang]) -> StepState:
    """One step as it is written."""

    def words(text: Text) -> Words:
        return Words(**{lang: text.get(lang) for lang in langs})

    return StepState(
        number=step.number,
        key=step.key,
        command=step.command_type,
        text=words(step_text(step, command, texts)),
        needs_person=step.needs_person or None,
        unknown_command=None if step.known else True,
        refilled=step.refilled or None,
        checks=tuple(
            CheckState(id=one.id, phase=one.phase, check=words(one.check), expected=words(one.expected))
            for one in checks_of(step, texts)
        ),
        state=state_of(step.state),
    )


def state_of(state: DeckState) -> State:
    """An expected state as it is written."""
    return State(
        slots={slot.name: slot_of(slot) for slot in state.slots if not slot.is_empty or slot.later},
        off_deck=tuple(labware_of(one) for one in state.off_deck),
        pipettes={
            one.mount: PipetteState(
                name=one.name,
                channels=one.channels,
                nozzles=one.nozzles,
                tips=tuple(
                    TipState(nozzle=tip.nozzle, well=tip.well, slot=tip.slot, rack=tip.rack) for tip in one.tips
                ),
            )
            for one in state.pipettes
        },
        gantry=GantryState(**vars(state.gantry)),
        lights=state.lights,
    )


def slot_of(slot: Slot) -> SlotState:
    """A slot as it is written."""
    module = slot.module
    known = {name: value for name, value in vars(module).items() if name != "slot"} if module else {}
    return SlotState(
        module=ModuleState(**known) if module else None,
        stack=tuple(labware_of(one) for one in slot.stack),
        covered_by=slot.covered_by,
        later=slot.later or None,
    )


def labware_of(labware: Labware) -> LabwareState:
    """Labware as it is written."""
    columns = wells = tips = None
    if labware.tips is not None and labware.tips_known:
        columns, tips = labware.empty_columns, len(labware.tips)
        left = [one for number, one in enumerate(labware.columns, 1) if number not in columns]
        wells = tuple(well for column in left for well in column if well not in labware.tips)
    return LabwareState(
        name=labware.name,
        display=labware.display,
        kind=labware.kind,
        label=labware.label,
        tips=tips,
        empty_columns=columns or None,
        empty_wells=wells or None,
    )


def check_steps_place(out: Path) -> None:
    """Refuse a place where something else than a steps file lies. Raises InputError."""
    artifact.check_name(out)
    if not out.exists() and not out.is_symlink():
        return
    fault = InputError("refusing to overwrite a file that is not a steps file", out, "choose another --out")
    try:
        head = read_bytes(out)[:60]
    except OSError as error:
        raise fault from error
    if f'"kind": "{KIND}"'.encode() not in head:
        raise fault
