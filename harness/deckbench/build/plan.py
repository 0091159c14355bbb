"""What is asked about what, decided from labels alone: no pixel is read here.

A choice question always comes as *twins*: two pictures with the same question and the same two options, whose answers
are opposite. So a dataset is balanced within every question text, in every split and under every limit, and a model
that reads only the question is right half the time.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeVar

from deckbench.language import Lang
from deckbench.ontology import Ontology, Verdict
from deckbench.questions import BankQuestion
from deckbench.task import Task
from deckbench.verdicts import label_verdict, said_anomalies
from deckbench.yolo.frame import Box4, Check, Frame

__all__ = ["Box4", "Context", "LeftOut", "Unit", "View", "ViewQuestion"]

T = TypeVar("T")
EXAMPLES = 5
BLOCK = 24  # views among which twins are sought: one or two of each class


@dataclass(frozen=True, slots=True)
class View:
    """A picture to make: a whole frame (key ""), a crop or a drawn box (`b<number of the label>`, `d...` for a decoy,
    `r<number>` for a region of the frame's checks).

    frame: index into Context.frames. cls: class of the asked object, None for a whole frame or a decoy.
    box: x0 y0 x1 y1 of the label, fractions of the frame.
    """

    frame: int
    key: str = ""
    cls: str | None = None
    box: Box4 | None = None


@dataclass(frozen=True, slots=True)
class ViewQuestion:
    """One question about one view.

    value, other: the right and the wrong option (class ids for kind and state questions, else keys of the question's
    options); other is None for open and scene questions. check: the frame's check that is asked about.
    """

    view: View
    question: BankQuestion
    value: str
    other: str | None = None
    noun: str | None = None
    region: str | None = None
    step: str | None = None
    anomaly: bool | None = None
    cls: str | None = None
    check: Check | None = None


Unit = tuple[ViewQuestion, ...]  # twins, or one open question: kept or left as a whole


@dataclass
class LeftOut:
    """What could not be given and why: counts, with a few examples each."""

    counts: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))
    examples: dict[tuple[str, str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add_check(self, reason: str, split: str, check: Check, frame: str) -> None:
        """One check of a frame; every frame is named."""
        key = (reason, split, " / ".join(filter(None, check.key)))
        self.counts[key] += 1
        self.examples[key].append(frame)

    def add(self, reason: str, split: str, about: str = "", example: str = "", count: int = 1) -> None:
        key = (reason, split, about)
        self.counts[key] += count
        if example and len(self.examples[key]) < EXAMPLES:
            self.examples[key].append(example)

    def rows(self) -> list[list[str]]:
        """reason, split, what, count, examples; sorted."""
        return [[*key, str(self.counts[key]), ";".join(self.examples[key])] for key in sorted(self.counts)]


@dataclass
class Context:
    """A pool seen through a task. classes[i][j]: the ontology's class of label j of frame i. langs: of the texts."""

    task: Task
    frames: Sequence[Frame]
    classes: Sequence[Sequence[str]]
    split: Sequence[str | None]
    groups: Sequence[str]
    synthetic: bool
    seed: int
    left: LeftOut = field(default_factory=LeftOut)
    langs: Sequence[Lang] = ("en",)

    @property
    def ontology(self) -> Ontology:
        return self.task.ontology

    def rng(self, *parts: object) -> random.Random:
        """A generator for one purpose: what it gives depends on seed and purpose, never on order or workers."""
        text = "|".join(str(part) for part in (self.seed, self.task.spec.name, *parts))
        return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))

    def members(self, split: str) -> list[int]:
        """Frames of a split, in pool order."""
        return [index for index, part in enumerate(self.split) if part == split]

    def views(self, index: int, prefix: str = "b") -> list[View]:
        """One view for each label of a frame."""
        return [
            View(index, f"{prefix}{number}", cls, (box.x0, box.y0, box.x1, box.y1))
            for number, (box, cls) in enumerate(zip(self.frames[index].boxes, self.classes[index], strict=True))
        ]

    def verdict(self, index: int, cls: str) -> Verdict | None:
        """The verdict on a label; none in a frame that has checks, which takes its verdicts from them alone."""
        return label_verdict(self.ontology, self.frames[index], cls)

    def said(self, index: int) -> list[str] | None:
        """The anomalies that frames.csv names."""
        return said_anomalies(self.ontology, self.frames[index])

    def lacks(self, index: int, cls: str) -> bool:
        """Whether the frame certainly shows no `cls`: not labelled, and labels (or frames.csv) would have said so."""
        if cls in self.classes[index]:
            return False
        if self.synthetic or self.ontology.is_exhaustive(cls):
            return True
        said = self.said(index)
        return said is not None and self.verdict(index, cls) == "anomaly" and cls not in said

    def written(self, index: int, check: Check | None, lang: Lang) -> str | None:
        """The written description of a frame, or of one of its checks; None where there is none."""
        scenes = self.task.scenes
        key = ("", "", "") if check is None else check.key
        return None if scenes is None else scenes.get((self.frames[index].id, *key), lang)

    def lacks_text(self, index: int, check: Check | None = None) -> bool:
        """Whether descriptions are written, and this frame's (or check's) is not there in all languages."""
        return self.task.scenes is not None and any(self.written(index, check, lang) is None for lang in self.langs)

    def questions(self, *about: str) -> list[BankQuestion]:
        return [question for question in self.task.bank.questions if question.about in about]

    @property
    def asks_presence(self) -> bool:
        wish = self.task.options.presence
        return wish == "always" or (wish == "auto" and not self.ontology.judges)


