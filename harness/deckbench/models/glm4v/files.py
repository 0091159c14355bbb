"""A checkpoint folder's files: where the weights are, and what the folder is (hashes), without loading anything."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.models.glm4v.config import OFFICIAL, read_config, read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TOKENIZER = ("tokenizer.model", "tokenizer_config.json")
FAMILY = "glm4v"


def weight_files(folder: Path) -> dict[str, Path] | Path:
    """Official tensor name -> shard, or the path of the single file. Raises InputError when weights are missing."""
    if (folder / SINGLE).is_file():
        return folder / SINGLE
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise InputError("the key 'weight_map' is missing or not an object of names", folder / INDEX, OFFICIAL)
        for name in sorted(set(shards.values())):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise InputError(f"{name!r} is not the name of a safetensors file beside it", folder / INDEX, OFFICIAL)
            if not (folder / name).is_file():
                raise InputError(f"the shard is missing ({INDEX} lists it)", folder / name, "copy the checkpoint again")
        return {tensor: folder / name for tensor, name in shards.items()}
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        mend = "convert the weights to safetensors; a pickle can run any code when it is read"
        raise InputError("pickled weights are not read", folder / pickled[0], mend)
    raise InputError(f"the checkpoint has neither {SINGLE} nor {INDEX}", folder, OFFICIAL)


def identity(name: str, config: Mapping[str, Any], tokenizer: Mapping[str, bytes], weights: Any) -> dict[str, Any]:
    """What a base is: hashes of its config, tokenizer files and weights, and one `hash` over these three.

    The name is not part of `hash`: a copied or renamed folder is the same base.
    """
    parts = {
        "config": artifact.hash_json(dict(config)),
        "tokenizer": artifact.hash_json({file: hashlib.sha256(tokenizer[file]).hexdigest() for file in TOKENIZER}),
        "weights": weights,
    }
    return {"family": FAMILY, "name": name, **parts, "hash": artifact.hash_json(parts)}


def weight_hashes(folder: Path) -> dict[str, str]:
    """File name -> sha256 of a folder's weight files."""
    found = weight_files(folder)
    paths = {found} if isinstance(found, Path) else set(found.values())
    return {path.name: artifact.hash_file(path) for path in sorted(paths)}


def folder_identity(folder: Path, name: str) -> dict[str, Any]:
    """`identity` of a checkpoint folder, read from its files alone. Raises InputError for a broken folder."""
    config = read_config(folder)
    files = {}
    for file in TOKENIZER:
        if not (folder / file).is_file():
            raise InputError(f"the checkpoint has no {file}", folder / file, OFFICIAL)
        files[file] = (folder / file).read_bytes()
    return identity(name, config.raw, files, weight_hashes(folder))
