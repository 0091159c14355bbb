"""Comparison with the original implementation's tensors: `models check DIR --cases CASES`."""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-5
FIX = "give the `cases` folder of a set of reference tensors"


def read_cases(folder: Path) -> list[dict[str, Any]]:
    """Every case of every `cases-*.json` in `folder`: the frame's file, the question, the tensors' file."""
    from deckbench.models.files import Family, read_json

    cases = []
    for path in sorted(folder.glob("cases-*.json")):
        data = read_json(path, family=Family("", "", FIX))
        try:
            for case in data["cases"]:
                frame = folder / case["image"]
                tensors = folder / f"case{int(case['case'])}.safetensors"
                cases.append({"question": str(case["question"]), "frame": frame, "tensors": tensors})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"a case lacks its number, image or question ({error})", path, FIX) from error
    if not cases:
        raise InputError("no cases-*.json with cases in it", folder, FIX)
    for case in cases:
        for key in ("frame", "tensors"):
            if not case[key].is_file():
                raise InputError("a case's file is missing", case[key], FIX)
    return cases


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

    from deckbench.models.families import families, resolve
    from deckbench.models.load import load_model

    found = read_cases(Path(cases))
    compare = resolve(str(folder)).family.check_case
    if compare is None:
        known = " or ".join(spec.serves for spec in families().values() if spec.check_case is not None)
        what = f"cases are of {known}; transformers' own models are the reference themselves"
        raise InputError(what, folder, "give the folder of one of the two")
    results: list[dict[str, Any]] = [{"case": case["frame"].name} for case in found]
    for kind, exact in (("float32", True), ("bfloat16", False)):
        model = load_model(str(folder), device="cpu", dtype=kind)
        for case, result in zip(found, results, strict=True):
            try:
                with Image.open(case["frame"]) as opened:
                    frame = opened.convert("RGB")
            except OSError as error:
                raise InputError("the case's frame cannot be read as an image", case["frame"], FIX) from error
            try:
                there = load_file(case["tensors"])
                made = compare(model, frame, case["question"], there, exact)
            except (SafetensorError, KeyError) as error:
                raise InputError(f"the case's tensors cannot be read ({error})", case["tensors"], FIX) from error
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
