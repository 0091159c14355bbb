"""Analyses of whole protocols by opentrons 8.8.2, folded; each expected state was checked by hand once, on the sheet.

`protocols/` holds the protocols, `data/` their analyses (definitions trimmed by `trim.py`) and expected states: the
deck at the start, then what each command changes. After a change of the fold that is meant, write them anew with
`python -m tests.protocol.test_protocols`, and look at every line of the difference.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from deckbench.protocol import DeckState, Labware, Slot, Step, fold, read_analysis
from deckbench.protocol.texts import ranges
from deckbench.resources import tasks_folder

DATA = Path(__file__).parent / "data"
SHIPPED = tasks_folder() / "protocols"
ANALYSES = {
    **{path.name.partition(".")[0]: path for path in sorted(DATA.glob("*.json.gz"))},
    "pcr-setup": SHIPPED / "pcr-setup.analysis.json",
}


def labware_line(labware: Labware) -> str:
    """A piece of labware; of a tip rack which tips are gone."""
    if labware.tips is None:
        return labware.name
    gone = [str(n) if a == n else f"{a}-{n}" for a, n in ranges(labware.empty_columns)]
    gone += [
        well
        for number, wells in enumerate(labware.columns, 1)
        for well in wells
        if number not in labware.empty_columns and well not in labware.tips
    ]
    return f"{labware.name} without {' '.join(gone)}" if gone else f"{labware.name} full"


def slot_line(slot: Slot) -> str:
    """A slot: module with its states, labware from bottom to top."""
    module = slot.module
    parts = [f"below {slot.covered_by}"] if slot.covered_by else []
    if module is not None:
        states = (module.lid, module.latch, module.magnet, module.block_c, module.lid_c, module.rpm)
        parts.append(" ".join([module.model, *(str(state) for state in states if state is not None)]))
    parts += [labware_line(one) for one in slot.stack] + ["loaded later"] * slot.later
    return " > ".join(parts) or "empty"


def facts(state: DeckState) -> dict[str, str]:
    """All that is said of a state, by what it is about."""
    found = {slot.name: slot_line(slot) for slot in state.slots}
    found["off"] = ", ".join(labware_line(one) for one in state.off_deck) or "nothing"
    for one in state.pipettes:
        held = " ".join(f"{tip.slot}.{tip.well}" for tip in one.tips) or "no tip"
        found[one.mount] = f"{one.name} {held}"
    gantry = state.gantry
    found["gantry"] = " ".join(filter(None, (gantry.place, gantry.slot, gantry.well, gantry.mount)))
    found["lights"] = str(state.lights)
    return found


def lines_of(steps: tuple[Step, ...]) -> list[str]:
    """The start, then one line a step with what changes."""
    start = facts(steps[0].before)
    lines = [f"start {name}: {text}" for name, text in start.items() if text not in ("empty", "nothing", "None")]
    for step in steps:
        before, after = facts(step.before), facts(step.state)
        changes = [f"{name}: {text}" for name, text in after.items() if before.get(name) != text]
        notes = ["person"] * step.needs_person + ["refilled"] * bool(step.refilled) + ["unknown"] * (not step.known)
        lines.append(" | ".join([f"{step.number} {step.command_type}", *notes, *changes]))
    return lines


@pytest.mark.parametrize("name", ANALYSES)
def test_the_expected_states_are_those_that_were_checked(name: str) -> None:
    expected = (DATA / f"{name}.expected.txt").read_text(encoding="utf-8").splitlines()
    assert lines_of(fold(read_analysis(ANALYSES[name]))) == expected


def test_every_command_type_of_them_is_known() -> None:
    for path in ANALYSES.values():
        assert all(step.known for step in fold(read_analysis(path))), path


def test_tips_are_gone_where_opentrons_says_so_itself() -> None:
    analysis = read_analysis(ANALYSES["partial_tips"])
    told = 0
    for step, command in zip(fold(analysis), analysis.commands, strict=True):
        message = str(command.params.get("message", ""))
        if message.startswith("gone: "):
            slot, *wells = message.removeprefix("gone: ").split()
            rack = step.state.at(slot).top
            assert rack is not None and rack.tips is not None
            assert {well for column in rack.columns for well in column} - rack.tips == set(wells), step.number
            told += 1
    assert told == 3


def test_the_end_is_what_the_analysis_says_itself() -> None:
    """`labware` at the top of an analysis is where each stands at the end: an independent witness."""
    for path in ANALYSES.values():
        raw = path.read_bytes()
        data = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        modules = {one["id"]: one["location"]["slotName"] for one in data["modules"]}
        where: dict[str, str | None] = {}
        for one in data["labware"]:
            place = one["location"]
            if isinstance(place, str):
                where[one["id"]] = None
            elif "slotName" in place or "addressableAreaName" in place:
                where[one["id"]] = place.get("slotName") or place["addressableAreaName"]
            else:
                where[one["id"]] = modules.get(place.get("moduleId")) or where[place["labwareId"]]
        said = sorted((str(slot), one["loadName"]) for one in data["labware"] if (slot := where[one["id"]]) != "12")
        last = fold(read_analysis(path))[-1].state
        folded = [(slot.name, one.name) for slot in last.slots for one in slot.stack if one.kind != "trash"]
        folded += [("None", one.name) for one in last.off_deck]
        # A trash bin that the analysis lists as labware stands in no slot of a protocol from API 2.16 on.
        assert sorted(folded) == [pair for pair in said if "trash" not in pair[1]], path


if __name__ == "__main__":
    for one, source in ANALYSES.items():
        text = "\n".join(lines_of(fold(read_analysis(source)))) + "\n"
        (DATA / f"{one}.expected.txt").write_text(text, encoding="utf-8")
