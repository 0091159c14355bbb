"""GLM-4V at the sizes of a config alone: every module and name, no weights and no memory for them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from deckbench.models.glm4v import tokenizer
from deckbench.models.glm4v.config import CONFIG, read_config
from deckbench.models.glm4v.model import Glm4v, check_ids
from deckbench.models.glm4v.network import Glm4vModule
from deckbench.models.glm4v.tiny_vocab import vocabulary_files
from deckbench.models.random_weights import STAND_IN, texts


def make_skeleton(folder: Path, name: str) -> Glm4v:
    """The model of a folder's config on torch's meta device, with a stand-in tokenizer. Raises InputError."""
    config = read_config(folder)
    small = vocabulary_files(texts(), STAND_IN, config.vision.image_size, first=config.pad_token_id)
    ranks = tokenizer.parse_ranks(small[tokenizer.MODEL], tokenizer.MODEL)
    special = tokenizer.parse_special(json.loads(small[tokenizer.CONFIG]), tokenizer.CONFIG, ranks)
    cut = tokenizer.Tokenizer(ranks, special)
    check_ids(config, cut, folder / CONFIG)
    with torch.device("meta"):
        module = Glm4vModule(config)
    return Glm4v(module, config, cut, name=name, small_files=small)
