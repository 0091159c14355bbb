"""Evaluation while a model learns: the stage's metric on the val part, when to stop, which weights were the best.

Answers are asked for, read and counted as `infer` and `score` do. What is asked depends on dataset, settings and seed
alone, and the counts add up, so several processes can answer a share each.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import grade, task
from deckbench.answer import MAX_NEW_TOKENS, Question
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
class Exam:
    """What is asked at each evaluation: samples of one kind, a list for each picture, and the metric."""

    pictures: tuple[tuple[Sample, ...], ...]
    metric: str

    @property
    def samples(self) -> int:
        return sum(map(len, self.pictures))


@dataclass(frozen=True)
class Tally:
    """Answers on the exam's two sides: gold anomaly (or A) and gold normal (or B). Tallies of shares add up."""

    right: tuple[int, int] = (0, 0)
    asked: tuple[int, int] = (0, 0)

    def __add__(self, other: Tally) -> Tally:
        right, asked = zip(self.right, other.right, strict=True), zip(self.asked, other.asked, strict=True)
        (a, b), (c, d) = map(sum, right), map(sum, asked)
        return Tally((a, b), (c, d))

    def value(self, metric: str) -> float:
        """The share of right answers; for balanced accuracy the mean of both sides' shares."""
        if metric == BALANCED and all(self.asked):
            return (self.right[0] / self.asked[0] + self.right[1] / self.asked[1]) / 2
        return sum(self.right) / sum(self.asked)


def make_exam(dataset: Path, *, limit: int | None, seed: int) -> Exam:
    """What to ask of the dataset's val part: its primary kind and the headline metric of its task.

    limit: most samples, whole pictures drawn by `seed` until it is reached. Raises InputError when there is no val
    part, or nothing in it.
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
    return Exam(tuple(kept), metric)


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


def tally(model: Any, exam: Exam, part: tuple[int, int] = (0, 1)) -> Tally:
    """Ask `model` the i-th of n shares (from 0) of the exam's pictures, and count.

    Questions about a picture are asked together, always the same ones. No generator of random numbers is moved.
    Raises InputError for a picture that cannot be opened and a question that is too long.
    """
    total = Tally()
    share = exam.pictures[part[0] :: part[1]]
    for samples in share if part[0] else track(share, "evaluating"):  # the others' progress is alike
        questions = [Question(sample.question, sample.kind, MAX_NEW_TOKENS[sample.kind]) for sample in samples]
        answers = model.answer(open_picture(samples[0].image), questions)
        for sample, answer in zip(samples, answers, strict=True):
            options = grade.sample_options(sample.question, sample.option_a, sample.option_b)
            graded = grade.grade(answer.text, sample.gold, sample.kind, options=options, anomaly=sample.anomaly)
            right, known = graded.right, truth(sample)
            first = sample.gold == "A" if known is None else known
            total += Tally((right and first, right and not first), (first, not first))
    return total


def fit_dataset(config: TrainConfig, source: Source, overrides: Mapping[str, Any], dataset: Path) -> TrainConfig:
    """No evaluation where only a lab's own file asks for it and the dataset has no val part: so does its own tool."""
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

    def add(self, step: int, metric: str, counted: Tally) -> bool:
        """Note an evaluation. Returns whether it is the best so far; an equal one is not."""
        value = counted.value(metric)
        self.rows.append((step, metric, value, sum(counted.asked)))
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
    """Rows of (step, metric, its value, samples asked)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([step, metric, f"{value:.6f}", samples] for step, metric, value, samples in rows)
    return text.getvalue()
