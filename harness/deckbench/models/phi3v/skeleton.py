"""Phi-3-vision at the sizes of a config alone: every module and name, no weights and no memory for them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from deckbench.models.phi3v import tokenizer
from deckbench.models.phi3v.config import CONFIG, PREPROCESSOR, parse_config, read_json, read_preprocessor
from deckbench.models.phi3v.model import Phi3v
from deckbench.models.phi3v.network import Phi3vModule
from deckbench.models.phi3v.tiny_vocab import vocabulary_files
from deckbench.models.random_weights import STAND_IN, texts


def make_skeleton(folder: Path, name: str, num_crops: int | None) -> Phi3v:
    """The model of a folder's config on torch's meta device, with a stand-in tokenizer. Raises InputError."""
    config = parse_config(read_json(folder / CONFIG), folder / CONFIG)
    preprocessor = read_preprocessor(folder, num_crops)
    small = vocabulary_files(texts(), STAND_IN)
    cut = tokenizer.parse_tokenizer(json.loads(small[tokenizer.MODEL]), tokenizer.MODEL)
    small[PREPROCESSOR] = (folder / PREPROCESSOR).read_bytes()
    with torch.device("meta"):
        module = Phi3vModule(config)
    return Phi3v(module, config, preprocessor, cut, name=name, small_files=small)
