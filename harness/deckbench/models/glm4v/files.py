"""What a GLM-4V folder is, read from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deckbench.models import files
from deckbench.models.glm4v.config import GLM4V, TOKENIZER, read_config


def folder_identity(folder: Path, name: str) -> dict[str, Any]:
    """`files.identity` of a checkpoint folder, without loading it. Raises InputError for a broken folder."""
    config = read_config(folder)
    small = files.read_small(folder, TOKENIZER, GLM4V)
    return files.identity(name, GLM4V, config.raw, small, files.weight_hashes(folder, GLM4V))
