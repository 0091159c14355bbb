"""Frames and questions as GLM-4V reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deckbench.models import pack
from deckbench.models.glm4v import preprocess, prompt
from deckbench.models.glm4v.config import Glm4vConfig
from deckbench.models.glm4v.tokenizer import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image


class Glm4vProcessor:
    """A `vision_language.Processor`. Every frame is one square of the same size, so all share one prefix."""

    trained = None

    def __init__(self, config: Glm4vConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.size, self.longest = config.vision.image_size, config.seq_length
        self.shared = prompt.make_prefix(tokenizer, config)

    def vision_inputs(self, image: Image) -> tuple[dict[str, Tensor], int]:
        pixels = torch.from_numpy(preprocess.pixels(image, self.size))[None]
        return {"pixel_values": pixels}, self.config.vision.tokens + 2

    def prefix(self, features: int) -> prompt.Prefix:
        return self.shared

    def question_ids(self, text: str) -> list[int]:
        return prompt.question_ids(self.tokenizer, text)

    def collate_text(self, items: Sequence[tuple[int, Sequence[tuple[str, str]]]]) -> dict[str, Tensor]:
        pictures = []
        for index, (_, pairs) in enumerate(items):
            branches = [
                pack.Branch(self.question_ids(question), prompt.answer_ids(self.tokenizer, answer))
                for question, answer in pairs
            ]
            pictures.append(pack.Picture(self.shared, index, branches))
        rows = pack.fill_rows([picture.length for picture in pictures])
        return pack.pack([[pictures[i] for i in row] for row in rows], self.config.pad_token_id)

    def shrink(self, image: Image) -> Image:
        return preprocess.shrink(image, self.size)
