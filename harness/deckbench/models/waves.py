"""Fixed values for the places of a picture's patches, from which a small tower learns faster than from noise."""

from __future__ import annotations

import torch
from torch import Tensor


def grid_waves(side: int, width: int) -> Tensor:
    """(side * side, width) sine-cosine values of row and column, each half the width (ViT's fixed 2-D embedding)."""
    frequencies = 1.0 / 100.0 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat((angles.sin(), angles.cos()), dim=1)
    rows = waves[:, None].expand(-1, side, -1)
    columns = waves[None].expand(side, -1, -1)
    both = torch.cat((rows, columns), dim=2).reshape(side * side, -1)
    return torch.nn.functional.pad(both, (0, width - both.shape[1])).float()
