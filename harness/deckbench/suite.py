"""Suites: models x curricula x tasks x pools, as yaml. This module only reads and checks them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deckbench.errors import InputError

CURRICULUM = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")  # what a record takes as a curriculum's name


class Strict(BaseModel):
    """No unknown fields: a typing slip is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Synth(Strict):
    """A pool to render."""

    frames: int = Field(gt=0)
    seed: int = 0
    size: tuple[int, int] = (704, 396)
    shifted: bool = False


class PoolSpec(Strict):
    """A pool: rendered (`synth`) or on disk (`path`, relative to the suite file)."""

    synth: Synth | None = None
    path: str | None = None

    @model_validator(mode="after")
    def one_source(self) -> PoolSpec:
        if (self.synth is None) == (self.path is None):
            raise ValueError("give either synth or path")
        return self


class DataSpec(Strict):
    """A dataset: a task on a pool."""

    task: str
    pool: str
    split: str = "group"
    lang: str = "en"
    ontology: str | None = None
    qa: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    audit: bool = True


class TestSpec(Strict):
    """A dataset whose test part is asked. `condition` names the board's column: same distribution, shifted ..."""

    data: str
    condition: str = Field(default="same distribution", max_length=60)


class TrainSpec(Strict):
    """One training stage. data: names with optional weights (`S1:0.3`); init: the curriculum it goes on from."""

    data: list[str] = Field(min_length=1)
    init: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)


class ModelSpec(Strict):
    """A model and the curricula it is taken through; `base` is the model as it comes.

    config: curriculum -> training settings of this model, on top of the stage's.
    """

    ref: str
    curricula: list[str] = Field(default_factory=lambda: ["base"], min_length=1)
    config: dict[str, dict[str, Any]] = Field(default_factory=dict)


class BenchSpec(Strict):
    """Latency measurement: which test data is asked, for how long at least."""

    data: list[str]
    min_seconds: float = Field(default=3.0, gt=0)


class Suite(Strict):
    """A whole suite file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = 0
    pools: dict[str, PoolSpec] = Field(min_length=1)
    data: dict[str, DataSpec] = Field(min_length=1)
    tests: list[TestSpec] = Field(min_length=1)
    train: dict[str, TrainSpec] = Field(default_factory=dict)
    models: list[ModelSpec] = Field(default_factory=list)
    baselines: list[str] = Field(default_factory=list)
    bench: BenchSpec | None = None

    @model_validator(mode="after")
    def names_are_known(self) -> Suite:
        for name, data in self.data.items():
            if data.pool not in self.pools:
                raise ValueError(f"data {name}: the pool {data.pool!r} is not among pools")
        asked = [t.data for t in self.tests] + (self.bench.data if self.bench else [])
        for part in (p for spec in self.train.values() for p in spec.data):
            asked.append(split_weight(part)[0])
        for name in asked:
            if name not in self.data:
                raise ValueError(f"the dataset {name!r} is not among data")
        self.nothing_twice()
        order = list(self.train)
        for place, (name, spec) in enumerate(self.train.items()):
            if name == "base" or not CURRICULUM.fullmatch(name):
                raise ValueError(f"train {name}: letters, digits and +._- make a curriculum's name; base is taken")
            if spec.init is not None and spec.init not in order[:place]:
                raise ValueError(f"train {name}: init {spec.init!r} must be a curriculum defined before it")
        for model in self.models:
            for curriculum in [*model.curricula, *model.config]:
                if curriculum != "base" and curriculum not in self.train:
                    raise ValueError(f"model {model.ref}: the curriculum {curriculum!r} is not among train")
        return self

    def nothing_twice(self) -> None:
        """Every row of the page is named by model, curriculum and dataset, so none may be asked for twice."""
        listed = {"tests": [t.data for t in self.tests], "models": [m.ref for m in self.models]}
        listed |= {f"model {m.ref}": m.curricula for m in self.models} | {"baselines": self.baselines}
        for where, names in listed.items():
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{where}: {twice[0]!r} is there twice")


def split_weight(text: str) -> tuple[str, float]:
    """`S1:0.3` -> ("S1", 0.3); `S1` -> ("S1", 1.0). Raises ValueError."""
    name, colon, weight = text.partition(":")
    value = float(weight) if colon else 1.0
    if not value > 0:
        raise ValueError(f"the weight in {text!r} must be above 0")
    return name, value


def load_suite(ref: str) -> tuple[Suite, Path]:
    """A suite by path, or an embedded one, and its file. Raises InputError.

    Embedded ones are found by name (`demo`, `smoke`) or as `tasks/suites/NAME.yaml` from any folder; another path that
    is not there is an error, never the embedded suite of the same name.
    """
    from deckbench.resources import tasks_folder

    path = Path(ref)
    embedded = tasks_folder() / "suites"
    if not path.is_file() and path.as_posix() in {path.stem, f"tasks/suites/{path.stem}.yaml"}:
        path = embedded / f"{path.stem}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in embedded.glob("*.yaml")))
        raise InputError("no such suite", ref, f"give a yaml file, or one of: {known}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError("the file is not UTF-8", path, "save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"not valid YAML: {getattr(error, 'problem', error)}", where) from None
    if not isinstance(data, dict):
        raise InputError("a suite is a map of fields", path, "see tasks/suites/demo.yaml")
    try:
        return Suite.model_validate(data), path
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        text = f"{place}: {first['msg']}" if place else first["msg"]
        raise InputError(text, path, "see tasks/suites/demo.yaml for every field") from None
