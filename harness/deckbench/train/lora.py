"""LoRA layers on a model: wrapped, checked, loaded and written as standard PEFT files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import artifact
from deckbench.errors import DeckBenchError, InputError
from deckbench.models.load import refuse_foreign
from deckbench.train.config import ADAPTER_SHAPE, TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PICKLED = "adapter_model.bin"


@dataclass(frozen=True)
class Adapter:
    """An adapter folder whose hashes fit.

    targets: the pattern of its layers. named: the setting `targets` of its training.
    """

    path: Path
    content_hash: str
    base: dict[str, Any]
    rank: int
    alpha: float
    dropout: float
    targets: str
    named: tuple[str, ...] | None


def read_adapter(path: Path) -> Adapter:
    """Read and verify an adapter folder; no weights are loaded. Raises InputError."""
    if (path / PICKLED).exists():
        raise InputError(
            "the adapter's weights are pickled, which can run code when opened",
            path / PICKLED,
            f"save them as {WEIGHTS}",
        )
    refuse_foreign(path)
    manifest = artifact.read(path, "adapter", verify=True)
    try:
        config = artifact.read_json(path / CONFIG, "train it again")
        adapter = Adapter(
            path=path,
            content_hash=manifest.content_hash,
            base=dict(manifest.content["inputs"]["base"]),
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            dropout=float(config["lora_dropout"]),
            targets=str(config["target_modules"]),
            named=named_layers(manifest.content.get("params", {}).get("targets")),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"the adapter's config cannot be read ({error})", path / CONFIG, "train it again") from error
    if not (path / WEIGHTS).is_file():
        raise InputError("the adapter has no weights", path / WEIGHTS, "train it again")
    return adapter


def named_layers(names: list[str] | None) -> tuple[str, ...] | None:
    """The setting `targets` out of a manifest."""
    return None if names is None else tuple(names)


def check_base(adapter: Adapter, model: Any) -> None:
    """Raises InputError when the adapter was trained on another base."""
    if adapter.base.get("hash") != model.base_hash:
        raise InputError(
            f"the adapter was trained on another base ({adapter.base.get('name')}, not this {model.name})",
            adapter.path,
            "give the adapter's own base with --model",
        )


def fit_config(config: TrainConfig, adapter: Adapter, model: Any) -> TrainConfig:
    """Take the adapter's shape where the config is silent. Raises InputError where it says otherwise."""
    # `absent` where both patterns are one: such a model's vision is never trained.
    patterns = {pattern(model, vision, adapter.named): vision for vision in ("train", "absent")}
    vision = patterns.get(adapter.targets)
    if vision is None:
        raise InputError(
            "the adapter sits on other layers than this model trains", adapter.path, "start without --init"
        )
    shape: dict[str, Any] = {"rank": adapter.rank, "alpha": adapter.alpha, "dropout": adapter.dropout}
    shape |= {"vision": vision, "targets": adapter.named}
    for name in ADAPTER_SHAPE:
        if name in config.model_fields_set and getattr(config, name) != shape[name]:
            raise InputError(
                f"{name} is {getattr(config, name)} in the config and {shape[name]} in the adapter to start from",
                adapter.path,
                f"leave {name} out of the config, or start without --init",
            )
    return config.model_copy(update=shape)


def pattern(model: Any, vision: str, names: Sequence[str] | None) -> str:
    """The full-match pattern of the layers that get adapters: the model's linear layers, or those with such names.

    An official name stands for the layers that it is here: `query_key_value` for query, key and value.
    """
    layers: str = model.lora_targets(vision == "train")
    if names is None:
        return layers
    own = sorted({own for name in names for own in (name, *model.fused_names.get(name, ()))})
    return rf"(?=.*\.({'|'.join(map(re.escape, own))})$)({layers})"


def check_targets(model: Any, config: TrainConfig, where: str) -> None:
    """Every name in `targets` is one of a layer that can have an adapter. where: file and line. Raises InputError."""
    from deckbench.models.vision_language import linears_matched

    if config.targets is None:
        return
    known = linears_matched(model.module, pattern(model, config.vision, None))
    fix = f"names of layers are: {', '.join(sorted({name.rpartition('.')[2] for name in known}))}"
    for name in config.targets:
        if not linears_matched(model.module, pattern(model, config.vision, [name])):
            raise InputError(f"no layer that can have an adapter is called {name!r} in {model.name}", where, fix)
    if config.vision == "train":
        both, text = (linears_matched(model.module, pattern(model, v, config.targets)) for v in ("train", "absent"))
        if len(both) == len(text):
            what = f"the vision tower is to be trained, and has no layer called {' or '.join(config.targets)}"
            raise InputError(what, where, f"leave it out (vision: absent, or freezeV: true); {fix}")


