"""Phi-3-vision's eyes: transformers' CLIP tower, 2 x 2 patches merged, learned separators, a two-layer projector.

Module names are the checkpoint's own, so that weights need no renaming on this side.
Source of the layout: the model code published with microsoft/Phi-3-vision-128k-instruct.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from deckbench.models.phi3v.config import Phi3vConfig, VisionConfig


def clip_config(config: VisionConfig) -> Any:
    """transformers' config of the tower."""
    clip = CLIPVisionConfig(
        hidden_act=config.hidden_act,
        hidden_size=config.hidden_size,
        image_size=config.image_size,
        intermediate_size=config.intermediate_size,
        layer_norm_eps=config.layer_norm_eps,
        num_attention_heads=config.num_attention_heads,
        num_channels=3,
        num_hidden_layers=config.num_hidden_layers,
        patch_size=config.patch_size,
    )
    clip._attn_implementation = "sdpa"
    return clip


class Clip(nn.Module):  # type: ignore[misc]
    """Pixels (tiles, 3, size, size) -> (tiles, patches, width): the last layer but one, without the class vector.

    The last layer and the norm behind it are in the checkpoint and are never run.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        model = CLIPVisionModel(clip_config(config))
        # Some releases of transformers 5 keep the network one level deeper than others.
        self.vision_model = getattr(model, "vision_model", model)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.vision_model.pre_layrnorm(self.vision_model.embeddings(pixels))
        for layer in self.vision_model.encoder.layers[:-1]:
            x = layer(x, None)
        return x[:, 1:]

    def fill_places(self, device: torch.device) -> None:
        """Make the numbers of the positions anew: they are no weights and are lost on the meta device."""
        embeddings = self.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions, device=device).expand((1, -1))


class VisionTower(nn.Module):  # type: ignore[misc]
    """Tiles of several frames -> features (image tokens, language width) of each frame."""

    def __init__(self, config: Phi3vConfig) -> None:
        super().__init__()
        merged = 4 * config.vision.hidden_size
        self.img_processor = Clip(config.vision)
        self.glb_GN = nn.Parameter(torch.zeros(1, 1, merged))
        self.sub_GN = nn.Parameter(torch.zeros(1, 1, 1, merged))
        self.img_projection = nn.Sequential(
            nn.Linear(merged, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)
        )
        self.grid = config.vision.grid

    def lines(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """Tiles' patches as one picture's tokens, line by line, a separator behind each.

        patches: (rows * columns, patches, width). Returns (rows * grid * (columns * grid + 1), 4 * width).
        """
        grid, width = self.grid, patches.shape[-1]
        split = patches.reshape(rows, columns, grid, 2, grid, 2, width)
        merged = split.permute(0, 2, 1, 4, 3, 5, 6).reshape(rows * grid, columns * grid, 4 * width)
        separators = self.sub_GN[0].expand(rows * grid, 1, -1)
        return torch.cat((merged, separators), dim=1).flatten(0, 1)

    def forward(self, pixels: Tensor, grids: Sequence[tuple[int, int]]) -> list[Tensor]:
        """pixels: (sum of 1 + rows * columns, 3, size, size), each frame's overview before its tiles.

        grids: (rows, columns) of each frame.
        """
        patches = self.img_processor(pixels).split([1 + rows * columns for rows, columns in grids])
        pieces: list[Tensor] = []
        for (rows, columns), own in zip(grids, patches, strict=True):
            pieces.append(torch.cat((self.lines(own[1:], rows, columns), self.glb_GN[0], self.lines(own[:1], 1, 1))))
        features = self.img_projection(torch.cat(pieces))
        return list(features.split([len(piece) for piece in pieces]))
