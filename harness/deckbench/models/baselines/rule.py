"""A detector and a rule: the ontology applied to labels, or to the YOLO texts a detector wrote. No picture is read.

With the labels that the dataset carries (`rule:gold`) this is the ceiling of the task: what a perfect detector would
score. With a detector's output it answers "why not a detector and a rule?".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from deckbench.answer import Answer, Unanswered
from deckbench.dataset import Sample
from deckbench.errors import InputError
from deckbench.gold import read_tasks
from deckbench.language import LANGS, Lang, Text
from deckbench.models.baselines.base import Baseline, dataset_of, options, say
from deckbench.models.baselines.labels import Box, Detection, GoldLabels, LabelFolder, LabelSource
from deckbench.ontology import Ontology
from deckbench.questions import REGIONS, BankQuestion, render
from deckbench.task import Task, load_task
from deckbench.yolo.frame import Check

FILLED = ("noun", "region", "kind", "state", "name", "fact", "verdict", "step")
INSIDE = 0.85  # part of a label that must lie in the drawn box to be what is asked about
ALIKE = 0.6  # part of the best overlap that a neighbour must have to be taken for the object too
CLEARLY = 0.5  # part of a label that must lie in a region to be in it


@dataclass(frozen=True)
class ParsedQuestion:
    """A sample's question, found in its task's bank."""

    question: BankQuestion
    lang: Lang
    noun: str = ""
    region: str = ""


class Rule(Baseline):
    """Answers verdict, kind, state, presence, place and open questions from labels; the rest with an empty text.

    folder: a pool (a folder with a dataset yaml), or a folder of YOLO texts `class cx cy w h [confidence]` named after
    the frames; None: the labels that the asked dataset carries.
    """

    def __init__(self, folder: Path | None) -> None:
        self.labels: LabelSource | None = None if folder is None else LabelFolder(folder)
        self.name = "rule:gold" if folder is None else f"rule:{folder.resolve().name}"
        self.tasks: dict[str, Task] | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The labels' hash where a folder was named; `rule:gold` is decided by the asked dataset."""
        if isinstance(self.labels, LabelFolder):
            return {"name": self.name, "labels": self.labels.content_hash}
        return {"name": self.name}

    def answer_samples(self, samples: Sequence[Sample], blank: bool = False) -> list[Answer | Unanswered]:
        """One answer per sample. Raises InputError when the labels are missing or broken (with file and line)."""
        if not samples:
            return []
        labels = self.labels = self.labels or GoldLabels.of(samples[0])
        if isinstance(labels, LabelFolder):
            labels.check_match(samples)
        if self.tasks is None:
            dataset = dataset_of(samples[0])
            self.tasks = {} if dataset is None else read_tasks(dataset)
        return [self.answer_one(sample, labels, self.tasks) for sample in samples]

    def answer_one(self, sample: Sample, labels: LabelSource, tasks: Mapping[str, Task]) -> Answer:
        """The answer to one sample; an empty text where labels do not say."""
        task = tasks.get(sample.task or "") or published_task(sample.task or "")
        found = parse_question(task, sample)
        if found is None or sample.frame is None:
            return say("")
        if found.question.about == "check":
            return say_verdict(sample, found, labels.check(sample))
        seen = labels.objects(sample, task.ontology)
        asked = with_noun(seen, found, task.ontology)
        if task.spec.picture == "box":
            found_there = in_box(sample, asked)
        elif task.spec.picture == "crop":
            found_there = in_crop(sample, asked, labels.size(sample))
        else:
            found_there = asked
        if found_there is None:
            return say("")
        asked = found_there
        about = found.question.about
        if about == "scene":
            return say(scene_text(found, task.ontology, sample.step, seen))
        if about == "verdict":
            p = p_of(asked, task, sample.step)
            return choose(sample, found, "anomaly" if p > 0.5 else "normal", {"anomaly": p, "normal": 1 - p})
        if about == "presence":
            there = [item for item in asked if in_region(item.box, found)]
            p = max((item.confidence for item in there), default=0.0)
            return choose(sample, found, "present" if there else "absent", {"present": p, "absent": 1 - p})
        if about == "place":
            return choose(sample, found, half(asked, found.question.axis))
        return word(sample, found, asked, task)


@lru_cache(maxsize=16)
def published_task(ref: str) -> Task:
    """The published task that `name@1` or `name@1+hash` stems from, for a dataset that carries none.

    A lab's own questions are not understood then and stay unanswered. Raises InputError.
    """
    base = ref.partition("+")[0]
    if not base:
        raise InputError("the samples do not say which task they belong to", "task", "rule needs a built dataset")
    return load_task(base)


