"""What `models pretrain` needs to know of Phi-3-vision: which features of its image tokens are probed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deckbench.models.phi3v import preprocess
from deckbench.models.phi3v.model import Phi3v
from deckbench.models.phi3v.model import load_phi3v as load
from deckbench.models.phi3v.tiny import make_tiny
from deckbench.models.pretrain_questions import Scene, View, grid_labels

__all__ = ["hook_features", "load", "make_tiny", "token_labels", "widths", "with_labels"]


def widths(model: Phi3v) -> list[int]:
    """Width of the image tokens at both places."""
    return [4 * model.config.vision.hidden_size, model.config.hidden_size]


def hook_features(model: Phi3v) -> list[Tensor]:
    """Forward hooks that collect image-token features, (tokens, width): before and behind the projector."""
    features: list[Tensor] = []
    model.module.vision.img_projection.register_forward_hook(
        lambda _, given, output: features.extend((given[0], output))
    )
    return features


def tile_grid(model: Phi3v, view: View) -> tuple[int, int]:
    """(rows, columns) of tiles that a view is cut into."""
    size = model.config.vision.image_size
    return preprocess.tiles_of(view.image.width, view.image.height, model.preprocessor.num_crops, size)


def token_labels(model: Phi3v, scene: Scene, view: View) -> Any:
    """What each image token of a view shows, as `grid_labels`, separators left out: tiles, then overview.

    The view is padded to whole tiles, so its cells reach beyond it.
    """
    size, grid = model.config.vision.image_size, model.config.vision.grid
    rows, columns = tile_grid(model, view)
    wide, high = preprocess.scaled_size(view.image.width, view.image.height, model.preprocessor.num_crops, size)
    x0, y0, x1, y1 = view.region
    left, top = (columns * size - wide) // 2, (rows * size - high) // 2
    across, down = (x1 - x0) / wide, (y1 - y0) / high
    region = (
        x0 - left * across,
        y0 - top * down,
        x0 + (columns * size - left) * across,
        y0 + (rows * size - top) * down,
    )
    # what an object shows of itself outside the view is not on the padding
    shown = [{**obj, "box": clipped(obj["box"], view.region)} for obj in scene["objects"]]
    parts = ((rows * grid, columns * grid), (grid, grid))
    return np.concatenate([grid_labels({"objects": shown}, view, *part, region=region) for part in parts])


def clipped(box: Sequence[float], region: Sequence[float]) -> list[float]:
    """The part of a box (x0, y0, x1, y1) inside a region; empty where there is none."""
    low, high = (region[0], region[1]) * 2, (region[2], region[3]) * 2
    return [min(max(edge, start), end) for edge, start, end in zip(box, low, high, strict=True)]


def is_cell(rows: int, columns: int, grid: int) -> list[bool]:
    """Which of a frame's image tokens show something; the others are separators."""

    def lines(high: int, wide: int) -> list[bool]:
        return [*[True] * wide * grid, False] * high * grid

    return [*lines(rows, columns), False, *lines(1, 1)]


def with_labels(
    model: Phi3v, features: Sequence[Tensor], labels: Sequence[Any], batch: dict[str, Any]
) -> tuple[list[Tensor], Tensor]:
    """(tokens, width) of both places, and (tokens, labels) what they show. labels: of `token_labels`, one a picture."""
    grid = model.config.vision.grid
    shown = torch.tensor([real for frame in batch["grids"].tolist() for real in is_cell(frame[0], frame[1], grid)])
    return [tokens[shown] for tokens in features], torch.cat([torch.from_numpy(found) for found in labels])
