"""`audit`: does a dataset leak from train into test, and can its questions be answered without looking?

Works on any folder of messages JSONL. Leaks: one group or frame on both sides, the same picture, a near-duplicate.
Shortcuts: answers from the question's text alone, from the nearest train picture, from the drawn box's place and shape,
from the most saturated colours (a box whose colour tells the answer). A shortcut fails the audit when the lower 95%
bound of its accuracy exceeds the majority answer's accuracy on the same questions by more than 0.10.

Copying from the nearest picture also works where pictures are alike for a good reason: an open lid looks like an open
lid. So where the rows name groups, copying between different groups of train, which cannot be a leak, is the control:
copying from train to test must beat that as well.

A near-duplicate fails the audit when it is a copy of one exposure (`likeness.copies`), or when the answers of all of
them can be copied: same question, and copying beats majority and control. A camera that stands still and shows another
state is no leak: such near-duplicates are counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deckbench.artifact import hash_file
from deckbench.build.shortcuts import (
    MARGIN,
    Floats,
    Result,
    ShortcutSample,
    answered,
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
from deckbench.csvfile import csv_records
from deckbench.dataset import Sample, read_samples, splits_of
from deckbench.errors import InputError
from deckbench.gold import LABELS, read_labels
from deckbench.likeness import SMALL_SIDE, Copy, coarse_vectors, copies_across, thumbnail
from deckbench.likeness.cache import ImageCache
from deckbench.likeness.copies import ImageContext, confirmed_copies
from deckbench.likeness.thumbnails import HEIGHT, WIDTH
from deckbench.picture import open_picture
from deckbench.progress import track

SHOWN_PAIRS = 50
COLOURS = 15  # numbers of `colour_features`


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


def inspect_images(paths: Sequence[Path], cache: Path | None) -> dict[Path, ImageFacts]:
    """What each picture gives. cache: file that keeps it by the hash of the picture's file. Raises InputError."""
    store = ImageCache(cache, "audit")
    hashes = {} if cache is None else dict(zip(paths, in_threads(hash_file, iter(paths)), strict=True))
    kept = {key: facts for key, data in store.read(hashes.values()).items() if (facts := unpack(key, data)) is not None}
    looks = {path: kept[key] for path, key in hashes.items() if key in kept}
    missing = [path for path in paths if path not in looks]
    results = in_threads(inspect_image, iter(missing))
    made = dict(zip(missing, track(results, "looking at images", total=len(missing)), strict=True))
    store.write({facts.sha256: pack(facts) for facts in made.values()})
    return looks | made


def pack(facts: ImageFacts) -> bytes:
    """Size, colours and thumbnail as bytes."""
    return np.array([*facts.size, *facts.colours], "<f8").tobytes() + facts.thumb.tobytes()


def unpack(sha256: str, data: bytes) -> ImageFacts | None:
    """What `pack` wrote; None where it cannot be that."""
    if len(data) != 8 * (2 + COLOURS) + WIDTH * HEIGHT:
        return None
    numbers = np.frombuffer(data[: 8 * (2 + COLOURS)], "<f8").copy()
    thumb = np.frombuffer(data[8 * (2 + COLOURS) :], np.uint8).reshape(HEIGHT, WIDTH)
    return ImageFacts((int(numbers[0]), int(numbers[1])), numbers[2:], sha256, thumb)


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


def views_of(dataset: Path, samples: Sequence[ShortcutSample], choice: bool) -> dict[Path, ImageContext]:
    """What is known of each picture: its group, its objects where it is a whole frame, what is right of it."""
    labels = read_labels(dataset) if (dataset / LABELS).is_file() else {}
    views: dict[Path, ImageContext] = {}
    answers: dict[Path, dict[Hashable, str]] = defaultdict(dict)
    for asked in samples:
        sample, question = asked.sample, (asked.family, asked.stem)
        found = labels.get((sample.task or "", sample.frame or "")) if sample.stage in {"S2", "S3"} else None
        objects = None if found is None else tuple((box.cls, box.box) for box in found.boxes)
        ontology = (sample.task or "").partition("+")[2]
        if sample.kind == "choice" or not choice:
            answers[sample.image].setdefault(question, asked.target)
        views[sample.image] = ImageContext(sample.group, objects, ontology, answers[sample.image])
    return views


