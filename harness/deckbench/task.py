"""Tasks: their schema, finding and loading them, and the version lock of what lies in `tasks/`.

A task combines a question bank (`questions.py`) with an ontology (`ontology.py`). It is a folder of yaml; no code
knows a task by name. What stages do differently is declared in `task.yaml` (`picture: crop | box | frame`, question
bank, options) and interpreted by `deckbench.build`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from deckbench.artifact import hash_json
from deckbench.errors import InputError
from deckbench.language import Text
from deckbench.ontology import Ontology, load_ontology
from deckbench.questions import Bank, ClassQuestion, bank_files, load_bank
from deckbench.resources import tasks_folder
from deckbench.scenetexts import FILE as SCENES
from deckbench.scenetexts import SceneTexts, read_scene_texts
from deckbench.schema import Strict, check
from deckbench.yamlfile import kind_of, read_document

TASK_FILE = "task.yaml"
LOCK_FILE = "versions.lock"
SEE = "see docs/tasks.md"
REF = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)@(?P<version>[0-9]+)$")
# Options that limit how many samples are made, not which: they do not change the task's name.
LIMITS = frozenset(
    {
        "max_train",
        "max_val",
        "max_test",
        "per_class_train",
        "per_class_val",
        "per_class_test",
        "max_boxes_per_frame",
    }
)


# What later versions added: no part of a definition that does not use it, so that older hashes stay.
LATER_OPTIONS = frozenset({"context"})
LATER_PROMPTS = frozenset({"check", "expected"})
# How much of a check stands in the question.
ContextLevel = Literal["none", "step", "step+check", "step+check+expected"]


class Options(Strict):
    """Task options: defaults here, then the task's own, then the caller's.

    max_train, max_val, max_test: maximum samples in a part (per language). per_class_*: maximum crops of a class.
    max_boxes_per_frame: maximum crops or drawn boxes from one frame. questions_per_picture: verdict questions about
    one drawn box (the phrasings alternate). kind_share: fraction of the drawn boxes that also get "which of these is
    it". box_style: `plain` draws every box alike; `source-lab` draws anomalies red and others green (it leaks the
    answer). box_margin: minimum and maximum random margin around the label's box, as a fraction of its size, plus 3 to
    11 pixels of a frame 704 wide. box_width: line width in pixels of a frame 704 wide. rotate_degrees, speckle:
    maximum random rotation (degrees) and multiplicative noise (standard deviation) of training crops. scene_counts:
    numbers in descriptions. presence: when presence and place are asked (`auto`: for an ontology without verdicts).
    context: what a question about a check says of it; empty: all. The samples are the same at each level.
    """

    max_train: int | None = Field(default=None, ge=1)
    max_val: int | None = Field(default=None, ge=1)
    max_test: int | None = Field(default=None, ge=1)
    per_class_train: int | None = Field(default=None, ge=1)
    per_class_val: int | None = Field(default=None, ge=1)
    per_class_test: int | None = Field(default=None, ge=1)
    max_boxes_per_frame: int = Field(default=4, ge=1)
    questions_per_picture: int = Field(default=2, ge=1)
    kind_share: float = Field(default=0.3, ge=0, le=1)
    box_style: Literal["plain", "source-lab"] = "plain"
    box_margin: tuple[float, float] = (0.0, 0.35)
    box_width: float = Field(default=3.0, gt=0, le=32)
    rotate_degrees: float = Field(default=0.0, ge=0, le=45)
    speckle: float = Field(default=0.0, ge=0, le=1)
    scene_counts: bool = False
    presence: Literal["auto", "always", "never"] = "auto"
    context: ContextLevel | None = None

    @model_validator(mode="after")
    def margin_in_order(self) -> Options:
        low, high = self.box_margin
        if not 0 <= low <= high <= 2:
            raise ValueError("box_margin: two numbers, 0 <= minimum <= maximum <= 2")
        return self

    def plain(self) -> dict[str, Any]:
        """The options as plain data, without later ones that are not set."""
        data = self.model_dump(mode="json")
        return {key: value for key, value in data.items() if value is not None or key not in LATER_OPTIONS}

    def most(self, split: str) -> int | None:
        value = {"train": self.max_train, "val": self.max_val, "test": self.max_test}[split]
        return value

    def per_class(self, split: str) -> int | None:
        return {"train": self.per_class_train, "val": self.per_class_val, "test": self.per_class_test}[split]


class PromptSpec(Strict):
    """Prompt templates. choice: from question, option_a, option_b; step: the line before it.

    check, expected: further lines before a question about a check, from the values of the same names; the line `step`
    of such a question has `step` and `phase`, one of which may be empty.
    """

    choice: Text
    step: Text
    check: Text | None = None
    expected: Text | None = None


class MetricSpec(Strict):
    """The headline metric of a score, and the columns that it is broken down by."""

    headline: str
    positive: str | None = None
    by: tuple[str, ...] = ()


class TaskSpec(Strict):
    """Schema of `task.yaml`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    version: int = Field(ge=1)
    stage: Literal["S1", "S2", "S3"]
    about: Text
    picture: Literal["crop", "box", "frame"]
    ontology: str
    questions: str = "questions.yaml"
    prompt: PromptSpec
    options: dict[str, Any] = Field(default_factory=dict)
    metrics: MetricSpec


