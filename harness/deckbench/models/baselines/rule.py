"""A detector and a rule: the ontology applied to labels, or to the YOLO texts a detector wrote. No picture is read.

With the pool's own labels (`rule:gold`) this is the ceiling of the task: what a perfect detector would score. With a
detector's output it answers "why not a detector and a rule?".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from deckbench import artifact
from deckbench.dataset import Sample
from deckbench.errors import InputError
from deckbench.models.baselines.base import Baseline, dataset_of, options, say
from deckbench.models.interface import Answer
from deckbench.ontology import Ontology, map_classes
from deckbench.picture import SUFFIXES
from deckbench.questions import REGIONS, BankQuestion, render
from deckbench.task import Task, load_task
from deckbench.yamlfile import LANGS, Lang
from deckbench.yolo.frame import Box
from deckbench.yolo.labels import RowError, parse_row

FILLED = ("noun", "region", "kind", "state", "name", "fact", "verdict", "step")
INSIDE = 0.85  # part of a label that must lie in the drawn box to be what is asked about
ALIKE = 0.6  # part of the best overlap that a neighbour must have to be taken for the object too
CLEARLY = 0.5  # part of a label that must lie in a region to be in it


@dataclass(frozen=True)
class Seen:
    """One labelled or detected object. cls: of the ontology; confidence: 1 where the text states none."""

    cls: str
    box: Box
    confidence: float


@dataclass(frozen=True)
class Understood:
    """A sample's question, found in its task's bank."""

    question: BankQuestion
    lang: Lang
    noun: str = ""
    region: str = ""


class Rule(Baseline):
    """Answers verdict, kind, state, presence, place and open questions from labels.

    folder: a pool (a folder with a dataset yaml), or a folder of YOLO texts `class cx cy w h [confidence]` named after
    the frames; None: the pool the asked dataset was built from. What it cannot say it answers with nothing.
    """

    def __init__(self, folder: Path | None, *, ontology: Path | None = None) -> None:
        self.folder = folder
        self.named = folder is not None
        self.own_ontology = ontology
        self.name = "rule:gold" if folder is None else f"rule:{folder.resolve().name}"
        self.seen: dict[str, list[Seen]] = {}
        if folder is not None and not folder.is_dir():
            raise InputError(
                "not found; a folder of YOLO label texts is expected here", folder, "rule:gold or rule:DIR"
            )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The labels' hash where a folder was named; `rule:gold` is decided by the asked dataset."""
        if not self.named:
            return {"name": self.name}
        texts = {path.relative_to(self.root).as_posix(): artifact.hash_file(path) for path in self.texts}
        return {"name": self.name, "labels": artifact.hash_json(texts)}

    def answer_samples(self, samples: Sequence[Sample]) -> list[Answer]:
        """One answer per sample. Raises InputError when the labels are missing or broken (with file and line)."""
        if samples and self.folder is None:
            self.folder = pool_of(samples[0])
        return [self.answer_one(sample) for sample in samples]

    # Labels

    @property
    def root(self) -> Path:
        if self.folder is None:
            raise InputError("it is not known which pool the dataset was built from", "model", "name it: rule:POOL")
        return self.folder

    @cached_property
    def texts(self) -> list[Path]:
        """All label texts below the folder. Raises InputError when there is none."""
        found = sorted(path for path in self.root.rglob("*.txt") if path.name not in {"classes.txt", "notes.txt"})
        if not found:
            raise InputError("the folder holds no label texts", self.root, "YOLO texts named after the frames")
        return found

    @cached_property
    def by_name(self) -> dict[str, Path | None]:
        """File stem, and path below the folder without ending -> text; None: several texts have that stem."""
        found: dict[str, Path | None] = {}
        for path in self.texts:
            found[path.stem] = None if path.stem in found else path
        for path in self.texts:
            found[path.relative_to(self.root).with_suffix("").as_posix()] = path
        return found

    def text_of(self, frame: str) -> Path | None:
        """The label text of a frame; None: nothing was labelled or detected there. Raises InputError when in doubt."""
        parts = frame.split("/")
        swapped = list(parts)
        if "images" in parts:
            swapped[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        for name in ("/".join(swapped), frame, "/".join(swapped[1:]), parts[-1]):
            if name in self.by_name:
                path = self.by_name[name]
                if path is None:
                    raise InputError(
                        f"several label texts are named {name}.txt, one is needed for the frame {frame!r}",
                        self.root,
                        "keep the folders of the frames",
                    )
                return path
        return None

    @cached_property
    def names(self) -> tuple[str, ...] | None:
        """Class names by number: of the pool's yaml in or above the folder, else of `classes.txt`; else None."""
        from deckbench.yolo.dataset_yaml import find_yaml, load, read_names

        for folder in (self.root, *self.root.resolve().parents[:2]):
            try:
                file, _ = find_yaml(folder)
            except InputError:
                continue
            return read_names(load(file), file)[0]
        listed = self.root / "classes.txt"
        if not listed.is_file():
            return None
        try:
            lines = listed.read_text(encoding="utf-8-sig").rstrip().splitlines()
        except UnicodeDecodeError as error:
            raise InputError("the class names are not UTF-8", listed, "save the file as UTF-8") from error
        return tuple(line.strip() for line in lines)

    def objects(self, frame: str, ontology: Ontology) -> list[Seen]:
        """What is labelled in a frame, read once."""
        if frame not in self.seen:
            path = self.text_of(frame)
            names = self.names or tuple(ontology.classes)
            self.seen[frame] = [] if path is None else read_objects(path, names, ontology)
        return self.seen[frame]

    # Answers

    def answer_one(self, sample: Sample) -> Answer:
        """The answer to one sample; an empty text where labels do not say."""
        task = task_of(sample.task or "", self.own_ontology)
        found = understand(task, sample)
        if found is None or sample.frame is None:
            return say("")
        seen = self.objects(sample.frame, task.ontology)
        asked = with_noun(seen, found, task.ontology)
        if task.spec.picture == "box":
            found_there = in_box(sample, asked)
        elif task.spec.picture == "crop":
            found_there = self.in_crop(sample, asked)
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
        return word(sample, found, asked, task.ontology)

    def in_crop(self, sample: Sample, seen: list[Seen]) -> list[Seen] | None:
        """Labels of the crop's own label's size in pixels, the nearest first: a crop does not say where it was cut.

        Needs the sample's box and the frame's size, so a built dataset and a pool; None without.
        """
        size = self.frame_size(str(sample.frame))
        if sample.box is None or size is None:
            return None
        x0, y0, x1, y1 = sample.box

        def off(item: Seen) -> float:
            wide, high = (item.box.x1 - item.box.x0) * size[0], (item.box.y1 - item.box.y0) * size[1]
            return abs(wide - (x1 - x0)) + abs(high - (y1 - y0))

        return sorted((item for item in seen if off(item) < 1.0), key=off)

    def frame_size(self, frame: str) -> tuple[int, int] | None:
        """Width and height of the pool's picture, None when the folder holds labels only."""
        for suffix in sorted(SUFFIXES):
            for ending in (suffix, suffix.upper()):
                path = self.root / f"{frame}{ending}"
                if path.is_file():
                    with Image.open(path) as picture:
                        turned = picture.getexif().get(0x0112, 1) in {5, 6, 7, 8}
                        width, height = picture.size
                        return (height, width) if turned else (width, height)
        return None


def pool_of(sample: Sample) -> Path | None:
    """The pool a sample's dataset says it was built from, if it is still there."""
    folder = dataset_of(sample)
    if folder is None or not (folder / artifact.MANIFEST).is_file():
        return None
    place = artifact.read(folder).observed.get("pool")
    path = Path(place) if isinstance(place, str) else None
    if path is not None and path.is_file():
        path = path.parent
    return path if path is not None and path.is_dir() else None


@lru_cache(maxsize=16)
def task_of(ref: str, ontology: Path | None) -> Task:
    """The task of a sample (`name@1+hash`: the published one it came from), with the given ontology. Raises InputError.

    A lab's own questions are not understood and stay unanswered; its own classes need its own ontology.
    """
    base = ref.partition("+")[0]
    if not base:
        raise InputError("the samples do not say which task they belong to", "task", "rule needs a built dataset")
    return load_task(base, ontology=ontology)


def read_objects(path: Path, names: tuple[str, ...], ontology: Ontology) -> list[Seen]:
    """The objects of one YOLO text. Raises InputError with file and line."""
    rows: list[tuple[Box, float]] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"the label text cannot be read ({type(error).__name__})", path, "save it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if not cells:
            continue
        confidence = 1.0
        if len(cells) % 2 == 0:  # an even count of cells: the last one is the confidence
            try:
                confidence = float(cells.pop())
            except ValueError:
                confidence = -1.0
            if not 0 <= confidence <= 1:
                raise InputError("the confidence is not a number from 0 to 1", f"{path}:{number}", "fix the row")
        try:
            box, _ = parse_row(" ".join(cells), names, number)
        except RowError as error:
            raise InputError(str(error), f"{path}:{number}", "a row is: class cx cy w h [confidence]") from error
        rows.append((box, confidence))
    classes = map_classes(names, [box.cls for box, _ in rows], ontology, path)
    return [Seen(classes[box.cls], box, confidence) for box, confidence in rows]


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


def understand(task: Task, sample: Sample) -> Understood | None:
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
                    return Understood(question, lang, said.get("noun") or "", said.get("region") or "")
    return None


def with_noun(seen: list[Seen], found: Understood, ontology: Ontology) -> list[Seen]:
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


def in_box(sample: Sample, seen: list[Seen]) -> list[Seen] | None:
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

    def off(item: Seen) -> float:
        across: float = abs(item.box.x0 + item.box.x1 - drawn[0] - drawn[2]) / wide
        down: float = abs(item.box.y0 + item.box.y1 - drawn[1] - drawn[3]) / high
        return across + down

    near = sorted((item for iou, item in inside if iou >= ALIKE * best), key=off)
    rest = sorted((pair for pair in inside if pair[0] < ALIKE * best), key=lambda pair: -pair[0])
    return [*near, *(item for _, item in rest)]


def overlap(box: Box, other: tuple[float, float, float, float]) -> tuple[float, float]:
    """(part of `box` that lies in `other`, intersection over union)."""
    wide = max(0.0, min(box.x1, other[2]) - max(box.x0, other[0]))
    high = max(0.0, min(box.y1, other[3]) - max(box.y0, other[1]))
    area = max(1e-12, (box.x1 - box.x0) * (box.y1 - box.y0))
    union = area + (other[2] - other[0]) * (other[3] - other[1]) - wide * high
    return wide * high / area, wide * high / max(1e-12, union)


def p_of(seen: list[Seen], task: Task, step: str | None) -> float:
    """p_anomaly, above 0.5 exactly when the rule says so: of the best-fitting object, or of any object in the frame.

    What a text lists is detected, however low its confidence c; the rule says (1 + c) / 2 for an anomaly, (1 - c) / 2
    for a normal object, 0 where nothing is.
    """
    judged = [(item.confidence, task.ontology.verdict(item.cls, step) == "anomaly") for item in seen]
    if task.spec.picture == "frame":
        return max(((1 + confidence) / 2 for confidence, wrong in judged if wrong), default=0.0)
    return next(((1 + confidence) / 2 if wrong else (1 - confidence) / 2 for confidence, wrong in judged), 0.0)


def choose(sample: Sample, found: Understood, key: str | None, p: Mapping[str, float] | None = None) -> Answer:
    """The letter whose text is what the bank calls `key`; p: probability of each key."""
    if key is None:
        return say("")
    first, second = options(sample)
    by_text = {text.get(found.lang): name for name, text in found.question.options.items()}
    letters: dict[str, Literal["A", "B"]] = {by_text[first]: "A", by_text[second]: "B"}
    if p is None:
        return say(letters[key])
    return say(letters[key], p[by_text[first]], p[by_text[second]])


def in_region(box: Box, found: Understood) -> bool:
    """Does an object lie in the region a question names? Always, when it names none."""
    regions = [key for key, text in found.question.regions.items() if text.get(found.lang) == found.region]
    return not regions or overlap(box, REGIONS[regions[0]])[0] >= CLEARLY


def half(seen: list[Seen], axis: str | None) -> str | None:
    """In which half the strongest object lies; None when there is none."""
    if not seen:
        return None
    best = max(seen, key=lambda item: item.confidence)
    middle = best.box.x0 + best.box.x1 if axis == "x" else best.box.y0 + best.box.y1
    return "low" if middle < 1.0 else "high"


def word(sample: Sample, found: Understood, asked: list[Seen], ontology: Ontology) -> Answer:
    """Kind, state or fact of the asked object: the option that names it, or the bank's answer text."""
    for item in asked:
        spec = ontology.classes[item.cls]
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
        assert found.question.answer is not None
        return say(render(found.question.answer.get(found.lang), values))
    return say("")


def scene_text(found: Understood, ontology: Ontology, step: str | None, seen: list[Seen]) -> str:
    """What is wrong, and the verdict; the rule does not describe the rest of the deck."""
    present = {item.cls for item in seen}
    wrong = [
        spec.name.get(found.lang)
        for cls, spec in ontology.classes.items()
        if cls in present and ontology.verdict(cls, step) == "anomaly"
    ]
    verdict = found.question.options["anomaly" if wrong else "normal"].get(found.lang)
    if found.lang == "zh":
        return f"异常项:{'、'.join(wrong) or '无'}。结论:{verdict}。"
    return f"Wrong: {', '.join(wrong) or 'nothing'}. Verdict: {verdict}."
