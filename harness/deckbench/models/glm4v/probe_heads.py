"""What `models pretrain` needs to know of GLM-4V: which features of its image tokens are probed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deckbench.models.glm4v.model import Glm4v
from deckbench.models.glm4v.model import load_glm4v as load
from deckbench.models.glm4v.tiny import make_tiny
from deckbench.models.pretrain_questions import Scene, View, grid_labels

__all__ = ["hook_features", "load", "make_tiny", "token_labels", "widths", "with_labels"]


def widths(model: Glm4v) -> list[int]:
    """Width of the image tokens at both places."""
    return [model.config.hidden_size] * 2


def hook_features(model: Glm4v) -> list[Tensor]:
    """Forward hooks that collect image-token features, (pictures, tokens, width): the tower's, the projector's."""
    features: list[Tensor] = []
    vision = model.module.vision
    vision.conv.register_forward_hook(lambda _, __, output: features.append(output.flatten(2).transpose(1, 2)))
    vision.register_forward_hook(lambda _, __, output: features.append(output[:, 1:-1]))
    return features


def token_labels(model: Glm4v, scene: Scene, view: View) -> Any:
    """What each image token of a view shows, as `pretrain_questions.grid_labels`."""
    side = model.config.vision.grid // 2
    return grid_labels(scene, view, side, side)


def with_labels(
    model: Glm4v, features: Sequence[Tensor], labels: Sequence[Any], batch: dict[str, Any]
) -> tuple[list[Tensor], Tensor]:
    """(tokens, width) of both places, and (tokens, labels) what they show. labels: of `token_labels`, one a picture."""
    order = batch["pixel_index"].tolist()  # packing has reordered the pictures
    found = torch.cat([torch.from_numpy(labels[index]) for index in order])
    return [tokens.reshape(-1, tokens.shape[-1]) for tokens in features], found
