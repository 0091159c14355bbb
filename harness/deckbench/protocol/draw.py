"""The deck of an expected state as a picture, seen from above, so that a person can check what was folded."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.picture import OTHER_PICTURE_SUFFIXES, SUFFIXES
from deckbench.progress import say, track
from deckbench.protocol.analysis import Analysis
from deckbench.protocol.fold import Step
from deckbench.protocol.state import COLUMNS_OF_SLOTS, SLOTS, THERMOCYCLER_COVERS, DeckState, Labware, Module, Pipette
from deckbench.protocol.step_texts import step_text
from deckbench.protocol.texts import Texts, labware_name, module_name

SCALE = 1.25  # pixels a millimetre
PITCH = (round(132.5 * SCALE), round(90.5 * SCALE))
SIZE = (round(128 * SCALE), round(86 * SCALE))
PAD, FOOT, LINE = 6, 74, 14
PICTURE = (COLUMNS_OF_SLOTS * PITCH[0] + 2 * PAD, len(SLOTS) // COLUMNS_OF_SLOTS * PITCH[1] + 2 * PAD + FOOT)
SHEET_COLUMNS, SHEET_MOST = 4, 48
Box = tuple[int, int, int, int]
PAPER, INK, FAINT, DECK = (250, 250, 248), (25, 25, 28), (150, 150, 150), (226, 227, 229)
FILLS = {
    "tip rack": (52, 56, 62),
    "plate": (252, 252, 252),
    "reservoir": (214, 230, 240),
    "tube rack": (236, 222, 190),
    "block": (196, 198, 202),
    "adapter": (206, 206, 212),
    "lid": (232, 236, 226),
    "trash": (92, 92, 96),
    "other": (238, 226, 238),
}
MODULE_FILL, LID_FILL = (178, 198, 214), (150, 158, 166)
TIP, NO_TIP = (244, 232, 190), (84, 88, 95)
LEFT, RIGHT, HOLDS = (206, 60, 40), (30, 96, 190), (255, 226, 120)


@cache
def font(size: int) -> Any:
    """Pillow's own font: it has Latin letters only."""
    return ImageFont.load_default(size=size)


def draw_state(state: DeckState, texts: Texts, lines: Sequence[str] = ()) -> Image.Image:
    """A picture of the deck, with some lines of text below it.

    Args:
        state: As `fold` gives it.
        texts: Templates, for the names of things.
        lines: Texts to write below; the pipettes are added.
    """
    picture = Image.new("RGB", PICTURE, PAPER)
    pen = ImageDraw.Draw(picture)
    for slot in state.slots:
        box = slot_box(slot.name)
        pen.rectangle(box, fill=DECK, outline=FAINT)
    for slot in state.slots:
        if slot.module is not None:
            draw_module(pen, slot.module, texts)
        inner = labware_box(slot.name, slot.module)
        hidden = slot.module is not None and slot.module.kind == "thermocycler" and slot.module.lid == "closed"
        for depth, labware in enumerate(slot.stack):
            shift = 3 * (len(slot.stack) - 1 - depth)
            place = (inner[0] + shift, inner[1] + shift, inner[2] + shift, inner[3] + shift)
            if not hidden:
                draw_labware(pen, place, labware, texts)
        if slot.later:
            pen.text((inner[0] + 8, inner[1] + 30), "loaded later", fill=FAINT, font=font(11))
        corner = slot_box(slot.name)
        pen.rectangle((corner[0], corner[3] - LINE, corner[0] + 17, corner[3]), fill=DECK, outline=FAINT)
        pen.text((corner[0] + 3, corner[3] - LINE + 1), slot.name, fill=INK, font=font(11))
    for pipette in state.pipettes:
        draw_pipette(pen, state, pipette)
    y = PICTURE[1] - FOOT
    for line in (*lines, *footer(state, texts)):
        for part in textwrap.wrap(latin(line), 66)[:2]:
            pen.text((PAD, y), part, fill=INK, font=font(11))
            y += LINE
    return picture