def asked_of(question: BankQuestion, cls: str | None) -> bool:
    """Whether a question may be put about a class."""
    return question.classes is None or cls in question.classes


def round_robin(groups: dict[Hashable, list[T]]) -> list[T]:
    """One of each group in turn until all are empty; groups in the order of their keys' text."""
    queues = [list(reversed(groups[key])) for key in sorted(groups, key=str)]
    order: list[T] = []
    while queues:
        for queue in queues:
            if queue:
                order.append(queue.pop())
        queues = [queue for queue in queues if queue]
    return order


def pair_up(
    items: Sequence[T], value: Callable[[T], str], may: Callable[[str, str], bool], rng: random.Random
) -> list[tuple[T, T]]:
    """Pairs of items with different values, each item in at most one pair, as many as a greedy choice gives.

    The largest group left gives one item, another group that `may` stand beside it (drawn by size) the other.
    """
    groups: dict[str, list[T]] = defaultdict(list)
    for item in items:
        groups[value(item)].append(item)
    for key in sorted(groups):
        rng.shuffle(groups[key])
    pairs: list[tuple[T, T]] = []
    while len(groups) > 1:
        first = max(sorted(groups), key=lambda key: len(groups[key]))
        others = [key for key in sorted(groups) if key != first and may(first, key)]
        if not others:
            del groups[first]
            continue
        second = rng.choices(others, weights=[len(groups[key]) for key in others])[0]
        pair = (groups[first].pop(), groups[second].pop())
        pairs.append(pair if rng.random() < 0.5 else (pair[1], pair[0]))
        for key in (first, second):
            if not groups[key]:
                del groups[key]
    return pairs


def pair_near(
    items: Sequence[View], value: Callable[[View], str], may: Callable[[str, str], bool], rng: random.Random
) -> list[tuple[View, View]]:
    """`pair_up` block by block of the given order, what is left of a block going into the next.

    So twins stand near each other, and a limit that keeps the first views keeps their pairs too.
    """
    pairs: list[tuple[View, View]] = []
    rest: list[View] = []
    for at in range(0, len(items), BLOCK):
        able = [*rest, *items[at : at + BLOCK]]
        made = pair_up(able, value, may, rng)
        paired = {view for pair in made for view in pair}
        rest = [view for view in able if view not in paired]
        pairs += made
    return pairs


def rows_of(unit: Unit, split: str) -> int:
    """How many samples a unit gives in one language: a choice has both orders outside the training part."""
    return sum(2 if asked.other is not None and split != "train" else 1 for asked in unit)


def trim(units: list[Unit], split: str, most: int | None, left: LeftOut, frames: Sequence[Frame] = ()) -> list[Unit]:
    """The first units that together give at most `most` samples; what is cut is counted, and its checks are listed."""
    if most is None:
        return units
    totals = accumulate(rows_of(unit, split) for unit in units)
    place = next((number for number, total in enumerate(totals) if total > most), None)
    if place is None:
        return units
    kept = {(asked.view.frame, asked.check) for unit in units[:place] for asked in unit if asked.check}
    cut = 0
    lost: dict[tuple[int, Check], None] = {}
    for unit in units[place:]:
        gone = [(asked.view.frame, asked.check) for asked in unit if asked.check is not None]
        lost |= dict.fromkeys(pair for pair in gone if pair not in kept)
        cut += 0 if gone else rows_of(unit, split)
    if cut:
        left.add("over the limit", split, "", count=cut)
    for index, check in lost:
        left.add_check("over the limit", split, check, frames[index].id)
    return units[:place]


def by_rank(units: Iterable[Unit], views: Sequence[View]) -> list[Unit]:
    """Units in the order in which their later view first stands in `views`, so that a limit keeps pictures whole."""
    rank: dict[View, int] = {}
    for number, view in enumerate(views):
        rank.setdefault(view, number)  # a view that serves several questions counts from its first
    return sorted(units, key=lambda unit: max(rank[asked.view] for asked in unit))


