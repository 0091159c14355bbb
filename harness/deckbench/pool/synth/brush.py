"""Shapes in space -> painted polygons: projection in one batch, flat shading by face, painter's order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from deckbench.pool.synth.camera import Camera
from deckbench.pool.synth.scene import Colour, Look

Array = NDArray[np.float64]

SUPER = 2  # pictures are drawn at this scale and reduced once
IDS = 4  # object ids are drawn at 1/IDS of the supersampled scale

FACES = ((0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))
FACE_INDEX = np.array(FACES)
CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 10, endpoint=False)),
                   np.sin(np.linspace(0, 2 * np.pi, 10, endpoint=False)), np.zeros(10)], axis=1)  # fmt: skip
SQUARE = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], dtype=float)


def shade(colour: Colour, normal: Array | tuple[float, float, float], look: Look) -> Colour:
    """A face's colour under the session's lamp: ambient plus Lambert, tinted."""
    lamp = look.light
    facing = max(0.0, float(normal[0]) * lamp[0] + float(normal[1]) * lamp[1] + float(normal[2]) * lamp[2])
    level = look.ambient + (1.12 - look.ambient) * facing
    return tuple(int(min(255, max(0, c * level * t))) for c, t in zip(colour, look.tint, strict=True))  # type: ignore[return-value]


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Colour between a (share 0) and b (share 1)."""
    return tuple(int(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def scaled(colour: Colour, by: float) -> Colour:
    """Darker or lighter."""
    return tuple(int(min(255, max(0, c * by))) for c in colour)  # type: ignore[return-value]


@dataclass
class Brush:
    """Collects shapes in painting order. `ident` > 0 marks outer faces: they make the mask and the id picture."""

    camera: Camera
    look: Look
    turn: Array = field(default_factory=lambda: np.eye(3))
    shift: Array = field(default_factory=lambda: np.zeros(3))
    shapes: list[tuple[Array, list[Colour], int, int]] = field(default_factory=list)

    def place(self, turn: Array, shift: Array) -> None:
        """Local axes of what is drawn next."""
        self.turn, self.shift = turn, shift

    def world(self, points: Array) -> Array:
        """Local points (..., 3) in world axes."""
        placed: Array = points @ self.turn.T + self.shift
        return placed

    def lit(self, colour: Colour, normal: tuple[float, float, float] = (0, 0, 1)) -> Colour:
        """Colour of a face with this local normal under the lamp."""
        return shade(colour, self.turn @ np.array(normal, dtype=float), self.look)

    def raw(self, points: Array, colours: list[Colour], alpha: int = 255, ident: int = 0) -> None:
        """Polygons (m, n, 3) in local axes with their final colours."""
        self.shapes.append((self.world(points), colours, alpha, ident))

    def face(self, points: Array, colour: Colour, normal: tuple[float, float, float] = (0, 0, 1), alpha: int = 255,
             ident: int = 0) -> None:  # fmt: skip
        """One polygon (n, 3), shaded."""
        self.raw(np.asarray(points, dtype=float)[None], [self.lit(colour, normal)], alpha, ident)

    def plate(self, x0: float, y0: float, x1: float, y1: float, z: float, colour: Colour, alpha: int = 255,
              ident: int = 0) -> None:  # fmt: skip
        """A level rectangle."""
        self.face(np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]), colour, (0, 0, 1), alpha, ident)

    def solid(
        self, corners: Array, colour: Colour, ident: int = 0, top: Colour | None = None, alpha: int = 255
    ) -> None:
        """A convex body of eight corners (bottom 4, top 4, counter-clockwise from above): faces towards the camera."""
        faces = self.world(corners)[FACE_INDEX]  # (6, 4, 3)
        a, b = faces[:, 1] - faces[:, 0], faces[:, 2] - faces[:, 1]
        normals = np.stack(
            [a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1], a[:, 2] * b[:, 0] - a[:, 0] * b[:, 2],
             a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]], axis=1)  # fmt: skip
        normals /= np.maximum(np.sqrt((normals * normals).sum(axis=1, keepdims=True)), 1e-9)
        seen = ((np.array(self.camera.place) - faces[:, 0]) * normals).sum(axis=1) > 0
        names = np.nonzero(seen)[0].tolist()
        if names:
            colours = [shade(top if k == 1 and top is not None else colour, normals[k], self.look) for k in names]
            self.shapes.append((faces[seen], colours, alpha, ident))

    def discs(
        self, centres: Array, radii: Array, colours: list[Colour], alpha: int = 255, square: bool = False
    ) -> None:
        """Level discs (or rectangles) at centres (m, 3) with half widths (m, 2); final colours."""
        shape = SQUARE if square else CIRCLE
        wide = np.concatenate([radii, np.zeros((len(radii), 1))], axis=1)
        self.raw(centres[:, None, :] + shape[None] * wide[:, None, :], colours, alpha)

    def stubs(self, centres: Array, radius: float, height: float, side: Colour, tops: list[Colour]) -> None:
        """Upright little cylinders with level tops, standing at centres (m, 3)."""
        across = np.array(self.camera.axes[0]) @ self.turn  # the picture's right, in local axes
        across = across / np.linalg.norm(across) * radius
        up = np.array([0, 0, height])
        body = np.stack([centres - across, centres + across, centres + across + up, centres - across + up], axis=1)
        self.raw(body, [side] * len(centres))
        self.discs(centres + up, np.full((len(centres), 2), radius), tops)

    def pixels(self) -> list[Array]:
        """Every shape's polygons on the supersampled picture, (m, n, 2) each; one projection for all."""
        if not self.shapes:
            return []
        flat = np.concatenate([s[0].reshape(-1, 3) for s in self.shapes])
        flat = self.camera.project(flat) * SUPER
        result, start = [], 0
        for points, *_ in self.shapes:
            count = points.shape[0] * points.shape[1]
            result.append(flat[start : start + count].reshape(points.shape[0], points.shape[1], 2))
            start += count
        return result

    def paint(self, picture: Image.Image, mask: Image.Image | None, ids: Image.Image | None,
              offset: tuple[int, int] = (0, 0), pixels: list[Array] | None = None) -> None:  # fmt: skip
        """Paint all shapes on a picture whose corner is at `offset` of the supersampled frame."""
        plain = ImageDraw.Draw(picture)
        blend = ImageDraw.Draw(picture, "RGBA")
        masker = ImageDraw.Draw(mask) if mask is not None else None
        marker = ImageDraw.Draw(ids) if ids is not None else None
        shift = np.array(offset, dtype=float)
        for (_, colours, alpha, ident), polygons in zip(self.shapes, pixels or self.pixels(), strict=True):
            count, corners = polygons.shape[:2]
            rows = (polygons - shift).reshape(count, corners * 2).tolist()
            if alpha == 255:
                for row, colour in zip(rows, colours, strict=True):
                    plain.polygon(row, fill=colour)
            else:
                for row, colour in zip(rows, colours, strict=True):
                    blend.polygon(row, fill=(*colour, alpha))
            if ident and masker is not None:
                for row in rows:
                    masker.polygon(row, fill=255)
            if ident and marker is not None:
                for row in (polygons / IDS - shift / IDS).reshape(count, corners * 2).tolist():
                    marker.polygon(row, fill=ident)
