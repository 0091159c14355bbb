"""The gates of `report --check`: what must hold before results are published. One small function a gate.

A gate looks at all runs and returns the reasons why it does not hold, one line each; an empty list means it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from deckbench.errors import DeckBenchError, InputError
from deckbench.record.metrics_schema import Estimate
from deckbench.record.read import Run, read_samples
from deckbench.record.recompute import differences
from deckbench.report.board import CHANCE

MIN_ANSWERS = 30


@dataclass(frozen=True)
class Gate:
    """The outcome of one gate. reasons: why it does not hold."""

    name: str
    words: str
    reasons: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.reasons


def scored(runs: Iterable[Run]) -> list[Run]:
    """Runs that hold metrics, not only times."""
    return [run for run in runs if run.record.metrics is not None]


def samples_fit(runs: Sequence[Run]) -> list[str]:
    """samples.csv.gz can be read and has as many rows as were scored."""
    found = []
    for run in scored(runs):
        try:
            rows = len(read_samples(run))
        except InputError as error:
            found.append(error.message().splitlines()[0])
            continue
        wanted = run.record.metrics.n if run.record.metrics else 0
        if run.record.samples is not None and rows != wanted:
            found.append(f"{run.name}: {rows} samples lie here, {wanted} were scored")
    return found


def reproduces(runs: Sequence[Run]) -> list[str]:
    """Every metric of a record, measured again from its samples, is the recorded one."""
    return [f"{run.name}: does not reproduce: {why[0]}" for run in runs if (why := differences(run))]


def one_world(runs: Sequence[Run]) -> list[str]:
    """A pool is synthetic for every record or for none: otherwise one of them is labelled wrongly."""
    said: dict[str, Run] = {}
    found = []
    for run in runs:
        pool = run.record.pool
        other = said.setdefault(pool.hash.removeprefix("sha256:"), run)
        if other.record.pool.synthetic != pool.synthetic:
            found.append(f"{run.name}: the pool {pool.name!r} is synthetic here or in {other.name}, not in both")
    return found


def enough_answers(runs: Sequence[Run]) -> list[str]:
    """Every kind of answer was given often enough for its interval to mean something."""
    return [
        f"{run.name}: {block.n} {kind} answers, fewer than {MIN_ANSWERS}"
        for run in scored(runs)
        for kind, block in (run.record.metrics.kinds if run.record.metrics else {}).items()
        if block.n < MIN_ANSWERS
    ]


def golds_agree(runs: Sequence[Run]) -> list[str]:
    """Records of one dataset ask the same samples and take the same answers as right."""
    asked: dict[str, list[tuple[Run, dict[str, str]]]] = {}
    for run in scored(runs):
        try:
            golds = {row["id"]: row["gold"] for row in read_samples(run)}
        except InputError:  # the gate `samples` says so
            continue
        asked.setdefault(run.record.dataset.removeprefix("sha256:"), []).append((run, golds))
    found = []
    for group in asked.values():
        first, whole = max(group, key=lambda pair: len(pair[1]))
        for run, golds in group:
            # A model may leave questions unanswered, but it was asked no others.
            strange = [key for key, gold in golds.items() if whole.get(key) != gold]
            if strange and not partial(first):
                found.append(f"{run.name}: the gold answer of {strange[0]} is not the one in {first.name}")
            elif len(golds) < len(whole) and not partial(run):
                found.append(f"{run.name}: {len(golds)} samples, {len(whole)} in {first.name} of the same dataset")
    return found


def partial(run: Run) -> bool:
    """Whether a record says that some samples of its dataset have no answer."""
    return run.record.metrics is not None and any("have no prediction" in note for note in run.record.metrics.notes)


def intervals_given(runs: Sequence[Run]) -> list[str]:
    """Every headline number has an interval that contains it, inside 0..1."""
    found = []
    for run in scored(runs):
        for kind, block in (run.record.metrics.kinds if run.record.metrics else {}).items():
            for name in ("accuracy", "miss_rate", "false_stop_rate"):
                estimate = block.metrics.get(name)
                if estimate is None and name != "accuracy":
                    continue
                if estimate is None or not sound(estimate):
                    found.append(f"{run.name}: {kind} {name} has no sound interval")
    return found


def sound(estimate: Estimate) -> bool:
    """A value with an interval; Wilson's contains it, and all of them lie in 0..1."""
    if estimate.value is None:
        return estimate.n == 0
    bounds = [b for b in (estimate.wilson, estimate.cluster) if b is not None]
    ordered = all(0 <= low <= high <= 1 for low, high in bounds)
    inside = estimate.wilson is None or estimate.wilson[0] - 1e-9 <= estimate.value <= estimate.wilson[1] + 1e-9
    return bool(bounds) and ordered and inside


def audits_passed(runs: Sequence[Run]) -> list[str]:
    """The datasets whose audit is recorded passed it: no leak between train and test, no shortcut."""
    failed: dict[str, Run] = {}
    for run in runs:
        if run.record.audit is not None and not run.record.audit.passed:
            failed.setdefault(run.record.dataset, run)
    return [f"{run.name}: the audit of its dataset failed" for run in failed.values()]


def blind_at_chance(runs: Sequence[Run]) -> list[str]:
    """A model that sees no pixels answers A/B questions at chance; if it does better, the questions leak."""
    found = []
    for run in scored(runs):
        model = run.record.model
        block = run.record.metrics.kinds.get("choice") if run.record.metrics else None
        if model.kind != "baseline" or not model.name.startswith("blind") or block is None:
            continue
        accuracy = block.metrics.get("accuracy")
        interval = None if accuracy is None else accuracy.cluster or accuracy.wilson
        if interval is not None and not interval[0] <= CHANCE <= interval[1]:
            found.append(f"{run.name}: blind accuracy is {interval[0]:.3f} to {interval[1]:.3f}, without {CHANCE}")
    return found


def images_locked(runs: Sequence[Run]) -> list[str]:
    """Answers given in a container came from an image that was built from locks, so that others can build it too."""
    return [
        f"{run.name}: the container image {run.record.container.name} is not locked"
        for run in runs
        if run.record.container is not None and not run.record.container.locked
    ]


GATES: tuple[tuple[str, str, Callable[[Sequence[Run]], list[str]]], ...] = (
    ("samples", "every answer that was scored lies in its record", samples_fit),
    ("reproduces", "every metric follows from the samples of its record", reproduces),
    ("worlds", "no pool counts as synthetic in one record and as real in another", one_world),
    ("golds", "records of one dataset agree on ids and gold answers", golds_agree),
    ("answers", f"every kind of answer was given at least {MIN_ANSWERS} times", enough_answers),
    ("intervals", "every headline number has an interval", intervals_given),
    ("audit", "the recorded audits of the datasets passed", audits_passed),
    ("blind", "a model that sees nothing answers at chance", blind_at_chance),
    ("images", "container images that answers were given in are locked", images_locked),
)


def check(runs: Sequence[Run], broken: Sequence[DeckBenchError] = ()) -> list[Gate]:
    """All gates, the readability of the records first. broken: the errors of records that could not be read."""
    unread = tuple(error.message().splitlines()[0] for error in broken)
    first = Gate("records", "every record can be read and its hashes are right", unread)
    return [first, *(Gate(name, words, tuple(gate(runs))) for name, words, gate in GATES)]