def twins(question: BankQuestion, first: View, second: View, values: tuple[str, str], **more: object) -> Unit:
    """The same question about two views with opposite answers."""
    common = {"question": question, **more}
    return (
        ViewQuestion(view=first, value=values[0], other=values[1], cls=first.cls, **common),  # type: ignore[arg-type]
        ViewQuestion(view=second, value=values[1], other=values[0], cls=second.cls, **common),  # type: ignore[arg-type]
    )


def kind_twins(ctx: Context, views: Sequence[View], split: str, about: str = "kind") -> list[Unit]:
    """Questions between two kinds (about="kind") or two states of one kind (about="state")."""
    ontology = ctx.ontology
    units: list[Unit] = []

    def shared_noun(first: str, second: str) -> str | None:
        return next((noun for noun in ontology.classes[first].nouns if noun in ontology.classes[second].nouns), None)

    def may(first: str, second: str) -> bool:
        a, b = ontology.classes[first], ontology.classes[second]
        if about == "kind":
            return not ontology.overlap(first, second)
        if a.state is None or b.state is None or shared_noun(first, second) is None:
            return False
        return a.state.en != b.state.en and a.state.zh != b.state.zh and ontology.overlap(first, second)

    for question in (question for question in ctx.questions(about) if question.kind == "choice"):
        able = [view for view in views if view.cls is not None and asked_of(question, view.cls)]
        if about == "state":
            able = [view for view in able if ontology.classes[str(view.cls)].state is not None]
        pairs = pair_near(able, lambda view: str(view.cls), may, ctx.rng(question.id, split))
        if unpaired := len(able) - 2 * len(pairs):
            ctx.left.add("no twin with another answer", split, question.id, count=unpaired)
        for first, second in pairs:
            one, two = str(first.cls), str(second.cls)
            noun = shared_noun(one, two) if about == "state" else None
            units.append(twins(question, first, second, (one, two), noun=noun))
    return units


def find_decoys(ctx: Context, split: str, views: Sequence[View]) -> list[tuple[View, View]]:
    """For each view a decoy: the same box in a frame of the same split that certainly lacks its class.

    Of eight frames drawn, the one is taken where other labels cover the box most nearly as much as in the view's own
    frame, so that what stands in the box tells nothing but whether the class is there.
    """
    found = []
    pools = {
        cls: [index for index in ctx.members(split) if ctx.lacks(index, cls)]
        for cls in sorted({str(view.cls) for view in views})
    }
    for view in views:
        cls = str(view.cls)
        rng = ctx.rng("decoy", ctx.frames[view.frame].id, view.key)
        places = rng.sample(pools[cls], min(8, len(pools[cls])))
        if not places or view.box is None:
            ctx.left.add("no frame that certainly lacks the class", split, cls, ctx.frames[view.frame].id)
            continue
        own = covered(ctx, view.frame, view.box, cls)
        box = view.box
        index = min(places, key=lambda place: (abs(covered(ctx, place, box, cls) - own), places.index(place)))
        found.append((view, View(index, f"d{view.frame}-{view.key}", None, view.box)))
    return found


def covered(ctx: Context, index: int, box: Box4, but: str) -> float:
    """The largest part of `box` that one label of the frame covers, labels of class `but` apart."""
    area = max(1e-9, (box[2] - box[0]) * (box[3] - box[1]))
    most = 0.0
    for label, cls in zip(ctx.frames[index].boxes, ctx.classes[index], strict=True):
        if cls != but:
            width = min(box[2], label.x1) - max(box[0], label.x0)
            height = min(box[3], label.y1) - max(box[1], label.y0)
            most = max(most, max(0.0, width) * max(0.0, height) / area)
    return most


def presence_twins(ctx: Context, pairs: Sequence[tuple[View, View]]) -> list[Unit]:
    """ "Is there a X?" about a crop or a drawn box of X and about its decoy."""
    return [
        twins(question, view, decoy, ("present", "absent"), noun=ctx.ontology.classes[str(view.cls)].nouns[0])
        for question in ctx.questions("presence")
        for view, decoy in pairs
        if asked_of(question, view.cls)
    ]


def choose(ctx: Context, split: str, views: Iterable[View], per_class: int | None, per_frame: int) -> list[View]:
    """Views in turn by class, at most `per_class` of a class and `per_frame` of a frame."""
    by_class: dict[Hashable, list[View]] = defaultdict(list)
    for view in views:
        by_class[view.cls].append(view)
    for cls in sorted(by_class, key=str):
        ctx.rng("choose", split, cls).shuffle(by_class[cls])
    used: dict[int, int] = defaultdict(int)
    taken: dict[str | None, int] = defaultdict(int)
    chosen = []
    for view in round_robin(by_class):
        if used[view.frame] >= per_frame:
            ctx.left.add("enough from this frame", split, str(view.cls))
        elif per_class is not None and taken[view.cls] >= per_class:
            ctx.left.add("enough of this class", split, str(view.cls))
        else:
            used[view.frame] += 1
            taken[view.cls] += 1
            chosen.append(view)
    return chosen
