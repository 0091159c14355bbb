"""Where a network runs and in which dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deckbench.errors import InputError

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")


def pick_device(device: str) -> str:
    """`auto` is the first GPU, or else the CPU. Raises InputError for a device this machine lacks."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"{device!r} is not a device", "device", "use auto, cpu or cuda") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InputError("no GPU is usable by this torch", "device", "use auto or cpu")
    return device


def pick_dtype(dtype: str, device: str) -> torch.dtype | None:
    """`auto` keeps the checkpoint's own dtype on a GPU (None) and computes in float32 on the CPU."""
    import torch

    if dtype not in DTYPES:
        raise InputError(f"{dtype!r} is not a dtype", "dtype", f"use one of {', '.join(DTYPES)}")
    if dtype == "auto":
        return torch.float32 if device == "cpu" else None
    return getattr(torch, dtype)  # type: ignore[no-any-return]


def place(device: str, dtype: str) -> tuple[str, torch.dtype | None]:
    """Both, of the values that `load_model` takes. Raises InputError."""
    where = pick_device(device)
    return where, pick_dtype(dtype, where)
