"""Small pools for tests, written file by file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [plate, rack]\n"
ROW = "0 0.5 0.5 0.2 0.2\n"


def picture(seed: int, size: tuple[int, int] = (64, 48), cells: tuple[int, int] = (12, 8)) -> Image.Image:
    """A picture of its own: random patches, so that two seeds never look alike."""
    cut = np.random.default_rng(seed).integers(0, 255, (cells[1], cells[0], 3), dtype=np.uint8)
    return Image.fromarray(cut).resize(size, Image.Resampling.BICUBIC)


def write_pool(
    root: Path,
    *,
    yaml: str = YAML,
    frames: Mapping[str, str | None] | None = None,
    files: Mapping[str, str | bytes] | None = None,
    yaml_name: str = "dataset.yaml",
) -> Path:
    """frames: picture path below images/ -> label text (None: no label file). files: more files, by path."""
    root.mkdir(parents=True, exist_ok=True)
    (root / yaml_name).write_text(yaml, encoding="utf-8")
    frames = {"train/a.png": ROW, "train/b.png": ROW, "val/c.png": ""} if frames is None else frames
    for number, (name, text) in enumerate(frames.items()):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path, "PNG" if path.suffix.lower() == ".png" else "JPEG")
        if text is not None:
            label = (root / "labels" / name).with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text, encoding="utf-8")
    for name, data in (files or {}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root
