"""Pools of a protocol's runs: expected decks, planted deviations, and checks whose text tells nothing."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deckbench.errors import InputError
from deckbench.pool.synth import synth_pool
from deckbench.pool.synth.deviations import DEVIATE, KINDS
from deckbench.pool.synth.protocol_run import (
    DIFFERS,
    DrawnDeck,
    Moment,
    gap_pixels,
    gap_seen,
    moments_of,
    plan_of,
)
from deckbench.pool.synth.scene import Truth
from deckbench.pool.synth.stage import Stage
from deckbench.protocol import Analysis, fold, read_analysis, state_checks
from deckbench.resources import data_folder
from deckbench.yolo.read import read_pool
from tests.protocol.builder import Builder

SIZE = (256, 144)
SHIPPED = data_folder("tasks") / "protocols/pcr-setup.analysis.json"


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return read_analysis(SHIPPED)


@pytest.fixture(scope="module")
def moments(analysis: Analysis) -> tuple[Moment, ...]:
    return moments_of(analysis, fold(analysis))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("protocol") / "pool"
    synth_pool(out, frames=128, size=SIZE, seed=5, protocol="pcr-setup", workers=1)
    return out


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def scenes_of(pool: Path) -> dict[str, dict[str, Any]]:
    lines = (pool / "scenes.jsonl").read_text(encoding="utf-8").splitlines()
    return {scene["frame"]: scene for scene in map(json.loads, lines)}


def test_the_pool_is_read_without_a_problem(pool: Path, analysis: Analysis) -> None:
    read = read_pool(pool)
    assert read.notices == () and len(read.frames) == 128 and read.synthetic
    assert all(frame.checks and frame.step and frame.time_s is not None for frame in read.frames)
    assert Counter(Counter(frame.group for frame in read.frames).values()) == {8: 16}
    manifest = json.loads((pool / "manifest.json").read_text())["content"]
    assert manifest["inputs"]["protocol"] == analysis.sha256
    for row in rows_of(pool / "checks.csv"):
        assert all(
            row[name] for name in ("step", "step_zh", "check_zh", "expected_zh", "caption", "caption_zh", "region")
        )
        assert bool(row["anomaly"]) == bool(row["anomaly_zh"]) == (row["verdict"] == "anomaly")


def test_the_verdict_follows_from_what_is_expected_and_what_is_there(pool: Path) -> None:
    """The caption says what is there: it is the expectation exactly where the verdict is normal."""
    for row in rows_of(pool / "checks.csv"):
        assert (row["caption"] == row["expected"]) == (row["verdict"] == "normal"), row
        assert (row["caption_zh"] == row["expected_zh"]) == (row["verdict"] == "normal"), row


def test_expectations_are_those_of_the_command(pool: Path, analysis: Analysis) -> None:
    steps = fold(analysis)
    scenes = scenes_of(pool)
    for row in rows_of(pool / "checks.csv"):
        step = steps[scenes[row["frame"]]["command"]]
        expected = {one.check.en: one.expected.en for one in state_checks(step.state)}
        assert expected[row["check"]] == row["expected"]


def test_every_kind_of_deviation_is_planted(pool: Path) -> None:
    found = Counter(row["anomaly"] for row in rows_of(pool / "checks.csv") if row["anomaly"])
    assert set(found) == {kind.en for kind in KINDS.values()}, found
    frames = {row["frame"] for row in rows_of(pool / "checks.csv") if row["verdict"] == "anomaly"}
    assert 0.5 <= len(frames) / 128 <= 0.75


def test_no_text_tells_the_verdict(pool: Path) -> None:
    """Every check of a moment of a run is asked twice, with both answers: no step, check or expectation tells it."""
    verdicts: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in rows_of(pool / "checks.csv"):
        group, _, index = row["frame"].rpartition("_f")
        key = (group, str(int(index) // 2), row["step"], row["check"], row["expected"], row["region"])
        verdicts[key].append(row["verdict"])
    assert len(verdicts) >= 64
    assert all(sorted(found) == ["anomaly", "normal"] for found in verdicts.values())


def test_an_anomaly_is_as_often_in_the_first_frame_as_in_the_second(pool: Path) -> None:
    first = [int(row["frame"][-1]) % 2 == 0 for row in rows_of(pool / "checks.csv") if row["verdict"] == "anomaly"]
    assert 0.35 <= np.mean(first) <= 0.65, len(first)


def test_a_run_may_end_between_the_two_frames_of_a_moment(tmp_path: Path) -> None:
    synth_pool(tmp_path / "pool", frames=3, size=SIZE, seed=5, protocol="pcr-setup", workers=1)
    assert [frame.id[-4:] for frame in read_pool(tmp_path / "pool").frames] == ["f000", "f001", "f002"]


def test_a_gap_behind_the_pipette_is_not_planted(moments: tuple[Moment, ...]) -> None:
    """Found in sessions at these arguments where the pipette stands before a rack; counted on rendered pictures."""
    hidden = shown_gaps = 0
    for session in range(6):
        state = next(one.state for one in moments if one.state.gantry.slot == "4" and one.number > 20)
        stage = Stage(plan_of(0, session, 8, SIZE, False, state))
        expected = DrawnDeck(stage, state, 1)
        rng = np.random.Generator(np.random.PCG64(session))
        for _ in range(8):
            made = DEVIATE["tips"](state, "4", rng)
            if made is None:
                continue
            actual = DrawnDeck(stage, made.state, 1)
            shown, whole = gap_pixels(expected, actual, "4")
            assert shown == pytest.approx(pixels_changed(expected, actual, True), abs=0.5 * max(whole, 60))
            assert whole == pytest.approx(pixels_changed(expected, actual, False), rel=0.5, abs=25)
            seen = gap_seen(expected, actual, "4")
            assert seen == (shown >= 0.001 * SIZE[0] * SIZE[1] and shown * 2 >= whole)
            hidden, shown_gaps = hidden + (not seen), shown_gaps + seen
    assert hidden and shown_gaps, (hidden, shown_gaps)


def pixels_changed(one: DrawnDeck, other: DrawnDeck, with_hand: bool) -> int:
    """How many pixels differ between two decks under the same light and noise, with or without the pipette."""
    pictures = []
    for view in (one, other):
        truth = Truth("", 0.0, view.stations, view.hand if with_hand else None, (), (), 1.0, None)
        noise = np.random.Generator(np.random.PCG64(0))
        pictures.append(np.asarray(view.stage.render(truth, noise), dtype=np.int16))
    return int(np.count_nonzero(np.abs(pictures[0] - pictures[1]).sum(axis=2) > DIFFERS))


def test_the_same_frame_is_right_and_wrong(pool: Path) -> None:
    verdicts: dict[str, set[str]] = defaultdict(set)
    for row in rows_of(pool / "checks.csv"):
        verdicts[row["frame"]].add(row["verdict"])
    assert sum(len(found) == 2 for found in verdicts.values()) >= 12


def test_bytes_depend_on_the_seed_alone(tmp_path: Path) -> None:
    given: dict[str, Any] = {"frames": 10, "size": SIZE, "protocol": str(SHIPPED)}
    one = synth_pool(tmp_path / "one", **given, seed=2, workers=1)
    two = synth_pool(tmp_path / "two", **given, seed=2, workers=2)
    other = synth_pool(tmp_path / "other", **given, seed=3, workers=1)
    assert one.content_hash == two.content_hash != other.content_hash


def test_labels_show_what_is_there(pool: Path) -> None:
    read = {frame.id: frame for frame in read_pool(pool).frames}
    for name, scene in scenes_of(pool).items():
        names = [box.name for box in read[name].boxes]
        kinds = {one["kind"] for one in scene["deviations"]}
        assert ("tip_rack_gap" in names) <= ("tip_rack_gap" in kinds)
        assert ("labware_missing" in names) <= bool(kinds & {"labware_missing", "wrong_slot"})
        if "lid_open" in kinds:
            assert "pcr_lid_open" in names
        assert names.count("trash_bin") <= 1


def other_protocol(folder: Path) -> Path:
    """Slots and labware that the default deck never has: no thermocycler, a stack, a lab's own plate, slot 8 or 10."""
    b = Builder()
    b.add("home")
    rack = b.rack("10", "opentrons_96_tiprack_1000ul")
    shaker = b.module("heaterShakerModuleV1", "1")
    adapter = b.labware({"moduleId": shaker}, "opentrons_96_flat_bottom_adapter", "adapter")
    b.labware({"labwareId": adapter}, "nest_96_wellplate_200ul_flat")
    tubes = b.labware({"slotName": "8"}, "opentrons_24_tuberack_nest_1.5ml_snapcap", "tubeRack")
    b.labware({"slotName": "11"}, "a_labs_own_plate")
    pipette = b.pipette("p1000_single_gen2", "right")
    for kind, labware in (("pickUpTip", rack), ("aspirate", tubes), ("dispense", tubes)):
        params = {"pipetteId": pipette, "labwareId": labware, "wellName": "A1"}
        b.add(kind, params, {"position": {"x": 150.0, "y": 200.0, "z": 60.0}})
    b.add("dropTipInPlace", {"pipetteId": pipette})
    b.add("moveLabware", {"labwareId": tubes, "newLocation": "offDeck", "strategy": "manualMoveWithPause"})
    return b.write(folder / "other.json")


