"""Tasks, ontologies and question banks: what lies in `tasks/`, its schemas, loaders and version lock.

A task is a folder of yaml; nothing here knows a task by name. What stages do differently is declared in `task.yaml`
(`picture: crop | box | frame`, question bank, options) and interpreted by `deckbench.build`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deckbench.artifact import hash_json
from deckbench.dataset import csv_records
from deckbench.errors import InputError
from deckbench.resources import tasks_folder

if TYPE_CHECKING:
    import jinja2

Lang = Literal["en", "zh"]
LANGS: tuple[Lang, ...] = ("en", "zh")
Verdict = Literal["normal", "anomaly"]
TASK_FILE = "task.yaml"
LOCK_FILE = "versions.lock"
REF = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)@(?P<version>[0-9]+)$")
# Options that only say how much is made, not what: they do not change the task's name.
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


class Strict(BaseModel):
    """A schema that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Text(Strict):
    """One text in every language DeckBench speaks."""

    en: str = Field(min_length=1)
    zh: str = Field(min_length=1)

    def get(self, lang: Lang) -> str:
        return self.en if lang == "en" else self.zh


# ---- ontology


class CropSpec(Strict):
    """margin: part of the box's side added on each side. min_size: least side of a crop, in pixels of the frame."""

    margin: float = Field(default=0.15, ge=0, le=2)
    min_size: int = Field(default=48, ge=8, le=4096)


class ClassSpec(Strict):
    """What one class of a pool means.

    name: what it is called in a verdict ("damaged tip"). aliases: other spellings in pools (case, blanks, "-" and "_"
    never matter). kind: what sort of thing it is, where that is not the name. state: the state the class stands for.
    nouns: neutral words for it (keys of the ontology's `nouns`), the main one first. verdict: whether it is normal or
    an anomaly, or depends on the step (`anomaly_at`); empty: the class is judged neither way. without_step: what a
    class that depends on the step counts as when no step is known. overlaps: classes whose kind may equally be said
    of this one, never offered as the other option. local: whether a crop alone shows it. decoy: its normal counterpart
    has no label, so boxes where it is not are made. scene: whether scene descriptions mention it. facts: short
    statements by key, for open questions.
    """

    name: Text
    aliases: tuple[str, ...] = ()
    kind: Text | None = None
    state: Text | None = None
    nouns: tuple[str, ...] = Field(min_length=1)
    verdict: Literal["normal", "anomaly", "depends"] | None = None
    anomaly_at: tuple[str, ...] = ()
    without_step: Literal["normal", "anomaly", "unknown"] = "unknown"
    overlaps: tuple[str, ...] = ()
    local: bool = True
    decoy: bool = False
    scene: bool = True
    facts: dict[str, Text] = Field(default_factory=dict)
    crop: CropSpec = CropSpec()

    @property
    def kind_text(self) -> Text:
        return self.kind or self.name

    @model_validator(mode="after")
    def steps_fit_verdict(self) -> ClassSpec:
        if (self.verdict == "depends") != bool(self.anomaly_at):
            raise ValueError("`anomaly_at` goes with `verdict: depends`, and only with it")
        return self


