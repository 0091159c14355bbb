"""The whole GLM-4V network: vision tower and transformers' GLM, joined at the image's place in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GlmConfig, GlmForCausalLM
from transformers.models.glm.modeling_glm import GlmRotaryEmbedding

from deckbench.models.glm4v.config import Glm4vConfig
from deckbench.models.glm4v.vision import VisionTower
from deckbench.models.loss import Output, answer_loss, answers_only


def language_config(config: Glm4vConfig) -> Any:
    """transformers' config of the language half. Half of each head is rotated, base 10000 times `rope_ratio`."""
    theta = 10000.0 * config.rope_ratio
    language = GlmConfig(
        vocab_size=config.padded_vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.multi_query_group_num,
        head_dim=config.kv_channels,
        rms_norm_eps=config.layernorm_epsilon,
        attention_bias=config.add_qkv_bias,
        attention_dropout=config.attention_dropout,
        max_position_embeddings=config.seq_length,
        pad_token_id=config.pad_token_id,
        eos_token_id=list(config.eos_token_id),
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.5},
    )
    # The masks built here are boolean, which only this attention reads as "may attend".
    language._attn_implementation = "sdpa"
    return language


class Glm4vModule(nn.Module):  # type: ignore[misc]
    """`vision` and `language`. All inputs are laid out by `pack`; nothing here knows tokens but the image's ids."""

    accepts_loss_kwargs = True  # transformers' Trainer then passes num_items_in_batch

    def __init__(self, config: Glm4vConfig) -> None:
        super().__init__()
        self.glm4v_config = config
        self.vision = VisionTower(config)
        self.language = GlmForCausalLM(language_config(config))

    def fill_buffers(self, device: torch.device) -> None:
        """Make the rotation frequencies, which are no weights, for a module built on the meta device."""
        self.language.model.rotary_emb = GlmRotaryEmbedding(self.language.config).to(device)

    def embed(self, input_ids: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Token embeddings (rows, length, width), the images' places filled with `features`.

        input_ids: (rows, length), every image expanded. features: (tokens + 2, width) of each frame, in the order in
        which the images stand in input_ids, row by row.
        """
        filled = torch.stack(list(features))
        text = self.language.model.embed_tokens(input_ids)
        row, start = (input_ids == self.glm4v_config.boi_token_id).nonzero(as_tuple=True)
        column = start[:, None] + torch.arange(filled.shape[1], device=input_ids.device)
        return text.index_put((row[:, None].expand_as(column), column), filled.to(text.dtype))  # type: ignore[no-any-return]

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Features (pictures, tokens + 2, width) of pixels (pictures, 3, size, size) float."""
        return self.vision(pixel_values.to(self.vision.boi.dtype))  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        pixel_values: Tensor | None = None,
        features: Sequence[Tensor] | None = None,
        pixel_index: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Output:
        """One pass over a batch made by `pack`.

        pixel_values: as for `encode_image`, or else features, what it made of each frame: (tokens + 2, width). In the
        images' order or in that which pixel_index names.
        input_ids, position_ids, labels: (rows, length) int64. attention_mask: (rows, 1, length, length) bool, True
        where a position (row) may attend to another (column).
        The loss is that of `answer_loss`, num_items_in_batch its `count`.
        """
        order = slice(None) if pixel_index is None else pixel_index
        if features is None:
            assert pixel_values is not None
            seen = list(self.encode_image(pixel_values[order]))
        else:
            seen = [features[i] for i in (range(len(features)) if pixel_index is None else pixel_index.tolist())]
        with answers_only(self.language.model.layers[-1], labels):
            hidden = self.language.model(
                inputs_embeds=self.embed(input_ids, seen),
                # Always four-dimensional: without a mask transformers takes the repeated position of the image tokens
                # for the borders of packed sequences and cuts the prompt apart.
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=False,
            ).last_hidden_state
        return answer_loss(self.language.lm_head, hidden, labels, num_items_in_batch)
