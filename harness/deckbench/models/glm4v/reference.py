"""Comparison of GLM-4V with the original implementation's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deckbench.models import pack
from deckbench.models.check import distance, until_stop
from deckbench.models.glm4v import preprocess, prompt
from deckbench.models.glm4v.model import Glm4v

if TYPE_CHECKING:
    from PIL.Image import Image


def check_case(model: Glm4v, frame: Image, question: str, there: Mapping[str, Tensor], exact: bool) -> dict[str, Any]:
    """One case against GLM-4V's tensors; without `exact` the logits alone."""

    pixels = torch.from_numpy(preprocess.pixels(frame, model.config.vision.image_size))[None]
    ids = prompt.question_ids(model.tokenizer, question, newline=False)
    batch = pack.pack([[pack.Picture(model.processor.shared, 0, [pack.Branch(ids)])]], model.config.pad_token_id)
    batch.pop("labels")
    with torch.inference_mode():
        logits = model.module(pixel_values=pixels, **batch).logits
    found: dict[str, Any] = {"logits": distance(logits, there["logits"])}
    if exact:
        # The stored positions are those before the image's expansion; the expanded ones repeat the middle one.
        stored, begin = there["position_ids"][0].tolist(), len(model.processor.shared.short) - 3
        middle = [stored[begin + 1]] * model.config.vision.tokens
        found["ids"] = [*model.processor.shared.short, *ids] == there["input_ids"][0].tolist()
        found["positions"] = batch["position_ids"][0].tolist() == [*stored[: begin + 1], *middle, *stored[begin + 2 :]]
        found["pixels"] = bool(torch.equal(pixels, there["images"]))
        expected = there["generated"][0].tolist()
        made = model.generate(model.processor.shared, {"pixel_values": pixels}, [ids], [len(expected)])[0][0]
        found["generated"] = made.ids == until_stop(expected, model.config.eos_token_id)
    return found
