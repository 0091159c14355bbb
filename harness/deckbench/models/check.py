"""Comparison with the original implementation's tensors: `models check DIR --cases CASES`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

TOLERANCE = 1e-5
MEND = "give the `cases` folder of a set of reference tensors"


def read_cases(folder: Path) -> list[dict[str, Any]]:
    """Every case of every `cases-*.json` in `folder`: the frame's file, the question, the tensors' file."""
    from deckbench.models.files import Family, read_json

    cases = []
    for path in sorted(folder.glob("cases-*.json")):
        data = read_json(path, family=Family("", "", MEND))
        try:
            for case in data["cases"]:
                frame = folder / case["image"]
                tensors = folder / f"case{int(case['case'])}.safetensors"
                cases.append({"question": str(case["question"]), "frame": frame, "tensors": tensors})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"a case lacks its number, image or question ({error})", path, MEND) from error
    if not cases:
        raise InputError("no cases-*.json with cases in it", folder, MEND)
    for case in cases:
        for key in ("frame", "tensors"):
            if not case[key].is_file():
                raise InputError("a case's file is missing", case[key], MEND)
    return cases


def glm4v_case(model: Any, frame: Image, question: str, there: Mapping[str, Tensor], exact: bool) -> dict[str, Any]:
    """One case against GLM-4V's tensors; without `exact` the logits alone."""
    import torch

    from deckbench.models import pack
    from deckbench.models.glm4v import preprocess, prompt

    pixels = torch.from_numpy(preprocess.pixels(frame, model.config.vision.image_size))[None]
    ids = prompt.question_ids(model.tokenizer, question, newline=False)
    batch = pack.pack([[pack.Picture(model.prefix, 0, [pack.Branch(ids)])]], model.config.pad_token_id)
    batch.pop("labels")
    with torch.inference_mode():
        logits = model.module(pixel_values=pixels, **batch).logits
    found: dict[str, Any] = {"logits": distance(logits, there["logits"])}
    if exact:
        # The stored positions are those before the image's expansion; the expanded ones repeat the middle one.
        stored, begin = there["position_ids"][0].tolist(), len(model.prefix.short) - 3
        middle = [stored[begin + 1]] * model.config.vision.tokens
        found["ids"] = [*model.prefix.short, *ids] == there["input_ids"][0].tolist()
        found["positions"] = batch["position_ids"][0].tolist() == [*stored[: begin + 1], *middle, *stored[begin + 2 :]]
        found["pixels"] = bool(torch.equal(pixels, there["images"]))
        expected = there["generated"][0].tolist()
        made = model.generate(pixels, [ids], [len(expected)])[0]
        found["generated"] = made.ids == until_stop(expected, model.config.eos_token_id)
    return found


def phi3v_case(model: Any, frame: Image, question: str, there: Mapping[str, Tensor], exact: bool) -> dict[str, Any]:
    """One case against Phi-3-vision's tensors (sums and one row of the tiles); without `exact` the logits alone."""
    import torch

    from deckbench.models import pack
    from deckbench.models.phi3v import prompt

    pixels, grid = model.tiles(frame)
    ids, prefix = prompt.question_ids(model.tokenizer, question), model.prefix(grid)
    batch = pack.pack([[pack.Picture(prefix, 0, [pack.Branch(ids)])]], 0)
    batch.pop("labels")
    with torch.inference_mode():
        logits = model.module(pixel_values=pixels, grids=torch.tensor([grid]), **batch).logits
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
        made = model.generate(pixels, grid, [ids], [len(expected)])[0]
        found["generated"] = made.ids == until_stop(expected, model.stops)
    return found


CASES = {"glm4v": glm4v_case, "phi3v": phi3v_case}


def distance(here: Tensor, there: Tensor) -> float:
    """Largest absolute difference; infinite for different shapes, or where one is no number."""
    far = float((here.double() - there.double()).abs().max()) if here.shape == there.shape else math.inf
    return math.inf if math.isnan(far) else far  # max() would pass over a NaN


def until_stop(ids: list[int], stops: Collection[int]) -> list[int]:
    """What of generated ids comes before the first end token."""
    return list(takewhile(lambda token: token not in stops, ids))


def check(folder: Path, cases: Path) -> dict[str, Any]:
    """Run every case through the model in `folder`, float32 on the CPU, and compare with the stored tensors.

    Only frame and question are read from a case; ids, positions and pixels are made here. Returns
    {"passed", "tolerance", "max_abs_diff", "max_abs_diff_bf16", "cases": [{"case", "ids", "positions", "pixels",
    "generated" (bool each), "logits" (largest absolute difference), "logits_bf16"}]}; bfloat16 decides nothing.
    "positions" of Phi-3-vision is the size of the cut frame. Raises InputError for unreadable cases.
    """
    from PIL import Image
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from deckbench.models.load import load_model

    found = read_cases(Path(cases))
    results: list[dict[str, Any]] = [{"case": case["frame"].name} for case in found]
    for kind, exact in (("float32", True), ("bfloat16", False)):
        model = load_model(str(folder), device="cpu", dtype=kind)
        if model.family not in CASES:
            what = "cases are of GLM-4V or Phi-3-vision; transformers' own models are the reference themselves"
            raise InputError(what, folder, "give the folder of one of the two")
        for case, result in zip(found, results, strict=True):
            try:
                with Image.open(case["frame"]) as opened:
                    frame = opened.convert("RGB")
            except OSError as error:
                raise InputError("the case's frame is no picture that can be read", case["frame"], MEND) from error
            try:
                there = load_file(case["tensors"])
                made = CASES[model.family](model, frame, case["question"], there, exact)
            except (SafetensorError, KeyError) as error:
                raise InputError(f"the case's tensors cannot be read ({error})", case["tensors"], MEND) from error
            result.update(made if exact else {"logits_bf16": made["logits"]})
        del model  # one copy in memory at a time
    exact_parts = ("ids", "positions", "pixels", "generated")
    largest = max(result["logits"] for result in results)
    return {
        "passed": all(result[key] for result in results for key in exact_parts) and largest <= TOLERANCE,
        "tolerance": TOLERANCE,
        "max_abs_diff": largest,
        "max_abs_diff_bf16": max(result["logits_bf16"] for result in results),
        "cases": results,
    }