def add_duplicates(
    report: dict[str, Any],
    dataset: Path,
    train: Sequence[ShortcutSample],
    test: Sequence[ShortcutSample],
    looks: dict[Path, ImageFacts],
    *,
    choice: bool,
    control: float | None,
) -> None:
    """Fill in what train and test share, and a reason for each kind of leak.

    train, test: what is asked. choice: answers are those of choices. control: accuracy of copying without a leak.
    """

    def name(path: Path) -> str:
        return path.relative_to(dataset.resolve()).as_posix()

    crops = {asked.sample.image for asked in [*train, *test] if asked.sample.stage == "S1"}
    pictures, test_pictures = (list(dict.fromkeys(asked.sample.image for asked in side)) for side in (train, test))
    small = crops | {path for path, look in looks.items() if min(look.size) < SMALL_SIDE}
    thumbs, hashes = ({path: getattr(look, name) for path, look in looks.items()} for name in ("thumb", "sha256"))
    found = copies_across(pictures, test_pictures, thumbs, hashes=hashes, crops=crops, small=small)
    exact, near = ([copy for copy in found if (copy.how == "exact") is same] for same in (True, False))
    known, tested = (views_of(dataset, side, choice) for side in (train, test))
    copied = {copy.test for copy in confirmed_copies(near, known, tested, thumbs)}
    answers = replace(copying_near([copy for copy in near if copy.test not in copied], train, test), control=control)
    groups, frames = (
        shared_values([asked.sample for asked in train], [asked.sample for asked in test], field)
        for field in ("group", "frame")
    )
    report |= {
        "exact_duplicates": len(exact),
        "near_duplicates": len(near),
        "near_copies": len(copied),
        "near_copyable": len(copyable(near, known, tested)),
        "near_copy_accuracy": answers.accuracy,
        "shared_groups": groups[:SHOWN_PAIRS],
        "shared_frames": frames[:SHOWN_PAIRS],
        "pairs": {
            "exact": [{"test": name(copy.test), "train": name(copy.train)} for copy in exact[:SHOWN_PAIRS]],
            "near": [
                {
                    "test": name(copy.test),
                    "train": name(copy.train),
                    "correlation": round(copy.correlation, 4),
                    "agrees": round(copy.agrees, 4),
                    "how": copy.how,
                    "copy": copy.test in copied,
                }
                for copy in sorted(near, key=lambda copy: copy.test not in copied)[:SHOWN_PAIRS]
            ],
        },
    }
    for count, what in (
        (len(exact), "test images are in train, byte for byte"),
        (len(copied), "test images have a near-duplicate in train that is a copy of the same exposure"),
        (len(groups), "groups stand in train and in test"),
        (len(frames), "frames stand in train and in test"),
    ):
        if count:
            report["reasons"].append(f"{count} {what}")
    add_result(report, "near_copy_accuracy", answers, "copy_accuracy" in gates([asked.sample for asked in test]))


def copying_near(near: Sequence[Copy], train: Sequence[ShortcutSample], test: Sequence[ShortcutSample]) -> Result:
    """How many answers are right when they are copied from a near-duplicate that is asked the same question."""
    taught = {(asked.sample.image, asked.family, asked.stem): asked.target for asked in train}
    partner = {copy.test: copy.train for copy in near}

    def guess(asked: ShortcutSample) -> str | None:
        image = partner.get(asked.sample.image)
        target = None if image is None else taught.get((image, asked.family, asked.stem))
        return None if target is None else answered(asked, target)

    return evaluate(test, guess, majority(train))


def copyable(near: Sequence[Copy], train: Mapping[Path, ImageContext], test: Mapping[Path, ImageContext]) -> list[Copy]:
    """The near-duplicates that are asked what their partner in train is asked, and have the same answers to it."""
    found = []
    for copy in near:
        taught, right = train[copy.train].answers, test[copy.test].answers
        same = [taught[question] == answer for question, answer in right.items() if question in taught]
        if same and all(same):
            found.append(copy)
    return found


