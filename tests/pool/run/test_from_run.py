"""`pool from-run`: which command a frame shows, what should be seen in it, and what is left unsaid."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deckbench.errors import InputError
from deckbench.pool.run import pool_from_run
from deckbench.pool.run.log import follow, parse_time, read_run
from deckbench.pool.run.timeline import Timeline
from deckbench.pool.run.times import parse_zone
from deckbench.protocol import Analysis, fold, read_analysis
from deckbench.yolo.read import read_pool
from tests.pool.run.simulate import START, Simulated, log_of, simulate
from tests.protocol.builder import Builder


def protocol(folder: Path) -> Path:
    """A small PCR set-up: tips, transfers, a thermocycler, waits, and labware that a person moves."""
    b = Builder()
    b.add("home")
    rack = b.rack("4")
    spare = b.rack("5")
    cycler = b.module("thermocyclerModuleV1", "7")
    plate = b.labware({"moduleId": cycler}, "nest_96_wellplate_100ul_pcr_full_skirt")
    source = b.labware({"slotName": "2"}, "nest_12_reservoir_15ml", "reservoir")
    other = b.labware({"slotName": "1"}, "nest_96_wellplate_200ul_flat")
    pipette = b.pipette()

    def at(kind: str, labware: str, well: str, x: float, y: float) -> None:
        params = {"pipetteId": pipette, "labwareId": labware, "wellName": well}
        b.add(kind, params, {"position": {"x": x, "y": y, "z": 60.0}})

    def drop() -> None:
        params = {"pipetteId": pipette, "addressableAreaName": "fixedTrash"}
        b.add("moveToAddressableAreaForDropTip", params, {"position": {"x": 330.0, "y": 351.0, "z": 82.0}})
        b.add("dropTipInPlace", {"pipetteId": pipette})

    b.add("thermocycler/openLid", {"moduleId": cycler})
    for turn in range(3):
        at("pickUpTip", rack, f"A{turn + 1}", 14.0 + 9 * turn, 165.0)
        at("aspirate", source, f"A{turn + 1}", 147.0 + 9 * turn, 74.0)
        at(
            "dispense",
            (plate, other, plate)[turn],
            f"A{turn + 1}",
            (60.0, 14.0, 78.0)[turn],
            (250.0, 74.0, 250.0)[turn],
        )
        b.add("waitForDuration", {"seconds": 15.0})
        drop()
    b.add("thermocycler/closeLid", {"moduleId": cycler})
    b.add("thermocycler/runProfile", {"moduleId": cycler, "profile": []})
    b.add("thermocycler/openLid", {"moduleId": cycler})
    b.add("moveLabware", {"labwareId": spare, "newLocation": {"slotName": "6"}, "strategy": "manualMoveWithPause"})
    b.add("waitForResume", {})
    b.add("home")
    return b.write(folder / "analysis.json")


@pytest.fixture(scope="module")
def analysis_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return protocol(tmp_path_factory.mktemp("analysis"))


@pytest.fixture(scope="module")
def analysis(analysis_file: Path) -> Analysis:
    return read_analysis(analysis_file)


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory, analysis: Analysis) -> Simulated:
    """A camera whose clock is 7 s behind the robot's."""
    return simulate(tmp_path_factory.mktemp("sim"), analysis, offset_s=7.0, jitter_s=0.3, every_s=2.0, seed=3)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, sim: Simulated, analysis_file: Path) -> Path:
    out = tmp_path_factory.mktemp("from-run") / "pool"
    pool_from_run(protocol=analysis_file, run=str(sim.log), frames=sim.folder, out=out)
    return out


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def test_frames_with_a_7_s_offset_and_jitter_get_the_right_command(pool: Path, sim: Simulated) -> None:
    clock = json.loads((pool / "manifest.json").read_text())["content"]["params"]["clock"]
    marks = rows_of(pool / "run.csv")
    assert len(marks) == len(sim.truth)
    certain = [row for row in marks if row["phase"] == "after"]
    truth = [sim.truth[f"{row['frame'].removeprefix('images/')}.jpg"] for row in certain]
    right = sum(int(row["command"]) == command for row, (command, _) in zip(certain, truth, strict=True))
    moving = sum(moving for _, moving in truth)
    print(f"offset {clock['offset_s']} +- {clock['uncertainty_s']}; {right} of {len(certain)} unambiguous frames right")
    print(f"{moving} of them taken in motion; {Counter(row['phase'] for row in marks)}")
    assert abs(clock["offset_s"] - 7.0) <= clock["uncertainty_s"] <= 3.0
    assert len(certain) >= 0.15 * len(marks)
    assert right >= 0.98 * len(certain)
    assert moving <= 0.02 * len(certain)


