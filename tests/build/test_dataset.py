"""Whole datasets from a hand-made pool: files, tables, pictures, and the same bytes whatever the workers."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from deckbench import artifact
from deckbench.build.dataset import build_dataset
from deckbench.build.pictures import PLAIN_COLOUR
from deckbench.build.rows import COLUMNS
from deckbench.dataset import read_samples
from deckbench.errors import InputError
from deckbench.grade import options_of
from deckbench.parse import parse_scene
from tests.build.build_helpers import NAMES, SCENES, SIZE, WRONG, picture, write_pool

TASKS = {"S1": "ot2-concept@1", "S2": "ot2-guided@1", "S3": "ot2-scene@1"}


def table(dataset: Path) -> pd.DataFrame:
    return pd.read_csv(dataset / "samples.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="session")
def built(hand_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stage -> dataset."""
    folder = tmp_path_factory.mktemp("built")
    for stage, task in TASKS.items():
        build_dataset(task, pool=hand_pool, out=folder / stage, split="pool", seed=5, workers=1)
    return {stage: folder / stage for stage in TASKS}


@pytest.mark.parametrize("stage", TASKS)
def test_tables_and_files_agree(built: dict[str, Path], stage: str) -> None:
    rows = table(built[stage])
    assert tuple(rows.columns) == COLUMNS
    assert rows["id"].is_unique
    assert {f"images/{path.name}" for path in (built[stage] / "images").iterdir()} == set(rows["image"])
    assert all(re.fullmatch(r"images/[A-Za-z0-9_.-]+", name) for name in rows["image"])
    for split in ("train", "val", "test"):
        samples = read_samples(built[stage], split)
        part = rows[rows["split"] == split]
        assert [sample.id for sample in samples] == list(part["id"])
        assert [sample.answer for sample in samples] == list(part["answer"])
        line = json.loads((built[stage] / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[0])
        assert list(line) == [
            "messages", "id", "pair_id", "frame", "group", "task", "stage", "kind", "option_a", "option_b", "anomaly",
            "class", "step",
        ]  # fmt: skip
    assert not set(rows[rows["split"] == "train"]["group"]) & set(rows[rows["split"] != "train"]["group"])


@pytest.mark.parametrize("stage", TASKS)
def test_choices(built: dict[str, Path], stage: str) -> None:
    rows = table(built[stage])
    choices = rows[rows["kind"] == "choice"]
    assert set(choices["gold"]) == {"A", "B"}
    assert (choices["gold"] == choices["answer"]).all()
    for _, row in choices.iterrows():
        assert options_of(row["question"]) == (row["option_a"], row["option_b"])
        assert row["question"].endswith("\nAnswer with A or B only.")
    for split, part in choices.groupby("split"):
        assert Counter(part["gold"])["A"] == Counter(part["gold"])["B"]
        assert part.groupby("question")["gold"].agg(lambda gold: (gold == "A").mean()).eq(0.5).all()
        pairs = part.groupby("pair_id")
        assert (pairs.size() == (1 if split == "train" else 2)).all()
        if split != "train":
            assert (pairs["gold"].nunique() == 2).all()  # the right answer moves with its option


def test_verdicts_match_the_pool(built: dict[str, Path]) -> None:
    wrong = {f"images/s{s:02d}f{n}": bool(WRONG[n]) for s in range(10) for n in range(len(SCENES))}
    rows = table(built["S3"])
    assert (rows["anomaly"] == rows["frame"].map(wrong).map({True: "true", False: "false"})).all()
    scenes = rows[rows["kind"] == "scene"]
    assert (scenes["answer"].map(parse_scene) == (scenes["gold"] == "anomaly")).all()
    choices = rows[rows["kind"] == "choice"]
    yes = choices.apply(lambda row: row["option_a" if row["gold"] == "A" else "option_b"] == "yes", axis=1)
    assert (yes == (choices["anomaly"] == "true")).all()
    assert choices["question"].str.startswith("Protocol step: ").all()


def test_scene_text_says_what_the_labels_say(built: dict[str, Path]) -> None:
    rows = table(built["S3"])
    text = rows[(rows["kind"] == "scene") & rows["frame"].str.endswith("f3")]["answer"].iloc[0]
    assert text == ("thermocycler: open. plate: tilted. Wrong: open PCR lid, crooked plate. Verdict: anomaly.")
    assert rows[rows["kind"] == "scene"]["answer"].map(lambda text: len(text.split())).max() < 60


def test_whole_frames_are_copied_byte_by_byte(built: dict[str, Path], hand_pool: Path) -> None:
    for _, row in table(built["S3"]).drop_duplicates("image").iterrows():
        assert (built["S3"] / row["image"]).read_bytes() == (hand_pool / f"{row['frame']}.jpg").read_bytes()


def test_boxes_are_drawn_alike_around_the_object(built: dict[str, Path], hand_pool: Path) -> None:
    import numpy as np

    rows = table(built["S2"])
    rows = rows[rows["question_type"] == "verdict"].drop_duplicates("image")
    assert {"true", "false"} <= set(rows["anomaly"])
    for _, row in rows.iterrows():
        drawn = np.asarray(Image.open(built["S2"] / row["image"]).convert("RGB")).astype(int)
        plain = np.asarray(Image.open(hand_pool / f"{row['frame']}.jpg").convert("RGB")).astype(int)
        x0, y0, x1, y1 = (int(float(side)) for side in row["box"].split())
        assert 0 <= x0 < x1 < SIZE[0] and 0 <= y0 < y1 < SIZE[1]
        for line in (drawn[y0, x0 : x1 + 1], drawn[y1, x0 : x1 + 1], drawn[y0 : y1 + 1, x0], drawn[y0 : y1 + 1, x1]):
            assert np.abs(line.mean(axis=0) - PLAIN_COLOUR).max() < 80  # JPEG smears a thin line's colour
        inside = np.abs(drawn - plain)[y0 + 6 : y1 - 5, x0 + 6 : x1 - 5]
        assert inside.size == 0 or inside.mean() < 12
        label = next(
            (cx, cy)
            for name, cx, cy, _, _ in (*SCENES[int(row["frame"][-1])][1], ("", *_spill()))
            if name == row["class"]
        )
        assert x0 < label[0] * SIZE[0] < x1
        assert y0 < label[1] * SIZE[1] < y1


def _spill() -> tuple[float, float, float, float]:
    return next(label[1:] for _, labels in SCENES for label in labels if label[0] == "spill")


def test_crops_hold_their_object(built: dict[str, Path]) -> None:
    for _, row in table(built["S1"]).drop_duplicates("image").iterrows():
        with Image.open(built["S1"] / row["image"]) as image:
            assert image.size == (int(row["width"]), int(row["height"]))
            x0, y0, x1, y1 = (float(side) for side in row["box"].split())
            assert 0 <= x0 < x1 <= image.width
            assert 0 <= y0 < y1 <= image.height


def test_workers_do_not_change_a_byte_and_the_seed_does(
    built: dict[str, Path], hand_pool: Path, tmp_path: Path
) -> None:
    again = build_dataset("ot2-guided@1", pool=hand_pool, out=tmp_path / "a", split="pool", seed=5, workers=2)
    other = build_dataset("ot2-guided@1", pool=hand_pool, out=tmp_path / "b", split="pool", seed=6, workers=1)
    first = artifact.read(built["S2"], "dataset")
    assert again.content_hash == first.content_hash
    assert other.content_hash != first.content_hash
    assert again.observed["workers"] == 2


def test_both_languages(hand_pool: Path, tmp_path: Path) -> None:
    build_dataset("ot2-scene@1", pool=hand_pool, out=tmp_path / "s3", split="pool", lang="both", workers=1)
    rows = table(tmp_path / "s3")
    assert rows["id"].is_unique
    english, chinese = (rows[rows["lang"] == lang] for lang in ("en", "zh"))
    assert len(english) == len(chinese)
    assert chinese["question"].str.startswith("实验步骤:").all()
    said = chinese[chinese["kind"] == "scene"]
    assert (said["answer"].map(parse_scene) == (said["gold"] == "anomaly")).all()
    assert chinese[chinese["kind"] == "choice"]["question"].str.endswith("\n只回答 A 或 B。").all()


def test_the_source_labs_style_leaks_the_answer_as_it_did(hand_pool: Path, tmp_path: Path) -> None:
    build_dataset(
        "ot2-guided@1",
        pool=hand_pool,
        out=tmp_path / "s2",
        split="pool",
        workers=1,
        options={"box_style": "source-lab"},
    )
    rows = table(tmp_path / "s2")
    rows = rows[rows["question_type"] == "verdict"].drop_duplicates("image")
    assert rows["task"].str.match(r"ot2-guided@1\+[0-9a-f]{8}$").all()
    for _, row in rows.iterrows():
        x0, y0, _, _ = (int(float(side)) for side in row["box"].split())
        red, green, _ = Image.open(tmp_path / "s2" / row["image"]).convert("RGB").getpixel((x0, y0))
        assert (red > green) == (row["anomaly"] == "true")


def test_limits_and_training_only_noise(hand_pool: Path, tmp_path: Path) -> None:
    manifest = build_dataset(
        "ot2-concept@1", pool=hand_pool, out=tmp_path / "s1", split="pool", workers=1, max_train=40, max_test=20,
        options={"rotate_degrees": 10, "speckle": 0.1},
    )  # fmt: skip
    counts = {split: sum(kinds.values()) for split, kinds in manifest.content["params"]["counts"].items()}
    assert 0 < counts["train"] <= 40
    assert 0 < counts["test"] <= 20
    plain = build_dataset("ot2-concept@1", pool=hand_pool, out=tmp_path / "plain", split="pool", workers=1, max_test=20)
    files = {name: entry["sha256"] for name, entry in plain.content["files"].items()}
    rows = table(tmp_path / "s1")
    changed = {
        row["image"]: manifest.content["files"][row["image"]]["sha256"] != files.get(row["image"])
        for _, row in rows.iterrows()
    }
    for _, row in rows.iterrows():
        if row["image"] in files:
            assert changed[row["image"]] == (row["split"] == "train")


def test_what_is_left_out_is_listed_and_counted(built: dict[str, Path]) -> None:
    left = pd.read_csv(built["S2"] / "left_out.csv", keep_default_na=False)
    assert {"reason", "split", "what", "count", "examples"} == set(left.columns)
    assert left["count"].sum() == artifact.read(built["S2"]).content["params"]["left_out"]["samples"]
    assert (left["reason"] == "normal without a counterpart").any()


def test_odd_names_and_turned_frames(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", sessions=5)
    for path in list((pool / "images").iterdir()):
        if path.stem == "s00f0":
            target = path.with_name("Bild ä 中 (1).jpg")
            image = Image.open(path)
            exif = Image.Exif()
            exif[0x0112] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(target, exif=exif, quality=90)
            path.unlink()
            (pool / "labels" / "s00f0.txt").rename(pool / "labels" / f"{target.stem}.txt")
            for name in ("frames.csv", "train.txt"):
                text = (pool / name).read_text(encoding="utf-8")
                (pool / name).write_text(text.replace("images/s00f0", f"images/{target.stem}"), encoding="utf-8")
    build_dataset("ot2-scene@1", pool=pool, out=tmp_path / "s3", split="test-only", workers=1)
    rows = table(tmp_path / "s3")
    turned = rows[rows["frame"].str.contains("Bild")]
    assert len(turned)
    name = turned["image"].iloc[0]
    assert re.fullmatch(r"images/s3-Bild-1-[0-9a-f]{10}\.jpg", name)
    with Image.open(tmp_path / "s3" / name) as image:
        assert image.size == SIZE
        assert image.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    "more,expected",
    [
        ({"task": "ot2-missing@1"}, "there is no task"),
        ({"task": "ot2-scene@7"}, "has no version 7"),
        ({"lang": "de"}, "the language 'de'"),
        ({"split": "random"}, "random"),
        ({"split": "blocks=1"}, "blocks"),
        ({"workers": 0}, "0 workers"),
        ({"options": {"nonsense": 1}}, "nonsense: unknown field"),
        ({"options": {"kind_share": 2}}, "kind_share"),
        ({"max_test": -1}, "max_test"),
        ({"ontology": "deck-yolo"}, "lacks the pool's classes 'trash_bin'"),
        ({"ontology": "absent.yaml"}, "no such ontology"),
        ({"qa": Path("absent")}, "no such question bank"),
        ({"pool": Path("absent")}, "absent"),
    ],
)
def test_bad_requests_write_nothing(hand_pool: Path, tmp_path: Path, more: dict[str, Any], expected: str) -> None:
    request: dict[str, Any] = {"task": "ot2-guided@1", "pool": hand_pool, "split": "pool", "workers": 1, **more}
    with pytest.raises(InputError, match=expected) as caught:
        build_dataset(request.pop("task"), out=tmp_path / "out", **request)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_taken_output_is_left_alone(hand_pool: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        build_dataset("ot2-guided@1", pool=hand_pool, out=tmp_path / "out", split="pool")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_pool_that_gives_nothing_is_refused_with_reasons(tmp_path: Path) -> None:
    normal = [("setup", (("trash_bin", 0.2, 0.2, 0.2, 0.2),))] * 2
    pool = write_pool(tmp_path / "pool", sessions=5, scenes=normal, wrong=("", ""))
    with pytest.raises(InputError, match=r"no sample for ot2-scene@1 .*normal without a counterpart"):
        build_dataset("ot2-scene@1", pool=pool, out=tmp_path / "out", split="test-only")
    assert not (tmp_path / "out").exists()


def test_a_broken_frame_stops_the_build_unless_skipped(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", sessions=5)
    (pool / "images" / "s00f0.jpg").write_bytes(b"not a picture")
    with pytest.raises(InputError, match="s00f0"):
        build_dataset("ot2-scene@1", pool=pool, out=tmp_path / "out", split="test-only")
    assert not (tmp_path / "out").exists()
    manifest = build_dataset(
        "ot2-scene@1", pool=pool, out=tmp_path / "out", split="test-only", skip_bad=True, workers=1
    )
    assert manifest.content["params"]["left_out"]["frames"] == 1
    assert "s00f0" in (tmp_path / "out" / "left_out.csv").read_text(encoding="utf-8")


def test_a_frame_that_breaks_after_reading_leaves_no_trace(
    hand_pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deckbench.build import pictures

    def fail(path: Path) -> Image.Image:
        raise InputError("damaged", path, "replace it")

    monkeypatch.setattr(pictures, "open_picture", fail)
    with pytest.raises(InputError, match="damaged"):
        build_dataset("ot2-guided@1", pool=hand_pool, out=tmp_path / "out", split="pool", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_an_own_bank_from_csv(hand_pool: Path, tmp_path: Path) -> None:
    (tmp_path / "bank.csv").write_text(
        "id,kind,about,ask_en,ask_zh,normal_en,normal_zh,anomaly_en,anomaly_zh\n"
        "mine,choice,verdict,All fine?,都好吗?,fine,好,broken,坏\n",
        encoding="utf-8",
    )
    build_dataset(
        "ot2-scene@1", pool=hand_pool, out=tmp_path / "out", split="pool", qa=tmp_path / "bank.csv", workers=1
    )
    rows = table(tmp_path / "out")
    assert set(rows["option_a"]) == {"fine", "broken"}
    assert rows["task"].str.startswith("ot2-scene@1+").all()


def test_the_pool_may_use_only_some_classes(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", sessions=5, names=(*NAMES, "zebra"))
    picture(pool / "images" / "extra.jpg", 9999)
    (pool / "labels" / "extra.txt").write_text("")
    build_dataset("ot2-scene@1", pool=pool, out=tmp_path / "out", split="test-only", workers=1)


def test_turned_crops_stay_in_place(tmp_path: Path) -> None:
    """The crop's centre keeps its content, and a crop at the frame's corner has no black there."""
    from deckbench.build.pictures import Picture, _crop

    frame = Image.new("RGB", (100, 80), (200, 200, 200))
    frame.paste((0, 0, 255), (45, 35, 55, 45))
    turned = _crop(frame, Picture("x.jpg", 40, 30, crop=(30, 25, 70, 55), turn=20.0))
    assert turned.size == (40, 30)
    assert turned.getpixel((20, 15)) == (0, 0, 255)
    corner = _crop(frame, Picture("x.jpg", 40, 30, crop=(0, 0, 40, 30), turn=20.0))
    assert min(min(corner.getpixel((x, y))) for x in range(40) for y in range(30)) > 100  # grey, not black
