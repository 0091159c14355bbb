"""Questions and answers that a tiny base is pretrained on: what stands on a deck, and in which state it is.

From one line of a pool's `scenes.jsonl` (the renderer's full truth) and its picture this makes several views (whole
frame, frame with a box drawn, crop), each with several short questions and answers. Everything is a pure function of
the scene and a random generator. No question asks whether something is normal or wrong: the stages train that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Scene = dict[str, Any]
QA = tuple[str, str]

CHOICE = "{question}\nA. {a}\nB. {b}\nAnswer with A or B only."
BOX_COLOUR = (255, 40, 40)
REACH = 0.035  # of the frame's width: what a widened box around a tip holds to either side of its middle

# state -> how often an object in that state is picked for a box or a crop, against 1 for an ordinary one
RARE = {"bent": 48.0, "missing": 48.0, "tilted": 24.0, "holes": 24.0, "heaped": 16.0, "wet": 24.0, "bare": 16.0}
RARE_KINDS = {"tube rack": 18.0, "reservoir": 18.0, "tip": 0.5}

KINDS = (
    "magnetic module", "temperature module", "tip rack", "white plate", "square plate", "tube rack", "reservoir",
    "thermocycler", "trash bin", "empty slot", "tip", "puddle",
)  # fmt: skip
STATES = {
    "magnetic module": ("seated",),
    "temperature module": ("seated",),
    "tip rack": ("full", "used", "holes"),
    "white plate": ("seated", "tilted"),
    "square plate": ("seated", "tilted"),
    "tube rack": ("seated",),
    "reservoir": ("seated",),
    "thermocycler": ("open", "closed"),
    "trash bin": ("clear", "heaped"),
    "empty slot": ("bare",),
    "tip": ("straight", "bent", "missing"),
    "puddle": ("wet",),
}
# tips are told apart best by asking for the state alone; these are the pairs a frame is asked about as a whole
SEEN_ANYWHERE = (
    ("tip", "bent", "a bent tip"),
    ("tip", "missing", "a bare nozzle"),
    ("tip", "straight", "a straight tip"),
    ("tip rack", "holes", "a rack with holes"),
    ("white plate", "tilted", "a tilted plate"),
    ("tube rack", None, "a tube rack"),
    ("reservoir", None, "a reservoir"),
    ("puddle", "wet", "a puddle"),
    ("trash bin", "heaped", "a heaped bin"),
    ("empty slot", "bare", "a bare place"),
    ("thermocycler", "open", "an open lid"),
    ("thermocycler", "closed", "a closed lid"),
)


WHOLE = (0.0, 0.0, 1.0, 1.0)
LABELS = tuple((kind, state) for kind, states in STATES.items() for state in states)


@dataclass(frozen=True)
class View:
    """One picture (RGB) and the questions about it.

    region: the part of the frame that the picture shows; box: the drawn one; both (x0, y0, x1, y1), parts of the frame.
    """

    image: Image.Image
    turns: tuple[QA, ...]
    region: tuple[float, ...] = WHOLE
    box: tuple[float, ...] | None = None


def overlap(box: Sequence[float], region: Sequence[float], rows: int, columns: int) -> Any:
    """(rows, columns) float64: how much of each cell of a grid over `region` (rows from the top) the box covers.

    As part of the cell, or of the box where that is smaller: a tip may fill less than a cell.
    """
    share = np.ones((rows, columns))
    for axis, low, high in ((1, 0, 2), (0, 1, 3)):
        side = share.shape[axis]
        edges = region[low] + (region[high] - region[low]) * np.arange(side + 1) / side
        inside = np.clip(np.minimum(box[high], edges[1:]) - np.maximum(box[low], edges[:-1]), 0, None)
        part = inside / min(edges[1] - edges[0], max(box[high] - box[low], 1e-6))
        share *= part[None, :] if axis == 1 else part[:, None]
    return share


def grid_labels(scene: Scene, view: View, rows: int, columns: int, *, region: tuple[float, ...] | None = None) -> Any:
    """(rows * columns, len(LABELS) + 1) float32 of 0 and 1: which kinds and states each cell of the picture shows.

    The last column: whether the cell lies in the drawn box. region: what the cells cover (default: the view's own).
    """
    region = region or view.region
    grid = np.zeros((rows, columns, len(LABELS) + 1), dtype=np.float32)
    for obj in scene["objects"]:
        column = LABELS.index((obj["kind"], obj["state"]))
        grid[..., column] = np.maximum(grid[..., column], overlap(obj["box"], region, rows, columns) >= 0.3)
    if view.box is not None:
        grid[..., -1] = overlap(view.box, region, rows, columns) >= 0.3
    return grid.reshape(rows * columns, -1)


def name(kind: str, state: str) -> str:
    """`white plate, tilted`: the closed form in which the base names things."""
    return f"{kind}, {state}"


def choice(rng: np.random.Generator, question: str, right: str, wrong: str) -> QA:
    """An A/B question in the tasks' form with the two options in random order."""
    if rng.random() < 0.5:
        return CHOICE.format(question=question, a=right, b=wrong), "A"
    return CHOICE.format(question=question, a=wrong, b=right), "B"


def repeat(text: str) -> QA:
    """A text to say again. So the base can produce the words that the stages will use; it learns nothing about them."""
    return f"Repeat: {text}", text


def pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    """One of `items`, evenly."""
    return items[int(rng.integers(len(items)))]


def other_state(rng: np.random.Generator, kind: str, state: str) -> str | None:
    """Another state that this kind can be in, or None."""
    others = [s for s in STATES.get(kind, ()) if s != state]
    return pick(rng, others) if others else None


def seen(scene: Scene) -> set[tuple[str, str]]:
    """Every (kind, state) that the frame shows."""
    return {(o["kind"], o["state"]) for o in scene["objects"]}


def has(found: set[tuple[str, str]], kind: str, state: str | None) -> bool:
    """Whether a (kind, state) is among those found; `white plate` stands for any plate when tilted."""
    kinds = {"white plate", "square plate"} if (kind, state) == ("white plate", "tilted") else {kind}
    return any(k in kinds and (state is None or s == state) for k, s in found)


def slot_truth(scene: Scene, slot: str) -> str:
    """`temperature module, seated with white plate, seated` or `empty slot, bare`."""
    entry = scene["slots"][slot]
    text = name(entry["kind"], entry["state"])
    on = entry.get("on")
    return f"{text} with {name(on['kind'], on['state'])}" if on else text


def frame_turns(scene: Scene, rng: np.random.Generator) -> list[QA]:
    """Questions about the whole frame: slots, tips, and what can be seen anywhere (as often yes as no)."""
    turns: list[QA] = []
    slots = [str(s) for s in rng.permutation(np.arange(1, 13))]
    turns += [(f"What is in slot {s}?", slot_truth(scene, s)) for s in slots[:5]]
    right, wrong = slot_truth(scene, slots[5]), slot_truth(scene, slots[6])
    if right != wrong:
        turns.append(choice(rng, f"Which is in slot {slots[5]}?", right, wrong))
    tips = [t["state"] for t in scene["pipette"]["tips"]]
    turns.append(("Name the tips from left to right.", " ".join(tips) if tips else "no tips"))
    found = seen(scene)
    there = [x for x in SEEN_ANYWHERE if has(found, x[0], x[1])]
    absent = [x for x in SEEN_ANYWHERE if not has(found, x[0], x[1])]
    there = [there[int(i)] for i in rng.permutation(len(there))]
    absent = [absent[int(i)] for i in rng.permutation(len(absent))]
    # rare things first and no more absent things than present ones: presence is then no matter of habit
    there.sort(key=lambda x: x[1] not in RARE and x[0] not in RARE_KINDS)
    for item, word in [*((x, "yes") for x in there[:3]), *((x, "no") for x in absent[:3])]:
        turns.append((f"Is {item[2]} in the picture?", word))
    if there and absent:
        turns.append(choice(rng, "Which is in the picture?", there[0][2], absent[0][2]))
        item, word = ((there[-1], "yes"), (absent[-1], "no"))[int(rng.integers(2))]
        turns.append(choice(rng, f"Is {item[2]} in the picture?", word, "no" if word == "yes" else "yes"))
    order = [SEEN_ANYWHERE[int(i)] for i in rng.permutation(len(SEEN_ANYWHERE))[:4]]
    listing = ", ".join("yes" if has(found, k, s) else "no" for k, s, _ in order)
    turns.append((f"Look for {', '.join(phrase for _, _, phrase in order)}.", listing))
    return turns


def object_turns(obj: dict[str, Any], rng: np.random.Generator, where: str) -> list[QA]:
    """Questions about one object, shown by a box or as a crop. `where` is `in the box` or `shown`."""
    kind, state = obj["kind"], obj["state"]
    full = name(kind, state)
    turns: list[QA] = [(f"What is {where}?", full)]
    instead = other_state(rng, kind, state)
    if instead is not None:
        turns.append((f"What state is the {kind} {where} in?", state))
        asked, word = ((state, "yes"), (instead, "no"))[int(rng.integers(2))]
        turns.append((f"Is the thing {where} {asked}?", word))
        forms = (
            choice(rng, f"Which is {where}?", full, name(kind, instead)),
            choice(rng, f"Which state has the thing {where}?", state, instead),
            choice(rng, f"Is the thing {where} {asked}?", word, "no" if word == "yes" else "yes"),
        )
        turns.append(pick(rng, forms))
    else:
        wrong = pick(rng, [k for k in KINDS if k != kind])
        turns.append(choice(rng, f"Which is {where}?", full, name(wrong, pick(rng, STATES[wrong]))))
    return turns


def clear(obj: dict[str, Any], objects: Sequence[dict[str, Any]]) -> bool:
    """Whether a box around the object shows its state only: a straight tip right beside a bent one is not clear."""
    if (obj["kind"], obj["state"]) != ("tip", "straight"):
        return True
    odd = [o["box"] for o in objects if o["kind"] == "tip" and o["state"] != "straight"]
    return all(abs(box[0] + box[2] - obj["box"][0] - obj["box"][2]) / 2 > REACH for box in odd)


def pick_object(scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """One labelled object that is clear, rare states and kinds preferred."""
    objects = [obj for obj in scene["objects"] if clear(obj, scene["objects"])]
    weights = np.array([RARE.get(o["state"], 1.0) * RARE_KINDS.get(o["kind"], 1.0) for o in objects])
    return dict(objects[int(rng.choice(len(objects), p=weights / weights.sum()))])


Pixels = tuple[float, float, float, float]


def jittered(box: Sequence[float], rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """A box in pixels, widened by a random margin on every side so that its shape tells little."""
    width, height = size
    x0, y0, x1, y1 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    margins = 3 + rng.random(4) * 0.35 * np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0]) + rng.random(4) * 8
    return (
        max(0.0, x0 - margins[0]),
        max(0.0, y0 - margins[1]),
        min(width - 1.0, x1 + margins[2]),
        min(height - 1.0, y1 + margins[3]),
    )


def boxed_view(image: Image.Image, scene: Scene, rng: np.random.Generator) -> View:
    """The frame with one object's box drawn, and questions about what is in the box."""
    obj = pick_object(scene, rng)
    drawn = image.copy()
    x0, y0, x1, y1 = jittered(obj["box"], rng, image.size)
    ImageDraw.Draw(drawn).rectangle((x0, y0, x1, y1), outline=BOX_COLOUR, width=int(rng.integers(3, 5)))
    part = (x0 / image.width, y0 / image.height, x1 / image.width, y1 / image.height)
    return View(drawn, tuple(object_turns(obj, rng, "in the box")), box=part)


def crop_view(image: Image.Image, scene: Scene, rng: np.random.Generator) -> View:
    """A crop around one object, and questions about what is shown."""
    obj = pick_object(scene, rng)
    x0, y0, x1, y1 = jittered(obj["box"], rng, image.size)
    grow = max(0.0, (24 - (x1 - x0)) / 2), max(0.0, (24 - (y1 - y0)) / 2)
    box = (x0 - grow[0], y0 - grow[1], x1 + grow[0], y1 + grow[1])
    x_end, y_end = min(image.width, int(box[2]) + 1), min(image.height, int(box[3]) + 1)
    cut = (max(0, int(box[0])), max(0, int(box[1])), x_end, y_end)
    part = tuple(edge / length for edge, length in zip(cut, image.size * 2, strict=True))
    return View(image.crop(cut), tuple(object_turns(obj, rng, "shown")), region=part)


def views(image: Image.Image, scene: Scene, rng: np.random.Generator, boxes: int = 2, crops: int = 1) -> list[View]:
    """The whole frame, `boxes` boxed frames and `crops` crops of one scene, with their questions."""
    return [
        View(image, tuple(frame_turns(scene, rng))),
        *(boxed_view(image, scene, rng) for _ in range(boxes)),
        *(crop_view(image, scene, rng) for _ in range(crops)),
    ]