def fit_vision(config: TrainConfig, model: Any) -> TrainConfig:
    """`vision: absent` for a model whose vision is never trained. Raises InputError where the config asks for it."""
    if model.lora_targets(True) != model.lora_targets(False):
        return config
    if "vision" in config.model_fields_set and config.vision == "train":
        raise InputError(
            f"the vision of {model.name} is not trained", "vision", "set vision to absent, or leave it out"
        )
    return config.model_copy(update={"vision": "absent"})


def peft_config(model: Any, config: TrainConfig) -> Any:
    """PEFT's description of the LoRA layers that `config` asks for on this model."""
    from peft import LoraConfig

    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=pattern(model, config.vision, config.targets),
        bias="none",
    )


def wrap(model: Any, config: TrainConfig, seed: int) -> Any:
    """Put fresh LoRA layers on `model.module` and freeze the rest. Returns the PeftModel.

    Raises InputError when the model has no layers to put them on, DeckBenchError when an adapter would not be trained.
    """
    import torch
    from peft import get_peft_model

    torch.manual_seed(seed)
    try:
        wrapped = get_peft_model(model.module, peft_config(model, config))
    except ValueError as error:
        raise InputError(f"LoRA does not fit this model: {error}", model.name, "train another model") from error
    check_trained(wrapped, model, config)
    return wrapped


def check_trained(wrapped: Any, model: Any, config: TrainConfig) -> None:
    """Vision adapters are trained or absent, and adapters are all that is trained. Raises DeckBenchError."""
    text_only = re.compile(model.lora_targets(False))
    on_vision = [name for name in wrapped.base_model.targeted_module_names if not text_only.fullmatch(name)]
    if bool(on_vision) != (config.vision == "train"):
        raise DeckBenchError(f"vision is set to {config.vision}, yet {len(on_vision)} vision layers have an adapter")
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad != (".lora_" in name):
            state = "trained" if parameter.requires_grad else "frozen"
            raise DeckBenchError(f"the parameter {name} is {state} by accident")


def check_reached(wrapped: Any) -> None:
    """After a backward pass every adapter has a gradient: none is cut off from the loss. Raises DeckBenchError."""
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise DeckBenchError(f"the loss does not reach the adapter {name}: it would stay frozen by accident")


def weights(wrapped: Any) -> dict[str, Tensor]:
    """The adapter's tensors under PEFT's names, on the CPU."""
    from peft import get_peft_model_state_dict

    # False, for the default asks a hub whether the vocabulary was resized.
    state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}


def set_weights(wrapped: Any, tensors: dict[str, Tensor], where: Path) -> None:
    """Put tensors into the wrapped model. Raises InputError unless names and shapes fit exactly."""
    from peft import set_peft_model_state_dict

    expected = {name: tuple(tensor.shape) for name, tensor in weights(wrapped).items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != given:
        wrong = sorted(set(expected.items()) ^ set(given.items()))[0][0]
        raise InputError(f"the adapter's tensors do not fit this model (first: {wrong})", where, "use its own base")
    set_peft_model_state_dict(wrapped, tensors)


def load_weights(wrapped: Any, adapter: Adapter) -> None:
    """Continue from an adapter folder. Raises InputError when its file is damaged or does not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(adapter.path / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise InputError(f"the weights cannot be read ({error})", adapter.path / WEIGHTS, "train it again") from error
    set_weights(wrapped, tensors, adapter.path / WEIGHTS)


def config_json(model: Any, config: TrainConfig) -> str:
    """PEFT's adapter_config.json; the base by name, its hash as the revision, never a path."""
    values = peft_config(model, config).to_dict()
    values |= {"base_model_name_or_path": model.name, "revision": model.base_hash, "inference_mode": True}

    def plain(value: Any) -> Any:
        if isinstance(value, set | frozenset):
            return sorted(value)
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return getattr(value, "value", value)

    return json.dumps(plain(values), indent=2, sort_keys=True) + "\n"
