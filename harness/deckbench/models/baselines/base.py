"""What all baselines share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deckbench import artifact, dataset
from deckbench.answer import Answer, Question, Unanswered
from deckbench.dataset import Sample
from deckbench.errors import InputError
from deckbench.grade import options_of
from deckbench.models.interface import Model

if TYPE_CHECKING:
    from PIL.Image import Image


class Baseline(Model, ABC):
    """A model that is asked whole samples instead of a picture and questions: it needs options, box and frame.

    It never reads `gold`, `answer`, `anomaly` or `cls` of a sample it is asked.
    """

    family = "baseline"

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the answers, beside the asked dataset."""
        return {"name": self.name}

    def answer(self, image: Image, questions: Sequence[Question], blank: bool = False) -> list[Answer]:
        """Raises InputError: a picture and a question are not enough."""
        raise InputError(f"{self.name} answers the samples of a dataset only", "--model", "use `deckbench infer`")

    @abstractmethod
    def answer_samples(self, samples: Sequence[Sample], blank: bool = False) -> list[Answer | Unanswered]:
        """One answer per sample, in order. Raises InputError when what it learns from is missing."""


class Learner(Baseline):
    """A baseline that learns from a dataset's train part: of `source`, else of the dataset it is asked about."""

    def __init__(self, source: Path | None) -> None:
        self.source = source
        self.named = source is not None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The train part's dataset where one was named; else the asked dataset decides."""
        if not (self.named and self.source):
            return {"name": self.name}
        dataset.splits_of(self.source)
        return {"name": self.name, "train": dataset.dataset_hash(self.source)}

    def learn(self, samples: Sequence[Sample]) -> None:
        """Read the train part when the first samples are asked."""
        if self.source is None and samples:
            self.source = dataset_of(samples[0])

    @cached_property
    def train(self) -> list[Sample]:
        """The train part's samples, in file order. Raises InputError when there is none."""
        fix = f"name a dataset that has one: {self.name}:DATASET"
        if self.source is None or not self.source.is_dir() or "train" not in dataset.splits_of(self.source):
            what = f"there is no train part for the baseline {self.name!r} to learn from"
            raise InputError(what, self.source, fix)
        samples = dataset.read_samples(self.source, "train")
        if not samples:
            raise InputError("the train part is empty", self.source / "train.jsonl", fix)
        return samples


def dataset_of(sample: Sample) -> Path | None:
    """The dataset folder a sample's picture lies in: the nearest one above it with a manifest or a JSONL part."""
    for folder in sample.image.parents:
        if any((folder / name).is_file() for name in (artifact.MANIFEST, "train.jsonl", "test.jsonl")):
            return folder
    return None


def options(sample: Sample) -> tuple[str, str]:
    """The two options of a choice sample, from its fields or its prompt; empty texts when neither has them."""
    if sample.option_a is not None and sample.option_b is not None:
        return sample.option_a, sample.option_b
    return options_of(sample.question) or ("", "")


def ask(sample: Sample) -> str:
    """The question without its options, so that swapped-order twins have the same one."""
    lines = sample.question.replace("\r\n", "\n").split("\n")
    return "\n".join(line for line in lines if not line.startswith(("A. ", "B. ")))


def key(sample: Sample) -> tuple[str, str, tuple[str, ...]]:
    """What makes two samples the same question: kind, words, and the set of options."""
    return sample.kind, ask(sample), tuple(sorted(options(sample))) if sample.kind == "choice" else ()


def content(sample: Sample) -> str:
    """What a training sample's gold answer says: the right option's text, or the text itself."""
    if sample.kind != "choice":
        return sample.gold
    first, second = options(sample)
    return (first if sample.gold == "A" else second) or sample.gold


def say(text: str, p_a: float | None = None, p_b: float | None = None) -> Answer:
    """An answer without tokens or times."""
    return Answer(text=text, p_a=p_a, p_b=p_b, tokens_in=0, tokens_out=0, seconds={})
