"""A loaded Phi-3-vision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deckbench.errors import InputError
from deckbench.models.backend import TorchBackend
from deckbench.models.phi3v import prompt, weights
from deckbench.models.phi3v.config import (
    CONFIG,
    OFFICIAL,
    PHI3V,
    PREPROCESSOR,
    Phi3vConfig,
    Preprocessor,
    json_bytes,
    parse_config,
    read_json,
    read_preprocessor,
)
from deckbench.models.phi3v.files import identity
from deckbench.models.phi3v.network import Phi3vModule
from deckbench.models.phi3v.processor import Phi3vProcessor
from deckbench.models.phi3v.tokenizer import Tokenizer, read_tokenizer
from deckbench.models.vision_language import GENERATION, QUESTIONS_AT_ONCE, NativeModel
from deckbench.models.weights import Entry, stated_dtype

CACHE_BYTES = 4 << 30  # of the copies of the prefix's keys and values: without grouped heads they are large
LANGUAGE_LINEARS = r"language\.model\.layers\.\d+\.(self_attn\.(qkv_proj|o_proj)|mlp\.(gate_up_proj|down_proj))"


class Phi3v(NativeModel):
    """Phi-3-vision behind DeckBench's model interface. stops: end tokens beside the config's and the prompt's own."""

    family, checkpoint = PHI3V.name, PHI3V
    module: Phi3vModule
    config: Phi3vConfig
    processor: Phi3vProcessor

    def __init__(
        self,
        module: Phi3vModule,
        config: Phi3vConfig,
        preprocessor: Preprocessor,
        tokenizer: Tokenizer,
        *,
        stops: Sequence[int] = (),
        **named: Any,
    ) -> None:
        super().__init__(module, config, tokenizer, **named)
        self.preprocessor = preprocessor
        self.processor = Phi3vProcessor(config, preprocessor, tokenizer)
        ends = (tokenizer.special[token] for token in (prompt.END, prompt.OVER))
        self.stops = frozenset([*config.eos_token_id, *stops, *ends])
        self.backend = TorchBackend(
            module,
            pad_id=tokenizer.special[prompt.OVER],
            stops=self.stops,
            rotation=lambda long: module.rope.length(long),
        )

    def official_state(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        return weights.official_state(self.module, dtype)

    def entries(self) -> dict[str, Entry]:
        return weights.entries(self.module.state_dict())

    def describe(self, weights: Any) -> dict[str, Any]:
        return identity(self.name, self.config.raw, self.preprocessor, self.files, weights)

    def at_once(self, length: int) -> int:
        """How many copies of a prefix's keys and values fit into memory; a pure function of sizes."""
        config = self.config
        numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * length
        return max(1, min(QUESTIONS_AT_ONCE, CACHE_BYTES // (numbers * int(self.dtype.itemsize))))

    def lora_targets(self, vision: bool) -> str:
        """The full-match pattern of the linear layers that get adapters: all of the language model's, and with
        `vision` all that are run of the tower's and the projector's. Embeddings and output head never."""
        if not vision:
            return LANGUAGE_LINEARS
        run = "|".join(str(layer) for layer in range(self.config.vision.num_hidden_layers - 1))
        tower = rf"vision\.img_processor\.vision_model\.encoder\.layers\.({run})\.(self_attn\.\w+_proj|mlp\.fc[12])"
        return rf"{LANGUAGE_LINEARS}|{tower}|vision\.img_projection\.[02]"


def check_ids(config: Phi3vConfig, tokenizer: Tokenizer, where: Path) -> None:
    """Refuse a config and a tokenizer that do not belong together. Raises InputError."""
    if tokenizer.largest >= config.vocab_size:
        what = f"the tokenizer has ids up to {tokenizer.largest}, 'vocab_size' is {config.vocab_size}"
        raise InputError(what, where, "config.json and the tokenizer files must come from one checkpoint")


def read_stops(folder: Path) -> list[int]:
    """The end tokens of generation_config.json, where there is one. Raises InputError."""
    if not (folder / GENERATION).is_file():
        return []
    data = read_json(folder / GENERATION)
    stops = data.get("eos_token_id", []) if isinstance(data, dict) else None
    stops = [stops] if isinstance(stops, int) else stops
    if not isinstance(stops, list) or not all(isinstance(i, int) for i in stops):
        raise InputError("the key 'eos_token_id' must be a token id or a list of them", folder / GENERATION, OFFICIAL)
    return stops


def load_phi3v(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    name: str | None = None,
    num_crops: int | None = None,
) -> Phi3v:
    """Load an official checkpoint folder.

    dtype None takes the one that the config states. name: how results call it (default: the folder's name). num_crops:
    most tiles of a frame, in place of the checkpoint's own number. Raises InputError with file and key or tensor for
    anything missing, misshaped or damaged; no code from the folder is run.
    """
    folder = Path(folder)
    raw = read_json(folder / CONFIG)
    parse_config(raw, folder / CONFIG)
    config = parse_config(raw, folder / CONFIG, weights.vision_shapes(folder))
    preprocessor = read_preprocessor(folder, num_crops)
    tokenizer, small_files = read_tokenizer(folder)
    check_ids(config, tokenizer, folder / CONFIG)
    own = (folder / PREPROCESSOR).read_bytes()
    small_files[PREPROCESSOR] = own if num_crops is None else json_bytes(preprocessor.raw)
    stops = read_stops(folder)
    if (folder / GENERATION).is_file():
        small_files[GENERATION] = (folder / GENERATION).read_bytes()
    device = torch.device(device)
    with torch.device("meta"):
        module = Phi3vModule(config)
    state = weights.load_state(folder, module.state_dict(), dtype or stated_dtype(raw), device)
    module.load_state_dict(state, strict=True, assign=True)
    module.fill_buffers(device)
    module.eval()
    return Phi3v(
        module,
        config,
        preprocessor,
        tokenizer,
        name=name or folder.resolve().name,
        small_files=small_files,
        stops=stops,
        source=folder,
    )
