"""The network itself, as transformers builds it: loaded strictly, taught our loss, its language layers named."""

from __future__ import annotations

import functools
import inspect
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING
from transformers.utils import logging as chatter

from deckbench.errors import InputError
from deckbench.models.auto.files import AUTO, OFFICIAL, in_our_words
from deckbench.models.files import INDEX, SINGLE, weight_files
from deckbench.models.generate import wait
from deckbench.models.loss import IGNORE, Output, mean_loss
from deckbench.models.vision_language import CONFIG
from deckbench.models.weights import open_weights

NEEDED = ("input_ids", "attention_mask", "logits_to_keep")  # arguments of every decoder that reads text after a frame


@contextmanager
def quiet() -> Iterator[None]:
    """No reports or bars of transformers: what matters in them is raised as an error."""
    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()


def load_config(folder: Path) -> Any:
    """transformers' config of a folder. Raises InputError for a damaged one, or of a network that is not taken."""
    where = folder / CONFIG
    with quiet(), in_our_words("the config cannot be read", where):
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        kind = MODEL_FOR_MULTIMODAL_LM_MAPPING[type(config)]
    lacking = set(NEEDED) - set(inspect.signature(kind.forward).parameters)
    if lacking or getattr(config, "is_encoder_decoder", False):
        what = f"{kind.__name__} is no decoder that reads text after a frame"
        raise InputError(what, where, "use another model, or serve it as an endpoint")
    return config


def load_network(folder: Path, config: Any, dtype: torch.dtype | None, device: torch.device) -> Any:
    """The network of a folder, in evaluation mode. config: of `load_config`. dtype None keeps the stored one.

    Raises InputError naming the file and the tensor when one is missing, misshaped, damaged or belongs to nothing.
    """
    shards = shard_of_tensors(folder)
    whole = folder / (SINGLE if (folder / SINGLE).is_file() else INDEX)
    with quiet(), in_our_words("the weights cannot be loaded", whole):
        network, report = MODEL_FOR_MULTIMODAL_LM_MAPPING[type(config)].from_pretrained(
            str(folder),
            config=config,
            dtype=dtype or "auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # refused below, with names and shapes
            output_loading_info=True,
        )
    state = network.state_dict()

    def official(name: str) -> str:
        with in_our_words(f"the tensor {name!r} does not fit", whole):
            return str(next(iter(revert_weight_conversion(network, {name: state[name]}))))

    for name, found, wanted in sorted(report["mismatched_keys"]):
        name = official(name)
        what = f"the tensor {name!r} has shape {list(found)}; the config asks for {list(wanted)}"
        raise InputError(what, shards.get(name, whole), "config.json and weights must come from one checkpoint")
    for name in sorted(report["missing_keys"]):
        raise InputError(f"the tensor {official(name)!r} is missing", whole, "copy the checkpoint again")
    for name in sorted(report["unexpected_keys"]):
        raise InputError(f"the tensor {name!r} belongs to no part of this model", shards.get(name, whole), OFFICIAL)
    learn_answers(network, folder / CONFIG)
    return network.to(device).eval()


def shard_of_tensors(folder: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it. Raises InputError for missing, pickled or damaged files."""
    found = weight_files(folder, AUTO)
    with ExitStack() as stack:
        paths = sorted({found} if isinstance(found, Path) else set(found.values()))
        return {name: path for path in paths for name in open_weights(path, stack).keys()}  # noqa: SIM118


def learn_answers(network: Any, where: Path) -> None:
    """Give the network DeckBench's loss: over the labelled tokens only, logits made only where one is.

    Without labels it computes what it always did. The Trainer, peft and `generate` read the signature, so it stays.
    where: the config, named by the InputError for a processor that makes other inputs than the network takes.
    """
    plain = network.forward

    @functools.wraps(plain)
    def forward(*given: Any, labels: Tensor | None = None, num_items_in_batch: Any = None, **named: Any) -> Any:
        try:
            if labels is None:
                return plain(*given, **named)
            return with_loss(labels, num_items_in_batch, functools.partial(plain, *given, use_cache=False, **named))
        except (ValueError, IndexError) as error:  # an image's tokens and features differ; a token is in no table
            fix = "config.json and the processor's files must come from one checkpoint"
            raise InputError(f"the model does not take what its processor makes ({error})", where, fix) from error

    network.forward = forward
    network.accepts_loss_kwargs = True


def with_loss(labels: Tensor, count: Tensor | int | None, run: Callable[..., Any]) -> Output:
    """What `run` (a forward without labels) gives at the labelled places, as `loss.answer_loss` has it."""
    wanted = labels[:, 1:]
    columns = (wanted != IGNORE).any(dim=0).nonzero()[:, 0]
    wanted = wanted[:, columns]
    chosen = wanted != IGNORE
    return mean_loss(run(logits_to_keep=columns).logits[chosen], wanted[chosen], count)


def pattern_of(name: str) -> str:
    """A module's name as a pattern, any number in the place of its numbers."""
    return r"\.".join(r"\d+" if part.isdigit() else re.escape(part) for part in name.split("."))


def language_linears(network: Any) -> str | None:
    """The full-match pattern of all linear layers in the language model's blocks; None where it has none.

    Only what lies in its `layers`: some models keep the vision tower inside the language model.
    """
    decoder = network.get_decoder()
    prefix = next(name for name, part in network.named_modules() if part is decoder)
    block = re.compile(rf"{re.escape(prefix)}\.layers\.\d+\.(.+)")
    matches = [block.fullmatch(name) for name, part in network.named_modules() if isinstance(part, torch.nn.Linear)]
    leaves = sorted({pattern_of(match[1]) for match in matches if match})
    return rf"{re.escape(prefix)}\.layers\.\d+\.({'|'.join(leaves)})" if leaves else None


@contextmanager
def encode_once(network: Any, device: torch.device) -> Iterator[list[float]]:
    """Within, the frame's features are made at the first use and then kept; gives the seconds that took.

    For one frame alone. Where transformers has no step of its own for them, they are made anew each time.
    """
    core, seconds = network.base_model, [0.0]
    make = getattr(core, "get_image_features", None)
    if make is None:
        yield seconds
        return
    kept: list[Any] = []

    @functools.wraps(make)
    def once(*given: Any, **named: Any) -> Any:
        if not kept:
            start = time.perf_counter()
            kept.append(make(*given, **named))
            wait(device)
            seconds[0] = time.perf_counter() - start
        return kept[0]

    core.get_image_features = once
    try:
        yield seconds
    finally:
        del core.get_image_features
