"""Question banks: questions and answers as Jinja templates, in yaml or CSV, or as plain text, one file a class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from deckbench.artifact import hash_json
from deckbench.csvfile import csv_records
from deckbench.errors import InputError
from deckbench.language import LANGS, Lang, Text
from deckbench.scenetexts import FILE as SCENES
from deckbench.schema import FieldFaults, Strict, check, repeated
from deckbench.textbank import TextQuestion, as_template, read_text_bank
from deckbench.yamlfile import kind_of, read_document

if TYPE_CHECKING:
    import jinja2

OPTION_KEYS: dict[str, tuple[str, str]] = {
    "verdict": ("normal", "anomaly"),
    "scene": ("normal", "anomaly"),
    "presence": ("present", "absent"),
    "place": ("low", "high"),
    "check": ("normal", "anomaly"),
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


class BankQuestion(Strict):
    """One question of a bank. Texts are Jinja templates.

    about: what the answer depends on. kind, state: the class's kind or state; fact: one of its facts; verdict: normal
    or anomaly; scene: the whole description; presence: is a class there; place: in which half it is (`axis`); check:
    the verdict of a check of the pool (checks.csv), or what was seen and then the verdict.
    options: texts of the two values (normal/anomaly, present/absent, low/high); kind and state questions take theirs
    from the ontology. regions: where presence is asked for. classes: only questions about these.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    kind: Literal["choice", "open", "scene"]
    about: Literal["kind", "state", "fact", "verdict", "scene", "presence", "place", "check"]
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
            "choice": {"kind", "state", "verdict", "presence", "place", "check"},
            "scene": {"scene", "check"},
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
        if self.about == "check" and self.classes is not None:
            raise ValueError("a question about checks has no `classes`")
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


class ClassQuestion(BankQuestion):
    """A question from the file of one class. In a bank it counts, and is hashed, as a plain question.

    source: the file's class. where: file and line. only: the one language of its texts, None for both. right: the
    answer that the file states to a verdict question.
    """

    source: str
    where: str
    only: Lang | None = None
    right: Literal["normal", "anomaly"] | None = None


class Bank(Strict):
    """A question bank: `questions.yaml`, or the rows of CSV files."""

    questions: tuple[BankQuestion, ...] = Field(min_length=1)

    @property
    def asks_checks(self) -> bool:
        """Whether any question is about checks."""
        return any(question.about == "check" for question in self.questions)

    @property
    def asks_labels(self) -> bool:
        """Whether any question is about labels."""
        return any(question.about != "check" for question in self.questions)

    @model_validator(mode="after")
    def ids_unique(self) -> Bank:
        twice = repeated(question.id for question in self.questions)
        if twice:
            raise FieldFaults(
                [(("questions", number, "id"), f"the id {name!r} occurs twice") for number, name in twice]
            )
        return self


def load_bank(path: Path) -> Bank:
    """Read a question bank and try its templates.

    Args:
        path: a yaml file, a CSV file, a class's text file (`textbank`), or a folder of them. CSV columns: id, kind,
            about, ask_en, ask_zh, and as needed answer_en, answer_zh, fact, classes (";"-joined) and KEY_en, KEY_zh for
            each option KEY.

    Returns:
        The questions, in file order.

    Raises:
        InputError: faults in a file, with file and line; all faults of a yaml file at once.
    """
    if kind_of(path) == "file":
        files = [path]
    elif kind_of(path) == "directory":
        files = bank_files(path)
        if not files:
            raise InputError("the folder holds no question bank", path, "a bank is a .yaml, .csv or .txt file")
    else:
        raise InputError("no such question bank", path, "give a folder, a .yaml, .csv or .txt file")
    questions: dict[str, BankQuestion] = {}
    for file in files:
        if file.suffix not in READERS:
            raise InputError("a .yaml, .csv or .txt file is expected", file, "see docs/tasks.md")
        for question, where in READERS[file.suffix](file):
            if question.id in questions:
                raise InputError(f"the id {question.id!r} occurs twice", where, "ids are unique in a bank")
            _try_templates(question, where)
            questions[question.id] = question
    return check({"questions": tuple(questions.values())}, Bank, path, "see docs/tasks.md")


