"""The synthetic pool: same bytes every time, honest labels, anomalies as the steps have it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deckbench.errors import InputError, OutsideError
from deckbench.pool.synth import draw, sample, scene, synth_pool
from deckbench.pool.synth import geometry as geo
from deckbench.pool.synth.anomalies import in_frame
from deckbench.pool.synth.camera import Camera, area, clip_to_frame, hull
from deckbench.pool.synth.session import FrameScript, list_objects, script_session
from deckbench.pool.synth.stage import Stage
from deckbench.yolo.read import read_pool

SIZE = (352, 198)


def script(seed: int, sessions: int, shifted: bool) -> list[tuple[Stage, FrameScript]]:
    frames = []
    for session in range(sessions):
        stage = Stage(sample.sample_plan(seed, session, 8, SIZE, shifted))
        frames += [(stage, frame) for frame in script_session(stage, seed, shifted)]
    return frames


@pytest.fixture(scope="module")
def scripted() -> list[tuple[Stage, FrameScript]]:
    """576 decided frames, not drawn."""
    return script(7, 72, False)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pool on disk: three sessions, the last one short."""
    out = tmp_path_factory.mktemp("synth") / "pool"
    synth_pool(out, frames=20, size=SIZE, seed=3, workers=1)
    return out


def read_scenes(pool: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (pool / "scenes.jsonl").read_text(encoding="utf-8").splitlines()]


