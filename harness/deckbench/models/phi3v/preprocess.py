"""Frame to tiles, as published for Phi-3-vision (the "HD transform").

The frame is scaled to as many tiles as fit into the limit, its shorter side padded with white to whole tiles; an
overview of the whole frame comes before them. Resizing goes through PIL, the overview through torch's bicubic
interpolation: torchvision, which the original uses for both, does the very same there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deckbench.errors import InputError
from deckbench.models.phi3v.config import Preprocessor

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE = (255, 255, 255)


def scaled_size(width: int, height: int, most: int, size: int) -> tuple[int, int]:
    """Width and height in pixels of a frame scaled for at most `most` tiles of `size` pixels, not yet padded.

    One that was scaled and padded before stays as it is. Raises InputError for a frame too narrow to be scaled.
    """
    if width < height:
        height, width = scaled_size(height, width, most, size)
        return width, height
    ratio = width / height
    scale = 1
    while scale * math.ceil(scale / ratio) <= most:
        scale += 1
    scale -= 1
    wide = scale * size
    # The second case is for rounding: wide / (wide / height) can fall just below a whole height.
    high = height if width == wide and height % size == 0 else int(wide / ratio)
    if high < 1:
        what = f"a frame of {width} x {height} pixels is too narrow: scaled to {wide} pixels nothing is left of it"
        raise InputError(what, "frame", "cut it to a less extreme shape")
    return wide, high


def tiles_of(width: int, height: int, most: int, size: int) -> tuple[int, int]:
    """Rows and columns of tiles of a frame of this size, the overview not counted."""
    wide, high = scaled_size(width, height, most, size)
    return math.ceil(high / size), math.ceil(wide / size)


def shrink(image: Image, most: int, size: int) -> Image:
    """The frame scaled and padded to whole tiles; one that already is passes through unchanged."""
    from PIL import Image as pil

    image = image.convert("RGB")
    wide, high = scaled_size(image.width, image.height, most, size)
    # The original turns an upright frame before scaling and back afterwards.
    turned = image.width < image.height
    if turned:
        image, wide, high = image.transpose(pil.Transpose.TRANSPOSE), high, wide
    image = image.resize((wide, high), pil.Resampling.BILINEAR)
    padded = math.ceil(high / size) * size
    if padded != high:
        canvas = pil.new("RGB", (wide, padded), WHITE)
        canvas.paste(image, (0, (padded - high) // 2))
        image = canvas
    return image.transpose(pil.Transpose.TRANSPOSE) if turned else image


def tiles(image: Image, preprocessor: Preprocessor, size: int) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """((1 + rows * columns, 3, size, size) float32: overview, then tiles row by row; (rows, columns)).

    The order of the float32 operations (divide by 255, subtract, divide) is the original's: the result is equal to
    the last bit.
    """
    import torch

    scaled = np.asarray(shrink(image, preprocessor.num_crops, size), dtype=np.float32) / np.float32(255.0)
    mean, deviation = (np.array(v, dtype=np.float32) for v in (preprocessor.image_mean, preprocessor.image_std))
    whole = np.ascontiguousarray(((scaled - mean) / deviation).transpose(2, 0, 1))
    overview = torch.nn.functional.interpolate(torch.from_numpy(whole)[None], size=(size, size), mode="bicubic")
    rows, columns = whole.shape[1] // size, whole.shape[2] // size
    cut = whole.reshape(3, rows, size, columns, size).transpose(1, 3, 0, 2, 4).reshape(-1, 3, size, size)
    return np.concatenate((overview.numpy(), cut)), (rows, columns)


def image_tokens(rows: int, columns: int, grid: int) -> int:
    """Tokens of a frame: tiles and overview with a separator behind each of their lines, one between the two."""
    return (rows * columns + 1) * grid**2 + 1 + (rows + 1) * grid