def test_ambiguous_frames_are_marked_and_have_no_checks(pool: Path) -> None:
    read = {frame.id: frame for frame in read_pool(pool).frames}
    marks = rows_of(pool / "run.csv")
    assert {row["phase"] for row in marks} <= {"after", "ambiguous", "outside", "left"}
    for row in marks:
        frame = read[row["frame"]]
        assert bool(frame.checks) == (row["phase"] == "after"), row
        assert all(check.verdict == "unknown" for check in frame.checks)
        assert frame.group == "run"
        assert bool(frame.step) == bool(row["command"]) and (frame.step or row["phase"] != "after")


def test_while_the_robot_waits_everything_is_checked(pool: Path) -> None:
    read = read_pool(pool).frames
    waits = [frame for frame in read if frame.step == "Wait."]
    texts = {check.check.en for frame in waits for check in frame.checks}
    assert any("slot 4" in text for text in texts) and any("lid" in text for text in texts), texts
    closed = [frame for frame in read if frame.step == "Run the thermocycler profile."]
    expected = {check.expected.en for frame in closed for check in frame.checks if check.expected}
    assert any(text.endswith("lid is closed.") for text in expected), expected


def test_the_same_again(pool: Path, sim: Simulated, analysis_file: Path, tmp_path: Path) -> None:
    pool_from_run(protocol=analysis_file, run=str(pool / "run.json"), frames=sim.folder, out=tmp_path / "again")
    one, two = (json.loads((p / "manifest.json").read_text())["content"]["files"] for p in (pool, tmp_path / "again"))
    assert {n: f for n, f in one.items() if n != "frames.csv"} == {n: f for n, f in two.items() if n != "frames.csv"}


def stated(analysis_file: Path, sim: Simulated, out: Path, **more: Any) -> Path:
    given = {"protocol": analysis_file, "run": str(sim.log), "frames": sim.folder, "offset_s": 7.0, "margin_s": 1.0}
    pool_from_run(**{**given, "out": out, **more})
    return out


def test_the_clock_is_estimated_where_a_run_leaves_its_analysis(
    analysis_file: Path, sim: Simulated, tmp_path: Path
) -> None:
    log = json.loads(sim.log.read_text())
    for entry in log["data"][26:]:
        entry["key"] = f"other-{entry['key']}"
    run = tmp_path / "run.json"
    run.write_text(json.dumps(log))
    pool_from_run(protocol=analysis_file, run=str(run), frames=sim.folder, out=tmp_path / "pool")
    clock = json.loads((tmp_path / "pool" / "manifest.json").read_text())["content"]["params"]["clock"]
    assert abs(clock["offset_s"] - 7.0) <= clock["uncertainty_s"] <= 3.0
    phases = Counter(row["phase"] for row in rows_of(tmp_path / "pool" / "run.csv"))
    assert phases["left"] and phases["after"]


