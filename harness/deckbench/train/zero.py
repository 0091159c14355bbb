"""DeepSpeed's ZeRO: its config files, and the state that each rank keeps of the sharded optimizer.

DeepSpeed's own checkpoints are pickles; here the same tensors go into the checksummed checkpoint with everything else.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deckbench.errors import InputError

CONFIGS = Path(__file__).parent / "configs"
PACKAGED = ("zero2", "zero3")


def read_config(name: str, beside: Path | None = None) -> dict[str, Any]:
    """A DeepSpeed config: a packaged name, or a json file, looked for from here and from the yaml `beside` it.

    Sections on optimizer and schedule are left out: both are DeckBench's own. Raises InputError, also where DeepSpeed
    is not installed.
    """
    folders = [Path()] if beside is None else [Path(), beside.parent, beside.parent.parent]
    places = [CONFIGS / f"{name}.json"] if name in PACKAGED else [folder / name for folder in folders]
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        raise InputError("no such DeepSpeed config", name, f"give a json file, or {' or '.join(PACKAGED)}")
    try:
        config = json.loads(place.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise InputError("this is not json", f"{place}:{line}", "fix the file") from error
    if not isinstance(config, dict):
        raise InputError("a DeepSpeed config is a map of settings", place, 'begin it with {"zero_optimization": ...}')
    if importlib.util.find_spec("deepspeed") is None:
        raise InputError(
            "DeepSpeed is not installed", "deepspeed", "install torch, then deepspeed: see docs/training.md"
        )
    return {name: section for name, section in config.items() if name not in ("optimizer", "scheduler")}


def configure_deepspeed() -> None:
    """Before DeepSpeed is set up: on a CPU it would compile C++ at its first start, for sums that gloo does as well."""
    import warnings

    import deepspeed
    import torch

    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # It calls functions that torch has renamed, and would say so at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def masters(optimizer: Any) -> list[Any]:
    """This rank's parts of the trained weights in float32, which the optimizer steps. optimizer: DeepSpeed's."""
    if hasattr(optimizer, "single_partition_of_fp32_groups"):  # stages 1 and 2
        return list(optimizer.single_partition_of_fp32_groups)
    return list(optimizer.fp32_partitioned_groups_flat)


def get_state(optimizer: Any) -> list[dict[str, Any]]:
    """This rank's part of the optimizer: weights and moments, on the CPU. optimizer: DeepSpeed's."""
    kept = []
    for master in masters(optimizer):
        moments = optimizer.optimizer.state.get(master, {})
        tensors = {"master": master, **moments}
        kept.append({name: value.detach().to("cpu", copy=True) for name, value in tensors.items()})
    return kept


def set_state(optimizer: Any, kept: list[dict[str, Any]]) -> None:
    """Put back what `get_state` took. The network's own weights are not touched."""
    for master, tensors in zip(masters(optimizer), kept, strict=True):
        master.data.copy_(tensors["master"])
        moments = {name: value for name, value in tensors.items() if name != "master"}
        for name, value in moments.items():
            # torch keeps the count of steps on the CPU
            optimizer.optimizer.state[master][name] = value.clone() if name == "step" else value.to(master.device)


@contextmanager
def gathered(parameters: list[Any]) -> Iterator[None]:
    """Within, sharded weights (stage 3) are whole on every rank; others are as they are."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters):
        yield