@dataclass(frozen=True)
class Task:
    """A task ready to build: definition, ontology, questions and options.

    ref: `name@version`, with `+hash8` when ontology, questions or options are not the published ones. content_hash:
    sha256 over everything that decides the samples. scenes: written descriptions, in place of the bank's template.
    """

    ref: str
    spec: TaskSpec
    ontology: Ontology
    bank: Bank
    options: Options
    folder: Path
    content_hash: str
    scenes: SceneTexts | None = None

    @property
    def stage(self) -> str:
        return self.spec.stage

    @property
    def context(self) -> ContextLevel:
        """How much of a check stands in a question about it."""
        return self.options.context or "step+check+expected"

    def definition(self) -> dict[str, Any]:
        """Everything that decides what is asked, as plain data; `content_hash` is its canonical hash."""
        return _identity(self.spec, self.ontology, self.bank, self.options, self.scenes)


def hash_texts(folder: Path) -> str:
    """sha256 over the names and contents of a folder's files; line endings do not matter."""
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and "__pycache__" not in path.parts
    }
    return hash_json(files)


def published() -> dict[str, Path]:
    """Published tasks: `name@version` -> folder."""
    found = {}
    for path in sorted(tasks_folder().glob(f"*/v*/{TASK_FILE}")):
        if path.parent.name[1:].isdigit():
            found[f"{path.parent.parent.name}@{path.parent.name[1:]}"] = path.parent
    return found


def lock_entries() -> dict[str, str]:
    """The entries of versions.lock for the tasks as they are now."""
    entries = {ref: hash_texts(folder) for ref, folder in published().items()}
    for path in sorted((tasks_folder() / "ontology").glob("*.yaml")):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        entries[f"ontology/{path.stem}"] = hashlib.sha256(content).hexdigest()
    return dict(sorted(entries.items()))


def write_lock() -> None:
    """Write versions.lock. Only for a new version: a published one never changes."""
    head = "# sha256 of each published task version and ontology. A published one never changes: make a new version.\n"
    text = head + "".join(f"{digest}  {name}\n" for name, digest in lock_entries().items())
    (tasks_folder() / LOCK_FILE).write_text(text, encoding="utf-8")


def own_task(ref: str) -> Path | None:
    """The folder of a lab's own task; None for a published name, which goes first, and for what is no such folder."""
    return Path(ref) if ref not in published() and kind_of(Path(ref) / TASK_FILE) == "file" else None


def find_task(ref: str) -> Path:
    """The folder of `name@version`, or a path to a lab's own task folder. Raises InputError."""
    known = published()
    if ref in known:
        return known[ref]
    if own := own_task(ref):
        return own
    match = REF.match(ref)
    if not match:
        raise InputError(f"{ref!r} is not a task", None, f"write NAME@VERSION; there are {', '.join(known)}")
    versions = [key for key in known if key.startswith(f"{match['name']}@")]
    if versions:
        what = f"the task {match['name']!r} has no version {match['version']}"
        raise InputError(what, None, f"there are {', '.join(versions)}")
    raise InputError(f"there is no task {match['name']!r}", None, f"there are {', '.join(known)}")


