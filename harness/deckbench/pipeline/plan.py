"""Which rows a suite asks for, and which datasets and trainings they need. Pure functions of the suite."""

from __future__ import annotations

from dataclasses import dataclass

from deckbench.errors import InputError
from deckbench.pipeline.provenance import shown_model
from deckbench.schema import repeated
from deckbench.suite import Suite, split_weight

LEARNERS = frozenset({"majority", "nearest", "cnn"})  # baselines that are fitted on a training part


@dataclass(frozen=True)
class Target:
    """One row of the leaderboard: a model (or baseline) at a curriculum, on one test set."""

    ref: str
    curriculum: str | None
    data: str
    condition: str

    @property
    def model(self) -> str:
        """The model as records and the site call it."""
        return shown_model(self.ref)

    @property
    def label(self) -> str:
        """`tiny-glm4v:S1+S2:S3`, what `--only` takes."""
        return f"{self.model}:{self.curriculum or 'baseline'}:{self.data}"


def targets_of(suite: Suite) -> list[Target]:
    """All rows a suite asks for, in its order. Raises InputError where two have one label."""
    targets = [Target(ref, curriculum, t.data, t.condition) for ref, curriculum in suite.rows for t in suite.tests]
    if twice := next(iter(repeated([target.label for target in targets])), None):
        what = f"two models have the row {twice[1]}: of an absolute path only the last part is shown"
        raise InputError(what, "models", "rename one of their folders")
    return targets


def data_needed(suite: Suite, targets: list[Target], curricula: set[str]) -> list[str]:
    """The datasets that some rows need, in the suite's order. Raises InputError as `baseline_train_set` does."""
    names = {target.data for target in targets}
    names |= {name for target in targets if (name := baseline_train_set(suite, target)) is not None}
    names |= {name for target in targets if (name := val_set(suite, target)) is not None}
    names |= {split_weight(text)[0] for curriculum in curricula for text in suite.train[curriculum].data}
    if suite.bench:
        names |= {name for name in suite.bench.data if any(target.curriculum for target in targets)}
    return [name for name in suite.data if name in names]


def val_set(suite: Suite, target: Target) -> str | None:
    """The dataset on whose val part a row is calibrated: its own, else the first one of its task and language that is
    split; None where nothing is calibrated, or there is none."""
    if suite.calibrate is None:
        return None
    tested = suite.data[target.data]
    for name, spec in ((target.data, tested), *suite.data.items()):
        if (spec.task, spec.lang) == (tested.task, tested.lang) and spec.split != "test-only":
            return name
    return None


def trainings_needed(suite: Suite, curricula: list[str]) -> list[str]:
    """The trainings that some curricula need, each after the one it starts from."""
    wanted = {training for name in curricula for training in suite.trainings(name)}
    return [name for name in suite.train if name in wanted]


def baseline_train_set(suite: Suite, target: Target) -> str | None:
    """The dataset whose training split a baseline of LEARNERS is fitted on; None for every other model.

    It is the tested one, or where that has no training split another one of its task, in its language if there is one.
    Raises InputError when no dataset of the task has a training split.
    """
    if target.curriculum is not None or target.ref not in LEARNERS:
        return None
    tested = suite.data[target.data]
    candidates = [name for name, spec in suite.data.items() if spec.task == tested.task and spec.split != "test-only"]
    if target.data in candidates:
        return target.data
    same_language = [name for name in candidates if suite.data[name].lang == tested.lang]
    if not candidates:
        what = (
            f"the baseline {target.ref} has no data to be fitted on: no dataset of {tested.task} has a training split"
        )
        raise InputError(what, f"data {target.data}", f"add one that is split, or remove {target.ref} from baselines")
    return (same_language or candidates)[0]
