"""A contact sheet of a pool of a protocol's runs: frames with their step, their checks, and what is wrong.

python -m deckbench.pool.synth.protocol_sheet SHEET.jpg POOL [FIRST]
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from deckbench.picture import open_picture
from deckbench.pool.synth.sheet import ANOMALY, NORMAL
from deckbench.yolo.frame import Frame
from deckbench.yolo.read import read_pool

TILE = (400, 225)
COLUMNS, ROWS = 3, 4
LINE, MOST = 12, 66
STEP = (240, 220, 120)


def tile_of(frame: Frame) -> Image.Image:
    """A frame with the regions of its checks, and below it the step and what was expected: red where it is not so."""
    tile = Image.new("RGB", (TILE[0], TILE[1] + 4 * LINE + 4), (24, 24, 26))
    tile.paste(open_picture(frame.path).resize(TILE, Image.Resampling.LANCZOS))
    pen = ImageDraw.Draw(tile)
    pen.text((3, TILE[1] + 1), plain(frame.step or "")[:MOST], fill=STEP)
    for row, check in enumerate(frame.checks[:3], 1):
        colour = NORMAL if check.verdict == "normal" else ANOMALY
        for x0, y0, x1, y1 in check.regions:
            pen.rectangle((x0 * TILE[0], y0 * TILE[1], x1 * TILE[0] - 1, y1 * TILE[1] - 1), outline=colour, width=2)
        expected = "" if check.expected is None else check.expected.en or ""
        text = "; ".join(filter(None, (plain(expected), *check.anomaly)))
        pen.text((3, TILE[1] + 1 + row * LINE), text[:MOST], fill=colour)
    return tile


def plain(text: str) -> str:
    """Without what Pillow's own font does not have."""
    return text.replace("µ", "u")


def contact_sheet(out: Path, pool: Path, first: int = 0) -> None:
    """Write the sheet of the frames from `first` on as a JPEG."""
    tiles = [tile_of(frame) for frame in read_pool(pool).frames[first : first + COLUMNS * ROWS]]
    height = TILE[1] + 4 * LINE + 4
    sheet = Image.new("RGB", (COLUMNS * TILE[0], -(-len(tiles) // COLUMNS) * height))
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % COLUMNS * TILE[0], index // COLUMNS * height))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, "JPEG", quality=72)


if __name__ == "__main__":
    contact_sheet(Path(sys.argv[1]), Path(sys.argv[2]), *(int(text) for text in sys.argv[3:4]))