class Ontology(Strict):
    """What the classes of a pool mean. exhaustive: every instance of all (or of the named) classes is labelled."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    about: Text
    exhaustive: bool | tuple[str, ...] = False
    nouns: dict[str, Text] = Field(min_length=1)
    steps: dict[str, Text] = Field(default_factory=dict)
    classes: dict[str, ClassSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def names_exist(self) -> Ontology:
        for name, spec in self.classes.items():
            for field, used, known in (
                ("nouns", spec.nouns, self.nouns),
                ("anomaly_at", spec.anomaly_at, self.steps),
                ("overlaps", spec.overlaps, self.classes),
            ):
                for word in used:
                    if word not in known:
                        raise ValueError(f"classes.{name}.{field}: {word!r} is not defined")
        if not isinstance(self.exhaustive, bool):
            for word in self.exhaustive:
                if word not in self.classes:
                    raise ValueError(f"exhaustive: {word!r} is not a class")
        spellings: dict[str, str] = {}
        for name, spec in self.classes.items():
            for word in {plain_name(word) for word in (name, *spec.aliases)}:
                if spellings.setdefault(word, name) != name:
                    raise ValueError(f"classes.{name}: {word!r} is also a spelling of {spellings[word]!r}")
        return self

    @cached_property
    def spellings(self) -> dict[str, str]:
        """Plain spelling -> class."""
        return {plain_name(word): name for name, spec in self.classes.items() for word in (name, *spec.aliases)}

    @cached_property
    def step_spellings(self) -> dict[str, str]:
        """Plain spelling -> step."""
        return {plain_name(step): step for step in self.steps}

    def class_of(self, name: str) -> str | None:
        """The class that a name means, by any of its spellings; None when there is none."""
        return name if name in self.classes else self.spellings.get(plain_name(name))

    @property
    def judges(self) -> bool:
        """Whether any class has a verdict."""
        return any(spec.verdict for spec in self.classes.values())

    def is_exhaustive(self, cls: str) -> bool:
        return self.exhaustive if isinstance(self.exhaustive, bool) else cls in self.exhaustive

    def verdict(self, cls: str, step: str | None) -> Verdict | None:
        """Whether class `cls` is normal or an anomaly at `step`; None: unknown, or not judged.

        A step that the ontology does not define is an unknown step.
        """
        spec = self.classes[cls]
        if spec.verdict != "depends":
            return spec.verdict
        known = None if step is None else self.step_spellings.get(plain_name(step))
        if known is None:
            return None if spec.without_step == "unknown" else spec.without_step
        return "anomaly" if known in spec.anomaly_at else "normal"

    def step_matters(self, noun: str) -> bool:
        """Whether the verdict on some class with this noun depends on the step."""
        return any(spec.verdict == "depends" and noun in spec.nouns for spec in self.classes.values())

    def overlap(self, first: str, second: str) -> bool:
        """Whether the kind of one may equally be said of the other."""
        a, b = self.classes[first], self.classes[second]
        one, two = a.kind_text, b.kind_text
        return one.en == two.en or one.zh == two.zh or second in a.overlaps or first in b.overlaps


@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """A name of a class or a step without case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


# ---- questions


class BankQuestion(Strict):
    """One question of a bank. Texts are Jinja templates.

    about: what the answer depends on. kind, state: the class's kind or state; fact: one of its facts; verdict: normal
    or anomaly; scene: the whole description; presence: is a class there; place: in which half it is (`axis`).
    options: what the two values are called (normal/anomaly, present/absent, low/high); kind and state questions take
    theirs from the ontology. regions: where presence is asked for. classes: ask only about these.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    kind: Literal["choice", "open", "scene"]
    about: Literal["kind", "state", "fact", "verdict", "scene", "presence", "place"]
    ask: Text
    answer: Text | None = None
    options: dict[str, Text] = Field(default_factory=dict)
    fact: str | None = None
    axis: Literal["x", "y"] | None = None
    regions: dict[str, Text] = Field(default_factory=dict)
    classes: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def fields_fit(self) -> BankQuestion:
        allowed = {
            "open": {"kind", "state", "fact"},
            "choice": {"kind", "state", "verdict", "presence", "place"},
            "scene": {"scene"},
        }
        if self.about not in allowed[self.kind]:
            raise ValueError(f"a question of kind {self.kind!r} cannot be about {self.about!r}")
        if (self.answer is None) != (self.kind == "choice"):
            raise ValueError("open and scene questions need `answer`; choice questions have none")
        keys = OPTION_KEYS.get(self.about, ())
        if set(self.options) != set(keys):
            raise ValueError(f"`options` must have exactly: {', '.join(keys) or 'nothing'}")
        for lang in LANGS:
            texts = [self.options[key].get(lang) for key in keys]
            if len(set(texts)) != len(texts):
                raise ValueError(f"the two options have the same text ({lang})")
        if (self.fact is None) == (self.about == "fact"):
            raise ValueError("`fact` goes with `about: fact`, and only with it")
        if (self.axis is None) == (self.about == "place"):
            raise ValueError("`axis` goes with `about: place`, and only with it")
        for region in self.regions:
            if region not in REGIONS:
                raise ValueError(f"regions.{region}: unknown; there are {', '.join(REGIONS)}")
        if self.about == "presence" and not self.regions and "region" in self.ask.en:
            raise ValueError("the question names a region, so `regions` is needed")
        return self


OPTION_KEYS: dict[str, tuple[str, str]] = {
    "verdict": ("normal", "anomaly"),
    "scene": ("normal", "anomaly"),
    "presence": ("present", "absent"),
    "place": ("low", "high"),
}
# Region -> x0 y0 x1 y1 of the frame, normalised.
REGIONS: dict[str, tuple[float, float, float, float]] = {
    "picture": (0.0, 0.0, 1.0, 1.0),
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 1.0, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 1.0),
    "top_left": (0.0, 0.0, 0.5, 0.5),
    "top_right": (0.5, 0.0, 1.0, 0.5),
    "bottom_left": (0.0, 0.5, 0.5, 1.0),
    "bottom_right": (0.5, 0.5, 1.0, 1.0),
}


class Bank(Strict):
    """A question bank: `questions.yaml`, or the rows of CSV files."""

    questions: tuple[BankQuestion, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def ids_unique(self) -> Bank:
        seen: set[str] = set()
        for question in self.questions:
            if question.id in seen:
                raise ValueError(f"the id {question.id!r} occurs twice")
            seen.add(question.id)
        return self


# ---- task


class Options(Strict):
    """Task options: defaults here, then the task's own, then the caller's.

    max_train, max_val, max_test: most samples in a part (one language). per_class_*: most crops of a class.
    max_boxes_per_frame: most crops or drawn boxes from one frame. questions_per_picture: verdict questions asked about
    one drawn box (the phrasings take turns). kind_share: part of the drawn boxes also asked "which of these is it".
    box_style: `plain` draws every box alike; `source-lab` draws anomalies red and others green (it leaks the answer).
    box_margin: least and most random margin around the label's box, as part of its size, plus 3 to 11
    pixels of a frame 704 wide.
    box_width: line width in
    pixels of a frame 704 wide. rotate_degrees, speckle: random rotation (up to so many
    degrees) and multiplicative noise (standard deviation) of training crops. scene_counts: numbers in descriptions.
    presence: when presence and place are asked (`auto`: for an ontology that judges nothing).
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

    @model_validator(mode="after")
    def margin_in_order(self) -> Options:
        low, high = self.box_margin
        if not 0 <= low <= high <= 2:
            raise ValueError("box_margin: two numbers, 0 <= least <= most <= 2")
        return self

    def most(self, split: str) -> int | None:
        value = {"train": self.max_train, "val": self.max_val, "test": self.max_test}[split]
        return value

    def per_class(self, split: str) -> int | None:
        return {"train": self.per_class_train, "val": self.per_class_val, "test": self.per_class_test}[split]


