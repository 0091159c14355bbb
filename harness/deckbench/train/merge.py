"""Merge a base and its adapter into one complete model folder."""

from __future__ import annotations

from pathlib import Path

from deckbench import artifact
from deckbench.artifact import Manifest
from deckbench.errors import InputError
from deckbench.train.lora import read_adapter


def merge(*, model: str, adapter: Path, out: Path, layout: str = "official") -> Manifest:
    """Write `out`: a folder that `load_model` takes, the adapter's weights added into the base's.

    The sums are computed and stored in float32, so the folder answers exactly as base plus adapter do on a CPU; every
    other tensor and file is the base's, byte for byte.

    Args:
        model: name or folder of the base.
        adapter: the adapter's folder.
        out: the new model folder.
        layout: `official` (names of the published checkpoint, for other tools) or `native` (names of DeckBench's
            modules, nothing fused).

    Returns:
        The manifest of `out`.

    Raises:
        InputError: the adapter does not belong to the model; nothing is written.
    """
    from deckbench.models.families import trainable
    from deckbench.models.load import load_trainable
    from deckbench.models.weights import LAYOUTS

    if layout not in LAYOUTS:
        raise InputError(f"the layout {layout!r} is not known", "--layout", f"one of: {', '.join(LAYOUTS)}")
    adapter, out = Path(adapter), Path(out)
    artifact.check_free(out)
    found = read_adapter(adapter)
    if not trainable(model):
        raise InputError(f"{model} has no weights to merge into", "--model", "give a model with weights")
    loaded = load_trainable(model, adapter=adapter, device="cpu")
    inputs = {"base": found.base, "adapter": found.content_hash}
    with artifact.writing(out, "model", inputs=inputs, params={"layout": layout}) as draft:
        loaded.save_merged(draft.path, layout)
    return artifact.read(out, "model")
