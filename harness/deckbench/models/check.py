"""Comparison with the original implementation's tensors: `models check DIR --cases CASES`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from deckbench.errors import InputError

TOLERANCE = 1e-5
MEND = "give the `cases` folder of a set of reference tensors"


def read_cases(folder: Path) -> list[dict[str, Any]]:
    """Every case of every `cases-*.json` in `folder`: the frame's file, the question, the tensors' file."""
    from deckbench.models.glm4v.config import read_json

    cases = []
    for path in sorted(folder.glob("cases-*.json")):
        data = read_json(path)
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


def check(folder: Path, cases: Path) -> dict[str, Any]:
    """Run every case through the model in `folder`, float32 on the CPU, and compare with the stored tensors.

    Only frame and question are read from a case; ids, positions and pixels are made here. Returns
    {"passed", "tolerance", "max_abs_diff", "cases": [{"case", "ids", "positions", "pixels", "generated" (bool each),
    "logits" (largest absolute difference)}]}. Raises InputError for unreadable cases.
    """
    import torch
    from PIL import Image
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from deckbench.models import pack
    from deckbench.models.glm4v import preprocess, prompt
    from deckbench.models.glm4v.chat import load_glm4v

    found = read_cases(Path(cases))
    model = load_glm4v(Path(folder), dtype=torch.float32)
    results = []
    for case in found:
        try:
            expected = load_file(case["tensors"])
            ids_there, positions_there = expected["input_ids"][0].tolist(), expected["position_ids"][0].tolist()
            images_there, logits_there = expected["images"], expected["logits"]
            generated_there = expected["generated"][0].tolist()
        except (SafetensorError, KeyError) as error:
            raise InputError(f"the case's tensors cannot be read ({error})", case["tensors"], MEND) from error
        try:
            with Image.open(case["frame"]) as frame:
                pixels = torch.from_numpy(preprocess.pixels(frame, model.config.vision.image_size))[None]
        except OSError as error:
            raise InputError("the case's frame is no picture that can be read", case["frame"], MEND) from error
        question = prompt.question_ids(model.tokenizer, case["question"], newline=False)
        picture = pack.Picture(model.prefix, 0, [pack.Branch(question)])
        batch = pack.pack([[picture]], model.config.pad_token_id)
        batch.pop("labels")
        with torch.inference_mode():
            logits = model.module(pixel_values=pixels, **batch).logits
        # The stored positions are those before the image's expansion; the expanded ones repeat the middle one.
        begin = len(model.prefix.short) - 3
        middle = [positions_there[begin + 1]] * model.config.vision.tokens
        expanded = [*positions_there[: begin + 1], *middle, *positions_there[begin + 2 :]]
        made = model.generate(pixels, [question], [len(generated_there)])[0]
        stop = [i for i, token in enumerate(generated_there) if token in model.config.eos_token_id]
        far = float((logits - logits_there).abs().max()) if logits.shape == logits_there.shape else math.inf
        results.append(
            {
                "case": case["frame"].name,
                "ids": [*model.prefix.short, *question] == ids_there,
                "positions": batch["position_ids"][0].tolist() == expanded,
                "pixels": bool(torch.equal(pixels, images_there)),
                "generated": made.ids == generated_there[: stop[0] if stop else None],
                "logits": math.inf if math.isnan(far) else far,  # max() would pass over a NaN
            }
        )
    largest = max(result["logits"] for result in results)
    exact = all(result[key] for result in results for key in ("ids", "positions", "pixels", "generated"))
    return {
        "passed": exact and largest <= TOLERANCE,
        "tolerance": TOLERANCE,
        "max_abs_diff": largest,
        "cases": results,
    }