class PromptSpec(Strict):
    """How a question is put. choice: from question, option_a, option_b; step: the line before it."""

    choice: Text
    step: Text


class MetricSpec(Strict):
    """What a score's headline is, and what it is broken down by."""

    headline: str
    positive: str | None = None
    by: tuple[str, ...] = ()


class TaskSpec(Strict):
    """`task.yaml`."""

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
    sha256 over everything that decides what is asked.
    """

    ref: str
    spec: TaskSpec
    ontology: Ontology
    bank: Bank
    options: Options
    folder: Path
    content_hash: str

    @property
    def stage(self) -> str:
        return self.spec.stage


# ---- reading yaml


class _Loader(yaml.SafeLoader):
    """Plain yaml that refuses a key given twice (yaml itself silently keeps the last)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool) or key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} occurs twice", key_node.start_mark)
        seen.add(key)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)

Schema = TypeVar("Schema", bound=BaseModel)


def _line_of(text: str, place: Sequence[int | str]) -> int:
    """The line (from 1) in which the field at `place` stands, or the nearest one above it that exists."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    line = 1
    for part in place:
        found = None
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                if key_node.value == str(part):
                    line, found = key_node.start_mark.line + 1, value_node
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node.value[part]
            line = found.start_mark.line + 1
        if found is None:
            break
        node = found
    return line


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises InputError when it is missing, a folder, or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8", path, "save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path, "check the path") from error


def read_yaml(path: Path, schema: type[Schema]) -> Schema:
    """A yaml file checked against a schema. Raises InputError with file, line and field."""
    text = read_text(path)
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"not valid yaml: {error.problem}", f"{path}:{line}", "mend this line") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"not valid yaml: {error}", path, "mend the file") from error
    if not isinstance(data, dict):
        raise InputError("a map of fields is expected", path, "see docs/tasks.md")
    return check(data, schema, path, text)


def check(data: Any, schema: type[Schema], path: Path | str, text: str | None = None) -> Schema:
    """`data` as `schema`. Raises InputError naming the field (and, with the yaml `text`, its line)."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        fault = error.errors()[0]
        loc = [part for part in fault["loc"] if part != "function-after"]
        field = ".".join(str(part) for part in loc)
        where = f"{path}:{_line_of(text, loc)}" if text is not None else str(path)
        said = "unknown field" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
        mend = f"known fields: {', '.join(schema.model_fields)}" if len(loc) <= 1 else "see docs/tasks.md"
        raise InputError(f"{field}: {said}" if field else said, where, mend) from error


