"""One session's stage: what stays is drawn once, what changes is laid over it, and who hides whom is known."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from deckbench.pool.synth import draw
from deckbench.pool.synth import geometry as geo
from deckbench.pool.synth.brush import IDS, SUPER, Array, Brush, scaled, shade
from deckbench.pool.synth.camera import hull
from deckbench.pool.synth.draw_labware import labware_bounds
from deckbench.pool.synth.room import draw_room
from deckbench.pool.synth.scene import Colour, Hand, Item, Plan, Puddle, Station, Tip, Truth

HAND_ID = 250
KEPT_SPRITES = 48
KEPT_FLOORS = 3
SHADOW = 4  # shadows are drawn at 1/SHADOW of the supersampled scale


@dataclass(frozen=True)
class Sprite:
    """A slot's content as drawn: picture, mask and ids with their corner, and each object's outline in pixels."""

    corner: tuple[int, int]
    picture: Image.Image | None
    mask: Image.Image | None
    ids: Image.Image | None
    outlines: dict[int, Array]


@dataclass(frozen=True)
class TipShape:
    """A tip in the picture: outline (n, 2) in pixels, and the outline a straight tip would have there."""

    tip: Tip
    outline: Array
    straight: Array


class Stage:
    """Draws the frames of one session."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.camera, self.look = plan.camera, plan.look
        self.wide = (self.camera.size[0] * SUPER, self.camera.size[1] * SUPER)
        self.small = (-(-self.wide[0] // IDS), -(-self.wide[1] // IDS))
        self.sprites: OrderedDict[Station, Sprite] = OrderedDict()
        self.has_cycler = any(s.base is not None and s.base.kind == "thermocycler" for s in plan.stations)
        self.order = self.sort_slots()
        brush = Brush(self.camera, self.look)
        draw_room(brush, self.look.clutter)
        self.room = Image.new("RGB", self.wide, scaled(self.look.room, 0.5))
        brush.paint(self.room, None, None)
        self.gain = self.light_field()
        bank = noise_bank(self.camera.size[1] + 97, self.camera.size[0] + 97)
        self.grain = np.rint(bank * np.float32(self.look.noise)).astype(np.int16)
        self.floors: dict[tuple[tuple[int, float], ...], Image.Image] = {}

    def light_field(self) -> NDArray[np.uint16]:
        """Brightness over the picture (h, w, 3): slope of the lamp and the lens' dark corners, fixed point."""
        width, height = self.camera.size
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        look = self.look
        field = 1 + look.slope[0] * x + look.slope[1] * y - look.vignette * (x * x + y * y) / 2
        field = (look.gain * field * (1 << GAIN_BITS)).clip(0, 255)
        return np.repeat(field[..., None], 3, axis=2).astype(np.uint16)

    def sort_slots(self) -> list[int]:
        """Slots far to near, so that painting in this order hides rightly (a separating plane for each pair)."""
        boxes: dict[int, tuple[float, float, float, float]] = {}
        width, depth = geo.slot_size()
        for slot in (station.slot for station in self.plan.stations):
            x, y = geo.slot_corner(slot)
            boxes[slot] = (x, y, x + width, y + depth)
        if self.has_cycler:
            cycler = geo.load_module("thermocyclerModuleV1")
            x, y = geo.slot_corner(7)
            boxes[7] = (x + cycler.corner[0], y, x + 128, y + cycler.size[1])
        eye = self.camera.place

        def hides(a: int, b: int) -> bool:
            """a may hide b: on some axis a plane parts them and the camera is on a's side."""
            one, two = boxes[a], boxes[b]
            for axis in (0, 1):
                if one[axis + 2] <= two[axis] + 1:
                    return eye[axis] < two[axis]
                if two[axis + 2] <= one[axis] + 1:
                    return eye[axis] > one[axis]
            return False

        left, order = sorted(boxes, reverse=True), []
        while left:
            free = [s for s in left if not any(hides(s, o) and not hides(o, s) for o in left if o != s)]
            behind = (free or left)[0]
            order.append(behind)
            left.remove(behind)
        return order

    def sprite(self, station: Station) -> Sprite:
        """The drawn content of a slot, kept for the session."""
        if station in self.sprites:
            self.sprites.move_to_end(station)
            return self.sprites[station]
        brush = Brush(self.camera, self.look)
        bounds = draw.draw_station(brush, station)
        pixels = brush.pixels()
        outlines = {ident: hull(self.camera.project(points)) for ident, points in bounds.items()}
        made = Sprite((0, 0), None, None, None, outlines)
        if pixels:
            flat = np.concatenate([p.reshape(-1, 2) for p in pixels])
            low = np.maximum(flat.min(axis=0) - 2, 0) // (IDS * 2) * (IDS * 2)
            high = np.minimum(flat.max(axis=0) + 3, self.wide)
            x0, y0, x1, y1 = int(low[0]), int(low[1]), int(high[0]), int(high[1])
            if x1 > x0 and y1 > y0:
                picture = self.room.crop((x0, y0, x1, y1))
                mask = Image.new("L", picture.size)
                ids = Image.new("L", (-(-(x1 - x0) // IDS), -(-(y1 - y0) // IDS)))
                brush.paint(picture, mask, ids, (x0, y0), pixels)
                made = Sprite((x0, y0), picture, mask, ids, outlines)
        self.sprites[station] = made
        if len(self.sprites) > KEPT_SPRITES:
            self.sprites.popitem(last=False)
        return made

    # Who is where

    def id_picture(self, stations: tuple[Station, ...], hand: Hand | None) -> NDArray[np.uint8]:
        """Ids of what is seen (h/2, w/2): 0 room, 2 x slot and 2 x slot + 1 objects, HAND_ID the pipette."""
        by_slot = {s.slot: s for s in stations}
        ids = Image.new("L", self.small)
        for slot in self.order:
            sprite = self.sprite(by_slot[slot])
            if sprite.ids is not None:
                corner = (sprite.corner[0] // IDS, sprite.corner[1] // IDS)
                ids.paste(sprite.ids, corner, sprite.ids.point(SOLID))
        if hand is not None:
            self.body(hand).paint(Image.new("RGB", (1, 1)), None, ids)
        return np.asarray(ids)

    def outlines(self, stations: tuple[Station, ...]) -> dict[int, Array]:
        """Outline in pixels of every object on the deck, by id."""
        found: dict[int, Array] = {}
        for station in stations:
            found.update(self.sprite(station).outlines)
        return found

    def ghost(self, slot: int, item: Item, on: bool) -> Array:
        """Outline in pixels of labware that does not stand there: on the slot, or on its module's seat."""
        seat = draw.slot_seat(slot)
        if on:
            station = next(s for s in self.plan.stations if s.slot == slot)
            assert station.base is not None
            drawer = draw.draw_magnetic if station.base.kind == "magnetic module" else draw.draw_temperature
            _, seat = drawer(Brush(self.camera, self.look), slot, station.base, 1)
        return hull(self.camera.project(labware_bounds(item, seat)))

    # The pipette

    def channels(self, hand: Hand) -> int:
        """Nozzles of the pipette that is seen."""
        return hand.channels or self.plan.channels

    def body(self, hand: Hand) -> Brush:
        """The pipette without its tips."""
        look = self.look
        brush = Brush(self.camera, look)
        x, y, z = hand.place[0], hand.place[1], hand.place[2] + self.plan.tip_mm
        brush.place(np.eye(3), np.array([x, y, z]))
        metal: Colour = (176, 179, 184)
        shell = look.pipette
        if self.channels(hand) == 8:
            brush.solid(geo.box_corners((34, 84, 90)) + np.array([-13, -42, 60]), scaled(shell, 0.9), HAND_ID)
            brush.solid(geo.box_corners((30, 90, 34)) + np.array([-15, -45, 26]), metal, HAND_ID)
            brush.solid(geo.box_corners((26, 80, 12)) + np.array([-13, -40, 14]), scaled(metal, 0.5), HAND_ID)
            brush.solid(geo.box_corners((40, 76, 300)) + np.array([-16, -38, 64]), shell, HAND_ID)
            stripe = np.array([(-16.3, -10, 78), (-16.3, 10, 78), (-16.3, 10, 200), (-16.3, -10, 200)])
            brush.face(stripe, scaled(shell, 0.7), (-1, 0, 0))
        else:
            brush.solid(geo.box_corners((10, 10, 40)) + np.array([-5, -5, 12]), metal, HAND_ID)
            brush.solid(geo.box_corners((16, 24, 26)) + np.array([-8, -12, 30]), scaled(metal, 0.6), HAND_ID)
            brush.solid(geo.box_corners((34, 36, 300)) + np.array([-14, -18, 52]), shell, HAND_ID)
            stripe = np.array([(-14.3, -6, 66), (-14.3, 6, 66), (-14.3, 6, 160), (-14.3, -6, 160)])
            brush.face(stripe, scaled(shell, 0.7), (-1, 0, 0))
        for dy in geo.nozzles(self.channels(hand)):
            cone = geo.box_corners((5.4, 5.4, 16), -0.8) + np.array([-2.7, dy - 2.7, -1.0])
            brush.solid(cone, scaled(metal, 0.82), HAND_ID)
        return brush

    def tip_shapes(self, hand: Hand) -> list[TipShape]:
        """Outlines of the tips on the nozzles, in pixels of the picture."""
        shapes = []
        for tip, dy in zip(hand.tips, geo.nozzles(self.channels(hand)), strict=False):
            top = np.array([hand.place[0], hand.place[1] + dy, hand.place[2] + self.plan.tip_mm])
            straight = self.tip_outline(top, Tip("straight"))
            outline = straight if tip.state != "bent" else self.tip_outline(top, tip)
            shapes.append(TipShape(tip, outline, straight))
        return shapes

    def tip_path(self, top: Array, tip: Tip) -> tuple[Array, Array]:
        """Middle line (k, 3) of a tip from its collar down, and its radii (k,) in mm."""
        length = self.plan.tip_mm
        along = np.linspace(0, 1, 13)
        radii = np.where(along < 0.16, 3.7, 3.1 - 2.35 * (along - 0.16) / 0.84)
        how = tip.how if tip.state == "bent" else ("straight",)
        if how[0] == "broken":
            along = np.linspace(0, float(how[1]), 8)
            radii = np.where(along < 0.16, 3.7, 3.1 - 2.35 * (along - 0.16) / 0.84)
        angle = np.zeros_like(along)
        if how[0] == "bend":
            angle = np.where(along > how[2], np.deg2rad(how[1]), 0.0)
        elif how[0] == "curl":
            angle = np.deg2rad(how[1]) * 1.5 * np.clip((along - how[2]) / (1 - how[2]), 0, 1)
        elif how[0] == "kink":
            angle = np.where(along > how[2], np.deg2rad(how[1]), 0.0)
            angle = np.where(along > how[2] + 0.27, -np.deg2rad(how[1]) * 0.7, angle)
        step = np.diff(along, prepend=0.0) * length
        dy = np.cumsum(np.sin(angle) * step)
        dz = -np.cumsum(np.cos(angle) * step)
        return top + np.stack([np.zeros_like(dy), dy, dz], axis=1), radii

    def tip_outline(self, top: Array, tip: Tip) -> Array:
        """Outline (2k, 2) of a tip in pixels."""
        path, radii = self.tip_path(top, tip)
        line = self.camera.project(path)
        wide = (radii * self.camera.scale_at(path))[:, None]
        along = np.gradient(line, axis=0)
        along = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
        side = np.stack([-along[:, 1], along[:, 0]], axis=1) * wide
        left, right = line - side, line + side
        if tip.state == "bent" and tip.how[0] == "broken":  # a ragged edge
            drop = float(tip.how[2]) * wide[-1]
            left[-1] += along[-1] * drop
            right[-1] -= along[-1] * drop
        return np.concatenate([left, right[::-1]])

    def paint_tips(self, picture: Image.Image, shapes: list[TipShape], liquid: Colour | None) -> None:
        """Translucent tips: dark edge, body, bright strip, and liquid in the lower half when there is some."""
        blend = ImageDraw.Draw(picture, "RGBA")
        colour = shade(self.look.tip, (-0.7, 0, 0.7), self.look)
        edge = scaled(colour, 0.42)
        for shape in shapes:
            if shape.tip.state == "missing":
                continue
            points = shape.outline * SUPER
            half = len(points) // 2
            left, right = points[:half], points[half:][::-1]
            flat = [tuple(p) for p in points.tolist()]
            blend.polygon(flat, fill=(*colour, 205))
            if liquid is not None and not (shape.tip.state == "bent" and shape.tip.how[0] == "broken"):
                k = half * 11 // 20
                wet = np.concatenate([left[k:], right[k:][::-1]])
                blend.polygon([tuple(p) for p in wet.tolist()], fill=(*shade(liquid, (0, 0, 1), self.look), 190))
            a, b = left * 0.72 + right * 0.28, left * 0.52 + right * 0.48
            strip = np.concatenate([a[1:], b[1:][::-1]])
            blend.polygon([tuple(p) for p in strip.tolist()], fill=(255, 255, 255, 120))
            k = max(2, half // 6)
            collar = np.concatenate([left[:k], right[:k][::-1]])
            blend.polygon([tuple(p) for p in collar.tolist()], fill=(*scaled(colour, 0.82), 255))
            blend.line([*flat, flat[0]], fill=(*edge, 235), width=max(1, SUPER * self.camera.size[0] // 900 + 1))

    # Puddles

    def puddle_outline(self, puddle: Puddle) -> Array:
        """Outline (n, 2) of a spill in pixels, its drops left out."""
        flat = np.array(puddle.outline)
        points = np.column_stack([flat, np.zeros(len(flat))]) + np.array(puddle.middle)
        return self.camera.project(points)

    def paint_puddle(self, picture: Image.Image, puddle: Puddle) -> None:
        """A wet blot: darker rim, coloured film, bright reflection, some drops."""
        blend = ImageDraw.Draw(picture, "RGBA")
        flat = np.column_stack([np.array(puddle.outline), np.zeros(len(puddle.outline))])
        middle = np.array(puddle.middle)
        lit = shade(puddle.colour, (0, 0, 1), self.look)

        def fill(points: Array, colour: Colour, alpha: int) -> None:
            pixels = self.camera.project(points + middle) * SUPER
            blend.polygon([tuple(p) for p in pixels.tolist()], fill=(*colour, alpha))

        fill(flat * 1.04, scaled(lit, 0.45), 150)
        fill(flat, lit, 215)
        light = np.array([self.look.light[0], self.look.light[1], 0.0])
        fill(flat * 0.82 + light * 2.0, scaled(lit, 1.15), 120)
        radius = float(np.sqrt((flat**2).sum(axis=1)).mean())
        for along, wide, alpha in ((0.46, 0.16, 200), (0.1, 0.07, 150)):  # the lamp mirrored near the far rim
            glint = np.array([(0.25 * s, along * c, 0) for c, s in draw.CIRCLE_16]) * radius
            glint[:, 0] *= wide / 0.16
            fill(glint + np.array([0.36 * radius, (0.46 - along) * radius, 0]) + light * 2.0, (255, 255, 255), alpha)
        for x, y, r in puddle.drops:
            ring = np.array([(x + r * c, y + r * s, 0) for c, s in draw.CIRCLE_16])
            fill(ring * 1.0, scaled(lit, 0.5), 150)
            fill(ring * 0.85 + np.array([x, y, 0]) * 0.15, lit, 225)

    # The frame

    def render(self, truth: Truth, rng: np.random.Generator) -> Image.Image:
        """One frame as the camera gives it."""
        picture = self.floor(truth.stations).copy()
        if truth.hand is not None:
            self.shadow_hand(picture, truth.hand)
        for puddle in truth.puddles:
            if puddle.surface == 0:
                self.paint_puddle(picture, puddle)
        by_slot = {s.slot: s for s in truth.stations}
        for slot in self.order:
            sprite = self.sprite(by_slot[slot])
            if sprite.picture is not None:
                picture.paste(sprite.picture, sprite.corner, sprite.mask)
            for puddle in truth.puddles:
                if puddle.surface and puddle.surface // 2 == slot:
                    self.paint_puddle(picture, puddle)
        if truth.hand is not None:
            self.body(truth.hand).paint(picture, None, None)
            self.paint_tips(picture, self.tip_shapes(truth.hand), truth.liquid)
        return self.expose(picture.reduce(SUPER), truth.flicker, rng)

    def floor(self, stations: tuple[Station, ...]) -> Image.Image:
        """The room with the shadows of what stands on the deck: soft footprints pushed away from the lamp."""
        heights = tuple((s.slot, shadow_height(s)) for s in stations if s.base is not None)
        if heights in self.floors:
            return self.floors[heights]
        layer = Image.new("L", (self.wide[0] // SHADOW, self.wide[1] // SHADOW))
        pen = ImageDraw.Draw(layer)
        light = np.array(self.look.light)
        width, depth = geo.slot_size()
        for slot, height in heights:
            x, y = geo.slot_corner(slot)
            low, high = np.array([x, y]), np.array([x + width, y + depth])
            if slot == 7 and self.has_cycler:
                low, high = low - np.array([22, 0]), high + np.array([22, 172])
            foot = np.array([(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])])
            push = -light[:2] / light[2] * height
            points = hull(np.concatenate([foot - 3.0, foot + 3.0, foot + push]))
            pixels = self.camera.project(np.column_stack([points, np.zeros(len(points))])) * (SUPER / SHADOW)
            pen.polygon([tuple(p) for p in pixels.tolist()], fill=110)
        layer = layer.filter(ImageFilter.BoxBlur(3)).resize(self.wide, Image.Resampling.BILINEAR)
        made = self.room.copy()
        made.paste((8, 8, 10), (0, 0), layer)
        self.floors[heights] = made
        if len(self.floors) > KEPT_FLOORS:
            self.floors.pop(next(iter(self.floors)))
        return made

    def shadow_hand(self, picture: Image.Image, hand: Hand) -> None:
        """The pipette's shadow on the deck."""
        light = self.look.light
        x, y, z = hand.place
        push = np.array([-light[0], -light[1]]) / light[2] * z
        half = 44 if self.channels(hand) == 8 else 16
        points = np.array([(x - 16, y - half), (x + 16, y - half), (x + 16, y + half), (x - 16, y + half)]) + push
        pixels = self.camera.project(np.column_stack([points, np.zeros(4)])) * SUPER
        low = np.maximum(pixels.min(axis=0) - 24, 0).astype(int)
        high = np.minimum(pixels.max(axis=0) + 24, self.wide).astype(int)
        size = high - low
        if min(size) < SHADOW:
            return
        layer = Image.new("L", (int(size[0]) // SHADOW, int(size[1]) // SHADOW))
        ImageDraw.Draw(layer).polygon([tuple(p) for p in ((pixels - low) / SHADOW).tolist()], fill=60)
        layer = layer.filter(ImageFilter.BoxBlur(3)).resize((int(size[0]), int(size[1])), Image.Resampling.BILINEAR)
        picture.paste((8, 8, 10), (int(low[0]), int(low[1])), layer)

    def expose(self, picture: Image.Image, flicker: float, rng: np.random.Generator) -> Image.Image:
        """Lens, light and sensor: slight blur, brightness field, noise."""
        look = self.look
        if look.blur:
            b = look.blur
            weights = [b * b / 4, b / 2, b * b / 4, b / 2, 1.0, b / 2, b * b / 4, b / 2, b * b / 4]
            picture = picture.filter(ImageFilter.Kernel((3, 3), weights, sum(weights)))
        if flicker != 1.0:
            picture = picture.point([min(255, int(v * flicker + 0.5)) for v in range(256)] * 3)
        width, height = picture.size
        dy, dx = int(rng.integers(0, 97)), int(rng.integers(0, 97))
        grain = self.grain[dy : dy + height, dx : dx + width]
        if rng.random() < 0.5:
            grain = grain[::-1]
        if rng.random() < 0.5:
            grain = grain[:, ::-1]
        data = np.multiply(np.asarray(picture), self.gain, dtype=np.uint16)
        data >>= GAIN_BITS
        result = data.view(np.int16)
        result += grain
        np.clip(result, 0, 255, out=result)
        return Image.fromarray(result.astype(np.uint8))


SOLID = [0] + [255] * 255
GAIN_BITS = 7  # 255 x the largest gain still fits into 16 bits


def shadow_height(station: Station) -> float:
    """Height in mm that throws a station's shadow."""
    assert station.base is not None
    if "module" in station.base.kind:
        return 85.0
    return {"thermocycler": 98.0, "trash bin": 82.0, "tip rack": 64.0}.get(station.base.kind, 20.0)


@cache
def noise_bank(height: int, width: int) -> NDArray[np.float32]:
    """Gaussian noise (height, width, 3), made once a process; frames take windows of it at their own places."""
    rng = np.random.Generator(np.random.PCG64(20240501))
    return rng.standard_normal((height, width, 3), dtype=np.float32)
