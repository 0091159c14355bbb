"""A frame becomes tiles as published; a frame that was shrunk is not touched again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deckbench.errors import InputError
from deckbench.models.phi3v.preprocess import image_tokens, scaled_size, shrink, tiles_of


@pytest.mark.parametrize(
    ("size", "crops", "tiles", "tokens"),
    [
        ((640, 480), 4, (2, 2), 757),
        ((640, 480), 16, (3, 4), 1921),
        ((1920, 1080), 16, (3, 5), 2353),
        ((1080, 1920), 16, (5, 3), 2377),
        ((500, 500), 16, (4, 4), 2509),
        ((500, 500), 1, (1, 1), 313),
    ],
)
def test_tiles_and_tokens(size: tuple[int, int], crops: int, tiles: tuple[int, int], tokens: int) -> None:
    assert tiles_of(*size, crops, 336) == tiles
    assert image_tokens(*tiles, 12) == tokens


@given(st.integers(20, 4000), st.integers(20, 4000), st.integers(1, 64))
def test_never_more_tiles_than_allowed_and_stable(width: int, height: int, crops: int) -> None:
    rows, columns = tiles_of(width, height, crops, 336)
    assert 1 <= rows * columns <= crops
    assert scaled_size(columns * 336, rows * 336, crops, 336) == (columns * 336, rows * 336)


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 200), st.integers(8, 200), st.integers(1, 9))
def test_shrinking_twice_is_shrinking_once(width: int, height: int, crops: int) -> None:
    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    once = shrink(Image.fromarray(noise), crops, 32)
    assert once.width % 32 == once.height % 32 == 0
    assert once.tobytes() == shrink(once, crops, 32).tobytes()


def test_padding_is_white_and_on_the_short_side() -> None:
    wide = np.asarray(shrink(Image.new("RGB", (200, 90)), 4, 32))
    assert wide.shape == (64, 96, 3) or wide.shape == (32, 64, 3) or wide.shape == (64, 64, 3)
    assert (wide[0] == 255).all() and (wide[-1] == 255).all() and (wide[wide.shape[0] // 2] == 0).all()
    upright = np.asarray(shrink(Image.new("RGB", (90, 200)), 4, 32))
    assert (upright == wide.transpose(1, 0, 2)).all()


def test_a_line_is_no_frame() -> None:
    with pytest.raises(InputError, match="too narrow"):
        shrink(Image.new("RGB", (5000, 1)), 4, 32)
