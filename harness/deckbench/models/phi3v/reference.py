"""Comparison of Phi-3-vision with the original implementation's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deckbench.models import pack
from deckbench.models.check import distance, until_stop
from deckbench.models.phi3v import prompt
from deckbench.models.phi3v.model import Phi3v

if TYPE_CHECKING:
    from PIL.Image import Image


def check_case(model: Phi3v, frame: Image, question: str, there: Mapping[str, Tensor], exact: bool) -> dict[str, Any]:
    """One case against Phi-3-vision's tensors (sums and one row of the tiles); without `exact` the logits alone."""

    inputs, count = model.processor.vision_inputs(frame)
    pixels, grid = inputs["pixel_values"], inputs["grids"][0].tolist()
    ids, prefix = prompt.question_ids(model.tokenizer, question), model.processor.prefix(count)
    batch = pack.pack([[pack.Picture(prefix, 0, [pack.Branch(ids)])]], 0)
    batch.pop("labels")
    with torch.inference_mode():
        logits = model.module(**inputs, **batch).logits
    found: dict[str, Any] = {"logits": distance(logits[:, -4:], there["logits_last4"])}
    if exact:
        found["ids"] = [*prefix.ids, *ids] == there["input_ids"][0].tolist()
        size = model.config.vision.image_size
        found["positions"] = [size * side for side in grid] == there["image_sizes"][0].tolist()
        # The original fills up to the most crops with tiles of zeros, which nothing looks at.
        sums, rows = there["pixel_values_sum"][0][: len(pixels)], there["pixel_values_tile0_row100"][: len(pixels)]
        same_sums = distance(pixels.double().sum((2, 3)), sums) < 1e-6
        found["pixels"] = same_sums and bool(torch.equal(pixels[:, :, 100], rows))
        expected = there["generated"][0].tolist()
        made = model.generate(prefix, inputs, [ids], [len(expected)])[0][0]
        found["generated"] = made.ids == until_stop(expected, model.stops)
    return found
