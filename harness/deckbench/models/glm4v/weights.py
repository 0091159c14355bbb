"""Weights between the official checkpoint layout and this package's modules: names, fused tensors, broken files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from deckbench.errors import InputError, OutsideError
from deckbench.models.glm4v.config import OFFICIAL, Glm4vConfig
from deckbench.models.glm4v.files import INDEX, SINGLE, weight_files

ROTARY = "transformer.rotary_pos_emb.inv_freq"  # stored by the original, recomputed from the config here
AGAIN = "the file is damaged or incomplete; copy the checkpoint again"


@dataclass(frozen=True)
class Entry:
    """One official tensor: its shape and the module tensors it holds, stacked along the first dimension."""

    shape: tuple[int, ...]
    parts: tuple[tuple[str, int], ...]  # (our name, rows)


def name_pairs(config: Glm4vConfig, ours: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(official name, our names) for every tensor of the model."""
    for name in ours:
        if name.startswith("vision."):
            yield f"transformer.{name}", (name,)
    yield "transformer.embedding.word_embeddings.weight", ("language.model.embed_tokens.weight",)
    for layer in range(config.num_layers):
        official, own = f"transformer.encoder.layers.{layer}.", f"language.model.layers.{layer}."
        for norm in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            yield official + norm, (own + norm,)
        for kind in ("weight", "bias") if config.add_qkv_bias else ("weight",):
            parts = tuple(f"{own}self_attn.{part}_proj.{kind}" for part in "qkv")
            yield f"{official}self_attention.query_key_value.{kind}", parts
        yield official + "self_attention.dense.weight", (own + "self_attn.o_proj.weight",)
        yield official + "mlp.dense_h_to_4h.weight", (own + "mlp.gate_up_proj.weight",)
        yield official + "mlp.dense_4h_to_h.weight", (own + "mlp.down_proj.weight",)
    yield "transformer.encoder.final_layernorm.weight", ("language.model.norm.weight",)
    yield "transformer.output_layer.weight", ("language.lm_head.weight",)


def layout(config: Glm4vConfig, ours: Mapping[str, Tensor]) -> dict[str, Entry]:
    """Official name -> Entry. `ours` is the module's state dict (the meta device will do)."""
    entries = {}
    for official, parts in name_pairs(config, ours):
        rows = tuple((part, ours[part].shape[0]) for part in parts)
        entries[official] = Entry((sum(count for _, count in rows), *ours[parts[0]].shape[1:]), rows)
    return entries


def open_weights(path: Path, stack: ExitStack) -> Any:
    """An open safetensors file. Raises InputError when it is damaged."""
    try:
        return stack.enter_context(safe_open(path, "pt"))
    except (SafetensorError, OSError) as error:
        raise InputError(f"not readable as safetensors ({error})", path, AGAIN) from error


def load_state(
    folder: Path, config: Glm4vConfig, ours: Mapping[str, Tensor], dtype: torch.dtype | None, device: torch.device
) -> dict[str, Tensor]:
    """The module's state dict out of an official folder, tensor by tensor (no second copy of the model in memory).

    dtype None keeps each tensor's own. Raises InputError naming the file and the tensor when one is missing, has
    another shape, or belongs to nothing.
    """
    entries, files = layout(config, ours), weight_files(folder)
    state: dict[str, Tensor] = {}
    with ExitStack() as stack:
        paths = {files} if isinstance(files, Path) else set(files.values())
        handles = {path: open_weights(path, stack) for path in sorted(paths)}
        found = {name: path for path, handle in handles.items() for name in handle.keys()}  # noqa: SIM118
        whole = folder / SINGLE if isinstance(files, Path) else folder / INDEX
        for name in sorted(set(found) - set(entries) - {ROTARY}):
            raise InputError(f"the tensor {name!r} belongs to no part of GLM-4V", found[name], OFFICIAL)
        for official, entry in entries.items():
            if official not in found:
                raise InputError(f"the tensor {official!r} is missing", whole, "copy the checkpoint again")
            path = found[official]
            shape = tuple(handles[path].get_slice(official).get_shape())
            if shape != entry.shape:
                what = f"the tensor {official!r} has shape {list(shape)}; the config asks for {list(entry.shape)}"
                raise InputError(what, path, "config.json and weights must come from one checkpoint")
            tensor = handles[path].get_tensor(official)
            if not tensor.is_floating_point():
                raise InputError(f"the tensor {official!r} is {tensor.dtype}, not floating point", path, OFFICIAL)
            tensor = tensor.to(device=device, dtype=dtype or tensor.dtype)
            for (part, _), piece in zip(entry.parts, tensor.split([rows for _, rows in entry.parts]), strict=True):
                state[part] = piece.clone() if len(entry.parts) > 1 else piece
    return state


def official_state(module: nn.Module, config: Glm4vConfig, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The module's weights under their official names, fused, contiguous, on the CPU, in name order."""
    ours = module.state_dict()
    state = {}
    for official, entry in layout(config, ours).items():
        whole = torch.cat([ours[part] for part, _ in entry.parts]).detach().cpu()
        state[official] = whole.to(dtype or whole.dtype).contiguous().clone()
    rotated = config.kv_channels // 2
    frequencies = 1.0 / (10000 ** (torch.arange(0, rotated, 2, dtype=torch.float32) / rotated))
    state[ROTARY] = frequencies.to(dtype or ours["vision.boi"].dtype)
    return dict(sorted(state.items()))


def save_weights(module: nn.Module, config: Glm4vConfig, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write `folder`/model.safetensors in the official layout; the same weights give the same bytes.

    Raises OutsideError when the disk fails.
    """
    try:
        save_file(official_state(module, config, dtype), folder / SINGLE, metadata={"format": "pt"})
    except SafetensorError as error:  # no OSError, even when it is the disk that failed
        what = f"cannot write the weights ({error})"
        raise OutsideError(what, folder, "free some disk space, then run again") from error
    (folder / SINGLE).chmod(0o644)  # safetensors makes it private to its owner; a model folder is shared
