"""The published models at their true size, with random numbers for weights: times and memory before any download.

Sizes are those of the published configs; no published tokenizer comes along. A stand-in that was trained on the tasks'
own words cuts questions into somewhat more tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from deckbench import resources
from deckbench.errors import OutsideError
from deckbench.machine import hardware
from deckbench.models.fresh import noise
from deckbench.models.load import family_of, pick_device, pick_dtype, split_ref
from deckbench.models.weights import stated_dtype
from deckbench.progress import say

if TYPE_CHECKING:
    from deckbench.models.glm4v.chat import Glm4v
    from deckbench.models.phi3v.chat import Phi3v

STAND_IN = 1500  # text tokens of the stand-in vocabulary, as in the embedded models
GB = 1e9


def words() -> list[str]:
    """The texts that the stand-in vocabulary is made of."""
    return [path.read_text(encoding="utf-8") for path in sorted(resources.tasks_folder().rglob("*.yaml"))]


def skeleton(ref: str) -> Glm4v | Phi3v:
    """A published model on the meta device: all sizes and names, no weights, no memory. Raises InputError."""
    folder, name, num_crops = split_ref(ref)
    build = phi3v_skeleton if family_of(folder) == "phi3v" else glm4v_skeleton
    return build(folder, name, num_crops)


def glm4v_skeleton(folder: Path, name: str, _: int | None) -> Glm4v:
    from deckbench.models.glm4v import tokenizer
    from deckbench.models.glm4v.chat import Glm4v, check_ids
    from deckbench.models.glm4v.config import CONFIG, read_config
    from deckbench.models.glm4v.model import Glm4vModule
    from deckbench.models.glm4v.tiny_vocab import vocabulary_files

    config = read_config(folder)
    small = vocabulary_files(words(), STAND_IN, config.vision.image_size, first=config.pad_token_id)
    ranks = tokenizer.parse_ranks(small[tokenizer.MODEL], tokenizer.MODEL)
    special = tokenizer.parse_special(json.loads(small[tokenizer.CONFIG]), tokenizer.CONFIG, ranks)
    cut = tokenizer.Tokenizer(ranks, special)
    check_ids(config, cut, folder / CONFIG)
    with torch.device("meta"):
        module = Glm4vModule(config)
    return Glm4v(module, config, cut, name=name, small_files=small)


def phi3v_skeleton(folder: Path, name: str, num_crops: int | None) -> Phi3v:
    from deckbench.models.phi3v import tokenizer
    from deckbench.models.phi3v.chat import Phi3v
    from deckbench.models.phi3v.config import CONFIG, PREPROCESSOR, parse_config, read_json, read_preprocessor
    from deckbench.models.phi3v.model import Phi3vModule
    from deckbench.models.phi3v.tiny_vocab import vocabulary_files

    config = parse_config(read_json(folder / CONFIG), folder / CONFIG)
    preprocessor = read_preprocessor(folder, num_crops)
    small = vocabulary_files(words(), STAND_IN)
    cut = tokenizer.parse_tokenizer(json.loads(small[tokenizer.MODEL]), tokenizer.MODEL)
    small[PREPROCESSOR] = (folder / PREPROCESSOR).read_bytes()
    with torch.device("meta"):
        module = Phi3vModule(config)
    return Phi3v(module, config, preprocessor, cut, name=name, small_files=small)


def free_bytes(device: str) -> int | None:
    """Memory that can still be taken on a device, None where it cannot be known."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return hardware.free_memory_bytes()


def random_model(ref: str, *, seed: int, device: str = "auto", dtype: str = "auto") -> Glm4v | Phi3v:
    """A published model with random weights, ready to answer nonsense at the true cost.

    device, dtype: as for `load_model`. Raises OutsideError when the weights do not fit into the memory that is free.
    """
    model = skeleton(ref)
    where = pick_device(device)
    kind = pick_dtype(dtype, where) or stated_dtype(model.config.raw)
    module = model.module.to(kind)
    numbers = sum(parameter.numel() for parameter in module.parameters())
    needed = sum(parameter.nbytes for parameter in module.parameters())
    size = f"{numbers:,} weights in {str(model.dtype).removeprefix('torch.')}, {needed / GB:.1f} GB"
    free = free_bytes(where)
    if free is not None and needed > free:
        fix = "free some memory, or take a machine or a GPU that has more"
        raise OutsideError(f"the model is {size}, and {free / GB:.1f} GB are free on {where}", ref, fix)
    say(f"{model.name}: {size}, all random; a stand-in for the tokenizer")
    module.to_empty(device=where)
    noise(module, seed)
    module.fill_buffers(torch.device(where))
    module.eval()
    model.drawn = f"random, seed {seed}"
    return model
