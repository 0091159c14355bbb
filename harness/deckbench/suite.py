"""Suites: models x curricula x tasks x pools, as yaml. Reads and checks them; `pipeline` runs them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from deckbench.artifact import MAX_SEED
from deckbench.errors import InputError
from deckbench.resources import tasks_folder
from deckbench.schema import FieldFaults, Place, Strict, repeated
from deckbench.yamlfile import kind_of, read_yaml

NAMED_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*@[0-9]+")
BASE = "base"  # the curriculum without a training
Share = Annotated[float, Field(gt=0, lt=1)]
CURRICULUM = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")  # what a record takes as a curriculum's name


class Synth(Strict):
    """A pool to render."""

    frames: int = Field(gt=0)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    size: tuple[int, int] = (704, 396)
    shifted: bool = False
    protocol: str | None = None  # its runs are rendered: an analysis relative to the suite file, or one that ships


class PoolSpec(Strict):
    """A pool: rendered (`synth`), on disk (`path`, relative to the suite file), or an argument of the run (neither)."""

    synth: Synth | None = None
    path: str | None = None

    @model_validator(mode="after")
    def one_source(self) -> PoolSpec:
        if self.synth is not None and self.path is not None:
            raise ValueError("give either synth or path, or neither for a pool that `run --pool` names")
        return self

    @property
    def is_argument(self) -> bool:
        """Whether `run --pool` has to name it."""
        return self.synth is None and self.path is None


class DataSpec(Strict):
    """A dataset: a task (a name, or a folder relative to the suite file) on a pool."""

    task: str
    pool: str
    split: str = "group"
    lang: str = "en"
    ontology: str | None = None
    qa: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    audit: bool = True


class TestSpec(Strict):
    """A dataset whose test part is evaluated. `condition` names the board's column: same distribution, shifted ..."""

    data: str
    condition: str = Field(default="same distribution", max_length=60)


class TrainSpec(Strict):
    """One training stage. data: names with optional weights (`S1:0.3`); init: the curriculum it continues."""

    data: list[str] = Field(min_length=1)
    init: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)


class ModelSpec(Strict):
    """A model and its curricula; `base` is the model without training.

    config: curriculum -> training settings of this model, on top of the stage's.
    """

    ref: str
    curricula: list[str] = Field(default_factory=lambda: ["base"], min_length=1)
    config: dict[str, dict[str, Any]] = Field(default_factory=dict)


class BenchSpec(Strict):
    """Latency measurement: datasets, and the minimum time per question kind in seconds, over `rounds` turns."""

    data: list[str]
    min_seconds: float = Field(default=3.0, gt=0)
    rounds: int = Field(default=2, ge=1, le=100)


class CalibrateSpec(Strict):
    """Calibration of every row whose dataset has a val part: from at most `max_val` of its samples.

    false_stops: stated false-stop rates at which thresholds are chosen; errors: stated errors of the abstention.
    """

    max_val: int = Field(default=200, ge=1)
    false_stops: list[Share] = Field(default_factory=lambda: [0.01, 0.05, 0.10], min_length=1, max_length=20)
    errors: list[Share] = Field(default_factory=lambda: [0.01, 0.05, 0.10], min_length=1, max_length=20)


