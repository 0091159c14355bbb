"""A base and its adapter made into one complete model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deckbench import artifact
from deckbench.artifact import Manifest
from deckbench.errors import InputError
from deckbench.train.lora import read_adapter


def merge(*, model: str, adapter: Path, out: Path) -> Manifest:
    """Write `out`: a folder that `load_model` takes, the adapter's weights added into the base's.

    The sums are made and written in float32, so the folder answers exactly as base plus adapter do on a CPU.

    Raises InputError when the adapter does not belong to the model.
    """
    from deckbench.models.load import load_model

    adapter, out = Path(adapter), Path(out)
    artifact.check_free(out)
    found = read_adapter(adapter)
    loaded: Any = load_model(model, adapter=adapter, device="cpu")
    if not hasattr(loaded, "save"):
        raise InputError(f"{model} has no weights to merge into", "--model", "give a model with weights")
    with artifact.writing(out, "model", inputs={"base": found.base, "adapter": found.content_hash}) as draft:
        loaded.save(draft.path)
    return artifact.read(out, "model")
