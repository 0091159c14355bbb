"""`audit`: does a dataset leak from train into test, and can its questions be answered without looking?

Works on any folder of messages JSONL. Leaks: one group or frame on both sides, the same picture, a near-duplicate.
Shortcuts: answers from the question's text alone, from the nearest train picture, from the drawn box's place and shape,
from the most saturated colours (a box whose colour tells the answer). A shortcut fails the audit when the lower 95%
bound of its accuracy exceeds the majority answer's accuracy on the same questions by more than 0.10.

Copying from the nearest picture also works where pictures are alike for a good reason: an open lid looks like an open
lid. So where the rows name groups, copying between different groups of train, which cannot be a leak, is the control:
copying from train to test must beat that as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deckbench.artifact import hash_file
from deckbench.build.shortcuts import (
    MARGIN,
    Floats,
    box_features,
    by_features,
    by_picture,
    by_question,
    colour_features,
    copying_between_groups,
    evaluate,
    majority,
    normalize,
)
from deckbench.cores import in_threads
from deckbench.dataset import Sample, csv_records, read_samples, splits_of
from deckbench.errors import InputError
from deckbench.likeness import SMALL_SIDE, Coarse, matches, thumbnail
from deckbench.picture import open_picture
from deckbench.progress import track

SHOWN_PAIRS = 50


@dataclass(frozen=True)
class ImageFacts:
    """What one picture gave: its size, colours, its bytes' hash, and its thumbnail for comparing."""

    size: tuple[int, int]
    colours: Floats
    sha256: str
    thumb: npt.NDArray[np.uint8]


def inspect_image(path: Path) -> ImageFacts:
    image = open_picture(path)
    return ImageFacts(image.size, colour_features(image), hash_file(path), thumbnail(image))


def drawn_sizes(dataset: Path) -> dict[str, tuple[int, int]]:
    """id -> width and height from samples.csv; empty when it has none."""
    table = dataset / "samples.csv"
    if not table.is_file():
        return {}
    return {
        record["id"]: (int(record["width"]), int(record["height"]))
        for _, record in csv_records(table, required=("id",))
        if record.get("width", "").isdigit() and record.get("height", "").isdigit()
    }


def shared_values(train: Sequence[Sample], test: Sequence[Sample], field: str) -> list[str]:
    """Values of a field (group, frame) that stand in train and in test."""
    sides = [{getattr(sample, field) for sample in side} - {None} for side in (train, test)]
    return sorted(sides[0] & sides[1])


