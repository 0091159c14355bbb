"""From a model's name or folder to something that answers: `tiny-glm4v`, a checkpoint folder, `blind:M`, baselines."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from deckbench import artifact
from deckbench.answer import Answer, Question, Unanswered
from deckbench.dataset import Sample
from deckbench.errors import InputError
from deckbench.models.families import BLIND, resolve, trainable
from deckbench.models.interface import Model, Reference, Trainable

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


class Blind(Model):
    """A model that gets every question and a blank frame: what can be answered from the words alone."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name, self.family = f"{BLIND}{model.name}", model.family
        self.concurrency, self.omits_unanswered = model.concurrency, model.omits_unanswered

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.model.identity, "name": self.name, "blank": True}

    @property
    def device(self) -> torch.device | None:
        return self.model.device

    @property
    def parameters(self) -> int | None:
        return self.model.parameters

    def answer(self, image: Image, questions: Sequence[Question], blank: bool = False) -> list[Answer]:
        return self.model.answer(image, questions, blank=True)

    def answer_samples(self, samples: Sequence[Sample], blank: bool = False) -> list[Answer | Unanswered]:
        return self.model.answer_samples(samples, blank=True)

    def account(
        self, facts: Sequence[Mapping[str, Any]], tokens: Sequence[tuple[int, int]]
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        return self.model.account(facts, tokens)

    def resume(self) -> None:
        self.model.resume()

    def close(self) -> None:
        self.model.close()


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection within: importing torch and transformers makes a million objects, and hardly garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def need_weights(ref: Reference) -> None:
    """Raises InputError for a model whose sizes alone are here."""
    if not ref.has_weights:
        fix = "give the folder of the checkpoint; `deckbench bench --weights random` takes the name"
        raise InputError("the weights of this model are not here, its sizes alone are", ref.text, fix)


def model_identity(ref: str) -> dict[str, Any]:
    """The base's identity (name, family, hashes) behind a reference, without loading it. Raises InputError."""
    if ref.startswith(BLIND):
        base = model_identity(ref.removeprefix(BLIND))
        return {**base, "name": f"{BLIND}{base['name']}", "blank": True}
    found = resolve(ref)
    need_weights(found)
    return found.family.identity(found)


def base_of(manifest: artifact.Manifest) -> tuple[str, str]:
    """(name, hash) of the base an adapter was trained on, as its manifest records it."""
    base = manifest.content.get("inputs", {}).get("base")
    if isinstance(base, str):
        return "", base
    if isinstance(base, dict) and isinstance(base.get("hash"), str):
        return str(base.get("name", "")), base["hash"]
    raise InputError("the manifest does not say which base the adapter belongs to", manifest.path, "train it again")


def refuse_foreign(adapter: Path) -> None:
    """Raises InputError for an adapter that another tool saved: it does not say which weights it belongs to."""
    if (adapter / artifact.MANIFEST).is_file() or not adapter.is_dir():
        return
    inner = sorted(place.parent for place in adapter.glob(f"*/{ADAPTER_CONFIG}"))
    if not (adapter / ADAPTER_CONFIG).is_file() and not inner:
        return
    place = adapter if (adapter / ADAPTER_CONFIG).is_file() else inner[-1]
    what = (
        f"no {artifact.MANIFEST}: this adapter was not made by deckbench; PEFT, and so ms-swift and LLaMA-Factory, "
        f"save it so, and {ADAPTER_CONFIG} does not say by its weights which base it belongs to"
    )
    fix = (
        "merge it into its base with its own tool (`swift export --merge_lora true --adapters DIR`, `llamafactory-cli "
        "export`, or PEFT's merge_and_unload) and give the merged folder as --model"
    )
    raise InputError(what, place, fix)


def check_adapter(adapter: Path, model: Trainable) -> artifact.Manifest:
    """Refuse an adapter that is pickled, damaged, or was trained on another base. Raises InputError."""
    refuse_foreign(adapter)
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


def apply_adapter(model: Trainable, adapter: Path) -> None:
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
    model.merged_tensors = frozenset(f"{name}.weight" for name in wrapped.base_model.targeted_module_names)
    model.module = wrapped.merge_and_unload(safe_merge=True)
    model.module.eval()
    model.adapter = manifest.content_hash


def load_model(ref: str, *, adapter: Path | None = None, device: str = "auto", dtype: str = "auto") -> Model:
    """The model behind a reference: a name, a checkpoint folder, `blind:REF`, `endpoint:...` or a baseline.

    Args:
        ref: one of the forms of `deckbench models ls`.
        adapter: a folder made by `train`, checked against its base and merged in.
        device: `auto` (the first GPU, or else the CPU), `cpu` or `cuda`.
        dtype: `auto` (float32 on the CPU, the checkpoint's own on a GPU), `float32`, `bfloat16` or `float16`.

    Returns:
        The model, a `Trainable` for a family that declares so.

    Raises:
        InputError: a name, a file or a setting is wrong; the message says where.
    """
    if ref.startswith(BLIND):
        if not resolve(ref.removeprefix(BLIND)).family.engines:
            raise InputError("a baseline sees no frame anyway", ref, f"{BLIND} goes before a model")
        return Blind(load_model(ref.removeprefix(BLIND), adapter=adapter, device=device, dtype=dtype))
    found = resolve(ref)
    need_weights(found)
    if adapter is not None and not found.family.trainable:
        if found.family.engines:
            fix = "serve the adapted model, and give the name it is served by"
            raise InputError("an adapter cannot be put on a model behind a server", ref, fix)
        raise InputError("a baseline takes no adapter", ref, "remove --adapter")
    with collector_paused():
        model = found.family.load(found, device, dtype)
    if adapter is not None:
        apply_adapter(weights_of(model, "--adapter"), Path(adapter))
    return model


def weights_of(model: Model, where: str) -> Trainable:
    """The model as one whose weights can be trained. Raises InputError for one with a decision head."""
    if not hasattr(model, "collate"):
        what = f"{model.name} has a decision head, which is neither trained nor adapted here"
        raise InputError(what, where, "give a model without one; `merge` makes a folder that decides")
    return cast(Trainable, model)


def load_trainable(ref: str, *, adapter: Path | None = None, device: str = "auto", dtype: str = "auto") -> Trainable:
    """`load_model` of a family whose weights are here (`families.trainable`). Raises InputError for any other."""
    if not trainable(ref):
        raise InputError(f"{ref} has no weights here", "--model", "give a model with weights, such as tiny-glm4v")
    return weights_of(load_model(ref, adapter=adapter, device=device, dtype=dtype), "--model")