def test_a_run_of_another_protocol_is_refused_for_what_it_is(
    analysis_file: Path, sim: Simulated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = json.loads(sim.log.read_text())
    at = next(number for number, one in enumerate(log["data"]) if one["commandType"] == "loadLabware")
    log["data"][at]["params"]["loadName"] = "corning_384_wellplate_112ul_flat"
    run = tmp_path / "run.json"
    run.write_text(json.dumps(log))
    for offset in (None, 7.0):
        with pytest.raises(InputError, match=f"the run is not of this protocol: command {at}"):
            pool_from_run(
                protocol=analysis_file, run=str(run), frames=sim.folder, out=tmp_path / "pool", offset_s=offset
            )
    with pytest.raises(InputError, match="a protocol's analysis, not the log of a run"):
        pool_from_run(protocol=analysis_file, run=str(analysis_file), frames=sim.folder, out=tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


def test_labels_of_a_lab(analysis_file: Path, sim: Simulated, tmp_path: Path) -> None:
    first = stated(analysis_file, sim, tmp_path / "first")
    rows = rows_of(first / "checks.csv")
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "frame,check,verdict,anomaly,region\n"
        f'{rows[0]["frame"]},"{rows[0]["check"]}",normal,,\n'
        f'{rows[1]["frame"]},"{rows[1]["check"]}",anomaly,missing,0.1 0.1 0.4 0.4\n'
    )
    done = rows_of(stated(analysis_file, sim, tmp_path / "second", labels=labels) / "checks.csv")
    assert Counter(row["verdict"] for row in done) == {"unknown": len(rows) - 2, "normal": 1, "anomaly": 1}
    assert next(row for row in done if row["verdict"] == "anomaly")["region"] == "0.100000 0.100000 0.400000 0.400000"
    labels.write_text(f"frame,check,verdict\n{rows[0]['frame']},Is it raining?,normal\n")
    with pytest.raises(InputError, match=r"labels.csv:2: 1 labels fit no check .*raining"):
        stated(analysis_file, sim, tmp_path / "third", labels=labels)
    assert not (tmp_path / "third").exists()


def test_labels_of_another_expectation_are_refused(analysis_file: Path, sim: Simulated, tmp_path: Path) -> None:
    first = stated(analysis_file, sim, tmp_path / "first")
    rows = rows_of(first / "checks.csv")
    rows[0]["verdict"], rows[1]["verdict"] = "normal", "anomaly"
    labels = tmp_path / "labels.csv"

    def again(name: str, **changed: str) -> Counter[str]:
        with labels.open("w", encoding="utf-8", newline="") as table:
            writer = csv.DictWriter(table, list(rows[0]))
            writer.writeheader()
            writer.writerows([{**rows[0], **changed}, *rows[1:]])
        done = stated(analysis_file, sim, tmp_path / name, labels=labels)
        return Counter(row["verdict"] for row in rows_of(done / "checks.csv"))

    assert again("same") == {"unknown": len(rows) - 2, "normal": 1, "anomaly": 1}
    assert again("bare", step="", step_zh="", phase="", expected="", expected_zh="")["normal"] == 1
    for name in ("step", "step_zh", "phase", "expected", "expected_zh"):
        said = name.removesuffix("_zh")
        with pytest.raises(InputError, match=rf"labels.csv:2: the label is of another check: its `{said}` is"):
            again(name, **{name: "pre" if name == "phase" else "Something else."})
    assert again("unlabelled", verdict="unknown", expected="Something else.")["normal"] == 0


def two_racks(folder: Path, *, second: bool = False) -> tuple[Path, Analysis]:
    b = Builder()
    b.add("home")
    racks = [b.rack("4"), b.rack("5")]
    pipette = b.pipette()
    for well in ("A1", "B1"):
        b.at("pickUpTip", pipette, racks[second], well)
        b.add("dropTipInPlace", {"pipetteId": pipette})
    folder.mkdir()
    path = b.write(folder / "analysis.json")
    return path, read_analysis(path)


def test_a_run_that_takes_another_of_two_racks(tmp_path: Path) -> None:
    analysis = two_racks(tmp_path / "first")[1]
    other = two_racks(tmp_path / "second", second=True)[1]
    log = log_of(other)[0]
    for item, command in zip(log["data"], other.commands, strict=True):
        item["result"] = dict(command.result)
    place = tmp_path / "log.json"
    place.write_text(json.dumps(log))
    read = read_run(str(place))
    at = next(n for n, one in enumerate(other.commands) if one.command_type == "pickUpTip")
    found = follow(read, analysis)
    assert found.why == f"command {at}: pickUpTip of another labware than in the analysis"
    assert found.left_at == read.commands[at].start_s and not found.notes
    assert not follow(read, other).notes and follow(read, other).why is None
    assert all(set(item.get("result", {})) <= {"labwareId", "pipetteId"} for item in read.raw)
    results: tuple[Any, ...] = ({"labwareId": {"x": [1]}}, [], None)
    for result in results:
        place.write_text(json.dumps({"data": [{**item, "result": result} for item in log["data"]]}))
        found = follow(read_run(str(place)), analysis)
        assert found.why is None and "does not name 2 of 2 loaded labware" in found.notes[0]


def test_a_run_that_leaves_its_analysis_is_said(
    analysis_file: Path, analysis: Analysis, sim: Simulated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = json.loads(sim.log.read_text())
    at = next(n for n, c in enumerate(log["data"]) if c["commandType"] == "thermocycler/closeLid")
    for entry in log["data"][at:]:
        entry["key"] = f"other-{entry['key']}"
    place = tmp_path / "other.json"
    place.write_text(json.dumps(log))
    out = stated(analysis_file, sim, tmp_path / "pool", run=str(place))
    assert f"the run has left the analysis: command {at}" in capsys.readouterr().err
    left = parse_time(log["data"][at]["startedAt"], "")
    marks = rows_of(out / "run.csv")
    checked = {row["frame"] for row in rows_of(out / "checks.csv")}
    late = [row for row in marks if float(row["time_s"]) + 7.0 + 1.0 >= left]
    assert late and {row["phase"] for row in late} == {"left"}
    assert not checked & {row["frame"] for row in late}


def test_another_protocol_is_refused(analysis: Analysis, sim: Simulated, tmp_path: Path) -> None:
    b = Builder()
    b.rack("1")
    other = b.write(tmp_path / "other.json")
    with pytest.raises(InputError, match="the run is not of this protocol"):
        stated(other, sim, tmp_path / "pool")


def test_frames_of_another_zone_are_refused_with_the_zone_that_fits(
    analysis_file: Path, sim: Simulated, tmp_path: Path
) -> None:
    table = tmp_path / "times.csv"
    ahead = START + timedelta(hours=8)
    rows = [f"{name},{ahead + timedelta(seconds=at):%Y-%m-%dT%H:%M:%S.%f}" for name, at in sim.times.items()]
    table.write_text("frame,time\n" + "\n".join(rows) + "\n")
    given = {"times_csv": table, "offset_s": None, "margin_s": None}
    with pytest.raises(InputError, match=r"UTC \(assumed\)[\s\S]*\+08:00 would fit"):
        stated(analysis_file, sim, tmp_path / "pool", **given)
    out = stated(analysis_file, sim, tmp_path / "pool", **given, zone="+08:00")
    clock = json.loads((out / "manifest.json").read_text())["content"]["params"]["clock"]
    assert abs(clock["offset_s"]) <= clock["uncertainty_s"]
    moment = datetime(2026, 11, 30, 18, tzinfo=parse_zone("Asia/Shanghai"))
    assert moment == datetime(2026, 11, 30, 18, tzinfo=parse_zone("+08:00"))
    with pytest.raises(InputError, match="is no time zone"):
        parse_zone("Mars/Olympus")


def test_frames_that_do_not_tell_are_not_guessed(analysis_file: Path, sim: Simulated, tmp_path: Path) -> None:
    same = next(iter(sorted(sim.folder.iterdir()))).read_bytes()
    for name in sim.times:
        (tmp_path / "frames").mkdir(exist_ok=True)
        (tmp_path / "frames" / name).write_bytes(same)
    with pytest.raises(InputError, match="--offset"):
        stated(analysis_file, sim, tmp_path / "pool", frames=tmp_path / "frames", offset_s=None)
    few = tmp_path / "few"
    few.mkdir()
    for name in list(sim.times)[40:45]:
        (few / name).write_bytes(same)
    with pytest.raises(InputError, match="too few"):
        stated(analysis_file, sim, tmp_path / "pool", frames=few, offset_s=None)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda log: {"meta": log["meta"]}, "no list of commands"),
        (lambda log: {**log, "data": log["data"][:5]}, "holds 5 of"),
        (lambda log: {"commands": {**log, "data": log["data"][:5]}}, "holds 5 of"),
        (lambda log: {"data": {"commands": {**log, "data": log["data"][:5]}}}, "holds 5 of"),
        (lambda log: {"commands": log["data"][:5], "meta": log["meta"]}, "holds 5 of"),
        (lambda log: {"data": [{"id": 3}]}, "entry 0 is no command"),
        (lambda log: {"data": []}, "no commands"),
        (lambda log: [dict(log["data"][0], startedAt="yesterday")], "no ISO time|not an ISO time"),
        (lambda log: [dict(log["data"][0], startedAt="2026-11-30T10:00:00")], "no zone"),
        (lambda log: [dict(log["data"][0], completedAt="2020-01-01T10:00:00+00:00")], "backwards"),
        (lambda log: [dict(log["data"][0], startedAt=None)], "no command of the run has started"),
        (lambda log: [1, 2], "entry 0|no list"),
        (lambda log: [dict(log["data"][0], params={"z": math.nan})], "command 0.*not finite"),
        (lambda log: [log["data"][0], dict(log["data"][1], params={"z": 10**400})], "command 1.*too large"),
        (lambda log: [dict(log["data"][0], key="\ud800")], "command 0.*surrogate"),
    ],
)
def test_broken_run_logs(change: Any, text: str, sim: Simulated, tmp_path: Path) -> None:
    place = tmp_path / "log.json"
    place.write_text(json.dumps(change(json.loads(sim.log.read_text()))))
    with pytest.raises(InputError, match=text):
        read_run(str(place))


