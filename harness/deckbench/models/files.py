"""A checkpoint folder's files: where the weights are, and what the folder is (hashes), without loading anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.errors import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Family:
    """What messages and identities call a family of checkpoints. official: advice where a folder is not one."""

    name: str
    title: str
    official: str


def read_json(path: Path, *, family: Family) -> Any:
    """A JSON file of a checkpoint. Raises InputError when it is missing or damaged."""
    if not path.is_file():
        if (path.parent / ADAPTER_CONFIG).is_file():
            fix = f"--model BASE --adapter {path.parent.name}; one of another tool is merged into its base by that tool"
            raise InputError("this is an adapter, not a model", path.parent, fix)
        raise InputError(f"the checkpoint has no {path.name}", path, family.official)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"not readable as JSON ({error})", path, "copy the checkpoint again") from error


def number(
    data: Mapping[str, Any],
    key: str,
    where: str | Path,
    kind: type,
    *,
    family: Family,
    least: float = 0,
    scope: str = "",
) -> Any:
    """`data[key]` when it is a finite number of `kind` above `least` (booleans are no numbers); else InputError."""
    if key not in data:
        raise InputError(f"the key {scope}{key!r} is missing", where, family.official)
    value = data[key]
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if good and kind is int:
        good = isinstance(value, int)
    if not good or not (least < value < float("inf")):
        wanted = "an integer" if kind is int else "a number"
        raise InputError(
            f"the key {scope}{key!r} must be {wanted} above {least:g}, not {value!r}", where, family.official
        )
    return kind(value)


def unknown_keys(
    data: Mapping[str, Any], known: set[str], where: str | Path, scope: str = "", *, family: Family
) -> None:
    """Refuse keys nobody reads: a setting that is silently dropped would give a silently different model."""
    for key in sorted(set(data) - known):
        if not key.startswith("_"):
            raise InputError(f"unknown key {scope}{key!r}", where, f"this is not a {family.title} setting; remove it")


def weight_files(folder: Path, family: Family) -> dict[str, Path] | Path:
    """Official tensor name -> shard, or the path of the single file. Raises InputError when weights are missing."""
    if (folder / SINGLE).is_file():
        return folder / SINGLE
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX, family=family)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise InputError(
                "the key 'weight_map' is missing or not an object of names", folder / INDEX, family.official
            )
        for name in sorted(set(shards.values())):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise InputError(
                    f"{name!r} is not the name of a safetensors file beside it", folder / INDEX, family.official
                )
            if not (folder / name).is_file():
                raise InputError(f"the shard is missing ({INDEX} lists it)", folder / name, "copy the checkpoint again")
        return {tensor: folder / name for tensor, name in shards.items()}
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        fix = "convert the weights to safetensors; a pickle can run any code when it is read"
        raise InputError("pickled weights are not read", folder / pickled[0], fix)
    raise InputError(f"the checkpoint has neither {SINGLE} nor {INDEX}", folder, family.official)


def identity(
    name: str, family: Family, config: Mapping[str, Any], small: Mapping[str, bytes], weights: Any
) -> dict[str, Any]:
    """What a base is: hashes of its config, its tokenizer files `small` and its weights, one `hash` over these three.

    The name is not part of `hash`: a copied or renamed folder is the same base.
    """
    parts = {
        "config": artifact.hash_json(dict(config)),
        "tokenizer": artifact.hash_json({file: hashlib.sha256(data).hexdigest() for file, data in small.items()}),
        "weights": weights,
    }
    return {"family": family.name, "name": name, **parts, "hash": artifact.hash_json(parts)}


def weight_hashes(folder: Path, family: Family) -> dict[str, str]:
    """File name -> sha256 of a folder's weight files."""
    found = weight_files(folder, family)
    paths = {found} if isinstance(found, Path) else set(found.values())
    return {path.name: artifact.hash_file(path) for path in sorted(paths)}


def read_small(folder: Path, names: tuple[str, ...], family: Family) -> dict[str, bytes]:
    """The bytes of a checkpoint's small files. Raises InputError when one is missing."""
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"the checkpoint has no {name}", folder / name, family.official)
    return {name: (folder / name).read_bytes() for name in names}
