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

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from deckbench.artifact import hash_file
from deckbench.cores import in_threads
from deckbench.dataset import Sample, csv_records, read_samples, splits_of
from deckbench.errors import InputError
from deckbench.likeness import SMALL_SIDE, Coarse, matches, thumbnail
from deckbench.picture import open_picture
from deckbench.progress import track

MARGIN = 0.10
SHOWN_PAIRS = 50
NEIGHBOURS = 15
FEWEST = 20  # train rows below which a family of questions teaches nothing
Z95 = 1.959963984540054
Floats = npt.NDArray[np.float64]
OPTION = re.compile(r"^\s*([AB])\s*[.):.)::、]\s*(.+?)\s*$", re.MULTILINE)


def wilson(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share (Wilson 1927)."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = right / total, Z95 * Z95
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Asked:
    """A sample as a shortcut sees it. family: questions that share their answers. target: the answer, free of A and B.

    options: what the letters mean (targets of A and B), None when they have no options.
    """

    sample: Sample
    stem: str
    family: Hashable
    target: str
    options: tuple[str, str] | None


def understand(sample: Sample) -> Asked:
    """Undo the shuffling of options: the target is the option's text, or whether it means an anomaly."""
    options: tuple[str, str] | None = None
    stem = sample.question
    if sample.kind == "choice":
        written = dict(OPTION.findall(sample.question))
        a, b = sample.option_a or written.get("A"), sample.option_b or written.get("B")
        if a and b and a != b:
            options = (a, b)
            stem = OPTION.sub("", sample.question)
        else:
            options = ("A", "B")
    stem = " ".join(stem.split())
    if options is None:
        return Asked(sample, stem, (sample.kind, stem), " ".join(sample.gold.split()).lower(), None)
    target = options[sample.gold == "B"]
    family: Hashable = ("options", *sorted(options))
    if options == ("A", "B"):
        family = ("letters", stem)
    if sample.anomaly is not None:
        right, wrong = ("anomaly", "normal") if sample.anomaly else ("normal", "anomaly")
        options = (right, wrong) if sample.gold == "A" else (wrong, right)
        target, family = right, ("verdict",)
    return Asked(sample, stem, family, target, options)


def answered(asked: Asked, target: str) -> str:
    """The answer that choosing `target` gives: a letter for a choice (A when it is not on offer), else the text."""
    if asked.options is None:
        return target
    return "B" if asked.options[1] == target else "A"


def truth(asked: Asked) -> str:
    return asked.sample.gold if asked.options is not None else asked.target


@dataclass(frozen=True)
class Result:
    """right of total; `against`: how many of the same the majority answer has right.

    control: accuracy that is reached without any leak, where that is known.
    """

    right: int
    total: int
    against: int
    control: float | None = None

    @property
    def accuracy(self) -> float | None:
        return self.right / self.total if self.total else None

    def beats(self) -> bool:
        """Whether it is a shortcut: the lower bound exceeds the majority (and the control) by more than the margin."""
        if not self.total:
            return False
        return wilson(self.right, self.total)[0] > max(self.against / self.total, self.control or 0.0) + MARGIN

    def as_dict(self) -> dict[str, Any]:
        low, high = wilson(self.right, self.total)
        majority = self.against / self.total if self.total else None
        out = {"n": self.total, "right": self.right, "low": low, "high": high, "majority": majority}
        return out if self.control is None else {**out, "control": self.control}


Guess = Callable[[Asked], "str | None"]


def commonest(counts: Counter[str]) -> str:
    """Most frequent key; of equals the first in sort order."""
    return min(counts, key=lambda key: (-counts[key], key))


def majority(train: Sequence[Asked]) -> dict[str, str]:
    """kind -> the most frequent answer of train (a letter, or a text)."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for asked in train:
        counts[asked.sample.kind][truth(asked)] += 1
    return {kind: commonest(count) for kind, count in counts.items()}


def evaluate(test: Sequence[Asked], guess: Guess, usual: dict[str, str]) -> Result:
    """How many test answers a guess has right; None is "cannot say" and does not count."""
    right = total = against = 0
    for asked in test:
        said = guess(asked)
        if said is not None:
            total += 1
            right += said == truth(asked)
            against += usual.get(asked.sample.kind) == truth(asked)
    return Result(right, total, against)


def by_question(train: Sequence[Asked]) -> Guess:
    """The best answer by the question's text: what train says most often to it, else to its family."""
    exact: dict[Hashable, Counter[str]] = defaultdict(Counter)
    family: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for asked in train:
        exact[asked.family, asked.stem][asked.target] += 1
        family[asked.family][asked.target] += 1
    usual = majority(train)

    def guess(asked: Asked) -> str | None:
        counts = exact.get((asked.family, asked.stem)) or family.get(asked.family)
        if counts and asked.options is not None:
            a, b = counts[asked.options[0]], counts[asked.options[1]]
            if a != b:
                return "A" if a > b else "B"
        elif counts:
            return commonest(counts)
        return usual.get(asked.sample.kind)

    return guess


def by_picture(train: Sequence[Asked], vectors: dict[Path, npt.NDArray[np.float32]]) -> Guess:
    """The answer of the train sample with the same question whose picture is nearest."""
    same: dict[Hashable, list[Asked]] = defaultdict(list)
    for asked in train:
        same[asked.family, asked.stem].append(asked)
    tables = {key: np.stack([vectors[asked.sample.image] for asked in group]) for key, group in same.items()}

    def guess(asked: Asked) -> str | None:
        key = (asked.family, asked.stem)
        if key not in tables:
            return None
        nearest = int((tables[key] @ vectors[asked.sample.image]).argmax())
        return answered(asked, same[key][nearest].target)

    return guess


def copying_between_groups(train: Sequence[Asked], vectors: dict[Path, npt.NDArray[np.float32]]) -> float | None:
    """Accuracy of copying inside train from the nearest picture of another group; None without at least two groups."""
    same: dict[Hashable, list[Asked]] = defaultdict(list)
    for asked in train:
        if asked.sample.group is not None:
            same[asked.family, asked.stem].append(asked)
    right = total = 0
    for members in same.values():
        groups = np.array([asked.sample.group for asked in members])
        table = np.stack([vectors[asked.sample.image] for asked in members])
        for number, asked in enumerate(members):
            other = groups != groups[number]
            if other.any():
                likeness = np.where(other, table @ table[number], -np.inf)
                right += answered(asked, members[int(likeness.argmax())].target) == truth(asked)
                total += 1
    return right / total if total else None


def by_features(train: Sequence[Asked], features: dict[str, Floats | None]) -> Guess:
    """Vote of the nearest train samples of the same family, by standardised features (k-NN, k = 15).

    features: per sample id; None where there are none.
    """
    groups: dict[Hashable, list[Asked]] = defaultdict(list)
    for asked in train:
        if asked.options is not None and features.get(asked.sample.id) is not None:
            groups[asked.family].append(asked)
    tables: dict[Hashable, tuple[Floats, Floats, Floats]] = {}
    for family, members in groups.items():
        if len(members) >= FEWEST:
            table = np.stack([np.asarray(features[asked.sample.id]) for asked in members])
            middle, spread = table.mean(axis=0), table.std(axis=0)
            spread = np.where(spread > 1e-6, spread, np.inf)  # what never varies, but for rounding, says nothing
            tables[family] = ((table - middle) / spread, middle, spread)

    def guess(asked: Asked) -> str | None:
        mine = features.get(asked.sample.id)
        if asked.options is None or mine is None or asked.family not in tables:
            return None
        table, middle, spread = tables[asked.family]
        distance = ((table - (mine - middle) / spread) ** 2).sum(axis=1)
        nearest = np.argsort(distance, kind="stable")[:NEIGHBOURS]
        votes = Counter(groups[asked.family][int(number)].target for number in nearest)
        a, b = (votes[option] for option in asked.options)
        return "A" if a >= b else "B"

    return guess


def box_features(sample: Sample, size: tuple[int, int] | None) -> Floats | None:
    """Place, size, area and aspect of the drawn box, as fractions of the picture."""
    if sample.box is None or size is None:
        return None
    x0, y0, x1, y1 = sample.box
    w, h = max(x1 - x0, 1e-6) / size[0], max(y1 - y0, 1e-6) / size[1]
    x, y = (x0 + x1) / 2 / size[0], (y0 + y1) / 2 / size[1]
    return np.array([x, y, w, h, math.sqrt(w * h), math.log(w / h)])


def colour_features(image: Image.Image) -> Floats:
    """(15,): which hues the saturated pixels have (12 bins, square roots of shares), and the most saturated colour."""
    small = image.resize((min(image.width, 192), min(image.height, 192)), Image.Resampling.NEAREST)
    rgb = np.asarray(small, np.float64).reshape(-1, 3) / 255
    high, low = rgb.max(axis=1), rgb.min(axis=1)
    chroma = high - low
    safe = np.maximum(chroma, 1e-9)
    r, g, b = rgb.T
    hue = np.where(high == r, (g - b) / safe % 6, np.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4))
    vivid = chroma > 0.5
    # Shares among the vivid pixels, not of the picture: how large a box is drawn is not its colour.
    bins = np.bincount((hue[vivid] * 2).astype(int) % 12, minlength=12) / max(1, int(vivid.sum()))
    top = chroma >= 0.9 * chroma.max()
    return np.concatenate([np.sqrt(bins), rgb[top].mean(axis=0)])


