"""Weights between checkpoint folders and this package's modules: names, fused tensors, broken files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deckbench.errors import InputError, OutsideError
from deckbench.models.files import INDEX, SINGLE, Family, weight_files

LAYOUTS = ("official", "native")  # names of the published checkpoint, fused; names of the module
AGAIN = "the file is damaged or incomplete; copy the checkpoint again"


@dataclass(frozen=True)
class Entry:
    """One official tensor: its shape and the module tensors it holds, stacked along the first dimension."""

    shape: tuple[int, ...]
    parts: tuple[tuple[str, int], ...]  # (our name, rows)


def stated_dtype(config: Mapping[str, Any]) -> torch.dtype | None:
    """The number type that a checkpoint's config states, None when it states none.

    A merged folder holds tensors of two types, and one type is computed in.
    """
    found = getattr(torch, str(config.get("dtype", config.get("torch_dtype"))), None)
    return found if isinstance(found, torch.dtype) and found.is_floating_point else None


def layout(pairs: Iterable[tuple[str, tuple[str, ...]]], ours: Mapping[str, Tensor]) -> dict[str, Entry]:
    """Official name -> Entry. pairs: (official name, our names). ours: the module's state dict (on meta will do)."""
    entries = {}
    for official, parts in pairs:
        rows = tuple((part, ours[part].shape[0]) for part in parts)
        entries[official] = Entry((sum(count for _, count in rows), *ours[parts[0]].shape[1:]), rows)
    return entries


def open_weights(path: Path, stack: ExitStack) -> Any:
    """An open safetensors file. Raises InputError when it is damaged."""
    try:
        return stack.enter_context(safe_open(path, "pt"))
    except (SafetensorError, OSError) as error:
        raise InputError(f"not readable as safetensors ({error})", path, AGAIN) from error


def native(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The same tensors apart and under the module's own names."""
    return {
        part: Entry((rows, *entry.shape[1:]), ((part, rows),))
        for entry in entries.values()
        for part, rows in entry.parts
    }


def open_folder(folder: Path, family: Family, stack: ExitStack) -> tuple[dict[Path, Any], dict[str, Path], Path]:
    """(file -> open handle, tensor -> its file, the file that lists them all) of a checkpoint folder."""
    files = weight_files(folder, family)
    paths = {files} if isinstance(files, Path) else set(files.values())
    handles = {path: open_weights(path, stack) for path in sorted(paths)}
    found = {name: path for path, handle in handles.items() for name in handle.keys()}  # noqa: SIM118
    return handles, found, files if isinstance(files, Path) else folder / INDEX


def load_state(
    folder: Path,
    entries: Mapping[str, Entry],
    *,
    family: Family,
    dtype: torch.dtype | None,
    device: torch.device,
    ignored: Collection[str] = (),
) -> dict[str, Tensor]:
    """The module's state dict out of a folder, tensor by tensor (no second copy of the model in memory).

    The folder's tensors have official names or the module's own. dtype None keeps each tensor's own. ignored: official
    names that hold no weight of ours. Raises InputError naming the file and the tensor when one is missing, has another
    shape, or belongs to nothing.
    """
    state: dict[str, Tensor] = {}
    with ExitStack() as stack:
        handles, found, whole = open_folder(folder, family, stack)
        own = native(entries)
        entries = own if own.keys() & found.keys() else entries
        for name in sorted(set(found) - set(entries) - set(ignored)):
            raise InputError(f"the tensor {name!r} belongs to no part of {family.title}", found[name], family.official)
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
                raise InputError(
                    f"the tensor {official!r} is {tensor.dtype}, not floating point", path, family.official
                )
            tensor = tensor.to(device=device, dtype=dtype or tensor.dtype)
            for (part, _), piece in zip(entry.parts, tensor.split([rows for _, rows in entry.parts]), strict=True):
                state[part] = piece.clone() if len(entry.parts) > 1 else piece
    return state


def fused(ours: Mapping[str, Tensor], entries: Mapping[str, Entry], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A module's weights under their official names, contiguous, on the CPU. dtype None keeps each tensor's own."""
    state = {}
    for official, entry in entries.items():
        whole = torch.cat([ours[part] for part, _ in entry.parts]).detach().cpu()
        state[official] = whole.to(dtype or whole.dtype).contiguous().clone()
    return state


def save_state(state: Mapping[str, Tensor], folder: Path, name: str = SINGLE) -> None:
    """Write `folder`/`name`; the same weights give the same bytes.

    Raises OutsideError when the disk fails.
    """
    try:
        save_file(dict(sorted(state.items())), folder / name, metadata={"format": "pt"})
    except SafetensorError as error:  # no OSError, even when it is the disk that failed
        what = f"cannot write the weights ({error})"
        raise OutsideError(what, folder, "free some disk space, then run again") from error
    (folder / name).chmod(0o644)  # safetensors makes it private to its owner; a model folder is shared


def save_changed(
    source: Path,
    folder: Path,
    entries: Mapping[str, Entry],
    ours: Mapping[str, Tensor],
    changed: AbstractSet[str],
    *,
    family: Family,
    layout: str,
) -> None:
    """Write the weights of the folder `source` into `folder`, file by file, some of them changed.

    ours: the module's state dict, on the CPU; changed: those of its names whose tensors are taken from there, as they
    are. Every other tensor keeps its bytes and its type. layout: one of `LAYOUTS`.
    """
    homes: dict[str, str] = {}
    size = 0
    with ExitStack() as stack:
        handles, found, whole = open_folder(source, family, stack)
        wanted = native(entries) if layout == "native" else entries
        # The tensor of `source` that holds each of ours.
        holder = {part: name if name in found else part for name, entry in entries.items() for part, _ in entry.parts}
        holders = set(holder.values())

        def piece(part: str) -> Tensor:
            tensor: Tensor = handles[found[holder[part]]].get_tensor(holder[part])
            if holder[part] == part:
                return tensor
            names, rows = zip(*entries[holder[part]].parts, strict=True)
            return tensor.split(rows)[names.index(part)]

        for path, handle in handles.items():
            # What is no weight of ours (`ignored` of `load_state`) is handed on.
            state = {name: handle.get_tensor(name) for name in handle.keys() if name not in holders}  # noqa: SIM118
            for name, entry in wanted.items():
                parts = [part for part, _ in entry.parts]
                if found[holder[parts[0]]] == path:
                    anew = not changed.isdisjoint(parts)
                    state[name] = torch.cat([ours[part] if anew else piece(part) for part in parts])
            if state:
                save_state(state, folder, path.name)
            homes |= dict.fromkeys(state, path.name)
            size += sum(tensor.nbytes for tensor in state.values())
    if whole.name == INDEX:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(homes.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def memory_hash(state: Mapping[str, Tensor]) -> dict[str, str]:
    """What an identity says of weights that no file holds. state: official names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return {"memory": digest.hexdigest()}
