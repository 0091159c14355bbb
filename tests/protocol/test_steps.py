"""`deckbench steps` from end to end: the file, its schema, the sheet, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from deckbench.cli.schemas import schema_of
from deckbench.errors import InputError
from deckbench.protocol.draw import PICTURE
from deckbench.protocol.make import make_steps
from tests.protocol.builder import Builder


def protocol() -> Builder:
    made = Builder()
    made.add("home")
    rack, pipette = made.rack("4"), made.pipette()
    cycler = made.module("thermocyclerModuleV1", "7")
    plate = made.labware({"moduleId": cycler})
    made.add("thermocycler/openLid", {"moduleId": cycler})
    made.at("pickUpTip", pipette, rack)
    made.at("dispense", pipette, plate)
    made.at("dropTip", pipette, rack)
    made.add("waitForResume", {"message": "look"})
    return made


def steps_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_two_analyses_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        source = protocol().write(tmp_path / name / f"{name}.json", createdAt=name)
        make_steps(source, out=tmp_path / f"{name}-steps.json")
    one, other = ((tmp_path / f"{name}-steps.json").read_bytes() for name in "ab")
    assert one == other
    data = json.loads(one)
    ids = {command["id"] for command in protocol().commands}
    assert not any(name in one.decode() for name in ids) and str(tmp_path) not in one.decode()
    Draft202012Validator(schema_of("steps")).validate(data)
    assert data["protocol"]["commands"] == len(data["steps"]) == 10
    assert data["steps"][6]["state"]["slots"]["4"]["stack"][0]["empty_columns"] == [1]
    assert data["start"]["slots"].keys() == {"4", "7", "8", "10", "11", "12"}
    assert data["steps"][9]["needs_person"] is True and "needs_person" not in data["steps"][8]


def test_checks_of_a_step(tmp_path: Path) -> None:
    make_steps(protocol().write(tmp_path / "a.json"), out=tmp_path / "steps.json")
    step = steps_of(tmp_path / "steps.json")["steps"][6]
    said = {(one["phase"], one["id"]): one["expected"] for one in step["checks"]}
    assert said["pre", "tips:4"]["en"] == "Slot 4 holds a 300 µl tip rack with all its tips."
    assert (
        said["post", "tips:4"]["en"]
        == "Slot 4 holds a 300 µl tip rack with column 1 empty and all other tips in place."
    )
    assert said["post", "tips:4"]["zh"] == "4 号板位上的 300 µl 吸头盒只有第 1 列是空的，其余吸头都在。"
    assert said["pre", "held:left"]["en"] == "No tip is on the left pipette."
    assert said["post", "held:left"]["en"] == "8 tips are on the left pipette."
    assert step["text"]["en"] == "Pick up 8 tips at A1 of the 300 µl tip rack in slot 4 with the left pipette."


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_one_language(lang: str, tmp_path: Path) -> None:
    make_steps(protocol().write(tmp_path / "a.json"), out=tmp_path / "steps.json", lang=lang)
    data = steps_of(tmp_path / "steps.json")
    assert data["languages"] == [lang]
    assert {key for step in data["steps"] for one in step["checks"] for key in one["expected"]} == {lang}


@pytest.mark.parametrize("name", ["sheet.jpg", "sheet.svg", "sheet.PDF"])
def test_a_sheet_is_a_png(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="written as PNG"):
        make_steps(Builder().write(tmp_path / "a.json"), out=tmp_path / "steps.json", sheet=tmp_path / name)
    assert not (tmp_path / name).exists() and not (tmp_path / "steps.json").exists()


def test_a_sheet_and_a_folder_of_pictures(tmp_path: Path) -> None:
    source = protocol().write(tmp_path / "a.json")
    make_steps(source, out=tmp_path / "steps.json", sheet=tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width == 4 * PICTURE[0] and picture.height == 2 * PICTURE[1]
    make_steps(source, out=tmp_path / "steps.json", sheet=tmp_path / "pictures")
    assert [path.name for path in sorted((tmp_path / "pictures").iterdir())][:2] == [
        "00000-home.png",
        "00001-loadLabware.png",
    ]
    assert len(list((tmp_path / "pictures").iterdir())) == 10
    with pytest.raises(InputError, match="not empty"):
        make_steps(source, out=tmp_path / "steps.json", sheet=tmp_path / "pictures")


def test_an_older_steps_file_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    source = protocol().write(tmp_path / "a.json")
    for _ in range(2):
        make_steps(source, out=tmp_path / "steps.json")
    (tmp_path / "mine.json").write_text("{}")
    for place in (tmp_path / "mine.json", tmp_path, source):
        with pytest.raises(InputError, match=r"steps file|directory"):
            make_steps(source, out=place)
    assert (tmp_path / "mine.json").read_text() == "{}"


def test_nothing_is_written_for_what_is_refused(tmp_path: Path) -> None:
    source = protocol().write(tmp_path / "a.json", errors=[{"detail": "boom"}], result="not-ok")
    with pytest.raises(InputError, match="the protocol fails: boom"):
        make_steps(source, out=tmp_path / "steps.json", sheet=tmp_path / "sheet.png")
    with pytest.raises(InputError, match="the language 'fr' is not known"):
        make_steps(source, out=tmp_path / "steps.json", lang="fr")
    with pytest.raises(InputError, match="this is an analysis already"):
        make_steps(source, out=tmp_path / "steps.json", labware=(tmp_path,))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_people_are_told(tmp_path: Path) -> None:
    made = protocol()
    made.add("singAndDance")
    made.at("pickUpTip", made.commands[2]["result"]["pipetteId"], made.commands[1]["result"]["labwareId"])
    made.at("pickUpTip", made.commands[2]["result"]["pipetteId"], made.commands[1]["result"]["labwareId"])
    summary = make_steps(made.write(tmp_path / "a.json"), out=tmp_path / "steps.json")
    assert summary["commands"] == 13 and summary["needs_person"] == 1
    assert summary["notes"][1:3] == [
        "a person is needed at 1 commands: 9",
        'not known, taken as changing nothing: "singAndDance" (1 times)',
    ]
    assert "command 12 takes tips that are gone already" in summary["notes"][3]
    assert steps_of(tmp_path / "steps.json")["steps"][12]["refilled"] == [f"{row}1" for row in "ABCDEFGH"]
