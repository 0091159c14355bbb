"""The answer of the most similar training picture: how far does memory alone go?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deckbench import progress
from deckbench.answer import Answer, Unanswered
from deckbench.cores import in_threads
from deckbench.dataset import Sample
from deckbench.models.baselines.base import Learner, content, key, options, say
from deckbench.picture import grey_thumbnail

SIZE = (40, 24)  # width, height of the grey thumbnails
Floats = npt.NDArray[np.float32]


def one(path: Path) -> Floats:
    """float32 (960,): grey values of one picture. Raises InputError when it cannot be read."""
    return np.asarray(grey_thumbnail(path, SIZE), np.float32).ravel()


def thumbnails(paths: Sequence[Path], what: str | None = None) -> Floats:
    """float32 (n, 960): grey thumbnails with mean 0 and length 1, so that a dot product is their correlation."""
    thumbs = np.empty((len(paths), SIZE[0] * SIZE[1]), np.float32)
    if what is None:
        for number, path in enumerate(paths):
            thumbs[number] = one(path)
    else:
        for number, thumb in enumerate(progress.track(in_threads(one, iter(paths)), what, total=len(paths))):
            thumbs[number] = thumb
    thumbs -= thumbs.mean(axis=1, keepdims=True)
    length = np.linalg.norm(thumbs, axis=1, keepdims=True)
    return np.asarray(thumbs / np.maximum(length, 1e-6), np.float32)


@dataclass(frozen=True)
class Memory:
    """What was learned: unit thumbnails of the training pictures, and who was asked what about which picture.

    thumbs: float32 (pictures, 960). asked: question or kind -> training picture -> its first such sample.
    columns: question or kind -> sorted numbers of the pictures that were asked it.
    """

    thumbs: Floats
    asked: dict[object, dict[int, Sample]]
    columns: dict[object, npt.NDArray[np.int64]]


class Nearest(Learner):
    """For each sample the training picture that correlates most (grey, 40x24), among those asked the same question.

    The same question means the same words and options, in either order; its answer is carried over by content. Where
    no training picture was asked it, the nearest one with the same kind of question answers: with its text, or with
    its letter when the two share no option.
    """

    name = "nearest"

    @cached_property
    def memory(self) -> Memory:
        """Raises InputError when there is no train part or a picture cannot be read."""
        pictures: dict[Path, int] = {}
        asked: dict[object, dict[int, Sample]] = {}
        for sample in self.train:
            number = pictures.setdefault(sample.image, len(pictures))
            for name in (key(sample), sample.kind):
                asked.setdefault(name, {}).setdefault(number, sample)
        columns = {name: np.array(sorted(found), dtype=np.int64) for name, found in asked.items()}
        return Memory(thumbnails(list(pictures), "nearest: training images"), asked, columns)

    def answer_samples(self, samples: Sequence[Sample], blank: bool = False) -> list[Answer | Unanswered]:
        """One answer per sample, in order. Raises InputError when there is no train part or a picture is damaged."""
        self.learn(samples)
        memory = self.memory
        likeness: dict[Path, Floats] = {}
        answers: list[Answer | Unanswered] = []
        for sample in samples:
            name: object = key(sample) if key(sample) in memory.columns else sample.kind
            if name not in memory.columns:
                answers.append(say(""))
                continue
            if sample.image not in likeness:
                likeness[sample.image] = memory.thumbs @ thumbnails([sample.image])[0]
            among = memory.columns[name]
            best = int(among[likeness[sample.image][among].argmax()])
            answers.append(say(carried(memory.asked[name][best], sample)))
        return answers


def carried(known: Sample, asked: Sample) -> str:
    """The training sample's answer in the words of the asked one: for a choice its letter, found by content."""
    if asked.kind != "choice":
        return known.gold
    first, second = options(asked)
    said = content(known)
    if first != second and said in (first, second):
        return "A" if said == first else "B"
    return known.gold
