"""The whole Phi-3-vision network: the vision tower and transformers' Phi-3, joined at the image's place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Phi3Config, Phi3ForCausalLM

from deckbench.models.loss import Output, answer_loss, answers_only
from deckbench.models.phi3v.config import Phi3vConfig
from deckbench.models.phi3v.vision import VisionTower


class LongRope(nn.Module):  # type: ignore[misc]
    """Rotations (cos, sin) of positions, at frequencies that depend on how long a token's sequence is.

    A sequence longer than `trained` tokens is rotated with the long factors, from its first token on. A row of a batch
    may hold several sequences, and a prefix is computed before the rest of its sequence is known: so `long` says which
    tokens belong to a long one (a truth value or (rows, length) bool). None: all do when any position says so.
    """

    def __init__(self, config: Phi3vConfig) -> None:
        super().__init__()
        self.trained = config.original_max_position_embeddings
        self.long: Tensor | bool | None = None
        stretched = config.max_position_embeddings / self.trained
        self.scale = math.sqrt(1 + math.log(stretched) / math.log(self.trained)) if stretched > 1 else 1.0
        steps = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
        for name, factor in (("short", config.short_factor), ("long", config.long_factor)):
            frequencies = 1.0 / (torch.tensor(factor, dtype=torch.float32) * config.rope_theta**steps)
            self.register_buffer(f"{name}_frequencies", frequencies, persistent=False)

    @contextmanager
    def length(self, long: Tensor | bool | None) -> Iterator[None]:
        """Within, tokens belong to long sequences as `long` says."""
        before, self.long = self.long, long
        try:
            yield
        finally:
            self.long = before

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """x: gives type and device. position_ids: (rows, length). Returns two (rows, length, head width)."""
        long = bool(position_ids.max() >= self.trained) if self.long is None else self.long
        mask = torch.as_tensor(long, device=x.device)[..., None]
        # Kept in float32 whatever the model's type: half precision cannot tell far positions apart.
        chosen = torch.where(mask, self.long_frequencies.to(x.device), self.short_frequencies.to(x.device))
        angles = position_ids[..., None].float() * chosen
        both = torch.cat((angles, angles), dim=-1)
        return (both.cos() * self.scale).to(x.dtype), (both.sin() * self.scale).to(x.dtype)


def language_config(config: Phi3vConfig) -> Any:
    """transformers' config of the language half; its rotations are replaced by `LongRope`."""
    language = Phi3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        rms_norm_eps=config.rms_norm_eps,
        attention_dropout=config.attention_dropout,
        max_position_embeddings=config.max_position_embeddings,
        original_max_position_embeddings=config.original_max_position_embeddings,
        pad_token_id=None,
        eos_token_id=list(config.eos_token_id),
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
    )
    # The masks built here are boolean, which only this attention reads as "may attend".
    language._attn_implementation = "sdpa"
    return language


class Phi3vModule(nn.Module):  # type: ignore[misc]
    """`vision` and `language`. All inputs are laid out by `pack`; a negative id is a place of an image."""

    accepts_loss_kwargs = True  # transformers' Trainer then passes num_items_in_batch

    def __init__(self, config: Phi3vConfig) -> None:
        super().__init__()
        self.phi3v_config = config
        self.vision = VisionTower(config)
        self.language = Phi3ForCausalLM(language_config(config))
        self.fill_buffers()

    def fill_buffers(self, device: torch.device | None = None) -> None:
        """Make what is no weight anew, for a module built on the meta device and then loaded."""
        self.language.model.rotary_emb = LongRope(self.phi3v_config).to(device)
        if device is not None:
            self.vision.img_processor.fill_places(device)

    @property
    def rope(self) -> LongRope:
        return self.language.model.rotary_emb  # type: ignore[no-any-return]

    def embed(self, input_ids: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Token embeddings (rows, length, width), the images' places filled with `features`.

        input_ids: (rows, length), every image expanded to negative ids. features: (places, width) of each frame, in the
        order in which the images stand in input_ids, row by row.
        """
        filled = torch.cat(list(features))
        text = self.language.model.embed_tokens(input_ids.clamp(min=0))
        return text.index_put((input_ids < 0).nonzero(as_tuple=True), filled.to(text.dtype))  # type: ignore[no-any-return]

    def encode_image(self, pixel_values: Tensor, grids: Tensor) -> list[Tensor]:
        """Features (places, width) of each frame.

        pixel_values: (tiles, 3, size, size) float, all tiles of the first frame, then of the next. grids: (frames, 2)
        int64, rows and columns of tiles.
        """
        tiles = pixel_values.to(self.vision.glb_GN.dtype)
        return self.vision(tiles, [(int(r), int(c)) for r, c in grids.tolist()])  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        pixel_values: Tensor | None = None,
        grids: Tensor | None = None,
        features: Sequence[Tensor] | None = None,
        long: Tensor | None = None,
        pixel_index: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Output:
        """One pass over a batch made by `pack`.

        pixel_values, grids: as for `encode_image`, or else features, what it made of each frame: (places, width).
        input_ids, position_ids, labels: (rows, length) int64. attention_mask: (rows, 1, length, length) bool, True
        where a position (row) may attend to another (column). long: (rows, length) bool, as for `LongRope`.
        pixel_index: the frame at each image of input_ids, when not in their order.
        The loss is that of `answer_loss`, num_items_in_batch its `count`.
        """
        if features is None:
            assert pixel_values is not None and grids is not None
            features = self.encode_image(pixel_values, grids)
        order = range(len(features)) if pixel_index is None else pixel_index.tolist()
        with self.rope.length(long), answers_only(self.language.model.layers[-1], labels):
            hidden = self.language.model(
                inputs_embeds=self.embed(input_ids, [features[i] for i in order]),
                # Always four-dimensional: without a mask transformers takes positions that start again for the
                # borders of packed sequences and cuts the prompt apart.
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=False,
            ).last_hidden_state
        return answer_loss(self.language.lm_head, hidden, labels, num_items_in_batch)
