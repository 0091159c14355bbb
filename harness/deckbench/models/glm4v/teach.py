"""What `models pretrain` needs to know of GLM-4V: where to listen for what each image token shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deckbench.models.deck_talk import Scene, View, grid_labels
from deckbench.models.glm4v.chat import Glm4v
from deckbench.models.glm4v.chat import load_glm4v as load
from deckbench.models.glm4v.tiny import make_tiny

__all__ = ["cells", "listen", "load", "make_tiny", "widths", "with_truth"]


def widths(model: Glm4v) -> list[int]:
    """Of what `listen` hears at both places."""
    return [model.config.hidden_size] * 2


def listen(model: Glm4v) -> list[Tensor]:
    """A list that every pass adds the image tokens to, (pictures, tokens, width): the tower's, the projector's."""
    heard: list[Tensor] = []
    vision = model.module.vision
    vision.conv.register_forward_hook(lambda _, __, output: heard.append(output.flatten(2).transpose(1, 2)))
    vision.register_forward_hook(lambda _, __, output: heard.append(output[:, 1:-1]))
    return heard


def cells(model: Glm4v, scene: Scene, view: View) -> Any:
    """What each image token of a view shows, as `deck_talk.grid_labels`."""
    side = model.config.vision.grid // 2
    return grid_labels(scene, view, side, side)


def with_truth(
    model: Glm4v, heard: Sequence[Tensor], truths: Sequence[Any], batch: dict[str, Any]
) -> tuple[list[Tensor], Tensor]:
    """(tokens, width) of both places, and (tokens, labels) what they show. truths: of `cells`, a picture each."""
    order = batch["pixel_index"].tolist()  # packing has reordered the pictures
    truth = torch.cat([torch.from_numpy(truths[index]) for index in order])
    return [tokens.reshape(-1, tokens.shape[-1]) for tokens in heard], truth
