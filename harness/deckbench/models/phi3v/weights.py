"""Phi-3-vision's official tensor names, and the sizes that only its weights tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from deckbench.errors import InputError
from deckbench.models import weights
from deckbench.models.phi3v.config import PHI3V

VISION, LANGUAGE = "vision.", "language."
OFFICIAL_VISION = "model.vision_embed_tokens."
CLIP_LAYER = re.compile(
    rf"(?:{re.escape(OFFICIAL_VISION)}|{re.escape(VISION)})img_processor\.vision_model\.encoder\.layers\.(\d+)\.(.+)"
)
# Written by some releases of transformers: numbers of positions, which are no weights.
IGNORED = (f"{OFFICIAL_VISION}img_processor.vision_model.embeddings.position_ids",)


def official_name(name: str) -> str:
    """The checkpoint's name of one of our tensors; none is fused or split."""
    return OFFICIAL_VISION + name[len(VISION) :] if name.startswith(VISION) else name.removeprefix(LANGUAGE)


def name_pairs(ours: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(official name, our name) for every tensor of the model."""
    for name in ours:
        yield official_name(name), (name,)


def entries(ours: Mapping[str, Tensor]) -> dict[str, weights.Entry]:
    """What each tensor of the official checkpoint holds of the module's state dict `ours`."""
    return weights.layout(name_pairs(ours), ours)


def vision_shapes(folder: Path) -> dict[str, int]:
    """The tower's layers and inner width, as its weights have them: the config has no key for either.

    Raises InputError for missing or damaged files, or when a layer is missing between two others.
    """
    layers: set[int] = set()
    sizes: dict[str, int] = {}
    with ExitStack() as stack:
        handles, found, whole = weights.open_folder(folder, PHI3V, stack)
        for name, path in found.items():
            match = CLIP_LAYER.fullmatch(name)
            if match is None:
                continue
            layers.add(int(match[1]))
            if match[2] == "mlp.fc1.bias":
                sizes.setdefault("intermediate_size", int(handles[path].get_slice(name).get_shape()[0]))
    if layers:
        if layers != set(range(len(layers))):
            lost = min(set(range(max(layers))) - layers)
            raise InputError(f"the vision tower's layer {lost} is missing", whole, "copy the checkpoint again")
        sizes["num_hidden_layers"] = len(layers)
    return sizes


def load_state(
    folder: Path, ours: Mapping[str, Tensor], dtype: torch.dtype | None, device: torch.device
) -> dict[str, Tensor]:
    """The module's state dict out of a folder; see `weights.load_state`."""
    return weights.load_state(folder, entries(ours), family=PHI3V, dtype=dtype, device=device, ignored=IGNORED)


def official_state(module: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The module's weights under their official names, on the CPU."""
    ours = module.state_dict()
    return weights.fused(ours, entries(ours), dtype)
