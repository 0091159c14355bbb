"""Making the pictures: where crops and boxes lie (pure geometry), and drawing them on all cores.

Each frame is decoded once for all its pictures; frames that are kept whole are copied byte by byte.
"""

from __future__ import annotations

import contextlib
import errno
import math
import random
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, UnidentifiedImageError

from deckbench.cores import processes
from deckbench.errors import InputError
from deckbench.picture import EXIF_ORIENTATION, open_picture
from deckbench.yolo.frame import Box4

JPEG_QUALITY = 92
CHUNK = 24  # frames a worker takes at a time
BASE_WIDTH = 704  # line widths and pixel margins are meant for a frame this wide
PLAIN_COLOUR = (255, 40, 40)  # the colour of boxes in tiny-glm4v's pretraining too
NORMAL_COLOUR = (40, 200, 40)  # source-lab style
ANOMALY_COLOUR = (255, 40, 40)
OUTSIDE = (127, 127, 127)
# A file that went away, in all the ways in which disks and network shares say so.
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.ESTALE, errno.ELOOP})
COPIED = frozenset({".jpg", ".jpeg", ".png"})  # formats any reader of a dataset opens

Rect = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture to make. name: file name in images/. rect: the crop, or the box to draw (pixels; x1, y1 outside the
    crop, on the line of a box); None copies the frame. width, height: of the result."""

    name: str
    width: int
    height: int
    crop: Rect | None = None
    box: Rect | None = None
    colour: tuple[int, int, int] = PLAIN_COLOUR
    line: int = 3
    turn: float = 0.0
    speckle: float = 0.0
    seed: int = 0


Job = tuple[str, tuple[Picture, ...]]  # path of the frame, what is made from it


def crop_rect(box: Box4, width: int, height: int, margin: float, least: int, rng: random.Random) -> Rect:
    """The crop around a box: margin varied by a third, at least `least` pixels a side, inside the frame.

    box: fractions of a frame of width x height pixels.
    """
    spans = []
    for low, high, size in ((box[0] * width, box[2] * width, width), (box[1] * height, box[3] * height, height)):
        length = (high - low) * (1 + 2 * margin * rng.uniform(2 / 3, 4 / 3))
        whole = min(size, max(least, round(length)))
        start = round((low + high) / 2 - whole / 2)
        start = max(0, min(size - whole, start))
        spans.append((start, start + whole))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def drawn_rect(box: Box4, width: int, height: int, margin: tuple[float, float], rng: random.Random) -> Rect:
    """The box as drawn: each side moved out by a random margin, so that its shape tells little; inside the frame."""
    scale = width / BASE_WIDTH
    x0, y0, x1, y1 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    out = [rng.uniform(*margin) * side + rng.uniform(3, 11) * scale for side in (x1 - x0, y1 - y0, x1 - x0, y1 - y0)]
    return (
        max(0, math.floor(x0 - out[0])),
        max(0, math.floor(y0 - out[1])),
        min(width - 1, math.ceil(x1 + out[2])),
        min(height - 1, math.ceil(y1 + out[3])),
    )


def line_width(width: int, wanted: float) -> int:
    """Line width in pixels for a frame of this width; one pixel would lose its colour in a JPEG."""
    return max(2, round(wanted * width / BASE_WIDTH))


def copy_suffix(path: Path) -> str | None:
    """The suffix a whole frame keeps when it is copied as it is; None when it must be encoded again.

    Raises InputError when the frame is gone.
    """
    suffix = path.suffix.lower()
    if suffix not in COPIED:
        return None
    with still_there(path), Image.open(path) as image:
        plain = image.format in {"JPEG", "PNG"} and image.mode in {"RGB", "L"}
        if not plain or image.getexif().get(EXIF_ORIENTATION, 1) != 1:
            return None
    return ".jpg" if suffix == ".jpeg" else suffix


@contextlib.contextmanager
def still_there(path: Path) -> Iterator[None]:
    """Raises InputError when a frame that was read before has gone, or became something else."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and Path(error.filename) != path:
            raise
        if isinstance(error, UnidentifiedImageError) or error.errno in GONE:
            what = f"the image changed or vanished after the pool was read ({error.strerror or 'not an image'})"
            raise InputError(what, path, "leave the pool as it is while it is read, then run again") from error
        raise


