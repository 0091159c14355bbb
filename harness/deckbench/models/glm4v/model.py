"""A loaded GLM-4V."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deckbench.errors import InputError
from deckbench.models import files
from deckbench.models.backend import TorchBackend
from deckbench.models.glm4v import prompt, weights
from deckbench.models.glm4v.config import CONFIG, GLM4V, TOKENIZER, Glm4vConfig, read_config, read_json
from deckbench.models.glm4v.network import Glm4vModule
from deckbench.models.glm4v.processor import Glm4vProcessor
from deckbench.models.glm4v.tokenizer import Tokenizer, read_tokenizer
from deckbench.models.vision_language import GENERATION, NativeModel
from deckbench.models.weights import Entry, stated_dtype

LANGUAGE_LINEARS = r"language\.model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate_up_proj|down_proj))"
# The official names of the language model's linear layers, which the tower uses too.
FUSED = {
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "dense": ("o_proj",),
    "dense_h_to_4h": ("gate_up_proj",),
    "dense_4h_to_h": ("down_proj",),
}
VISION_LINEARS = (
    r"vision\.transformer\.layers\.\d+\.(attention\.(query_key_value|dense)|mlp\.fc[12])"
    r"|vision\.linear_proj\.(linear_proj|gate_proj|dense_h_to_4h|dense_4h_to_h)"
)


class Glm4v(NativeModel):
    """GLM-4V behind DeckBench's model interface."""

    family, checkpoint = GLM4V.name, GLM4V
    fused_names = FUSED
    module: Glm4vModule
    config: Glm4vConfig
    processor: Glm4vProcessor

    def __init__(self, module: Glm4vModule, config: Glm4vConfig, tokenizer: Tokenizer, **named: Any) -> None:
        super().__init__(module, config, tokenizer, **named)
        self.processor = Glm4vProcessor(config, tokenizer)
        self.backend = TorchBackend(module, pad_id=config.pad_token_id, stops=config.eos_token_id)

    def official_state(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        return weights.official_state(self.module, self.config, dtype)

    def entries(self) -> dict[str, Entry]:
        return weights.entries(self.config, self.module.state_dict())

    def describe(self, weights: Any) -> dict[str, Any]:
        small = {name: self.files[name] for name in TOKENIZER}
        return files.identity(self.name, GLM4V, self.config.raw, small, weights)

    def lora_targets(self, vision: bool) -> str:
        """The full-match pattern of the linear layers that get adapters: all of the language model's, and with
        `vision` all of the tower's and the projector's. Embeddings and output head never."""
        return f"{LANGUAGE_LINEARS}|{VISION_LINEARS}" if vision else LANGUAGE_LINEARS


def check_ids(config: Glm4vConfig, tokenizer: Tokenizer, where: Path) -> None:
    """Refuse a config and a tokenizer that do not belong together. Raises InputError."""
    fix = "config.json and the tokenizer files must come from one checkpoint"
    for key, name in (("boi_token_id", prompt.IMAGE[0]), ("eoi_token_id", prompt.IMAGE[2])):
        if config.raw[key] != tokenizer.special[name]:
            what = f"{key!r} is not the tokenizer's id of {name} ({tokenizer.special[name]})"
            raise InputError(what, where, fix)
    most = max(*tokenizer.bytes_of, *tokenizer.special.values())
    if most >= config.padded_vocab_size:
        what = f"the tokenizer has ids up to {most}, 'padded_vocab_size' is {config.padded_vocab_size}"
        raise InputError(what, where, fix)


def load_glm4v(
    folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", name: str | None = None
) -> Glm4v:
    """Load an official checkpoint folder.

    dtype None takes the one that the config states. name: how results call it (default: the folder's name). Raises
    InputError with file and key or tensor for anything missing, misshaped or damaged; no code from the folder is run.
    """
    folder = Path(folder)
    config = read_config(folder)
    tokenizer, small_files = read_tokenizer(folder)
    check_ids(config, tokenizer, folder / CONFIG)
    if (folder / GENERATION).is_file():
        read_json(folder / GENERATION)
        small_files[GENERATION] = (folder / GENERATION).read_bytes()
    device = torch.device(device)
    with torch.device("meta"):
        module = Glm4vModule(config)
    state = weights.load_state(folder, config, module.state_dict(), dtype or stated_dtype(config.raw), device)
    module.load_state_dict(state, strict=True, assign=True)
    module.fill_buffers(device)
    module.eval()
    return Glm4v(module, config, tokenizer, name=name or folder.resolve().name, small_files=small_files, source=folder)