def duplicates(
    dataset: Path, train: Sequence[Path], test: Sequence[Path], looks: dict[Path, ImageFacts], crops: set[Path]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Test pictures that train has too: byte for byte, and nearly. crops: these are crops, so look more strictly."""

    def name(path: Path) -> str:
        return path.relative_to(dataset.resolve()).as_posix()

    by_hash: dict[str, Path] = {}
    for path in train:
        by_hash.setdefault(looks[path].sha256, path)
    exact = [{"test": name(p), "train": name(by_hash[looks[p].sha256])} for p in test if looks[p].sha256 in by_hash]
    rest = [path for path in test if looks[path].sha256 not in by_hash]
    known = list(by_hash.values())
    if not rest or not known:
        return exact, []
    small = [np.array([path in crops or min(looks[path].size) < SMALL_SIDE for path in side]) for side in (rest, known)]
    frames = [np.array([path not in crops for path in side]) for side in (rest, known)]
    thumbs = [np.stack([looks[path].thumb for path in side]) for side in (rest, known)]
    pairs = matches(*thumbs, small_left=small[0], small_right=small[1], frames_left=frames[0], frames_right=frames[1])
    near = [
        {
            "test": name(rest[pair.left]),
            "train": name(known[pair.right]),
            "correlation": round(pair.correlation, 4),
            "agrees": round(pair.agrees, 4),
            "how": pair.how,
        }
        for pair in pairs
    ]
    return exact, near


def audit(dataset: Path, *, seed: int = 0) -> dict[str, Any]:
    """Audit a dataset for leakage across the split and for shortcuts.

    Args:
        dataset: A dataset, or any folder of messages JSONL.
        seed: Has no effect; nothing here is drawn.

    Returns:
        What `deckbench audit --json` prints. Accuracies are on the choice questions of test where there are any, else
        on all; null where they cannot be computed. `intervals` has n, Wilson's 95% interval of each, and the
        majority's accuracy on the same questions. A dataset without a train split cannot leak: it passes, and
        `not_run` lists what was not computed.

    Raises:
        InputError: The dataset is broken, or has no test split.
    """
    dataset = Path(dataset)
    parts = splits_of(dataset)
    if "test" not in parts:
        raise InputError("the dataset has no test part", dataset / "test.jsonl", "an audit compares test with train")
    test = read_samples(dataset, "test")
    train = read_samples(dataset, "train") if "train" in parts else []
    if not test:
        raise InputError("the test part is empty", dataset / "test.jsonl", "an audit compares test with train")
    test_pictures = list(dict.fromkeys(sample.image for sample in test))
    train_pictures = list(dict.fromkeys(sample.image for sample in train))
    pictures = list(dict.fromkeys([*train_pictures, *test_pictures]))
    results = in_threads(inspect_image, iter(pictures))
    looks = dict(zip(pictures, track(results, "looking at images", total=len(pictures)), strict=True))
    report: dict[str, Any] = {
        "exact_duplicates": 0,
        "near_duplicates": 0,
        "copy_accuracy": None,
        "question_only_accuracy": None,
        "majority_accuracy": None,
        "box_only_accuracy": None,
        "colour_only_accuracy": None,
        "passed": True,
        "reasons": [],
        "not_run": [],
        "samples": {"train": len(train), "test": len(test)},
        "pictures": {"train": len(train_pictures), "test": len(test_pictures)},
        "shared_groups": [],
        "shared_frames": [],
        "intervals": {},
        "pairs": {"exact": [], "near": []},
    }
    if not train:
        report["not_run"] = ["exact_duplicates", "near_duplicates", *SHORTCUTS, "majority_accuracy"]
        return report
    crops = {sample.image for sample in [*train, *test] if sample.stage == "S1"}
    exact, near = duplicates(dataset, train_pictures, test_pictures, looks, crops)
    groups, frames = shared_values(train, test, "group"), shared_values(train, test, "frame")
    report |= {
        "exact_duplicates": len(exact),
        "near_duplicates": len(near),
        "shared_groups": groups[:SHOWN_PAIRS],
        "shared_frames": frames[:SHOWN_PAIRS],
        "pairs": {"exact": exact[:SHOWN_PAIRS], "near": near[:SHOWN_PAIRS]},
    }
    reasons = report["reasons"]
    for count, what in (
        (len(exact), "test images are in train, byte for byte"),
        (len(near), "test images have a near-duplicate in train"),
        (len(groups), "groups stand in train and in test"),
        (len(frames), "frames stand in train and in test"),
    ):
        if count:
            reasons.append(f"{count} {what}")
    add_shortcuts(report, dataset, train, test, looks)
    report["passed"] = not reasons
    return report


SHORTCUTS = ("copy_accuracy", "question_only_accuracy", "box_only_accuracy", "colour_only_accuracy")


def add_shortcuts(
    report: dict[str, Any],
    dataset: Path,
    train: Sequence[Sample],
    test: Sequence[Sample],
    looks: dict[Path, ImageFacts],
) -> None:
    """Fill in the accuracies and their intervals, and a reason for every shortcut."""
    choice = any(sample.kind == "choice" for sample in test)
    asked_train = [normalize(sample) for sample in train if sample.kind == "choice" or not choice]
    asked_test = [normalize(sample) for sample in test if sample.kind == "choice" or not choice]
    usual = majority(asked_train)
    pictures = list(dict.fromkeys(asked.sample.image for asked in [*asked_train, *asked_test]))
    thumbs = np.stack([looks[path].thumb for path in pictures])
    vectors = dict(zip(pictures, Coarse(thumbs).vectors(), strict=True))
    sizes = drawn_sizes(dataset)
    boxes: dict[str, Floats | None] = {}
    colours: dict[str, Floats | None] = {}
    for asked in [*asked_train, *asked_test]:
        sample = asked.sample
        boxes[sample.id] = box_features(sample, sizes.get(sample.id, looks[sample.image].size))
        colours[sample.id] = looks[sample.image].colours
    # Where a verdict is asked, place and colour must not give it away; that they tell a rack from a bin is no leak.
    verdicts = [asked for asked in asked_test if asked.family == ("verdict",)] or asked_test
    results = {
        "majority_accuracy": evaluate(asked_test, lambda asked: usual.get(asked.sample.kind), usual),
        "question_only_accuracy": evaluate(asked_test, by_question(asked_train), usual),
        "copy_accuracy": replace(
            evaluate(asked_test, by_picture(asked_train, vectors), usual),
            control=copying_between_groups(asked_train, vectors),
        ),
        "box_only_accuracy": evaluate(verdicts, by_features(asked_train, boxes), usual),
        "colour_only_accuracy": evaluate(verdicts, by_features(asked_train, colours), usual),
    }
    for key, result in results.items():
        report[key] = result.accuracy
        report["intervals"][key] = result.as_dict()
        if result.total == 0:
            report["not_run"].append(key)
        elif key in gates(test) and result.beats():
            low = result.interval[0]
            allowed = f"the majority's {result.against / result.total:.3f}"
            if result.control is not None:
                allowed += f" and the {result.control:.3f} between groups of train"
            reason = f"{key} {result.accuracy:.3f} (95% lower bound {low:.3f}, n {result.total}) exceeds {allowed}"
            report["reasons"].append(f"{reason} by more than {MARGIN:.2f}")


def gates(test: Sequence[Sample]) -> set[str]:
    """The shortcuts that may fail this dataset.

    On crops (S1) the object is all there is: its shape and colours name it rightly. On whole frames without a box (S3)
    a vivid colour is content (a spill). With a drawn box (S2), or where the stage is unknown, they must say nothing.
    A mix holds its parts in other shares in train than in test; what pictures give away is judged in each part.
    """
    stages = {sample.stage for sample in test}
    if len(stages) > 1 and None not in stages:
        return {"question_only_accuracy"}
    if stages == {"S1"}:
        return {"question_only_accuracy", "copy_accuracy"}
    if stages == {"S3"}:
        return {"question_only_accuracy", "copy_accuracy", "box_only_accuracy"}
    return set(SHORTCUTS)
