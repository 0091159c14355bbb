"""Recovering frames and groups: right where it can be known, silent where it cannot."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from deckbench.build.importing.recover import Match, Old, names_of, recover
from deckbench.build.importing.text import Pair, question_pairs
from deckbench.yolo.frame import Box, Frame, Pool

SIZE = (320, 180)
GROUPS = {"g/frame_0": "one", "g/frame_1": "one", "h/frame_0": "two"}
LABEL = (0.30, 0.30, 0.45, 0.60)


def deck(seed: int, arm: int | None) -> Image.Image:
    """A still scene of one camera; the arm moves."""
    rng = random.Random(seed)
    image = Image.frombytes("L", (32, 18), rng.randbytes(32 * 18)).resize(SIZE, Image.Resampling.BICUBIC).convert("RGB")
    if arm is not None:
        ImageDraw.Draw(image).rectangle((arm, 20, arm + 60, 110), fill=(40, 90, 160))
    return image


def box(cls: str, x0: float, y0: float, x1: float, y1: float) -> Box:
    return Box(0, cls, x0, y0, x1, y1, None, 1)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Two frames of one still camera that differ by the arm, and one of another session."""
    frames = []
    for key, image in (("g/frame_0", deck(1, 120)), ("g/frame_1", deck(1, 220)), ("h/frame_0", deck(2, None))):
        path = tmp_path / f"{key}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
        labels = (box("bin", *LABEL), box("corner", 0.0, 0.7, 0.2, 1.0))
        fields: dict[str, Any] = dict(split=None, group=GROUPS[key], time_s=None, step=None, anomalies=None, sha256=key)
        frames.append(Frame(key, path, None, *SIZE, labels, **fields))
    return Pool(tmp_path, "p", ("bin", "corner"), tuple(frames), False, "", ())


def old(path: Path, image: Image.Image, *, crop: bool, quality: int = 75) -> Old:
    image.save(path, quality=quality)
    width, height = image.size
    return Old(path, path.stem, path.stem, width, height, crop, not crop)


def frame(pool: Pool, key: str) -> Image.Image:
    return Image.open(next(f.path for f in pool.frames if f.id == key))


def find(picture: Old, pool: Pool) -> Match | None:
    return recover([picture], pool, GROUPS).get(picture.path)


@pytest.mark.parametrize("key", GROUPS)
@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_a_drawn_box_does_not_hide_the_frame(pool: Pool, tmp_path: Path, key: str, scale: float) -> None:
    image = frame(pool, key).convert("RGB")
    ImageDraw.Draw(image).rectangle((30, 40, 150, 120), outline=(255, 0, 0), width=3)
    image = image.resize((round(SIZE[0] * scale), round(SIZE[1] * scale)))
    match = find(old(tmp_path / "x.jpg", image, crop=False), pool)
    assert match is not None and (match.frame, match.group, match.how) == (key, GROUPS[key], "look")


def test_a_frame_that_is_not_in_the_pool_is_not_found(pool: Pool, tmp_path: Path) -> None:
    assert find(old(tmp_path / "frame_0.jpg", deck(3, 120), crop=False), pool) is None
    assert find(old(tmp_path / "y.jpg", frame(pool, "g/frame_0").crop((0, 0, 180, 180)), crop=False), pool) is None


def test_crops_are_found_with_class_and_box(pool: Pool, tmp_path: Path) -> None:
    match = find(old(tmp_path / "x.jpg", frame(pool, "h/frame_0").crop((90, 48, 152, 116)), crop=True), pool)
    assert match is not None and (match.frame, match.group, match.how, match.cls) == (
        "h/frame_0",
        "two",
        "label",
        "bin",
    )
    assert match.box == pytest.approx((6.0, 6.0, 54.0, 60.0))
    edge = find(old(tmp_path / "y.jpg", frame(pool, "h/frame_0").crop((0, 114, 76, 180)), crop=True), pool)
    assert edge is not None and (edge.frame, edge.cls) == ("h/frame_0", "corner")


def test_a_crop_that_several_frames_of_a_group_show_gives_the_group_only(pool: Pool, tmp_path: Path) -> None:
    crop = frame(pool, "g/frame_0").crop((0, 120, 72, 180))
    match = find(old(tmp_path / "x.jpg", crop, crop=True), pool)
    assert match is not None and (match.frame, match.group, match.cls) == (None, "one", "corner")


def test_a_crop_of_something_else_is_not_found(pool: Pool, tmp_path: Path) -> None:
    assert find(old(tmp_path / "x.jpg", deck(9, None).crop((90, 48, 152, 116)), crop=True), pool) is None


def test_a_name_counts_only_where_one_frame_has_it(pool: Pool, tmp_path: Path) -> None:
    turned = frame(pool, "g/frame_1").crop((90, 48, 152, 116)).rotate(25)
    unique = find(old(tmp_path / "frame_1_tip_3.jpg", turned, crop=True), pool)
    assert unique == Match("g/frame_1", "one", "name")
    assert find(old(tmp_path / "frame_0_tip_3.jpg", turned, crop=True), pool) is None


def test_names_are_whole_words(pool: Pool, tmp_path: Path) -> None:
    def names(stem: str) -> list[int]:
        picture = Old(tmp_path / stem, stem, "", 1, 1, True, True)
        return names_of([picture], pool.frames).get(picture.path, [])

    assert names("frame_1") == names("crop_frame_1_box2") == [1]
    assert names("frame_0-a") == [0, 2]
    assert names("frame_10") == names("myframe_1") == names("x") == []


def test_questions_in_texts() -> None:
    text = "\n".join(
        [
            "Here are some questions:",
            "Q1: What is it?", "A1: A rack", "with 96 tips.", "",
            "**Question 2:** Is it normal?", "A: normal", "B: bent", "**Answer:** A", "",
            "3. 问题:这是什么?", "答案:盘", "Q: never answered?",
        ]
    )  # fmt: skip
    assert question_pairs(text) == [
        Pair(2, "What is it?", "A rack\nwith 96 tips."),
        Pair(6, "Is it normal?\nA: normal\nB: bent", "A"),
        Pair(11, "这是什么?", "盘"),
    ]