@lru_cache(maxsize=1024)
def pattern(template: str, nouns: tuple[str, ...], regions: tuple[str, ...]) -> re.Pattern[str]:
    """A question's template as an expression with the groups noun and region, which match only the given words."""
    text = re.escape(render(template, {name: f"\x00{name}\x00" for name in FILLED}).strip())
    for name, words in (("noun", nouns), ("region", regions)):
        choices = "|".join(re.escape(word) for word in sorted(set(words), key=len, reverse=True)) or ".+?"
        text = text.replace(re.escape(f"\x00{name}\x00"), f"(?P<{name}>{choices})", 1)
    return re.compile(re.sub(r"\x00\w+\x00", ".+?", text))


def words_of(ontology: Ontology, lang: Lang) -> tuple[str, ...]:
    """What a question may call its object: neutral nouns, and the classes' own kinds."""
    return tuple(
        [text.get(lang) for text in ontology.nouns.values()]
        + [spec.kind_text.get(lang) for spec in ontology.classes.values()]
    )


def parse_question(task: Task, sample: Sample) -> ParsedQuestion | None:
    """Find a sample's question in its task's bank by its words and options; None when it is not there."""
    lines = [line.strip() for line in sample.question.splitlines()]
    for question in task.bank.questions:
        if question.kind != sample.kind:
            continue
        for lang in LANGS:
            texts = {text.get(lang) for text in question.options.values()}
            if question.kind == "choice" and texts and texts != set(options(sample)):
                continue
            regions = tuple(text.get(lang) for text in question.regions.values())
            expression = pattern(question.ask.get(lang), words_of(task.ontology, lang), regions)
            for line in lines:
                match = expression.fullmatch(line)
                if match:
                    said: Mapping[str, str] = match.groupdict()
                    return ParsedQuestion(question, lang, said.get("noun") or "", said.get("region") or "")
    return None


def with_noun(seen: list[Detection], found: ParsedQuestion, ontology: Ontology) -> list[Detection]:
    """The objects that the question's noun fits (a neutral noun, or a class's own kind); all when it names none."""
    if not found.noun:
        return seen
    nouns = {key for key, text in ontology.nouns.items() if text.get(found.lang) == found.noun}
    fits = {
        cls
        for cls, spec in ontology.classes.items()
        if nouns & set(spec.nouns) or spec.kind_text.get(found.lang) == found.noun
    }
    return [item for item in seen if item.cls in fits]


def in_box(sample: Sample, seen: list[Detection]) -> list[Detection] | None:
    """Objects that lie in the drawn box, all that it fits about as well as the best (intersection over union).

    The one in the middle comes first: the box reaches past its object on every side, and may take in a neighbour.
    None when it is not known where the box was drawn (a single JSONL file does not say).
    """
    if sample.box is None:
        return None
    with Image.open(sample.image) as picture:
        width, height = picture.size
    drawn = (sample.box[0] / width, sample.box[1] / height, sample.box[2] / width, sample.box[3] / height)
    scored = [(overlap(item.box, drawn), item) for item in seen]
    inside = [(iou, item) for (part, iou), item in scored if part >= INSIDE]
    best = max((iou for iou, _ in inside), default=0.0)

    wide, high = max(1e-9, drawn[2] - drawn[0]), max(1e-9, drawn[3] - drawn[1])

    def off(item: Detection) -> float:
        across: float = abs(item.box.x0 + item.box.x1 - drawn[0] - drawn[2]) / wide
        down: float = abs(item.box.y0 + item.box.y1 - drawn[1] - drawn[3]) / high
        return across + down

    near = sorted((item for iou, item in inside if iou >= ALIKE * best), key=off)
    rest = sorted((pair for pair in inside if pair[0] < ALIKE * best), key=lambda pair: -pair[0])
    return [*near, *(item for _, item in rest)]


def in_crop(sample: Sample, seen: list[Detection], frame: tuple[int, int] | None) -> list[Detection] | None:
    """Labels of the crop's own label's size in pixels, the nearest first: a crop does not say where it was cut.

    frame: width and height in pixels. None without it, and without the sample's box, which a built dataset has.
    """
    if sample.box is None or frame is None:
        return None
    x0, y0, x1, y1 = sample.box

    def off(item: Detection) -> float:
        wide, high = (item.box.x1 - item.box.x0) * frame[0], (item.box.y1 - item.box.y0) * frame[1]
        return abs(wide - (x1 - x0)) + abs(high - (y1 - y0))

    return sorted((item for item in seen if off(item) < 1.0), key=off)


def overlap(box: Box, other: tuple[float, float, float, float]) -> tuple[float, float]:
    """(part of `box` that lies in `other`, intersection over union)."""
    wide = max(0.0, min(box.x1, other[2]) - max(box.x0, other[0]))
    high = max(0.0, min(box.y1, other[3]) - max(box.y0, other[1]))
    area = max(1e-12, (box.x1 - box.x0) * (box.y1 - box.y0))
    union = area + (other[2] - other[0]) * (other[3] - other[1]) - wide * high
    return wide * high / area, wide * high / max(1e-12, union)


