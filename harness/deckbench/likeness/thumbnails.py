"""Grey thumbnails and their band-passed levels: what pictures are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from deckbench import progress
from deckbench.artifact import hash_file
from deckbench.cores import in_threads
from deckbench.likeness.cache import ImageCache
from deckbench.picture import grey_thumbnail

WIDTH, HEIGHT = 192, 108
FLAT = 0.02  # spread of the band-passed logarithm below which there is no texture to compare
Thumbs = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Params = npt.NDArray[np.float32]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]


def fingerprint(paths: Sequence[Path], cache: Path | None = None) -> Thumbs:
    """Read the thumbnails by which images are compared, on all cores.

    Args:
        paths: Image files.
        cache: File that keeps thumbnails by the hash of the image file; None: they are not kept.

    Returns:
        uint8 of shape (n, 108, 192): grey, upright.

    Raises:
        InputError: An image cannot be read.
    """
    thumbs = np.empty((len(paths), HEIGHT, WIDTH), np.uint8)
    store = ImageCache(cache, "thumbnail")
    hashes = ["" for _ in paths] if cache is None else list(in_threads(hash_file, iter(paths)))
    kept = {} if cache is None else store.read(hashes)
    missing = [number for number, key in enumerate(hashes) if len(kept.get(key, b"")) != HEIGHT * WIDTH]
    for number, key in enumerate(hashes):
        if len(kept.get(key, b"")) == HEIGHT * WIDTH:
            thumbs[number] = np.frombuffer(kept[key], np.uint8).reshape(HEIGHT, WIDTH)
    results = in_threads(lambda path: np.asarray(grey_thumbnail(path, (WIDTH, HEIGHT))), (paths[n] for n in missing))
    for number, thumb in zip(missing, progress.track(results, "comparing images", total=len(missing)), strict=True):
        thumbs[number] = thumb
    if cache is not None:
        store.write({hashes[number]: thumbs[number].tobytes() for number in missing})
    return thumbs


def thumbnail(image: Image.Image) -> Thumbs:
    """uint8 (108, 192): the grey thumbnail of an upright picture that is open already."""
    return np.asarray(image.convert("L").resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def shrink(thumbs: Thumbs, width: int) -> Floats:
    """float32 (n, width*9/16, width): block means of thumbnails. width: 48, 96 or 192."""
    step = WIDTH // width
    total = np.zeros((len(thumbs), HEIGHT // step, width), np.uint16)
    for y in range(step):  # three times as fast as a mean over two axes
        for x in range(step):
            total += thumbs[:, y::step, x::step]
    return np.asarray(total.astype(np.float32) / np.float32(step * step))


def band_pass(pictures: Floats, fine: float, wide: float) -> Floats:
    """Difference of two Gaussian blurs of the logarithm, per picture (n, h, w)."""
    n, height, width = pictures.shape
    logs = np.log(pictures + np.float32(16)).reshape(n * height, width)
    out = np.zeros((n, height, width), np.float32)
    for sigma, sign in ((fine, 1), (wide, -1)):
        out += sign * (blur(height, sigma) @ (logs @ blur(width, sigma).T).reshape(n, height, width))
    return out


@lru_cache(maxsize=32)
def blur(size: int, sigma: float) -> Floats:
    """(size, size): a Gaussian blur of a line of pixels as a matrix: faster than a filter on small pictures."""
    return np.asarray(gaussian_filter1d(np.eye(size), sigma, axis=0), np.float32)


def level(thumbs: Thumbs, width: int) -> Floats:
    """Band-passed pictures of one level, float32 (n, width*9/16, width), made in slices to spare memory."""
    out = np.empty((len(thumbs), width * 9 // 16, width), np.float32)
    for start in range(0, len(thumbs), 256):
        out[start : start + 256] = band_pass(shrink(thumbs[start : start + 256], width), 0.6, 3.0)
    return out


def is_flat(thumbs: Thumbs) -> npt.NDArray[np.bool_]:
    """Which pictures have next to no texture (a covered lens, an empty wall)."""
    flat = np.zeros(len(thumbs), bool)
    for start in range(0, len(thumbs), 256):
        flat[start : start + 256] = level(thumbs[start : start + 256], 96).std(axis=(1, 2)) < FLAT
    return flat
