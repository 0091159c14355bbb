"""The only way a frame is opened anywhere: RGB, EXIF orientation applied once, dangerous files refused."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

# Named here because Pillow loads its readers lazily, which is not safe in threads.
from PIL import BmpImagePlugin, Image, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from deckbench.disk import read_bytes
from deckbench.errors import InputError

READERS = (BmpImagePlugin, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
# What OpenCV and Ultralytics read as well; nothing that runs an interpreter (EPS, PDF). JPEG covers MPO.
FORMATS = tuple(name for name in ("JPEG", "PNG", "BMP", "TIFF", "WEBP") if name in Image.OPEN)
SUFFIXES = frozenset({".jpg", ".jpeg", ".mpo", ".png", ".bmp", ".tif", ".tiff", ".webp"})
OTHER_PICTURE_SUFFIXES = frozenset(
    {".heic", ".heif", ".avif", ".gif", ".dng", ".cr2", ".nef", ".arw", ".jfif", ".jp2", ".svg", ".pfm", ".ppm", ".jxl"}
)
MAX_PIXELS = 100_000_000  # a 100-megapixel picture is 300 MB as RGB; no deck camera is near it
MIN_SIDE = 10  # as Ultralytics
EXIF_ORIENTATION = 0x0112
EXIF_DETAILS = 0x8769
# DateTimeOriginal, SubSecTimeOriginal, OffsetTimeOriginal
EXIF_TAKEN, EXIF_TAKEN_FRACTION, EXIF_TAKEN_OFFSET = 0x9003, 0x9291, 0x9011
ORIENTATIONS_THAT_TURN = frozenset({5, 6, 7, 8})
# EXIF orientation -> what brings the picture upright (TIFF 6.0, tag Orientation).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_BYTES = 1 << 29
# What Pillow raises on damaged files, by format.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ZeroDivisionError,
    OverflowError,
)


class PictureError(Exception):
    """Why a picture cannot be used; `kind` is the problem's kind in a pool report."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(kind, text)  # both, so that it survives pickling between processes

    def __str__(self) -> str:
        return str(self.args[1])


@dataclass(frozen=True)
class PictureFacts:
    """width, height: pixels after EXIF orientation. sha256: of the file's bytes."""

    width: int
    height: int
    sha256: str
    turned: bool


def _open(data: bytes) -> Image.Image:
    """A lazily opened picture, its size checked. Raises PictureError."""
    if not data:
        raise PictureError("picture-unreadable", "the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own bomb warning: the limit below is ours
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise PictureError("picture-too-large", f"too many pixels (over {MAX_PIXELS:,})") from error
        except DAMAGED as error:
            raise PictureError("picture-unreadable", "not an image that can be read") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError("picture-too-large", f"{width}x{height} pixels; the limit is {MAX_PIXELS:,}")
    if min(width, height) < MIN_SIDE:
        raise PictureError("picture-too-small", f"{width}x{height} pixels; at least {MIN_SIDE} a side are needed")
    if image.format == "PNG":
        _verify(data)
    return image


def _verify(data: bytes) -> None:
    """Compare the checksums of a PNG: damaged bytes may still decode, to other pixels. Raises PictureError."""
    try:
        Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    except DAMAGED as error:
        raise PictureError("picture-truncated", f"damaged or cut short ({error})") from error


def _load(image: Image.Image) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image.load()
        except MemoryError as error:
            raise PictureError("picture-too-large", "the image does not fit into memory") from error
        except DAMAGED as error:
            raise PictureError("picture-truncated", f"damaged or cut short ({error})") from error


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except DAMAGED:  # broken EXIF: the picture itself is fine, and viewers show it unturned
        return 1
    return value if isinstance(value, int) else 1


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, MAX_BYTES)
    except OSError as error:
        kind = "picture-too-large" if error.errno == errno.EFBIG else "picture-unreadable"
        raise PictureError(kind, f"cannot be read ({error.strerror})") from error


def inspect_picture(path: Path, *, full: bool = False) -> PictureFacts:
    """Decode a picture once and say what it is. Raises PictureError.

    Without `full` a JPEG is decoded at an eighth of its size: all its bytes are still read by the decoder, so damage
    shows, at a third of the time.
    """
    data = _read(path)
    image = _open(data)
    width, height = image.size
    if not full:
        image.draft("L", (max(1, width // 8), max(1, height // 8)))
    _load(image)
    orientation = _orientation(image)  # not before: EXIF of a PNG is read by loading it, and a second load says nothing
    turned = orientation in ORIENTATIONS_THAT_TURN
    if turned:
        width, height = height, width
    return PictureFacts(width, height, hashlib.sha256(data).hexdigest(), orientation != 1)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits, where Pillow's own conversion would clip it to white."""
    if not image.mode.startswith("I;16"):
        return image
    same = image if image.mode == "I;16" else image.convert("I")  # Pillow scales no big-endian picture
    return same.point(lambda value: value / 256).convert("L")


def decode_picture(data: bytes) -> Image.Image:
    """RGB picture, upright, from the bytes of a file. Raises PictureError."""
    image = _open(data)
    _load(image)
    orientation = _orientation(image)
    # A fresh copy without metadata, so that nobody can apply the orientation a second time.
    rgb = _eight_bits(image).convert("RGB")
    rgb.info = {}
    return _upright(rgb, orientation)


def open_picture(path: Path) -> Image.Image:
    """Open a frame: RGB, EXIF orientation applied once, fully decoded, file closed.

    Raises InputError when the file is missing, not a picture, cut short, or has more than MAX_PIXELS pixels.
    """
    try:
        return decode_picture(_read(Path(path)))
    except PictureError as error:
        raise InputError(str(error), path, "check the path, or replace this image") from error


def grey_thumbnail(path: Path, size: tuple[int, int]) -> Image.Image:
    """A small upright grey picture of exactly `size` (width, height). Raises InputError.

    JPEGs are decoded at the smallest of libjpeg's scales that is still twice as large, which is what makes it quick.
    """
    try:
        image = _open(_read(Path(path)))
        image.draft("L", (2 * max(size), 2 * max(size)))
        _load(image)
        orientation = _orientation(image)
        grey = _upright(_eight_bits(image).convert("L"), orientation)
        return grey.resize(size, Image.Resampling.BOX)
    except PictureError as error:
        raise InputError(str(error), path, "check the path, or replace this image") from error


def taken(path: Path) -> datetime | None:
    """When the camera took it (EXIF DateTimeOriginal and SubSecTimeOriginal), with its zone where OffsetTimeOriginal
    gives one; None when it does not say."""
    try:
        details = _open(_read(path)).getexif().get_ifd(EXIF_DETAILS)
        moment = datetime.strptime(str(details[EXIF_TAKEN]).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        fraction, offset = (str(details.get(tag, "")).strip("\0 ") for tag in (EXIF_TAKEN_FRACTION, EXIF_TAKEN_OFFSET))
    except (PictureError, *DAMAGED):
        return None
    if fraction.isascii() and fraction.isdigit():
        moment = moment.replace(microsecond=int(fraction[:6].ljust(6, "0")))
    match = re.fullmatch(r"([+-])(\d\d):(\d\d)", offset, re.ASCII)
    if match is None or int(match[2]) > 14 or int(match[3]) > 59:
        return moment
    ahead = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return moment.replace(tzinfo=timezone(ahead if match[1] == "+" else -ahead))


def taken_at(path: Path) -> float | None:
    """When the camera took it as seconds, its zone taken as UTC; None when it does not say."""
    moment = taken(path)
    return None if moment is None else moment.replace(tzinfo=timezone.utc).timestamp()
