"""A contact sheet of synthetic pools: one frame a step, each anomaly close up, and the shifted pool beside them.

python -m deckbench.pool.synth.sheet SHEET.jpg POOL SHIFTED_POOL
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from deckbench.pool.synth.scene import ALWAYS, AT_STEP, CLASSES, STEPS

TILE = (320, 180)
COLUMNS = 5
CAPTION = 14
NORMAL, ANOMALY = (80, 220, 90), (255, 60, 50)


def scenes_of(pool: Path) -> list[dict[str, Any]]:
    """The sidecar of a pool."""
    return [json.loads(line) for line in (pool / "scenes.jsonl").read_text(encoding="utf-8").splitlines()]


def is_anomaly(item: dict[str, Any], scene: dict[str, Any]) -> bool:
    """Whether a labelled object is one of the frame's anomalies."""
    return item["class"] in ALWAYS or scene["step"] in AT_STEP.get(item["class"], ())


def boxed(pool: Path, scene: dict[str, Any]) -> Image.Image:
    """A frame with its boxes: green normal, red anomalous."""
    with Image.open(pool / f"{scene['frame']}.jpg") as file:
        picture = file.convert("RGB")
    pen = ImageDraw.Draw(picture)
    width, height = picture.size
    for item in sorted(scene["objects"], key=lambda o: is_anomaly(o, scene)):
        x0, y0, x1, y1 = item["box"]
        colour = ANOMALY if is_anomaly(item, scene) else NORMAL
        pen.rectangle((x0 * width, y0 * height, x1 * width - 1, y1 * height - 1), outline=colour, width=2)
    return picture.resize(TILE, Image.Resampling.LANCZOS)


def close_up(pool: Path, scene: dict[str, Any], item: dict[str, Any]) -> Image.Image:
    """The part of a frame around an object, with nothing drawn on it."""
    with Image.open(pool / f"{scene['frame']}.jpg") as file:
        picture = file.convert("RGB")
    width, height = picture.size
    x0, y0, x1, y1 = item["box"]
    half = min(max((x1 - x0) * width * TILE[1] / TILE[0], (y1 - y0) * height, 70.0) * 0.75, height / 2)
    wide = half * TILE[0] / TILE[1]
    cx = min(max((x0 + x1) / 2 * width, wide), width - wide)
    cy = min(max((y0 + y1) / 2 * height, half), height - half)
    area = (int(cx - wide), int(cy - half), int(cx + wide), int(cy + half))
    return picture.crop(area).resize(TILE, Image.Resampling.BICUBIC)


def choose(pool: Path, shifted: Path) -> Iterable[tuple[str, Image.Image]]:
    """Captions and tiles of the sheet, from different sessions where possible."""
    scenes = scenes_of(pool)
    used: set[str] = set()

    def first(candidates: Iterable[Any], session: Any) -> Any:
        found = list(candidates)
        fresh = [c for c in found if session(c) not in used]
        chosen = (fresh or found)[0]
        used.add(session(chosen))
        return chosen

    for step in STEPS:
        scene = first((s for s in scenes if s["step"] == step and not s["anomalies"]), lambda s: s["session"])
        yield f"{step}: normal", boxed(pool, scene)
    for name in CLASSES:
        hits = [(s, o) for s in scenes for o in s["objects"] if o["class"] == name and is_anomaly(o, s)]
        if hits:
            scene, item = first(hits, lambda hit: hit[0]["session"])
            at = f" at {scene['step']}" if name in AT_STEP else ""
            yield f"{name}{at}: anomaly", close_up(pool, scene, item)
    used.clear()
    others = scenes_of(shifted)
    for step in STEPS[1:]:
        scene = first((s for s in others if s["step"] == step), lambda s: s["session"])
        verdict = ", ".join(scene["anomalies"]) or "normal"
        yield f"shifted, {scene['step']}: {verdict}", boxed(shifted, scene)


def contact_sheet(out: Path, pool: Path, shifted: Path) -> None:
    """Write the sheet as a JPEG."""
    tiles = list(choose(pool, shifted))
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE[0], rows * (TILE[1] + CAPTION)), (24, 24, 26))
    pen = ImageDraw.Draw(sheet)
    for k, (caption, tile) in enumerate(tiles):
        x, y = k % COLUMNS * TILE[0], k // COLUMNS * (TILE[1] + CAPTION)
        sheet.paste(tile, (x, y))
        pen.text((x + 4, y + TILE[1] + 1), caption, fill=(230, 230, 230))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, "JPEG", quality=80)


if __name__ == "__main__":
    contact_sheet(*(Path(a) for a in sys.argv[1:4]))
