"""Ontologies: what the classes of a pool mean, and whether they are normal or an anomaly, always or at which step."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from deckbench.errors import InputError
from deckbench.language import Text
from deckbench.resources import tasks_folder
from deckbench.schema import FieldFaults, Place, Strict
from deckbench.yamlfile import kind_of, read_yaml

Verdict = Literal["normal", "anomaly"]


class CropSpec(Strict):
    """margin: fraction of the box's side added on each side. min_size: minimum side of a crop, pixels of the frame."""

    margin: float = Field(default=0.15, ge=0, le=2)
    min_size: int = Field(default=48, ge=8, le=4096)


class ClassSpec(Strict):
    """What one class of a pool means.

    name: its name in a verdict ("damaged tip"). aliases: other spellings in pools (case, blanks, "-" and "_" are
    ignored). kind: the kind of object, where that is not the name. state: the state the class stands for. nouns:
    neutral words for it (keys of the ontology's `nouns`), the main one first. verdict: whether it is normal or an
    anomaly, or depends on the step (`anomaly_at`); empty: the class has no verdict. without_step: the verdict of a
    class that depends on the step when no step is known. overlaps: classes whose kind also fits this one, never
    offered as the other option. local: whether a crop alone shows it. decoy: its normal counterpart has no label, so
    boxes without it are made. scene: whether scene descriptions mention it. facts: short statements by key, for open
    questions.
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
    """Schema of an ontology file. exhaustive: every instance of all (or of the named) classes is labelled."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    about: Text
    exhaustive: bool | tuple[str, ...] = False
    nouns: dict[str, Text] = Field(min_length=1)
    steps: dict[str, Text] = Field(default_factory=dict)
    classes: dict[str, ClassSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def names_exist(self) -> Ontology:
        faults: list[tuple[Place, str]] = []
        for name, spec in self.classes.items():
            for field, used, known in (
                ("nouns", spec.nouns, self.nouns),
                ("anomaly_at", spec.anomaly_at, self.steps),
                ("overlaps", spec.overlaps, self.classes),
            ):
                faults += [(("classes", name, field), f"{word!r} is not defined") for word in used if word not in known]
        if not isinstance(self.exhaustive, bool):
            unknown = [word for word in self.exhaustive if word not in self.classes]
            faults += [(("exhaustive",), f"{word!r} is not a class") for word in unknown]
        spellings: dict[str, str] = {}
        for name, spec in self.classes.items():
            for word in sorted({plain_name(word) for word in (name, *spec.aliases)}):
                if spellings.setdefault(word, name) != name:
                    faults.append((("classes", name), f"{word!r} is also a spelling of {spellings[word]!r}"))
        if faults:
            raise FieldFaults(faults)
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
        """The class with a name, in any of its spellings; None when there is none."""
        return name if name in self.classes else self.spellings.get(plain_name(name))

    @property
    def judges(self) -> bool:
        """Whether any class has a verdict."""
        return any(spec.verdict for spec in self.classes.values())

    def is_exhaustive(self, cls: str) -> bool:
        return self.exhaustive if isinstance(self.exhaustive, bool) else cls in self.exhaustive

    def verdict(self, cls: str, step: str | None) -> Verdict | None:
        """The verdict on class `cls` at `step`; None: unknown, or the class has none.

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
        """Whether the kind of one also fits the other."""
        a, b = self.classes[first], self.classes[second]
        one, two = a.kind_text, b.kind_text
        return one.en == two.en or one.zh == two.zh or second in a.overlaps or first in b.overlaps


@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """A class or step name in Unicode's form NFC, case-folded, with runs of blanks, hyphens and underscores as one."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())).strip()


def load_ontology(ref: str | Path) -> Ontology:
    """Read an ontology.

    Args:
        ref: path of a yaml file, or the name of one in tasks/ontology.

    Raises:
        InputError: no such ontology, or faults in it: all of them, each with file and line.
    """
    return read_yaml(_ontology_path(ref), Ontology, "see docs/tasks.md")


def _ontology_path(ref: str | Path) -> Path:
    path = Path(ref)
    if kind_of(path) == "file":
        return path
    folder = tasks_folder() / "ontology"
    if path.name == str(ref) and kind_of(folder / f"{path.stem}.yaml") == "file":
        return folder / f"{path.stem}.yaml"
    known = ", ".join(sorted(entry.stem for entry in folder.glob("*.yaml")))
    raise InputError("no such ontology", path, f"give a yaml file, or one of {known}")


def map_classes(names: Sequence[str], used: Sequence[int], ontology: Ontology, where: Path | str) -> dict[int, str]:
    """Map a pool's classes to the ontology's.

    Args:
        names: the pool's class names, by class id.
        used: the class ids that occur in labels.
        ontology: the ontology.
        where: the pool's yaml, for messages.

    Returns:
        Class id -> class of the ontology, for the ids in use.

    Raises:
        InputError: the ontology lacks a class; names all that are missing.
    """
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
