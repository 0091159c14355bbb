"""Copies that were mirrored, turned, tiled, cropped or re-lit never cross a split, and audits find them."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from deckbench.build.audit import audit
from deckbench.likeness import copies_across
from deckbench.pool.group import group_pool
from deckbench.pool.synth import synth_pool
from deckbench.split import split_pool
from deckbench.yolo.read import read_pool

FRAMES = 24
Turn = Image.Transpose
Change = Callable[[Image.Image], Image.Image]


def part(left: float, top: float, right: float, bottom: float) -> Change:
    """Cuts a part out, by fractions of width and height."""

    def cut(image: Image.Image) -> Image.Image:
        w, h = image.size
        return image.crop((round(left * w), round(top * h), round(right * w), round(bottom * h)))

    return cut


def relit(image: Image.Image) -> Image.Image:
    data = io.BytesIO()
    ImageEnhance.Brightness(image).enhance(0.75).save(data, "JPEG", quality=40)
    return Image.open(data).convert("RGB")


CHANGES: dict[str, Change] = {
    "mirrored": lambda image: image.transpose(Turn.FLIP_LEFT_RIGHT),
    "upside down": lambda image: image.transpose(Turn.FLIP_TOP_BOTTOM),
    "turned 90": lambda image: image.transpose(Turn.ROTATE_90),
    "turned 180": lambda image: image.transpose(Turn.ROTATE_180),
    "turned 270": lambda image: image.transpose(Turn.ROTATE_270),
    "a quarter": part(0, 0, 0.5, 0.5),
    "a half": part(0.25, 0, 0.75, 1),
    "cropped": part(0.15, 0.05, 0.85, 0.77),
    "re-lit": relit,
    "mirrored and re-lit": lambda image: relit(image.transpose(Turn.FLIP_LEFT_RIGHT)),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    """Frames of eight sessions, three of each."""
    root = tmp_path_factory.mktemp("sources") / "pool"
    synth_pool(root, frames=64, seed=5, size=(352, 198), workers=1)
    paths = sorted((root / "images").iterdir())
    return [Image.open(paths[8 * (n // 3) + n % 3]).convert("RGB") for n in range(FRAMES)]


def pool_of(root: Path, frames: dict[str, Image.Image]) -> Path:
    """A pool without groups."""
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for name, image in frames.items():
        image.save(root / "images" / f"{name}.jpg", quality=90)
        (root / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("train: images\nnames: [tip_rack]\n")
    return root


def roboflow(number: int, kind: str) -> str:
    return f"f{number:02d}_jpg.rf.{hashlib.md5(f'{number}{kind}'.encode()).hexdigest()}"


def tiles(sources: list[Image.Image], name: Callable[[int, int], str]) -> dict[str, Image.Image]:
    return {
        name(number, left): image.crop((left, 0, left + 176, 198))
        for number, image in enumerate(sources)
        for left in (0, 88, 176)
    }


@pytest.mark.slow
def test_frames_of_one_source_are_one_group(
    tmp_path: Path, sources: list[Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    """By their names: augmented (NAME_jpg.rf.HASH) and sliced (NAME_X0_Y0_X1_Y1) frames; a line says so."""
    sources = sources[:12]
    flipped = {roboflow(n, "o"): image for n, image in enumerate(sources)}
    flipped |= {roboflow(n, "f"): image.transpose(Turn.FLIP_LEFT_RIGHT) for n, image in enumerate(sources)}
    sliced = tiles(sources, lambda number, left: f"f{number:02d}_{left}_0_{left + 176}_198")
    for folder, frames in (("flip", flipped), ("tiles", sliced)):
        pool = read_pool(pool_of(tmp_path / folder, frames))
        split = split_pool(pool, "group", 0)
        assert "share their source picture" in capsys.readouterr().err
        sides: dict[str, set[str]] = {}
        for frame in pool.frames:
            sides.setdefault(frame.path.stem[:3], set()).add(split.parts[frame.id])
        assert len(sides) == 12 and all(len(side) == 1 for side in sides.values())
        assert {"train", "val", "test"} == set(split.parts.values())


def test_copies_under_other_names_are_found(tmp_path: Path, sources: list[Image.Image]) -> None:
    """Between two sets of files, and it is the frame (or one that shows the same there) that is named."""
    train, test = [], {}
    for number, image in enumerate(sources):
        train.append(tmp_path / f"a{number:02d}.png")
        image.save(train[-1])
    for place, (name, change) in enumerate(CHANGES.items()):
        for number in (0, 7, 14, 21):
            path = tmp_path / f"b{place}-{number:02d}.png"
            change(sources[number]).save(path)
            test[path] = name
    found = {copy.test: copy for copy in copies_across(train, list(test))}
    assert [f"{name} {path.name}" for path, name in test.items() if path not in found] == []
    for path, name in test.items():
        copy = found[path]
        assert int(copy.train.stem[1:]) // 3 == int(path.stem[-2:]) // 3, f"{name}: another session"
        assert (copy.how == "near") == (name == "re-lit"), name


@pytest.mark.slow
def test_split_and_group_keep_copies_together(tmp_path: Path, sources: list[Image.Image]) -> None:
    """Names say nothing: a mirrored, a turned and a cropped copy of every frame lie in one group with it."""
    kinds: dict[str, Change] = {name: CHANGES[name] for name in ("mirrored", "turned 90", "cropped")}
    sources = sources[:9]  # three sessions
    frames = {f"p{n:02d}": image for n, image in enumerate(sources)}
    for place, change in enumerate(kinds.values()):
        frames |= {f"q{100 * place + n:03d}": change(image) for n, image in enumerate(sources)}
    root = pool_of(tmp_path / "pool", frames)
    groups = group_pool(root, by="phash", out=tmp_path / "frames.csv")
    split = split_pool(read_pool(root), "group", 0).groups
    for found in (groups, split):
        apart = [
            f"{number} {kind}"
            for place, kind in enumerate(kinds)
            for number in range(len(sources))
            if found[f"images/q{100 * place + number:03d}"] != found[f"images/p{number:02d}"]
        ]
        assert apart == []
        assert len(set(found.values())) >= 3, "and not all is one group"


def test_audit_finds_copies(tmp_path: Path, sources: list[Image.Image]) -> None:
    """One of each kind."""
    kinds = iter(("mirrored", "turned 90", "a quarter", "cropped"))
    (tmp_path / "images").mkdir()
    rows: dict[str, list[str]] = {"train": [], "test": []}
    for number, image in enumerate(sources):
        for split in ("train", "test") if number % 6 == 0 else ("train",):
            file = f"images/{split}{number:02d}.png"
            (CHANGES[next(kinds)](image) if split == "test" else image).save(tmp_path / file)
            messages = [
                {"role": "user", "content": "Is it well?", "image": file},
                {"role": "assistant", "content": "A"},
            ]
            rows[split].append(json.dumps({"messages": messages}))
    for split, lines in rows.items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    report = audit(tmp_path)
    assert report["near_duplicates"] == 4 and not report["passed"]
    assert all(re.search(r"mirrored|turned|cropped", pair["how"]) for pair in report["pairs"]["near"])
