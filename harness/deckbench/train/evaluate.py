"""Evaluation during training: the stage's metric on the val part, early stopping, the best weights.

Samples are answered and graded as `infer` and `score` do. The samples depend on dataset, settings and seed alone, and
counts add up, so several processes can answer a share each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import grade, task
from deckbench.answer import MAX_NEW_TOKENS, Question
from deckbench.csvfile import csv_text
from deckbench.dataset import Sample, read_samples, splits_of
from deckbench.errors import InputError
from deckbench.picture import open_picture
from deckbench.progress import say, track
from deckbench.train.config import Source, TrainConfig
from deckbench.train.data import shuffled
from deckbench.yamlfile import read_yaml

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("choice", "scene", "open")  # the first that a dataset has is the primary one, as in a score
BALANCED = "balanced_accuracy"
ACCURACY = "accuracy"
COLUMNS = ("step", "metric", "value", "samples")


@dataclass(frozen=True)
class EvalSet:
    """The samples of every evaluation, all of one kind and grouped by image, and the metric."""

    pictures: tuple[tuple[Sample, ...], ...]
    metric: str

    @property
    def samples(self) -> int:
        return sum(map(len, self.pictures))


@dataclass(frozen=True)
class EvalCounts:
    """Correct and all answers for gold anomaly (or A) and for gold normal (or B). Counts of shares add up."""

    correct: tuple[int, int] = (0, 0)
    total: tuple[int, int] = (0, 0)

    def __add__(self, other: EvalCounts) -> EvalCounts:
        correct, total = zip(self.correct, other.correct, strict=True), zip(self.total, other.total, strict=True)
        (a, b), (c, d) = map(sum, correct), map(sum, total)
        return EvalCounts((a, b), (c, d))

    def value(self, metric: str) -> float:
        """Accuracy, or balanced accuracy: the mean of both sides' accuracies."""
        if metric == BALANCED and all(self.total):
            return (self.correct[0] / self.total[0] + self.correct[1] / self.total[1]) / 2
        return sum(self.correct) / sum(self.total)


def make_eval_set(dataset: Path, *, limit: int | None, seed: int) -> EvalSet:
    """The evaluation set of a dataset: its val part's primary kind, and the headline metric of its task.

    Args:
        dataset: the dataset's folder.
        limit: most samples; whole images are drawn by `seed` until it is reached. None: all of them.
        seed: random seed.

    Raises:
        InputError: there is no val part, or nothing in it.
    """
    where, fix = dataset / "val.jsonl", "build the dataset from a pool with val frames, or set eval_every to null"
    if not where.is_file():
        raise InputError("the dataset has no val part to evaluate on while training", where, fix)
    found = read_samples(dataset, "val")
    kind = next((kind for kind in KINDS if any(sample.kind == kind for sample in found)), None)
    if kind is None:
        raise InputError("the val part is empty: there is nothing to evaluate on while training", where, fix)
    found = [sample for sample in found if sample.kind == kind]
    metric = headline({sample.task for sample in found})
    if metric == BALANCED and any(truth(sample) is not None for sample in found):
        found = [sample for sample in found if truth(sample) is not None]
    pictures: dict[Path, list[Sample]] = {}
    for sample in found:
        pictures.setdefault(sample.image, []).append(sample)
    groups = list(pictures.values())
    chosen = [groups[place] for place in shuffled(len(groups), seed, "val")]
    left, kept = len(found) if limit is None else limit, []
    for group in chosen:
        kept.append(tuple(group[:left]))
        left -= len(kept[-1])
        if left == 0:
            break
    return EvalSet(tuple(kept), metric)


def headline(tasks: set[str | None]) -> str:
    """The metric of the tasks that the samples are of: balanced accuracy where all ask for it, else accuracy."""
    published = task.published()
    names = [None if ref is None else ref.partition("+")[0] for ref in tasks]
    if not all(name in published for name in names):
        return ACCURACY
    specs = [read_yaml(published[str(name)] / "task.yaml", task.TaskSpec, task.SEE) for name in names]
    return BALANCED if all(spec.metrics.headline == BALANCED for spec in specs) else ACCURACY


def truth(sample: Sample) -> bool | None:
    """Is the frame an anomaly, where the sample asks for a verdict."""
    return grade.verdict_truth(sample.gold, sample.kind, sample.anomaly)


def count_answers(model: Any, eval_set: EvalSet, part: tuple[int, int] = (0, 1)) -> EvalCounts:
    """Answer the i-th of n shares (from 0) of the evaluation's images, and count.

    Questions about an image are answered together, always the same ones. No random generator changes its state.
    Raises InputError for an image that cannot be opened and a question that is too long.
    """
    counts = EvalCounts()
    share = eval_set.pictures[part[0] :: part[1]]
    for samples in share if part[0] else track(share, "evaluating"):  # the others' progress is alike
        questions = [Question(sample.question, sample.kind, MAX_NEW_TOKENS[sample.kind]) for sample in samples]
        answers = model.answer(open_picture(samples[0].image), questions)
        for sample, answer in zip(samples, answers, strict=True):
            options = grade.sample_options(sample.question, sample.option_a, sample.option_b)
            graded = grade.grade(answer.text, sample.gold, sample.kind, options=options, anomaly=sample.anomaly)
            right, known = graded.right, truth(sample)
            first = sample.gold == "A" if known is None else known
            counts += EvalCounts((right and first, right and not first), (first, not first))
    return counts


def fit_dataset(config: TrainConfig, source: Source, overrides: Mapping[str, Any], dataset: Path) -> TrainConfig:
    """No evaluation where only a lab's own file asks for it and the dataset has no val part, as with its own tool."""
    if "eval_every" not in source.keys or "eval_every" in overrides or "val" in splits_of(dataset):
        return config
    say(f"{source.place('eval_every')}: the dataset has no val part, so nothing is evaluated while training")
    return config.model_copy(update=dict.fromkeys(("eval_every", "eval_limit", "patience")) | {"keep_best": False})


@dataclass
class History:
    """The evaluations so far, and the weights of the best one.

    rows: (step, metric, value, samples). bad: evaluations since the best one. weights: the adapter's tensors of the
    best one, kept where they may be published.
    """

    rows: list[tuple[int, str, float, int]] = field(default_factory=list)
    best: float = -1.0
    bad: int = 0
    stopped: bool = False
    weights: dict[str, Tensor] | None = None

    def add(self, step: int, metric: str, counts: EvalCounts) -> bool:
        """Record an evaluation. Returns whether it is the best so far; an equal one is not."""
        value = counts.value(metric)
        self.rows.append((step, metric, value, sum(counts.total)))
        better = value > self.best
        self.best, self.bad = (value, 0) if better else (self.best, self.bad + 1)
        return better

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors and plain values."""
        return dict(vars(self))

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        vars(self).update(state)


def evaluations_csv(rows: Sequence[tuple[int, str, float, int]]) -> str:
    """Rows of (step, metric, its value, number of samples)."""
    return csv_text(COLUMNS, ((step, metric, f"{value:.6f}", samples) for step, metric, value, samples in rows))
