"""GLM-4V's vision tower: EVA2-CLIP-E with norms after attention and MLP, then a 2x2 convolution and a gated projector.

Module names are the checkpoint's own, so that weights need no renaming on this side.
Source of the layout: the model code published with THUDM/glm-4v-9b.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deckbench.models.glm4v.config import Glm4vConfig, VisionConfig


class PatchEmbedding(nn.Module):  # type: ignore[misc]
    """Pixels (batch, 3, size, size) -> (batch, 1 + patches, width): class vector first, learned positions added."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, kernel_size=size, stride=size)
        self.cls_embedding = nn.Parameter(torch.zeros(1, config.hidden_size))
        self.position_embedding = nn.Embedding(config.num_positions, config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.proj(pixels).flatten(2).transpose(1, 2)
        first = self.cls_embedding.expand(patches.shape[0], -1, -1)
        return torch.cat((first, patches), dim=1) + self.position_embedding.weight


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k / sqrt(width)) v over (batch, heads, length, width) tensors of one type."""
    if query.device.type == "cpu" and query.dtype != torch.float32:
        # The fused kernel's backward pass is several times slower than this in half precision on a CPU.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return scores.softmax(dim=-1, dtype=scores.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value)


class Attention(nn.Module):  # type: ignore[misc]
    """Full self-attention over the patches."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = self.query_key_value(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = attend(split[0], split[1], split[2])
        return self.dense(mixed.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


class Mlp(nn.Module):  # type: ignore[misc]
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Layer(nn.Module):  # type: ignore[misc]
    """One layer. The norms come after attention and MLP, inside the residual branch, whatever their names say."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Attention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.input_layernorm(self.attention(x))
        return x + self.post_attention_layernorm(self.mlp(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):  # type: ignore[misc]
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Projector(nn.Module):  # type: ignore[misc]
    """Gated projection into the language model's width."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.linear_proj = nn.Linear(width, width, bias=False)
        self.norm1 = nn.LayerNorm(width)
        self.dense_h_to_4h = nn.Linear(width, inner, bias=False)
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.dense_4h_to_h = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.linear_proj(x)))
        return self.dense_4h_to_h(F.silu(self.gate_proj(x)) * self.dense_h_to_4h(x))  # type: ignore[no-any-return]


class VisionTower(nn.Module):  # type: ignore[misc]
    """Pixels (batch, 3, size, size) -> (batch, tokens + 2, language width), begin and end of image included."""

    def __init__(self, config: Glm4vConfig) -> None:
        super().__init__()
        vision = config.vision
        self.patch_embedding = PatchEmbedding(vision)
        self.transformer = Transformer(vision)
        self.conv = nn.Conv2d(vision.hidden_size, config.hidden_size, kernel_size=2, stride=2)
        self.linear_proj = Projector(config.hidden_size, config.ffn_hidden_size)
        self.boi = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.eoi = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.grid = vision.grid
        self.scaling_factor = vision.scaling_factor

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.transformer(self.patch_embedding(pixels))[:, 1:]
        batch = x.shape[0]
        x = x.transpose(1, 2).reshape(batch, -1, self.grid, self.grid)
        x = self.linear_proj(self.conv(x).flatten(2).transpose(1, 2))
        ends = self.boi.expand(batch, -1, -1), self.eoi.expand(batch, -1, -1)
        return torch.cat((ends[0], x, ends[1]), dim=1) / self.scaling_factor
