"""Frames and questions as Phi-3-vision reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deckbench.errors import InputError
from deckbench.models import pack
from deckbench.models.phi3v import preprocess, prompt
from deckbench.models.phi3v.config import Phi3vConfig, Preprocessor
from deckbench.models.phi3v.tokenizer import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image


class Phi3vProcessor:
    """A `vision_language.Processor`: an overview and a grid of tiles of each frame."""

    def __init__(self, config: Phi3vConfig, preprocessor: Preprocessor, tokenizer: Tokenizer) -> None:
        self.config, self.preprocessor, self.tokenizer = config, preprocessor, tokenizer
        self.longest, self.trained = config.max_position_embeddings, config.original_max_position_embeddings

    def tiles(self, image: Image) -> tuple[Tensor, tuple[int, int]]:
        """A frame's tiles on the CPU, (1 + rows * columns, 3, size, size) float32, and (rows, columns)."""
        pixels, grid = preprocess.tiles(image, self.preprocessor, self.config.vision.image_size)
        return torch.from_numpy(pixels), grid

    def vision_inputs(self, image: Image) -> tuple[dict[str, Tensor], int]:
        pixels, grid = self.tiles(image)
        count = preprocess.image_tokens(*grid, self.config.vision.grid)
        return {"pixel_values": pixels, "grids": torch.tensor([grid], dtype=torch.int64)}, count

    def prefix(self, features: int) -> pack.Prefix:
        return prompt.make_prefix(self.tokenizer, features)

    def question_ids(self, text: str) -> list[int]:
        return prompt.question_ids(self.tokenizer, text)

    def collate_text(self, items: Sequence[tuple[int, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        """As `vision_language.Processor`; questions beyond the trained length get a prefix and rows of their own."""
        pictures: dict[bool, list[pack.Picture]] = {False: [], True: []}
        for index, (features, pairs) in enumerate(items):
            prefix = self.prefix(features)
            kinds: dict[bool, list[pack.Branch]] = {False: [], True: []}
            for question, answer in pairs:
                branch = pack.Branch(self.question_ids(question), prompt.answer_ids(self.tokenizer, answer))
                length = len(prefix.ids) + len(branch.question) + len(branch.answer)
                if length > self.longest:
                    what = f"a sample takes {length} tokens; the model reads {self.longest}"
                    raise InputError(what, f"{question[:60]}...", "shorten the question or leave the sample out")
                kinds[length > self.trained].append(branch)
            for long, branches in kinds.items():
                if branches:
                    pictures[long].append(pack.Picture(prefix, index, branches))
        rows: list[list[pack.Picture]] = []
        lengths: list[bool] = []
        for long, of_kind in pictures.items():
            if of_kind:
                filled = pack.fill_rows([picture.length for picture in of_kind])
                rows += [[of_kind[i] for i in row] for row in filled]
                lengths += [long] * len(filled)
        packed = pack.pack(rows, self.tokenizer.special[prompt.OVER])
        return {"long": torch.tensor(lengths)[:, None], **packed}

    def shrink(self, image: Image) -> Image:
        return preprocess.shrink(image, self.preprocessor.num_crops, self.config.vision.image_size)
