"""A random Phi-3-vision of 60 thousand weights whose trained length is 64 tokens, so that tests reach beyond it."""

from __future__ import annotations

import torch

from deckbench.models.phi3v.model import Phi3v
from deckbench.models.phi3v.tiny import make_tiny

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "original_max_position_embeddings": 64,
    "max_position_embeddings": 512,
}
CLIP = {
    "hidden_size": 32,
    "image_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "patch_size": 8,
}
CORPUS = [
    "What is in slot 3?\nA. white plate\nB. tip rack\nAnswer with A or B only.",
    "实验步骤:thermocycle。只回答 A 或 B。",
] * 4


def make_phi(seed: int = 0) -> Phi3v:
    model = make_tiny(CORPUS, seed, vocabulary=420, clip=dict(CLIP), **SIZES)
    # The head of a fresh model is nearly flat; a steeper one gives the comparisons something to see.
    with torch.no_grad():
        model.module.language.lm_head.weight.mul_(20)
    return model
