"""A random GLM-4V of 60 thousand weights: the same code as the real one, a fraction of a second."""

from __future__ import annotations

import copy
from typing import Any

import torch

from deckbench.models.glm4v.model import Glm4v
from deckbench.models.glm4v.tiny import make_tiny

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "ffn_hidden_size": 96,
    "num_layers": 2,
    "num_attention_heads": 4,
    "multi_query_group_num": 2,
    "kv_channels": 16,
    "vision_config": {
        "image_size": 64,
        "patch_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_heads": 2,
        "intermediate_size": 64,
    },
}
CORPUS = [
    "What is in slot 3?\nA. white plate\nB. tip rack\nAnswer with A or B only.",
    "实验步骤:thermocycle。只回答 A 或 B。",
] * 4


def make_small(seed: int = 0) -> Glm4v:
    """A model of 60 thousand weights with a vocabulary of 320 tokens."""
    sizes = copy.deepcopy(SIZES)
    model = make_tiny(CORPUS, seed, vocabulary=320, **sizes)
    # The head of a fresh model is nearly flat; a steeper one gives the comparisons something to see.
    with torch.no_grad():
        model.module.language.lm_head.weight.mul_(20)
    return model