def slot_box(name: str) -> Box:
    """A slot's place in the picture: slot 1 is at the front left, 12 at the back right."""
    row, column = divmod(SLOTS.index(name), COLUMNS_OF_SLOTS)
    x, y = PAD + column * PITCH[0], PAD + (len(SLOTS) // COLUMNS_OF_SLOTS - 1 - row) * PITCH[1]
    return x, y, x + SIZE[0], y + SIZE[1]


def labware_box(name: str, module: Module | None) -> Box:
    """Where labware of a slot is drawn; on a thermocycler in the middle of what it covers."""
    x0, y0, x1, y1 = slot_box(name)
    if module is not None and module.kind == "thermocycler":
        y0, y1 = y0 - PITCH[1] // 3, y1 - PITCH[1] // 3
    return x0 + 7, y0 + 5, x1 - 7, y1 - LINE - 1


def draw_module(pen: Any, module: Module, texts: Texts) -> None:
    """A module's body, its name and what is known of it."""
    boxes = [slot_box(name) for name in (THERMOCYCLER_COVERS if module.kind == "thermocycler" else (module.slot,))]
    body = tuple(f(box[i] for box in boxes) for i, f in enumerate((min, min, max, max)))
    pen.rectangle(body, fill=LID_FILL if module.lid == "closed" else MODULE_FILL, outline=INK)
    parts = [module_name(module, texts, "en")]
    parts += [f"{name} {value}" for name, value in (("lid", module.lid), ("latch", module.latch)) if value]
    parts += ["up" if module.magnet == "engaged" else "down"] if module.magnet else []
    parts += [f"{value:g} °C" for value in (module.block_c, module.lid_c) if value is not None]
    parts += [f"{module.rpm:g} rpm"] if module.rpm is not None else []
    x, y = body[0] + 20, body[3] - LINE + 1
    pen.text((x, y), latin(", ".join(parts)), fill=INK, font=font(10))


def draw_labware(pen: Any, box: Box, labware: Labware, texts: Texts) -> None:
    """Labware with its wells; those of a tip rack are light where a tip is."""
    x0, y0, x1, y1 = box
    pen.rectangle(box, fill=FILLS[labware.kind], outline=INK)
    dark = labware.kind in ("tip rack", "trash")
    name = latin(labware.label or labware_name(labware, texts, "en"))
    pen.text((x0 + 3, y0 + 1), name[:28], fill=PAPER if dark else INK, font=font(9))
    top, rows = y0 + 13, max(map(len, labware.columns), default=0)
    if not rows or labware.kind == "trash":
        return
    wide, tall = (x1 - x0 - 6) / len(labware.columns), (y1 - top - 4) / rows
    radius = max(1.0, min(wide, tall) / 2 - 0.8)
    for column, wells in enumerate(labware.columns):
        for row, well in enumerate(wells):
            x, y = x0 + 3 + (column + 0.5) * wide, top + (row + 0.5) * tall
            spot = (x - radius, y - radius, x + radius, y + radius)
            if labware.tips is None:
                pen.ellipse(spot, outline=FAINT)
            else:
                pen.ellipse(spot, fill=TIP if well in labware.tips else NO_TIP)


def draw_pipette(pen: Any, state: DeckState, pipette: Pipette) -> None:
    """A pipette where the gantry is: the one that was moved there, filled; the other is not drawn."""
    gantry = state.gantry
    if gantry.place == "unknown" or (gantry.mount is not None and gantry.mount != pipette.mount):
        return
    colour = LEFT if pipette.mount == "left" else RIGHT
    x0, y0, x1, y1 = slot_box("12" if gantry.slot is None else gantry.slot)
    if gantry.place == "home":
        x, y = x1 - (44 if pipette.mount == "left" else 16), y0 + 14
        pen.text((x1 - 40, y0 + 26), "home", fill=PAPER, font=font(10))
    elif gantry.position is not None:  # the critical point is over the well; decks are drawn from the front left
        x = round(PAD + gantry.position[0] * SCALE)
        y = round(PICTURE[1] - FOOT - PAD - gantry.position[1] * SCALE)
        x, y = min(max(x, 14), PICTURE[0] - 14), min(max(y, 14), PICTURE[1] - FOOT - 14)
    else:
        x, y = (x0 + x1) // 2, (y0 + y1) // 2
    fill = HOLDS if pipette.tips else PAPER
    pen.ellipse((x - 11, y - 11, x + 11, y + 11), outline=colour, width=3, fill=fill)
    pen.text((x - 7, y - 7), f"{pipette.mount[0].upper()}{len(pipette.tips) or ''}", fill=colour, font=font(12))


def footer(state: DeckState, texts: Texts) -> list[str]:
    """The pipettes and what is off the deck, in words."""
    lines = []
    for one in state.pipettes:
        wells = ", ".join(tip.well for tip in one.tips)
        held = f"{len(one.tips)} of slot {one.tips[0].slot}: {wells}" if one.tips else "no tip"
        lines.append(f"{one.mount} {one.name}: {held}")
    if state.off_deck:
        lines.append("off deck: " + ", ".join(labware_name(one, texts, "en") for one in state.off_deck))
    return lines


def latin(text: str) -> str:
    """A text as the font can show it."""
    return re.sub(r"[^\x20-\x7e\xa1-\xff]", "?", text.replace("\u03bc", "u").replace("\u00b5", "u"))


def step_picture(analysis: Analysis, step: Step, texts: Texts) -> Image.Image:
    """The deck when a step's command has ended."""
    words = step_text(step, analysis.commands[step.number], texts).en
    person = " (person)" if step.needs_person else ""
    return draw_state(step.state, texts, (f"{step.number}: {words}{person}",))


def write_sheet(analysis: Analysis, steps: Sequence[Step], texts: Texts, place: Path) -> None:
    """Draw the steps: a PNG with those at which something but the gantry changes, or a folder with a PNG of every step.

    Args:
        analysis: As `read_analysis` gives it.
        steps: What `fold` made of it.
        texts: Templates.
        place: A name that ends in `.png`, or a folder that is empty or does not exist yet.

    Raises:
        InputError: The place is taken.
    """
    check_sheet_place(place)
    if place.suffix.lower() == ".png":
        chosen = choose(steps)
        say(f"sheet: {len(chosen)} of {len(steps)} steps")
        artifact.atomic_write(place, png(sheet([step_picture(analysis, step, texts) for step in chosen])))
        return
    for step in track(steps, "steps drawn"):
        name = f"{step.number:05d}-{re.sub('[^A-Za-z0-9]', '-', step.command_type)[:60]}.png"
        artifact.atomic_write(place / name, png(step_picture(analysis, step, texts)), flush=False)


def check_sheet_place(place: Path) -> None:
    """Refuse a place where something else is. A sheet that is there is replaced. Raises InputError."""
    artifact.check_name(place)
    if place.suffix.lower() == ".png":
        if place.is_dir():
            raise InputError("the sheet is a directory; a file is expected", place, "choose another --sheet")
    elif place.suffix.lower() in {*SUFFIXES, *OTHER_PICTURE_SUFFIXES, ".svg", ".pdf"}:
        raise InputError(
            "a sheet is written as PNG", place, "name it NAME.png, or give a folder for a PNG of every step"
        )
    elif place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise InputError("the folder of the sheet is not empty", place, "choose another --sheet, or remove it first")


def choose(steps: Sequence[Step], most: int = SHEET_MOST) -> list[Step]:
    """The first step, those at which more changes than the gantry, and the last; evenly thinned to `most`."""
    found = [
        step
        for number, step in enumerate(steps)
        if number in (0, len(steps) - 1) or step.needs_person or changed(step.before, step.state)
    ]
    if len(found) <= most:
        return found
    return [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]


def changed(before: DeckState, after: DeckState) -> bool:
    """Whether more than the gantry differs."""
    return (before.slots, before.off_deck, before.pipettes, before.lights) != (
        after.slots,
        after.off_deck,
        after.pipettes,
        after.lights,
    )


def sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size as a table."""
    columns = min(SHEET_COLUMNS, max(1, len(pictures)))
    rows = -(-len(pictures) // columns) or 1
    whole = Image.new("RGB", (columns * PICTURE[0], rows * PICTURE[1]), FAINT)
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % columns * PICTURE[0], number // columns * PICTURE[1]))
    return whole


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG."""
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=False)
    return data.getvalue()