def p_of(seen: list[Detection], task: Task, step: str | None) -> float:
    """p_anomaly, above 0.5 exactly when the rule says so: of the best-fitting object, or of any object in the frame.

    What a text lists is detected, however low its confidence c; the rule says (1 + c) / 2 for an anomaly, (1 - c) / 2
    for a normal object, 0 where nothing is.
    """
    judged = [(item.confidence, task.ontology.verdict(item.cls, step) == "anomaly") for item in seen]
    if task.spec.picture == "frame":
        return max(((1 + confidence) / 2 for confidence, wrong in judged if wrong), default=0.0)
    return next(((1 + confidence) / 2 if wrong else (1 - confidence) / 2 for confidence, wrong in judged), 0.0)


def choose(sample: Sample, found: ParsedQuestion, key: str | None, p: Mapping[str, float] | None = None) -> Answer:
    """The letter whose text is what the bank calls `key`; p: probability of each key."""
    if key is None:
        return say("")
    first, second = options(sample)
    by_text = {text.get(found.lang): name for name, text in found.question.options.items()}
    letters: dict[str, Literal["A", "B"]] = {by_text[first]: "A", by_text[second]: "B"}
    if p is None:
        return say(letters[key])
    return say(letters[key], p[by_text[first]], p[by_text[second]])


def say_verdict(sample: Sample, found: ParsedQuestion, check: Check | None) -> Answer:
    """The verdict of a check, or the kinds of anomaly that it names and the verdict."""
    if check is None or check.verdict == "unknown":
        return say("")
    if found.question.kind == "choice":
        p = float(check.verdict == "anomaly")
        return choose(sample, found, check.verdict, {"anomaly": p, "normal": 1 - p})
    zh = found.lang == "zh"
    return say(wrong_text((check.anomaly_zh if zh else ()) or check.anomaly, found, check.verdict))


def in_region(box: Box, found: ParsedQuestion) -> bool:
    """Does an object lie in the region a question names? Always, when it names none."""
    regions = [key for key, text in found.question.regions.items() if text.get(found.lang) == found.region]
    return not regions or overlap(box, REGIONS[regions[0]])[0] >= CLEARLY


def half(seen: list[Detection], axis: str | None) -> str | None:
    """In which half the strongest object lies; None when there is none."""
    if not seen:
        return None
    best = max(seen, key=lambda item: item.confidence)
    middle = best.box.x0 + best.box.x1 if axis == "x" else best.box.y0 + best.box.y1
    return "low" if middle < 1.0 else "high"


def answer_template(found: ParsedQuestion, cls: str, task: Task) -> Text:
    """The bank's answer about a class: a question may be put about several, each with an answer of its own."""
    same = [one for one in task.bank.questions if one.kind == "open" and one.ask == found.question.ask]
    own = [one for one in same if one.classes is None or cls in one.classes]
    answer = (own or [found.question])[0].answer
    assert answer is not None
    return answer


def word(sample: Sample, found: ParsedQuestion, asked: list[Detection], task: Task) -> Answer:
    """Kind, state or fact of the asked object: the option that names it, or the bank's answer text."""
    for item in asked:
        spec = task.ontology.classes[item.cls]
        state = spec.state.get(found.lang) if spec.state else ""
        if found.question.kind == "choice":
            text = spec.kind_text.get(found.lang) if found.question.about == "kind" else state
            pair = options(sample)
            if text and text in pair:
                return say("A" if text == pair[0] else "B")
            continue
        fact = spec.facts.get(found.question.fact or "")
        values = {
            "kind": spec.kind_text.get(found.lang),
            "name": spec.name.get(found.lang),
            "state": state,
            "fact": fact.get(found.lang) if fact else "",
        }
        return say(render(answer_template(found, item.cls, task).get(found.lang), values))
    return say("")


def scene_text(found: ParsedQuestion, ontology: Ontology, step: str | None, seen: list[Detection]) -> str:
    """What is wrong, and the verdict; the rule does not describe the rest of the deck."""
    present = {item.cls for item in seen}
    wrong = [
        spec.name.get(found.lang)
        for cls, spec in ontology.classes.items()
        if cls in present and ontology.verdict(cls, step) == "anomaly"
    ]
    return wrong_text(wrong, found, "anomaly" if wrong else "normal")


def wrong_text(wrong: Sequence[str], found: ParsedQuestion, key: str) -> str:
    """What is wrong, then the verdict that the bank calls `key`."""
    verdict = found.question.options[key].get(found.lang)
    if found.lang == "zh":
        return f"异常项:{'、'.join(wrong) or '无'}。结论:{verdict}。"
    return f"Wrong: {', '.join(wrong) or 'nothing'}. Verdict: {verdict}."
