"""What a Phi-3-vision folder is, read from its files alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deckbench.models import files
from deckbench.models.phi3v.config import (
    CONFIG,
    PHI3V,
    TOKENIZER,
    Preprocessor,
    parse_config,
    read_json,
    read_preprocessor,
)


def identity(
    name: str, config: Mapping[str, Any], preprocessor: Preprocessor, small: Mapping[str, bytes], weights: Any
) -> dict[str, Any]:
    """`files.identity`: the number of crops is part of the base, for an adapter learns at one of them."""
    whole = {"config": dict(config), "preprocessor": dict(preprocessor.raw)}
    return files.identity(name, PHI3V, whole, {file: small[file] for file in TOKENIZER}, weights)


def folder_identity(folder: Path, name: str, num_crops: int | None = None) -> dict[str, Any]:
    """`identity` of a checkpoint folder, without loading it. Raises InputError for a broken folder."""
    config = parse_config(read_json(folder / CONFIG), folder / CONFIG)
    small = files.read_small(folder, TOKENIZER, PHI3V)
    weights = files.weight_hashes(folder, PHI3V)
    return identity(name, config.raw, read_preprocessor(folder, num_crops), small, weights)
