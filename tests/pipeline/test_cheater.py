"""Ten suites that train on what they test are refused before training; two honest ones of a fixed camera pass."""

from __future__ import annotations

import io
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from deckbench.errors import InputError
from deckbench.pipeline.suite import run_suite
from tests.build.build_helpers import SCENES, WRONG, Label
from tests.pipeline.suite_helpers import write_suite

SIZE = (320, 180)
NAMES = sorted({label[0] for _, labels in SCENES for label in labels})
Change = Callable[[Image.Image], Image.Image]
STAGE: dict[str, Any] = {"task": "ot2-scene@1", "audit": False}


def scenery(seed: int) -> Image.Image:
    """Grey patches of many sizes: no two seeds look alike."""
    rng = np.random.default_rng(seed)
    total = np.zeros((SIZE[1], SIZE[0]))
    for cells in (6, 16, 48):
        cut = Image.fromarray(rng.integers(0, 256, (cells * 9 // 16, cells), dtype=np.uint8))
        total += np.asarray(cut.resize(SIZE, Image.Resampling.BICUBIC)) / 3
    return Image.fromarray(total.astype(np.uint8)).convert("RGB")


class PoolMaker:
    """Writes a pool frame by frame."""

    def __init__(self, root: Path, *, sessions: bool = True) -> None:
        self.root, self.sessions = root, sessions
        self.rows = ["frame,group,step,anomalies"]
        for folder in ("images", "labels"):
            (root / folder).mkdir(parents=True)

    def add(
        self, name: str, image: Image.Image, number: int, session: str, labels: tuple[Label, ...] | None = None
    ) -> None:
        """A frame of the scene `number`."""
        step, usual = SCENES[number % len(SCENES)]
        image.save(self.root / "images" / f"{name}.png")
        text = "".join(f"{NAMES.index(cls)} {x} {y} {w} {h}\n" for cls, x, y, w, h in labels or usual)
        (self.root / "labels" / f"{name}.txt").write_text(text)
        self.rows.append(f"images/{name},{session},{step},{WRONG[number % len(WRONG)]}")

    def write(self, split: str = "test") -> Path:
        if self.sessions:
            (self.root / "frames.csv").write_text("\n".join(self.rows) + "\n")
        (self.root / "dataset.yaml").write_text(yaml.safe_dump({split: "images", "names": NAMES}))
        return self.root


def frames() -> Iterator[tuple[str, Image.Image, int, str]]:
    """Name, image, scene and session of the frames of the lab's pool: four sessions of six."""
    for session in range(4):
        for number in range(6):
            yield f"s{session}f{number}", scenery(100 * session + number), number, f"s{session}"


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool that is trained on."""
    pool = PoolMaker(tmp_path_factory.mktemp("lab") / "deck")
    for frame in frames():
        pool.add(*frame)
    return pool.write("train")


def changed(root: Path, change: Change) -> Path:
    """Every frame changed and renamed, its sessions unknown."""
    pool = PoolMaker(root, sessions=False)
    for place, (_, image, number, session) in enumerate(frames()):
        pool.add(f"cam{place:03d}", change(image), number, session)
    return pool.write()


def tile(image: Image.Image) -> Image.Image:
    return image.crop((0, 0, SIZE[0] // 2, SIZE[1] // 2)).resize(SIZE)


def crop(image: Image.Image) -> Image.Image:
    width, height = SIZE
    return image.crop((width // 4, height // 4, width * 3 // 4, height * 3 // 4))


def recompress(image: Image.Image) -> Image.Image:
    data = io.BytesIO()
    image.point(lambda value: value * 0.8 + 10).resize((256, 144)).save(data, "JPEG", quality=40)
    return Image.open(data).convert("RGB")


def other_pool(case: str, deck: Path, place: Path) -> Path:
    """The pool that is tested on."""
    changes: dict[str, Change] = {
        "mirrored": ImageOps.mirror,
        "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
        "tiles": tile,
        "crops": crop,
        "recompressed": recompress,
        "renamed": lambda image: image,
    }
    if case in changes:
        return changed(place / "other", changes[case])
    if case == "another name":
        return Path(shutil.copytree(deck, place / "other"))
    pool = PoolMaker(place / "other")  # one session in two pools: other frames of it
    for number in range(8):
        pool.add(f"later{number:02d}", scenery(5000 + number), number, f"s{number // 2}")
    return pool.write()


CHEATS = {
    "another split": "the same frame under two splits|one session",
    "blocks and group": "the same frame under two splits|one session",
    "another name": "the same bytes",
    "renamed": "the same bytes",
    "one session in two pools": "one session, 's[0-3]'",
    "a mix of mixes": "the same frame under two splits|one session",
    "recompressed": "near",
    "mirrored": "mirrored",
    "turned": "turned",
    "tiles": "cropped",
    "crops": "cropped",
}


def cheating(case: str, deck: Path, place: Path) -> dict[str, Any]:
    """A suite that trains on what it tests."""
    one_pool = case in {"another split", "blocks and group", "a mix of mixes"}
    other = deck if one_pool else other_pool(case, deck, place)
    split = {"blocks and group": "blocks=8"}.get(case, "group")
    tested = {"blocks and group": "group"}.get(case, "test-only")
    data = {
        "own": {**STAGE, "pool": "deck", "split": split},
        "test": {**STAGE, "pool": "deck" if one_pool else "other", "split": tested},
        "crops": {**STAGE, "task": "ot2-concept@1", "pool": "deck", "split": "group"},
        "boxes": {**STAGE, "task": "ot2-guided@1", "pool": "deck", "split": "group"},
    }
    train: dict[str, Any] = {"S3": {"data": ["own"]}}
    if case == "a mix of mixes":
        train = {"S1": {"data": ["crops", "boxes:0.5"]}, "S3": {"init": "S1", "data": ["boxes", "crops:0.5"]}}
    return {
        "name": "cheat",
        "seed": 3,
        "pools": {"deck": {"path": str(deck)}, "other": {"path": str(other)}},
        "data": data,
        "tests": [{"data": "test"}],
        "train": train,
        "models": [{"ref": "tiny-glm4v", "curricula": ["S3"]}],
    }


SLOW = {"recompressed", "mirrored", "turned", "tiles", "crops"}  # the search for copies takes seconds


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else []) for case in CHEATS]
)
def test_a_suite_that_trains_on_what_it_tests_is_refused(case: str, deck: Path, tmp_path: Path) -> None:
    file = write_suite(tmp_path / "cheat.yaml", cheating(case, deck, tmp_path))
    with pytest.raises(InputError) as caught:
        run_suite(str(file), work=tmp_path / "work")
    assert re.search(r"^\d+ of \d+ tested frames are trained on", caught.value.what), caught.value.what
    assert re.search(r"test frame images/\w+ .* and train frame images/\w+ ", caught.value.what)
    assert re.search(CHEATS[case], caught.value.what), caught.value.what
    assert not (tmp_path / "work" / "adapters").exists()
    assert not (tmp_path / "work" / "overlaps").exists() or not list((tmp_path / "work" / "overlaps").iterdir())


def view(state: int, seed: int) -> tuple[Image.Image, tuple[Label, ...]]:
    """A frame of the fixed camera: one deck, one of many states, and noise that no two frames share."""
    image = scenery(1).filter(ImageFilter.GaussianBlur(1))
    step = state % len(SCENES)
    labels = tuple((cls, x + 0.02 * (state // len(SCENES)), y, w, h) for cls, x, y, w, h in SCENES[step][1])
    draw = ImageDraw.Draw(image)
    for cls, x, y, w, h in labels:
        x0, y0, x1, y1 = (x - w / 4) * SIZE[0], (y - h / 4) * SIZE[1], (x + w / 4) * SIZE[0], (y + h / 4) * SIZE[1]
        draw.rectangle((x0, y0, x1, y1), fill=(40 * NAMES.index(cls) % 256, 90, 200 - 25 * NAMES.index(cls)))
    noise = np.random.default_rng(seed).normal(0, 3, (SIZE[1], SIZE[0], 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8)), labels


def fixed_camera(root: Path, states: list[int], seed: int) -> Path:
    """A pool of one fixed camera; every state comes back now and then."""
    pool = PoolMaker(root, sessions=False)
    for number, state in enumerate(states):
        image, labels = view(state, seed + number)
        pool.add(f"cam{number:03d}", image, state, "", labels)
    return pool.write("train")


@pytest.mark.slow
@pytest.mark.parametrize("days", [1, 2])
def test_an_honest_suite_of_a_fixed_camera_passes(days: int, tmp_path: Path) -> None:
    """Test frames look much like training frames: the same camera, states of another time. That is no copy."""
    rng = random.Random(3)
    pools = {"one": fixed_camera(tmp_path / "one", [rng.randrange(12) for _ in range(45)], 0)}
    data: dict[str, Any] = {"own": {**STAGE, "pool": "one", "split": "blocks=9,gap=1"}}
    if days == 2:
        pools["two"] = fixed_camera(tmp_path / "two", [rng.randrange(15) for _ in range(12)], 1000)
        data["later"] = {**STAGE, "pool": "two", "split": "test-only"}
    suite = {
        "name": "honest",
        "pools": {name: {"path": str(path)} for name, path in pools.items()},
        "data": data,
        "tests": [{"data": name} for name in data],
        "baselines": ["majority"],
    }
    result = run_suite(str(write_suite(tmp_path / "honest.yaml", suite)), work=tmp_path / "work")
    assert len(result["records"]) == days