def copy_frame(path: Path, target: Path) -> None:
    """Copy a frame as it is. Raises InputError when it is gone."""
    with still_there(path):
        shutil.copyfile(path, target)


def make(job: Job, folder: str) -> None:
    """Make the pictures of one frame. Raises InputError when the frame cannot be read."""
    path, pictures = job
    images = Path(folder)
    frame: Image.Image | None = None
    for picture in pictures:
        target = images / picture.name
        if picture.crop is None and picture.box is None and (suffix := copy_suffix(Path(path))) is not None:
            assert target.suffix == suffix
            copy_frame(Path(path), target)
            continue
        if frame is None:
            frame = open_picture(Path(path))
        last = picture is pictures[-1]
        drawn = _crop(frame, picture) if picture.crop is not None else _boxed(frame, picture, last)
        drawn.save(target, "JPEG", quality=JPEG_QUALITY)


def _boxed(frame: Image.Image, picture: Picture, last: bool) -> Image.Image:
    if picture.box is None:
        return frame
    drawn = frame if last else frame.copy()
    ImageDraw.Draw(drawn).rectangle(picture.box, outline=picture.colour, width=picture.line)
    return drawn


def _crop(frame: Image.Image, picture: Picture) -> Image.Image:
    assert picture.crop is not None
    x0, y0, x1, y1 = picture.crop
    if picture.turn:
        # Turned about the crop's centre with its surroundings at hand; what lies outside the frame is grey.
        reach = math.ceil(math.hypot(x1 - x0, y1 - y0) / 2) + 2
        left, top = (x0 + x1) // 2 - reach, (y0 + y1) // 2 - reach
        wide = Image.new("RGB", (2 * reach, 2 * reach), OUTSIDE)
        wide.paste(frame, (-left, -top))
        wide = wide.rotate(picture.turn, Image.Resampling.BICUBIC, fillcolor=OUTSIDE)
        piece = wide.crop((x0 - left, y0 - top, x1 - left, y1 - top))
    else:
        piece = frame.crop(picture.crop)
    if picture.speckle:
        import numpy as np

        noise = np.random.default_rng(picture.seed).normal(1.0, picture.speckle, (piece.height, piece.width, 1))
        piece = Image.fromarray(np.clip(np.asarray(piece) * noise, 0, 255).astype(np.uint8))
    return piece


def _make_chunk(jobs: Sequence[Job], folder: str) -> tuple[int, InputError | None]:
    """(pictures made, what stopped it): exceptions of our family lose their parts when pickled."""
    made = 0
    for job in jobs:
        try:
            make(job, folder)
        except InputError as error:
            return made, InputError(error.what, error.where, error.fix)
        made += len(job[1])
    return made, None


def _lone(made: tuple[int, InputError | None]) -> int:
    if made[1] is not None:
        raise made[1]
    return made[0]


@contextlib.contextmanager
def making(jobs: Sequence[Job], folder: Path, workers: int) -> Iterator[Iterator[int]]:
    """Make all pictures while the caller does something else; the yielded iterator says how many each chunk made.

    The iterator must be read to its end. It raises InputError when a frame cannot be read and OutsideError when a
    worker dies; leaving the block early stops the work.
    """
    chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    if workers <= 1 or len(chunks) <= 1:
        yield (_lone(_make_chunk(chunk, str(folder))) for chunk in chunks)
        return
    with processes(min(workers, len(chunks))) as pool:
        yield _results(deque(pool.submit(_make_chunk, chunk, str(folder)) for chunk in chunks))


def _results(waiting: deque[Future[tuple[int, InputError | None]]]) -> Iterator[int]:
    while waiting:
        yield _lone(waiting.popleft().result())
