"""What a loaded checkpoint is and how it is written back, whatever its family: the part that GLM-4V and Phi-3 share."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from deckbench import artifact
from deckbench.errors import DeckBenchError
from deckbench.models import files
from deckbench.models.weights import Entry, memory_hash, save_changed, save_state

# Files of a checkpoint folder that a merged one needs too: tokenizer, settings, and the code other tools run.
ALONG = (".json", ".model", ".txt", ".jinja", ".py")
LEFT = (files.INDEX, artifact.MANIFEST)
CONFIG = "config.json"
GENERATION = "generation_config.json"
QUESTIONS_AT_ONCE = 64  # branches decoded together at most; bounds the memory of the expanded cache


class Chat(ABC):
    """A loaded checkpoint behind DeckBench's model interface.

    module: the torch network (peft may wrap it; adapters put into it are used by `answer` too).
    small_files: the checkpoint's files beside config and weights, written back unchanged by `save`.
    fused: official names of linear layers that are called otherwise here, and what they are here.
    drawn: how the weights were drawn, when they are random numbers that no file holds and nobody hashes.
    touched: names of the module's tensors that an adapter was merged into.
    """

    checkpoint: files.Family
    family: str
    fused: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def __init__(
        self,
        module: Any,
        config: Any,
        tokenizer: Any,
        *,
        name: str,
        small_files: Mapping[str, bytes],
        source: Path | None = None,
        adapter: str | None = None,
        drawn: str | None = None,
    ) -> None:
        self.module, self.config, self.tokenizer = module, config, tokenizer
        self.name, self.files, self.source, self.adapter = name, dict(small_files), source, adapter
        self.drawn = drawn
        self.touched: frozenset[str] = frozenset()
        self.letters: dict[str, list[int]] = {letter: tokenizer.spellings(letter) for letter in "AB"}

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the module's own weights, whatever adapters are in it."""
        return next(self.module.parameters()).dtype

    @abstractmethod
    def official_state(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """The weights under the names of the official checkpoint, in `dtype` or as they are."""

    @abstractmethod
    def describe(self, weights: Any) -> dict[str, Any]:
        """The base's identity (`files.identity`), given what its weights are."""

    @cached_property
    def base(self) -> dict[str, Any]:
        """Hashes of the base's config, tokenizer and weights, adapters not counted (see `files.identity`)."""
        if self.drawn is not None:
            return self.describe({"drawn": self.drawn})
        if self.source is not None:
            return self.describe(files.weight_hashes(self.source, self.checkpoint))
        return self.describe(memory_hash(self.official_state()))

    @property
    def base_hash(self) -> str:
        """One hash of the base, whatever its folder is called."""
        return str(self.base["hash"])

    @property
    def identity(self) -> dict[str, Any]:
        """What was computed with: the base's hashes, the adapter's, the number type; never a path."""
        return {**self.base, "adapter": self.adapter, "dtype": str(self.dtype).removeprefix("torch.")}

    @abstractmethod
    def save_merged(self, folder: Path, layout: str = "official") -> None:
        """Write the folder this model was loaded from, with the merged adapter's sums in it.

        layout: one of `weights.LAYOUTS`. Raises DeckBenchError for a model that was not loaded from a folder.
        """

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write an official checkpoint folder: weights, config, generation config, tokenizer and preprocessing files.

        Weights are written in `dtype`, or as they are. A folder loaded and saved in its own dtype is equal tensor
        by tensor.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_state(self.official_state(dtype), folder)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        raw = {**self.config.raw, "torch_dtype": str(dtype or self.dtype).removeprefix("torch.")}
        (folder / CONFIG).write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class OfficialChat(Chat):
    """A model of our own network, whose tensors are called otherwise in the official checkpoint."""

    @abstractmethod
    def entries(self) -> dict[str, Entry]:
        """What each tensor of the official checkpoint holds of the module's."""

    def save_merged(self, folder: Path, layout: str = "official") -> None:
        """As `Chat.save_merged`.

        Files and tensors are the source's byte for byte, but for the tensors in `touched`, which are written as they
        are in memory. Everything that loading takes here or elsewhere goes along.
        """
        if self.source is None:
            raise DeckBenchError(f"{self.name} was not loaded from a folder")
        for path in sorted(self.source.iterdir()):
            if path.suffix in ALONG and path.name not in LEFT and path.is_file():
                (folder / path.name).write_bytes(path.read_bytes())
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        state = {name: tensor.cpu() for name, tensor in self.module.state_dict().items()}
        save_changed(self.source, folder, self.entries(), state, self.touched, family=self.checkpoint, layout=layout)


def linears_matched(module: torch.nn.Module, pattern: str) -> list[str]:
    """Names of the module's linear layers that `pattern` matches in full, as peft reads it."""
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear) and re.fullmatch(pattern, name)
    ]
