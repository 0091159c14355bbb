"""Initial weights of a network, whatever its family."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def grid_waves(side: int, width: int) -> Tensor:
    """(side * side, width) sine-cosine values of row and column, each half the width (ViT's fixed 2-D embedding)."""
    frequencies = 1.0 / 100.0 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat((angles.sin(), angles.cos()), dim=1)
    rows = waves[:, None].expand(-1, side, -1)
    columns = waves[None].expand(side, -1, -1)
    both = torch.cat((rows, columns), dim=2).reshape(side * side, -1)
    return torch.nn.functional.pad(both, (0, width - both.shape[1])).float()


@torch.no_grad()  # type: ignore[untyped-decorator]
def noise(module: nn.Module, seed: int) -> None:
    """Fill every weight with small random numbers: the same work as with real ones, and meaningless answers."""
    generator = torch.Generator(next(module.parameters()).device).manual_seed(seed)
    for parameter in module.parameters():
        parameter.normal_(0.0, 0.02, generator=generator)


@torch.no_grad()  # type: ignore[untyped-decorator]
def fill(module: nn.Module, generator: torch.Generator, depths: Mapping[str, int]) -> None:
    """Fill a network's layers, a pure function of the generator and the sizes.

    Linear layers start at deviation 1/sqrt(inputs), those that end a residual branch smaller by its depth: depths names
    these (the last part of their name) and says of how many layers their tower is.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            deviation = part.weight[0].numel() ** -0.5 / math.sqrt(2 * depths.get(name.rpartition(".")[2], 0.5))
            part.weight.normal_(0.0, deviation, generator=generator)
            if part.bias is not None:
                part.bias.zero_()
        elif isinstance(part, nn.Embedding):
            part.weight.normal_(0.0, 0.02 if "position" in name else 0.5, generator=generator)
        elif isinstance(part, nn.LayerNorm):
            part.weight.fill_(1.0)
            part.bias.zero_()
