"""Small pools made by hand: every label is known, so every expected sample can be counted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from deckbench.yolo.frame import Box, Frame

SIZE = (160, 90)
NAMES = ("trash_bin", "trash_overfull", "white_plate", "plate_crooked", "pcr_lid_open", "pcr_lid_closed", "spill")
# What is in a frame, by number in its session: a step and labels (class, cx, cy, w, h).
Label = tuple[str, float, float, float, float]
SCENES: tuple[tuple[str, tuple[Label, ...]], ...] = (
    ("setup", (("trash_bin", 0.2, 0.2, 0.2, 0.2), ("white_plate", 0.5, 0.6, 0.2, 0.2))),
    ("setup", (("trash_overfull", 0.2, 0.2, 0.2, 0.2), ("white_plate", 0.5, 0.6, 0.2, 0.2))),
    ("thermocycle", (("pcr_lid_closed", 0.7, 0.4, 0.3, 0.3), ("white_plate", 0.4, 0.6, 0.2, 0.2))),
    ("thermocycle", (("pcr_lid_open", 0.7, 0.4, 0.3, 0.3), ("plate_crooked", 0.4, 0.6, 0.2, 0.2))),
    ("transfer", (("trash_bin", 0.2, 0.2, 0.2, 0.2), ("spill", 0.6, 0.7, 0.1, 0.1))),
    ("transfer", (("trash_bin", 0.2, 0.2, 0.2, 0.2), ("pcr_lid_open", 0.7, 0.4, 0.3, 0.3))),
)
WRONG = ("", "trash_overfull", "", "plate_crooked;pcr_lid_open@thermocycle", "spill", "")


def picture(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    """Blocks of random grey: no two alike."""
    rng = random.Random(seed)
    small = Image.frombytes("L", (16, 9), rng.randbytes(16 * 9))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size, Image.Resampling.NEAREST).convert("RGB").save(path, quality=90)


def write_pool(
    root: Path,
    *,
    sessions: int = 10,
    names: Sequence[str] = NAMES,
    scenes: Sequence[tuple[str, tuple[Label, ...]]] = SCENES,
    wrong: Sequence[str] | None = WRONG,
    yaml: str = "",
) -> Path:
    """A YOLO pool in which session i is named `s<i>`; the first 60% are train, then val, then test."""
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    rows = ["frame,group,step,anomalies" if wrong is not None else "frame,group,step"]
    for session in range(sessions):
        part = "train" if session < 0.6 * sessions else "val" if session < 0.8 * sessions else "test"
        for number, (step, labels) in enumerate(scenes):
            frame = f"images/s{session:02d}f{number}"
            picture(root / f"{frame}.jpg", session * 100 + number)
            text = "".join(f"{names.index(name)} {x} {y} {w} {h}\n" for name, x, y, w, h in labels)
            label = root / "labels" / f"s{session:02d}f{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text)
            rows.append(f"{frame},s{session:02d},{step}" + (f",{wrong[number]}" if wrong is not None else ""))
            parts[part].append(f"./{frame}.jpg")
    (root / "frames.csv").write_text("\n".join(rows) + "\n")
    lines = ["path: .", *(f"{part}: {part}.txt" for part in parts), f"names: [{', '.join(names)}]", yaml]
    (root / "dataset.yaml").write_text("\n".join(lines) + "\n")
    for part, frames in parts.items():
        (root / f"{part}.txt").write_text("\n".join(frames) + "\n")
    return root


def frame(number: int, labels: Sequence[Label], **more: Any) -> Frame:
    """A frame in memory; its class ids are not used by planners."""
    boxes = tuple(
        Box(0, name, x - w / 2, y - h / 2, x + w / 2, y + h / 2, None, line)
        for line, (name, x, y, w, h) in enumerate(labels, 1)
    )
    fields: dict[str, Any] = {"split": None, "group": f"g{number}", "time_s": None, "step": None, "anomalies": None}
    fields |= more
    return Frame(
        id=f"images/f{number:04d}", path=Path(f"f{number:04d}.jpg"), labels=None, width=640, height=360, boxes=boxes,
        sha256="", **fields,
    )  # fmt: skip
