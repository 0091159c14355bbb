"""The Phi-3-vision family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deckbench.models.interface import FamilySpec, Reference, Trainable

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

HERE = Path(__file__).parent


def num_crops(ref: Reference) -> int | None:
    """Most tiles of a frame, in place of the checkpoint's own number."""
    value = ref.options.get("num_crops")
    return None if value is None else int(value)


def identity(ref: Reference) -> dict[str, Any]:
    from deckbench.models.phi3v.files import folder_identity

    return folder_identity(ref.checkpoint, ref.name, num_crops(ref))


def load(ref: Reference, device: str, dtype: str) -> Trainable:
    from deckbench.models.device import place
    from deckbench.models.phi3v.model import load_phi3v

    where, kind = place(device, dtype)
    return load_phi3v(ref.checkpoint, dtype=kind, device=where, name=ref.name, num_crops=num_crops(ref))


def skeleton(ref: Reference) -> Trainable:
    from deckbench.models.phi3v.skeleton import make_skeleton

    return make_skeleton(ref.checkpoint, ref.name, num_crops(ref))


def probe_heads() -> ModuleType:
    from deckbench.models.phi3v import probe_heads

    return probe_heads


def check_case(model: Any, frame: Image, question: str, there: Mapping[str, Tensor], exact: bool) -> dict[str, Any]:
    from deckbench.models.phi3v.reference import check_case

    return check_case(model, frame, question, there, exact)


SPEC = FamilySpec(
    name="phi3v",
    serves="phi-3-vision",
    known={
        "tiny-phi3v": "Phi-3-vision at 2 million weights, shipped in the package",
        "phi-3-vision": "Phi-3-vision at its true size without weights, for `deckbench bench --weights random` alone",
        "FOLDER (model_type phi3_v)": "a Phi-3-vision checkpoint in the official layout",
        "FOLDER?num_crops=N": "Phi-3-vision with at most N tiles a frame, in place of the checkpoint's own number",
    },
    identity=identity,
    load=load,
    model_types=("phi3_v",),
    packaged={"tiny-phi3v": HERE / "tiny"},
    published={"phi-3-vision": HERE / "published"},
    options={"num_crops": str.isdecimal},
    trainable=True,
    caches_features=True,
    train_configs={3072: "phi3-vision"},
    skeleton=skeleton,
    probe_heads=probe_heads,
    check_case=check_case,
)