class Suite(Strict):
    """Schema of a suite file. thumbnails: at most so many in a record. calibrate: null: nothing is calibrated."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    pools: dict[str, PoolSpec] = Field(min_length=1)
    data: dict[str, DataSpec] = Field(min_length=1)
    tests: list[TestSpec] = Field(min_length=1)
    train: dict[str, TrainSpec] = Field(default_factory=dict)
    models: list[ModelSpec] = Field(default_factory=list)
    baselines: list[str] = Field(default_factory=list)
    bench: BenchSpec | None = None
    calibrate: CalibrateSpec | None = None
    thumbnails: int = Field(default=50, ge=0, le=50)

    @model_validator(mode="after")
    def names_are_known(self) -> Suite:
        """Every pool, dataset and curriculum that is used is defined, and nothing is listed twice."""
        faults = [*self._unknown_data(), *self._unknown_curricula(), *self._listed_twice()]
        if faults:
            raise FieldFaults(faults)
        return self

    @property
    def rows(self) -> list[tuple[str, str | None]]:
        """Model and curriculum of every row, in the suite's order; None: a baseline."""
        rows: list[tuple[str, str | None]] = [(model.ref, name) for model in self.models for name in model.curricula]
        return rows + [(name, None) for name in self.baselines]

    @property
    def arguments(self) -> list[str]:
        """The pools that `run --pool` has to name."""
        return [name for name, pool in self.pools.items() if pool.is_argument]

    def trainings(self, curriculum: str) -> list[str]:
        """The trainings that lead to a curriculum, the last one first. Raises KeyError for one that is not there."""
        names, name = [], None if curriculum == BASE else curriculum
        while name is not None:
            names.append(name)
            name = self.train[name].init
        return names

    def _unknown_data(self) -> Iterator[tuple[Place, str]]:
        for name, data in self.data.items():
            if data.pool not in self.pools:
                yield ("data", name, "pool"), f"the pool {data.pool!r} is not among pools"
        used: list[tuple[Place, str]] = [(("tests", n, "data"), test.data) for n, test in enumerate(self.tests)]
        used += [(("bench", "data", n), name) for n, name in enumerate(self.bench.data if self.bench else [])]
        for stage, spec in self.train.items():
            for number, part in enumerate(spec.data):
                place: Place = ("train", stage, "data", number)
                try:
                    used.append((place, split_weight(part)[0]))
                except ValueError as error:
                    yield place, str(error)
        for place, name in used:
            if name not in self.data:
                yield place, f"the dataset {name!r} is not among data"

    def _unknown_curricula(self) -> Iterator[tuple[Place, str]]:
        order = list(self.train)
        for number, (name, spec) in enumerate(self.train.items()):
            if name == BASE or not CURRICULUM.fullmatch(name):
                yield ("train", name), "letters, digits and +._- make a curriculum's name; base is taken"
            if spec.init is not None and spec.init not in order[:number]:
                yield ("train", name, "init"), f"init {spec.init!r} must be a curriculum defined before it"
        for number, model in enumerate(self.models):
            used: list[tuple[Place, str]] = [(("curricula", n), name) for n, name in enumerate(model.curricula)]
            used += [(("config", name), name) for name in model.config]
            for place, name in used:
                if name not in (BASE, *order):
                    yield ("models", number, *place), f"the curriculum {name!r} is not among train"

    def _listed_twice(self) -> Iterator[tuple[Place, str]]:
        """Every row of the site is named by model, curriculum and dataset, so none may be listed twice."""
        stages = self.train.items()
        lists: list[tuple[Place, list[str]]] = [
            (("tests",), [test.data for test in self.tests]),
            (("models",), [model.ref for model in self.models]),
            (("baselines",), self.baselines),
            *((("models", n, "curricula"), model.curricula) for n, model in enumerate(self.models)),
            # A dataset mixed with itself would ask every question twice.
            *((("train", name, "data"), [part.partition(":")[0] for part in spec.data]) for name, spec in stages),
        ]
        for place, names in lists:
            for number, name in repeated(names):
                yield (*place, number), f"{name!r} is listed twice"


def split_weight(text: str) -> tuple[str, float]:
    """`S1:0.3` -> ("S1", 0.3); `S1` -> ("S1", 1.0). Raises ValueError for what is no share."""
    name, colon, weight = text.partition(":")
    try:
        value = float(weight) if colon else 1.0
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ValueError(f"the weight in {text!r} must be a number above 0 and at most 1")
    return name, value


def given_pools(suite: Suite, texts: Sequence[str]) -> dict[str, Path]:
    """`DIR` or `NAME=DIR`, as `run --pool` takes them: the pools that are arguments of a suite.

    Raises InputError where one is missing, unknown or given twice.
    """
    wanted, found = suite.arguments, {}
    form = "--pool DIR" if len(wanted) == 1 else " ".join(f"--pool {name}=DIR" for name in wanted)
    fix = f"give {form}" if wanted else "remove --pool"
    for text in texts:
        name, equals, place = text.partition("=")
        if not (equals and name in wanted):
            if len(wanted) != 1 or (equals and not Path(text).exists() and re.fullmatch(r"[\w.-]+", name)):
                what = (
                    f"the suite takes {'the pools ' + ', '.join(wanted) if wanted else 'no pool'}, not {text[:200]!r}"
                )
                raise InputError(what, "--pool", fix)
            name, place = wanted[0], text
        if name in found:
            raise InputError(f"the pool {name!r} is given twice", "--pool", fix)
        found[name] = Path(place)
    if missing := [name for name in wanted if name not in found]:
        raise InputError(f"the suite {suite.name} takes the pool {missing[0]!r} as an argument", "--pool", fix)
    return found


def task_in(file: Path, ref: str) -> str:
    """A dataset's task as `load_task` takes it: a name, or a folder, which a suite names relative to its file."""
    return ref if NAMED_TASK.fullmatch(ref) else str(file.parent / ref)


def suite_source(file: Path) -> str:
    """What a record calls a suite, however it was called: the name of an embedded one, else that of its file."""
    return file.stem if file.resolve().parent == (tasks_folder() / "suites").resolve() else file.name


def load_suite(ref: str) -> tuple[Suite, Path]:
    """Read a suite.

    Args:
        ref: path of a yaml file; or an embedded suite, by name (`demo`, `smoke`) or as `tasks/suites/NAME.yaml` from
            any folder. Another path that does not exist is never taken for the embedded suite of that name.

    Returns:
        The suite and its file.

    Raises:
        InputError: no such suite, or faults in it: all of them, each with file and line.
    """
    path = Path(ref)
    embedded = tasks_folder() / "suites"
    if kind_of(path) != "file" and path.as_posix() in {path.stem, f"tasks/suites/{path.stem}.yaml"}:
        path = embedded / f"{path.stem}.yaml"
    if kind_of(path) != "file":
        known = ", ".join(sorted(p.stem for p in embedded.glob("*.yaml")))
        raise InputError("no such suite", ref, f"give a yaml file, or one of: {known}")
    return read_yaml(path, Suite, "its fields: deckbench schema suite; an example: tasks/suites/demo.yaml"), path