def _yaml_bank(path: Path) -> list[tuple[BankQuestion, str]]:
    """The questions of a yaml file, each with its file and line."""
    document = read_document(path)
    bank = document.check(Bank, "see docs/tasks.md")
    return [(question, document.where("questions", number)) for number, question in enumerate(bank.questions)]


def _csv_bank(path: Path) -> list[tuple[BankQuestion, str]]:
    """The questions of a CSV file, each with its file and line."""
    found = []
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
        found.append((check(data, BankQuestion, where, "see docs/tasks.md"), where))
    return found


def _text_bank(path: Path) -> list[tuple[BankQuestion, str]]:
    """The questions of a class's file, each with its file and line.

    `classes` is the file's class alone; `task.load_task`, which knows the ontology, widens it for verdict questions.
    """
    found: list[tuple[BankQuestion, str]] = []
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-_")
    if stem != path.stem:
        stem = f"{stem or 'class'}-{hash_json(path.stem)[:6]}"
    for number, asked in enumerate(read_text_bank(path), 1):
        where = f"{path}:{asked.line}"

        def text(part: str, asked: TextQuestion = asked) -> dict[str, str]:
            return {lang: as_template(asked.text(part, lang)) for lang in LANGS}

        lang = asked.langs[0]
        data: dict[str, Any] = {
            "id": f"{stem}-{number}",
            "kind": "choice" if asked.judges else "open",
            "about": "verdict" if asked.judges else "kind",
            "ask": text("ask"),
            "classes": (path.stem,),
            "source": path.stem,
            "only": lang if len(asked.langs) == 1 else None,
            "where": where,
        }
        if asked.judges:
            data["options"] = {part: {lang: asked.text(part, lang) for lang in LANGS} for part in ("normal", "anomaly")}
            answers = {
                part
                for lang in asked.langs
                for part in ("normal", "anomaly")
                if asked.parts.get(("answer", lang)) == asked.parts[part, lang]
            }
            if len(answers) > 1:
                raise InputError("its answers in the two languages contradict each other", where, "correct one of them")
            data["right"] = next(iter(answers), None)
        else:
            data["answer"] = text("answer")
        found.append((check(data, ClassQuestion, where, "see docs/annotate.md"), where))
    return found


def bank_files(folder: Path) -> list[Path]:
    """The files of a folder that hold questions."""
    return sorted(path for suffix in READERS for path in folder.glob(f"*{suffix}"))


def is_bank(path: Path) -> bool:
    """Whether this is a question bank, and no dataset."""
    if kind_of(path) == "file":
        return path.suffix in READERS
    if kind_of(path) != "directory":
        return False
    texts = {file.name for file in path.glob("*.jsonl")}  # a dataset's, or those that `annotate` writes
    return bool(bank_files(path) or SCENES in texts) and texts <= {SCENES, "listed.jsonl", "transcript.jsonl"}


def bank_places(path: Path) -> dict[str, str]:
    """id -> file and line of each question of a bank. Raises InputError as `load_bank`."""
    files = [path] if kind_of(path) == "file" else bank_files(path)
    return {question.id: where for file in files for question, where in READERS[file.suffix](file)}


READERS = {".csv": _csv_bank, ".txt": _text_bank, ".yaml": _yaml_bank}


def _try_templates(question: BankQuestion, where: str) -> None:
    """Render each template once with placeholder values, so that a typo is found before anything is built."""
    values = dict.fromkeys(("kind", "state", "noun", "region", "fact", "name", "verdict", "step", "caption"), "x")
    context = {**values, "parts": [{"noun": "x", "states": ["x"]}], "wrong": ["x"]}
    for name, text in (("ask", question.ask), ("answer", question.answer)):
        for lang in LANGS:
            if text is not None:
                field = f"{where}: questions.{question.id}.{name}.{lang}"
                if not render(text.get(lang), context, field).strip():
                    raise InputError("the text is empty", field, "write a text")


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)


@lru_cache(maxsize=512)
def _template(source: str) -> jinja2.Template:
    return _environment().from_string(source)


def render(source: str, values: Mapping[str, Any], where: str = "template") -> str:
    """Render a template in a sandbox.

    Args:
        source: the Jinja template.
        values: the values that it may use.
        where: file and field, for messages.

    Raises:
        InputError: the template is broken or uses an unknown value.
    """
    import jinja2

    try:
        return _template(source).render(values)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"the template fails: {error}", where, "see docs/tasks.md for the values it may use"
        ) from error
