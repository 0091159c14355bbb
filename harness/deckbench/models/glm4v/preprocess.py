"""Frame to pixel tensor, as published for GLM-4V: bicubic to a square, then CLIP's mean and deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), dtype=np.float32)
DEVIATION = np.array((0.26862954, 0.26130258, 0.27577711), dtype=np.float32)


def shrink(image: Image, size: int) -> Image:
    """The frame as a square of 8-bit pixels, bicubic; one that already is passes through unchanged."""
    from PIL.Image import Resampling

    return image.convert("RGB").resize((size, size), Resampling.BICUBIC)


def pixels(image: Image, size: int) -> NDArray[np.float32]:
    """(3, size, size) float32 of one frame; the aspect ratio is given up, as in the original.

    Resizing is done on 8-bit pixels, so a frame that already has the size passes through unchanged. The order of the
    float32 operations (divide by 255, subtract, divide) is the original's: the result is equal to the last bit.
    """
    scaled = np.asarray(shrink(image, size), dtype=np.float32) / np.float32(255.0)
    return np.ascontiguousarray(((scaled - MEAN) / DEVIATION).transpose(2, 0, 1))
