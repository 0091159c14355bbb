"""Which frames were made from one picture, by the names that augmenting and slicing tools give them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from deckbench.yolo.frame import Frame

FORMS = "NAME_jpg.rf.HASH, NAME_X0_Y0_X1_Y1, NAME__SCALE__X___Y"
AUGMENTED = re.compile(r"(.+)_(?:jpe?g|png|bmp|tiff?|webp)\.rf\.[0-9a-z]{16,}", re.ASCII | re.IGNORECASE)  # Roboflow
SLICED = re.compile(r"(.+)_(\d+)_(\d+)_(\d+)_(\d+)", re.ASCII)  # SAHI
SPLIT = re.compile(r"(.+)__[\d.]+__\d+___\d+", re.ASCII)  # Ultralytics
SURE_SIDE = 64  # pixels of a slice; hours, minutes and seconds in a name are never so far apart


def is_slice(corners: Sequence[int], frame: Frame) -> bool:
    """Whether four numbers are corners of a slice of this frame's shape, not a date or a counter."""
    width, height = corners[2] - corners[0], corners[3] - corners[1]
    if min(width, height) < 1:
        return False
    same_shape = abs(width * frame.height - height * frame.width) <= 0.03 * width * frame.height
    return min(width, height) >= SURE_SIDE or (same_shape and min(width, height) >= 10)


def source_name(frame: Frame) -> str | None:
    """The name of the picture that a frame was made from; None where its own name does not say."""
    name = frame.path.stem
    while True:
        sliced = SLICED.fullmatch(name)
        if match := AUGMENTED.fullmatch(name) or SPLIT.fullmatch(name):
            name = match[1]
        elif sliced and is_slice([int(number) for number in sliced.groups()[1:]], frame):
            name = sliced[1]
        else:
            return name if name != frame.path.stem else None


def shared_sources(frames: Sequence[Frame]) -> list[str | None]:
    """For each frame the source that it has in common with another frame, or None."""
    names = [source_name(frame) for frame in frames]
    # The picture itself may lie in the pool, too.
    named = {name for name in names if name is not None}
    names = [frame.path.stem if frame.path.stem in named else name for frame, name in zip(frames, names, strict=True)]
    counts = Counter(names)
    return [name if name is not None and counts[name] > 1 else None for name in names]
