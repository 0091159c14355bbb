"""Near-duplicates: planted copies are found, other moments are not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from deckbench.likeness import cluster, copies_across, fingerprint, matches, thumbnail
from deckbench.picture import open_picture
from tests.yolo.pool_helpers import picture

Change = Callable[[Image.Image], Image.Image]


def recompress(image: Image.Image) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=30)
    return Image.open(data).convert("RGB")


def shift(image: Image.Image, x: float, y: float, border: str) -> Image.Image:
    """Move by fractions of the width and height; the border is black, repeated, or wraps around."""
    array = np.asarray(image)
    dx, dy = round(x * image.width), round(y * image.height)
    moved = np.roll(array, (dy, dx), (0, 1))
    if border == "wrap":
        return Image.fromarray(moved)
    rows, columns = np.arange(image.height) - dy, np.arange(image.width) - dx
    if border == "edge":
        return Image.fromarray(array[rows.clip(0, image.height - 1)][:, columns.clip(0, image.width - 1)])
    inside = ((rows >= 0) & (rows < image.height))[:, None] & ((columns >= 0) & (columns < image.width))
    return Image.fromarray((moved * inside[:, :, None]).astype(np.uint8))


def crop(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    w, h = image.size
    return image.crop((int(left * w), int(top * h), int(w - right * w), int(h - bottom * h)))


CHANGES: dict[str, Change] = {
    "same": lambda image: image,
    "recompressed": recompress,
    "half size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
    "shifted, edge": lambda image: shift(image, 0.03, -0.02, "edge"),
    "shifted, black": lambda image: shift(image, -0.04, 0.02, "black"),
    "shifted, wrapped": lambda image: shift(image, 0.05, 0.0, "wrap"),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.75),
    "lower contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.75),
    "cropped": lambda image: crop(image, 0.04, 0.03, 0.02, 0.05),
    "cropped at one side": lambda image: crop(image, 0.06, 0, 0, 0),
    "noisy": lambda image: Image.fromarray(
        np.clip(np.asarray(image) + np.random.default_rng(0).normal(0, 8, np.asarray(image).shape), 0, 255).astype("u1")
    ),
    "all at once": lambda image: recompress(
        ImageEnhance.Brightness(shift(image, 0.03, -0.02, "edge")).enhance(0.8).resize((320, 240))
    ),
}


def stack(images: list[Image.Image]) -> np.ndarray:
    return np.stack([thumbnail(image) for image in images])


@pytest.mark.parametrize("name", CHANGES)
def test_planted_copies_of_real_frames_are_found(shared: Path, name: str) -> None:
    """Copies of real frames stand among other frames; each is matched with its own original or one just like it."""
    deck = sorted((shared / "data/deck-yolo/datasets/images/test").iterdir())[::6]
    overhead = sorted((shared / "data/ot2eye/images").iterdir())
    images = [open_picture(path) for path in [*deck, *overhead]]
    found = {
        pair.left: pair.right for pair in matches(stack([CHANGES[name](image) for image in images]), stack(images))
    }
    assert sorted(found) == list(range(len(images)))
    # Of the overhead frames every one shows another deck, so nothing but the original may be named.
    assert all(found[number] == number for number in range(len(deck), len(images)))


def test_other_decks_and_other_pictures_are_no_copies(shared: Path) -> None:
    images = [open_picture(path) for path in sorted((shared / "data/ot2eye/images").iterdir())]
    images += [picture(seed, (640, 480)) for seed in range(20)]
    assert cluster(stack(images)) == list(range(len(images)))


def test_sessions_of_the_synthetic_deck_stay_apart(tmp_path: Path) -> None:
    """The renderer's sessions show the same deck from nearly the same place; only a planted copy joins two."""
    from deckbench.pool.synth import synth_pool
    from deckbench.yolo.read import read_pool

    synth_pool(tmp_path / "p", frames=48, seed=3, workers=1)
    frames = read_pool(tmp_path / "p").frames
    groups = [frame.group for frame in frames]
    thumbs = fingerprint([frame.path for frame in frames])
    alone = cluster(thumbs, known=groups)
    assert len(set(alone)) == len(set(groups)) > 3
    first = groups.index(groups[0])
    last = max(number for number, group in enumerate(groups) if group != groups[0])
    thumbs[last] = thumbnail(CHANGES["all at once"](open_picture(frames[first].path)))
    assert len(set(cluster(thumbs, known=groups))) == len(set(groups)) - 1


def test_pictures_without_texture() -> None:
    """A covered lens is one moment however often; a gradient is another, and a deck is neither."""
    black = Image.new("RGB", (640, 480), (3, 3, 3))
    grey = Image.new("RGB", (640, 480), (90, 90, 90))
    slope = Image.fromarray(np.tile(np.linspace(40, 160, 640).astype(np.uint8), (480, 1))).convert("RGB")
    labels = cluster(stack([black, black, grey, slope, picture(1, (640, 480))]))
    assert labels[0] == labels[1] == labels[2]
    assert len(set(labels)) == 3


def test_a_standing_camera_is_one_scene(shared: Path) -> None:
    paths = sorted((shared / "data/deck-yolo/datasets/images").rglob("*.jpg"))
    thumbs = fingerprint(paths[::3])
    assert len(set(cluster(thumbs, scene=True))) == 1
    assert len(set(cluster(thumbs))) > 3, "but not every two of its frames are one moment"


def test_known_groups_are_joined_beforehand() -> None:
    thumbs = stack([picture(seed, (320, 240)) for seed in range(5)])
    assert cluster(thumbs, known=["a", "b", "a", None, "b"]) == [0, 1, 0, 3, 1]


def test_copies_across_two_sets_of_files(tmp_path: Path) -> None:
    """Exact copies under other names, and recompressed ones, are found; other pictures are not."""
    train, test = [], []
    for number in range(6):
        image = picture(number, (320, 180))
        train.append(tmp_path / f"train{number}.png")
        image.save(train[-1])
        test.append(tmp_path / f"test{number}.png")
        (recompress(image) if number == 2 else image if number == 4 else picture(number + 50, (320, 180))).save(
            test[-1]
        )
    found = copies_across(train, [*test, test[4]])
    assert [(copy.train.name, copy.test.name, copy.how) for copy in found] == [
        ("train2.png", "test2.png", "near"),
        ("train4.png", "test4.png", "exact"),
    ]
    assert copies_across(train, []) == copies_across([], test) == []
