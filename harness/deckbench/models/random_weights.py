"""The published models at their true size, with random numbers for weights: times and memory before any download.

Sizes are those of the published configs; no published tokenizer comes along. A stand-in that was trained on the tasks'
own words cuts questions into somewhat more tokens.
"""

from __future__ import annotations

import torch

from deckbench import resources
from deckbench.errors import InputError, OutsideError
from deckbench.machine import hardware
from deckbench.models.device import place
from deckbench.models.families import published, resolve
from deckbench.models.init import noise
from deckbench.models.interface import Trainable
from deckbench.progress import format_bytes, say

STAND_IN = 1500  # text tokens of the stand-in vocabulary, as in the embedded models


def texts() -> list[str]:
    """The texts that the stand-in vocabulary is made of."""
    return [path.read_text(encoding="utf-8") for path in sorted(resources.tasks_folder().rglob("*.yaml"))]


def skeleton(ref: str) -> Trainable:
    """A published model on the meta device: all sizes and names, no weights, no memory. Raises InputError."""
    found = resolve(ref)
    if found.family.skeleton is None:
        raise InputError("only models of published sizes can be made without weights", ref, f"give {names()}")
    return found.family.skeleton(found)


def names() -> str:
    """The published models, for messages."""
    return " or ".join(published())


def free_bytes(device: str) -> int | None:
    """Memory that can still be taken on a device, None where it cannot be known."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return hardware.free_memory_bytes()


def random_model(ref: str, *, seed: int, device: str = "auto", dtype: str = "auto") -> Trainable:
    """A published model with random weights, ready to answer nonsense at the true cost.

    device, dtype: as for `load_model`. Raises OutsideError when the weights do not fit into the memory that is free.
    """
    model = skeleton(ref)
    where, kind = place(device, dtype)
    module = model.module.to(kind or model.stated_dtype)
    numbers = sum(parameter.numel() for parameter in module.parameters())
    needed = sum(parameter.nbytes for parameter in module.parameters())
    size = f"{numbers:,} weights in {str(model.dtype).removeprefix('torch.')}, {format_bytes(needed)}"
    free = free_bytes(where)
    if free is not None and needed > free:
        fix = "free some memory, or take a machine or a GPU that has more"
        raise OutsideError(f"the model is {size}, and {format_bytes(free)} are free on {where}", ref, fix)
    say(f"{model.name}: {size}, all random; a stand-in for the tokenizer")
    module.to_empty(device=where)
    noise(module, seed)
    module.fill_buffers(torch.device(where))
    module.eval()
    model.random_init = f"random, seed {seed}"
    return model
