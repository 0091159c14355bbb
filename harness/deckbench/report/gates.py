"""The gates of `report --check`: what must hold before results are published. One small function a gate.

A gate looks at all runs and yields a finding for each thing it checks: None, or the reason why it does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from deckbench import artifact
from deckbench.errors import DeckBenchError
from deckbench.record.metrics_schema import Estimate, Metrics
from deckbench.record.read import Run
from deckbench.record.recompute import differences
from deckbench.report.board import CHANCE

MIN_ANSWERS = 30


Finding: TypeAlias = str | None  # of one thing that a gate looked at: why the gate does not hold for it


@dataclass(frozen=True)
class Gate:
    """The outcome of one gate. checked: how many things it looked at; reasons: why it does not hold."""

    name: str
    words: str
    checked: int
    reasons: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.reasons

    @property
    def verdict(self) -> str:
        """`holds`, `fails`, or `nothing to check`: a gate that looked at nothing shows nothing."""
        return "fails" if self.reasons else "holds" if self.checked else "nothing to check"


def scored(runs: Iterable[Run]) -> list[tuple[Run, Metrics]]:
    """Runs that hold metrics, not only times."""
    return [(run, run.record.metrics) for run in runs if run.record.metrics is not None]


def reproduces(runs: Sequence[Run]) -> Iterator[Finding]:
    """Everything in a record follows from its samples, its questions and the manifests of what it was made from."""
    for run in runs:
        why = differences(run)
        yield f"{run.name}: does not reproduce: {why[0]}" if why else None


def one_world(runs: Sequence[Run]) -> Iterator[Finding]:
    """A pool is synthetic for every record or for none: otherwise one of them is labelled wrongly."""
    said: dict[str, Run] = {}
    for run in runs:
        pool = run.record.pool
        other = said.setdefault(pool.hash.removeprefix("sha256:"), run)
        good = other.record.pool.synthetic == pool.synthetic
        what = f"{run.name}: the pool {pool.name!r} is synthetic here or in {other.name}, not in both"
        yield None if good else what


def one_name(runs: Sequence[Run]) -> Iterator[Finding]:
    """The same weights have one name, the same adapter one curriculum, the same dataset one audit."""
    said: dict[tuple[str, str], tuple[object, Run]] = {}
    for run in runs:
        record = run.record
        weights = {key: value for key, value in record.model.identity.items() if key not in {"name", "adapter"}}
        claims: list[tuple[tuple[str, str], object]] = []
        if len(weights) > 1 and record.model.kind == "model":
            claims.append((("model", artifact.hash_json(weights)), record.model.name))
        if adapter := record.model.identity.get("adapter"):
            claims.append((("curriculum", adapter), record.curriculum))
        if record.audit is not None:
            claims.append((("audit", record.dataset.removeprefix("sha256:")), record.audit.passed))
        for (what, key), value in claims:
            first, other = said.setdefault((what, key), (value, run))
            yield None if first == value else f"{run.name}: its {what} is {value}, that of {other.name} is {first}"


def golds_agree(runs: Sequence[Run]) -> Iterator[Finding]:
    """Records of one dataset ask the same samples and take the same answers as right."""
    first: dict[str, Run] = {}
    for run in runs:
        other = first.setdefault(run.record.dataset.removeprefix("sha256:"), run)
        if other is run:
            continue
        good = run.record.questions == other.record.questions
        yield None if good else f"{run.name}: other questions or gold answers than {other.name} of the same dataset"


def all_answered(runs: Sequence[Run]) -> Iterator[Finding]:
    """Every question that was asked has an answer."""
    for run, metrics in scored(runs):
        total = sum((metrics.asked or {}).values())
        yield None if metrics.complete else f"{run.name}: {metrics.n} of {total} answered"


def enough_answers(runs: Sequence[Run]) -> Iterator[Finding]:
    """Every kind of answer was given often enough for its interval to mean something."""
    for run, metrics in scored(runs):
        for kind, block in metrics.kinds.items():
            yield None if block.n >= MIN_ANSWERS else f"{run.name}: {block.n} {kind} answers, fewer than {MIN_ANSWERS}"


def intervals_given(runs: Sequence[Run]) -> Iterator[Finding]:
    """Every headline number has an interval that contains it, inside 0..1."""
    for run, metrics in scored(runs):
        for kind, block in metrics.kinds.items():
            for name in ("accuracy", "miss_rate", "false_stop_rate"):
                estimate = block.metrics.get(name)
                if estimate is None and name != "accuracy":
                    continue
                good = estimate is not None and sound(estimate)
                yield None if good else f"{run.name}: {kind} {name} has no sound interval"


def sound(estimate: Estimate) -> bool:
    """A value with an interval; Wilson's contains it, and all of them lie in 0..1."""
    if estimate.value is None:
        return estimate.n == 0
    bounds = [b for b in (estimate.wilson, estimate.cluster) if b is not None]
    ordered = all(0 <= low <= high <= 1 for low, high in bounds)
    inside = estimate.wilson is None or estimate.wilson[0] - 1e-9 <= estimate.value <= estimate.wilson[1] + 1e-9
    return bool(bounds) and ordered and inside


