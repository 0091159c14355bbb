"""The fallback family: whatever image-text model transformers itself can load."""

from __future__ import annotations

from typing import Any

from deckbench.models.interface import FamilySpec, Model, Reference


def identity(ref: Reference) -> dict[str, Any]:
    from deckbench.models.auto.files import folder_identity

    return folder_identity(ref.checkpoint, ref.name)


def load(ref: Reference, device: str, dtype: str) -> Model:
    """A `Trainable`, but for a model with a decision head."""
    from deckbench.models.auto.decision import load_decision
    from deckbench.models.auto.files import has_decision_head
    from deckbench.models.auto.model import load_auto
    from deckbench.models.device import place

    where, kind = place(device, dtype)
    if has_decision_head(ref.checkpoint):
        return load_decision(ref.checkpoint, dtype=kind, device=where, name=ref.name)
    return load_auto(ref.checkpoint, dtype=kind, device=where, name=ref.name)


SPEC = FamilySpec(
    name="auto",
    serves="auto",
    known={"FOLDER": "any image-text model saved by transformers (LLaVA, Idefics3, ..., models with a decision head)"},
    identity=identity,
    load=load,
    fallback=True,
    trainable=True,
)