def load_task(
    ref: str,
    *,
    ontology: Path | str | None = None,
    qa: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """Load a task with its ontology, question bank and options, all checked.

    Args:
        ref: `name@version` of a published task, or the path of a task folder.
        ontology: a lab's own ontology, by name or path, instead of the task's.
        qa: a lab's own question bank (file or folder) instead of the task's; a folder may hold `scenes.jsonl`, with or
            without questions.
        options: options that replace the task's.

    Returns:
        The task; `Task.ref` ends with `+hash8` where anything is not as published.

    Raises:
        InputError: nothing is found, or faults in one of the files: all of them, each with file and line.
    """
    folder = find_task(ref)
    path = folder / TASK_FILE
    document = read_document(path)
    spec = document.check(TaskSpec, SEE)
    name = f"{spec.name}@{spec.version}"
    bank_path = folder / spec.questions
    default_bank = load_bank(bank_path)
    own_file = folder / f"{spec.ontology}.yaml"
    default_ontology = load_ontology(own_file if kind_of(own_file) == "file" else spec.ontology)
    default_options = document.check(Options, SEE, at=("options",)) if spec.options else Options()

    own_ontology = load_ontology(ontology) if ontology is not None else default_ontology
    own_bank, scenes = (default_bank, None) if qa is None else _own_questions(Path(qa), default_bank, own_ontology)
    for question in own_bank.questions:
        for cls in question.classes or ():
            if cls not in own_ontology.classes:
                what = f"questions.{question.id}.classes: {cls!r} is not in the ontology {own_ontology.name!r}"
                raise InputError(what, qa or bank_path, f"its classes: {', '.join(own_ontology.classes)}")
    if own_bank.asks_checks and (spec.prompt.check is None or spec.prompt.expected is None):
        what = "questions about checks need the templates `prompt.check` and `prompt.expected`"
        raise InputError(what, document.where("prompt"), "see tasks/ot2-check/v1/task.yaml")
    merged = {**spec.options, **dict(options or {})}
    own_options = check(merged, Options, "options", SEE)

    default = _identity(spec, default_ontology, default_bank, default_options)
    own = _identity(spec, own_ontology, own_bank, own_options, scenes)
    digest = hash_json(own)
    official = published().get(name) == folder
    changed = own != default or not official
    return Task(
        ref=f"{name}+{digest[:8]}" if changed else name,
        spec=spec,
        ontology=own_ontology,
        bank=own_bank,
        options=own_options,
        folder=folder,
        content_hash=digest,
        scenes=scenes,
    )


def _own_questions(qa: Path, default: Bank, ontology: Ontology) -> tuple[Bank, SceneTexts | None]:
    """(the bank at `qa`, the task's own where there are only scene texts; the scene texts). Raises InputError."""
    scenes = read_scene_texts(qa / SCENES) if kind_of(qa / SCENES) == "file" else None
    if scenes is not None and not bank_files(qa):
        return default, scenes
    bank = load_bank(qa)
    questions = [_of_class(one, ontology) if isinstance(one, ClassQuestion) else one for one in bank.questions]
    # A verdict question in the files of several classes is one: its answer is a label's, not a class's.
    seen = set()
    kept = []
    for question in questions:
        content = question.model_dump_json(exclude={"id", "source", "where", "only", "right"})
        if question.about != "verdict" or content not in seen:
            kept.append(question)
        seen.add(content)
    return bank.model_copy(update={"questions": tuple(kept)}), scenes


def _of_class(question: ClassQuestion, ontology: Ontology) -> ClassQuestion:
    """A question from a class's file with the classes that it is put about.

    A verdict question has twins, which share a noun: it is put about all classes that may be called by the class's own.
    Raises InputError where there is no such class, or the stated answer contradicts the ontology.
    """
    cls = ontology.class_of(question.source)
    if cls is None:
        what = f"{question.source!r} is not a class of the ontology {ontology.name!r}"
        raise InputError(what, question.where, f"name the file after one of {', '.join(ontology.classes)}")
    if question.about != "verdict":
        return question.model_copy(update={"classes": (cls,)})
    spec = ontology.classes[cls]
    if spec.verdict in {"normal", "anomaly"} and question.right not in {None, spec.verdict}:
        stated = question.options[str(question.right)].en
        what = f"the answer {stated!r} means {question.right}, and the ontology says that {cls!r} is {spec.verdict}"
        raise InputError(what, question.where, "correct the answer, or exchange the options")
    noun = spec.nouns[0]
    return question.model_copy(
        update={"classes": tuple(name for name, other in ontology.classes.items() if noun in other.nouns)}
    )


def _identity(
    spec: TaskSpec, ontology: Ontology, bank: Bank, options: Options, scenes: SceneTexts | None = None
) -> dict[str, Any]:
    """Everything that decides the samples, as plain data."""
    kept = {key: value for key, value in options.plain().items() if key not in LIMITS}
    plain = spec.model_dump(mode="json", exclude={"options"})
    plain["prompt"] = {
        key: value for key, value in plain["prompt"].items() if value is not None or key not in LATER_PROMPTS
    }
    return {
        "spec": plain,
        "ontology": ontology.model_dump(mode="json"),
        "questions": bank.model_dump(mode="json"),
        "options": kept,
        **({} if scenes is None else {"scenes": scenes.content_hash}),
    }
