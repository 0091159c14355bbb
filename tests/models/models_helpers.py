"""Ways to change and damage a checkpoint, and adapters for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from deckbench import artifact
from deckbench.models.load import load_model


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")


def split_in_shards(folder: Path) -> None:
    """Cut the single weights file into two and an index, every other tensor in each."""
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: state[name] for name in held}, folder / shard)
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def make_adapter(base: Path, out: Path, *, record: object = "its own", seed: int = 0, size: float = 0.2) -> Path:
    """An adapter folder with random weights of deviation `size`, as `train` writes it."""
    model = load_model(str(base), device="cpu")
    wrapped = get_peft_model(model.module, LoraConfig(r=4, lora_alpha=8, target_modules=model.lora_targets(True)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, size, generator=generator)
    known = {"name": model.name, "hash": model.base_hash} if record == "its own" else record
    with artifact.writing(out, "adapter", inputs={"base": known}) as draft:
        wrapped.save_pretrained(draft.path)
    return out