def test_a_log_in_pages_is_the_log(sim: Simulated, tmp_path: Path) -> None:
    log = json.loads(sim.log.read_text())
    data, total = log["data"], len(log["data"])
    pages = [{"data": data[k : k + 7], "meta": {"cursor": k, "totalLength": total}} for k in range(0, total, 7)]
    place = tmp_path / "pages.json"
    whole = read_run(str(sim.log)).commands
    for value in (pages, pages[::-1], data, {"commands": data}, {"data": {"commands": {"data": data}}}):
        place.write_text(json.dumps(value))
        assert read_run(str(place)).commands == whole


def test_places_in_time(analysis: Analysis, tmp_path: Path) -> None:
    """Every kind of place, by hand: before, during a motion, after it, while waiting, near a boundary."""
    log, spans = log_of(analysis)
    place = tmp_path / "run.json"
    place.write_text(json.dumps(log))
    steps = fold(analysis)
    timeline = Timeline(follow(read_run(str(place)), analysis), steps)
    zero = START.timestamp()
    assert timeline.place(zero - 5, 0.5).phase == "outside"
    assert timeline.place(zero + spans[-1][1] + 5, 0.5).phase == "outside"
    kinds = [command.command_type for command in analysis.commands]
    wait = kinds.index("waitForDuration")
    middle = zero + sum(spans[wait]) / 2
    found = timeline.place(middle, 0.5)
    assert (found.phase, found.step) == ("after", steps[wait])
    assert timeline.place(zero + spans[wait][0] + 0.3, 0.5).phase == "ambiguous"
    lid = kinds.index("thermocycler/closeLid")
    found = timeline.place(zero + sum(spans[lid]) / 2, 0.5)
    assert (found.phase, found.step) == ("ambiguous", steps[lid])
    left = Timeline(replace(follow(read_run(str(place)), analysis), left_at=middle + 1), steps)
    assert left.place(middle + 0.6, 0.5).phase == "left"
    assert left.place(middle, 0.5).phase == "after"


