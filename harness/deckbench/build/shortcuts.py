"""Shortcuts: how well test answers are guessed without looking, from what train teaches."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from deckbench.dataset import Sample
from deckbench.stats import wilson

MARGIN = 0.10
NEIGHBOURS = 15
FEWEST = 20  # train rows below which a family of questions teaches nothing
Floats = npt.NDArray[np.float64]
OPTION = re.compile(r"^[^\S\n]*([AB])\s*[.):.)::、]\s*(\S(?:.*\S)?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class ShortcutSample:
    """A sample as a shortcut sees it. family: questions that share their answers. target: the answer, free of A and B.

    options: what the letters mean (targets of A and B), None when they have no options.
    """

    sample: Sample
    stem: str
    family: Hashable
    target: str
    options: tuple[str, str] | None


def normalize(sample: Sample) -> ShortcutSample:
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
        return ShortcutSample(sample, stem, (sample.kind, stem), " ".join(sample.gold.split()).lower(), None)
    target = options[sample.gold == "B"]
    family: Hashable = ("options", *sorted(options))
    if options == ("A", "B"):
        family = ("letters", stem)
    if sample.anomaly is not None:
        right, wrong = ("anomaly", "normal") if sample.anomaly else ("normal", "anomaly")
        options = (right, wrong) if sample.gold == "A" else (wrong, right)
        target, family = right, ("verdict",)
    return ShortcutSample(sample, stem, family, target, options)


def answered(asked: ShortcutSample, target: str) -> str:
    """The answer that choosing `target` gives: a letter for a choice (A when it is not on offer), else the text."""
    if asked.options is None:
        return target
    return "B" if asked.options[1] == target else "A"


def truth(asked: ShortcutSample) -> str:
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

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy."""
        return wilson(self.right, self.total) or (0.0, 1.0)

    def beats(self) -> bool:
        """Whether it is a shortcut: the lower bound exceeds the majority (and the control) by more than the margin."""
        if not self.total:
            return False
        return self.interval[0] > max(self.against / self.total, self.control or 0.0) + MARGIN

    def as_dict(self) -> dict[str, Any]:
        low, high = self.interval
        majority = self.against / self.total if self.total else None
        out = {"n": self.total, "right": self.right, "low": low, "high": high, "majority": majority}
        return out if self.control is None else {**out, "control": self.control}


Guess = Callable[[ShortcutSample], "str | None"]


def commonest(counts: Counter[str]) -> str:
    """Most frequent key; of equals the first in sort order."""
    return min(counts, key=lambda key: (-counts[key], key))


def majority(train: Sequence[ShortcutSample]) -> dict[str, str]:
    """kind -> the most frequent answer of train (a letter, or a text)."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for asked in train:
        counts[asked.sample.kind][truth(asked)] += 1
    return {kind: commonest(count) for kind, count in counts.items()}


def evaluate(test: Sequence[ShortcutSample], guess: Guess, usual: dict[str, str]) -> Result:
    """How many test answers a guess has right; None is "cannot say" and does not count."""
    right = total = against = 0
    for asked in test:
        said = guess(asked)
        if said is not None:
            total += 1
            right += said == truth(asked)
            against += usual.get(asked.sample.kind) == truth(asked)
    return Result(right, total, against)


def by_question(train: Sequence[ShortcutSample]) -> Guess:
    """The best answer by the question's text: what train says most often to it, else to its family."""
    exact: dict[Hashable, Counter[str]] = defaultdict(Counter)
    family: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for asked in train:
        exact[asked.family, asked.stem][asked.target] += 1
        family[asked.family][asked.target] += 1
    usual = majority(train)

    def guess(asked: ShortcutSample) -> str | None:
        counts = exact.get((asked.family, asked.stem)) or family.get(asked.family)
        if counts and asked.options is not None:
            a, b = counts[asked.options[0]], counts[asked.options[1]]
            if a != b:
                return "A" if a > b else "B"
        elif counts:
            return commonest(counts)
        return usual.get(asked.sample.kind)

    return guess


def by_picture(train: Sequence[ShortcutSample], vectors: dict[Path, npt.NDArray[np.float32]]) -> Guess:
    """The answer of the train sample with the same question whose picture is nearest."""
    same: dict[Hashable, list[ShortcutSample]] = defaultdict(list)
    for asked in train:
        same[asked.family, asked.stem].append(asked)
    tables = {key: np.stack([vectors[asked.sample.image] for asked in group]) for key, group in same.items()}

    def guess(asked: ShortcutSample) -> str | None:
        key = (asked.family, asked.stem)
        if key not in tables:
            return None
        nearest = int((tables[key] @ vectors[asked.sample.image]).argmax())
        return answered(asked, same[key][nearest].target)

    return guess


def copying_between_groups(
    train: Sequence[ShortcutSample], vectors: dict[Path, npt.NDArray[np.float32]]
) -> float | None:
    """Accuracy of copying inside train from the nearest picture of another group; None without at least two groups."""
    same: dict[Hashable, list[ShortcutSample]] = defaultdict(list)
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


def by_features(train: Sequence[ShortcutSample], features: dict[str, Floats | None]) -> Guess:
    """Vote of the nearest train samples of the same family, by standardised features (k-NN, k = 15).

    features: per sample id; None where there are none.
    """
    groups: dict[Hashable, list[ShortcutSample]] = defaultdict(list)
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

    def guess(asked: ShortcutSample) -> str | None:
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