def audit(dataset: Path, *, seed: int = 0, cache: Path | None = None) -> dict[str, Any]:
    """Audit a dataset for leakage across the split and for shortcuts.

    Args:
        dataset: A dataset, or any folder of messages JSONL.
        seed: Has no effect; nothing here is drawn.
        cache: File that keeps what was seen of images for the next audit.

    Returns:
        What `deckbench audit --json` prints. Accuracies are on the choice questions of test where there are any, else
        on all; null where they cannot be computed. Of the `near_duplicates`, `near_copies` are copies of one exposure,
        and `near_copyable` are asked what their partner in train is asked and have the same answers;
        `near_copy_accuracy` is that of copying from the partner, over those that are no copies. `intervals` has n,
        Wilson's 95% interval of each, and the majority's accuracy on the same questions. A dataset without a train
        split cannot leak: it passes, and `not_run` lists what was not computed.

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
    looks = inspect_images(pictures, cache)
    report: dict[str, Any] = {
        "exact_duplicates": 0,
        "near_duplicates": 0,
        "near_copies": 0,
        "near_copyable": 0,
        "near_copy_accuracy": None,
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
    choice = any(sample.kind == "choice" for sample in test)
    taught, asked = ([normalize(sample) for sample in side] for side in (train, test))
    sides = [[each for each in side if each.sample.kind == "choice" or not choice] for side in (taught, asked)]
    vectors = dict(zip(pictures, coarse_vectors(np.stack([looks[path].thumb for path in pictures])), strict=True))
    control = copying_between_groups(sides[0], vectors)
    add_duplicates(report, dataset, taught, asked, looks, choice=choice, control=control)
    add_shortcuts(report, dataset, sides[0], sides[1], looks, vectors, control)
    report["passed"] = not report["reasons"]
    return report


SHORTCUTS = ("copy_accuracy", "question_only_accuracy", "box_only_accuracy", "colour_only_accuracy")


def add_shortcuts(
    report: dict[str, Any],
    dataset: Path,
    train: Sequence[ShortcutSample],
    test: Sequence[ShortcutSample],
    looks: dict[Path, ImageFacts],
    vectors: dict[Path, npt.NDArray[np.float32]],
    control: float | None,
) -> None:
    """Fill in the accuracies and their intervals, and a reason for every shortcut."""
    usual = majority(train)
    sizes = drawn_sizes(dataset)
    boxes: dict[str, Floats | None] = {}
    colours: dict[str, Floats | None] = {}
    for asked in [*train, *test]:
        sample = asked.sample
        boxes[sample.id] = box_features(sample, sizes.get(sample.id, looks[sample.image].size))
        colours[sample.id] = looks[sample.image].colours
    # Where a verdict is asked, place and colour must not give it away; that they tell a rack from a bin is no leak.
    verdicts = [asked for asked in test if asked.family == ("verdict",)] or test
    results = {
        "majority_accuracy": evaluate(test, lambda asked: usual.get(asked.sample.kind), usual),
        "question_only_accuracy": evaluate(test, by_question(train), usual),
        "copy_accuracy": replace(evaluate(test, by_picture(train, vectors), usual), control=control),
        "box_only_accuracy": evaluate(verdicts, by_features(train, boxes), usual),
        "colour_only_accuracy": evaluate(verdicts, by_features(train, colours), usual),
    }
    gated = gates([asked.sample for asked in test])
    for key, result in results.items():
        add_result(report, key, result, key in gated)
        if result.total == 0:
            report["not_run"].append(key)


def add_result(report: dict[str, Any], key: str, result: Result, gate: bool) -> None:
    """Fill in an accuracy with its interval, and a reason where it is a shortcut that may fail this dataset."""
    report[key] = result.accuracy
    report["intervals"][key] = result.as_dict()
    if gate and result.beats():
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
