"""A run's commands beside its analysis."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from deckbench.protocol import Analysis, join, read_analysis
from tests.protocol.builder import Builder


def a_transfer(well: str = "A1", *, pause: bool = False) -> Builder:
    made = Builder()
    made.add("home")
    rack, plate, pipette = made.rack("4"), made.labware({"slotName": "1"}), made.pipette()
    made.at("pickUpTip", pipette, rack, well)
    if pause:
        made.add("waitForResume")
    made.at("aspirate", pipette, plate)
    made.at("dispense", pipette, plate, "A2")
    made.at("dropTip", pipette, rack, well)
    return made


def analysed(made: Builder, folder: Path) -> Analysis:
    return read_analysis(made.write(folder / "analysis.json"))


def run_of(made: Builder, *, results: bool = True) -> list[dict[str, Any]]:
    found = copy.deepcopy(made.commands)
    for command in found:
        command["result"].pop("definition", None)
        if not results:
            del command["result"]
    return found


def test_every_command_of_a_run_has_its_step(tmp_path: Path) -> None:
    analysis = analysed(a_transfer(), tmp_path)
    for results in (True, False):
        found = join(analysis, run_of(a_transfer(), results=results))
        assert found.steps == tuple(range(8)) and found.left_at is None and found.why is None


def test_setup_and_fixit_have_no_step(tmp_path: Path) -> None:
    analysis = analysed(a_transfer(), tmp_path)
    run = run_of(a_transfer())
    run.insert(5, {"commandType": "pickUpTip", "intent": "fixit", "params": {}, "key": "x"})
    run.insert(0, {"commandType": "home", "intent": "setup", "params": {}})
    assert join(analysis, run).steps == (None, 0, 1, 2, 3, 4, None, 5, 6, 7)


def test_a_page_from_the_middle_of_a_run(tmp_path: Path) -> None:
    analysis = analysed(a_transfer(), tmp_path)
    assert join(analysis, run_of(a_transfer(), results=False)[4:7]).steps == (4, 5, 6)
    assert join(analysis, []).steps == ()


def test_another_branch(tmp_path: Path) -> None:
    found = join(analysed(a_transfer(), tmp_path), run_of(a_transfer(pause=True)))
    assert found.steps == (0, 1, 2, 3, 4, None, None, None, None) and found.left_at == 5
    assert found.why == "command 5: the analysis has no such waitForResume; it goes on with aspirate"


def test_a_run_that_is_longer_than_its_analysis(tmp_path: Path) -> None:
    longer = a_transfer()
    longer.add("home")
    found = join(analysed(a_transfer(), tmp_path), run_of(longer))
    assert found.left_at == 8 and found.steps[7:] == (7, None)


def test_the_same_keys_and_other_parameters(tmp_path: Path) -> None:
    analysis = analysed(a_transfer(), tmp_path)
    other = a_transfer("A2")
    assert [one["key"] for one in other.commands] == [one.key for one in analysis.commands]
    found = join(analysis, run_of(other))
    assert found.left_at == 4 and found.why == "command 4: pickUpTip has wellName A2, the analysis A1"


def test_the_same_keys_and_another_labware(tmp_path: Path) -> None:
    run = run_of(a_transfer(), results=False)
    run[7]["params"]["labwareId"] = run[5]["params"]["labwareId"]
    found = join(analysed(a_transfer(), tmp_path), run)
    assert found.left_at == 7 and found.why == "command 7: dropTip of another labware than in the analysis"


def test_a_command_that_comes_twice_and_rubbish(tmp_path: Path) -> None:
    analysis = analysed(a_transfer(), tmp_path)
    run = run_of(a_transfer())
    assert join(analysis, [*run[:5], run[4]]).left_at == 5
    assert join(analysis, [{}]).left_at == 0
    assert join(analysis, [{"key": run[0]["key"], "commandType": "pickUpTip"}]).left_at == 0
    assert join(analysis, [{"key": run[0]["key"], "commandType": "home", "params": 3}]).steps == (0,)


@pytest.mark.parametrize(
    ("kind", "planned", "real", "why"),
    [
        ("setRailLights", {"on": True}, {"on": False}, "on False, the analysis True"),
        ("moveToCoordinates", {"coordinates": {"x": 1, "y": 2, "z": 3}}, {"coordinates": {"x": 301, "y": 2, "z": 3}},
         "moveToCoordinates has coordinates"),
        ("moveRelative", {"axis": "x", "distance": 5.0}, {"axis": "y", "distance": 5.0}, "axis y, the analysis x"),
        ("moveRelative", {"axis": "x", "distance": 5.0}, {"axis": "x", "distance": 50}, "distance 50, the analysis"),
        ("setTipState", {"wellNames": ["A1"], "tipWellState": "empty"}, {"wellNames": ["A1"], "tipWellState": "clean"},
         "tipWellState clean, the analysis empty"),
        ("home", {}, {"axes": ["leftZ"]}, "the analysis None"),
        ("home", {"axes": ["x", "y"]}, {}, "axes None, the analysis"),
        ("home", {"axes": None}, {}, None),
        ("moveToCoordinates", {"coordinates": {"x": 1, "y": 2, "z": 3}}, {"coordinates": {"x": 1.0, "y": 2, "z": 3.0}},
         None),
    ],
)  # fmt: skip
def test_what_is_seen_is_compared(
    kind: str, planned: dict[str, Any], real: dict[str, Any], why: str | None, tmp_path: Path
) -> None:
    made, other = a_transfer(), a_transfer()
    made.add(kind, planned)
    other.add(kind, real)
    found = join(analysed(made, tmp_path), run_of(other))
    assert found.left_at == (None if why is None else 8)
    assert why is None or why in str(found.why)