# ---- loading


def hash_texts(folder: Path) -> str:
    """sha256 over the names and contents of a folder's files; line ends do not matter."""
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and "__pycache__" not in path.parts
    }
    return hash_json(files)


def published() -> dict[str, Path]:
    """Every published task: `name@version` -> folder."""
    found = {}
    for path in sorted(tasks_folder().glob(f"*/v*/{TASK_FILE}")):
        if path.parent.name[1:].isdigit():
            found[f"{path.parent.parent.name}@{path.parent.name[1:]}"] = path.parent
    return found


def read_lock() -> dict[str, str]:
    """versions.lock: `name@version` or `ontology/NAME` -> sha256."""
    lines = read_text(tasks_folder() / LOCK_FILE).splitlines()
    return dict(line.split()[::-1] for line in lines if line.strip() and not line.startswith("#"))


def lock_entries() -> dict[str, str]:
    """What versions.lock must hold for the tasks as they are now."""
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


def find_task(ref: str) -> Path:
    """The folder of `name@version`, or of a path to a task folder of one's own. Raises InputError."""
    known = published()
    if ref in known:
        return known[ref]
    own = Path(ref)
    if (own / TASK_FILE).is_file():
        return own
    match = REF.match(ref)
    if not match:
        raise InputError(f"{ref!r} is not a task", None, f"write NAME@VERSION; there are {', '.join(known)}")
    versions = [key for key in known if key.startswith(f"{match['name']}@")]
    if versions:
        what = f"the task {match['name']!r} has no version {match['version']}"
        raise InputError(what, None, f"there are {', '.join(versions)}")
    raise InputError(f"there is no task {match['name']!r}", None, f"there are {', '.join(known)}")


def load_ontology(ref: str | Path) -> Ontology:
    """An ontology by path, or by the name of one in tasks/ontology. Raises InputError."""
    return read_yaml(_ontology_path(ref), Ontology)


def _ontology_path(ref: str | Path) -> Path:
    path = Path(ref)
    if path.is_file():
        return path
    folder = tasks_folder() / "ontology"
    if path.name == str(ref) and (folder / f"{path.stem}.yaml").is_file():
        return folder / f"{path.stem}.yaml"
    known = ", ".join(sorted(entry.stem for entry in folder.glob("*.yaml")))
    raise InputError("no such ontology", path, f"give a yaml file, or one of {known}")


def load_bank(path: Path) -> Bank:
    """A question bank: a yaml file, a CSV file, or a folder of them. Raises InputError with file and line.

    CSV columns: id, kind, about, ask_en, ask_zh, and as needed answer_en, answer_zh, fact, classes (";"-joined) and
    KEY_en, KEY_zh for each option KEY.
    """
    if path.is_dir():
        files = sorted([*path.glob("*.yaml"), *path.glob("*.csv")])
        if not files:
            raise InputError("the folder holds no question bank", path, "a bank is a .yaml or a .csv file")
    elif path.is_file():
        files = [path]
    else:
        raise InputError("no such question bank", path, "give a folder, a .yaml or a .csv file")
    questions: list[BankQuestion] = []
    for file in files:
        if file.suffix == ".csv":
            questions += _csv_bank(file)
        elif file.suffix == ".yaml":
            questions += read_yaml(file, Bank).questions
        else:
            raise InputError("a .yaml or .csv file is expected", file, "see docs/tasks.md")
    bank = check({"questions": [question.model_dump() for question in questions]}, Bank, path)
    for question in bank.questions:
        _try_templates(question, path)
    return bank


def _csv_bank(path: Path) -> list[BankQuestion]:
    found = []
    seen: set[str] = set()
    plain = {"id", "kind", "about", "fact", "axis", "classes"}
    for number, record in csv_records(path, required=("id", "kind", "about", "ask_en", "ask_zh")):
        where = f"{path}:{number}"
        data: dict[str, Any] = {}
        options: dict[str, dict[str, str]] = {}
        for column, cell in record.items():
            key, _, lang = column.rpartition("_")
            if not cell:
                continue
            if column == "classes":
                data["classes"] = tuple(part.strip() for part in cell.split(";"))
            elif column in plain:
                data[column] = cell
            elif lang in LANGS and key in {"ask", "answer"}:
                data.setdefault(key, {})[lang] = cell
            elif lang in LANGS and key in {word for pair in OPTION_KEYS.values() for word in pair}:
                options.setdefault(key, {})[lang] = cell
            else:
                raise InputError(f"unknown column {column!r}", f"{path}:1", "see docs/tasks.md")
        if options:
            data["options"] = options
        question = check(data, BankQuestion, where)
        if question.id in seen:
            raise InputError(f"the id {question.id!r} occurs twice", where, "ids are unique in a bank")
        seen.add(question.id)
        found.append(question)
    return found


