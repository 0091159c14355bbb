"""From a model's name or folder to something that answers: `tiny-glm4v`, a checkpoint folder, `blind:M`, baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import artifact
from deckbench.errors import InputError
from deckbench.models.interface import Answer, Model, Question

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from deckbench.models.chat import Chat

PACKAGED = {
    "tiny-glm4v": Path(__file__).parent / "glm4v" / "tiny",
    "tiny-phi3v": Path(__file__).parent / "phi3v" / "tiny",
}
# Models whose sizes alone are here: `bench --weights random`.
PUBLISHED = {
    "glm-4v-9b": Path(__file__).parent / "glm4v" / "published",
    "phi-3-vision": Path(__file__).parent / "phi3v" / "published",
}
BLIND = "blind:"
ENDPOINT = "endpoint:"
BASELINES = ("majority", "nearest", "rule")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
DTYPES = ("auto", "float32", "bfloat16", "float16")


class Blind:
    """A model that gets every question and a frame of zeros: what can be answered from the words alone."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name, self.family = f"{BLIND}{model.name}", model.family

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.model.identity, "name": self.name, "blank": True}

    def answer(self, image: Image, questions: Sequence[Question], blank: bool = False) -> list[Answer]:
        return self.model.answer(image, questions, blank=True)


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
    """`auto` keeps the checkpoint's own type on a GPU and computes in float32 on the CPU."""
    import torch

    if dtype not in DTYPES:
        raise InputError(f"{dtype!r} is not a number type", "dtype", f"use one of {', '.join(DTYPES)}")
    if dtype == "auto":
        return torch.float32 if device == "cpu" else None
    return getattr(torch, dtype)  # type: ignore[no-any-return]


def without_weights(ref: str) -> bool:
    """Whether this is one of `PUBLISHED`, its crops chosen or not, and no folder of that name."""
    name = ref.partition("?")[0]
    return name in PUBLISHED and not Path(name).is_dir()


def need_weights(ref: str) -> None:
    """Raises InputError for a model whose sizes alone are here."""
    if without_weights(ref):
        fix = "give the folder of the checkpoint; `deckbench bench --weights random` takes the name"
        raise InputError("the weights of this model are not here, its sizes alone are", ref, fix)


def model_folder(ref: str) -> tuple[Path, str]:
    """(folder, name) of a packaged or published model, or a checkpoint folder. Raises InputError for anything else."""
    if ref in PACKAGED:
        return PACKAGED[ref], ref
    if without_weights(ref):
        return PUBLISHED[ref], ref
    folder = Path(ref)
    if not folder.is_dir():
        known = ", ".join([*PACKAGED, *BASELINES, f"{BLIND}MODEL", f"{ENDPOINT}NAME"])
        fix = (
            f"known names: {known}, and {', '.join(PUBLISHED)} where no weights are needed; or give a checkpoint folder"
        )
        raise InputError("no such model or folder", ref, fix)
    return folder, folder.resolve().name


def split_ref(ref: str) -> tuple[Path, str, int | None]:
    """(folder, name, number of crops) of `REF` or `REF?num_crops=N`. Raises InputError as `model_folder` does."""
    plain, mark, option = ref.rpartition("?")
    if not mark or Path(ref).is_dir():
        return (*model_folder(ref), None)
    key, _, value = option.partition("=")
    if key != "num_crops" or not value.isdecimal():
        raise InputError(f"{option!r} is not an option of a model", ref, "write FOLDER?num_crops=4")
    folder, name = model_folder(plain)
    if family_of(folder) != "phi3v":
        raise InputError("only Phi-3-vision cuts a frame into crops", ref, "leave ?num_crops away")
    return folder, f"{name}?{option}", int(value)


def family_of(folder: Path) -> str:
    """The family of a checkpoint folder, by its config's `model_type`; `auto` for what is none of our own.

    Raises InputError when there is no such config.
    """
    from deckbench.models.files import Family, read_json

    fix = "give the folder of a vision-language model: GLM-4V or Phi-3-vision as published, or saved by transformers"
    config = read_json(folder / "config.json", family=Family("", "", fix))
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise InputError(f"'model_type' is {kind!r}, no name of a model", folder / "config.json", fix)
    return {"chatglm": "glm4v", "phi3_v": "phi3v"}.get(kind, "auto")


def known_models() -> dict[str, str]:
    """Name or form of reference -> one line on it."""
    return {
        "tiny-glm4v": "the embedded default: GLM-4V at 3 million weights, shipped in the package",
        "tiny-phi3v": "Phi-3-vision at 2 million weights, shipped in the package",
        "glm-4v-9b, phi-3-vision": "true sizes without weights, for `deckbench bench --weights random` alone",
        "FOLDER": "a GLM-4V or Phi-3-vision checkpoint in the official layout (model_type chatglm or phi3_v), or any "
        "image-text model saved by transformers (LLaVA, Idefics3, PaliGemma, ...)",
        "FOLDER?num_crops=N": "Phi-3-vision with at most N tiles a frame, in place of the checkpoint's own number",
        "endpoint:NAME, endpoint:FILE.yaml": "a model behind an OpenAI-compatible server; docs/endpoints.md",
        "blind:MODEL": "the same model, its frames blanked: what the question alone gives away",
        "majority[:DATASET]": "baseline: the more frequent answer of the train part",
        "nearest[:DATASET]": "baseline: the answer of the most similar training frame",
        "rule:gold, rule:LABELS": "baseline: the ontology's rule applied to labels or to a detector's output",
    }


