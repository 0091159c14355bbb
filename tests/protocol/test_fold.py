"""Expected states of small analyses, one kind of command at a time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deckbench.errors import InputError
from deckbench.protocol import DeckState, Step, fold, read_analysis, state_checks
from deckbench.protocol.state import slot_at
from tests.protocol.builder import COLUMNS, Builder


@pytest.fixture
def folded(tmp_path: Path) -> Any:
    def run(made: Builder) -> tuple[Step, ...]:
        return fold(read_analysis(made.write(tmp_path / "analysis.json")))

    return run


def tips(state: DeckState, slot: str) -> frozenset[str]:
    top = state.at(slot).top
    assert top is not None and top.tips is not None
    return top.tips


def gone(state: DeckState, slot: str) -> set[str]:
    return {well for column in COLUMNS for well in column} - tips(state, slot)


def test_before_anything_there_is_the_fixed_trash_alone(folded: Any) -> None:
    made = Builder()
    made.add("comment")
    start = folded(made)[0].before
    assert [slot.name for slot in start.slots if not slot.is_empty] == ["12"]
    assert start.at(12).top is not None and start.at(12).top.kind == "trash"
    assert start.gantry.place == "unknown"


def test_a_multi_takes_a_column_and_drops_it_into_the_bin(folded: Any) -> None:
    made = Builder()
    rack, pipette = made.rack("4"), made.pipette()
    made.at("pickUpTip", pipette, rack, "A3")
    made.add("moveToAddressableAreaForDropTip", {"pipetteId": pipette, "addressableAreaName": "fixedTrash"})
    made.add("dropTipInPlace", {"pipetteId": pipette})
    *_, taken, above, dropped = folded(made)
    assert gone(taken.state, "4") == {f"{row}3" for row in "ABCDEFGH"}
    held = taken.state.pipette("left").tips
    assert [(tip.nozzle, tip.well, tip.slot) for tip in held] == [(f"{row}1", f"{row}3", "4") for row in "ABCDEFGH"]
    assert taken.state.gantry.slot == "4" and taken.state.gantry.mount == "left"
    assert above.state.gantry.place == "trash" and len(above.state.pipette("left").tips) == 8
    assert dropped.state.pipette("left").tips == () and tips(dropped.state, "4") == tips(taken.state, "4")


def test_a_single_takes_one_and_returns_it(folded: Any) -> None:
    made = Builder()
    rack, pipette = made.rack("4"), made.pipette("p20_single_gen2", "right")
    made.at("pickUpTip", pipette, rack, "C2")
    made.at("dropTip", pipette, rack, "C2")
    *_, taken, back = folded(made)
    assert gone(taken.state, "4") == {"C2"}
    assert gone(back.state, "4") == set() and back.state.pipette("right").tips == ()


PARTIAL: dict[str, tuple[dict[str, str], str, str]] = {
    "one, front nozzle": ({"style": "SINGLE", "primaryNozzle": "H1"}, "C4", "C4"),
    "one, back nozzle": ({"style": "SINGLE", "primaryNozzle": "A1"}, "H12", "H12"),
    "four at the front": (
        {"style": "QUADRANT", "primaryNozzle": "H1", "frontRightNozzle": "H1", "backLeftNozzle": "E1"},
        "D1",
        "D1 C1 B1 A1",
    ),
    "three at the back": (
        {"style": "QUADRANT", "primaryNozzle": "A1", "frontRightNozzle": "C1", "backLeftNozzle": "A1"},
        "F1",
        "F1 G1 H1",
    ),
    "column": ({"style": "COLUMN", "primaryNozzle": "A1"}, "A2", " ".join(f"{row}2" for row in "ABCDEFGH")),
    "all": ({"style": "ALL"}, "A2", " ".join(f"{row}2" for row in "ABCDEFGH")),
}


@pytest.mark.parametrize("case", PARTIAL)
def test_partial_tip_configurations(case: str, folded: Any) -> None:
    layout, well, wells = PARTIAL[case]
    made = Builder()
    rack, pipette = made.rack("4"), made.pipette()
    made.add("configureNozzleLayout", {"pipetteId": pipette, "configurationParams": layout})
    made.at("pickUpTip", pipette, rack, well)
    last = folded(made)[-1].state
    assert gone(last, "4") == set(wells.split())
    assert [tip.well for tip in last.pipette("left").tips] == wells.split()


def test_tips_that_were_taken_already_are_said_and_new_ones_are_held(folded: Any) -> None:
    made = Builder()
    rack, pipette = made.rack("4"), made.pipette()
    for _ in range(2):
        made.at("pickUpTip", pipette, rack)
        made.add("dropTipInPlace", {"pipetteId": pipette})
    *_, first, _, second, _ = folded(made)
    assert first.refilled == () and second.refilled == tuple(f"{row}1" for row in "ABCDEFGH")
    assert len(second.state.pipette("left").tips) == 8


def test_set_tip_state(folded: Any) -> None:
    made = Builder()
    rack, pipette = made.rack("4"), made.pipette()
    made.at("pickUpTip", pipette, rack)
    wells = ["A1", "B1", "A12"]
    made.add("setTipState", {"labwareId": rack, "wellNames": wells, "tipWellState": "clean"})
    made.add("setTipState", {"labwareId": rack, "wellNames": ["A12"], "tipWellState": "empty"})
    *_, clean, empty = folded(made)
    assert gone(clean.state, "4") == {f"{row}1" for row in "CDEFGH"}
    assert gone(empty.state, "4") == {*(f"{row}1" for row in "CDEFGH"), "A12"}


def test_a_stack_on_a_module_moves_with_what_it_stands_on(folded: Any) -> None:
    made = Builder()
    shaker = made.module("heaterShakerModuleV1", "1")
    adapter = made.labware({"moduleId": shaker}, "adapter", "adapter")
    plate = made.labware({"labwareId": adapter})
    made.labware({"labwareId": plate}, "lid", "lid")
    made.add("heaterShaker/closeLabwareLatch", {"moduleId": shaker})
    move = {"labwareId": adapter, "newLocation": {"slotName": "5"}, "strategy": "manualMoveWithPause"}
    made.add("moveLabware", move, {})
    made.add("moveLabware", {**move, "labwareId": plate, "newLocation": "offDeck"}, {})
    *_, latched, moved, off = folded(made)
    assert [one.name for one in latched.state.at(1).stack] == ["adapter", "plate", "lid"]
    assert latched.state.at(1).module.latch == "closed" and not latched.needs_person
    assert [one.name for one in moved.state.at(5).stack] == ["adapter", "plate", "lid"] and moved.needs_person
    assert moved.state.at(1).stack == () and moved.state.at(1).module is not None
    assert [one.name for one in off.state.off_deck] == ["plate", "lid"]
    assert [one.name for one in off.state.at(5).stack] == ["adapter"]


def test_thermocycler(folded: Any) -> None:
    made = Builder()
    cycler = made.module("thermocyclerModuleV2", "7")
    rack, pipette = made.rack("4"), made.pipette()
    made.at("pickUpTip", pipette, rack)
    made.add("thermocycler/openLid", {"moduleId": cycler})
    made.add("thermocycler/setTargetBlockTemperature", {"moduleId": cycler, "celsius": 95.0})
    made.add("thermocycler/closeLid", {"moduleId": cycler})
    made.add("thermocycler/deactivateBlock", {"moduleId": cycler})
    loaded, *_, opened, heated, closed, cold = folded(made)
    assert loaded.state.at(7).module.lid is None, "no command has said it"
    assert {slot.name for slot in loaded.state.slots if slot.covered_by == "7"} == {"8", "10", "11"}
    assert opened.state.at(7).module.lid == "open" and opened.state.gantry.place == "home"
    assert (heated.state.at(7).module.block_c, cold.state.at(7).module.block_c) == (95.0, None)
    assert closed.state.at(7).module.lid == "closed"


def test_home_of_some_axes_leaves_the_gantry(folded: Any) -> None:
    made = Builder()
    rack, pipette = made.rack("4"), made.pipette()
    made.at("moveToWell", pipette, rack)
    made.add("home", {"axes": ["leftZ", "leftPlunger"]})
    made.add("home", {"axes": ["x", "y"]})
    made.add("waitForResume", {"message": "look"})
    *_, partly, wholly, paused = folded(made)
    assert (partly.state.gantry.slot, wholly.state.gantry.place) == ("4", "home")
    assert paused.needs_person and not wholly.needs_person


def test_trash_as_labware_of_old_protocols_and_moves_by_coordinates(folded: Any) -> None:
    made = Builder()
    rack, pipette = made.rack("4"), made.pipette()
    made.at("pickUpTip", pipette, rack)
    made.at("dropTip", pipette, "fixedTrash")
    made.add("moveToCoordinates", {"pipetteId": pipette}, {"position": {"x": 200.0, "y": 100.0, "z": 90.0}})
    *_, dropped, moved = folded(made)
    assert dropped.state.gantry.place == "trash" and dropped.state.pipette("left").tips == ()
    assert moved.state.gantry.slot == "5"


@pytest.mark.parametrize(("place", "slot"), [((0, 0), "1"), ((130, 0), "1"), ((133, 91), "5"), ((392, 350), "12")])
def test_slot_at(place: tuple[float, float], slot: str) -> None:
    assert slot_at(*place) == slot


def test_no_slot_there() -> None:
    assert slot_at(-30, 5) is None and slot_at(500, 5) is None and slot_at(10, 400) is None


def test_a_command_of_a_later_version_is_said(folded: Any) -> None:
    made = Builder()
    made.add("singAndDance", {"volume": 3})
    (step,) = folded(made)
    assert not step.known and step.state == step.before


def faults() -> dict[str, Builder]:
    made: dict[str, Builder] = {}

    def case(name: str) -> Builder:
        return made.setdefault(name, Builder())

    case("no slot 'D1'").rack("D1")
    case("no slot '13'").module("temperatureModuleV2", "13")
    one = case("labware that was not loaded")
    one.at("pickUpTip", one.pipette(), "nobody")
    one = case("a pipette that was not loaded")
    one.at("pickUpTip", "nobody", one.rack("1"))
    case("a module that was not loaded").add("thermocycler/openLid", {"moduleId": "nobody"})
    one = case("has no well 'Z9'")
    one.at("pickUpTip", one.pipette(), one.rack("1"), "Z9")
    one = case("is no tip rack")
    one.at("pickUpTip", one.pipette(), one.labware({"slotName": "1"}))
    one = case("stands on itself")
    plate = one.labware({"slotName": "1"})
    one.add("moveLabware", {"labwareId": plate, "newLocation": {"labwareId": plate}})
    one = case("the nozzle layout ROW")
    one.add("configureNozzleLayout", {"pipetteId": one.pipette(), "configurationParams": {"style": "ROW"}})
    case("no place 'nowhere'").labware("nowhere")
    case("it has no location").labware(None)
    case("the left or the right mount").pipette("p300_multi", "extension")
    case("'labwareId' is missing").add("loadLabware", {"location": "offDeck", "loadName": "x"})
    return made


@pytest.mark.parametrize("message", faults())
def test_a_command_that_does_not_fit_the_deck(message: str, folded: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        folded(faults()[message])
    assert "analysis.json: command " in str(caught.value) and caught.value.fix


def test_what_is_loaded_before_anything_moves_stands_there_from_the_start(folded: Any) -> None:
    made = Builder()
    made.add("home")
    cycler = made.module("thermocyclerModuleV1", "7")
    made.add("thermocycler/openLid", {"moduleId": cycler})
    rack, pipette = made.rack("4"), made.pipette()
    made.at("pickUpTip", pipette, rack)
    first, *_, last = folded(made)
    assert first.before.at(4).top is not None and first.before.at(7).module is not None
    assert first.before.gantry.place == "unknown" and first.state.gantry.place == "home"
    assert first.before.at(7).module.lid is None and last.state.at(7).module.lid == "open"


def test_what_is_loaded_later_into_an_empty_slot_may_stand_there_already(folded: Any) -> None:
    made = Builder()
    rack, pipette = made.rack("4"), made.pipette()
    made.at("pickUpTip", pipette, rack)
    made.add("dropTipInPlace", {"pipetteId": pipette})
    move = {"labwareId": rack, "newLocation": "offDeck", "strategy": "manualMoveWithPause"}
    made.add("moveLabware", move)
    made.rack("4")
    made.labware({"slotName": "5"})
    made.add("home")
    steps = folded(made)
    later = [[slot.name for slot in step.state.slots if slot.later] for step in steps]
    assert later == [["5"], ["5"], ["5"], ["5"], ["4", "5"], ["5"], [], []]
    assert [slot.name for slot in steps[0].before.slots if slot.later] == ["5"]
    assert all(one.state == other.before for one, other in pairwise(steps))
    assert tips(steps[-1].state, "4") and len(steps[-1].state.off_deck) == 1


def test_another_bin_in_place_of_the_fixed_one(folded: Any) -> None:
    made = Builder()
    made.labware({"slotName": "12"}, "opentrons_1_trash_850ml_fixed", "trash")
    rack, pipette = made.rack("4"), made.pipette()
    made.at("pickUpTip", pipette, rack)
    made.at("dropTip", pipette, "fixedTrash")
    last = folded(made)[-1].state
    assert [one.name for one in last.at(12).stack] == ["opentrons_1_trash_850ml_fixed"]
    assert last.gantry.place == "trash"


def test_a_stack_of_lids(folded: Any) -> None:
    made = Builder()
    plate = made.labware({"slotName": "1"})
    params = {"location": {"slotName": "3"}, "loadName": "a_lid", "quantity": 3}
    made.add("loadLidStack", params, {"stackLabwareId": "stack", "labwareIds": ["one", "two", "three"]})
    made.add(
        "moveLabware", {"labwareId": "three", "newLocation": {"labwareId": plate}, "strategy": "manualMoveWithPause"}
    )
    *_, loaded, moved = folded(made)
    assert [one.kind for one in loaded.state.at(3).stack] == ["lid", "lid", "lid"]
    assert len(moved.state.at(3).stack) == 2 and moved.state.at(1).top.kind == "lid"


def test_a_rack_that_was_exchanged_in_a_pause_is_not_checked_from_there_on(folded: Any) -> None:
    made = Builder()
    rack, pipette = made.rack("4"), made.pipette()
    for well in ("A1", "A2"):
        made.at("pickUpTip", pipette, rack, well)
        made.add("dropTipInPlace", {"pipetteId": pipette})
    made.add("waitForResume", {"message": "put a fresh tip rack"})
    made.add("comment")
    made.at("pickUpTip", pipette, rack)
    made.add("dropTipInPlace", {"pipetteId": pipette})
    wells = [well for column in COLUMNS for well in column]
    made.add("setTipState", {"labwareId": rack, "wellNames": wells, "tipWellState": "clean"})
    steps = folded(made)
    checked = [any(one.id == "tips:4" for one in state_checks(step.state)) for step in steps]
    assert checked == [True, True, True, True, True, True, False, False, False, False, True]
    assert any(one.id == "tips:4" for one in state_checks(steps[6].before)), "before the pause has begun"
    assert all(any(one.id == "labware:4" for one in state_checks(step.state)) for step in steps)
    assert all(one.state == other.before for one, other in pairwise(steps))
    assert steps[8].refilled and gone(steps[6].state, "4") == gone(steps[5].state, "4")


@pytest.mark.parametrize("on", ["module", "adapter", "slot with adapter"])
def test_what_is_loaded_later_onto_a_module_or_adapter_may_stand_there_already(on: str, folded: Any) -> None:
    made = Builder()
    shaker = made.module("heaterShakerModuleV1", "6")
    place: dict[str, str] = {"moduleId": shaker}
    if on != "module":
        under = {"moduleId": shaker} if on == "adapter" else {"slotName": "6"}
        if on == "slot with adapter":
            made = Builder()
        place = {"labwareId": made.labware(under, "adapter", "adapter")}
    rack, pipette = made.rack("4"), made.pipette()
    made.at("pickUpTip", pipette, rack)
    made.labware(place)
    made.add("home")
    steps = folded(made)
    ids = [[one.id for one in state_checks(step.state) if one.id.endswith(":6")] for step in steps]
    assert not any("labware:6" in one for one in ids[:-2]) and all("labware:6" in one for one in ids[-2:])
    if on != "slot with adapter":
        assert all("module:6" in one for one in ids)
    assert all(one.state == other.before for one, other in pairwise(steps))


@pytest.mark.parametrize(
    ("name", "category", "kind"),
    [
        ("opentrons_96_deep_well_adapter_nest_wellplate_2ml_deep", "adapter", "plate"),
        ("opentrons_96_aluminumblock_nest_wellplate_100ul", "aluminumBlock", "plate"),
        ("opentrons_24_aluminumblock_nest_1.5ml_snapcap", "aluminumBlock", "block"),
        ("opentrons_96_deep_well_adapter", "adapter", "adapter"),
    ],
)
def test_a_plate_in_its_adapter_or_block_is_a_plate(name: str, category: str, kind: str, folded: Any) -> None:
    made = Builder()
    made.labware({"slotName": "1"}, name, category)
    assert folded(made)[0].state.at(1).top.kind == kind
