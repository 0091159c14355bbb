"""GLM-4V's official tensor names, and which of this package's tensors each holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from deckbench.models import weights
from deckbench.models.glm4v.config import GLM4V, Glm4vConfig

ROTARY = "transformer.rotary_pos_emb.inv_freq"  # stored by the original, recomputed from the config here


def name_pairs(config: Glm4vConfig, ours: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(official name, our names) for every tensor of the model."""
    for name in ours:
        if name.startswith("vision."):
            yield f"transformer.{name}", (name,)
    yield "transformer.embedding.word_embeddings.weight", ("language.model.embed_tokens.weight",)
    for layer in range(config.num_layers):
        official, own = f"transformer.encoder.layers.{layer}.", f"language.model.layers.{layer}."
        for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            yield official + norm, (own + norm,)
        for kind in ("weight", "bias") if config.add_qkv_bias else ("weight",):
            parts = tuple(f"{own}self_attn.{part}_proj.{kind}" for part in "qkv")
            yield f"{official}self_attention.query_key_value.{kind}", parts
        yield official + "self_attention.dense.weight", (own + "self_attn.o_proj.weight",)
        yield official + "mlp.dense_h_to_4h.weight", (own + "mlp.gate_up_proj.weight",)
        yield official + "mlp.dense_4h_to_h.weight", (own + "mlp.down_proj.weight",)
    yield "transformer.encoder.final_layernorm.weight", ("language.model.norm.weight",)
    yield "transformer.output_layer.weight", ("language.lm_head.weight",)


def entries(config: Glm4vConfig, ours: Mapping[str, Tensor]) -> dict[str, weights.Entry]:
    """What each tensor of the official checkpoint holds of the module's state dict `ours`."""
    return weights.layout(name_pairs(config, ours), ours)


def load_state(
    folder: Path, config: Glm4vConfig, ours: Mapping[str, Tensor], dtype: torch.dtype | None, device: torch.device
) -> dict[str, Tensor]:
    """The module's state dict out of a folder; see `weights.load_state`."""
    found = entries(config, ours)
    return weights.load_state(folder, found, family=GLM4V, dtype=dtype, device=device, ignored=(ROTARY,))


def official_state(module: nn.Module, config: Glm4vConfig, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The module's weights under their official names, fused, on the CPU."""
    ours = module.state_dict()
    state = weights.fused(ours, entries(config, ours), dtype)
    rotated = config.kv_channels // 2
    frequencies = 1.0 / (10000 ** (torch.arange(0, rotated, 2, dtype=torch.float32) / rotated))
    state[ROTARY] = frequencies.to(dtype or ours["vision.boi"].dtype)
    return state