def hashes(pool: Path) -> dict[str, str]:
    files = [p for p in sorted(pool.rglob("*")) if p.is_file() and p.name != "manifest.json"]
    return {p.relative_to(pool).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_bytes_depend_on_the_seed_alone(pool: Path, tmp_path: Path) -> None:
    one = synth_pool(tmp_path / "two-workers", frames=20, size=SIZE, seed=3, workers=2)
    again = synth_pool(tmp_path / "again", frames=20, size=SIZE, seed=3, workers=1)
    assert hashes(pool) == hashes(tmp_path / "two-workers") == hashes(tmp_path / "again")
    assert one.content_hash == again.content_hash
    other = synth_pool(tmp_path / "other", frames=20, size=SIZE, seed=4)
    assert other.content_hash != one.content_hash
    pictures = [n for n in hashes(pool) if n.endswith(".jpg")]
    assert not {hashes(pool)[n] for n in pictures} & {hashes(tmp_path / "other")[n] for n in pictures}


def test_a_longer_pool_begins_with_the_shorter_one(pool: Path, tmp_path: Path) -> None:
    """Whole sessions are the same frames, however many follow."""
    synth_pool(tmp_path / "short", frames=16, size=SIZE, seed=3, workers=1)
    short = hashes(tmp_path / "short")
    assert all(hashes(pool)[name] == short[name] for name in short if name.startswith(("images", "labels")))


def test_pool_layout(pool: Path) -> None:
    data = yaml.safe_load((pool / "dataset.yaml").read_text(encoding="utf-8"))
    assert data["synthetic"] is True and data["train"] == "images"
    assert tuple(data["names"].values()) == scene.CLASSES and list(data["names"]) == list(range(18))
    assert len(set(data["names_zh"].values())) == 18
    with (pool / "frames.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scenes = read_scenes(pool)
    assert [r["frame"] for r in rows] == [s["frame"] for s in scenes]
    assert Counter(r["group"] for r in rows) == {"s00000": 8, "s00001": 8, "s00002": 4}
    for row, truth in zip(rows, scenes, strict=True):
        with Image.open(pool / f"{row['frame']}.jpg") as picture:
            assert picture.size == SIZE and picture.mode == "RGB"
        assert row["step"] == truth["step"] and row["group"] == truth["session"]
        assert row["anomalies"] == ";".join(truth["anomalies"])


def test_pool_synth_into_ultralytics_own_checker(pool: Path) -> None:
    """What the readers of Ultralytics 8.4, supervision, datumaro and FiftyOne ask for."""
    data = yaml.safe_load((pool / "dataset.yaml").read_text(encoding="utf-8"))
    assert {"train", "val", "names"} <= data.keys() and "path" not in data
    assert [path.name for path in pool.rglob("*.y*ml")] == ["dataset.yaml"], "Ultralytics takes a folder with one yaml"
    for part in ("train", "val"):
        assert (pool / data[part]).is_dir() and data[part].split("/")[-1] == "images"
    assert (pool / "obj.names").read_text(encoding="utf-8").splitlines() == list(data["names"].values())
    assert all(len(line.split()) == 5 for path in (pool / "labels").iterdir() for line in path.open())
    assert read_pool(pool).notices == ()


@pytest.mark.parametrize("reader", ["ultralytics.data.utils", "supervision", "datumaro"])
def test_pool_synth_opens_in_other_tools(pool: Path, reader: str) -> None:
    tool = pytest.importorskip(reader)
    boxes = sum(len(frame.boxes) for frame in read_pool(pool).frames)
    if reader == "supervision":
        places = {"images_directory_path": str(pool / "images"), "annotations_directory_path": str(pool / "labels")}
        read = tool.DetectionDataset.from_yolo(**places, data_yaml_path=str(pool / "dataset.yaml"))
        assert sum(len(found) for found in read.annotations.values()) == boxes
    elif reader == "datumaro":
        assert sum(len(item.annotations) for item in tool.Dataset.import_from(str(pool), "yolo")) == boxes
    else:
        assert tool.check_det_dataset(str(pool), autodownload=False)["nc"] == 18


def test_steps_and_times_go_forward(pool: Path) -> None:
    with (pool / "frames.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for before, after in pairwise(rows):
        assert float(before["time_s"]) < float(after["time_s"])
        if before["group"] == after["group"]:
            assert scene.STEPS.index(before["step"]) <= scene.STEPS.index(after["step"])


def test_label_files_say_what_the_sidecar_says(pool: Path) -> None:
    for truth in read_scenes(pool):
        lines = (pool / "labels" / f"{Path(truth['frame']).name}.txt").read_text(encoding="utf-8").splitlines()
        assert len(lines) == len(truth["objects"])
        for line, item in zip(lines, truth["objects"], strict=True):
            number, cx, cy, w, h = line.split()
            assert scene.CLASSES[int(number)] == item["class"]
            x0, y0, x1, y1 = item["box"]
            box = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
            assert np.allclose([float(cx), float(cy), float(w), float(h)], box, atol=2e-6)


def test_boxes_lie_inside_and_around_their_polygons(scripted: list[tuple[Stage, FrameScript]]) -> None:
    for _, frame in scripted:
        for item in frame.objects:
            x0, y0, x1, y1 = item["box"]
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, item
            points = np.array(item["polygon"])
            assert points.min() >= 0 and points.max() <= 1
            assert x0 >= points[:, 0].min() - 1e-4 and x1 <= points[:, 0].max() + 1e-4
            assert y0 >= points[:, 1].min() - 1e-4 and y1 <= points[:, 1].max() + 1e-4
            assert item["area"] == pytest.approx((x1 - x0) * (y1 - y0), abs=1e-6)


def test_every_class_and_anomaly_occurs(scripted: list[tuple[Stage, FrameScript]]) -> None:
    classes = Counter(c for _, f in scripted for c in {o["class"] for o in f.objects})
    assert set(classes) == set(scene.CLASSES)
    kinds: Counter[str] = Counter()
    for _, frame in scripted:
        kinds.update(
            {a if a in scene.ALWAYS else a.split("_")[0] for a in frame.scene["anomalies"]} - {"multi", "single"}
        )
        kinds["tips kept"] += any(a.endswith("drop_tips") for a in frame.scene["anomalies"])
    for name in (*scene.ALWAYS, "pcr", "tips kept"):
        assert kinds[name] / len(scripted) >= 0.03, (name, kinds)


def test_half_of_the_frames_are_anomalous_at_every_step(scripted: list[tuple[Stage, FrameScript]]) -> None:
    seen: dict[str, list[bool]] = defaultdict(list)
    for _, frame in scripted:
        seen[frame.scene["step"]].append(bool(frame.scene["anomalies"]))
    assert set(seen) == set(scene.STEPS)
    for step, answers in seen.items():
        assert len(answers) > 60 and 0.4 <= np.mean(answers) <= 0.6, step


def test_anomalies_are_what_classes_and_step_imply(scripted: list[tuple[Stage, FrameScript]]) -> None:
    for _, frame in scripted:
        step, classes = frame.scene["step"], {o["class"] for o in frame.objects}
        implied = {c for c in classes if c in scene.ALWAYS}
        implied |= {f"{c}@{step}" for c in classes if step in scene.AT_STEP.get(c, ())}
        assert set(frame.scene["anomalies"]) == implied and len(frame.scene["anomalies"]) == len(implied)


def test_the_same_lid_is_right_at_one_step_and_wrong_at_another(scripted: list[tuple[Stage, FrameScript]]) -> None:
    seen = Counter((f.scene["step"], f.scene["slots"]["7"]["state"]) for _, f in scripted)
    for step in scene.STEPS:
        for state in ("open", "closed"):
            assert seen[step, state] >= 10, (step, state)


def test_a_damaged_tip_is_as_small_as_in_the_labs_pictures(scripted: list[tuple[Stage, FrameScript]]) -> None:
    sizes = [o["area"] for _, f in scripted for o in f.objects if o["class"] == "damaged_tip"]
    assert len(sizes) > 12
    assert min(sizes) >= 0.0002 and max(sizes) <= 0.003


def test_a_tip_cut_by_the_edge_is_not_called_missing_or_damaged(scripted: list[tuple[Stage, FrameScript]]) -> None:
    cut = 0
    for stage, frame in scripted:
        hand = frame.truth.hand
        if hand is None:
            continue
        for shape, told in zip(stage.tip_shapes(hand), frame.scene["pipette"]["tips"], strict=True):
            share = in_frame(shape.outline, SIZE)
            assert (told["box"] is None) == (share < 0.5) or share == pytest.approx(0.5, abs=0.02)
            if shape.tip.state != "straight":
                assert share > 0.85
            cut += share < 0.9
    assert cut > 0, "the rule was never put to the test"


def test_tips_and_their_classes(scripted: list[tuple[Stage, FrameScript]]) -> None:
    for _, frame in scripted:
        pipette = frame.scene["pipette"]
        classes = Counter(o["class"] for o in frame.objects)
        assert len(pipette["tips"]) in (0, pipette["channels"])
        whole, other = "multi_channel_tip", "single_channel_tip"
        if pipette["channels"] == 1:
            whole, other = other, whole
            assert classes["missing_tip"] == 0
        states = Counter(t["state"] for t in pipette["tips"] if t["box"])
        assert classes[whole] == states["straight"] and classes[other] == 0
        assert classes["damaged_tip"] == states["bent"] and classes["missing_tip"] == states["missing"]
        if pipette["over"] == "parked":
            assert not pipette["tips"]


def test_every_slot_is_in_the_sidecar_with_known_words(scripted: list[tuple[Stage, FrameScript]]) -> None:
    states = {
        "magnetic module": {"seated"}, "temperature module": {"seated"}, "tip rack": {"full", "used", "holes"},
        "white plate": {"seated", "tilted"}, "square plate": {"seated", "tilted"}, "tube rack": {"seated"},
        "reservoir": {"seated"}, "thermocycler": {"open", "closed"}, "trash bin": {"clear", "heaped"},
        "empty slot": {"bare"},
    }  # fmt: skip
    for _, frame in scripted:
        slots = frame.scene["slots"]
        assert list(slots) == [str(n) for n in range(1, 13)]
        for entry in slots.values():
            for item in (entry, entry["on"]):
                assert item is None or item["state"] in states[item["kind"]]
        assert slots["7"] == slots["8"] == slots["10"] == slots["11"] and slots["7"]["kind"] == "thermocycler"
        assert slots["12"]["kind"] == "trash bin"
        bare = {n for n, entry in slots.items() if entry["kind"] == "empty slot"} - {"9"}
        told = {str(o["slot"]) for o in frame.objects if o["class"] == "labware_missing"}
        assert bare <= told, "only slot 9 may be empty by plan"


def test_rack_gaps_are_off_the_used_columns(scripted: list[tuple[Stage, FrameScript]]) -> None:
    gaps = 0
    for _, frame in scripted:
        for station in frame.truth.stations:
            if station.base is not None and station.base.kind == "tip rack":
                used, holes = station.base.detail
                assert (station.base.state == "holes") == bool(holes)
                assert not holes or min(c for c, _ in holes) > used
                gaps += bool(holes)
                assert not holes or len(holes) >= 4
    assert gaps > 10


def test_shifted_frames_have_other_poses_lights_and_things() -> None:
    usual = [sample.sample_plan(5, n, 8, SIZE, False) for n in range(60)]
    shifted = [sample.sample_plan(5, n, 8, SIZE, True) for n in range(60)]

    def spread(plans: list[scene.Plan], axis: int) -> tuple[float, float]:
        values = [p.camera.place[axis] for p in plans]
        return min(values), max(values)

    assert spread(shifted, 2)[0] > spread(usual, 2)[1]
    assert all(not spread(usual, 1)[0] <= p.camera.place[1] <= spread(usual, 1)[1] for p in shifted)
    warmth = [abs(p.look.tint[0] - 1) for p in usual]
    assert min(abs(p.look.tint[0] - 1) for p in shifted) > max(warmth)

    def models(plans: list[scene.Plan]) -> set[str]:
        items = [i for p in plans for s in p.stations if s.slot != 12 for i in (s.base, s.on) if i is not None]
        return {i.model[0] for i in items if "module" not in i.kind and i.kind != "thermocycler"}

    assert not models(usual) & models(shifted)
    frames = script(5, 25, True)
    assert {o["class"] for _, f in frames for o in f.objects} == set(scene.CLASSES)


def test_sessions_differ_and_frames_of_one_are_alike(pool: Path) -> None:
    grey: dict[str, list[Any]] = defaultdict(list)
    for truth in read_scenes(pool):
        with Image.open(pool / f"{truth['frame']}.jpg") as picture:
            grey[truth["session"]].append(np.asarray(picture.convert("L").resize((44, 25)), dtype=float))
    within = [np.abs(a - b).mean() for group in grey.values() for a, b in pairwise(group)]
    names = sorted(grey)
    between = [np.abs(a - b).mean() for n, m in pairwise(names) for a in grey[n] for b in grey[m]]
    assert np.median(within) < min(between)


def test_a_missing_tip_has_the_box_of_a_present_one() -> None:
    for session in range(30):
        stage = Stage(sample.sample_plan(2, session, 8, SIZE, False))
        if stage.plan.channels == 8:
            break
    truth = next(iter(script_session(stage, 2, False))).truth
    hand = scene.Hand((196.0, 130.0, 90.0), "slot 5", (scene.Tip("straight"),) * 8)
    gone = scene.Hand(hand.place, hand.over, (*hand.tips[:3], scene.Tip("missing"), *hand.tips[4:]))
    boxes = []
    for there in (hand, gone):
        made = scene.Truth("transfer", 0.0, truth.stations, there, (), (), 1.0, None)
        boxes.append(list_objects(stage, made)[1][3]["box"])
    assert boxes[0] == boxes[1] is not None


def test_what_hides_is_drawn_last() -> None:
    """The id picture agrees with the distance: a tip rack in slot 4 hides the foot of what stands in slot 5."""
    stage = Stage(sample.sample_plan(1, 0, 8, SIZE, False))
    assert stage.order.index(6) < stage.order.index(5) < stage.order.index(4)
    assert stage.order.index(12) < stage.order.index(7)
    ids = stage.id_picture(stage.plan.stations, None)
    assert {draw.base_ident(s) for s in (4, 5, 6, 7, 12)} <= set(np.unique(ids).tolist())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"frames": 0}, "--frames"),
        ({"frames": -3}, "--frames"),
        ({"size": (100, 90)}, "160x90"),
        ({"size": (704, 20)}, "160x90"),
        ({"size": (9000, 5000)}, "4096"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "workers"),
        ({"frames_per_session": 0}, "frames_per_session"),
        ({"emphasis": {"flood": 2.0}}, "no kind of anomaly"),
        ({"emphasis": {"spill": -1.0}}, "at least 0"),
        ({"emphasis": {"spill": float("nan")}}, "at least 0"),
    ],
)
def test_silly_requests_are_refused_and_leave_nothing(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        synth_pool(tmp_path / "pool", **{"frames": 4, "size": SIZE, **change})
    assert list(tmp_path.iterdir()) == []


def test_an_emphasis_changes_which_anomalies_there_are_and_not_how_many() -> None:
    def kinds(emphasis: tuple[tuple[str, float], ...]) -> list[set[str]]:
        found = []
        for session in range(12):
            plan = replace(sample.sample_plan(3, session, 8, SIZE, False), emphasis=emphasis)
            found += [set(made.scene["anomalies"]) for made in script_session(Stage(plan), 3, False)]
        return found

    usual, wet = kinds(()), kinds((("damaged_tip", 0.0), ("spill", 50.0)))
    assert sum(map(bool, usual)) == pytest.approx(sum(map(bool, wet)), abs=4)
    assert not any("damaged_tip" in found for found in wet)
    assert sum("spill" in found for found in wet) > 3 * sum("spill" in found for found in usual) > 0


def killed(job: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_ends_the_run_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deckbench.pool.synth.write.render_session", killed)
    with pytest.raises(OutsideError, match="a worker process died"):
        synth_pool(tmp_path / "pool", frames=24, workers=2)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_output_is_refused(pool: Path) -> None:
    before = hashes(pool)
    with pytest.raises(InputError, match="already holds"):
        synth_pool(pool, frames=1, size=SIZE)
    assert hashes(pool) == before


@pytest.mark.parametrize("size", [(160, 90), (200, 400), (1200, 300)])
def test_other_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    synth_pool(tmp_path / "pool", frames=2, size=size, workers=1)
    for truth in read_scenes(tmp_path / "pool"):
        with Image.open(tmp_path / "pool" / f"{truth['frame']}.jpg") as picture:
            assert picture.size == size


def test_sizes_come_from_the_vendors_definitions() -> None:
    rack = geo.load_labware("opentrons_96_tiprack_300ul", 1)
    assert len(rack.wells) == 96 and rack.size[0] == pytest.approx(127.76)
    assert geo.slot_corner(5) == (132.5, 90.5) and geo.slot_size() == (128.0, 86.0)
    nozzles = geo.nozzles(8)
    assert np.allclose(np.diff(nozzles), -geo.NOZZLE_PITCH)
    assert geo.load_labware("nest_96_wellplate_2ml_deep", 5).round is False


points = st.lists(st.tuples(st.floats(-300, 600), st.floats(-300, 600)), min_size=3, max_size=12)


@given(points)
def test_a_hull_cut_to_the_frame_is_inside_and_no_larger(cloud: list[tuple[float, float]]) -> None:
    shape = hull(np.array(cloud))
    cut = clip_to_frame(shape, 200, 100) if len(shape) >= 3 else np.zeros((0, 2))
    if len(cut):
        assert cut.min() >= 0 and cut[:, 0].max() <= 200 and cut[:, 1].max() <= 100
    assert area(cut) <= area(shape) + 1e-6


@given(st.floats(-100, 400), st.floats(-50, 450), st.floats(0, 200))
def test_the_pictures_left_is_the_robots_back(x: float, y: float, z: float) -> None:
    camera = Camera((-350.0, 180.0, 570.0), (170.0, 205.0, 35.0), 0.0, 52.0, (704, 396))
    here, back, up = camera.project(np.array([(x, y, z), (x, y + 10, z), (x, y, z + 10)]))
    assert back[0] < here[0] and up[1] < here[1]