def timeline_of(log: Any, analysis: Analysis, folder: Path) -> tuple[Timeline, tuple[str, ...]]:
    place = folder / "run.json"
    place.write_text(json.dumps(log))
    followed = follow(read_run(str(place)), analysis)
    return Timeline(followed, fold(analysis)), tuple(n for n in followed.notes if "does not name" not in n)


def test_nothing_is_said_of_frames_after_an_unfinished_log(analysis: Analysis, tmp_path: Path) -> None:
    log, spans = log_of(analysis)
    wait = [command.command_type for command in analysis.commands].index("waitForDuration")
    del log["data"][wait]["completedAt"]
    data = log["data"][: wait + 1]
    timeline, notes = timeline_of({"data": data}, analysis, tmp_path)
    assert len(notes) == 1 and f"while command {wait} (waitForDuration) ran" in notes[0]
    begin = START.timestamp() + spans[wait][0]
    for late in (-0.4, 0.0, 1.0, 1000.0):
        found = timeline.place(begin + late, 0.5)
        assert (found.phase, found.step) == ("outside", None), late
    timeline, notes = timeline_of({"data": data[:-1]}, analysis, tmp_path)
    assert timeline.place(begin + 10, 0.5).phase == "outside" and not notes
    with pytest.raises(InputError, match="no command of the run has ended"):
        timeline_of({"data": [dict(data[0], completedAt=None)]}, analysis, tmp_path)


