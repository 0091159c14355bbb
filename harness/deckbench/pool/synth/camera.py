"""The camera at the robot's left side, and plane geometry on its picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. `place` and `target` in mm, `roll` in degrees, `field` = horizontal view at 16:9 in degrees."""

    place: tuple[float, float, float]
    target: tuple[float, float, float]
    roll: float
    field: float
    size: tuple[int, int]

    @cached_property
    def focal(self) -> float:
        """Focal length in pixels: the 16:9 window always fits into the picture."""
        half = np.tan(np.deg2rad(self.field) / 2)
        return float(min(self.size[0] / 2 / half, self.size[1] / 2 / (half * 9 / 16)))

    @cached_property
    def axes(self) -> Array:
        """Rows: right, up, forward (3, 3)."""
        forward = np.subtract(self.target, self.place)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right = right / np.linalg.norm(right)
        up = np.cross(right, forward)
        a = np.deg2rad(self.roll)
        return np.stack([np.cos(a) * right + np.sin(a) * up, np.cos(a) * up - np.sin(a) * right, forward])

    def project(self, points: Array) -> Array:
        """Points (..., 3) in mm -> pixels (..., 2); what is behind the camera is put at a small positive depth."""
        local = (points - np.array(self.place)) @ self.axes.T
        depth = np.maximum(local[..., 2], 20.0)
        x = self.size[0] / 2 + self.focal * local[..., 0] / depth
        y = self.size[1] / 2 - self.focal * local[..., 1] / depth
        return np.stack([x, y], axis=-1)

    def scale_at(self, points: Array) -> Array:
        """Pixels per mm at points (..., 3)."""
        depth = ((points - np.array(self.place)) @ self.axes[2]).clip(20.0)
        scale: Array = self.focal / depth
        return scale


def hull(points: Array) -> Array:
    """Convex hull (k, 2) of points (n, 2), counter-clockwise (Andrew's monotone chain)."""
    ordered = sorted({(float(x), float(y)) for x, y in points})
    if len(ordered) < 3:
        return np.array(ordered)
    sides = []
    for sequence in (ordered, ordered[::-1]):
        chain: list[tuple[float, float]] = []
        for p in sequence:
            while (
                len(chain) >= 2
                and (
                    (chain[-1][0] - chain[-2][0]) * (p[1] - chain[-2][1])
                    - (chain[-1][1] - chain[-2][1]) * (p[0] - chain[-2][0])
                )
                <= 0
            ):
                chain.pop()
            chain.append(p)
        sides.append(chain[:-1])
    return np.array(sides[0] + sides[1])


def clip_to_frame(polygon: Array, width: float, height: float) -> Array:
    """The part of a convex polygon (n, 2) inside the frame (Sutherland-Hodgman); (0, 2) when nothing is."""
    points = [(float(x), float(y)) for x, y in polygon]
    for axis, bound, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        result: list[tuple[float, float]] = []
        for i, here in enumerate(points):
            before = points[i - 1]
            here_in = (here[axis] - bound) * sign >= 0
            before_in = (before[axis] - bound) * sign >= 0
            if here_in != before_in:
                t = (bound - before[axis]) / (here[axis] - before[axis])
                cut = [before[0] + t * (here[0] - before[0]), before[1] + t * (here[1] - before[1])]
                cut[axis] = bound
                result.append((cut[0], cut[1]))
            if here_in:
                result.append(here)
        points = result
        if not points:
            return np.zeros((0, 2))
    return np.array(points)


def area(polygon: Array) -> float:
    """Area of a simple polygon (n, 2)."""
    if len(polygon) < 3:
        return 0.0
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