@dataclass(frozen=True)
class Look:
    """What one picture gave: its size, colours, its bytes' hash, and its thumbnail for comparing."""

    size: tuple[int, int]
    colours: Floats
    sha256: str
    thumb: npt.NDArray[np.uint8]


def look_at(path: Path) -> Look:
    image = open_picture(path)
    return Look(image.size, colour_features(image), hash_file(path), thumbnail(image))


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
    dataset: Path, train: Sequence[Path], test: Sequence[Path], looks: dict[Path, Look], crops: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Test pictures that train has too: byte for byte, and nearly. crops: all are crops, so look more strictly."""

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
    small = [np.array([crops or min(looks[path].size) < SMALL_SIDE for path in side]) for side in (rest, known)]
    thumbs = [np.stack([looks[path].thumb for path in side]) for side in (rest, known)]
    pairs = matches(*thumbs, small_left=small[0], small_right=small[1])
    near = [
        {
            "test": name(rest[pair.left]),
            "train": name(known[pair.right]),
            "correlation": round(pair.correlation, 4),
            "agrees": round(pair.agrees, 4),
        }
        for pair in pairs
    ]
    return exact, near


def audit(dataset: Path, *, seed: int = 0) -> dict[str, Any]:
    """Audit a dataset folder; returns what `deckbench audit --json` prints.

    Accuracies are on the choice questions of test where there are any (else on all), null where they cannot be
    computed; `intervals` has n and Wilson's 95% interval of each, and the majority's accuracy on the same questions.
    A dataset without a train part cannot leak: it passes, and `not_run` says what could not be done. `seed` has no
    effect (nothing here is drawn by chance). Raises InputError for a broken dataset, or one without a test part.
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
    results = in_threads(look_at, iter(pictures))
    looks = dict(zip(pictures, track(results, "looking at pictures", total=len(pictures)), strict=True))
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
    crops = all(sample.stage == "S1" for sample in [*train, *test])
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
        (len(exact), "test pictures are in train, byte for byte"),
        (len(near), "test pictures have a near-duplicate in train"),
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
    report: dict[str, Any], dataset: Path, train: Sequence[Sample], test: Sequence[Sample], looks: dict[Path, Look]
) -> None:
    """Fill in the accuracies and their intervals, and a reason for every shortcut."""
    choice = any(sample.kind == "choice" for sample in test)
    asked_train = [understand(sample) for sample in train if sample.kind == "choice" or not choice]
    asked_test = [understand(sample) for sample in test if sample.kind == "choice" or not choice]
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
            low = wilson(result.right, result.total)[0]
            allowed = f"the majority's {result.against / result.total:.3f}"
            if result.control is not None:
                allowed += f" and the {result.control:.3f} between groups of train"
            reason = f"{key} {result.accuracy:.3f} (95% lower bound {low:.3f}, n {result.total}) exceeds {allowed}"
            report["reasons"].append(f"{reason} by more than {MARGIN:.2f}")


def gates(test: Sequence[Sample]) -> set[str]:
    """The shortcuts that may fail this dataset.

    On crops (S1) the object is all there is: its shape and colours name it rightly. On whole frames without a box (S3)
    a vivid colour is content (a spill). With a drawn box (S2), or where the stage is unknown, they must say nothing.
    """
    stages = {sample.stage for sample in test}
    if stages == {"S1"}:
        return {"question_only_accuracy", "copy_accuracy"}
    if stages == {"S3"}:
        return {"question_only_accuracy", "copy_accuracy", "box_only_accuracy"}
    return set(SHORTCUTS)
