"""Templates: what can be checked in a state, in both languages, and faults of a lab's own file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from deckbench.errors import InputError
from deckbench.protocol import DeckState, Labware, Module, Slot, load_texts, state_checks
from deckbench.protocol.state import SLOTS
from deckbench.protocol.texts import OURS, gaps_in, labware_name, with_article
from tests.protocol.builder import COLUMNS

WELLS = frozenset(well for column in COLUMNS for well in column)
RACK = Labware("opentrons_96_tiprack_300ul", "Tip Rack", "tip rack", tuple(map(tuple, COLUMNS)), WELLS, 300.0)
PLATE = Labware("plate", "A Plate", "plate", tuple(map(tuple, COLUMNS)))


def deck(*slots: Slot) -> DeckState:
    given = {slot.name: slot for slot in slots}
    return DeckState(tuple(given.get(name, Slot(name)) for name in SLOTS))


def expected(state: DeckState) -> dict[str, str]:
    return {one.id: one.expected.en for one in state_checks(state)}


GAPS = {
    "A1": ("well A1", "孔 A1"),
    "A1 B1": ("wells A1-B1", "孔 A1-B1"),
    "A1 C1 A2": ("wells A1, C1, A2", "孔 A1、C1、A2"),
    "D1 E1 F1 G1": ("wells D1-G1", "孔 D1-G1"),
    "1 2 3 7": ("columns 1-3, 7", "第 1-3, 7 列"),
    "12": ("column 12", "第 12 列"),
    "1 A3": ("column 1 and well A3", "第 1 列和孔 A3"),
    " ".join(f"A{number}" for number in range(1, 13)): ("wells " + ", ".join(f"A{n}" for n in range(1, 13)), None),
    " ".join([*(f"A{number}" for number in range(1, 13)), "B1"]): (None, None),
}


@pytest.mark.parametrize("gone", GAPS)
def test_gaps_of_a_rack(gone: str) -> None:
    missing = {well for name in gone.split() for well in (COLUMNS[int(name) - 1] if name.isdigit() else [name])}
    rack = replace(RACK, tips=WELLS - missing)
    english, chinese = GAPS[gone]
    assert gaps_in(rack, "en") == english
    if chinese:
        assert gaps_in(rack, "zh") == chinese
    said = expected(deck(Slot("4", stack=(rack,))))["tips:4"]
    if english:
        assert said == f"Slot 4 holds a 300 µl tip rack with {english} empty and all other tips in place."
    else:
        assert said == "Slot 4 holds a 300 µl tip rack with 83 of 96 tips."


def test_nothing_is_said_of_what_no_camera_sees() -> None:
    cycler = Module("thermocycler", "thermocyclerModuleV1", "7", block_c=95.0, lid_c=105.0)
    magnet = Module("magnetic module", "magneticModuleV2", "1", magnet="engaged")
    covered = [Slot(name, covered_by="7") for name in ("8", "10", "11")]
    shut = expected(deck(Slot("7", replace(cycler, lid="closed"), (PLATE,)), *covered, Slot("1", magnet)))
    assert shut["lid:7"] == "The thermocycler lid is closed." and "labware:7" not in shut
    assert not {"labware:8", "labware:10", "labware:11", "magnet:1"} & shut.keys()
    assert not any("95" in said or "105" in said for said in shut.values())
    assert shut["labware:1"] == "Nothing stands on the magnetic module in slot 1."
    unknown = expected(deck(Slot("7", cycler, (PLATE,))))
    assert "lid:7" not in unknown and "labware:7" not in unknown
    opened = expected(deck(Slot("7", replace(cycler, lid="open"), (PLATE,))))
    assert opened["labware:7"] == "A 96-well plate stands on the thermocycler in slot 7."
    assert "labware:5" not in expected(deck(Slot("5", later=True)))
    assert expected(deck())["labware:5"] == "Slot 5 is empty."


def test_lids_and_empty_racks() -> None:
    lid = Labware("a_lid", "A Lid", "lid")
    said = expected(deck(Slot("1", stack=(PLATE, lid)), Slot("2", stack=(replace(RACK, tips=frozenset()),))))
    assert said["labware:1"] == "Slot 1 holds a 96-well plate with a lid on it."
    assert expected(deck(Slot("3", stack=(lid, lid))))["labware:3"] == "Slot 3 holds a lid."
    assert said["tips:2"] == "Slot 2 holds a 300 µl tip rack without any tip."


def test_names() -> None:
    texts = load_texts()
    assert labware_name(replace(PLATE, height=41.0), texts, "en") == "deep-well plate"
    assert labware_name(replace(PLATE, name="nest_96_wellplate_100ul_pcr_full_skirt"), texts, "zh") == "PCR 板"
    assert labware_name(Labware("x", "Strange thing", "other"), texts, "en") == "Strange thing"
    for noun in ("a plate", "an adapter", "an 8-well plate", "a 1000 µl tip rack", "a 96-well plate"):
        assert with_article(noun.partition(" ")[2], "en") == noun


def test_a_lab_may_see_more_and_say_it_otherwise(tmp_path: Path) -> None:
    data = yaml.safe_load(OURS.read_text(encoding="utf-8"))
    data["visible"].append("magnet")
    data["labware"]["plate"] = {"en": "sample plate", "zh": "样品板"}
    path = tmp_path / "texts.yaml"
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    magnet = Module("magnetic module", "magneticModuleV2", "1", magnet="engaged")
    found = {one.id: one.expected for one in state_checks(deck(Slot("1", magnet, (PLATE,))), load_texts(path))}
    assert found["magnet:1"].en == "The magnets in slot 1 are raised."
    assert found["labware:1"].zh == "1 号板位的磁力模块上放着样品板。"


FAULTS = {
    "a typo in a value": ("{{ slot }} is empty", "{{ slott }} is empty", "'slott' is undefined"),
    "a broken template": ("{{ slot }} is empty", "{{ slot is empty", "the template fails"),
    "no other": ("\n  other: {en: \"Command", "\n  others: {en: \"Command", "steps: no text for other"),
    "an unknown kind": ("visible: [labware,", "visible: [smell,", "visible"),
    "a state less": ("      closed: {en: The thermocycler", "      shut: {en: The thermocycler", "no text for closed"),
    "a language less": ("trash: {en: trash bin, zh: 垃圾桶}", "trash: {en: trash bin}", "zh"),
    "code": ("{{ slot }} is empty", "{{ slot.__class__.__mro__ }} is empty", "unsafe"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_a_file(case: str, tmp_path: Path) -> None:
    old, new, message = FAULTS[case]
    text = OURS.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "texts.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_texts(path)
    assert message in str(caught.value) and "texts.yaml:" in str(caught.value)
