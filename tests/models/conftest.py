"""Small random models for the tests: the same code as the real ones, a fraction of a second each."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deckbench.models.glm4v.model import Glm4v
from tests.models.glm4v_small import make_small


@pytest.fixture
def small() -> Glm4v:
    return make_small()


@pytest.fixture(scope="session")
def frames() -> list[Image.Image]:
    """Four noisy frames of different sizes."""
    rng = np.random.default_rng(0)
    sizes = [(90, 50), (64, 64), (50, 90), (33, 47)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
