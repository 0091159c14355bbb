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
TEXT_LINES = (7, 26)  # fewest and most below a picture
LETTERS = 62
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
    texts = {image: _lines(by_picture[image]) for image in chosen}
    lines = min(TEXT_LINES[1], max(TEXT_LINES[0], *map(len, texts.values())))
    cell_height = CELL[1] + lines * LINE + 2 * PAD
    sheet = Image.new("RGB", (columns * (CELL[0] + PAD) + PAD, rows * (cell_height + PAD) + PAD), (245, 245, 245))
    for number, image in enumerate(chosen):
        left = PAD + (number % columns) * (CELL[0] + PAD)
        top = PAD + (number // columns) * (cell_height + PAD)
        _cell(sheet, left, top, image, texts[image][:lines])
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


def _lines(samples: list[Sample]) -> list[str]:
    """What is asked about a picture: each line of a question once, the answer after its last."""
    parts = [samples[0].cls or "-", samples[0].view or ""]
    lines = [" ".join([f"[{samples[0].split}]", *filter(None, parts)])]
    shown: set[str] = set()
    check = None
    for sample in sorted(samples, key=lambda sample: (sample.step or "", sample.phase or "", sample.check or "")):
        if check != (check := (sample.step, sample.phase, sample.check)):
            shown = set()
        words = sample.question.replace("\nAnswer with A or B only.", "").replace("\n只回答 A 或 B。", "")
        *context, question = words.split("\nA. ")[0].split("\n")
        options = f" A. {sample.option_a} B. {sample.option_b}" if sample.option_a else ""
        about = f"* {sample.step or ''} {sample.phase or ''}: {sample.check}"
        if sample.check and sample.check not in sample.question and about not in shown:
            shown.add(about)
            lines += textwrap.wrap(about, LETTERS)
        for line in context:
            if line not in shown:
                lines += textwrap.wrap(line, LETTERS)
            shown.add(line)
        lines += textwrap.wrap(f"{question}{options} -> {sample.answer}", LETTERS)
    return lines


def _cell(sheet: Image.Image, left: int, top: int, image: Path, lines: list[str]) -> None:
    picture = open_picture(image)
    scale = min(CELL[0] / picture.width, CELL[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    sheet.paste(picture, (left + (CELL[0] - size[0]) // 2, top + (CELL[1] - size[1]) // 2))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for number, line in enumerate(lines):
        draw.text((left, top + CELL[1] + PAD + number * LINE), line, fill=(20, 20, 20), font=font)
