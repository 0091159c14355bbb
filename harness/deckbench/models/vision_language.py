"""What a loaded checkpoint is, how it answers and how it is written back: what the families share."""

from __future__ import annotations

import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from deckbench import artifact
from deckbench.answer import Answer, Question
from deckbench.errors import DeckBenchError
from deckbench.models import files
from deckbench.models.backend import Backend, generate
from deckbench.models.generate import Generated, answers, check_lengths
from deckbench.models.interface import Trainable
from deckbench.models.pack import Prefix, joined
from deckbench.models.weights import Entry, memory_hash, save_changed, save_state, stated_dtype

if TYPE_CHECKING:
    from PIL.Image import Image

# Files of a checkpoint folder that a merged one needs too: tokenizer, settings, and the code other tools run.
ALONG = (".json", ".model", ".txt", ".jinja", ".py")
LEFT = (files.INDEX, artifact.MANIFEST)
CONFIG = "config.json"
GENERATION = "generation_config.json"
QUESTIONS_AT_ONCE = 64  # branches decoded together at most; bounds the memory of the expanded cache


class Processor(Protocol):
    """What turns frames and text into what a network of our own reads; it knows no weights and no engine.

    longest: tokens the model reads at most. trained: as for `backend.generate`.
    """

    @property
    def longest(self) -> int: ...

    @property
    def trained(self) -> int | None: ...

    def vision_inputs(self, image: Image) -> tuple[dict[str, Tensor], int]:
        """What the network's `encode_image` takes of one frame, on the CPU, and how many features it makes of it.

        `pixel_values` is float32 of shape (tiles, 3, size, size).
        """
        ...

    def prefix(self, features: int) -> Prefix:
        """What all questions about a frame of so many features share."""
        ...

    def question_ids(self, text: str) -> list[int]:
        """Ids of a question and the assistant's header; the next position is the answer's first."""
        ...

    def collate_text(self, items: Sequence[tuple[int, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        """The tensors of a training batch but the pixels, see `pack.pack`.

        items: number of features of each frame, and its (question, answer) pairs.
        """
        ...

    def shrink(self, image: Image) -> Image:
        """The frame at the network's size: all of it that is looked at, so a cache need keep no more."""
        ...


class VisionLanguageModel(Trainable, ABC):
    """A loaded checkpoint.

    module: the torch network (peft may wrap it; adapters put into it are used by `answer` too).
    small_files: the checkpoint's files beside config and weights, written back unchanged by `save`.
    The other attributes are those of `Trainable`.
    """

    checkpoint: files.Family
    family: str
    fused_names: Mapping[str, tuple[str, ...]] = MappingProxyType({})

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
        random_init: str | None = None,
    ) -> None:
        self.module, self.config, self.tokenizer = module, config, tokenizer
        self.name, self.files, self.source, self.adapter = name, dict(small_files), source, adapter
        self.random_init = random_init
        self.merged_tensors: frozenset[str] = frozenset()
        self.letters: dict[str, list[int]] = {letter: tokenizer.spellings(letter) for letter in "AB"}

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the module's own weights, whatever adapters are in it."""
        return next(self.module.parameters()).dtype

    @property
    def stated_dtype(self) -> torch.dtype | None:
        return stated_dtype(self.config.raw)

    @abstractmethod
    def official_state(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """The weights under the names of the official checkpoint, in `dtype` or as they are."""

    @abstractmethod
    def describe(self, weights: Any) -> dict[str, Any]:
        """The base's identity (`files.identity`), given what its weights are."""

    @cached_property
    def base(self) -> dict[str, Any]:
        """Hashes of the base's config, tokenizer and weights, adapters not counted (see `files.identity`)."""
        if self.random_init is not None:
            return self.describe({"drawn": self.random_init})
        if self.source is not None:
            return self.describe(files.weight_hashes(self.source, self.checkpoint))
        return self.describe(memory_hash(self.official_state()))

    @property
    def base_hash(self) -> str:
        """One hash of the base, whatever its folder is called."""
        return str(self.base["hash"])

    @property
    def identity(self) -> dict[str, Any]:
        """What was computed with: the base's hashes, the adapter's, the dtype; never a path."""
        own = {**self.base, "adapter": self.adapter, "dtype": str(self.dtype).removeprefix("torch.")}
        return own if self.random_init is None else {**own, "tokenizer": "stand-in"}

    def vision_inputs(self, image: Image) -> tuple[dict[str, Tensor], int]:
        raise DeckBenchError(f"{self.name} does not encode a frame apart from its prompt")

    def collate_text(self, items: Sequence[tuple[int, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        raise DeckBenchError(f"{self.name} does not encode a frame apart from its prompt")

    def enable_gradient_checkpointing(self) -> None:
        self.module.gradient_checkpointing_enable({"use_reentrant": False})

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


class NativeModel(VisionLanguageModel):
    """A model of our own network, whose tensors are called otherwise in the official checkpoint.

    processor: turns frames and questions into tensors and ids. backend: executes the network.
    """

    caches_features = True
    processor: Processor
    backend: Backend

    @abstractmethod
    def entries(self) -> dict[str, Entry]:
        """What each tensor of the official checkpoint holds of the module's."""

    def enable_gradient_checkpointing(self) -> None:
        self.module.language.gradient_checkpointing_enable({"use_reentrant": False})

    def at_once(self, length: int) -> int:
        """Questions decoded together behind a prefix of `length` tokens; a pure function of sizes."""
        return QUESTIONS_AT_ONCE

    def answer(self, image: Image, questions: Sequence[Question], blank: bool = False) -> list[Answer]:
        """As `Model.answer`.

        The frame and the shared part of the prompt are computed once; every question is a branch of its own and gets
        what it would get alone (float rounding aside). `blank` zeroes the pixel tensor after preprocessing.
        """
        start = time.perf_counter()
        inputs, count = self.processor.vision_inputs(image)
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        if blank:
            inputs["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
        preprocess_s = time.perf_counter() - start
        prefix = self.processor.prefix(count)
        branches = [self.processor.question_ids(question.text) for question in questions]
        tokens_in = [len(prefix.ids) + len(ids) for ids in branches]
        check_lengths(questions, tokens_in, self.processor.longest, self.name)
        limits = [question.max_new_tokens for question in questions]
        generated, seconds = self.generate(prefix, inputs, branches, limits)
        seconds = {"preprocess": preprocess_s, **seconds}
        decode = self.tokenizer.decode
        return answers(questions, tokens_in, generated, letters=self.letters, decode=decode, seconds=seconds)

    def generate(
        self,
        prefix: Prefix,
        inputs: Mapping[str, Tensor],
        branches: Sequence[Sequence[int]],
        limits: Sequence[int],
    ) -> tuple[list[Generated], dict[str, float]]:
        """Greedy continuation of each branch behind the frame's prefix; see `backend.generate`."""
        at_once, trained = self.at_once(len(prefix.ids)), self.processor.trained
        return generate(self.backend, prefix, inputs, branches, limits, at_once=at_once, trained=trained)

    def collate(self, items: Sequence[tuple[Image, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        """A training batch on the CPU for `module(**batch)`.

        Each frame comes with its (question, answer) pairs, packed behind one shared prefix as branches that do not
        see each other, at the very ids and positions `answer` uses. Short frames share a row. Labels: the answer and
        its stop token. A frame that `shrink` has reduced is not resized.
        """
        inputs = [self.vision_inputs(image) for image, _ in items]
        text = self.collate_text([(count, pairs) for (_, count), (_, pairs) in zip(inputs, items, strict=True)])
        return {**joined([frame for frame, _ in inputs]), **text}

    def vision_inputs(self, image: Image) -> tuple[dict[str, Tensor], int]:
        return self.processor.vision_inputs(image)

    def collate_text(self, items: Sequence[tuple[int, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        return self.processor.collate_text(items)

    def shrink(self, image: Image) -> Image:
        return self.processor.shrink(image)

    def save_merged(self, folder: Path, layout: str = "official") -> None:
        """As `VisionLanguageModel.save_merged`.

        Files and tensors are the source's byte for byte, but for those in `merged_tensors`, which are written as they
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
        save_changed(
            self.source, folder, self.entries(), state, self.merged_tensors, family=self.checkpoint, layout=layout
        )


def linears_matched(module: torch.nn.Module, pattern: str) -> list[str]:
    """Names of the module's linear layers that `pattern` matches in full, as peft reads it."""
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear) and re.fullmatch(pattern, name)
    ]