def _try_templates(question: BankQuestion, path: Path) -> None:
    """Render each template once with stand-in values, so that a typo is found before anything is built."""
    values = dict.fromkeys(("kind", "state", "noun", "region", "fact", "name", "verdict", "step"), "x")
    context = {**values, "parts": [{"noun": "x", "states": ["x"]}], "wrong": ["x"]}
    for name, text in (("ask", question.ask), ("answer", question.answer)):
        for lang in LANGS:
            if text is not None:
                where = f"{path}: questions.{question.id}.{name}.{lang}"
                if not render(text.get(lang), context, where).strip():
                    raise InputError("the text is empty", where, "write something there")


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)


@lru_cache(maxsize=512)
def _template(source: str) -> jinja2.Template:
    return _environment().from_string(source)


def render(source: str, values: Mapping[str, Any], where: str = "template") -> str:
    """A template with its values, in a sandbox. Raises InputError when it is broken or uses an unknown value."""
    import jinja2

    try:
        return _template(source).render(values)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"the template fails: {error}", where, "see docs/tasks.md for the values it may use"
        ) from error


def load_task(
    ref: str,
    *,
    ontology: Path | str | None = None,
    qa: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """A task with its ontology, question bank and options, all checked.

    ontology, qa: a lab's own instead of the published ones. options: over the task's own. What is not as published
    shows in `Task.ref` as `+hash8`. Raises InputError.
    """
    folder = find_task(ref)
    path = folder / TASK_FILE
    spec = read_yaml(path, TaskSpec)
    name = f"{spec.name}@{spec.version}"
    bank_path = folder / spec.questions
    default_bank = load_bank(bank_path)
    beside = folder / f"{spec.ontology}.yaml"
    default_ontology = load_ontology(beside if beside.is_file() else spec.ontology)
    default_options = check(dict(spec.options), Options, f"{path}: options")

    own_ontology = load_ontology(ontology) if ontology is not None else default_ontology
    own_bank = load_bank(Path(qa)) if qa is not None else default_bank
    for question in own_bank.questions:
        for cls in question.classes or ():
            if cls not in own_ontology.classes:
                what = f"questions.{question.id}.classes: {cls!r} is not in the ontology {own_ontology.name!r}"
                raise InputError(what, qa or bank_path, f"its classes: {', '.join(own_ontology.classes)}")
    merged = {**spec.options, **dict(options or {})}
    own_options = check(merged, Options, "options")

    default = _identity(spec, default_ontology, default_bank, default_options)
    own = _identity(spec, own_ontology, own_bank, own_options)
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
    )


def _identity(spec: TaskSpec, ontology: Ontology, bank: Bank, options: Options) -> dict[str, Any]:
    """Everything that decides what is asked, as plain data."""
    kept = {key: value for key, value in options.model_dump(mode="json").items() if key not in LIMITS}
    return {
        "spec": spec.model_dump(mode="json", exclude={"options"}),
        "ontology": ontology.model_dump(mode="json"),
        "questions": bank.model_dump(mode="json"),
        "options": kept,
    }


def map_classes(names: Sequence[str], used: Sequence[int], ontology: Ontology, where: Path | str) -> dict[int, str]:
    """Class id of a pool -> class of the ontology, for the ids in use. Raises InputError for one that is missing."""
    mapped: dict[int, str] = {}
    missing = []
    for index in sorted(set(used)):
        cls = ontology.class_of(names[index])
        if cls is None:
            missing.append(names[index])
        else:
            mapped[index] = cls
    if missing:
        raise InputError(
            f"the ontology {ontology.name!r} lacks the pool's class{'es' if len(missing) > 1 else ''} "
            + ", ".join(repr(name) for name in missing),
            where,
            "add them to a copy of the ontology and pass it with --ontology (docs/tasks.md)",
        )
    return mapped