@pytest.mark.parametrize("shifted", [False, True])
def test_another_protocol_is_drawn_too(tmp_path: Path, shifted: bool) -> None:
    given = other_protocol(tmp_path)
    synth_pool(tmp_path / "pool", frames=24, size=SIZE, seed=1, protocol=given, shifted=shifted, workers=1)
    rows = rows_of(tmp_path / "pool/checks.csv")
    about = {row["check"] for row in rows}
    assert any("slot 10" in text for text in about) and any("right pipette" in text for text in about), about
    assert not any("thermocycler" in text for text in about)


def test_deviations_change_what_is_said(moments: tuple[Moment, ...]) -> None:
    """Each deviation of each check changes that check's expectation; one of labware that moved, those of both slots."""
    rng = np.random.Generator(np.random.PCG64(3))
    seen = set()
    for moment in moments[::5]:
        before = {one.id: one.expected for one in state_checks(moment.state)}
        for name in before:
            kind, _, about = name.partition(":")
            made = DEVIATE[kind](moment.state, about, rng) if kind in DEVIATE else None
            if made is None:
                continue
            after = {one.id: one.expected for one in state_checks(made.state)}
            assert after.get(name) != before[name] or kind == "tips", name
            places = {one.partition(":")[2] for one in before if after.get(one) != before[one]}
            assert len(places) <= (2 if made.kind == "wrong_slot" else 1), (made.kind, places)
            assert {slot for slot in made.away if f"labware:{slot}" in before} <= places
            seen.add(made.kind)
    assert seen == set(KINDS)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"protocol": "nowhere.json"}, "cannot be read"),
        ({"protocol": "pcr-setup", "emphasis": {"spill": 2.0}}, "emphasised"),
        ({"protocol": "empty"}, "nothing|anything can be seen"),
        ({"protocol": "odd"}, "thermocycler in slot 1"),
    ],
)
def test_what_cannot_be_rendered_is_refused(given: dict[str, Any], text: str, tmp_path: Path) -> None:
    b = Builder()
    b.add("comment", {"message": "nothing"})
    if given["protocol"] == "empty":
        given = {"protocol": b.write(tmp_path / "empty.json")}
    elif given["protocol"] == "odd":
        b.module("thermocyclerModuleV1", "1")
        b.add("waitForResume", {})
        given = {"protocol": b.write(tmp_path / "odd.json")}
    with pytest.raises(InputError, match=text):
        synth_pool(tmp_path / "pool", frames=8, size=SIZE, **given)
    assert not (tmp_path / "pool").exists()