def model_identity(ref: str) -> dict[str, Any]:
    """The base's identity (name, family, hashes) behind a name, a folder or `blind:REF`, without loading it."""
    if ref.startswith(ENDPOINT):
        from deckbench.endpoint import endpoint_identity

        return endpoint_identity(ref)
    if ref.startswith(BLIND):
        base = model_identity(ref.removeprefix(BLIND))
        return {**base, "name": f"{BLIND}{base['name']}", "blank": True}
    need_weights(ref)
    folder, name, num_crops = split_ref(ref)
    family = family_of(folder)
    if family == "phi3v":
        from deckbench.models.phi3v.files import folder_identity as phi3v_identity

        return phi3v_identity(folder, name, num_crops)
    if family == "auto":
        from deckbench.models.auto.files import folder_identity as auto_identity

        return auto_identity(folder, name)
    from deckbench.models.glm4v.files import folder_identity

    return folder_identity(folder, name)


def base_of(manifest: artifact.Manifest) -> tuple[str, str]:
    """(name, hash) of the base an adapter was trained on, as its manifest records it."""
    base = manifest.content.get("inputs", {}).get("base")
    if isinstance(base, str):
        return "", base
    if isinstance(base, dict) and isinstance(base.get("hash"), str):
        return str(base.get("name", "")), base["hash"]
    raise InputError("the manifest does not say which base the adapter belongs to", manifest.path, "train it again")


def check_adapter(adapter: Path, model: Chat) -> artifact.Manifest:
    """Refuse an adapter that is pickled, damaged, or was trained on another base. Raises InputError."""
    manifest = artifact.read(adapter, kind="adapter", verify=True)
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        pickled = sorted(path.name for path in adapter.glob("*.bin"))
        if pickled:
            fix = "save it as safetensors; a pickle can run any code when it is read"
            raise InputError("pickled adapters are not read", adapter / pickled[0], fix)
        raise InputError(f"the adapter has no {ADAPTER_WEIGHTS}", adapter, "train it again")
    if not (adapter / ADAPTER_CONFIG).is_file():
        raise InputError(f"the adapter has no {ADAPTER_CONFIG}", adapter, "train it again")
    name, wanted = base_of(manifest)
    if wanted != model.base_hash:
        what = (
            f"the adapter was trained on {name or 'a base'} {wanted[:12]}, not on {model.name} {model.base_hash[:12]}"
        )
        raise InputError(what, adapter, "give --model the base it was trained on")
    return manifest


def apply_adapter(model: Chat, adapter: Path) -> None:
    """Merge an adapter into the model's weights, so that it runs at the base's speed.

    `merge` writes the very same sums, so a merged folder and base plus adapter answer alike.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    manifest = check_adapter(adapter, model)
    try:
        wrapped = PeftModel.from_pretrained(model.module, str(adapter), is_trainable=False)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise InputError(f"the adapter does not fit the model ({error})", adapter, "train it again") from error
    model.touched = frozenset(f"{name}.weight" for name in wrapped.base_model.targeted_module_names)
    model.module = wrapped.merge_and_unload(safe_merge=True)
    model.module.eval()
    model.adapter = manifest.content_hash


def load_model(ref: str, *, adapter: Path | None = None, device: str = "auto", dtype: str = "auto") -> Any:
    """The model behind `ref`: a packaged name, a checkpoint folder, `blind:REF`, or a baseline.

    Returns a `Model` (an `endpoint.Endpoint` for `endpoint:...`), or a `baselines.Baseline` (which answers samples of a
    dataset instead of frames).
    adapter: a folder made by `train`, checked against its base and merged in. Raises InputError (files, names) with
    what is wrong and where.
    """
    if ref.removeprefix(BLIND).startswith(ENDPOINT):
        if adapter is not None:
            fix = "serve the adapted model, and give the name it is served by"
            raise InputError("an adapter cannot be put on a model behind a server", ref, fix)
        from deckbench.endpoint import load_endpoint

        return load_endpoint(ref)
    is_baseline = ref.removeprefix(BLIND).partition(":")[0] in BASELINES
    if ref.startswith(BLIND):
        if is_baseline:
            raise InputError("a baseline sees no frame anyway", ref, f"{BLIND} goes before a model")
        return Blind(load_model(ref.removeprefix(BLIND), adapter=adapter, device=device, dtype=dtype))
    if is_baseline:
        if adapter is not None:
            raise InputError("a baseline takes no adapter", ref, "leave --adapter away")
        from deckbench.models import baselines

        return baselines.load(ref)
    need_weights(ref)
    folder, name, num_crops = split_ref(ref)
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    model: Chat
    family = family_of(folder)
    if family == "phi3v":
        from deckbench.models.phi3v.chat import load_phi3v

        model = load_phi3v(folder, dtype=kind, device=where, name=name, num_crops=num_crops)
    elif family == "auto":
        from deckbench.models.auto.chat import load_auto

        model = load_auto(folder, dtype=kind, device=where, name=name)
    else:
        from deckbench.models.glm4v.chat import load_glm4v

        model = load_glm4v(folder, dtype=kind, device=where, name=name)
    if adapter is not None:
        apply_adapter(model, Path(adapter))
    return model