def audits_passed(runs: Sequence[Run]) -> Iterator[Finding]:
    """The datasets whose audit is recorded passed it: no leak between train and test, no shortcut."""
    seen: set[str] = set()
    for run in runs:
        if run.record.audit is not None and run.record.dataset not in seen:
            seen.add(run.record.dataset)
            yield None if run.record.audit.passed else f"{run.name}: the audit of its dataset failed"


def blind_at_chance(runs: Sequence[Run]) -> Iterator[Finding]:
    """A model that sees no pixels answers A/B questions at chance; if it does better, the questions leak.

    What it answers with neither letter counts as wrong, and so lowers its accuracy, but says nothing of a leak.
    """
    for run, metrics in scored(runs):
        model = run.record.model
        block = metrics.kinds.get("choice")
        if model.kind != "baseline" or not model.name.startswith("blind") or block is None:
            continue
        accuracy = block.metrics.get("accuracy")
        interval = None if accuracy is None else accuracy.cluster or accuracy.wilson
        if interval is not None:
            what = f"{run.name}: blind accuracy is {interval[0]:.3f} to {interval[1]:.3f}, without {CHANCE}"
            unparsed = block.unparsed / block.n
            yield None if interval[0] <= CHANCE <= interval[1] + unparsed else what


def images_locked(runs: Sequence[Run]) -> Iterator[Finding]:
    """Answers given in a container came from an image that was built from locks, so that others can build it too."""
    for run in runs:
        if (image := run.record.container) is not None:
            yield None if image.locked else f"{run.name}: the container image {image.name} is not locked"


GATES: tuple[tuple[str, str, Callable[[Sequence[Run]], Iterator[Finding]]], ...] = (
    ("reproduces", "every record follows from its samples and from what it was made from", reproduces),
    ("worlds", "no pool counts as synthetic in one record and as real in another", one_world),
    ("names", "the same weights, adapter and dataset have one name, curriculum and audit", one_name),
    ("golds", "records of one dataset agree on ids and gold answers", golds_agree),
    ("coverage", "every question that was asked has an answer", all_answered),
    ("answers", f"every kind of answer was given at least {MIN_ANSWERS} times", enough_answers),
    ("intervals", "every headline number has an interval", intervals_given),
    ("audit", "the recorded audits of the datasets passed", audits_passed),
    ("blind", "a model that sees nothing answers at chance", blind_at_chance),
    ("images", "container images that answers were given in are locked", images_locked),
)


def check(runs: Sequence[Run], broken: Sequence[DeckBenchError] = ()) -> list[Gate]:
    """All gates, the readability of the records first. broken: the errors of records that could not be read."""
    unread = tuple(error.message().splitlines()[0] for error in broken)
    gates = [Gate("records", "every record can be read and its hashes are right", len(runs) + len(broken), unread)]
    for name, words, gate in GATES:
        found = list(gate(runs))
        gates.append(Gate(name, words, len(found), tuple(reason for reason in found if reason is not None)))
    return gates
