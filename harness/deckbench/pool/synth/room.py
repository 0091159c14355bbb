"""What stands around the deck: the room and its clutter, with the numbers of the slots."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from deckbench.pool.synth import geometry as geo
from deckbench.pool.synth.brush import Brush, scaled
from deckbench.pool.synth.draw_labware import CAPS

DIGITS: dict[str, list[list[tuple[float, float]]]] = {
    "0": [[(0, 0), (1, 0), (1, 2), (0, 2), (0, 0)]],
    "1": [[(0.5, 0), (0.5, 2), (0.2, 1.6)]],
    "2": [[(0, 2), (1, 2), (1, 1), (0, 1), (0, 0), (1, 0)]],
    "3": [[(0, 2), (1, 2), (1, 0), (0, 0)], [(0.2, 1), (1, 1)]],
    "4": [[(0, 2), (0, 1), (1, 1)], [(1, 2), (1, 0)]],
    "5": [[(1, 2), (0, 2), (0, 1), (1, 1), (1, 0), (0, 0)]],
    "6": [[(1, 2), (0, 2), (0, 0), (1, 0), (1, 1), (0, 1)]],
    "7": [[(0, 2), (1, 2), (0.4, 0)]],
    "8": [[(0, 0), (1, 0), (1, 2), (0, 2), (0, 0)], [(0, 1), (1, 1)]],
    "9": [[(1, 1), (0, 1), (0, 2), (1, 2), (1, 0), (0, 0)]],
}


def draw_room(brush: Brush, seed: int) -> None:
    """Deck plate with slots and numbers, the robot's walls, clutter at the rim."""
    look = brush.look
    rng = np.random.Generator(np.random.PCG64(seed))
    x0, y0, x1, y1 = geo.deck_rectangle()
    brush.place(np.eye(3), np.zeros(3))
    brush.face(np.array([(x1, y0 - 200, -30), (x1, y1 + 200, -30), (x1, y1 + 200, 700), (x1, y0 - 200, 700)]),
               look.room, (-1, 0, 0))  # fmt: skip
    for k in range(int(rng.integers(2, 6))):  # what is seen through the far window
        a = rng.uniform(y0, y1)
        b, c = a + rng.uniform(30, 160), rng.uniform(60, 260)
        colour = scaled(look.room, float(rng.uniform(0.6, 1.3)))
        brush.face(np.array([(x1 - 1 - k, a, 40), (x1 - 1 - k, b, 40), (x1 - 1 - k, b, c), (x1 - 1 - k, a, c)]), colour,
                   (-1, 0, 0))  # fmt: skip
    brush.face(np.array([(x0 - 200, y1, -30), (x1, y1, -30), (x1, y1, 700), (x0 - 200, y1, 700)]),
               scaled(look.room, 0.8), (0, -1, 0))  # fmt: skip
    brush.face(np.array([(x0 - 300, y0 - 300, -40), (x1, y0 - 300, -40), (x1, y1, -40), (x0 - 300, y1, -40)]),
               scaled(look.deck, 0.45))  # fmt: skip
    brush.solid(geo.box_corners((x1 - x0, y1 - y0, 12)) + np.array([x0, y0, -12]), look.deck, 0, look.deck)
    for k in range(6):  # brushed metal: faint broad streaks
        a = y0 + (y1 - y0) * rng.random()
        brush.plate(x0, a, x1, min(y1, a + rng.uniform(10, 60)), 0.02, (255, 255, 255) if k % 2 else (0, 0, 0), 12)
    width, depth = geo.slot_size()
    line_dark, line_light = scaled(look.deck, 0.6), scaled(look.deck, 1.32)
    for slot in geo.SLOTS:
        sx, sy = geo.slot_corner(slot)
        brush.plate(sx - 1.6, sy - 1.6, sx + width + 1.6, sy + depth + 1.6, 0.05, line_dark)
        brush.plate(sx - 0.2, sy - 0.2, sx + width, sy + depth, 0.1, scaled(look.deck, 1.1))
        for cx, cy in ((0, 0), (width - 10, 0), (0, depth - 10), (width - 10, depth - 10)):
            brush.plate(sx + cx, sy + cy, sx + cx + 10, sy + cy + 10, 0.15, line_light)
        brush.plate(sx + 10, sy + 10, sx + width - 10, sy + depth - 10, 0.15, look.deck)
        text = str(slot)
        for k, digit in enumerate(text):
            for stroke in DIGITS[digit]:
                for (ax, ay), (bx, by) in pairwise(stroke):
                    left = sx + 56 + 16 * (k - (len(text) - 1) / 2)
                    one = np.array([left + ax * 10, sy + 30 + ay * 13, 0.2])
                    two = np.array([left + bx * 10, sy + 30 + by * 13, 0.2])
                    along = (two - one) / max(1e-6, float(np.linalg.norm(two - one)))
                    side = np.array([-along[1], along[0], 0]) * 1.3
                    brush.face(np.stack([one - side, one + side, two + side, two - side]), scaled(look.deck, 1.55))
    draw_clutter(brush, rng)


def draw_clutter(brush: Brush, rng: np.random.Generator) -> None:
    """Cables, a glove or tubes at the rim or outside of the slots."""
    x0, y0, _, _ = geo.deck_rectangle()
    for _ in range(int(rng.integers(0, 3))):
        colour = CAPS[int(rng.integers(5))] if rng.random() < 0.4 else (26, 26, 28)
        on_right = rng.random() < 0.6
        t = np.linspace(0, 1, 14)
        if on_right:
            x = rng.uniform(400, 470) + 25 * np.sin(t * rng.uniform(2, 6) + rng.uniform(0, 6))
            y = y0 + 20 + t * rng.uniform(150, 330)
        else:
            x = x0 + 20 + t * rng.uniform(200, 500)
            y = rng.uniform(-60, -30) + 14 * np.sin(t * rng.uniform(2, 7) + rng.uniform(0, 6))
        points = np.stack([x, y, np.full(14, 3.0)], axis=1)
        for a, b in pairwise(points):
            side = np.array([-(b - a)[1], (b - a)[0], 0]) / max(1e-6, float(np.linalg.norm(b - a))) * 2.2
            brush.raw(np.stack([a - side, a + side, b + side, b - side])[None], [brush.lit(colour)])
    if rng.random() < 0.3:  # a glove
        colour = ((222, 214, 190), (206, 216, 222), (60, 62, 66))[int(rng.integers(3))]
        middle = np.array([rng.uniform(60, 330), y0 - rng.uniform(45, 70), -38.0])
        for k in range(5):
            angle = -0.8 + 0.4 * k + rng.uniform(-0.2, 0.2)
            along = np.array([np.cos(angle), np.sin(angle), 0]) * rng.uniform(30, 44)
            side = np.array([-along[1], along[0], 0]) * 0.16
            brush.raw(np.stack([middle - side, middle + side, middle + along + side, middle + along - side])[None],
                      [brush.lit(scaled(colour, 0.9 + 0.05 * k))])  # fmt: skip
        brush.discs(middle[None], np.array([[20.0, 24.0]]), [brush.lit(colour)])
    if rng.random() < 0.4:  # loose tubes
        for _ in range(int(rng.integers(1, 4))):
            place = np.array([[rng.uniform(420, 490), rng.uniform(y0 + 30, 260), 0.5]])
            brush.stubs(place, 5.5, 38, brush.lit((205, 210, 214), (-1, 0, 0)), [brush.lit(CAPS[int(rng.integers(5))])])
