"""A contact sheet: many pictures of a dataset with their questions and answers, for people to look at."""

from __future__ import annotations

import io
import random
import textwrap
from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from deckbench import artifact
from deckbench.dataset import Sample, read_samples, splits_of
from deckbench.errors import InputError
from deckbench.picture import open_picture

CELL = (352, 216)  # pixels of one picture's place
TEXT_LINES = 7
LINE = 14
PAD = 6


def contact_sheet(
    dataset: Path, out: Path, *, count: int = 24, columns: int = 4, split: str | None = None, seed: int = 0
) -> Path:
    """Write a PNG with up to `count` pictures, classes in turn, each with what is asked about it.

    split: train, val or test; None takes all. Raises InputError when the folder holds no sample.
    """
    dataset = Path(dataset)
    parts = [split] if split is not None else splits_of(dataset)
    by_picture: dict[Path, list[Sample]] = defaultdict(list)
    for part in parts:
        for sample in read_samples(dataset, part):
            by_picture[sample.image].append(sample)
    if not by_picture:
        raise InputError("the dataset holds no sample", dataset, "build it again")
    chosen = _choose(by_picture, count, seed)
    rows = -(-len(chosen) // columns)
    cell_height = CELL[1] + TEXT_LINES * LINE + 2 * PAD
    sheet = Image.new("RGB", (columns * (CELL[0] + PAD) + PAD, rows * (cell_height + PAD) + PAD), (245, 245, 245))
    for number, image in enumerate(chosen):
        left = PAD + (number % columns) * (CELL[0] + PAD)
        top = PAD + (number // columns) * (cell_height + PAD)
        _cell(sheet, left, top, image, by_picture[image])
    data = io.BytesIO()
    sheet.save(data, "PNG")
    artifact.atomic_write(Path(out), data.getvalue())
    return Path(out)


def _choose(by_picture: dict[Path, list[Sample]], count: int, seed: int) -> list[Path]:
    """Pictures of every class in turn, in an order that depends on the seed only."""
    by_class: dict[str, list[Path]] = defaultdict(list)
    for image in sorted(by_picture):
        by_class[by_picture[image][0].cls or ""].append(image)
    rng = random.Random(seed)
    queues = []
    for cls in sorted(by_class):
        rng.shuffle(by_class[cls])
        queues.append(by_class[cls])
    chosen: list[Path] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    return chosen


def _cell(sheet: Image.Image, left: int, top: int, image: Path, samples: list[Sample]) -> None:
    picture = open_picture(image)
    scale = min(CELL[0] / picture.width, CELL[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    sheet.paste(picture, (left + (CELL[0] - size[0]) // 2, top + (CELL[1] - size[1]) // 2))
    lines: list[str] = [f"[{samples[0].split}] {samples[0].cls or '-'} {samples[0].step or ''}"]
    for sample in samples:
        words = sample.question.replace("\nAnswer with A or B only.", "").replace("\n只回答 A 或 B。", "")
        lines += textwrap.wrap(" / ".join(words.split("\n")) + f" -> {sample.answer}", 62)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for number, line in enumerate(lines[:TEXT_LINES]):
        draw.text((left, top + CELL[1] + PAD + number * LINE), line, fill=(20, 20, 20), font=font)
