"""The GLM-4V family."""

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


def identity(ref: Reference) -> dict[str, Any]:
    from deckbench.models.glm4v.files import folder_identity

    return folder_identity(ref.checkpoint, ref.name)


def load(ref: Reference, device: str, dtype: str) -> Trainable:
    from deckbench.models.device import place
    from deckbench.models.glm4v.model import load_glm4v

    where, kind = place(device, dtype)
    return load_glm4v(ref.checkpoint, dtype=kind, device=where, name=ref.name)


def skeleton(ref: Reference) -> Trainable:
    from deckbench.models.glm4v.skeleton import make_skeleton

    return make_skeleton(ref.checkpoint, ref.name)


def probe_heads() -> ModuleType:
    from deckbench.models.glm4v import probe_heads

    return probe_heads


def check_case(model: Any, frame: Image, question: str, there: Mapping[str, Tensor], exact: bool) -> dict[str, Any]:
    from deckbench.models.glm4v.reference import check_case

    return check_case(model, frame, question, there, exact)


SPEC = FamilySpec(
    name="glm4v",
    serves="glm-4v-9b",
    known={
        "tiny-glm4v": "the embedded default: GLM-4V at 3 million weights, shipped in the package",
        "glm-4v-9b": "GLM-4V-9B at its true size without weights, for `deckbench bench --weights random` alone",
        "FOLDER (model_type chatglm)": "a GLM-4V checkpoint in the official layout",
    },
    identity=identity,
    load=load,
    model_types=("chatglm",),
    packaged={"tiny-glm4v": HERE / "tiny"},
    published={"glm-4v-9b": HERE / "published"},
    trainable=True,
    caches_features=True,
    train_configs={4096: "glm4v-9b"},
    skeleton=skeleton,
    probe_heads=probe_heads,
    check_case=check_case,
)