def test_commands_that_are_missing_in_the_log_leave_a_hole(analysis: Analysis, tmp_path: Path) -> None:
    log, spans = log_of(analysis)
    kinds = [command.command_type for command in analysis.commands]
    wait = kinds.index("waitForDuration")
    zero, steps = START.timestamp(), fold(analysis)
    for gone in (range(wait, wait + 1), range(wait - 2, wait + 4)):
        data = [item for number, item in enumerate(log["data"]) if number not in gone]
        timeline, notes = timeline_of({"data": data}, analysis, tmp_path)
        assert (
            len(notes) == 1
            and "missing in the run log before its command" in notes[0]
            and notes[0].startswith(f"{len(gone)} ")
        )
        for number in gone:
            found = timeline.place(zero + sum(spans[number]) / 2, 0.0)
            assert (found.phase, found.step, "missing" in found.why) == ("ambiguous", None, True), number
        later = kinds.index("waitForDuration", wait + 4)
        found = timeline.place(zero + sum(spans[later]) / 2, 0.5)
        assert (found.phase, found.step) == ("after", steps[later])
    queued = [dict(item) for item in log["data"]]
    queued[wait]["startedAt"] = None
    assert len(timeline_of({"data": queued}, analysis, tmp_path)[1]) == 1
    assert timeline_of(log, analysis, tmp_path)[1] == ()
    tail = timeline_of({"data": log["data"][wait:]}, analysis, tmp_path)  # a log may begin within the run
    assert tail[1] == () and tail[0].place(zero + spans[wait][0] - 5, 0.5).phase == "outside"


def test_a_log_with_a_hole_makes_a_pool_and_says_it(
    analysis_file: Path, sim: Simulated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = json.loads(sim.log.read_text())
    data = [item for item in log["data"] if item["commandType"] != "thermocycler/runProfile"]
    (tmp_path / "hole.json").write_text(json.dumps(data))
    out = stated(analysis_file, sim, tmp_path / "pool", run=str(tmp_path / "hole.json"))
    assert "1 command is missing in the run log" in capsys.readouterr().err
    lost = [row for row in rows_of(out / "run.csv") if "missing" in row["why"]]
    assert len(lost) > 5 and {(row["phase"], row["command"]) for row in lost} == {("ambiguous", "")}
    assert not {row["frame"] for row in lost} & {row["frame"] for row in rows_of(out / "checks.csv")}
